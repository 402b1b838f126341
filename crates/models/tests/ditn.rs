//! DITN against PyTorch: the released checkpoints, where the specification's data is, and a small twin with layer norms.

mod common;

use common::{Array, npz, run, specs};
use supple_models::SuperResolution;
use supple_models::ditn::{Ditn, recognises};
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // `max` would drop a NaN.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d <= max { max } else { d })
}

#[test]
fn released_checkpoints_equal_their_golden_vectors() {
    let Some(data) = specs().map(|p| p.join("data/super_resolution")) else { return };
    for (file, golden) in [("DITN_Real_x4.pth", "ditn_real_x4"), ("DITN_Real_GAN_x4.pth", "ditn_real_gan_x4")] {
        let weights = Weights::open(&data.join("original/ditn").join(file)).unwrap();
        assert!(recognises(&weights));
        let arrays = npz(&data.join("golden").join(format!("{golden}.npz")));
        let (x, wanted) = (&arrays["x"], &arrays["y"].values);
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
            let network = Ditn::load(&cpu, &weights).unwrap();
            assert_eq!((network.name(), network.scale(), network.parameters()), ("DITN_Real", 4, (444_112, 387_232)));
            let found = run(&network, &cpu, x, 1.0);
            let difference = largest_difference(&found, wanted);
            // Through the whole path, to bytes: clamped and rounded half up. Values that lie on a half within the
            // difference may fall to either side.
            let byte = |v: &f32| i16::from((v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
            let steps: Vec<i16> = found.iter().zip(wanted).map(|(f, w)| (byte(f) - byte(w)).abs()).collect();
            let off = steps.iter().filter(|&&step| step > 0).count();
            println!(
                "{golden} on {isa}: largest difference {difference:.2e} of 1, {off} of {} bytes differ",
                steps.len()
            );
            assert!(difference <= 1e-5, "{golden} on {isa}: {difference}");
            assert!(off <= 20 && steps.iter().all(|&step| step <= 1), "{golden} on {isa}: {off} bytes differ");
        }
    }
}

#[test]
fn the_twin_with_layer_norms_equals_pytorch() {
    let bytes: &'static [u8] = include_bytes!("golden/ditn_twin.safetensors");
    let weights = Weights::from_bytes("ditn_twin", bytes).unwrap();
    let array = |name: &str| weights.tensor_any_shape(name).map(|(shape, values)| Array { shape, values }).unwrap();
    let (x, wanted) = (array("golden.x"), array("golden.y").values);
    let size = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let difference = largest_difference(&run(&Ditn::load(&cpu, &weights).unwrap(), &cpu, &x, 1.0), &wanted);
        println!("twin on {isa}: largest difference {difference:.2e} of {size}");
        assert!(difference <= 3e-6 * size, "{isa}: {difference}");
    }
}

/// Run: `cargo test --release -p supple-models --test ditn -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(data) = specs().map(|p| p.join("data/super_resolution")) else { return };
    let weights = Weights::open(&data.join("original/ditn/DITN_Real_x4.pth")).unwrap();
    for threads in [1, 2] {
        for (width, height) in [(256, 256), (1280, 720)] {
            let cpu = Cpu::new(Isa::from_env().unwrap(), threads);
            let network = Ditn::load(&cpu, &weights).unwrap();
            let values = (0..3 * width * height).map(|i| (i * 7919 % 256) as f32 / 255.0).collect();
            let x = Array { shape: vec![3, height, width], values };
            let runs = if width > 256 { 2 } else { 9 };
            let mut seconds: Vec<f64> = (0..runs)
                .map(|_| {
                    let start = std::time::Instant::now();
                    run(&network, &cpu, &x, 1.0);
                    start.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            let (best, median) = (seconds[0], seconds[runs / 2]);
            let rate = |work: f64| work / median;
            println!(
                "{} {width}x{height}, {threads} threads: median {:.1} ms (best {:.1}), {:.3} Mpixel/s in, {:.1} GFLOP/s",
                cpu.isa,
                median * 1e3,
                best * 1e3,
                rate((width * height) as f64 / 1e6),
                rate(2e-9 * network.macs(width, height) as f64)
            );
        }
    }
}
