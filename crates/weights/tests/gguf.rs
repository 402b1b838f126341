//! GGUF: what is written is read, by us and as the format says; damaged files are errors.
//!
//! A real vocabulary is read from the folder `tokenizers` of `SUPPLE_DATA`; without it that test is skipped.

use std::path::PathBuf;

use supple_weights::gguf::{Array, BlockType, Gguf, Kind, NewTensor, Value, save};
use supple_weights::{Error, Weights};

fn tensors() -> Vec<NewTensor> {
    let tensor =
        |name: &str, shape: &[usize], block_type| NewTensor { name: name.into(), shape: shape.into(), block_type };
    vec![
        tensor("output_norm.weight", &[3], BlockType::F32),
        tensor("blk.0.attn_q.weight", &[5, 64], BlockType::Q4_0),
        tensor("blk.0.ffn_up.weight", &[2, 256], BlockType::Q6_K),
        tensor("scalar", &[], BlockType::BF16),
        tensor("nothing", &[0, 32], BlockType::Q8_0),
    ]
}

fn metadata() -> Vec<(String, Value)> {
    let pairs = [
        ("general.architecture", Value::from("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.rope.freq_base", Value::F32(1e5)),
        ("wide", Value::U64(1 << 40)),
        ("negative", Value::I8(-1)),
        ("double", Value::F64(0.5)),
        ("flag", Value::Bool(true)),
        ("broken", Value::String(vec![0xff, b'a'])),
        ("tokens", Value::Array(Array::from_strings(["a", "", "\u{e9}"]))),
        ("scores", Value::Array(Array::from_f32(&[0.0, -1.5]))),
        ("types", Value::Array(Array::from_i32(&[1, -3]))),
        ("none", Value::Array(Array::from_f32(&[]))),
    ];
    pairs.map(|(key, value)| (key.to_string(), value)).into()
}

/// Bytes that differ from tensor to tensor.
fn fill(index: usize, size: usize, output: &mut Vec<u8>) {
    output.extend((0..size).map(|at| (at * 7 + index * 31 + 1) as u8));
}

fn example() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("example.gguf");
    save(&path, &metadata(), &tensors(), |index, output| {
        let tensor = &tensors()[index];
        fill(index, tensor.block_type.bytes(tensor.shape.iter().product()).unwrap(), output);
        Ok::<(), Error>(())
    })
    .unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let bytes = example();
    let file = Gguf::from_bytes("example", bytes.clone()).unwrap();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(
        file.metadata().map(|(key, _)| key).collect::<Vec<_>>(),
        metadata().iter().map(|pair| pair.0.as_str()).collect::<Vec<_>>()
    );
    assert_eq!(file.get_str("general.architecture").unwrap(), "llama");
    assert_eq!(file.get_u32("llama.block_count").unwrap(), 1);
    assert_eq!(file.get_f32("llama.rope.freq_base").unwrap(), 1e5);
    assert_eq!(file.get_f32("double").unwrap(), 0.5);
    assert!(file.get_bool("flag").unwrap());
    let tokens: Vec<&[u8]> = file.get_array("tokens").unwrap().strings().unwrap().collect();
    assert_eq!(tokens, [b"a".as_slice(), b"", "\u{e9}".as_bytes()]);
    assert_eq!(file.get_array("scores").unwrap().floats(), Some(vec![0.0, -1.5]));
    assert_eq!(file.get_array("types").unwrap().integers(), Some(vec![1, -3]));
    assert_eq!(file.get_array("types").unwrap().kind(), Kind::I32);
    assert!(file.get_array("none").unwrap().is_empty());

    for (index, wanted) in tensors().iter().enumerate() {
        let tensor = file.tensor(&wanted.name).unwrap();
        assert_eq!((&tensor.shape, tensor.block_type), (&wanted.shape, wanted.block_type), "{}", wanted.name);
        let mut stored = Vec::new();
        fill(index, tensor.size(), &mut stored);
        assert_eq!(file.bytes(tensor), stored, "{}", wanted.name);
        assert_eq!(tensor.position() % 32, 0);
    }
    assert_eq!(file.parameters(), 3 + 5 * 64 + 2 * 256 + 1);
}

#[test]
fn metadata_of_another_type_or_none_at_all_is_an_error() {
    let file = Gguf::from_bytes("example", example()).unwrap();
    assert_eq!(file.find_u32("absent").unwrap(), None);
    assert!(matches!(file.get_u32("absent"), Err(Error::MissingMetadata { .. })));
    for wrong in [
        file.get_u32("wide").unwrap_err(),
        file.get_u32("negative").unwrap_err(),
        file.get_u32("flag").unwrap_err(),
        file.get_str("broken").unwrap_err(),
        file.find_f32("llama.block_count").unwrap_err(),
        file.get_bool("llama.block_count").unwrap_err(),
        file.get_array("flag").unwrap_err(),
    ] {
        assert!(matches!(wrong, Error::WrongMetadata { .. }), "{wrong}");
    }
    assert_eq!(
        file.get_u32("wide").unwrap_err().to_string(),
        "example: metadata \"wide\": wanted an integer of 32 bits without sign, found 1099511627776 (u64)"
    );
    assert_eq!(file.get_array("tokens").unwrap().integers(), None);
    assert_eq!(file.get_array("scores").unwrap().bools(), None);
    let missing = file.tensor("blk.0.attn_q.wieght").unwrap_err().to_string();
    assert!(missing.contains("did you mean \"blk.0.attn_q.weight\""), "{missing}");
}

#[test]
fn the_layout_is_the_published_one() {
    // A file written by hand, of version 2, aligned to 64 bytes.
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([1u64, 1].iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend(17u64.to_le_bytes());
    bytes.extend(b"general.alignment");
    bytes.extend([4u32, 64].iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(b"w");
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([2u64, 3].iter().flat_map(|side| side.to_le_bytes()));
    bytes.extend(24u32.to_le_bytes());
    bytes.extend(64u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(64) + 64, 0xee);
    bytes.extend([1, 2, 3, 4, 5, 6]);
    let file = Gguf::from_bytes("by hand", bytes).unwrap();
    let tensor = file.tensor("w").unwrap();
    assert_eq!((file.version(), &tensor.shape, tensor.block_type), (2, &vec![3, 2], BlockType::I8));
    assert_eq!(file.bytes(tensor), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_cut_is_an_error() {
    let bytes = example();
    // The last tensor is empty, and padding after the last one that is not may be missing.
    let end = Gguf::from_bytes("whole", bytes.clone())
        .unwrap()
        .tensors()
        .iter()
        .map(|tensor| tensor.position() + tensor.size())
        .max()
        .unwrap();
    for length in 0..end {
        let error = Gguf::from_bytes("cut", bytes[..length].to_vec()).unwrap_err();
        let expected = match length {
            0 => matches!(error, Error::Empty { .. }),
            1..4 => matches!(error, Error::UnknownFormat { .. }),
            _ => matches!(error, Error::Truncated { .. }),
        };
        assert!(expected, "cut to {length} bytes: {error:?}");
    }
}

#[test]
fn what_the_format_cannot_hold_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let tensor =
        |name: &str, shape: &[usize], block_type| NewTensor { name: name.into(), shape: shape.into(), block_type };
    let nothing = |_: usize, _: &mut Vec<u8>| Ok::<(), Error>(());
    let cases = [
        vec![tensor("a", &[2, 31], BlockType::Q8_0)],
        vec![tensor("a", &[0], BlockType::F32), tensor("a", &[0], BlockType::F32)],
        vec![tensor("a", &[1, 1, 1, 1, 0], BlockType::F32)],
        vec![tensor("a", &[usize::MAX, 2], BlockType::F32)],
        vec![tensor("a", &[1], BlockType::F32)], // and no bytes
    ];
    for tensors in cases {
        let error = save(&path, &[], &tensors, nothing).unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "{error}");
    }
    let twice = [("a".to_string(), Value::U8(1)), ("a".to_string(), Value::U8(2))];
    assert!(matches!(save(&path, &twice, &[], nothing), Err(Error::Unwritable { .. })));
    let no_folder = save(&folder.path().join("none/x.gguf"), &[], &[], nothing);
    assert!(matches!(no_folder, Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left behind");
}

#[test]
fn other_commands_say_what_a_gguf_is() {
    let error = Weights::from_bytes("model.gguf", example()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedFormat { .. }), "{error}");
    let error = Gguf::from_bytes("page", b"<!DOCTYPE html>".to_vec()).unwrap_err();
    assert!(error.to_string().contains("an HTML page"), "{error}");
}

#[test]
fn a_published_vocabulary_is_read() {
    let Some(data) = std::env::var_os("SUPPLE_DATA").map(PathBuf::from) else {
        println!("skipped: SUPPLE_DATA is not set");
        return;
    };
    let file = Gguf::open(&data.join("tokenizers/ggml-vocab-gpt-2.gguf")).unwrap();
    assert_eq!(file.get_str("tokenizer.ggml.pre").unwrap(), "gpt-2");
    let tokens = file.get_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens.strings().unwrap().nth(50256).unwrap()), (50257, b"<|endoftext|>".as_slice()));
    assert_eq!(file.get_array("tokenizer.ggml.token_type").unwrap().integers().unwrap()[50256], 3);
}
