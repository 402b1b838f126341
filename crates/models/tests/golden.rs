//! Released checkpoints against their golden vectors. The data stays outside the repository: `SUPPLE_SPECS` names its
//! folder, else `../shared/specs` beside the checkout; where there is none the tests say so and pass.

mod common;

use common::{npz, run, specs};
use supple_models::{Precision, load};
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;

/// Largest difference, in 0..255, of a checkpoint's output from its golden vector, on every instruction set.
fn check(folder: &str, name: &str, range: f32, tolerance: f32) {
    let Some(data) = specs().map(|p| p.join("data/super_resolution")) else { return };
    let file = std::fs::read_dir(data.join("original").join(folder)).unwrap().map(|e| e.unwrap().path());
    let path = file.into_iter().find(|p| p.file_stem().unwrap().to_str().unwrap().eq_ignore_ascii_case(name)).unwrap();
    let weights = Weights::open(&path).unwrap();
    let arrays = npz(&data.join("golden").join(format!("{name}.npz")));
    let (x, y) = (&arrays["x"], &arrays["y"]);
    for isa in Isa::available() {
        for (precision, tolerance) in [(Precision::F32, tolerance), (Precision::Fast, 4.0 * tolerance)] {
            let cpu = Cpu::new(isa, 2);
            let network = load(&cpu, &weights, precision).unwrap();
            let out = run(&*network, &cpu, x, range);
            let worst = out.iter().zip(&y.values).map(|(a, b)| (a * 255.0 - b * 255.0 / range).abs()).fold(0.0, f32::max);
            println!("{name} on {isa}, {precision:?}: largest difference {worst:.2e} of 255");
            assert!(out.len() == y.values.len() && worst <= tolerance, "{name} on {isa}: {worst} of 255");
        }
    }
}

#[test]
fn rlfn_checkpoints_equal_their_golden_vectors() {
    for name in ["rlfn_x2", "rlfn_x4", "rlfn_s_x2", "rlfn_s_x4", "rlfn_ntire_x4"] {
        check("rlfn", name, 255.0, 1e-3);
    }
}
