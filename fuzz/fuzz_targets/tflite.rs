//! Any bytes: opened as a TFLite network, and every constant read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use supple_weights::tflite::Model;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::from_bytes("fuzz", bytes.to_vec()) else { return };
    for tensor in model.subgraphs.iter().flat_map(|graph| &graph.tensors) {
        let elements = tensor.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        if let Ok(Some(values)) = model.values(tensor) {
            assert_eq!(elements, Some(values.len()));
        }
    }
});
