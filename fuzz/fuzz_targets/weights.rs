//! Any bytes: opened, and every tensor read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use supple_weights::Weights;

fuzz_target!(|bytes: &[u8]| {
    let Ok(weights) = Weights::from_bytes("fuzz", bytes.to_vec()) else { return };
    for name in weights.names() {
        let elements = weights.info(name).map(|info| info.elements());
        if let Ok((_, values)) = weights.tensor_any_shape(name) {
            assert_eq!(elements, Some(values.len()));
        }
    }
});
