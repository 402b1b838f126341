//! What must hold of decoders: the logits of `transformers`, and that a sequence does not notice its neighbours.

#[path = "common/decoders.rs"]
mod decoders;

use decoders::{FAMILIES, golden};
use std::path::{Path, PathBuf};
use supple_models::Error;
use supple_models::llama::{Batch, Cache, Config, Format, Input, Llama, Sequence, Wanted, Workspace};
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;
use supple_weights::checkpoint::Checkpoint;
use supple_weights::gguf::{BlockType, NewTensor, Value, save};

/// Logits of all tokens, taken in in pieces of `piece`.
fn logits(model: &Llama, format: Format, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut cache = Cache::new(model.config(), format, tokens.len());
    let (mut work, mut sequence, mut all) = (Workspace::new(), Sequence::default(), Vec::new());
    for tokens in tokens.chunks(piece) {
        let mut input = [Input { sequence: &mut sequence, tokens, wanted: Wanted::All }];
        all.extend_from_slice(model.forward(&mut cache, &mut work, &mut input).expect("a pass"));
    }
    all
}

#[test]
fn logits_are_those_of_transformers() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        for name in FAMILIES {
            let file = Weights::open(&golden(name).join("model.safetensors")).expect("weights");
            let (_, tokens) = file.tensor_any_shape("golden.tokens").expect("tokens");
            let (_, wanted) = file.tensor_any_shape("golden.logits").expect("logits");
            let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
            let checkpoint = Checkpoint::open(&golden(name)).expect("a checkpoint");
            let model = Llama::load(&cpu, &checkpoint, Some(tokens.len())).expect("a model");
            let largest = wanted.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let all = logits(&model, Format::F32, &tokens, tokens.len());
            assert_eq!(all.len(), wanted.len(), "{name}");
            let worst = all.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
            println!("{isa} {name}: {worst:.1e}");
            assert!(worst < 1e-4, "{isa} {name}: {worst:.1e} of the largest logit");
            for piece in [1, 7] {
                assert_eq!(logits(&model, Format::F32, &tokens, piece), all, "{isa} {name} in pieces of {piece}");
            }
        }
    }
}

/// A made-up decoder in quantised blocks.
fn quantised(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    let (hidden, wide, vocabulary) = (256usize, 512usize, 100usize);
    let key = |name: &str, value: u32| (format!("llama.{name}"), Value::U32(value));
    let metadata = [
        ("general.architecture".to_owned(), Value::from("llama")),
        key("block_count", 2),
        key("context_length", 512),
        key("embedding_length", 256),
        key("feed_forward_length", 512),
        key("attention.head_count", 8),
        key("attention.head_count_kv", 2),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], block_type| {
        tensors.push(NewTensor { name, shape: shape.to_vec(), block_type });
    };
    add("token_embd.weight".into(), &[vocabulary, hidden], BlockType::Q8_0);
    add("output_norm.weight".into(), &[hidden], BlockType::F32);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        add(name("attn_norm"), &[hidden], BlockType::F32);
        add(name("ffn_norm"), &[hidden], BlockType::F32);
        add(name("attn_q"), &[hidden, hidden], BlockType::Q4_0);
        add(name("attn_k"), &[64, hidden], BlockType::Q5_0);
        add(name("attn_v"), &[64, hidden], BlockType::Q8_0);
        add(name("attn_output"), &[hidden, hidden], BlockType::IQ4_NL);
        add(name("ffn_gate"), &[wide, hidden], BlockType::Q4_0);
        add(name("ffn_up"), &[wide, hidden], BlockType::Q8_0);
        add(name("ffn_down"), &[hidden, wide], BlockType::F16);
    }
    let mut state = 1u32;
    let mut byte = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let fill = |tensor: usize, out: &mut Vec<u8>| {
        let tensor = &tensors[tensor];
        let elements: usize = tensor.shape.iter().product();
        match tensor.block_type {
            BlockType::F32 => out.extend((0..elements).flat_map(|_| (0.5 + f32::from(byte()) / 256.0).to_le_bytes())),
            // Halves between 2^-5 and 2^-4, of both signs.
            BlockType::F16 => out.extend((0..elements).flat_map(|_| [byte(), 0x28 | byte() & 0x83])),
            kind => {
                for _ in 0..elements / 32 {
                    // A scale of about 0.01, whatever the format: integers differ in range by a factor of 16.
                    let high = if matches!(kind, BlockType::Q8_0 | BlockType::IQ4_NL) { 0x10 } else { 0x20 };
                    out.extend([byte(), high]);
                    out.extend((2..kind.block_bytes()).map(|_| byte()));
                }
            }
        }
        Ok::<(), supple_weights::Error>(())
    };
    let mut fill = fill;
    save(&path, &metadata, &tensors, |index, out| fill(index, out)).expect("written");
    path
}

fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("logits");
    best.0 as u32
}

#[test]
fn sixty_four_sequences_get_what_each_gets_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = Checkpoint::open(&quantised(folder.path())).expect("a checkpoint");
    for isa in Isa::available() {
        let model = Llama::load(&Cpu::new(isa, 2), &checkpoint, None).expect("a model");
        let prompts: Vec<Vec<u32>> = (0..64u32)
            .map(|i| {
                // Half of them begin alike, for two pages and a bit.
                let common = if i % 2 == 0 { 70 } else { 0 };
                (0..common).map(|j| j % 97).chain((0..1 + i * 3 % 41).map(|j| (i * 31 + j * 7) % 100)).collect()
            })
            .collect();
        let more = |prompt: &Vec<u32>| 5 + prompt.len() % 9;
        let run = |chosen: &[usize], limit: usize| -> Vec<(usize, Vec<u32>, Vec<u32>)> {
            let mut batch = Batch::new(Cache::new(model.config(), Format::F16, 64 * 128), limit);
            let tickets: Vec<_> = chosen.iter().map(|&i| (batch.add(prompts[i].clone()).expect("added"), i)).collect();
            let of = |ticket| tickets.iter().find(|(t, _)| *t == ticket).expect("known").1;
            let (mut sums, mut all) = (vec![Vec::new(); 64], Vec::new());
            while !batch.is_empty() {
                let finished = batch.step(&model, &mut |ticket, tokens, logits| {
                    let i = of(ticket);
                    // All bits of all logits.
                    sums[i].push(logits.iter().fold(0u32, |sum, v| sum.rotate_left(3) ^ v.to_bits()));
                    (tokens.len() < prompts[i].len() + more(&prompts[i])).then(|| largest(logits))
                });
                for done in finished.expect("a step") {
                    let i = of(done.ticket);
                    all.push((i, done.tokens, std::mem::take(&mut sums[i])));
                }
            }
            assert_eq!(batch.cache().pages_in_use(), 0, "all pages come back");
            all
        };
        let everything: Vec<usize> = (0..64).collect();
        let mut together = run(&everything, 100);
        together.sort();
        assert_eq!(together.len(), 64);
        let kinds: std::collections::BTreeSet<u32> =
            together.iter().map(|(_, tokens, _)| tokens[tokens.len() - 1]).collect();
        assert!(kinds.len() > 8, "sequences differ: {kinds:?}");
        for i in (0..64).step_by(if isa == Isa::detect() { 1 } else { 13 }) {
            assert_eq!(run(&[i], 1000), [together[i].clone()], "{isa} sequence {i}");
        }
    }
}

#[test]
fn a_fork_goes_its_own_way() {
    let checkpoint = Checkpoint::open(&golden("llama")).expect("a checkpoint");
    let model = Llama::load(&Cpu::new(Isa::detect(), 1), &checkpoint, None).expect("a model");
    let mut cache = Cache::new(model.config(), Format::F16, 1000);
    let mut work = Workspace::new();
    let mut pass = |cache: &mut Cache, sequence: &mut Sequence, tokens: &[u32]| {
        let mut input = [Input { sequence, tokens, wanted: Wanted::Last }];
        model.forward(cache, &mut work, &mut input).expect("a pass").to_vec()
    };
    let beginning: Vec<u32> = (0..45).map(|i| i % 48).collect();
    let mut first = Sequence::default();
    pass(&mut cache, &mut first, &beginning);
    let mut second = cache.fork(&first, 40);
    assert_eq!((second.len(), cache.pages_in_use()), (40, 2), "pages are shared");
    let ends = [pass(&mut cache, &mut first, &[7, 8]), pass(&mut cache, &mut second, &[9, 10, 11])];
    assert_eq!(cache.pages_in_use(), 3, "the page that both write to is two");
    let wholes = [[&beginning[..], &[7, 8]].concat(), [&beginning[..40], &[9, 10, 11]].concat()];
    for (end, whole) in ends.iter().zip(&wholes) {
        let mut fresh = Sequence::default();
        assert_eq!(&pass(&mut cache, &mut fresh, whole), end);
        cache.release(fresh);
    }
    // Going back and on again gives the same.
    cache.truncate(&mut first, 33);
    assert_eq!(pass(&mut cache, &mut first, &wholes[0][33..]), ends[0]);
    cache.release(first);
    cache.release(second);
    assert_eq!(cache.pages_in_use(), 0);
}

#[test]
fn what_cannot_be_done_is_an_error_and_leaves_sequences_as_they_were() {
    let checkpoint = Checkpoint::open(&golden("qwen3")).expect("a checkpoint");
    let model = Llama::load(&Cpu::new(Isa::detect(), 1), &checkpoint, None).expect("a model");
    let mut cache = Cache::new(model.config(), Format::F16, 64);
    let (mut work, mut sequence) = (Workspace::new(), Sequence::default());
    let mut pass = |tokens: &[u32]| {
        let mut input = [Input { sequence: &mut sequence, tokens, wanted: Wanted::Last }];
        model.forward(&mut cache, &mut work, &mut input).map(<[f32]>::len)
    };
    assert!(matches!(pass(&[]), Err(Error::NoTokens)));
    assert!(matches!(pass(&[3, 48]), Err(Error::BadToken { token: 48, vocabulary: 48 })));
    assert!(matches!(pass(&[1; 65]), Err(Error::CacheFull { positions: 64 })));
    assert!(matches!(pass(&[1; 60]), Ok(48)));
    assert!(matches!(pass(&[1; 5]), Err(Error::CacheFull { positions: 64 })));
    assert!(matches!(pass(&[1; 4]), Ok(48)));
    assert_eq!(sequence.len(), 64);
}

#[test]
fn configurations_that_make_no_sense_are_named() {
    let text = std::fs::read_to_string(golden("llama").join("config.json")).expect("a file");
    let good: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(Config::from_json("x", &good).is_ok());
    for (key, value, wanted) in [
        ("model_type", serde_json::json!("mamba"), "mamba"),
        ("hidden_size", serde_json::json!(null), "hidden_size is missing"),
        ("hidden_size", serde_json::json!(-3), "hidden_size is -3"),
        ("num_attention_heads", serde_json::json!(0), "num_attention_heads is 0"),
        ("num_key_value_heads", serde_json::json!(3), "4 heads on 3"),
        ("head_dim", serde_json::json!(7), "even number"),
        ("intermediate_size", serde_json::json!([1, 2]), "differs from layer to layer"),
        ("hidden_act", serde_json::json!("relu6"), "relu6"),
        ("rope_parameters", serde_json::json!({"rope_type": "linear"}), "needs a factor"),
        ("rope_parameters", serde_json::json!({"rope_type": "spiral"}), "spiral"),
    ] {
        let mut config = good.clone();
        config[key] = value;
        let error = Config::from_json("file.json", &config).expect_err(key).to_string();
        assert!(error.contains(wanted) && error.contains("file.json"), "{error}");
    }
}
