//! Tokenisers: numbers as published, text byte for byte, damaged vocabularies.
//!
//! Published vocabularies with their test vectors are read from the folders `tokenizers` and `llm` of `SUPPLE_DATA`; without
//! it those tests are skipped.

use std::path::PathBuf;
use supple::Error;
use supple::text::tokenizer::{EncodeOptions, Tokenizer};
use supple::weights::gguf::{Array, Gguf, Value, save};

const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const MARKUP: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

/// Text with everything that vocabularies stumble over.
const AWKWARD: [&str; 9] = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\t\ttabs\r\n\n\nlines ",
    "na\u{ef}ve e\u{301}\u{200d}\u{1f9d1}\u{200d}\u{1f680} \u{4e2d}\u{6587}\u{ff01}",
    "\u{0}\u{1}\u{7f}\u{80}\u{ffff}\u{10ffff}",
    "1234567 3.14 1,000",
    "I'm you'LL they'd",
    "<s></s><|endoftext|><0x41>",
];

fn data(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("SUPPLE_DATA").map(|data| PathBuf::from(data).join(name));
    if found.is_none() {
        println!("skipped: SUPPLE_DATA is not set");
    }
    found
}

fn metadata(pairs: Vec<(&str, Value)>) -> Gguf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    save(&path, &pairs, &[], |_, _| Ok::<(), supple::weights::Error>(())).unwrap();
    Gguf::from_bytes("vocabulary", std::fs::read(&path).unwrap()).unwrap()
}

/// The letter that stands for a byte in byte-level vocabularies.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        char::from(byte)
    } else {
        char::from_u32(256 + (0..byte).filter(|&other| !printable(other)).count() as u32).unwrap()
    }
}

/// All bytes, a few merges, and three special tokens.
fn bpe_tokens() -> Vec<String> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.extend(["he", "ll", "hell", "\u{120}w", "<|end|>", "<think>", "<|bos|>"].map(String::from));
    tokens
}

fn bpe(change: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> Gguf {
    let mut kinds = vec![1; 263];
    (kinds[260], kinds[261], kinds[262]) = (3, 4, 3);
    let mut pairs = vec![
        ("tokenizer.ggml.model", Value::from("gpt2")),
        ("tokenizer.ggml.pre", Value::from("llama-bpe")),
        ("tokenizer.ggml.tokens", Value::Array(Array::from_strings(bpe_tokens()))),
        ("tokenizer.ggml.token_type", Value::Array(Array::from_i32(&kinds))),
        ("tokenizer.ggml.merges", Value::Array(Array::from_strings(["h e", "l l", "he ll", "\u{120} w"]))),
        ("tokenizer.ggml.bos_token_id", Value::U32(262)),
    ];
    change(&mut pairs);
    metadata(pairs)
}

fn set(pairs: &mut Vec<(&'static str, Value)>, key: &'static str, value: Value) {
    pairs.retain(|pair| pair.0 != key);
    pairs.push((key, value));
}

/// A vocabulary of SentencePiece's kind.
fn spm(change: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> Gguf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "ab", "\u{2581}a", "<mark>"].map(String::from));
    let mut kinds = vec![6; tokens.len()];
    (kinds[0], kinds[1], kinds[2]) = (2, 3, 3);
    kinds[259..264].fill(1);
    kinds[264] = 4;
    let scores: Vec<f32> = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { 258.0 - id as f32 }).collect();
    let mut pairs = vec![
        ("tokenizer.ggml.model", Value::from("llama")),
        ("tokenizer.ggml.tokens", Value::Array(Array::from_strings(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::from_i32(&kinds))),
        ("tokenizer.ggml.scores", Value::Array(Array::from_f32(&scores))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ];
    change(&mut pairs);
    metadata(pairs)
}

/// What must hold for every vocabulary that can spell all bytes.
fn round_trips(tokenizer: &Tokenizer) {
    for text in AWKWARD {
        let tokens = tokenizer.encode(text, TEXT).unwrap();
        assert_eq!(tokenizer.decode_bytes(&tokens), text.as_bytes(), "{tokenizer:?} {text:?}");
        let mut stream = tokenizer.stream();
        let parts: Vec<String> = tokens.iter().map(|&id| stream.push(id)).collect();
        assert!(!parts.concat().contains(char::REPLACEMENT_CHARACTER), "{tokenizer:?} {text:?}: {parts:?}");
        let streamed = parts.concat() + &stream.finish();
        assert_eq!(streamed.strip_suffix(text).map(str::trim), Some(""), "{tokenizer:?} {text:?}");
    }
}

#[test]
fn byte_level_vocabularies_merge_and_spell() {
    let tokenizer = Tokenizer::from_gguf(&bpe(|_| ())).unwrap();
    assert_eq!(tokenizer.encode("hello w", TEXT).unwrap(), [258, 111, 259]);
    assert_eq!(tokenizer.encode("hi", WHOLE).unwrap(), [262, 104, 105], "BOS, as this family has it");
    assert!(tokenizer.adds_bos());
    assert_eq!((tokenizer.bos(), tokenizer.ends(), tokenizer.len()), (Some(262), &[260][..], 263));
    assert_eq!(tokenizer.token(259), b" w");
    assert_eq!((tokenizer.token(9999), tokenizer.find("<think>")), (&b""[..], Some(261)));
    round_trips(&tokenizer);
    let silent = bpe(|pairs| set(pairs, "tokenizer.ggml.add_bos_token", Value::Bool(false)));
    assert_eq!(Tokenizer::from_gguf(&silent).unwrap().encode("h", WHOLE).unwrap(), [104]);
}

#[test]
fn names_of_special_tokens_are_text_unless_asked_for() {
    let tokenizer = Tokenizer::from_gguf(&bpe(|_| ())).unwrap();
    assert_eq!(tokenizer.encode("a<|end|>b<think>", MARKUP).unwrap(), [97, 260, 98, 261]);
    let text = tokenizer.encode("a<|end|>b<think>", TEXT).unwrap();
    assert!(!text.contains(&260), "{text:?}");
    assert_eq!(text.last(), Some(&261), "a user-defined token is text, and always one token");
    assert_eq!(tokenizer.decode(&[97, 260, 98, 261]), "ab<think>");

    let tokenizer = Tokenizer::from_gguf(&spm(|_| ())).unwrap();
    assert_eq!(tokenizer.encode("a</s>b<mark>", MARKUP).unwrap(), [263, 2, 259, 261, 264]);
    let text = tokenizer.encode("a</s>b<mark>", TEXT).unwrap();
    assert!(!text.contains(&2) && text.last() == Some(&264), "{text:?}");
}

#[test]
fn sentence_piece_vocabularies_join_by_score_and_spell_in_bytes() {
    let tokenizer = Tokenizer::from_gguf(&spm(|_| ())).unwrap();
    // The space and "a" join last: "ab" has the better score.
    assert_eq!(tokenizer.encode("ab", TEXT).unwrap(), [259, 262]);
    assert_eq!(tokenizer.encode("a", WHOLE).unwrap(), [1, 263]);
    assert_eq!(tokenizer.encode("\u{e9}", TEXT).unwrap(), [259, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(tokenizer.decode(&[1, 263, 262, 259, 261, 2]), "aab b");
    round_trips(&tokenizer);
    let bare = spm(|pairs| set(pairs, "tokenizer.ggml.add_space_prefix", Value::Bool(false)));
    let bare = Tokenizer::from_gguf(&bare).unwrap();
    assert_eq!(bare.encode("ab", TEXT).unwrap(), [262]);
    assert_eq!(bare.decode(&[263]), " a");
    round_trips(&bare);
}

#[test]
fn characters_are_streamed_whole() {
    let tokenizer = Tokenizer::from_gguf(&bpe(|_| ())).unwrap();
    let mut stream = tokenizer.stream();
    let bytes = "a\u{1f680}".bytes().map(u32::from);
    let shown: Vec<String> = bytes.map(|id| stream.push(id)).collect();
    assert_eq!(shown, ["a", "", "", "", "\u{1f680}"]);
    // A byte that begins nothing, and a character that is cut short by another.
    assert_eq!(stream.push(0xff), "\u{fffd}");
    assert_eq!((stream.push(0xf0), stream.push(97)), (String::new(), "\u{fffd}a".into()));
    stream.push(0xe4);
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn damaged_vocabularies_are_one_clear_error() {
    type Change = fn(&mut Vec<(&'static str, Value)>);
    let cases: [(Change, &str); 9] = [
        (
            |pairs| set(pairs, "tokenizer.ggml.tokens", Value::Array(Array::from_strings([&b"a"[..], b"\xff\xfe"]))),
            "2 tokens with 263 types",
        ),
        (|pairs| set(pairs, "tokenizer.ggml.tokens", Value::Array(Array::from_i32(&[1]))), "not text"),
        (|pairs| set(pairs, "tokenizer.ggml.tokens", Value::from("a")), "wanted an array, found string"),
        (
            |pairs| set(pairs, "tokenizer.ggml.merges", Value::Array(Array::from_strings(["ab"]))),
            "merge 0 is not two tokens",
        ),
        (|pairs| set(pairs, "tokenizer.ggml.merges", Value::Array(Array::from_strings(["no such"]))), "no"),
        (|pairs| set(pairs, "tokenizer.ggml.merges", Value::Array(Array::from_strings([b"\xff a"]))), "merge 0"),
        (|pairs| set(pairs, "tokenizer.ggml.pre", Value::from("surprise")), "\"surprise\""),
        (|pairs| set(pairs, "tokenizer.ggml.model", Value::from("bert")), "\"bert\""),
        (|pairs| set(pairs, "tokenizer.ggml.bos_token_id", Value::U32(263)), "the vocabulary has 263 tokens"),
    ];
    for (change, part) in cases {
        let error = Tokenizer::from_gguf(&bpe(change)).unwrap_err().to_string();
        assert!(error.contains(part) && error.starts_with("vocabulary: "), "{error}");
    }
    let invalid = bpe(|pairs| {
        let mut tokens: Vec<Vec<u8>> = bpe_tokens().into_iter().map(String::into_bytes).collect();
        tokens[259] = b"\xff\xfe".to_vec();
        set(pairs, "tokenizer.ggml.tokens", Value::Array(Array::from_strings(tokens)));
    });
    assert!(Tokenizer::from_gguf(&invalid).unwrap_err().to_string().contains("token 259 is not UTF-8"));
    // In a vocabulary of SentencePiece's kind they are bytes like others.
    let invalid = spm(|pairs| {
        let tokens =
            (0..265).map(|id| if id == 263 { b"\xff\xe2\x96\x81".to_vec() } else { format!("t{id}").into_bytes() });
        set(pairs, "tokenizer.ggml.tokens", Value::Array(Array::from_strings(tokens)));
    });
    assert_eq!(Tokenizer::from_gguf(&invalid).unwrap().token(263), b"\xff ");
    assert!(
        Tokenizer::from_gguf(&spm(|pairs| set(pairs, "tokenizer.ggml.scores", Value::Array(Array::from_f32(&[1.0])))))
            .is_err()
    );
    assert!(matches!(Tokenizer::from_gguf(&metadata(vec![])), Err(Error::Weights(_))));
    for bytes in [&b""[..], b"\x01\0\0\0", b"\x01\0\0\0\0\0\0\0\xff\xff\xff\x7f", b"\x01\0\0\0\0\0\0\0\xff\xff\xff\xff"]
    {
        assert!(matches!(Tokenizer::from_llama2c("tiny", bytes), Err(Error::Tokenizer { .. })));
    }
    for json in ["", "{}", "[1]", "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": [\"a b\"]}}"] {
        assert!(matches!(Tokenizer::from_json("t", json.as_bytes(), &[]), Err(Error::Tokenizer { .. })), "{json}");
    }
}

#[test]
fn tokenizer_json_is_read_with_its_settings() {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        bpe_tokens().into_iter().take(260).enumerate().map(|(id, token)| (token, id.into())).collect();
    let special = |id: u32, content: &str, special: bool| serde_json::json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(260, "<|end|>", true), special(261, "<think>", false), special(262, "<|bos|>", true)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [262], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["h e", "l l", "he ll", "\u{120} w"]},
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let settings = r#"{"bos_token": "<|bos|>", "eos_token": {"content": "<|end|>"}}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [260, 5, 70000]}"#).unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("tokenizer.json")] {
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.encode("hello w", WHOLE).unwrap(), [262, 258, 111, 259]);
        assert_eq!(tokenizer.encode("hello w", TEXT).unwrap(), [258, 111, 259]);
        assert_eq!((tokenizer.bos(), tokenizer.ends(), tokenizer.adds_bos()), (Some(262), &[260, 5][..], true));
        assert_eq!(tokenizer.encode("<|end|><think>", MARKUP).unwrap(), [260, 261]);
        assert!(!tokenizer.encode("<|end|>", TEXT).unwrap().contains(&260));
        round_trips(&tokenizer);
    }
}

#[test]
fn published_vectors_are_met() {
    let Some(folder) = data("tokenizers") else { return };
    for name in ["gpt-2", "llama-spm"] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::open(&path).unwrap();
        let beside =
            |extension: &str| std::fs::read_to_string(path.with_extension(format!("gguf.{extension}"))).unwrap();
        let (texts, tokens) = (beside("inp"), beside("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let tokens: Vec<Vec<u32>> =
            tokens.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
        assert!(tokens.len() > 40);
        for (text, wanted) in texts.iter().zip(&tokens) {
            assert_eq!(&tokenizer.encode(text, TEXT).unwrap(), wanted, "{name} {text:?}");
        }
        round_trips(&tokenizer);
    }
}

#[test]
fn published_texts_come_back_byte_for_byte() {
    let Some(folder) = data("") else { return };
    let text = std::fs::read_to_string(folder.join("text/technical.utf8")).unwrap();
    for name in ["tokenizers/ggml-vocab-gpt-2.gguf", "tokenizers/ggml-vocab-llama-spm.gguf", "llm/tok512.bin"] {
        let tokenizer = Tokenizer::open(&folder.join(name)).unwrap();
        let tokens = tokenizer.encode(&text, TEXT).unwrap();
        assert!(tokenizer.decode(&tokens) == text, "{name}");
    }
}

/// FNV-1a over the numbers of tokens.
fn digest(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &id| (hash ^ u64::from(id)).wrapping_mul(0x0100_0000_01b3))
}

/// Numbers as Python's `tokenizers` gives them with the pre-tokeniser in the model's own `tokenizer.json`. Models other than
/// the vocabulary are looked for in the folder that `SUPPLE_MODELS_CACHE` names.
#[test]
fn long_texts_have_the_numbers_of_other_implementations() {
    let Some(folder) = data("") else { return };
    let cache = std::env::var_os("SUPPLE_MODELS_CACHE").map(PathBuf::from).unwrap_or_default();
    let gpt2 = folder.join("tokenizers/ggml-vocab-gpt-2.gguf");
    let smollm2 = cache.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let cases = [
        (&gpt2, "technical.utf8", 73_932, 0x94f5_9e23_7fac_c161),
        (&gpt2, "tinyshakespeare.txt", 338_025, 0xb547_ad36_3c19_676e),
        (&smollm2, "technical.utf8", 75_426, 0x24b0_a9a3_b9d8_7482),
        (&smollm2, "tinyshakespeare.txt", 341_094, 0x932b_45fd_2234_1f88),
    ];
    for (model, text, count, wanted) in cases {
        if !model.is_file() {
            println!("skipped: no {}", model.display());
            continue;
        }
        let tokenizer = Tokenizer::open(model).unwrap();
        let text = std::fs::read_to_string(folder.join("text").join(text)).unwrap();
        let tokens = tokenizer.encode(&text, TEXT).unwrap();
        assert_eq!((tokens.len(), digest(&tokens)), (count, wanted), "{}", model.display());
        assert!(tokenizer.decode(&tokens) == text);
    }
}

#[test]
fn the_vocabulary_of_llama2c_is_read() {
    let Some(folder) = data("llm") else { return };
    let tokenizer = Tokenizer::open(&folder.join("tok512.bin")).unwrap();
    assert_eq!((tokenizer.len(), tokenizer.bos(), tokenizer.ends()), (512, Some(1), &[2][..]));
    let tokens = tokenizer.encode("Once upon a time", WHOLE).unwrap();
    assert_eq!(tokens[..2], [1, 403], "{tokens:?}");
    assert_eq!(tokenizer.decode(&tokens), "Once upon a time");
    round_trips(&tokenizer);
}
