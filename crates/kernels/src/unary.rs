//! Functions of one element that are no activations: absolute value, sign, square root, exponential, logarithm.
//!
//! | argument | |
//! |---|---|
//! | `input` | `rows` rows of `len` floats, `input_stride` apart |
//! | `out` | the same, `out_stride` apart; what lies between rows stays as it is |

use crate::Cpu;
use crate::activation::check_rows;
use crate::parallel::for_row_blocks;

/// What is done with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `|x|`.
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// `√x`.
    Sqrt,
    /// `e^x`.
    Exp,
    /// The natural logarithm.
    Log,
}

impl Unary {
    /// The function itself.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Unary::Abs => x.abs(),
            Unary::Sign if x == 0.0 => 0.0,
            Unary::Sign => x.signum(),
            Unary::Sqrt => x.sqrt(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
        }
    }
}

/// Applies `how` to `rows` rows of `len` floats.
///
/// # Panics
/// If a slice is shorter than its shape says.
#[allow(clippy::too_many_arguments)]
pub fn unary(
    cpu: &Cpu,
    how: Unary,
    rows: usize,
    len: usize,
    input: &[f32],
    input_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    check_rows("unary", rows, len, input, input_stride, out, out_stride);
    for_row_blocks(cpu, rows, len, out, out_stride, &|range, out| {
        for (i, row) in range.enumerate() {
            let input = &input[row * input_stride..][..len];
            let out = &mut out[i * out_stride..][..len];
            // One loop a function, so that each can be vectorised.
            match how {
                Unary::Abs => out.iter_mut().zip(input).for_each(|(y, x)| *y = x.abs()),
                Unary::Sqrt => out.iter_mut().zip(input).for_each(|(y, x)| *y = x.sqrt()),
                how => out.iter_mut().zip(input).for_each(|(y, &x)| *y = how.of(x)),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn rows_are_mapped_and_gaps_stay() {
        let cpu = Cpu::new(Isa::detect(), 3);
        let (rows, len) = (301, 7);
        let x: Vec<f32> = noise(rows * 9, 1).iter().map(|v| v.abs() + 0.5).collect();
        for how in [Unary::Abs, Unary::Sign, Unary::Sqrt, Unary::Exp, Unary::Log] {
            let mut y = vec![f32::NAN; rows * 8];
            unary(&cpu, how, rows, len, &x, 9, &mut y, 8);
            for row in 0..rows {
                (0..len).for_each(|i| assert_eq!(y[row * 8 + i], how.of(x[row * 9 + i])));
                assert!(y[row * 8 + len].is_nan());
            }
        }
        assert_eq!([-2.0, 0.0, 3.0].map(|x| Unary::Sign.of(x)), [-1.0, 0.0, 1.0]);
    }
}
