//! Normalisation of rows: softmax, L2 normalisation, layer normalisation.
//!
//! | argument | |
//! |---|---|
//! | `input` | `rows` rows of `len` floats, `input_stride` apart |
//! | `out` | the same, `out_stride` apart; what lies between rows stays as it is |

use crate::Cpu;
use crate::activation::check_rows;
use crate::math;
use crate::parallel::for_row_blocks;
use crate::partial::{Map, largest_lane, load_partial, map_row, store_partial};
use crate::simd::{Kernel, Simd, dispatch};

/// How a row is normalised.
#[derive(Clone, Copy, Debug)]
pub enum Normalization<'a> {
    /// `e^(x - max) / Σ e^(x - max)`.
    Softmax,
    /// `x / max(‖x‖₂, epsilon)`.
    L2 {
        /// Smallest norm divided by.
        epsilon: f32,
    },
    /// `(x - mean) / √(variance + epsilon) * weight + bias`, with the biased variance.
    Layer {
        /// Factor of each column, `len` floats.
        weight: &'a [f32],
        /// Addend of each column, `len` floats.
        bias: &'a [f32],
        /// Added to the variance.
        epsilon: f32,
    },
}

/// Normalises each of `rows` rows of `len` floats.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn normalize(
    cpu: &Cpu,
    how: Normalization<'_>,
    rows: usize,
    len: usize,
    input: &[f32],
    input_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("normalize", rows, len, input, input_stride, out, out_stride);
    if let Normalization::Layer { weight, bias, .. } = how {
        assert!(weight.len() >= len && bias.len() >= len, "normalize: weight or bias is too short");
    }
    if len == 0 {
        return;
    }
    for_row_blocks(cpu, rows, 4 * len, out, out_stride, &|range, out| {
        for (i, row) in range.enumerate() {
            let input = &input[row * input_stride..][..len];
            let out = &mut out[i * out_stride..][..len];
            // SAFETY: the CPU has the instruction set of its `Cpu`; the slices have equal lengths.
            unsafe { dispatch(cpu.isa, Row { how, input, out }) }
        }
    });
}

/// The reference for one row, in `f64`.
pub fn normalize_reference(how: Normalization<'_>, input: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
    match how {
        Normalization::Softmax => {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
            x.iter().map(|v| (v - max).exp() / sum).collect()
        }
        Normalization::L2 { epsilon } => {
            let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(epsilon));
            x.iter().map(|v| v / norm).collect()
        }
        Normalization::Layer { weight, bias, epsilon } => {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
            x.iter()
                .zip(weight.iter().zip(bias))
                .map(|(v, (&w, &b))| (v - mean) * scale * f64::from(w) + f64::from(b))
                .collect()
        }
    }
}

struct Row<'a> {
    how: Normalization<'a>,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let (len, input, out) = (self.input.len(), self.input.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: both rows have `len` floats, and so have weight and bias.
        unsafe {
            match self.how {
                Normalization::Softmax => {
                    let mut max = V::splat(f32::NEG_INFINITY);
                    let mut i = 0;
                    while i + V::LANES <= len {
                        max = max.max(V::load(input.add(i)));
                        i += V::LANES;
                    }
                    if i < len {
                        max = max.max(load_partial(input.add(i), len - i, f32::NEG_INFINITY));
                    }
                    let sum = exp_and_sum::<V>(largest_lane(max), len, input, out);
                    map_row::<V, _>(&Affine { subtract: 0.0, scale: 1.0 / sum }, len, out, out);
                }
                Normalization::L2 { epsilon } => {
                    let norm = sum_of_squares::<V>(0.0, len, input).sqrt().max(epsilon);
                    map_row::<V, _>(&Affine { subtract: 0.0, scale: 1.0 / norm }, len, input, out);
                }
                Normalization::Layer { weight, bias, epsilon } => {
                    let mean = sum::<V>(len, input) / len as f32;
                    let variance = sum_of_squares::<V>(mean, len, input) / len as f32;
                    let scale = 1.0 / (variance + epsilon).sqrt();
                    let map = Layer { mean, scale, weight: weight.as_ptr(), bias: bias.as_ptr() };
                    map_row::<V, _>(&map, len, input, out);
                }
            }
        }
    }
}

/// Writes `e^(x - max)` and returns the sum.
#[inline(always)]
unsafe fn exp_and_sum<V: Simd>(max: f32, len: usize, input: *const f32, out: *mut f32) -> f32 {
    // SAFETY: the caller gives two rows of `len` floats.
    unsafe {
        let (shift, mut sum, mut i) = (V::splat(max), V::splat(0.0), 0);
        while i + V::LANES <= len {
            let e = math::exp(V::load(input.add(i)).sub(shift));
            e.store(out.add(i));
            sum = sum.add(e);
            i += V::LANES;
        }
        let mut total = sum.sum();
        if i < len {
            store_partial(math::exp(load_partial::<V>(input.add(i), len - i, 0.0).sub(shift)), out.add(i), len - i);
            for j in i..len {
                total += *out.add(j);
            }
        }
        total
    }
}

/// `Σ x`.
#[inline(always)]
unsafe fn sum<V: Simd>(len: usize, input: *const f32) -> f32 {
    // SAFETY: the caller gives a row of `len` floats.
    unsafe {
        let (mut sum, mut i) = (V::splat(0.0), 0);
        while i + V::LANES <= len {
            sum = sum.add(V::load(input.add(i)));
            i += V::LANES;
        }
        if i < len {
            sum = sum.add(load_partial(input.add(i), len - i, 0.0));
        }
        sum.sum()
    }
}

/// `Σ (x - shift)²`.
#[inline(always)]
unsafe fn sum_of_squares<V: Simd>(shift: f32, len: usize, input: *const f32) -> f32 {
    // SAFETY: the caller gives a row of `len` floats.
    unsafe {
        let (mut sum, mut i) = (V::splat(0.0), 0);
        while i + V::LANES <= len {
            let d = V::load(input.add(i)).sub(V::splat(shift));
            sum = d.mul_add(d, sum);
            i += V::LANES;
        }
        if i < len {
            let d = load_partial::<V>(input.add(i), len - i, shift).sub(V::splat(shift));
            sum = d.mul_add(d, sum);
        }
        sum.sum()
    }
}

/// `(x - subtract) * scale`.
struct Affine {
    subtract: f32,
    scale: f32,
}

impl Map for Affine {
    #[inline(always)]
    unsafe fn apply<V: Simd>(&self, x: V, _at: usize, _count: usize) -> V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { x.sub(V::splat(self.subtract)).mul(V::splat(self.scale)) }
    }
}

struct Layer {
    mean: f32,
    scale: f32,
    weight: *const f32,
    bias: *const f32,
}

impl Map for Layer {
    #[inline(always)]
    unsafe fn apply<V: Simd>(&self, x: V, at: usize, count: usize) -> V {
        // SAFETY: the row has `count` elements from `at` on, and weight and bias are as long.
        unsafe {
            let (weight, bias) = if count == V::LANES {
                (V::load(self.weight.add(at)), V::load(self.bias.add(at)))
            } else {
                (load_partial(self.weight.add(at), count, 0.0), load_partial(self.bias.add(at), count, 0.0))
            };
            x.sub(V::splat(self.mean)).mul(V::splat(self.scale)).mul_add(weight, bias)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn every_size_equals_the_reference_and_gaps_stay() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 3);
            for (rows, len) in [(1, 1), (3, 2), (5, 15), (2, 16), (7, 17), (3, 60), (64, 331)] {
                let (gap, weight, bias) = (3, noise(len, 2), noise(len, 3));
                let x: Vec<f32> = noise(rows * (len + gap), 1).iter().map(|v| v * 20.0).collect();
                for how in [
                    Normalization::Softmax,
                    Normalization::L2 { epsilon: 1e-12 },
                    Normalization::Layer { weight: &weight, bias: &bias, epsilon: 1e-5 },
                ] {
                    let mut y = vec![f32::NAN; rows * (len + 1)];
                    normalize(&cpu, how, rows, len, &x, len + gap, &mut y, len + 1);
                    for row in 0..rows {
                        let wanted = normalize_reference(how, &x[row * (len + gap)..][..len]);
                        for (i, wanted) in wanted.iter().enumerate() {
                            let found = f64::from(y[row * (len + 1) + i]);
                            assert!((found - wanted).abs() < 4e-6, "{how:?} {isa} {rows}x{len}: {found} not {wanted}");
                        }
                        assert!(y[row * (len + 1) + len].is_nan());
                    }
                }
            }
        }
    }

    #[test]
    fn rows_of_zeros_do_not_divide_by_zero() {
        let cpu = Cpu::new(Isa::detect(), 1);
        let mut y = [f32::NAN; 5];
        normalize(&cpu, Normalization::L2 { epsilon: 1e-12 }, 1, 5, &[0.0; 5], 5, &mut y, 5);
        assert_eq!(y, [0.0; 5]);
        normalize(&cpu, Normalization::Softmax, 1, 5, &[1e30; 5], 5, &mut y, 5);
        assert!(y.iter().all(|v| (v - 0.2).abs() < 1e-6));
    }
}
