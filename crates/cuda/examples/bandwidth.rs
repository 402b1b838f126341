//! How close kernels that memory bounds come to a device-to-device copy: GB/s, counting what is read and written, and their share.
//!
//! `cargo run --release -p supple-cuda --example bandwidth [elements]`, 2^27 if not said. The median of five rounds.

use std::error::Error;
use supple_cuda::elementwise::{Activation, Binary, binary, unary};
use supple_cuda::normalize::{Normalization, normalize};
use supple_cuda::rope::{Pairs, RopeShape, rope};
use supple_cuda::{DType, Elements, ElementsMut, Gpu, copy};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Milliseconds of `work`: the median of five rounds of ten.
fn time(gpu: &Gpu, mut work: impl FnMut() -> Result<(), supple_cuda::Error>) -> Outcome<f64> {
    work()?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let (done, elapsed) = gpu.time(|| (0..10).try_for_each(|_| work()))?;
        done?;
        times.push(f64::from(elapsed) / 10.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}

fn main() -> Outcome {
    let gpu = Gpu::new(0)?;
    let elements: usize = std::env::args().nth(1).map_or(Ok(1 << 27), |text| text.parse())?;
    println!("{}, {elements} elements", gpu.name());
    for dtype in [DType::F32, DType::BF16] {
        let size = dtype.size();
        let bytes = elements * size;
        let numbers: Vec<u8> = (0..1u32 << 20).flat_map(|i| ((i % 997) as f32 / 500.0 - 1.0).to_ne_bytes()).collect();
        let part = gpu.upload(&numbers)?;
        let (a, b, y) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?, gpu.allocate(bytes.max(elements * 4))?);
        for memory in [&a, &b] {
            for at in (0..elements).step_by(1 << 20) {
                let count = (elements - at).min(1 << 20);
                let to = ElementsMut::new(memory, at, dtype);
                copy::convert(&gpu, count, Elements::new(&part, 0, DType::F32), to)?;
            }
        }
        let from = |memory| Elements::new(memory, 0, dtype);
        let to = ElementsMut::new(&y, 0, dtype);
        let milliseconds = time(&gpu, || gpu.copy(&a, &y, bytes))?;
        let full = 2.0 * bytes as f64 / milliseconds * 1e-6;
        println!("{dtype:?}: device-to-device copy {full:.0} GB/s");
        let report = |name: &str, moved: usize, milliseconds: f64| {
            let speed = moved as f64 / milliseconds * 1e-6;
            println!("  {name:<24} {speed:>5.0} GB/s  {:>3.0} %", 100.0 * speed / full);
        };
        report(
            "strided copy",
            2 * bytes,
            time(&gpu, || copy::strided(&gpu, &[elements], (from(&a), &[1]), (to, &[1])))?,
        );
        for (name, how) in
            [("add", Binary::Add), ("mul", Binary::Mul), ("div", Binary::Div), ("silu · b", Binary::SiluMul)]
        {
            let work = || binary(&gpu, how, [1, elements], (from(&a), elements), (from(&b), elements), (to, elements));
            report(name, 3 * bytes, time(&gpu, work)?);
        }
        let channels = 4096.min(elements);
        let rows = elements / channels;
        let work = || {
            let shape = [rows, channels];
            binary(&gpu, Binary::Add, shape, (from(&a), channels), (from(&b), 0), (to, channels))
        };
        report("add, a row to all", 2 * bytes, time(&gpu, work)?);
        let activations = [
            ("scale", Activation::Identity),
            ("relu", Activation::Relu),
            ("sigmoid", Activation::Sigmoid),
            ("gelu", Activation::Gelu),
            ("silu", Activation::Silu),
        ];
        for (name, how) in activations {
            let work = || unary(&gpu, how, 1.5, [1, elements], (from(&a), elements), (to, elements));
            report(name, 2 * bytes, time(&gpu, work)?);
        }
        for len in [768.min(elements), channels, 16384.min(elements)] {
            let rows = elements / len;
            let layer = Normalization::Layer { weight: from(&b), bias: from(&b), epsilon: 1e-5 };
            let rms = Normalization::Rms { weight: from(&b), epsilon: 1e-5 };
            let all = [("softmax", Normalization::Softmax), ("layer_norm", layer), ("rms_norm", rms)];
            for (name, how) in all {
                let work = || normalize(&gpu, how, [rows, len], (from(&a), len), (to, len));
                report(&format!("{name} of {len}"), 2 * rows * len * size, time(&gpu, work)?);
            }
        }
        let (heads, features, tokens) = (32, 128, 1024);
        let rows = elements / (heads * features * tokens) * heads * tokens;
        let angles = gpu.allocate(2 * tokens * features * 4)?;
        gpu.clear(&angles, 0, angles.bytes())?;
        let tables = [0, tokens * features].map(|at| Elements::new(&angles, at, DType::F32));
        for pairs in [Pairs::Halves, Pairs::Interleaved] {
            let shape = RopeShape { rows, features, heads, tokens };
            let work = || rope(&gpu, pairs, shape, (from(&a), features), tables, (to, features));
            report(&format!("rope, {pairs:?}"), 2 * rows * features * size, time(&gpu, work)?);
        }
        if dtype == DType::BF16 {
            let wide = ElementsMut::new(&y, 0, DType::F32);
            report("convert to f32", 6 * elements, time(&gpu, || copy::convert(&gpu, elements, from(&a), wide))?);
            let wide = Elements::new(&y, 0, DType::F32);
            let narrow = ElementsMut::new(&a, 0, dtype);
            report("convert from f32", 6 * elements, time(&gpu, || copy::convert(&gpu, elements, wide, narrow))?);
        }
    }
    Ok(())
}
