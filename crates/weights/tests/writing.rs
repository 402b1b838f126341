//! What is saved is read back, and a failed save leaves nothing behind.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use supple_weights::{DType, Error, Format, Weights, save_safetensors};

type Tensor = (String, DType, Vec<usize>, Vec<f32>);

fn tensor(name: &str, dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    (name.to_string(), dtype, shape.to_vec(), values.to_vec())
}

fn entries(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Names as people and adversaries write them.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}(\\.[a-z0-9_]{1,8}){0,3}", "\\PC{0,12}", any::<String>()]
        .prop_filter("reserved", |name| name != "__metadata__")
}

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let dtype = prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)];
    let one = (name(), dtype, proptest::collection::vec(0usize..5, 0..4)).prop_flat_map(|(name, dtype, shape)| {
        let elements = shape.iter().product::<usize>();
        (Just(name), Just(dtype), Just(shape), proptest::collection::vec(-60000f32..60000.0, elements))
    });
    proptest::collection::vec(one, 0..6).prop_map(|mut tensors| {
        tensors.sort_by(|left, right| left.0.cmp(&right.0));
        tensors.dedup_by(|left, right| left.0 == right.0);
        tensors
    })
}

fn rounded(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::BF16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

proptest! {
    #[test]
    fn what_is_saved_is_read_back(
        tensors in tensors(),
        metadata in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        save_safetensors(&path, &tensors, &metadata).unwrap();
        let weights = Weights::open(&path).unwrap();
        prop_assert_eq!(weights.format(), Format::Safetensors);
        prop_assert_eq!(weights.metadata(), &metadata);
        prop_assert_eq!(weights.names().count(), tensors.len());
        for (name, dtype, shape, values) in &tensors {
            prop_assert_eq!(weights.info(name).unwrap().dtype, *dtype);
            let wanted: Vec<f32> = values.iter().map(|&value| rounded(*dtype, value)).collect();
            prop_assert_eq!(weights.tensor(name, shape).unwrap(), wanted);
        }
        prop_assert_eq!(entries(folder.path()), ["weights.safetensors"]);
        // The reference implementation agrees.
        let bytes = std::fs::read(&path).unwrap();
        prop_assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), tensors.len());
    }
}

#[test]
fn the_same_weights_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [tensor("b", DType::F16, &[3], &[1.0, 2.0, 3.0]), tensor("a", DType::F32, &[2], &[0.1, 0.2])];
    let metadata: BTreeMap<_, _> = (0..20).map(|i| (format!("key{i}"), i.to_string())).collect();
    let written: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let path = folder.path().join("weights.safetensors");
            save_safetensors(&path, &tensors, &metadata).unwrap();
            std::fs::read(path).unwrap()
        })
        .collect();
    assert_eq!(written[0], written[1]);
    assert_eq!((written[0].len() - 8 - 3 * 2 - 2 * 4) % 8, 0, "the data must start at a multiple of 8");
}

/// A file starts with its header's length, which can look like another format's magic number.
#[test]
fn headers_of_any_length_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for padding in (0..2000).step_by(8) {
        let metadata = BTreeMap::from([("padding".to_string(), "x".repeat(padding))]);
        save_safetensors(&path, &[tensor("a", DType::F32, &[1], &[1.0])], &metadata).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.metadata(), &metadata);
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused_before_a_file_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let cases = [
        (vec![tensor("a", DType::F32, &[3], &[1.0])], "shape [3] does not hold 1 elements"),
        (vec![tensor("a", DType::F32, &[usize::MAX, 2], &[])], "does not hold 0 elements"),
        (vec![tensor("a", DType::F32, &[], &[1.0]), tensor("a", DType::F32, &[], &[1.0])], "used twice"),
        (vec![tensor("__metadata__", DType::F32, &[], &[1.0])], "reserved"),
        (vec![tensor("a", DType::I8, &[], &[1.0])], "wanted F32, F16, BF16 or U8, found I8"),
        (vec![tensor("a", DType::U8, &[2], &[255.0, 256.0])], "element 1, 256, is beyond the range of U8"),
        (vec![tensor("a", DType::U8, &[1], &[-1.0])], "no whole number of U8"),
        (vec![tensor("a", DType::U8, &[1], &[0.5])], "no whole number of U8"),
        (vec![tensor("a", DType::F16, &[2], &[1.0, -65520.0])], "element 1, -65520, is beyond the range of F16"),
        (vec![tensor("a", DType::BF16, &[1], &[f32::MAX])], "beyond the range of BF16"),
        (vec![tensor("a", DType::F32, &[2], &[1.0, f32::NAN])], "element 1 is NaN"),
    ];
    for (tensors, wanted) in cases {
        let error = save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. } | Error::NotFinite { .. }));
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn bytes_are_written_and_had_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let all: Vec<f32> = (0..256).map(|byte| byte as f32).collect();
    let tensors = [tensor("bytes", DType::U8, &[256], &all), tensor("a", DType::F32, &[1], &[1.0])];
    save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.tensor("bytes", &[256]).unwrap(), all);
    assert_eq!(*weights.bytes("bytes").unwrap(), *(0..=255).collect::<Vec<u8>>());
    assert_eq!(*weights.bytes("a").unwrap(), 1f32.to_le_bytes());
    assert!(weights.bytes("b").is_err());
}

#[test]
fn the_largest_half_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    save_safetensors(&path, &[tensor("a", DType::F16, &[1], &[65519.0])], &BTreeMap::new()).unwrap();
    assert_eq!(Weights::open(&path).unwrap().tensor("a", &[1]).unwrap(), [65504.0]);
}

#[test]
fn a_failed_save_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    // The final name is taken by a folder that is not empty, so that the rename fails after everything was written.
    let path = folder.path().join("taken");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), "x").unwrap();
    let error = save_safetensors(&path, &[tensor("a", DType::F32, &[1], &[1.0])], &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "rename", .. }), "{error}");
    assert_eq!(entries(folder.path()), ["taken"]);

    let missing = folder.path().join("no such folder/weights.safetensors");
    let error = save_safetensors(&missing, &[], &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_an_error() {
    let error = save_safetensors(Path::new("/proc/weights.safetensors"), &[], &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
