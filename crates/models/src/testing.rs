//! Random networks and pictures, for tests.

use crate::{SuperResolution, Window};
use std::collections::BTreeMap;
use supple_tensor::Cpu;
use supple_tensor::kernels::testing::noise;
use supple_weights::{DType, Weights};

/// Weights of the given names and shapes, drawn so that activations neither vanish nor explode.
pub fn random_weights(shapes: &[(String, Vec<usize>)]) -> Weights {
    let tensors: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let fan_in: usize = shape.iter().skip(1).product();
            let scale = (2.0 / fan_in.max(1) as f32).sqrt();
            let values = noise(shape.iter().product(), i as u64 + 1);
            (name.clone(), DType::F32, shape.clone(), values.into_iter().map(|v| v * scale).collect::<Vec<f32>>())
        })
        .collect();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("random.safetensors");
    supple_weights::save_safetensors(&path, &tensors, &BTreeMap::new()).expect("writing weights");
    let bytes = std::fs::read(&path).expect("reading weights back");
    Weights::from_bytes("random", bytes).expect("weights")
}

/// A picture of noise, interleaved, in 0..1.
pub fn picture(width: usize, height: usize) -> Vec<f32> {
    noise(width * height * 3, 99).iter().map(|v| v * 0.5 + 0.5).collect()
}

/// Runs a network over a window of [`picture`], and returns its output rows.
pub fn collect(network: &dyn SuperResolution, cpu: &Cpu, window: &Window) -> Vec<f32> {
    let picture = picture(window.width, window.height);
    let mut out = Vec::new();
    let mut next = 0;
    network
        .run(
            cpu,
            window,
            &mut |y, row| {
                let from = (y * window.width + window.columns.start) * 3;
                row.copy_from_slice(&picture[from..from + row.len()]);
            },
            &mut |y, row| {
                assert_eq!(y, next);
                next += 1;
                out.extend_from_slice(row);
                true
            },
        )
        .expect("a pass");
    assert_eq!(next, window.height * network.scale());
    out
}
