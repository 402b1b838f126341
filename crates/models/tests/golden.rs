//! Released checkpoints against their golden vectors. The data is not part of the project: `SUPPLE_SPECS` names its
//! folder; where there is none the tests say so and pass.

mod common;

use common::{npz, run, specs};
use supple_models::rlfn::Definition;
use supple_models::{Network, Precision, load};
use supple_tensor::{Cpu, Device, Isa, Tensor, ops};
use supple_weights::Weights;

/// Compares a checkpoint's output with its golden vector, on every instruction set; `tolerance` is in 0..255.
fn check(folder: &str, name: &str, range: f32, tolerance: f32) {
    let Some(data) = specs().map(|p| p.join("data/super_resolution")) else { return };
    let file = std::fs::read_dir(data.join("original").join(folder)).unwrap().map(|e| e.unwrap().path());
    let path = file.into_iter().find(|p| p.file_stem().unwrap().to_str().unwrap().eq_ignore_ascii_case(name)).unwrap();
    let weights = Weights::open(&path).unwrap();
    let arrays = npz(&data.join("golden").join(format!("{name}.npz")));
    let (x, y) = (&arrays["x"], &arrays["y"]);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let differences = |precision: Precision| -> Vec<f32> {
            let out = run(&*load(&cpu, &weights, precision).unwrap(), &cpu, x, range);
            assert_eq!(out.len(), y.values.len());
            out.iter().zip(&y.values).map(|(a, b)| a * 255.0 - b * 255.0 / range).collect()
        };
        let worst = differences(Precision::F32).iter().fold(0.0f32, |worst, d| worst.max(d.abs()));
        let fast = differences(Precision::Fast);
        let psnr = 10.0 * (255.0f32.powi(2) * fast.len() as f32 / fast.iter().map(|d| d * d).sum::<f32>()).log10();
        println!("{name} on {isa}: f32 differs by at most {worst:.1e} of 255, fast at {psnr:.1} dB");
        assert!(worst <= tolerance, "{name} on {isa}: {worst} of 255");
        // At 38 dB, 0.02 dB would be lost at 61 dB if all of the error were noise.
        assert!(psnr >= 50.0, "{name} on {isa}, fast: {psnr} dB");
    }
}

#[test]
fn rlfn_checkpoints_equal_their_golden_vectors() {
    for name in ["rlfn_x2", "rlfn_x4", "rlfn_s_x2", "rlfn_s_x4", "rlfn_ntire_x4"] {
        check("rlfn", name, 255.0, 1e-3);
    }
}

#[test]
fn the_definition_equals_the_golden_vectors_too() {
    let Some(data) = specs().map(|p| p.join("data/super_resolution")) else { return };
    for (name, definition) in [
        ("rlfn_s_x2", Definition::small(2)),
        ("rlfn_x4", Definition::base(4)),
        ("rlfn_ntire_x4", Definition { channels: 46, ..Definition::challenge(4) }),
    ] {
        let weights = Weights::open(&data.join("original/rlfn").join(format!("{name}.pth"))).unwrap();
        let arrays = npz(&data.join("golden").join(format!("{name}.npz")));
        let (x, y) = (&arrays["x"], &arrays["y"]);
        let device = Device::cpu(Cpu::new(Isa::detect(), 2)).unwrap();
        let parameters = definition.read(&device, &weights).unwrap();
        let values: Vec<f32> = x.values.iter().map(|v| v / 255.0).collect();
        let x = Tensor::from_slice(&device, &values, &[1, 3, x.shape[1], x.shape[2]]).unwrap();
        let found = definition.forward(&parameters, &ops::to_channels_last(&x).unwrap()).unwrap();
        let found = ops::to_channels_first(&found).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(found.len(), y.values.len());
        let worst = found.iter().zip(&y.values).fold(0.0f32, |worst, (a, b)| worst.max((a * 255.0 - b).abs()));
        println!("{name} as a definition differs by at most {worst:.1e} of 255");
        assert!(worst <= 1e-3, "{name}: {worst} of 255");
    }
}
