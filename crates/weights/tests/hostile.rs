//! Hostile bytes: each file in `tests/hostile/` gives the error it should, and no mutation of any makes the reader
//! panic, hang or take memory by the gigabyte.
//!
//! The files are written by `tests/generate.py`. `mutations_never_panic` runs for two seconds; to run it for longer,
//! `SUPPLE_FUZZ_SECONDS=60 cargo test -p supple-weights --test hostile --release -- --nocapture mutations`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use supple_weights::{Error, Weights};

/// `(file, variant of Error, part of the message)`.
const WANTED: &[(&str, &str, &str)] = &[
    ("empty.safetensors", "Empty", "0 bytes"),
    ("text.pth", "UnknownFormat", "found text"),
    ("html_page.pth", "UnknownFormat", "an HTML page"),
    ("git_lfs_pointer.safetensors", "UnknownFormat", "Git LFS"),
    ("png_image.pth", "UnknownFormat", "a PNG image"),
    ("noise.bin", "UnknownFormat", "unknown binary data"),
    ("gguf.gguf", "UnsupportedFormat", "language model"),
    ("bare_pickle_os_system.pth", "UnsupportedFormat", "a pickle that PyTorch did not write"),
    ("zip_without_pickle.pth", "UnknownFormat", "without data.pkl"),
    // safetensors
    ("length_truncated.safetensors", "Truncated", "found 8 bytes"),
    ("header_truncated.safetensors", "Truncated", "found 30 bytes"),
    ("header_length_huge.safetensors", "TooLarge", "140737488355328"),
    ("header_length_past_end.safetensors", "Truncated", "1048584 bytes"),
    ("header_not_utf8.safetensors", "Damaged", "UTF-8"),
    ("header_not_json.safetensors", "Damaged", "header"),
    ("header_nested_deep.safetensors", "Damaged", "recursion"),
    ("data_truncated.safetensors", "Truncated", "truncated"),
    ("data_trailing.safetensors", "Damaged", "1 bytes after the last tensor"),
    ("offsets_overlap.safetensors", "Damaged", "offset"),
    ("offsets_gap.safetensors", "Damaged", "offset"),
    ("offsets_reversed.safetensors", "Damaged", "offset"),
    ("offsets_past_end.safetensors", "Truncated", "truncated"),
    ("offsets_sum_overflows.safetensors", "Truncated", "truncated"),
    ("offsets_beyond_64_bits.safetensors", "Damaged", "header"),
    ("shape_overflows.safetensors", "Damaged", "overflow"),
    ("shape_negative.safetensors", "Damaged", "header"),
    ("shape_disagrees.safetensors", "Damaged", "invalid shape"),
    ("shape_fraction.safetensors", "Damaged", "header"),
    ("name_twice.safetensors", "Damaged", "offset"),
    ("dtype_unknown.safetensors", "Damaged", "F128"),
    ("metadata_not_text.safetensors", "Damaged", "header"),
    ("float8_asked_for.safetensors", "UnsupportedDType", "F8_E4M3"),
    ("nan_weight.safetensors", "NotFinite", "\"a\": element 2 is NaN"),
    ("name_with_escape_codes.safetensors", "Damaged", "a\\u{1b}[2J"),
    // The zip around a checkpoint
    ("zip_truncated.pth", "Truncated", "directory"),
    ("zip_empty.pth", "UnknownFormat", "without data.pkl"),
    ("zip_directory_garbled.pth", "Damaged", "zip directory"),
    ("zip_local_header_garbled.pth", "Damaged", "archive/data/0"),
    ("zip_storage_missing.pth", "Damaged", "archive/data/0: the archive has no such entry"),
    ("zip_storage_key_escapes.pth", "Damaged", "no such entry"),
    ("zip_storage_key_escape_codes.pth", "Damaged", "archive/data/\\u{1b}[2J: "),
    ("zip_crc_of_pickle.pth", "Damaged", "archive/data.pkl: "),
    ("zip_crc_of_storage.pth", "Damaged", "archive/data/0: "),
    ("zip_size_past_end.pth", "Damaged", "beyond the end"),
    ("zip_sizes_differ.pth", "Damaged", "two sizes differ"),
    ("zip_encrypted.pth", "Damaged", "encrypted"),
    ("zip_unknown_compression.pth", "Damaged", "compression method"),
    ("zip_bomb_claims_4_gib.pth", "Damaged", "too small for what it claims"),
    ("zip_bomb_pickle_100_mib.pth", "Damaged", "too small for what it claims"),
    ("zip_bomb_holds_more_than_claimed.pth", "Damaged", "archive/data/0"),
    ("zip_deflate_garbled.pth", "Damaged", "archive/data/0"),
    ("zip_name_twice.pth", "Damaged", "same name"),
    ("zip_torchscript.pth", "UnsupportedFormat", "TorchScript"),
    ("zip_big_endian.pth", "BigEndian", "big-endian"),
    ("zip_byteorder_nonsense.pth", "Damaged", "byteorder"),
    // Checkpoints without an archive
    ("bare_truncated.pth", "Truncated", "up to the end of storage 0"),
    ("bare_ends_with_pickles.pth", "Truncated", "up to the end of storage 0"),
    ("bare_big_endian.pth", "BigEndian", "big-endian"),
    ("bare_other_version.pth", "Damaged", "not 1001"),
    ("bare_count_negative.pth", "Damaged", "-4 elements"),
    ("bare_count_huge.pth", "Truncated", "bytes, up to"),
    ("bare_count_too_small.pth", "OutOfBounds", "wanted 16 bytes of storage, found 12"),
    ("bare_storage_not_listed.pth", "Damaged", "storage 0 is not in the list"),
    ("bare_storage_listed_twice.pth", "Damaged", "listed twice"),
    ("bare_storage_unknown.pth", "Damaged", "storage \\u{1b}[2J is of no type"),
    ("bare_part_of_another.pth", "Pickle", "a part of another"),
    ("bare_os_system.pth", "RefusedCode", "os.system"),
    // Pickles that want code run
    ("pickle_os_system.pth", "RefusedCode", "refuses to run code: os.system"),
    ("pickle_os_system_protocol_0.pth", "RefusedCode", "os.system"),
    ("pickle_os_system_after_weights.pth", "RefusedCode", "os.system"),
    ("pickle_eval_stack_global.pth", "RefusedCode", "builtins.eval"),
    ("pickle_inst.pth", "RefusedCode", "os.system"),
    ("pickle_numpy_scalar.pth", "RefusedCode", "numpy.core.multiarray.scalar"),
    ("pickle_torch_load.pth", "RefusedCode", "torch.load"),
    ("pickle_escape_codes_in_name.pth", "RefusedCode", "os\\u{1b}[2J.system"),
    ("pickle_build_on_callable.pth", "Pickle", "BUILD"),
    ("pickle_extension_opcode.pth", "Pickle", "opcode 0x82"),
    ("pickle_call_of_text.pth", "Pickle", "cannot be called"),
    // Malformed pickles
    ("pickle_empty.pth", "Pickle", "at byte 0: it ends early"),
    ("pickle_truncated.pth", "Pickle", "a name without an end"),
    ("pickle_no_stop.pth", "Pickle", "ends early"),
    ("pickle_protocol_9.pth", "Pickle", "found 9"),
    ("pickle_stack_empty.pth", "Pickle", "stack is empty"),
    ("pickle_mark_missing.pth", "Pickle", "no mark"),
    ("pickle_pop_below_mark.pth", "Pickle", "stack is empty"),
    ("pickle_memo_unset.pth", "Pickle", "memo 5"),
    ("pickle_memo_bomb.pth", "TooLarge", "memo"),
    ("pickle_marks_deep.pth", "TooLarge", "nesting"),
    ("pickle_nested_deep.pth", "NoTensors", "a list"),
    ("pickle_list_in_itself.pth", "NoTensors", "a list"),
    ("pickle_dict_in_itself.pth", "NoTensors", "\"params\""),
    ("pickle_tuple_doubling.pth", "NoTensors", "a list"),
    ("pickle_text_length_huge.pth", "Pickle", "ends early"),
    ("pickle_text_not_utf8.pth", "Pickle", "UTF-8"),
    ("pickle_long_huge.pth", "Pickle", "ends early"),
    ("pickle_key_without_value.pth", "Pickle", "without a value"),
    ("pickle_persistent_id_text.pth", "Pickle", "persistent id"),
    ("pickle_state_dict_empty.pth", "NoTensors", "an empty dict"),
    ("pickle_only_options.pth", "NoTensors", "the keys \"model\", \"epoch\""),
    // Tensors
    ("tensor_size_negative.pth", "Pickle", "-4"),
    ("tensor_stride_negative.pth", "Pickle", "-1"),
    ("tensor_offset_negative.pth", "Pickle", "-1"),
    ("tensor_size_beyond_64_bits.pth", "Pickle", "no integer of 64 bits"),
    ("tensor_size_text.pth", "Pickle", "no tuple"),
    ("tensor_of_text.pth", "Pickle", "other than a storage"),
    ("tensor_strides_missing.pth", "Pickle", "2 dimensions with 1 strides"),
    ("tensor_rank_huge.pth", "TooLarge", "rank"),
    ("tensor_size_overflows.pth", "OutOfBounds", "\"weight\""),
    ("tensor_stride_overflows.pth", "OutOfBounds", "\"weight\""),
    ("tensor_stride_past_storage.pth", "OutOfBounds", "wanted 20 bytes of storage, found 16"),
    ("tensor_offset_past_storage.pth", "OutOfBounds", "wanted 20 bytes of storage, found 16"),
    ("tensor_offset_overflows.pth", "OutOfBounds", "\"weight\""),
    ("tensor_expanded_huge.pth", "TooLarge", "1099511627776"),
    ("storage_shorter_than_promised.pth", "OutOfBounds", "wanted 4194304 bytes of storage, found 16"),
    ("storage_count_huge.pth", "OutOfBounds", "found 16"),
    ("storage_count_negative.pth", "Pickle", "-1"),
    ("storage_complex_asked_for.pth", "UnsupportedDType", "complex64"),
    ("infinite_weight.pth", "NotFinite", "element 1 is inf"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// All files of a folder, sorted: `(name, content)`.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Reads every tensor, as a program would that trusts the file.
fn read_all(weights: &Weights) -> Result<(), Error> {
    let mut first = Ok(());
    for name in weights.names() {
        let info = weights.info(name).unwrap();
        let read = weights.tensor(name, &info.shape.clone());
        if let Ok(values) = &read {
            assert_eq!(values.len(), info.elements());
        }
        if first.is_ok() {
            first = read.map(drop);
        }
    }
    first
}

fn open_and_read(name: &str, bytes: Vec<u8>) -> Result<(), Error> {
    read_all(&Weights::from_bytes(name, bytes)?)
}

fn variant(error: &Error) -> String {
    let debug = format!("{error:?}");
    debug.split(|letter: char| !letter.is_alphanumeric()).next().unwrap().to_string()
}

#[test]
fn each_hostile_file_gives_its_error() {
    let mut wrong = Vec::new();
    for (name, wanted, part) in WANTED {
        let path = folder("hostile").join(name);
        let from_file = Weights::open(&path).and_then(|weights| read_all(&weights));
        let from_bytes = open_and_read(&path.display().to_string(), std::fs::read(&path).unwrap());
        let (Err(from_file), Err(error)) = (from_file, from_bytes) else {
            wrong.push(format!("{name}: wanted {wanted}, found no error"));
            continue;
        };
        let message = error.to_string();
        if variant(&error) != *wanted || !message.contains(part) || !message.contains(name) {
            wrong.push(format!("{name}: wanted {wanted} with {part:?}, found {error:?}: {message}"));
        }
        assert_eq!(from_file.to_string(), message, "mapped and embedded bytes must fail alike");
        assert!(message.len() < 1500 && !message.contains('\x1b'), "{message}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_hostile_file_is_in_the_table() {
    let wanted: BTreeSet<&str> = WANTED.iter().map(|(name, ..)| *name).collect();
    let files = files("hostile");
    assert_eq!(wanted, files.iter().map(|(name, _)| name.as_str()).collect());
    assert!(files.iter().all(|(_, bytes)| bytes.len() < 4096));
}

#[test]
fn a_folder_or_a_missing_file_is_an_error() {
    for path in [folder("hostile"), folder("no such file")] {
        let error = Weights::open(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}

#[test]
fn every_cut_of_a_good_file_is_an_error() {
    for (name, bytes) in files("good") {
        for length in 0..bytes.len() {
            assert!(open_and_read(&name, bytes[..length].to_vec()).is_err(), "{name} cut to {length} bytes");
        }
    }
}

/// A checkpoint whose pickle is `pickle`, made from a good one so that the checksum is right.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = open_and_read("noise", bytes);
    }

    #[test]
    fn any_pickle_is_read_or_refused(pickle in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = open_and_read("noise", checkpoint(&pickle));
    }

    #[test]
    fn any_sequence_of_opcodes_is_read_or_refused(
        opcodes in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..60),
    ) {
        let pickle: Vec<u8> = opcodes.concat();
        let _ = open_and_read("noise", checkpoint(&[b"\x80\x02", &pickle[..], b"."].concat()));
    }

    #[test]
    fn any_safetensors_header_is_read_or_refused(
        shape in proptest::collection::vec(any::<u64>(), 0..4),
        small in proptest::collection::vec(0u64..4, 0..4),
        offsets in (0u64..80, prop_oneof![0u64..80, any::<u64>()]),
        data in 0usize..80,
    ) {
        for shape in [shape, small] {
            let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{},{}]}}}}"#, offsets.0, offsets.1);
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
            let _ = open_and_read("noise", bytes);
        }
    }
}

/// Opcodes with operands, so that random sequences get further than random bytes.
const PIECES: &[&[u8]] = &[
    b"N", b"\x88", b"K\x04", b"K\x00", b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\x01\x00\x00\x000", b"X\x07\x00\x00\x00storage", b"X\x06\x00\x00\x00params", b"C\x01a", b"]", b")", b"}", b"(",
    b"t", b"\x85", b"\x86", b"\x87", b"l", b"d", b"a", b"e", b"s", b"u", b"0", b"1", b"2", b"q\x00", b"q\x01", b"h\x00",
    b"h\x01", b"\x94", b"R", b"\x81", b"b", b"Q", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n",
    b"ctorch\nfloat16\n", b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86tR",
];

/// A small generator (splitmix64): the test must not depend on the state of the machine it runs on.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// One to four small changes: bytes, integers that tend to break things, cuts, repeats, pieces of another file.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            _ if bytes.is_empty() => bytes.extend(other),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let value = NUMBERS[random.below(NUMBERS.len())].wrapping_sub(random.below(3) as u64).to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + random.below(bytes.len() - at).min(16))),
            5 => {
                let piece = bytes[at..(at + 1 + random.below(32)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes.truncate(1 << 16);
}

#[test]
fn mutations_never_panic() {
    let seconds = std::env::var("SUPPLE_FUZZ_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut corpus: Vec<Vec<u8>> =
        [files("good"), files("hostile")].concat().into_iter().map(|(_, bytes)| bytes).collect();
    // Mutating a whole archive rarely survives its checksum, so pickles are also mutated on their own.
    let pickles: Vec<Vec<u8>> = corpus.iter().filter_map(|bytes| pickle_of(bytes)).collect();
    assert!(pickles.len() > 40);

    let mut random = Random(seconds);
    let (mut count, mut opened, mut slowest) = (0u64, 0u64, Duration::ZERO);
    while Instant::now() < until {
        let pool = if random.below(2) == 0 { &pickles } else { &corpus };
        let mut bytes = pool[random.below(pool.len())].clone();
        let other = &pool[random.below(pool.len())];
        mutate(&mut random, &mut bytes, other);
        let bytes = if std::ptr::eq(pool, &pickles) { checkpoint(&bytes) } else { bytes };

        let started = Instant::now();
        let outcome = std::panic::catch_unwind(|| open_and_read("mutation", bytes.clone()));
        slowest = slowest.max(started.elapsed());
        let outcome = outcome.unwrap_or_else(|_| panic!("this file makes the reader panic: {}", hex(&bytes)));
        count += 1;
        if outcome.is_ok() {
            opened += 1;
            // What still opens is a good place to mutate further from.
            if corpus.len() < 2000 {
                corpus.push(bytes);
            }
        }
    }
    println!("{count} mutations in {seconds} s, {opened} of them readable; the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "a small file took {slowest:?}");
}

fn pickle_of(bytes: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).ok()?;
    let mut content = Vec::new();
    zip.by_name("archive/data.pkl").ok()?.take(4096).read_to_end(&mut content).ok()?;
    Some(content)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
