//! Where a sliding window stands over a picture.

use std::ops::Range;

/// A window over a picture, with the sizes of both pictures. Output pixel (y, x) reads input rows from `y · stride − top` on
/// and columns from `x · stride − left` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Rows and columns between neighbours.
    pub stride: [usize; 2],
    /// Rows above and columns to the left of the input.
    pub before: [usize; 2],
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Geometry {
    /// Positions of the window.
    pub fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Columns that the windows of a row reach over.
    pub(super) fn reach(&self) -> usize {
        (self.output[1].max(1) - 1) * self.stride[1] + self.kernel[1]
    }

    /// The input row under row `ky` of the window at output row `y`, unless that lies in the padding.
    pub(super) fn input_row(&self, y: usize, ky: usize) -> Option<usize> {
        (y * self.stride[0] + ky).checked_sub(self.before[0]).filter(|&row| row < self.input[0])
    }

    /// Positions of the window inside the input, along `axis` (0 for rows), at output position `at`.
    pub(super) fn inside(&self, axis: usize, at: usize) -> Range<usize> {
        let start = at * self.stride[axis];
        let first = self.before[axis].saturating_sub(start).min(self.kernel[axis]);
        let end = (self.before[axis] + self.input[axis]).saturating_sub(start).min(self.kernel[axis]);
        first..end.max(first)
    }

    /// Output columns whose windows have their column `kx` inside the input.
    pub(super) fn columns_inside(&self, kx: usize) -> Range<usize> {
        let first = self.before[1].saturating_sub(kx).div_ceil(self.stride[1]).min(self.output[1]);
        let end = (self.before[1] + self.input[1]).saturating_sub(kx).div_ceil(self.stride[1]).min(self.output[1]);
        first..end.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_the_definition() {
        for (input, kernel, stride, before) in [(7, 3, 1, 1), (7, 3, 2, 0), (8, 5, 2, 2), (1, 3, 1, 1), (6, 2, 3, 0)] {
            let output = (input + 2 * before - kernel) / stride + 1;
            let g = Geometry {
                kernel: [kernel; 2],
                stride: [stride; 2],
                before: [before; 2],
                input: [input; 2],
                output: [output; 2],
            };
            for at in 0..output {
                for k in 0..kernel {
                    let row = (at * stride + k).checked_sub(before).filter(|&row| row < input);
                    assert_eq!(g.input_row(at, k), row);
                    assert_eq!(g.inside(0, at).contains(&k), row.is_some());
                    assert_eq!(g.columns_inside(k).contains(&at), row.is_some());
                }
            }
        }
    }
}
