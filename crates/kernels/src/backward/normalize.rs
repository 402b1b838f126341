//! Gradients of normalisations of rows.
//!
//! | argument | |
//! |---|---|
//! | `grad` | gradient of the output: `rows` rows of `len` floats, `grad_stride` apart |
//! | `saved` | the output (softmax) or the input (L2, layer): the same, `saved_stride` apart |
//! | `out` | gradient of the input: the same, `out_stride` apart |

use crate::Cpu;
use crate::activation::check_rows;
use crate::normalize::Normalization;
use crate::parallel::for_row_blocks;
use crate::simd::{Kernel, Simd, dispatch};

/// The gradient of the input of [`normalize`](crate::normalize::normalize). Those of weight and bias are sums of columns.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn normalize_backward(
    cpu: &Cpu,
    how: Normalization<'_>,
    rows: usize,
    len: usize,
    grad: &[f32],
    grad_stride: usize,
    saved: &[f32],
    saved_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("normalize_backward", rows, len, grad, grad_stride, out, out_stride);
    assert!(rows == 0 || saved.len() >= (rows - 1) * saved_stride + len, "normalize_backward: saved values");
    if len == 0 {
        return;
    }
    for_row_blocks(cpu, rows, 4 * len, out, out_stride, &|range, out| {
        for (i, row) in range.enumerate() {
            let (grad, saved) = (&grad[row * grad_stride..][..len], &saved[row * saved_stride..][..len]);
            let out = &mut out[i * out_stride..][..len];
            // SAFETY: the CPU has the instruction set of its `Cpu`; the kernel uses slices alone.
            unsafe { dispatch(cpu.isa, Row { how, grad, saved, out }) }
        }
    });
}

struct Row<'a> {
    how: Normalization<'a>,
    grad: &'a [f32],
    saved: &'a [f32],
    out: &'a mut [f32],
}

/// `Σ f(i)` in sixteen sums, which compilers turn into vectors.
#[inline(always)]
fn sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let whole = len / 16 * 16;
    for start in (0..whole).step_by(16) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + i);
        }
    }
    lanes.iter().sum::<f32>() + (whole..len).map(f).sum::<f32>()
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let Row { how, grad, saved, out } = self;
        let len = grad.len();
        let (saved, out) = (&saved[..len], &mut out[..len]);
        match how {
            Normalization::Softmax => {
                let dot = sum(len, |i| grad[i] * saved[i]);
                for i in 0..len {
                    out[i] = saved[i] * (grad[i] - dot);
                }
            }
            Normalization::L2 { epsilon } => {
                let norm = sum(len, |i| saved[i] * saved[i]).sqrt();
                let scale = 1.0 / norm.max(epsilon);
                // Below epsilon the divisor is a constant.
                let dot = if norm > epsilon { sum(len, |i| grad[i] * saved[i]) * scale * scale } else { 0.0 };
                for i in 0..len {
                    out[i] = (grad[i] - saved[i] * dot) * scale;
                }
            }
            Normalization::Layer { weight, epsilon, .. } => {
                let weight = &weight[..len];
                let mean = sum(len, |i| saved[i]) / len as f32;
                let variance = sum(len, |i| (saved[i] - mean) * (saved[i] - mean)) / len as f32;
                let scale = 1.0 / (variance + epsilon).sqrt();
                let flat = sum(len, |i| grad[i] * weight[i]) / len as f32;
                let along = sum(len, |i| grad[i] * weight[i] * (saved[i] - mean)) / len as f32 * scale * scale;
                for i in 0..len {
                    out[i] = (grad[i] * weight[i] - flat - (saved[i] - mean) * along) * scale;
                }
            }
        }
    }
}
