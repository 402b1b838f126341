//! Any bytes: opened as GGUF, and all metadata and tensors read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use supple_weights::gguf::{Gguf, Value};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes("fuzz", bytes.to_vec()) else { return };
    for (_, value) in file.metadata() {
        let Value::Array(array) = value else { continue };
        if let Some(strings) = array.strings() {
            assert_eq!(strings.count(), array.len());
        }
        if let Some(scalars) = array.scalars() {
            assert_eq!(scalars.count(), array.len());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(Some(file.bytes(tensor).len()), tensor.block_type.bytes(tensor.elements()));
    }
});
