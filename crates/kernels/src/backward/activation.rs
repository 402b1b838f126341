//! Gradients of activations: the gradient of the output times the slope.
//!
//! | argument | |
//! |---|---|
//! | `grad` | gradient of the output: `rows` rows of `len` floats, `grad_stride` apart |
//! | `saved` | what the slope is computed from, see [`saves_output`]: the same, `saved_stride` apart |
//! | `out` | gradient of the input: the same, `out_stride` apart |

use crate::Cpu;
use crate::activation::{Activation, check_rows};
use crate::elementwise::{Combine, Rows2, With};
use crate::math;
use crate::parallel::for_row_blocks;
use crate::simd::{Simd, dispatch};

/// Whether the slope is computed from the output, so that the input need not be kept.
pub fn saves_output(activation: Activation) -> bool {
    match activation {
        Activation::Identity | Activation::Relu | Activation::Sigmoid | Activation::Tanh => true,
        // A slope of zero or less loses the sign.
        Activation::LeakyRelu(slope) => slope > 0.0,
        _ => false,
    }
}

/// `grad * activation'`, the slope computed from the output where [`saves_output`] says so, else from the input. At its
/// kink a ReLU has the slope of its negative side.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn activation_backward(
    cpu: &Cpu,
    activation: Activation,
    rows: usize,
    len: usize,
    grad: &[f32],
    grad_stride: usize,
    saved: &[f32],
    saved_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("activation_backward", rows, len, grad, grad_stride, out, out_stride);
    assert!(rows == 0 || saved.len() >= (rows - 1) * saved_stride + len, "activation_backward: saved values");
    for_row_blocks(cpu, rows, len, out, out_stride, &|range, out| {
        let (a, b) = (&grad[range.start * grad_stride..], &saved[range.start * saved_stride..]);
        let rows =
            Rows2 { rows: range.len(), len, a, a_stride: grad_stride, b, b_stride: saved_stride, out, out_stride };
        // SAFETY: the CPU has the instruction set of its `Cpu`; the rows were checked above.
        unsafe {
            match activation {
                Activation::Identity => dispatch(cpu.isa, With(Leaky(1.0), rows)),
                Activation::Relu => dispatch(cpu.isa, With(Leaky(0.0), rows)),
                Activation::LeakyRelu(slope) => dispatch(cpu.isa, With(Leaky(slope), rows)),
                Activation::Sigmoid => dispatch(cpu.isa, With(Sigmoid, rows)),
                Activation::Tanh => dispatch(cpu.isa, With(Tanh, rows)),
                Activation::Gelu => dispatch(cpu.isa, With(Gelu, rows)),
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Leaky(f32);
#[derive(Clone, Copy)]
struct Sigmoid;
#[derive(Clone, Copy)]
struct Tanh;
#[derive(Clone, Copy)]
struct Gelu;

macro_rules! slopes {
    ($($type:ty, $this:ident, $g:ident, $v:ident => $body:expr;)*) => {$(
        impl Combine for $type {
            const READS_B: bool = true;
            #[inline(always)]
            unsafe fn combine<V: Simd>(self, $g: V, $v: V) -> V {
                let $this = self;
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $body }
            }
        }
    )*};
}

slopes! {
    Leaky, this, g, y => V::splat(0.0).select_lt(y, g, g.mul(V::splat(this.0)));
    Sigmoid, _this, g, y => g.mul(y.mul(V::splat(1.0).sub(y)));
    Tanh, _this, g, y => g.mul(V::splat(1.0).sub(y.mul(y)));
    Gelu, _this, g, x => g.mul(math::gelu_slope(x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::activation::activate_reference;
    use crate::testing::noise;

    #[test]
    fn slopes_are_those_of_the_reference() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
            for (rows, len) in [(1, 1), (3, 17), (211, 48)] {
                let x: Vec<f32> = noise(rows * len, 1).iter().map(|v| v * 6.0).collect();
                let grad = noise(rows * (len + 3), 2);
                for how in [
                    Activation::Identity,
                    Activation::Relu,
                    Activation::LeakyRelu(0.05),
                    Activation::LeakyRelu(-0.5),
                    Activation::Sigmoid,
                    Activation::Tanh,
                    Activation::Gelu,
                ] {
                    let saved: Vec<f32> = if saves_output(how) {
                        x.iter().map(|&x| activate_reference(how, x) as f32).collect()
                    } else {
                        x.clone()
                    };
                    let mut out = vec![f32::NAN; rows * (len + 1)];
                    activation_backward(&cpu, how, rows, len, &grad, len + 3, &saved, len, &mut out, len + 1);
                    for row in 0..rows {
                        for i in 0..len {
                            // A difference of the reference, in f64 but for its argument: a step that f32 holds exactly.
                            let x = x[row * len + i];
                            let step = 1.0 / 1024.0;
                            let (up, down) = (x + step, x - step);
                            let slope = (activate_reference(how, up) - activate_reference(how, down))
                                / (f64::from(up) - f64::from(down));
                            let wanted = slope * f64::from(grad[row * (len + 3) + i]);
                            let found = f64::from(out[row * (len + 1) + i]);
                            assert!(
                                (found - wanted).abs() < 2e-5 || x.abs() < 2.0 * step,
                                "{how:?} {isa} {x}: {found} {wanted}"
                            );
                        }
                    }
                }
            }
        }
    }
}
