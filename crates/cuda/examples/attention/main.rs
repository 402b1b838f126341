//! Checks products of matrices and attention on a GPU against references, and prints how fast they are.
//!
//! `cargo run --release -p supple-cuda --example attention [PART ..]`: `check-products`, `check-forward`,
//! `check-backward`, `gemm`, `gemm-short`, `forward`, `backward`; all of them if none is named. Numbers are
//! 10^12 floating-point operations of the visible part a second, the median of several rounds of at least 20 ms each.

mod attend;
mod products;

use std::error::Error;
use supple_cuda::{DType, Elements, ElementsMut, Gpu, Memory, copy};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Numbers in -1..1 that differ from run to run.
struct Random(u64);

impl Random {
    fn values(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next(&mut self.0)).collect()
    }

    fn below(&mut self, bound: usize) -> usize {
        (f64::from(self.values(1)[0].abs()) * bound as f64) as usize % bound
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Values on the GPU in an element type, and what they are after rounding to it.
fn upload(gpu: &Gpu, values: &[f32], dtype: DType) -> Outcome<(Memory, Vec<f32>)> {
    let wide = gpu.upload(&bytes_of(values))?;
    let memory = gpu.allocate(values.len() * dtype.size() + 64)?;
    copy::convert(gpu, values.len(), Elements::new(&wide, 0, DType::F32), ElementsMut::new(&memory, 0, dtype))?;
    let rounded = download(gpu, &memory, values.len(), dtype)?;
    Ok((memory, rounded))
}

fn download(gpu: &Gpu, memory: &Memory, count: usize, dtype: DType) -> Outcome<Vec<f32>> {
    let wide = gpu.allocate(count * 4)?;
    copy::convert(gpu, count, Elements::new(memory, 0, dtype), ElementsMut::new(&wide, 0, DType::F32))?;
    let mut bytes = vec![0u8; count * 4];
    gpu.download(&wide, 0, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// At least `count` numbers on the GPU, a part that repeats: making that many on the host takes longer than all else.
fn fill(gpu: &Gpu, random: &mut Random, count: usize, dtype: DType) -> Outcome<Memory> {
    const PART: usize = (1 << 20) + 8;
    let (part, _) = upload(gpu, &random.values(PART), dtype)?;
    let repeats = count.div_ceil(PART);
    let memory = gpu.allocate(repeats * PART * dtype.size())?;
    let to = (ElementsMut::new(&memory, 0, dtype), &[PART, 1][..]);
    copy::strided(gpu, &[repeats, PART], (Elements::new(&part, 0, dtype), &[0, 1]), to)?;
    Ok(memory)
}

/// The largest difference relative to the larger of 1 and the wanted value; infinite where a value is not finite.
fn difference(found: &[f32], wanted: &[f64]) -> f64 {
    found.iter().zip(wanted).fold(0.0, |most, (&found, &wanted)| {
        let error = (f64::from(found) - wanted).abs() / wanted.abs().max(1.0);
        if error.is_nan() { f64::INFINITY } else { most.max(error) }
    })
}

/// What results may be off: a step or so of the type for what is rounded once, more where weights are rounded on the way.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    }
}

/// Milliseconds of `work`, the median of `rounds`, after one for warming up.
fn time(gpu: &Gpu, rounds: usize, mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    work()?;
    gpu.synchronize()?;
    let (first, once) = gpu.time(&mut work)?;
    first?;
    let repeats = (20.0 / once.max(1e-3)).clamp(1.0, 200.0) as usize;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (done, elapsed) = gpu.time(|| (0..repeats).try_for_each(|_| work()))?;
        done?;
        times.push(f64::from(elapsed) / repeats as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Outcome {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let gpu = Gpu::new(0)?;
    println!("{}, cuBLASLt {}", gpu.name(), gpu.blas_version().unwrap_or_else(|| "is not there".into()));
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    if asked("check-products") {
        products::check_gemm(&gpu, &mut random)?;
        products::check_8bit(&gpu, &mut random)?;
    }
    if asked("check-forward") {
        attend::check_attention(&gpu, &mut random)?;
    }
    if asked("check-backward") {
        attend::check_backward(&gpu, &mut random)?;
    }
    if asked("gemm") {
        products::time_gemm(
            &gpu,
            &mut random,
            &[(DType::BF16, 8192), (DType::BF16, 4096), (DType::F16, 8192), (DType::F32, 4096)],
        )?;
    }
    if wanted.iter().any(|w| w == "gemm-short") {
        products::time_gemm(&gpu, &mut random, &[(DType::BF16, 8192)])?;
    }
    if asked("forward") {
        attend::time_forward(&gpu, &mut random)?;
    }
    if asked("backward") {
        attend::time_backward(&gpu, &mut random)?;
    }
    Ok(())
}
