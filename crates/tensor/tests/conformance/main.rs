//! The conformance suite: every operator on every device, over odd shapes and layouts, against references in `f64`.
//!
//! A device is an instruction set that this CPU has, on one thread and on three; those that it lacks are printed. With
//! `SUPPLE_TEST_DEVICE=cuda` it is the first GPU, in f32, f16 and bf16. A new operator is done when its rows are here; a new
//! device when [`devices`] lists it.

mod activation;
mod conv;
mod decoder;
mod elementwise;
mod gradients;
mod layout;
mod linear;
mod normalize;
mod padded_conv;
mod patch_transformer;
mod pooling;
#[cfg(feature = "cuda")]
mod recorded;
mod resize;
mod shapes;
mod spatial_attention;
mod training;
mod transformer;

use std::ops::Deref;
use std::sync::OnceLock;
use supple_kernels::testing::noise;
use supple_tensor::{Cpu, DType, Device, Error, Isa, Tensor};

/// How far results may be from the reference, relative to the larger of 1 and the wanted value. Inputs are in -1..1, or
/// as the operator's test says.
const TOLERANCES: &[(&str, f64)] = &[
    ("activation", 1e-6),
    ("attention", 1e-5), // weights are exponents of scores
    ("conv2d", 2e-5),    // 3×3 kernels go through a Winograd transform
    ("elementwise", 1e-7),
    ("layout", 0.0),
    ("linear", 2e-6),
    ("matmul", 2e-6),
    ("normalize", 2e-6),
    ("padded_conv2d", 2e-5),
    ("patch_transformer", 5e-5), // a dozen operators a layer
    ("pooling", 1e-6),
    ("resize", 1e-6),
    ("spatial_attention", 5e-5), // three convolutions in a row
];

/// Channel counts: one, few, a vector, one more, and those of the networks.
const CHANNELS: [usize; 7] = [1, 3, 16, 17, 48, 52, 60];

/// The least that results in an element type may be off: a few of its steps, more after long sums.
fn least_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 0.0,
    }
}

/// Operators whose results are rounded so many times on the way, where others are rounded once or twice.
const ROUNDINGS: &[(&str, f64)] = &[("patch_transformer", 4.0)];

/// A device, and the type of the elements that it computes with.
struct Target {
    device: Device,
    dtype: DType,
}

impl Deref for Target {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

/// A tensor of `values`, in the target's element type.
fn tensor(target: &Target, values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(target, values, shape).unwrap().to_dtype(target.dtype).unwrap()
}

/// Every target that can run here, with its name.
fn devices() -> &'static [(String, Target)] {
    static DEVICES: OnceLock<Vec<(String, Target)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut devices = Vec::new();
        if std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
            gpus(&mut devices);
        } else {
            add_cpus(&mut devices);
        }
        devices
    })
}

/// The best instruction set of the CPU on one thread, whatever the tests run on: what gradients in 16 bits are compared with.
fn cpu() -> &'static Device {
    static CPU: OnceLock<Device> = OnceLock::new();
    CPU.get_or_init(|| Device::cpu(Cpu::new(Isa::detect(), 1)).expect("the CPU offers it"))
}

fn add_cpus(devices: &mut Vec<(String, Target)>) {
    for isa in Isa::ALL {
        if !isa.is_available() {
            println!("conformance: {isa} is skipped, this CPU lacks it");
            continue;
        }
        for threads in [1, 3] {
            let device = Device::cpu(Cpu::new(isa, threads)).expect("the CPU offers it");
            devices.push((format!("{isa} x{threads}"), Target { device, dtype: DType::F32 }));
        }
    }
}

#[cfg(feature = "cuda")]
fn gpus(devices: &mut Vec<(String, Target)>) {
    let device = Device::cuda(0).expect("SUPPLE_TEST_DEVICE=cuda asks for a GPU");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        devices.push((format!("cuda {dtype}"), Target { device: device.clone(), dtype }));
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus(_: &mut Vec<(String, Target)>) {
    panic!("SUPPLE_TEST_DEVICE=cuda wants the tests built with --features cuda");
}

/// A tensor of `values` in every kind of layout: without gaps, with padded rows, and as a view into a wider one.
fn layouts(device: &Target, values: &[f32], shape: &[usize]) -> Vec<Tensor> {
    let contiguous = tensor(device, values, shape);
    let (last, outer) = shape.split_last().unwrap();
    let wide = [outer, &[last + 5]].concat();
    let rows: Vec<f32> = values.chunks(*last).flat_map(|row| [&[f32::NAN; 2], row, &[f32::NAN; 3]].concat()).collect();
    let view = tensor(device, &rows, &wide).narrow(shape.len() - 1, 2, *last).unwrap();
    vec![contiguous.padded().unwrap(), contiguous, view]
}

/// Asserts that a result has the wanted shape and, within the operator's tolerance, the wanted values.
fn check(op: &str, what: &str, found: Result<Tensor, Error>, shape: &[usize], wanted: &[f64]) {
    let found = found.unwrap_or_else(|error| panic!("{op} {what}: {error}"));
    assert_eq!(**found.shape(), *shape, "{op} {what}");
    let tolerance = TOLERANCES.iter().find(|row| row.0 == op).expect("the operator has a tolerance").1;
    let roundings = ROUNDINGS.iter().find(|row| row.0 == op).map_or(1.0, |row| row.1);
    let tolerance = tolerance.max(least_tolerance(found.dtype()) * roundings);
    let values = found.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values.len(), wanted.len(), "{op} {what}");
    for (i, (&found, &wanted)) in values.iter().zip(wanted).enumerate() {
        let error = (f64::from(found) - wanted).abs();
        // Written so that NaN fails.
        assert!(error <= tolerance * wanted.abs().max(1.0), "{op} {what}: element {i} is {found}, wanted {wanted}");
    }
}

/// Values in `-scale..scale`.
fn scaled_noise(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    noise(len, seed).into_iter().map(|value| value * scale).collect()
}

#[test]
fn devices_beyond_the_cpu_are_refused() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        assert!(matches!(Device::cpu(Cpu::new(isa, 1)), Err(Error::Isa { .. })), "{isa}");
    }
    assert!(!devices().is_empty());
}
