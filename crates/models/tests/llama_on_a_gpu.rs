//! Decoders on a GPU: the logits of `transformers` and of the CPU, and that a sequence does not notice its neighbours. They run with
//! `SUPPLE_TEST_DEVICE=cuda` and `--features cuda`, and say so where they do not.
#![cfg(feature = "cuda")]

#[path = "common/decoders.rs"]
mod decoders;

use decoders::{FAMILIES, golden};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use supple_models::Error;
use supple_models::llama::{Batch, Decoder, Format, Input, Random, Sequence, State, Wanted, Weights};
use supple_tensor::{Cpu, Device, Isa};
use supple_weights::checkpoint::Checkpoint;

/// Tests share the GPU, but for one that watches its memory.
static TURN: RwLock<()> = RwLock::new(());

/// The GPU and a share of it, if tests are to use one.
fn gpu() -> Option<(Device, RwLockReadGuard<'static, ()>)> {
    wanted().then(|| (Device::cuda(0).expect("a GPU"), TURN.read().unwrap_or_else(PoisonError::into_inner)))
}

/// Whether tests are to use a GPU.
fn wanted() -> bool {
    let wanted = std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda");
    if !wanted {
        eprintln!("skipped: wants a GPU and SUPPLE_TEST_DEVICE=cuda");
    }
    wanted
}

/// Logits of all tokens, taken in in pieces of `piece`.
fn logits(model: &Decoder, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut state = model.state(Format::F16, tokens.len()).expect("a cache");
    let (mut sequence, mut all) = (Sequence::default(), Vec::new());
    for tokens in tokens.chunks(piece) {
        let mut input = [Input { sequence: &mut sequence, tokens, wanted: Wanted::All }];
        all.extend_from_slice(model.forward(&mut state, &mut input).expect("a pass"));
    }
    all
}

/// The largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY });
    worst.fold(0.0, f32::max) / largest
}

/// How much further from f32 than the CPU with a cache of 16 bits a GPU may be. The CPU rounds keys and values to 11 bits and nothing
/// else; the GPU also rounds queries and the inputs of the four products of a layer, and of the last: seven roundings instead of two, of
/// the same size. Were they independent that would make a factor of two.
const ROUNDINGS: f32 = 4.0;

/// A rounding to 11 bits where the CPU had luck.
const LEAST: f32 = 2e-3;

#[test]
fn logits_are_those_of_transformers() {
    let Some((device, _share)) = gpu() else { return };
    let cpu = Cpu::new(Isa::detect(), 2);
    let mut bad = Vec::new();
    for name in FAMILIES {
        let file = supple_weights::Weights::open(&golden(name).join("model.safetensors")).expect("weights");
        let (_, tokens) = file.tensor_any_shape("golden.tokens").expect("tokens");
        let (_, wanted) = file.tensor_any_shape("golden.logits").expect("logits");
        let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
        let checkpoint = Checkpoint::open(&golden(name)).expect("a checkpoint");
        let theirs = Decoder::load(&cpu, Weights::File(&checkpoint), Some(tokens.len())).expect("a model");
        let theirs = distance(&logits(&theirs, &tokens, tokens.len()), &wanted);
        let model = Decoder::load_on(&device, Weights::File(&checkpoint), Some(tokens.len())).expect("a model");
        let pieces = [tokens.len(), 1, 7].map(|piece| distance(&logits(&model, &tokens, piece), &wanted));
        println!("{name}: {pieces:.5?}, CPU {theirs:.1e}");
        if pieces.iter().any(|&worst| worst > ROUNDINGS * theirs.max(LEAST)) {
            bad.push(name);
        }
    }
    assert!(bad.is_empty(), "{bad:?} are further off than roundings to 16 bits explain");
}

/// A shape with heads of real sizes.
fn shape(family: &str, format: Format, head_dim: usize) -> Random {
    let config = serde_json::json!({
        "model_type": family, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": head_dim, "vocab_size": 1000,
        "tie_word_embeddings": false, "max_position_embeddings": 4096, "sliding_window": 40,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"], "use_sliding_window": true,
        "query_pre_attn_scalar": head_dim, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 15.0,
    });
    Random::of(family, config, format).expect("a shape")
}

fn tokens(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1000) as u32).collect()
}

/// Where weights are floats the CPU rounds keys and values alone; inputs of products with bf16 have 8 bits on a GPU.
const SIXTEEN_BITS: f32 = 1e-2;

/// Where they are blocks the CPU rounds activations to 8 bits, in blocks: up to a hundredth of a block's largest, half of that on
/// average.
const EIGHT_BITS: f32 = 3e-2;

#[test]
fn logits_are_those_of_the_cpu() {
    let Some((device, _share)) = gpu() else { return };
    let cpu = Cpu::new(Isa::detect(), 2);
    let mut bad = Vec::new();
    let cases = [
        ("llama", Format::F16, 64),
        ("llama", Format::Bf16, 128),
        ("llama", Format::Q8_0, 128),
        ("llama", Format::Q4_0, 64),
        ("llama", Format::Q4_1, 64),
        ("llama", Format::Q5_0, 64),
        ("llama", Format::Q5_1, 64),
        ("llama", Format::Q2_K, 64),
        ("llama", Format::Q3_K, 64),
        ("llama", Format::Q4_K, 128),
        ("llama", Format::Q5_K, 64),
        ("llama", Format::Q6_K, 128),
        ("llama", Format::Iq4Nl, 64),
        ("llama", Format::Iq4Xs, 64),
        ("llama", Format::F32, 80),
        ("mistral", Format::Q4_K, 96),
        ("qwen2", Format::Q8_0, 64),
        ("qwen3", Format::Bf16, 128),
        ("gemma2", Format::Q4_K, 256),
        ("gemma3_text", Format::F16, 256),
        ("phi3", Format::Q4_0, 96),
        ("olmo2", Format::F16, 128),
    ];
    for (family, format, head_dim) in cases {
        let random = shape(family, format, head_dim);
        let ours = Decoder::load_on(&device, Weights::Random(&random), Some(256)).expect("a model");
        let theirs = Decoder::load(&cpu, Weights::Random(&random), Some(256)).expect("a model");
        let tokens = tokens(150, 1);
        let wanted = logits(&theirs, &tokens, 150);
        let bound = if format.is_dense() { SIXTEEN_BITS } else { EIGHT_BITS };
        let pieces = [150, 33, 1].map(|piece| distance(&logits(&ours, &tokens, piece), &wanted));
        println!("{family} {} heads of {head_dim}: {pieces:.5?}", format.name());
        if pieces.iter().any(|&worst| worst > bound) {
            bad.push((family, format.name()));
        }
    }
    assert!(bad.is_empty(), "{bad:?} differ by more than roundings");
}

fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("logits");
    best.0 as u32
}

fn take(model: &Decoder, state: &mut State, sequence: &mut Sequence, tokens: &[u32]) -> Vec<f32> {
    model.forward(state, &mut [Input { sequence, tokens, wanted: Wanted::Last }]).expect("a pass").to_vec()
}

#[test]
fn sixty_four_sequences_get_what_each_gets_alone() {
    let Some((device, _share)) = gpu() else { return };
    for format in [Format::Bf16, Format::Q4_K] {
        let random = shape("llama", format, 64);
        let model = Decoder::load_on(&device, Weights::Random(&random), None).expect("a model");
        // No prompt exceeds the tokens that are taken in bit by bit as if alone.
        let prompts: Vec<Vec<u32>> = (0..64).map(|i| tokens(1 + i * 5 % 61, i)).collect();
        let run = |chosen: &[usize], graphs: bool| -> Vec<(usize, Vec<u32>, Vec<u32>)> {
            let mut state = model.state(Format::F16, 64 * 128).expect("a cache");
            if let State::Gpu(state) = &mut state {
                state.use_graphs(graphs);
            }
            let mut batch = Batch::new(state, 10_000);
            let tickets: Vec<_> = chosen.iter().map(|&i| (batch.add(prompts[i].clone()).expect("added"), i)).collect();
            let of = |ticket| tickets.iter().find(|(t, _)| *t == ticket).expect("known").1;
            let (mut sums, mut all) = (vec![Vec::new(); 64], Vec::new());
            while !batch.is_empty() {
                let finished = batch.step(&model, &mut |ticket, tokens, logits| {
                    let i = of(ticket);
                    // All bits of all logits.
                    sums[i].push(logits.iter().fold(0u32, |sum, v| sum.rotate_left(3) ^ v.to_bits()));
                    (tokens.len() < prompts[i].len() + 5 + i % 9).then(|| largest(logits))
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
        let mut together = run(&everything, true);
        together.sort();
        assert_eq!(together.len(), 64);
        let mut eager = run(&everything, false);
        eager.sort();
        assert!(together == eager, "{}: a replayed step is the step itself", format.name());
        for i in (0..64).step_by(5) {
            assert!(run(&[i], true) == [together[i].clone()], "{} sequence {i}", format.name());
        }
    }
}

#[test]
fn going_on_by_itself_gives_what_the_host_would_choose() {
    let Some((device, _share)) = gpu() else { return };
    let random = shape("llama", Format::Q4_K, 64);
    let model = Decoder::load_on(&device, Weights::Random(&random), None).expect("a model");
    let mut state = model.state(Format::F16, 4096).expect("a cache");
    let mut sequences: Vec<Sequence> = (0..5).map(|_| Sequence::default()).collect();
    let (mut last, mut wanted) = (Vec::new(), Vec::new());
    for (i, sequence) in sequences.iter_mut().enumerate() {
        let next = largest(&take(&model, &mut state, sequence, &tokens(20 + 9 * i, i)));
        last.push(next);
        let mut other = state.fork(sequence, usize::MAX);
        let mut chosen = vec![next];
        for _ in 0..100 {
            chosen.push(largest(&take(&model, &mut state, &mut other, &chosen[chosen.len() - 1..])));
        }
        state.release(other);
        wanted.push(chosen);
    }
    let mut parts: Vec<&mut Sequence> = sequences.iter_mut().collect();
    let mut found = model.greedy(&mut state, &mut parts, &last, 60).expect("tokens");
    let last: Vec<u32> = found[59 * 5..].to_vec();
    found.extend(model.greedy(&mut state, &mut parts, &last, 40).expect("tokens"));
    for (i, wanted) in wanted.iter().enumerate() {
        let found: Vec<u32> = found.iter().skip(i).step_by(5).copied().collect();
        assert_eq!(found, wanted[1..], "sequence {i}");
    }
    sequences.into_iter().for_each(|sequence| state.release(sequence));
    assert_eq!(state.pages_in_use(), 0);
}

#[test]
fn a_fork_goes_its_own_way() {
    let Some((device, _share)) = gpu() else { return };
    let random = shape("qwen3", Format::F16, 64);
    let model = Decoder::load_on(&device, Weights::Random(&random), None).expect("a model");
    let mut state = model.state(Format::F16, 2000).expect("a cache");
    let beginning = tokens(90, 3);
    let mut first = Sequence::default();
    take(&model, &mut state, &mut first, &beginning[..50]);
    take(&model, &mut state, &mut first, &beginning[50..]);
    let mut second = state.fork(&first, 80);
    assert_eq!((second.len(), state.pages_in_use()), (80, 2), "pages are shared");
    let ends = [take(&model, &mut state, &mut first, &[7, 8]), take(&model, &mut state, &mut second, &[9, 10, 11])];
    assert_eq!(state.pages_in_use(), 3, "the page that both write to is two");
    let wholes = [[&beginning[..], &[7, 8]].concat(), [&beginning[..80], &[9, 10, 11]].concat()];
    for (end, whole) in ends.iter().zip(&wholes) {
        let mut fresh = Sequence::default();
        // In the same pieces or others of at most 64: sums do not depend on them.
        take(&model, &mut state, &mut fresh, &whole[..60]);
        assert_eq!(&take(&model, &mut state, &mut fresh, &whole[60..]), end);
        state.release(fresh);
    }
    // Going back and on again gives the same.
    state.truncate(&mut first, 83);
    assert_eq!(take(&model, &mut state, &mut first, &wholes[0][83..]), ends[0]);
    state.release(first);
    state.release(second);
    assert_eq!(state.pages_in_use(), 0);
}

#[test]
fn what_cannot_be_done_is_an_error_and_leaves_sequences_as_they_were() {
    let Some((device, _share)) = gpu() else { return };
    let random = shape("llama", Format::F16, 64);
    let model = Decoder::load_on(&device, Weights::Random(&random), None).expect("a model");
    let mut state = model.state(Format::F16, 64).expect("a cache");
    let mut sequence = Sequence::default();
    let mut pass = |tokens: &[u32]| {
        let mut input = [Input { sequence: &mut sequence, tokens, wanted: Wanted::Last }];
        model.forward(&mut state, &mut input).map(<[f32]>::len)
    };
    assert!(matches!(pass(&[]), Err(Error::NoTokens)));
    assert!(matches!(pass(&[3, 1000]), Err(Error::BadToken { token: 1000, vocabulary: 1000 })));
    assert!(matches!(pass(&[1; 65]), Err(Error::CacheFull { positions: 64 })));
    assert!(matches!(pass(&[1; 60]), Ok(1000)));
    assert!(matches!(pass(&[1; 5]), Err(Error::CacheFull { positions: 64 })));
    assert!(matches!(pass(&[1; 4]), Ok(1000)));
    assert_eq!(sequence.len(), 64);
    // More than any GPU has.
    let error = model.state(Format::F16, 1 << 40).expect_err("no room");
    assert!(matches!(error, Error::GpuMemory { .. }), "{error}");
}

#[test]
fn memory_is_flat_over_many_generations() {
    if !wanted() {
        return;
    }
    let _alone = TURN.write().unwrap_or_else(PoisonError::into_inner);
    let device = Device::cuda(0).expect("a GPU");
    let Device::Cuda(gpu) = &device else { unreachable!("asked for above") };
    let random = shape("llama", Format::Q8_0, 64);
    let model = Decoder::load_on(&device, Weights::Random(&random), None).expect("a model");
    let mut state = model.state(Format::F16, 4096).expect("a cache");
    let mut free = Vec::new();
    for round in 0..20 {
        let mut sequences: Vec<Sequence> = (0..7).map(|_| Sequence::default()).collect();
        let mut last = Vec::new();
        for (i, sequence) in sequences.iter_mut().enumerate() {
            last.push(largest(&take(&model, &mut state, sequence, &tokens(100 + 13 * i, round))));
        }
        let mut parts: Vec<&mut Sequence> = sequences.iter_mut().collect();
        model.greedy(&mut state, &mut parts, &last, 50).expect("tokens");
        sequences.into_iter().for_each(|sequence| state.release(sequence));
        free.push(gpu.memory().expect("numbers").0);
    }
    assert_eq!(free[3], free[19], "bytes free by round: {free:?}");
}
