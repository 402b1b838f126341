//! Reading golden vectors, and running a network on them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use supple_models::{SuperResolution, Window};
use supple_tensor::Cpu;

/// The folder of verification data that `SUPPLE_SPECS` names, if there is one.
pub fn specs() -> Option<PathBuf> {
    let path = std::env::var_os("SUPPLE_SPECS").map(PathBuf::from);
    let found = path.filter(|path| path.join("data/super_resolution").is_dir());
    if found.is_none() {
        println!("skipped: SUPPLE_SPECS names no folder of verification data");
    }
    found
}

/// An array of `f32`.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The `f32` arrays of a NumPy `.npz` file, by name.
pub fn npz(path: &Path) -> BTreeMap<String, Array> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    (0..zip.len())
        .map(|i| {
            let mut entry = zip.by_index(i).unwrap();
            let name = entry.name().unwrap().trim_end_matches(".npy").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (name, npy(&bytes))
        })
        .collect()
}

fn npy(bytes: &[u8]) -> Array {
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01") && text.contains("'<f4'") && text.contains("False"), "{text}");
    let shape = text.split(['(', ')']).nth(1).unwrap();
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let values = bytes[10 + header..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Array { shape, values }
}

/// Runs a network over `x`, `[3][h][w]` in 0..`range`, and gives its output as `[3][h][w]` in 0..1.
pub fn run(network: &dyn SuperResolution, cpu: &Cpu, x: &Array, range: f32) -> Vec<f32> {
    let [3, height, width] = x.shape[..] else { panic!("not a picture: {:?}", x.shape) };
    let (out_width, out_height) = (width * network.scale(), height * network.scale());
    let mut out = vec![0.0; 3 * out_width * out_height];
    network
        .run(
            cpu,
            &Window::whole(width, height),
            &mut |y, row| {
                for (i, value) in row.iter_mut().enumerate() {
                    *value = x.values[(i % 3 * height + y) * width + i / 3] / range;
                }
            },
            &mut |y, row| {
                for (i, value) in row.iter().enumerate() {
                    out[(i % 3 * out_height + y) * out_width + i / 3] = *value;
                }
                true
            },
        )
        .unwrap();
    out
}
