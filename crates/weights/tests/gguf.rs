//! GGUF: what is written is read, by us and as the format says; damaged files are errors.
//!
//! A real vocabulary is read from the folder `tokenizers` of `SUPPLE_DATA`; without it that test is skipped.

use std::path::PathBuf;

use proptest::prelude::*;

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

/// A header written by hand: what follows `GGUF`, piece by piece.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, pairs: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(pairs)
    }

    fn u32(mut self, value: u32) -> Raw {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Raw {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, text: &[u8]) -> Raw {
        self = self.u64(text.len() as u64);
        self.0.extend(text);
        self
    }

    fn tensor(mut self, name: &str, shape: &[u64], code: u32, offset: u64) -> Raw {
        self = self.text(name.as_bytes()).u32(shape.len() as u32);
        for &side in shape {
            self = self.u64(side);
        }
        self.u32(code).u64(offset)
    }

    /// Padded to 32 bytes, with `data` bytes after.
    fn with(mut self, data: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + data, 0);
        self.0
    }
}

#[test]
fn each_way_of_lying_gives_its_error() {
    const HUGE: u64 = u64::MAX;
    let pair = |kind: u32| Raw::new(0, 1).text(b"k").u32(kind);
    let nested = |depth: u32| (0..depth).fold(pair(9), |raw, _| raw.u32(9).u64(1)).u32(0).u64(0);
    let two = |a: u64, b: u64| Raw::new(2, 0).tensor("a", &[8], 0, a).tensor("b", &[8], 0, b).with(96);
    let one = |shape: &[u64], code: u32, offset: u64| Raw::new(1, 0).tensor("a", shape, code, offset).with(64);
    let aligned = |value: Raw| value.0;
    let alignment = |value: u32| aligned(Raw::new(0, 1).text(b"general.alignment").u32(4).u32(value));
    let twice = Raw::new(0, 2).text(b"k").u32(0).0;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("tensors without end", Raw::new(HUGE, 0).with(64), "18446744073709551615 tensors"),
        ("tensors", Raw::new(1 << 40, 0).with(64), "1099511627776 tensors"),
        ("pairs without end", Raw::new(0, HUGE).with(64), "metadata pairs"),
        ("pairs", Raw::new(0, 1 << 30).with(64), "1073741824 metadata pairs"),
        ("a key without end", Raw::new(0, 1).u64(HUGE).with(64), "key"),
        ("a key of a terabyte", Raw::new(0, 1).u64(1 << 40).with(64), "key"),
        ("a key that is no text", Raw::new(0, 1).text(b"\xff\x1b[2J").u32(0).with(64), "not UTF-8"),
        ("a long key", Raw::new(0, 1).text(&[b'a'; 70_000]).u32(0).with(64), "a key of 70000 bytes"),
        ("a type that is none", pair(13).with(64), "no known type (13)"),
        ("a string without end", pair(8).u64(HUGE).with(64), "bytes of a value"),
        ("an array without end", pair(9).u32(4).u64(HUGE).with(64), "values of an array"),
        ("an array whose size overflows", pair(9).u32(11).u64(1 << 61).with(64), "values of an array"),
        ("strings without end", pair(9).u32(8).u64(1 << 50).with(64), "values of an array"),
        ("an array of no type", pair(9).u32(77).u64(1).with(64), "no known type (77)"),
        ("arrays of arrays of arrays", nested(6).with(64), "nested too deep"),
        ("a key twice", Raw([twice, vec![1]].concat()).text(b"k").u32(0).with(64), "key \"k\" twice"),
        ("alignment 0", alignment(0), "general.alignment"),
        ("alignment 48", alignment(48), "general.alignment"),
        ("alignment 2 GiB", alignment(1 << 31), "general.alignment"),
        (
            "alignment in words",
            aligned(Raw::new(0, 1).text(b"general.alignment").u32(8).text(b"32")),
            "general.alignment",
        ),
        ("rank 5", one(&[1; 5], 0, 0), "rank of tensor \"a\" is too large: 5"),
        ("rank without end", Raw(Raw::new(1, 0).text(b"a").u32(u32::MAX).with(64)).0, "rank of tensor"),
        ("a shape that overflows", one(&[1 << 40, 1 << 40], 0, 0), "overflows"),
        ("a shape with 0 that overflows", one(&[0, 1 << 40, 1 << 40], 0, 0), "overflows"),
        ("bytes that overflow", one(&[1 << 62], 28, 0), "overflows"),
        ("rows of half a block", one(&[48], 8, 0), "no whole blocks of 32"),
        ("rows of half blocks that add up", one(&[16, 2], 8, 0), "no whole blocks of 32"),
        ("an unknown type", one(&[8], 99, 0), "blocks of type 99"),
        ("a removed type", one(&[32], 4, 0), "blocks of type 4"),
        ("an offset off the grid", one(&[8], 0, 8), "not aligned to 32"),
        ("an offset past the end", one(&[8], 0, 64), "tensor \"a\""),
        ("an offset without end", one(&[8], 0, HUGE - 31), "tensor \"a\""),
        ("more data than the file has", one(&[64], 0, 0), "tensor \"a\""),
        (
            "tensors over each other",
            Raw::new(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[8], 0, 32).with(96),
            "overlap",
        ),
        ("tensors in one place", two(32, 32), "tensors \"a\" and \"b\" overlap"),
        (
            "a tensor twice",
            Raw::new(2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).with(96),
            "tensor \"a\" twice",
        ),
        ("a name that is no text", Raw(Raw::new(1, 0).text(b"\xff").u32(0).u32(0).u64(0).with(64)).0, "not UTF-8"),
        ("version 1", [b"GGUF\x01\0\0\0".as_slice(), &[0; 64]].concat(), "version 1"),
        ("version 4", [b"GGUF\x04\0\0\0".as_slice(), &[0; 64]].concat(), "other than 2 and 3"),
        ("big-endian", [b"GGUF\0\0\0\x03".as_slice(), &[0; 64]].concat(), "big-endian"),
    ];
    for (what, bytes, part) in cases {
        let error = Gguf::from_bytes(what, bytes).expect_err(what).to_string();
        assert!(error.contains(part) && error.starts_with(what), "{what}: {error}");
        assert!(error.len() < 600 && !error.contains('\u{1b}'), "{error}");
    }
    Gguf::from_bytes("side by side", two(0, 32)).unwrap();
    Gguf::from_bytes("the other way round", two(64, 0)).unwrap();
    Gguf::from_bytes("not too deep", nested(2).with(64)).unwrap();
}

/// Reads everything, as a program would that trusts the file.
fn read_all(bytes: Vec<u8>) -> Result<(), Error> {
    let file = Gguf::from_bytes("mutation", bytes)?;
    for (key, value) in file.metadata() {
        let _ = (file.find_u32(key), file.find_f32(key), file.find_str(key), file.find_bool(key));
        if let Value::Array(array) = value {
            if let Some(strings) = array.strings() {
                assert_eq!(strings.count(), array.len());
            }
            if let Some(scalars) = array.scalars() {
                assert_eq!(scalars.count(), array.len());
            }
            let _ = (array.integers(), array.floats(), array.bools());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(Some(file.bytes(tensor).len()), tensor.block_type.bytes(tensor.elements()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all([b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
    }

    #[test]
    fn any_change_of_a_good_file_is_read_or_refused(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = example();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_all(bytes.clone());
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = read_all(bytes);
    }

    #[test]
    fn any_metadata_comes_back(
        strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20),
        floats in proptest::collection::vec(any::<f32>(), 0..20),
        number in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let pairs = [
            ("strings".to_string(), Value::Array(Array::from_strings(&strings))),
            ("floats".to_string(), Value::Array(Array::from_f32(&floats))),
            ("number".to_string(), Value::U64(number)),
        ];
        save(&path, &pairs, &[], |_, _| Ok::<(), Error>(())).unwrap();
        let file = Gguf::open(&path).unwrap();
        prop_assert!(file.get_array("strings").unwrap().strings().unwrap().eq(strings.iter().map(Vec::as_slice)));
        let found = file.get_array("floats").unwrap().floats().unwrap();
        prop_assert!(found.iter().map(|value| value.to_bits()).eq(floats.iter().map(|value| value.to_bits())));
        prop_assert_eq!(file.get("number").unwrap().as_integer(), Some(i128::from(number)));
    }
}
