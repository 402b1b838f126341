//! Writing blocks of 256 weights: `Q4_K`, `Q5_K`, `Q6_K`, with the smallest sum of squared errors that a search finds.
//!
//! Each sub-block is fitted alone first: integers for a few trial scales, the scale (and minimum) that suits those integers best
//! by least squares, and so on from the best of them. Then the scales become integers themselves, times a half-precision float
//! of the block: neighbours of each are tried, and the float is fitted to all integers, twice. Blocks are described in
//! `formats.rs`. Sums are made lane by lane, in the same order for every instruction set.

use super::{f16_to_f32, f32_to_f16};
use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// Weights of a block.
const BLOCK: usize = 256;
/// Weights that share scale and minimum.
const SUB: usize = 32;
/// Weights that share a scale in `Q6_K`.
const SHORT: usize = 16;
/// Where floats are this large, their last bit is 1: adding it and taking it away rounds, ties to even.
const ROUND: f32 = 12_582_912.0;
/// Rounds of fitting integer scales and their factor to each other.
const ROUNDS: usize = 2;

/// Appends `values`, whole blocks of 256, as `Q4_K`.
///
/// # Panics
///
/// As the other two: if `values` is no whole number of blocks.
pub fn q4_k(values: &[f32], output: &mut Vec<u8>) {
    blocks(values, output, affine::<15>);
}

/// Appends `values`, whole blocks of 256, as `Q5_K`.
///
/// # Panics
///
/// As [`q4_k`].
pub fn q5_k(values: &[f32], output: &mut Vec<u8>) {
    blocks(values, output, affine::<31>);
}

/// Appends `values`, whole blocks of 256, as `Q6_K`.
///
/// # Panics
///
/// As [`q4_k`].
pub fn q6_k(values: &[f32], output: &mut Vec<u8>) {
    blocks(values, output, symmetric);
}

fn blocks(values: &[f32], output: &mut Vec<u8>, block: impl Fn(&[f32; BLOCK], &mut Vec<u8>)) {
    let (whole, rest) = values.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "whole blocks");
    // SAFETY: the CPU has the instructions that were found.
    unsafe { dispatch(Isa::detect(), Each { whole, output, block }) }
}

struct Each<'a, F> {
    whole: &'a [[f32; BLOCK]],
    output: &'a mut Vec<u8>,
    block: F,
}

impl<F: Fn(&[f32; BLOCK], &mut Vec<u8>)> Kernel for Each<'_, F> {
    type Output = ();

    // Plain loops of a fixed length, which become vectors of whatever instruction set this is compiled for.
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        for block in self.whole {
            (self.block)(block, self.output);
        }
    }
}

/// `Σ f(i)` for `N` terms, a multiple of 16.
#[inline(always)]
fn sum<const N: usize>(f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for part in (0..N).step_by(16) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(part + i);
        }
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[inline(always)]
fn reciprocal(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The nearest half-precision float, of finite ones.
#[inline(always)]
fn half(value: f32) -> f32 {
    f16_to_f32(f32_to_f16(if value.is_finite() { value.clamp(-65504.0, 65504.0) } else { 0.0 }))
}

/// `round((x - min) / scale)` within `low..=high`.
#[inline(always)]
fn integers<const N: usize>(x: &[f32; N], inverse: f32, min: f32, low: f32, high: f32) -> [f32; N] {
    std::array::from_fn(|i| (((x[i] - min) * inverse).max(low).min(high) + ROUND) - ROUND)
}

/// The sum of squares of `scale · q + min - x`.
#[inline(always)]
fn error<const N: usize>(x: &[f32; N], q: &[f32; N], scale: f32, min: f32) -> f32 {
    sum::<N>(|i| {
        let e = scale * q[i] + min - x[i];
        e * e
    })
}

/// Scale and minimum, not above zero, that suit these integers best.
#[inline(always)]
fn least_squares(x: &[f32; SUB], q: &[f32; SUB]) -> (f32, f32) {
    let n = SUB as f32;
    let (sum_x, sum_q) = (sum::<SUB>(|i| x[i]), sum::<SUB>(|i| q[i]));
    let (sum_qq, sum_qx) = (sum::<SUB>(|i| q[i] * q[i]), sum::<SUB>(|i| q[i] * x[i]));
    let inverse = reciprocal(n * sum_qq - sum_q * sum_q);
    let min = (sum_qq * sum_x - sum_q * sum_qx) * inverse;
    if min < 0.0 && inverse > 0.0 {
        (((n * sum_qx - sum_q * sum_x) * inverse).max(0.0), min)
    } else {
        ((sum_qx * reciprocal(sum_qq)).max(0.0), 0.0)
    }
}

/// Scale and minimum of a sub-block of integers up to `most`.
#[inline(always)]
fn fit(x: &[f32; SUB], most: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0f32, |a, &b| a.min(b));
    let high = x.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    if high <= low {
        return (0.0, low);
    }
    let mut best = Fit { error: f32::INFINITY, scale: 0.0, min: 0.0 };
    for step in -10..=10 {
        best.or_better(x, most, (most + 0.1 * step as f32) / (high - low), low);
    }
    for _ in 0..4 {
        let last = best.error;
        best.or_better(x, most, reciprocal(best.scale), best.min);
        if best.error >= last {
            break;
        }
    }
    (best.scale, best.min)
}

/// Scale and minimum of a sub-block, and the sum of squared errors with them.
struct Fit {
    error: f32,
    scale: f32,
    min: f32,
}

impl Fit {
    /// What suits the integers of this trial, if it is better.
    #[inline(always)]
    fn or_better(&mut self, x: &[f32; SUB], most: f32, inverse: f32, min: f32) {
        let q = integers(x, inverse, min, 0.0, most);
        let (scale, min) = least_squares(x, &q);
        let error = error(x, &q, scale, min);
        if error < self.error {
            *self = Fit { error, scale, min };
        }
    }
}

/// A block of eight sub-blocks with integers up to `MOST`, 15 or 31.
#[inline(always)]
fn affine<const MOST: u8>(block: &[f32; BLOCK], output: &mut Vec<u8>) {
    let most = f32::from(MOST);
    let (subs, _) = block.as_chunks::<SUB>();
    let fitted: [(f32, f32); 8] = std::array::from_fn(|j| fit(&subs[j], most));
    let largest = fitted.iter().fold((0.0f32, 0.0f32), |a, b| (a.0.max(b.0), a.1.max(-b.1)));
    let mut factors = (half(largest.0 / 63.0), half(largest.1 / 63.0));
    let nearest = |value: f32, factor: f32| (value * reciprocal(factor)).clamp(0.0, 63.0).round();
    let mut codes = fitted.map(|(scale, min)| (nearest(scale, factors.0), nearest(-min, factors.1)));
    let try_codes = |x: &[f32; SUB], (scale, min): (f32, f32), (d, m): (f32, f32)| {
        let (scale, min) = (d * scale, -m * min);
        let q = integers(x, reciprocal(scale), min, 0.0, most);
        (error(x, &q, scale, min), q)
    };
    let mut best = (f32::INFINITY, factors, codes);
    for round in 0..=ROUNDS {
        let mut total = 0.0;
        // Normal equations of the two factors: scale codes times integers, and minimum codes.
        let (mut a, mut b, mut c, mut e, mut f) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for (x, code) in subs.iter().zip(&mut codes) {
            let start = *code;
            let (mut least, mut q) = try_codes(x, start, factors);
            for near in 0..9 {
                let other = (start.0 + (near % 3) as f32 - 1.0, start.1 + (near / 3) as f32 - 1.0);
                if other == start || !(0.0..=63.0).contains(&other.0) || !(0.0..=63.0).contains(&other.1) {
                    continue;
                }
                let (error, other_q) = try_codes(x, other, factors);
                if error < least {
                    (least, q, *code) = (error, other_q, other);
                }
            }
            total += least;
            let (scale, min) = *code;
            a += scale * scale * sum::<SUB>(|i| q[i] * q[i]);
            b -= scale * min * sum::<SUB>(|i| q[i]);
            c += min * min * SUB as f32;
            e += scale * sum::<SUB>(|i| q[i] * x[i]);
            f -= min * sum::<SUB>(|i| x[i]);
        }
        if total < best.0 {
            best = (total, factors, codes);
        }
        if round < ROUNDS {
            let inverse = reciprocal(a * c - b * b);
            let (d, m) = ((e * c - b * f) * inverse, (a * f - b * e) * inverse);
            factors = if inverse > 0.0 && d > 0.0 && m >= 0.0 {
                (half(d), half(m))
            } else {
                (half(e * reciprocal(a)), factors.1)
            };
        }
    }
    let (_, factors, codes) = best;
    let mut quants = [0u8; BLOCK];
    for ((x, code), quants) in subs.iter().zip(codes).zip(quants.chunks_exact_mut(SUB)) {
        let (_, q) = try_codes(x, code, factors);
        quants.iter_mut().zip(q).for_each(|(to, q)| *to = q as u8);
    }
    output.extend(f32_to_f16(factors.0).to_le_bytes());
    output.extend(f32_to_f16(factors.1).to_le_bytes());
    let codes = codes.map(|(scale, min)| (scale as u8, min as u8));
    let mut packed = [0u8; 12];
    for j in 0..4 {
        let ((scale, min), (next_scale, next_min)) = (codes[j], codes[j + 4]);
        packed[j] = scale | next_scale >> 4 << 6;
        packed[j + 4] = min | next_min >> 4 << 6;
        packed[j + 8] = next_scale & 15 | next_min << 4;
    }
    output.extend(packed);
    if MOST > 15 {
        let bits = |l: usize| (0..8).fold(0u8, |bits, run| bits | quants[run * SUB + l] >> 4 << run);
        output.extend((0..SUB).map(bits));
    }
    for pair in quants.chunks_exact(2 * SUB) {
        let (low, high) = pair.split_at(SUB);
        output.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
    }
}

/// The scale of a sub-block of integers from −32 to 31.
#[inline(always)]
fn fit_symmetric(x: &[f32; SHORT]) -> f32 {
    let farthest = x.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let mut best = (f32::INFINITY, 0.0);
    let mut inverse = 0.0;
    for step in 0..22 {
        // The trial scales, then from the best on.
        inverse = if step < 19 { -(32.0 + 0.1 * (step as f32 - 9.0)) * reciprocal(farthest) } else { inverse };
        let q = integers(x, inverse, 0.0, -32.0, 31.0);
        let scale = sum::<SHORT>(|i| q[i] * x[i]) * reciprocal(sum::<SHORT>(|i| q[i] * q[i]));
        let error = error(x, &q, scale, 0.0);
        if error < best.0 {
            best = (error, scale);
        }
        if step >= 18 {
            inverse = reciprocal(best.1);
        }
    }
    best.1
}

/// A block of sixteen sub-blocks with integers from −32 to 31 and no minimum.
#[inline(always)]
fn symmetric(block: &[f32; BLOCK], output: &mut Vec<u8>) {
    let (subs, _) = block.as_chunks::<SHORT>();
    let fitted: [f32; 16] = std::array::from_fn(|j| fit_symmetric(&subs[j]));
    let farthest = fitted.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let mut factor = half(farthest / -128.0);
    let mut codes = fitted.map(|scale| (scale * reciprocal(factor)).clamp(-128.0, 127.0).round());
    let try_code = |x: &[f32; SHORT], code: f32, factor: f32| {
        let scale = factor * code;
        let q = integers(x, reciprocal(scale), 0.0, -32.0, 31.0);
        (error(x, &q, scale, 0.0), q)
    };
    let mut best = (f32::INFINITY, factor, codes);
    for _ in 0..=ROUNDS {
        let (mut total, mut product, mut square) = (0.0, 0.0f32, 0.0f32);
        for (x, code) in subs.iter().zip(&mut codes) {
            let start = *code;
            let (mut least, mut q) = try_code(x, start, factor);
            for other in [start - 1.0, start + 1.0] {
                let (error, other_q) = try_code(x, other, factor);
                if (-128.0..=127.0).contains(&other) && error < least {
                    (least, q, *code) = (error, other_q, other);
                }
            }
            total += least;
            product += *code * sum::<SHORT>(|i| q[i] * x[i]);
            square += *code * *code * sum::<SHORT>(|i| q[i] * q[i]);
        }
        if total < best.0 {
            best = (total, factor, codes);
        }
        factor = half(product * reciprocal(square));
    }
    let (_, factor, codes) = best;
    let mut quants = [0u8; BLOCK];
    for ((x, code), quants) in subs.iter().zip(codes).zip(quants.chunks_exact_mut(SHORT)) {
        let (_, q) = try_code(x, code, factor);
        quants.iter_mut().zip(q).for_each(|(to, q)| *to = (q + 32.0) as u8);
    }
    for half in quants.chunks_exact(BLOCK / 2) {
        output.extend((0..64).map(|i| half[i] & 15 | half[64 + i] << 4));
    }
    for half in quants.chunks_exact(BLOCK / 2) {
        output.extend((0..32).map(|l| (0..4).fold(0u8, |bits, run| bits | half[run * 32 + l] >> 4 << (2 * run))));
    }
    output.extend(codes.map(|code| code as i8 as u8));
    output.extend(f32_to_f16(factor).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::low_bit::{Format, dequantise};

    const REFERENCE_NORMAL: [f64; 3] = [0.0397243, 0.0200303, 0.0098857];
    const REFERENCE_SQUARES: [f64; 3] = [0.0487364, 0.0250001, 0.0121677];

    type Quantise = fn(&[f32], &mut Vec<u8>);
    const ALL: [(Quantise, Format); 3] = [(q4_k, Format::Q4_K), (q5_k, Format::Q5_K), (q6_k, Format::Q6_K)];

    /// Sums of four even numbers about zero, which are almost normal; and their squares, with signs.
    fn values(squared: bool) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 65536.0 - 0.5
        };
        let normal = (0..64 * BLOCK).map(|_| next() + next() + next() + next());
        normal.map(|v| if squared { v * v.abs() } else { v }).collect()
    }

    fn rmse(quantise: Quantise, format: Format, values: &[f32]) -> f64 {
        let (mut bytes, mut found) = (Vec::new(), vec![0.0; values.len()]);
        quantise(values, &mut bytes);
        dequantise(format, &bytes, &mut found);
        let squares = values.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (squares / values.len() as f64).sqrt()
    }

    /// Errors of llama.cpp's quantisers on the same numbers, without an importance matrix (`ggml_quantize_chunk`, ggml 0.25.3).
    #[test]
    fn errors_are_below_those_of_the_reference() {
        let reference = [REFERENCE_NORMAL, REFERENCE_SQUARES];
        for (squared, reference) in [false, true].into_iter().zip(reference) {
            let values = values(squared);
            for ((quantise, format), theirs) in ALL.into_iter().zip(reference) {
                let ours = rmse(quantise, format, &values);
                println!("{} {ours:.6}, reference {theirs:.6}: {:.3}", format.name(), ours / theirs);
                assert!(ours <= theirs, "{}: {ours:.6} above {theirs:.6}", format.name());
                assert!(ours > 0.8 * theirs, "{}: {ours:.6}, too good to be true", format.name());
            }
        }
    }

    #[test]
    fn strange_blocks_keep_what_they_can() {
        for (quantise, format) in ALL {
            for (value, exact) in
                [(0.0f32, true), (-3.0, true), (2.0, false), (1e-7, false), (60000.0, false), (1e38, false)]
            {
                let (mut bytes, mut found) = (Vec::new(), vec![f32::NAN; BLOCK]);
                quantise(&[value; BLOCK], &mut bytes);
                dequantise(format, &bytes, &mut found);
                assert!(found.iter().all(|v| v.is_finite()), "{} of {value}: {}", format.name(), found[0]);
                if exact || value == 60000.0 {
                    let error = found.iter().map(|v| (v - value).abs()).fold(0.0, f32::max);
                    assert!(error <= 0.003 * value.abs(), "{} of {value}: {}", format.name(), found[0]);
                }
            }
            // One sub-block far larger than the others.
            let mut values = values(false)[..BLOCK].to_vec();
            values[40] = 500.0;
            let mut bytes = Vec::new();
            quantise(&values, &mut bytes);
            let mut found = vec![0.0; BLOCK];
            dequantise(format, &bytes, &mut found);
            assert!((found[40] - 500.0).abs() < 10.0, "{}: {}", format.name(), found[40]);
            assert!(found.iter().all(|v| v.is_finite()));
        }
    }
}
