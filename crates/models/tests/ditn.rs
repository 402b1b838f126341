//! DITN against PyTorch: the released checkpoints, where the specification's data is, and a small twin with layer norms.
//!
//! The data is looked for in `SUPPLE_SPECS`, or in `../shared/specs` beside the workspace.

use std::io::Read;
use std::path::{Path, PathBuf};
use supple_models::ditn::{Ditn, recognises};
use supple_models::{SuperResolution, Window};
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;

/// Runs a network on a picture `[3][height][width]`; the output in the same order.
fn upscale(network: &dyn SuperResolution, cpu: &Cpu, x: &[f32], height: usize, width: usize) -> Vec<f32> {
    let (scale, plane) = (network.scale(), height * width);
    let mut out = vec![0.0; 3 * plane * scale * scale];
    let mut source = |y: usize, row: &mut [f32]| {
        for (at, value) in row.iter_mut().enumerate() {
            *value = x[at % 3 * plane + y * width + at / 3];
        }
    };
    let mut sink = |y: usize, row: &[f32]| {
        for (at, &value) in row.iter().enumerate() {
            out[at % 3 * plane * scale * scale + y * width * scale + at / 3] = value;
        }
        true
    };
    network.run(cpu, &Window::whole(width, height), &mut source, &mut sink).unwrap();
    out
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // `max` would drop a NaN.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d <= max { max } else { d })
}

/// Arrays of `f32` in a NumPy archive: shape and elements of the one called `name`.
fn npz(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8(bytes[10..end].to_vec()).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = header.split('(').nth(1).unwrap().split(')').next().unwrap();
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let values = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (shape, values)
}

fn data() -> Option<PathBuf> {
    let specs = std::env::var_os("SUPPLE_SPECS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/specs");
    let folder = specs.unwrap_or(beside).join("data/super_resolution");
    folder.is_dir().then_some(folder)
}

#[test]
fn released_checkpoints_equal_their_golden_vectors() {
    let Some(data) = data() else {
        println!("skipped: no specs/data/super_resolution");
        return;
    };
    for (file, golden) in [("DITN_Real_x4.pth", "ditn_real_x4"), ("DITN_Real_GAN_x4.pth", "ditn_real_gan_x4")] {
        let weights = Weights::open(&data.join("original/ditn").join(file)).unwrap();
        assert!(recognises(&weights));
        let path = data.join("golden").join(format!("{golden}.npz"));
        let ((shape, x), (_, wanted)) = (npz(&path, "x"), npz(&path, "y"));
        let [height, width] = shape[shape.len() - 2..] else { panic!("shape {shape:?}") };
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
            let network = Ditn::load(&cpu, &weights).unwrap();
            assert_eq!((network.name(), network.scale(), network.parameters()), ("DITN_Real", 4, (444_112, 387_232)));
            let found = upscale(&network, &cpu, &x, height, width);
            let difference = largest_difference(&found, &wanted);
            // Through the whole path, to bytes: clamped and rounded half up.
            let byte = |v: &f32| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
            let off = found.iter().zip(&wanted).filter(|(f, w)| byte(f) != byte(w)).count();
            println!("{golden} {isa}: largest difference {difference:.2e}, {off} of {} bytes differ", wanted.len());
            assert!(difference <= 1e-5, "{golden} {isa}: {difference}");
            assert!(off <= 3, "{golden} {isa}: {off} bytes differ");
        }
    }
}

#[test]
fn the_twin_with_layer_norms_equals_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ditn_twin.safetensors");
    let weights = Weights::open(&path).unwrap();
    let (shape, x) = weights.tensor_any_shape("golden.x").unwrap();
    let (_, wanted) = weights.tensor_any_shape("golden.y").unwrap();
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let network = Ditn::load(&cpu, &weights).unwrap();
        let found = upscale(&network, &cpu, &x, shape[1], shape[2]);
        let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(&found, &wanted) / largest;
        println!("twin {isa}: largest difference {difference:.2e} of {largest}");
        assert!(difference <= 3e-6, "{isa}: {difference}");
    }
}
