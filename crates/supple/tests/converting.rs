//! GGUF files from Hugging Face folders: the same logits, tokens and conversations; what GGUF cannot say is refused.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use supple::Cpu;
use supple::text::convert::folder;
use supple::text::template::{ChatTemplate, Message, RenderOptions};
use supple::text::tokenizer::{EncodeOptions, Tokenizer};
use supple::weights::checkpoint::Checkpoint;
use supple::weights::gguf::{BlockType, Gguf};
use supple_models::llama::{Cache, Format, Input, Llama, Sequence, Wanted, Workspace};

/// The letter that stands for a byte in byte-level vocabularies.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        char::from(byte)
    } else {
        char::from_u32(256 + (0..byte).filter(|&other| !printable(other)).count() as u32).unwrap()
    }
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special,
           "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
}

/// A byte-level tokeniser that knows `letters` bytes from the space on.
fn byte_level(letters: usize) -> Value {
    let mut vocab = serde_json::Map::new();
    for (id, name) in ["<pad>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(name.into(), json!(id));
    }
    for i in 0..letters {
        vocab.insert(letter((32 + i) as u8).to_string(), json!(3 + i));
    }
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(0, "<pad>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    })
}

/// One as SentencePiece makes it: merges, a space in front, bytes for what it cannot spell.
fn sentence_piece() -> Value {
    let mut names: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    names.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    names.extend("▁abcdefghijklmnopqrstuvwxyzHT,.".chars().map(String::from));
    let merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("e", "n"), ("▁", "t"), ("in", "g"), ("h", "e")];
    for (left, right) in merges {
        names.push(format!("{left}{right}"));
    }
    let control = names.len();
    names.push("<|end|>".into());
    names.push("<think>".into());
    let vocab: serde_json::Map<String, Value> =
        names.iter().enumerate().take(control).map(|(id, name)| (name.clone(), json!(id))).collect();
    let space = json!({"String": " "});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true),
            added(control, "<|end|>", true), added(control + 1, "<think>", false)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": space, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges.map(|(left, right)| format!("{left} {right}"))},
    })
}

/// A folder with the made-up weights of a family and a tokeniser.
fn model(name: &str, to: &Path, tokenizer: &Value, change: impl FnOnce(&mut Value)) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden/llama").join(name);
    let folder = to.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(golden.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>",
        "chat_template": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"});
    std::fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    folder
}

fn logits(path: &Path, context: usize) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let model = Llama::load(&Cpu::new(supple::Isa::detect(), 2), &checkpoint, Some(context)).unwrap();
    let tokens: Vec<u32> = (0..context as u32).map(|i| i * 7 % 48).collect();
    let mut cache = Cache::new(model.config(), Format::F32, context);
    let (mut work, mut sequence) = (Workspace::new(), Sequence::default());
    let mut input = [Input { sequence: &mut sequence, tokens: &tokens, wanted: Wanted::All }];
    model.forward(&mut cache, &mut work, &mut input).unwrap().to_vec()
}

#[test]
fn logits_are_those_of_the_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let families = [
        "llama",
        "llama_tied",
        "llama3",
        "llama_linear",
        "mistral",
        "qwen2",
        "qwen2_yarn",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "phi3_long",
        "olmo2",
    ];
    for name in families {
        let folder_path = model(name, temporary.path(), &byte_level(45), |config| {
            if name == "gemma2" {
                config["query_pre_attn_scalar"] = config["head_dim"].clone();
            }
        });
        let output = temporary.path().join(format!("{name}.gguf"));
        // Half-precision weights are held by either.
        for target in [None, Some(BlockType::F32)] {
            let summary = folder(&folder_path, &output, target, &mut |_, _| ()).unwrap();
            assert_eq!(summary.skipped, 2, "{name}: tokens and logits of the test");
            for context in [12, 40] {
                let (wanted, found) = (logits(&folder_path, context), logits(&output, context));
                let largest = wanted.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                let worst = wanted.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
                assert!(worst < 1e-5, "{name} {target:?} of {context} tokens: {worst:.1e}");
            }
        }
        let plain = folder(&folder_path, &output, Some(BlockType::Q8_0), &mut |_, _| ());
        let file = plain.map(|_| Gguf::open(&output).unwrap()).unwrap();
        assert_eq!(file.get_u32("general.file_type").unwrap(), 7);
        let down = file.tensor("blk.1.attn_output.weight").unwrap();
        let wanted = if down.shape[1].is_multiple_of(32) { BlockType::Q8_0 } else { BlockType::F16 };
        assert_eq!(down.block_type, wanted, "{name}");
        assert_eq!(file.tensor("token_embd.weight").unwrap().block_type, BlockType::Q8_0, "{name}");
        assert_eq!(file.tensor("output_norm.weight").unwrap().block_type, BlockType::F32);
        let config: Value = serde_json::from_slice(&std::fs::read(folder_path.join("config.json")).unwrap()).unwrap();
        assert_eq!(file.contains("output.weight"), config["tie_word_embeddings"] != true, "{name}");
    }
}

#[test]
fn tokens_and_conversations_are_those_of_the_folder() {
    let temporary = tempfile::tempdir().unwrap();
    for (name, tokenizer, rows) in [("qwen2", byte_level(224), 230), ("llama", sentence_piece(), 320)] {
        let path = model(name, temporary.path(), &tokenizer, |config| config["vocab_size"] = json!(rows));
        let output = temporary.path().join("out.gguf");
        folder(&path, &output, None, &mut |_, _| ()).unwrap();
        let (wanted, found) = (Tokenizer::open(&path).unwrap(), Tokenizer::open(&output).unwrap());
        assert_eq!(found.len(), rows, "{name}: rows without a token are filled");
        assert_eq!((found.bos(), found.ends()), (wanted.bos(), wanted.ends()), "{name}");
        assert_eq!(found.adds_bos(), wanted.adds_bos(), "{name}");
        for text in ["the thing", " in then, ing ", "Hello", "12 na\u{ef}ve", "a<think>the</s>", "T.<|end|>hen"] {
            for parse_special in [false, true] {
                let options = EncodeOptions { add_special: true, parse_special };
                let (a, b) = (wanted.encode(text, options).unwrap(), found.encode(text, options).unwrap());
                // A tokeniser as SentencePiece makes them has no space after a special token in one and has one in the
                // other: both are published.
                if name == "qwen2" || !(text.contains("<think>") || parse_special && text.contains('<')) {
                    assert_eq!(a, b, "{name} {text:?} {parse_special}");
                    assert_eq!(wanted.decode(&a), found.decode(&b));
                }
            }
        }
        let messages = [Message::new("user", "hi"), Message::new("assistant", "ho")];
        let render =
            |template: Option<ChatTemplate>| template.unwrap().render(&messages, &RenderOptions::default()).unwrap();
        let text = render(ChatTemplate::from_gguf(&Gguf::open(&output).unwrap()).unwrap());
        assert_eq!(text, "<user>hi</s><assistant>ho</s>");
        assert_eq!(text, render(ChatTemplate::from_folder(&path).unwrap()));
    }
}

#[test]
fn what_gguf_cannot_say_is_refused_and_nothing_written() {
    let temporary = tempfile::tempdir().unwrap();
    let output = temporary.path().join("out.gguf");
    let refused = |path: &Path, wanted: &str| {
        let error = folder(path, &output, None, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted:?} expected in {error}");
        assert!(!output.exists());
    };
    let good = byte_level(45);
    refused(&model("llama_ntk", temporary.path(), &good, |_| ()), "GGUF cannot hold positions scaled by the length");
    refused(&model("gemma2", temporary.path(), &good, |_| ()), "GGUF cannot hold attention scaled by");
    refused(&model("qwen2", temporary.path(), &byte_level(100), |_| ()), "the model has 48 rows");
    let mut strange = good.clone();
    strange["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x+");
    refused(&model("qwen3", temporary.path(), &strange, |_| ()), "no name for this way to cut words");
    let path = model("llama", temporary.path(), &good, |_| ());
    std::fs::remove_file(path.join("tokenizer.json")).unwrap();
    refused(&path, "tokenizer.json");
}
