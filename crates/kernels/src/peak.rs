//! The machine's peak: how fast multiply-adds go when nothing but registers is involved.

use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, ThreadPool};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums: more than latency times throughput of any CPU, and few enough for the registers of all.
const SUMS: usize = 12;
/// How long one measurement takes.
const TIME: Duration = Duration::from_millis(50);
/// Measurements, of which the best counts.
const REPEATS: usize = 3;

/// The peak of f32 multiply-adds on all threads of `threads`, in GFLOP/s (a multiply-add counts as two): what a kernel
/// without any memory access reaches. Takes about a quarter of a second.
pub fn fma_gflops(isa: Isa, threads: &ThreadPool) -> f64 {
    let count = threads.threads();
    // Turns that take about `TIME` on one thread.
    let mut turns = 1 << 12;
    loop {
        let start = Instant::now();
        measure(isa, turns);
        let taken = start.elapsed();
        if taken > TIME / 16 {
            turns = (turns as f64 * TIME.as_secs_f64() / taken.as_secs_f64()) as u64;
            break;
        }
        turns *= 2;
    }
    let flops = 2.0 * (turns * SUMS as u64 * crate::simd::lanes(isa) as u64 * count as u64) as f64;
    let best = (0..REPEATS).map(|_| {
        let start = Instant::now();
        threads.run(count, &|_, _| measure(isa, turns));
        flops / start.elapsed().as_secs_f64()
    });
    best.fold(0.0, f64::max) / 1e9
}

fn measure(isa: Isa, turns: u64) {
    assert!(isa <= Isa::detect(), "this CPU does not offer {isa}");
    // SAFETY: the instruction set was checked just now.
    black_box(unsafe { dispatch(isa, Chain { turns }) });
}

struct Chain {
    turns: u64,
}

impl Kernel for Chain {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<V: Simd>(self) -> f32 {
        // SAFETY: no memory is involved; the caller vouches for the instruction set.
        unsafe {
            // Unknown to the compiler, and such that sums converge instead of becoming infinite or subnormal.
            let (factor, addend) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
            let mut sums: [V; SUMS] = std::array::from_fn(|i| V::splat(black_box(i as f32)));
            for _ in 0..self.turns {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, addend);
                }
            }
            sums.iter().map(|sum| sum.sum()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_plausible() {
        let pool = ThreadPool::new(1);
        for isa in Isa::available() {
            let peak = fma_gflops(isa, &pool);
            println!("{isa}: {peak:.1} GFLOP/s on one thread");
            // Unoptimised builds are slow, and no core does 64 multiply-adds at 10 GHz.
            assert!(peak > 0.01 && peak < 1280.0, "{isa}: {peak}");
        }
    }
}
