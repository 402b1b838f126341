//! Activation functions, element by element.
//!
//! | argument | |
//! |---|---|
//! | `input` | `rows` rows of `len` floats, `input_stride` apart |
//! | `out` | the same, `out_stride` apart |
//!
//! What lies between rows is neither read nor written, except that rows which all but touch are taken for one.

use crate::Cpu;
use crate::math;
use crate::parallel::for_row_blocks;
use crate::partial::{Map, map_row};
use crate::simd::{Kernel, Simd, dispatch};

/// What is applied to each element.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, else `slope * x`.
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x * Φ(x)`, with the error function and not its approximation by `tanh`.
    Gelu,
}

impl Activation {
    /// The slope for negative values, at most 1, if that is all this does: 1 for none, 0 for a ReLU. Products and
    /// convolutions apply such activations as they store.
    pub fn slope(self) -> Option<f32> {
        match self {
            Activation::Identity => Some(1.0),
            Activation::Relu => Some(0.0),
            Activation::LeakyRelu(slope) if slope <= 1.0 => Some(slope),
            _ => None,
        }
    }
}

/// Applies `activation` to `rows` rows of `len` floats.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn activate(
    cpu: &Cpu,
    activation: Activation,
    rows: usize,
    len: usize,
    input: &[f32],
    input_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("activate", rows, len, input, input_stride, out, out_stride);
    let (input_ptr, extent) = (Shared(input.as_ptr()), (rows.max(1) - 1) * out_stride + len);
    for_row_blocks(cpu, rows, len, out, out_stride, &|range, out| {
        // Gaps of less than a row are computed too, where that makes one row of many.
        let flat = input_stride == out_stride && out_stride < len + 16 && out_stride <= 2 * len;
        let count = range.len();
        let (rows, len) =
            if flat { (1, (count * out_stride).min(extent - range.start * out_stride)) } else { (count, len) };
        // SAFETY: `check_rows` found the rows inside both slices, and a flat row ends where the last row does.
        unsafe {
            let input = input_ptr.get().add(range.start * input_stride);
            run(cpu, activation, rows, len, input, input_stride, out.as_mut_ptr(), out_stride);
        }
    });
}

/// Applies `activation` in place to `rows` rows of `len` floats.
///
/// # Panics
/// If the slice is shorter than its shape says.
pub fn activate_in_place(cpu: &Cpu, activation: Activation, rows: usize, len: usize, data: &mut [f32], stride: usize) {
    assert!(rows == 0 || data.len() >= (rows - 1) * stride + len && (rows == 1 || stride >= len), "activate: rows");
    for_row_blocks(cpu, rows, len, data, stride, &|range, data| {
        let data = data.as_mut_ptr();
        // SAFETY: the rows of the range lie inside `data`, which this task has for itself.
        unsafe { run(cpu, activation, range.len(), len, data, stride, data, stride) }
    });
}

/// The element-wise reference, in `f64`.
pub fn activate_reference(activation: Activation, x: f32) -> f64 {
    let x = f64::from(x);
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu(slope) => {
            if x > 0.0 {
                x
            } else {
                x * f64::from(slope)
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => 0.5 * x * (1.0 + erf_reference(x / std::f64::consts::SQRT_2)),
    }
}

/// The error function to about 1e-15, by its series near zero and by a continued fraction elsewhere.
fn erf_reference(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60).rev().fold(a, |fraction, k| a + f64::from(k) * 0.5 / fraction);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// A pointer that tasks read from.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *const f32);

impl Shared {
    /// The pointer. (A method, so that closures capture the wrapper and not the bare pointer.)
    pub(crate) fn get(self) -> *const f32 {
        self.0
    }
}

// SAFETY: it is made from a shared slice that outlives the tasks.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Checks that rows lie inside their slices and that output rows do not overlap.
pub(crate) fn check_rows(
    op: &str,
    rows: usize,
    len: usize,
    input: &[f32],
    input_stride: usize,
    out: &[f32],
    out_stride: usize,
) {
    assert!(rows == 0 || input.len() >= (rows - 1) * input_stride + len, "{op}: input is {} floats", input.len());
    assert!(rows == 0 || out.len() >= (rows - 1) * out_stride + len, "{op}: output is {} floats", out.len());
    assert!(rows <= 1 || out_stride >= len, "{op}: output rows overlap");
}

#[allow(clippy::too_many_arguments)]
unsafe fn run(
    cpu: &Cpu,
    activation: Activation,
    rows: usize,
    len: usize,
    input: *const f32,
    input_stride: usize,
    out: *mut f32,
    out_stride: usize,
) {
    let args = Args { rows, len, input, input_stride, out, out_stride };
    // SAFETY: the CPU has the instruction set of its `Cpu`; the caller vouches for the rows.
    unsafe {
        match activation {
            Activation::Identity => dispatch(cpu.isa, Each(Identity, args)),
            Activation::Relu => dispatch(cpu.isa, Each(Relu, args)),
            Activation::LeakyRelu(slope) => dispatch(cpu.isa, Each(LeakyRelu(slope), args)),
            Activation::Sigmoid => dispatch(cpu.isa, Each(Sigmoid, args)),
            Activation::Tanh => dispatch(cpu.isa, Each(Tanh, args)),
            Activation::Gelu => dispatch(cpu.isa, Each(Gelu, args)),
        }
    }
}

#[derive(Clone, Copy)]
struct Args {
    rows: usize,
    len: usize,
    input: *const f32,
    input_stride: usize,
    out: *mut f32,
    out_stride: usize,
}

struct Each<M>(M, Args);

impl<M: Map> Kernel for Each<M> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let Each(map, args) = self;
        for row in 0..args.rows {
            // SAFETY: the row lies inside both buffers, by the promise of `run`'s caller.
            unsafe {
                map_row::<V, M>(
                    &map,
                    args.len,
                    args.input.add(row * args.input_stride),
                    args.out.add(row * args.out_stride),
                );
            }
        }
    }
}

struct Identity;

impl Map for Identity {
    #[inline(always)]
    unsafe fn apply<V: Simd>(&self, x: V, _at: usize, _count: usize) -> V {
        x
    }
}

struct Relu;
struct LeakyRelu(f32);
struct Sigmoid;
struct Tanh;
struct Gelu;

/// Implements `Map` for functions of the element alone.
macro_rules! map_by {
    ($($type:ty, $this:ident, $x:ident => $body:expr;)*) => {$(
        impl Map for $type {
            #[inline(always)]
            unsafe fn apply<V: Simd>(&self, $x: V, _at: usize, _count: usize) -> V {
                let $this = self;
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $body }
            }
        }
    )*};
}

map_by! {
    // Written so that NaN stays NaN: `max` gives its second operand where one is NaN.
    Relu, _this, x => V::splat(0.0).max(x);
    LeakyRelu, this, x => V::splat(0.0).select_lt(x, x, x.mul(V::splat(this.0)));
    Sigmoid, _this, x => math::sigmoid(x);
    Tanh, _this, x => math::tanh(x);
    Gelu, _this, x => math::gelu(x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    const ALL: [Activation; 6] = [
        Activation::Identity,
        Activation::Relu,
        Activation::LeakyRelu(0.05),
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Gelu,
    ];

    fn agrees(found: f32, wanted: f64, what: &str) {
        assert!((f64::from(found) - wanted).abs() <= 2e-6 * wanted.abs().max(1.0), "{what}: {found}, wanted {wanted}");
    }

    #[test]
    fn every_size_equals_the_reference_and_gaps_stay() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let cpu = Cpu::new(isa, threads);
                for (rows, len, gap) in [(1, 1, 0), (3, 5, 0), (7, 17, 15), (2, 16, 0), (5, 3, 61), (401, 131, 3)] {
                    let x: Vec<f32> = noise(rows * (len + gap), 7).iter().map(|v| v * 10.0).collect();
                    for activation in ALL {
                        let what = format!("{activation:?} {isa} {rows}x{len}+{gap}");
                        let mut y = vec![f32::NAN; rows * (len + 20)];
                        activate(&cpu, activation, rows, len, &x, len + gap, &mut y, len + 20);
                        let mut z = x.clone();
                        activate(&cpu, activation, rows, len, &x, len + gap, &mut z, len + gap);
                        let mut in_place = x.clone();
                        activate_in_place(&cpu, activation, rows, len, &mut in_place, len + gap);
                        for row in 0..rows {
                            for i in 0..len {
                                let at = row * (len + gap) + i;
                                let wanted = activate_reference(activation, x[at]);
                                agrees(y[row * (len + 20) + i], wanted, &what);
                                agrees(z[at], wanted, &what);
                                agrees(in_place[at], wanted, &what);
                            }
                            assert!(y[row * (len + 20) + len..][..20].iter().all(|v| v.is_nan()), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_reference_error_function_is_right() {
        for (x, wanted) in
            [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((erf_reference(x) - wanted).abs() < 1e-14 && (erf_reference(-x) + wanted).abs() < 1e-14);
        }
    }
}
