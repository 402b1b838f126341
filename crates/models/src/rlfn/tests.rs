//! RLFN on random weights: structure, streaming and windows. (Real checkpoints: `tests/golden.rs`.)

use super::*;
use crate::testing::{collect, picture, random_weights};
use crate::{Network, Parameters, Precision};
use supple_tensor::{Device, Isa, Tensor};

fn shapes(c: usize, mid: usize, blocks: usize, scale: usize) -> Vec<(String, Vec<usize>)> {
    Definition { channels: c, mid_channels: mid, blocks, attention_channels: 16, scale }.shapes()
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

/// The definition's output for the picture that [`collect`] uses.
fn forward(definition: &Definition, parameters: &Parameters, device: &Device, width: usize, height: usize) -> Vec<f32> {
    let x = Tensor::from_slice(device, &picture(width, height), &[1, height, width, 3]).unwrap();
    definition.forward(parameters, &x).unwrap().to_vec::<f32>().unwrap()
}

#[test]
fn the_definition_equals_the_streaming_pass() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let device = Device::cpu(cpu.clone()).unwrap();
        for (definition, width, height) in [
            (Definition { blocks: 2, ..Definition::small(2) }, 45, 31),
            (Definition { channels: 46, blocks: 1, ..Definition::small(3) }, 15, 22),
        ] {
            let weights = random_weights(&definition.shapes());
            let net = Rlfn::load(&cpu, &weights, Precision::F32).unwrap();
            let wanted = collect(&net, &cpu, &Window::whole(width, height));
            let parameters = definition.read(&device, &weights).unwrap();
            let found = forward(&definition, &parameters, &device, width, height);
            assert_eq!(found.len(), wanted.len());
            let size = wanted.iter().fold(0.0f32, |size, v| size.max(v.abs()));
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 2e-5 * size.max(1.0), "{isa}: {found} not {wanted}, largest {size}");
            }
        }
    }
}

#[test]
fn channels_without_weight_are_pruned_without_a_trace() {
    let device = Device::cpu(Cpu::new(Isa::detect(), 2)).unwrap();
    let wide = Definition { channels: 20, mid_channels: 18, blocks: 2, attention_channels: 16, scale: 2 };
    let narrow = Definition { channels: 17, ..wide };
    // Weights of the narrow network, spread among those of the wide one with zeros between.
    let small = narrow.initialise(&device, 3).unwrap();
    let mut large = Parameters::default();
    for (name, shape) in wide.shapes() {
        let from = small.get("test", &name).unwrap();
        let mut values = vec![0.0; shape.iter().product()];
        let old = from.shape().to_vec();
        for (i, v) in from.to_vec::<f32>().unwrap().into_iter().enumerate() {
            let inner: usize = old.iter().skip(2).product();
            let inputs = old.get(1).copied().unwrap_or(1);
            let wide_inputs = shape.get(1).copied().unwrap_or(1);
            // Channels 4, 9 and 14 are the empty ones.
            let place = |c: usize, narrow: usize, wide: usize| if narrow == wide { c } else { c + c / 4 - c / 16 };
            let (o, c) = (place(i / inner / inputs, old[0], shape[0]), place(i / inner % inputs, inputs, wide_inputs));
            values[(o * wide_inputs + c) * inner + i % inner] = v;
        }
        large.insert(&name, Tensor::from_slice(&device, &values, &shape).unwrap());
    }
    let (found, pruned) = prune_channels(&wide, &large, 17).unwrap();
    assert_eq!(found, narrow);
    for (name, tensor) in pruned.iter() {
        assert_eq!(
            tensor.to_vec::<f32>().unwrap(),
            small.get("test", name).unwrap().to_vec::<f32>().unwrap(),
            "{name}"
        );
    }
    let (a, b) = (forward(&wide, &large, &device, 17, 15), forward(&narrow, &pruned, &device, 17, 15));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6));
    assert!(prune_channels(&wide, &large, 21).is_err() && prune_channels(&wide, &large, 0).is_err());
}
