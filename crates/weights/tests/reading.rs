//! Well-formed checkpoints: the small ones in `tests/good/` (written by `tests/generate.py`) and, where the machine has
//! them, the released ones.

use std::path::{Path, PathBuf};

use supple_weights::{DType, Error, Format, Weights};

fn good(name: &str) -> Weights {
    Weights::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good").join(name)).unwrap()
}

const FOUR: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

#[test]
fn the_ways_to_write_one_tensor_read_alike() {
    let files = [
        "plain.pth",
        "bare.pth",
        "no_folder.pth",
        "little_endian.pth",
        "parameter.pth",
        "untyped_v3.pth",
        "protocol_4.pth",
    ];
    for name in files {
        let weights = good(name);
        assert_eq!(weights.format(), Format::PyTorch, "{name}");
        assert_eq!(weights.format().to_string(), "PyTorch checkpoint");
        assert_eq!(weights.names().collect::<Vec<_>>(), ["weight"], "{name}");
        assert_eq!(weights.info("weight").unwrap().dtype, DType::F32, "{name}");
        assert_eq!(weights.tensor("weight", &[4]).unwrap(), FOUR, "{name}");
        // Reading again skips the checksum and must give the same.
        assert_eq!(weights.tensor_any_shape("weight").unwrap(), (vec![4], FOUR.to_vec()), "{name}");
        assert_eq!(weights.parameters(), 4);
        assert!(weights.metadata().is_empty());
    }
}

#[test]
fn compressed_and_transposed_storage_is_read() {
    assert_eq!(good("deflated.pth").tensor("weight", &[2, 2]).unwrap(), [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn tensors_may_share_a_storage() {
    let weights = good("shared_storage.pth");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["empty", "scalar", "tail", "transposed"]);
    assert_eq!(weights.tensor("transposed", &[2, 2]).unwrap(), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(weights.tensor("tail", &[2]).unwrap(), [3.0, 4.0]);
    assert_eq!(weights.tensor("scalar", &[]).unwrap(), [4.0]);
    assert!(weights.tensor("empty", &[0, 3]).unwrap().is_empty());
    assert_eq!(weights.parameters(), 4 + 2 + 1);
}

#[test]
fn storages_without_an_archive_are_found_in_their_order() {
    let weights = good("bare_two_storages.pth");
    assert_eq!(weights.tensor("a", &[3]).unwrap(), [2.0, 3.0, 4.0]);
    assert_eq!(weights.tensor("b", &[2]).unwrap(), [0.5, -1.0]);
}

#[test]
fn all_number_types_become_f32() {
    let weights = good("types.pth");
    for name in ["half", "brain", "long", "byte", "double"] {
        assert_eq!(weights.tensor(name, &[4]).unwrap(), FOUR, "{name}");
    }
    assert_eq!(weights.info("brain").unwrap().dtype.to_string(), "BF16");
}

#[test]
fn the_average_is_preferred_among_wrapped_dicts() {
    let weights = good("wrapped.pth");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["weight"]);
    assert_eq!(weights.tensor("weight", &[4]).unwrap(), FOUR);
}

#[test]
fn the_data_parallel_prefix_is_removed_when_all_have_it() {
    assert_eq!(good("state_dict_data_parallel.pth").names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(good("module_on_some.pth").names().collect::<Vec<_>>(), ["b", "module.a"]);
}

#[test]
fn wrong_shapes_and_missing_tensors_say_what_was_wanted() {
    let weights = good("plain.pth");
    let error = weights.tensor("weight", &[2, 2]).unwrap_err();
    assert!(matches!(&error, Error::WrongShape { wanted, found, .. } if wanted == &[2, 2] && found == &[4]));
    assert!(error.to_string().ends_with("plain.pth: tensor \"weight\": wanted shape [2, 2], found [4]"), "{error}");

    let error = weights.tensor("wieght", &[4]).unwrap_err();
    assert!(matches!(&error, Error::MissingTensor { nearest, .. } if nearest == &["weight"]));
    assert!(error.to_string().ends_with("no tensor \"wieght\"; did you mean \"weight\"?"), "{error}");
    assert!(!weights.contains("wieght") && weights.contains("weight") && weights.info("wieght").is_none());
}

#[test]
fn weights_can_be_shared_between_threads() {
    let weights = good("shared_storage.pth");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(weights.tensor("tail", &[2]).unwrap(), [3.0, 4.0]));
        }
    });
}

#[test]
fn embedded_weights_are_read_in_place() {
    static EMBEDDED: &[u8] = include_bytes!("good/plain.pth");
    let weights = Weights::from_bytes("embedded", EMBEDDED).unwrap();
    assert_eq!(weights.source(), "embedded");
    assert_eq!(weights.tensor("weight", &[4]).unwrap(), FOUR);
    assert!(Weights::from_bytes("array", include_bytes!("good/plain.pth")).is_ok());
}

/// The folder of released checkpoints and golden data that `SUPPLE_SPECS` names, if there is one.
fn specs() -> Option<PathBuf> {
    let path = std::env::var_os("SUPPLE_SPECS").map(PathBuf::from);
    let found = path.filter(|path| path.join("data/super_resolution/original").is_dir());
    if found.is_none() {
        println!("skipped: SUPPLE_SPECS names no folder of released checkpoints");
    }
    found
}

#[test]
fn released_checkpoints_are_read_whole() {
    let Some(specs) = specs() else { return };
    // Tensors and parameters as published.
    let released = [
        ("ditn/DITN_Real_x4.pth", 122, 444_112),
        ("ditn/DITN_Real_GAN_x4.pth", 122, 444_112),
        ("rlfn/rlfn_ntire_x4.pth", 78, 317_218),
        ("rlfn/rlfn_s_x2.pth", 114, 454_620),
        ("rlfn/rlfn_s_x4.pth", 114, 470_208),
        ("rlfn/rlfn_x2.pth", 114, 526_856),
        ("rlfn/rlfn_x4.pth", 114, 543_740),
    ];
    for (name, tensors, parameters) in released {
        let weights = Weights::open(&specs.join("data/super_resolution/original").join(name)).unwrap();
        assert_eq!((weights.names().count(), weights.parameters()), (tensors, parameters), "{name}");
        for tensor in weights.names() {
            let (shape, values) = weights.tensor_any_shape(tensor).unwrap();
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}: {tensor}");
            assert!(values.iter().all(|value| value.abs() < 1e3), "{name}: {tensor}");
        }
    }
}

#[test]
fn a_released_tensor_has_its_bytes() {
    let Some(specs) = specs() else { return };
    let weights = Weights::open(&specs.join("data/super_resolution/original/ditn/DITN_Real_x4.pth")).unwrap();
    assert_eq!(weights.info("sft.weight").unwrap().shape, [60, 3, 3, 3]);
    let values = weights.tensor("sft.weight", &[60, 3, 3, 3]).unwrap();
    // As `struct.unpack('<4f', ...)` gives them in Python.
    assert_eq!(values[..3], [0.077_582_724, 0.058_303_952, 0.028_860_236]);
    assert_eq!(values.last(), Some(&-0.059_458_967));
}
