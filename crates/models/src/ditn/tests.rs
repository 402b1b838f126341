//! DITN on random weights: structure, streaming and windows. (Real checkpoints: `tests/ditn.rs`.)

use super::*;
use crate::testing::{collect, picture, random_weights};
use crate::{Network, Parameters};
use supple_tensor::kernels::testing::noise;
use supple_tensor::{Device, Isa, Tensor};
use supple_weights::Weights;

/// What to build: channels, layers of each unit, scale, and whether with layer norms.
#[derive(Clone, Copy)]
struct Shape {
    c: usize,
    units: &'static [(usize, usize)],
    scale: usize,
    layer_norm: bool,
}

const REAL: Shape = Shape { c: 60, units: &[(4, 4)], scale: 4, layer_norm: false };
const SMALL: Shape = Shape { c: 20, units: &[(1, 1)], scale: 2, layer_norm: false };

fn shapes(shape: Shape) -> Vec<(String, Vec<usize>)> {
    let c = shape.c;
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut put = |name: String, dims: &[usize]| shapes.push((name, dims.to_vec()));
    let mut convs = vec![("sft".to_owned(), c, 3, 3), ("conv_after_body".to_owned(), c, c, 3)];
    convs.push(("upsample.0".to_owned(), 3 * shape.scale * shape.scale, c, 3));
    for (u, &(inner, spatial)) in shape.units.iter().enumerate() {
        let layers = (0..inner).map(|l| (format!("UFONE.{u}.ITLs.{l}"), true));
        for (name, is_inner) in layers.chain((0..spatial).map(|l| (format!("UFONE.{u}.SALs.{l}"), false))) {
            for which in [1, 2] {
                if shape.layer_norm {
                    put(format!("{name}.norm{which}.weight"), &[c]);
                    put(format!("{name}.norm{which}.bias"), &[c]);
                } else {
                    convs.push((format!("{name}.conv{which}"), c, c, 1));
                }
            }
            put(format!("{name}.ffn.project_in.weight"), &[4 * c, c, 1, 1]);
            put(format!("{name}.ffn.dwconv.weight"), &[4 * c, 1, 3, 3]);
            put(format!("{name}.ffn.project_out.weight"), &[c, 2 * c, 1, 1]);
            if is_inner {
                put(format!("{name}.attn.temperature"), &[1, 1, 1]);
                put(format!("{name}.attn.qkv.weight"), &[3 * c, c]);
                put(format!("{name}.attn.qkv.bias"), &[3 * c]);
                put(format!("{name}.attn.project_out.weight"), &[c, c, 1, 1]);
            } else {
                put(format!("{name}.SDA.scale"), &[1, c, 1, 1]);
                convs.push((format!("{name}.SDA.DConvs.0"), c, 1, 5));
                convs.push((format!("{name}.SDA.DConvs.1"), c, 1, 7));
                convs.push((format!("{name}.SDA.DConvs.2"), c, c, 1));
                convs.push((format!("{name}.SDA.proj_first.0"), 2 * c, c, 1));
                convs.push((format!("{name}.SDA.proj_last.0"), c, c, 1));
            }
        }
    }
    for (name, out, inputs, side) in convs {
        put(format!("{name}.weight"), &[out, inputs, side, side]);
        put(format!("{name}.bias"), &[out]);
    }
    shapes
}

fn network(cpu: &Cpu, shape: Shape) -> Ditn {
    Ditn::load(cpu, &random_weights(&shapes(shape))).unwrap()
}

/// As [`collect`], with a given number of rows of patches at a time.
fn collect_in_steps(network: &Ditn, cpu: &Cpu, window: &Window, patches: usize) -> Vec<f32> {
    let picture: Vec<f32> = noise(window.width * window.height * 3, 99).iter().map(|v| v * 0.5 + 0.5).collect();
    let mut out = Vec::new();
    let mut source = |y: usize, row: &mut [f32]| {
        row.copy_from_slice(&picture[(y * window.width + window.columns.start) * 3..][..row.len()]);
    };
    pass::Pass::new(network, cpu, window, Some(patches)).run(&mut source, &mut |_, row| {
        out.extend_from_slice(row);
        true
    });
    out
}

#[test]
fn sizes_and_operations_are_those_of_the_specification() {
    let cpu = Cpu::new(Isa::Scalar, 1);
    let tiny = Shape { layer_norm: true, ..REAL };
    let large = Shape { units: &[(4, 4); 3], ..tiny };
    for (shape, scale, name, parameters, gmacs) in [
        (REAL, 2, "DITN_Real", 424_636, 103.7),
        (REAL, 3, "DITN_Real", 432_751, 47.5),
        (REAL, 4, "DITN_Real", 444_112, 27.6),
        (tiny, 2, "DITN_Tiny", 367_996, 90.4),
        (tiny, 3, "DITN_Tiny", 376_111, 41.5),
        (tiny, 4, "DITN_Tiny", 387_472, 24.2),
        (large, 2, "DITN", 1_022_724, 252.5),
        (large, 3, "DITN", 1_030_839, 114.5),
        (large, 4, "DITN", 1_042_200, 65.7),
    ] {
        let net = network(&cpu, Shape { scale, ..shape });
        assert_eq!((net.name(), net.scale(), net.parameters().0), (name, scale, parameters));
        let found = net.macs(1280 / scale, 720 / scale) as f64 / 1e9;
        assert!((found - gmacs).abs() < 0.051, "{name} x{scale}: {found} GMAC, specified {gmacs}");
        assert_eq!(net.halo(), if shape.units.len() == 1 { 64 } else { 160 });
    }
    assert_eq!(network(&cpu, REAL).parameters().1, 387_232);
}

#[test]
fn threads_and_steps_do_not_change_the_result() {
    for shape in [REAL, Shape { c: 20, units: &[(2, 1), (1, 2)], scale: 3, layer_norm: true }] {
        for (width, height) in [(45, 61), (16, 130), (5, 5), (9, 13)] {
            let one = Cpu::new(Isa::detect(), 1);
            let net = network(&one, shape);
            let window = Window::whole(width, height);
            let wanted = collect(&net, &one, &window);
            assert!(wanted.iter().all(|v| v.is_finite()));
            for threads in [2, 3] {
                let cpu = Cpu::new(Isa::detect(), threads);
                assert!(collect(&net, &cpu, &window) == wanted, "{threads} threads");
                for patches in [1, 2, 5, 100] {
                    let found = collect_in_steps(&net, &cpu, &window, patches);
                    assert!(found == wanted, "{patches} rows of patches of {width}x{height}");
                }
            }
        }
    }
}

#[test]
fn windows_equal_the_whole_picture_beyond_the_halo() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        for shape in [SMALL, Shape { units: &[(1, 1), (1, 2)], layer_norm: true, ..SMALL }] {
            let net = network(&cpu, shape);
            for width in [233, 240] {
                let height = 21;
                let whole = collect(&net, &cpu, &Window::whole(width, height));
                let (scale, halo) = (net.scale(), net.halo());
                for columns in [0..136, 0..147, 72..width, 24..205, 8..208] {
                    let part = collect(&net, &cpu, &Window { width, height, columns: columns.clone() });
                    let from = if columns.start == 0 { 0 } else { columns.start + halo };
                    let to = if columns.end == width { width } else { columns.end - halo };
                    assert!(from < to, "halo of {halo} leaves nothing of {columns:?}");
                    for y in 0..height * scale {
                        let row = &whole[y * width * scale * 3..][..width * scale * 3];
                        let part = &part[y * columns.len() * scale * 3..][..columns.len() * scale * 3];
                        let (a, b) = (from - columns.start, to - columns.start);
                        assert!(
                            row[from * scale * 3..to * scale * 3] == part[a * scale * 3..b * scale * 3],
                            "{isa}: columns {from}..{to} of row {y} differ in window {columns:?} of {width}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_windows_at_the_right_edge_are_computed() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let net = network(&cpu, SMALL);
    let found = collect(&net, &cpu, &Window { width: 69, height: 9, columns: 64..69 });
    assert!(found.len() == 10 * 18 * 3 && found.iter().all(|v| v.is_finite()));
}

#[test]
fn a_full_hd_pass_fits_in_500_mib() {
    let cpu = Cpu::new(Isa::detect(), 2);
    let net = network(&cpu, REAL);
    let bytes = net.working_memory(&cpu, &Window::whole(1920, 1080));
    println!("1920x1080: {} MiB", bytes >> 20);
    assert!(bytes < 500 << 20, "{} MiB", bytes >> 20);
}

#[test]
fn what_does_not_fit_is_refused() {
    let cpu = Cpu::new(Isa::Scalar, 1);
    let net = network(&cpu, SMALL);
    let run = |window: Window| net.run(&cpu, &window, &mut |_, _| {}, &mut |_, _| true);
    assert!(matches!(run(Window::whole(4, 20)), Err(Error::TooSmall { min: 5, .. })));
    assert!(matches!(run(Window { width: 60, height: 20, columns: 5..40 }), Err(Error::BadWindow { .. })));
    assert!(matches!(run(Window { width: 60, height: 20, columns: 0..61 }), Err(Error::BadWindow { .. })));
    let error = |weights: &Weights| Ditn::load(&cpu, weights).unwrap_err().to_string();
    for gone in ["sft.bias", "UFONE.0.ITLs.0.conv2.bias", "UFONE.0.SALs.0.ffn.project_in.weight", "upsample.0.bias"] {
        let mut missing = shapes(SMALL);
        missing.retain(|(name, _)| name != gone);
        if gone == "UFONE.0.ITLs.0.conv2.bias" {
            // A 1×1 convolution may come without a bias.
            assert!(Ditn::load(&cpu, &random_weights(&missing)).is_ok());
            continue;
        }
        let found = error(&random_weights(&missing));
        assert!(found.contains(gone), "{found}");
    }
    for wrong in ["UFONE.0.ITLs.0.attn.qkv.weight", "UFONE.0.SALs.0.SDA.scale", "conv_after_body.weight"] {
        let mut shapes = shapes(SMALL);
        shapes.iter_mut().filter(|(name, _)| name == wrong).for_each(|(_, shape)| shape[0] += 3);
        let found = error(&random_weights(&shapes));
        assert!(found.contains(wrong), "{found}");
    }
    let mut none = shapes(SMALL);
    none.retain(|(name, _)| !name.starts_with("UFONE"));
    assert!(error(&random_weights(&none)).contains("UFONE.0.ITLs.0.attn.temperature"));
}

#[test]
fn a_sink_can_stop_the_pass() {
    let cpu = Cpu::new(Isa::detect(), 2);
    let net = network(&cpu, SMALL);
    let mut rows = 0;
    net.run(&cpu, &Window::whole(40, 400), &mut |_, row| row.fill(0.5), &mut |_, _| {
        rows += 1;
        rows < 10
    })
    .unwrap();
    assert_eq!(rows, 10);
}

#[test]
fn the_definition_equals_the_streaming_pass() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let device = Device::cpu(cpu.clone()).unwrap();
        for norm in [Norm::Tanh, Norm::Layer] {
            let definition = Definition { channels: 20, units: 2, inner: 1, spatial: 1, norm, scale: 2 };
            let weights = random_weights(&definition.shapes());
            let net = Ditn::load(&cpu, &weights).unwrap();
            assert_eq!(net.name(), definition.name());
            let (width, height) = (24, 16);
            let wanted = collect(&net, &cpu, &Window::whole(width, height));
            let parameters = Parameters::read(&device, &weights, &definition.shapes()).unwrap();
            let x = Tensor::from_slice(&device, &picture(width, height), &[1, height, width, 3]).unwrap();
            let found = definition.forward(&parameters, &x).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(found.len(), wanted.len());
            let size = wanted.iter().fold(1.0f32, |size, v| size.max(v.abs()));
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 2e-5 * size, "{isa} {norm:?}: {found} not {wanted}, largest {size}");
            }
        }
    }
}

#[test]
fn definitions_have_as_many_parameters_as_published() {
    for (definition, parameters) in [
        (Definition::real(4), 444_112),
        (Definition::real(2), 424_636),
        (Definition::tiny(2), 367_996),
        (Definition::base(4), 1_042_200),
    ] {
        let found: usize = definition.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(found, parameters, "{definition:?}");
    }
}

#[test]
fn tangents_begin_as_the_layer_norms_that_they_replace() {
    let device = Device::cpu(Cpu::new(Isa::detect(), 1)).unwrap();
    let before = Definition { channels: 20, inner: 1, spatial: 1, ..Definition::tiny(2) };
    let (after, parameters) = substitute_tanh(&before, &before.initialise(&device, 1).unwrap()).unwrap();
    for (name, shape) in after.shapes() {
        assert_eq!(parameters.get("test", &name).unwrap().shape()[..], shape, "{name}");
    }
    assert_eq!(parameters.len(), after.shapes().len());
    let weight = parameters.get("test", "UFONE.0.SALs.0.conv2.weight").unwrap().to_vec::<f32>().unwrap();
    assert!(weight.iter().enumerate().all(|(i, &w)| w == if i / 20 == i % 20 { 1.0 } else { 0.0 }));
    assert!(substitute_tanh(&after, &parameters).is_err());
}
