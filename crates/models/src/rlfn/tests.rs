//! RLFN on random weights: structure, streaming and windows. (Real checkpoints: `tests/golden.rs`.)

use super::*;
use crate::Precision;
use crate::testing::{collect, random_weights};
use supple_tensor::Isa;

fn shapes(c: usize, mid: usize, blocks: usize, scale: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut conv = |name: String, out: usize, inputs: usize, side: usize| {
        shapes.push((format!("{name}.weight"), vec![out, inputs, side, side]));
        shapes.push((format!("{name}.bias"), vec![out]));
    };
    conv("conv_1".into(), c, 3, 3);
    for b in 1..=blocks {
        for (name, out, inputs, side) in [
            ("c1_r", mid, c, 3),
            ("c2_r", mid, mid, 3),
            ("c3_r", c, mid, 3),
            ("c5", c, c, 1),
            ("esa.conv1", 16, c, 1),
            ("esa.conv_f", 16, 16, 1),
            ("esa.conv2", 16, 16, 3),
            ("esa.conv3", 16, 16, 3),
            ("esa.conv4", c, 16, 1),
        ] {
            conv(format!("block_{b}.{name}"), out, inputs, side);
        }
    }
    conv("conv_2".into(), c, c, 3);
    conv("upsampler.0".into(), 3 * scale * scale, c, 3);
    shapes
}

fn network(cpu: &Cpu, c: usize, mid: usize, blocks: usize, scale: usize, precision: Precision) -> Rlfn {
    Rlfn::load(cpu, &random_weights(&shapes(c, mid, blocks, scale)), precision).unwrap()
}

#[test]
fn sizes_and_operations_are_those_published() {
    let cpu = Cpu::new(Isa::Scalar, 1);
    for (c, mid, blocks, scale, name, parameters, gmacs) in [
        (48, 48, 6, 2, "RLFN_S", 454_620, 98.8),
        (48, 48, 6, 3, "RLFN_S", 461_115, 44.5),
        (48, 48, 6, 4, "RLFN_S", 470_208, 25.6),
        (52, 52, 6, 2, "RLFN", 526_856, 115.4),
        (52, 52, 6, 4, "RLFN", 543_740, 29.8),
        (46, 48, 4, 4, "RLFN_ntire", 317_218, 17.3),
    ] {
        let net = network(&cpu, c, mid, blocks, scale, Precision::F32);
        assert_eq!((net.name(), net.scale(), net.parameters().0), (name, scale, parameters));
        let found = net.macs(1280 / scale, 720 / scale) as f64 / 1e9;
        assert!((found - gmacs).abs() < 0.051, "{name} x{scale}: {found} GMAC, published {gmacs}");
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let (width, height) = (45, 61);
    let one = Cpu::new(Isa::detect(), 1);
    let net = network(&one, 48, 48, 2, 2, Precision::F32);
    let wanted = collect(&net, &one, &Window::whole(width, height));
    for threads in [2, 3] {
        assert!(collect(&net, &Cpu::new(Isa::detect(), threads), &Window::whole(width, height)) == wanted);
    }
}

#[test]
fn windows_equal_the_whole_picture_beyond_the_halo() {
    for (isa, precision) in Isa::available().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Fast)]) {
        let cpu = Cpu::new(isa, 2);
        let net = network(&cpu, 46, 48, 1, 3, precision);
        for width in [181, 190, 233] {
            let height = 40;
            let whole = collect(&net, &cpu, &Window::whole(width, height));
            let (scale, halo) = (net.scale(), net.halo());
            for columns in [0..108, 60..width, 24..160] {
                let part = collect(&net, &cpu, &Window { width, height, columns: columns.clone() });
                let from = if columns.start == 0 { 0 } else { columns.start + halo };
                let to = if columns.end == width { width } else { columns.end - halo };
                assert!(from < to);
                for y in 0..height * scale {
                    let row = &whole[y * width * scale * 3..][..width * scale * 3];
                    let part = &part[y * columns.len() * scale * 3..][..columns.len() * scale * 3];
                    let (a, b) = (from - columns.start, to - columns.start);
                    assert!(
                        row[from * scale * 3..to * scale * 3] == part[a * scale * 3..b * scale * 3],
                        "{isa} {precision:?}: columns {from}..{to} of row {y} differ in window {columns:?} of {width}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let cpu = Cpu::new(Isa::Scalar, 1);
    let net = network(&cpu, 16, 16, 1, 2, Precision::Fast);
    let run = |window: Window| net.run(&cpu, &window, &mut |_, _| {}, &mut |_, _| true);
    assert!(matches!(run(Window::whole(14, 20)), Err(Error::TooSmall { min: 15, .. })));
    assert!(matches!(run(Window { width: 60, height: 20, columns: 5..40 }), Err(Error::BadWindow { .. })));
    assert!(matches!(run(Window { width: 60, height: 20, columns: 0..61 }), Err(Error::BadWindow { .. })));
    let mut missing = shapes(16, 16, 1, 2);
    missing.retain(|(name, _)| name != "block_1.c5.bias");
    let error = Rlfn::load(&cpu, &random_weights(&missing), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("block_1.c5.bias"), "{error}");
    let mut wrong = shapes(16, 16, 1, 2);
    wrong.iter_mut().filter(|(name, _)| name == "conv_2.weight").for_each(|(_, shape)| shape[2] = 5);
    let error = Rlfn::load(&cpu, &random_weights(&wrong), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("conv_2.weight"), "{error}");
}

#[test]
fn a_sink_can_stop_the_pass() {
    let cpu = Cpu::new(Isa::detect(), 2);
    let net = network(&cpu, 16, 16, 2, 2, Precision::F32);
    let mut rows = 0;
    net.run(&cpu, &Window::whole(40, 400), &mut |_, row| row.fill(0.5), &mut |_, _| {
        rows += 1;
        rows < 10
    })
    .unwrap();
    assert_eq!(rows, 10);
}
