//! Released checkpoints against their golden vectors. The data is not part of the project: `SUPPLE_SPECS` names its
//! folder; where there is none the tests say so and pass.

mod common;

use common::{npz, run, specs};
use supple_models::{Precision, load};
use supple_tensor::{Cpu, Isa};
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
