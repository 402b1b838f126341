//! Sums and products of two operands, element by element, and multiples.
//!
//! | argument | |
//! |---|---|
//! | `a` | `rows` rows of `len` floats, `a_stride` apart |
//! | `b` | the same, `b_stride` apart; `b_stride == 0` is one row for all, such as a value per channel |
//! | `out` | the same, `out_stride` apart; what lies between rows stays as it is |

use crate::Cpu;
use crate::activation::check_rows;
use crate::parallel::for_row_blocks;
use crate::partial::{Map, load_partial, map_row};
use crate::simd::{Kernel, Simd, dispatch};

/// What is done with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
}

/// Combines two matrices element by element.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn binary(
    cpu: &Cpu,
    how: Binary,
    rows: usize,
    len: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("binary", rows, len, a, a_stride, out, out_stride);
    assert!(rows == 0 || b.len() >= (rows - 1) * b_stride + len, "binary: second operand is {} floats", b.len());
    for_row_blocks(cpu, rows, len, out, out_stride, &|range, out| {
        let (a, b) = (&a[range.start * a_stride..], &b[range.start * b_stride..]);
        let kernel = Rows2 { rows: range.len(), len, a, a_stride, b, b_stride, out, out_stride };
        // SAFETY: the CPU has the instruction set of its `Cpu`; the rows were checked above.
        unsafe {
            match how {
                Binary::Add => dispatch(cpu.isa, With(Add, kernel)),
                Binary::Sub => dispatch(cpu.isa, With(Sub, kernel)),
                Binary::Mul => dispatch(cpu.isa, With(Mul, kernel)),
                Binary::Div => dispatch(cpu.isa, With(Div, kernel)),
            }
        }
    });
}

/// `a * factor`.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn scale(
    cpu: &Cpu,
    factor: f32,
    rows: usize,
    len: usize,
    a: &[f32],
    a_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("scale", rows, len, a, a_stride, out, out_stride);
    for_row_blocks(cpu, rows, len, out, out_stride, &|range, out| {
        let a = &a[range.start * a_stride..];
        let kernel = Rows2 { rows: range.len(), len, a, a_stride, b: &[], b_stride: 0, out, out_stride };
        // SAFETY: the CPU has the instruction set of its `Cpu`; the rows were checked above and `b` is not read.
        unsafe { dispatch(cpu.isa, With(Multiple(factor), kernel)) }
    });
}

/// Two operands and an output, as rows.
pub(crate) struct Rows2<'a> {
    pub(crate) rows: usize,
    pub(crate) len: usize,
    pub(crate) a: &'a [f32],
    pub(crate) a_stride: usize,
    pub(crate) b: &'a [f32],
    pub(crate) b_stride: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
}

/// An operation on two vectors.
pub(crate) trait Combine: Copy {
    /// Whether `b` is read.
    const READS_B: bool;
    /// One vector of the result.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`.
    unsafe fn combine<V: Simd>(self, a: V, b: V) -> V;
}

#[derive(Clone, Copy)]
struct Add;
#[derive(Clone, Copy)]
struct Sub;
#[derive(Clone, Copy)]
struct Mul;
#[derive(Clone, Copy)]
struct Div;
#[derive(Clone, Copy)]
struct Multiple(f32);

macro_rules! combine_by {
    ($($type:ty, $reads:expr, $this:ident, $a:ident, $b:ident => $body:expr;)*) => {$(
        impl Combine for $type {
            const READS_B: bool = $reads;
            #[inline(always)]
            unsafe fn combine<V: Simd>(self, $a: V, $b: V) -> V {
                let $this = self;
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $body }
            }
        }
    )*};
}

combine_by! {
    Add, true, _this, a, b => a.add(b);
    Sub, true, _this, a, b => a.sub(b);
    Mul, true, _this, a, b => a.mul(b);
    Div, true, _this, a, b => a.div(b);
    Multiple, false, this, a, _b => a.mul(V::splat(this.0));
}

/// Combines rows.
pub(crate) struct With<'a, C>(pub(crate) C, pub(crate) Rows2<'a>);

impl<C: Combine> Kernel for With<'_, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let With(combine, rows) = self;
        for row in 0..rows.rows {
            // SAFETY: `binary` and `scale` checked that each row lies inside its slice.
            unsafe {
                let map = Second { combine, b: rows.b.as_ptr().wrapping_add(row * rows.b_stride) };
                let (a, out) =
                    (rows.a.as_ptr().add(row * rows.a_stride), rows.out.as_mut_ptr().add(row * rows.out_stride));
                map_row::<V, _>(&map, rows.len, a, out);
            }
        }
    }
}

struct Second<C> {
    combine: C,
    b: *const f32,
}

impl<C: Combine> Map for Second<C> {
    #[inline(always)]
    unsafe fn apply<V: Simd>(&self, a: V, at: usize, count: usize) -> V {
        // SAFETY: the row of `b` has `count` elements from `at` on.
        unsafe {
            let b = if !C::READS_B {
                a
            } else if count == V::LANES {
                V::load(self.b.add(at))
            } else {
                load_partial(self.b.add(at), count, 0.0)
            };
            self.combine.combine(a, b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn every_size_is_exact() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 3);
            for (rows, len) in [(1, 1), (3, 2), (5, 15), (2, 16), (7, 17), (301, 133)] {
                for repeat in [false, true] {
                    let (sa, so) = (len + 3, len + 5);
                    let sb = if repeat { 0 } else { len + 1 };
                    let (a, b) = (noise(rows * sa, 1), noise(rows * (len + 1), 2));
                    let (mut sum, mut product) = (vec![f32::NAN; rows * so], vec![f32::NAN; rows * so]);
                    let mut multiple = sum.clone();
                    binary(&cpu, Binary::Add, rows, len, &a, sa, &b, sb, &mut sum, so);
                    binary(&cpu, Binary::Mul, rows, len, &a, sa, &b, sb, &mut product, so);
                    let (mut difference, mut quotient) = (sum.clone(), sum.clone());
                    binary(&cpu, Binary::Sub, rows, len, &a, sa, &b, sb, &mut difference, so);
                    binary(&cpu, Binary::Div, rows, len, &a, sa, &b, sb, &mut quotient, so);
                    scale(&cpu, 0.3, rows, len, &a, sa, &mut multiple, so);
                    for row in 0..rows {
                        for i in 0..len {
                            let (x, y, at) = (a[row * sa + i], b[row * sb + i], row * so + i);
                            assert_eq!(
                                [sum[at], product[at], multiple[at], difference[at], quotient[at]],
                                [x + y, x * y, x * 0.3, x - y, x / y],
                                "{isa} {rows}x{len}"
                            );
                        }
                        assert!(sum[row * so + len].is_nan());
                    }
                }
            }
        }
    }
}
