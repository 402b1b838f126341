//! `C[k][n] = Σ_p A[p][k] · B[p][n]`: the product of a transposed matrix with another, both tall. The gradient of weights is
//! such a product over all pixels or tokens.
//!
//! | argument | shape |
//! |---|---|
//! | `A` | rows of `k` floats |
//! | `B` | rows of `n` floats, readable up to whole vectors |
//! | `C` | `k ×` [`padded_columns`]; columns from `n` on get unspecified values |
//!
//! Rows come in [`Segment`]s, so that a convolution reads its input where it lies, one tap at a time. Nothing is packed: a
//! tile of `C` stays in registers while rows of both matrices stream by.

use crate::Isa;
use crate::simd::{Kernel, Simd, lanes};

/// Rows that follow each other at equal steps in both matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where the first row starts in `A`.
    pub a: usize,
    /// Where the first row starts in `B`.
    pub b: usize,
    /// Number of rows.
    pub count: usize,
}

/// Floats of a row of `C`.
pub fn padded_columns(isa: Isa, n: usize) -> usize {
    n.next_multiple_of(lanes(isa))
}

/// Adds a product to `c`.
pub(super) struct TransposedProduct<'a> {
    pub k: usize,
    pub n: usize,
    pub a: &'a [f32],
    /// Floats from one row of `A` to the next.
    pub a_step: usize,
    pub b: &'a [f32],
    /// Floats from one row of `B` to the next.
    pub b_step: usize,
    pub segments: &'a [Segment],
    pub c: &'a mut [f32],
}

impl Kernel for TransposedProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(mut self) {
        let columns = self.n.next_multiple_of(V::LANES);
        assert!(self.c.len() >= self.k * columns, "transposed product: C is {} floats", self.c.len());
        for s in self.segments.iter().filter(|s| s.count > 0) {
            let (a, b) = (s.a + (s.count - 1) * self.a_step + self.k, s.b + (s.count - 1) * self.b_step + columns);
            assert!(a <= self.a.len() && b <= self.b.len(), "transposed product: {s:?} exceeds its matrix");
        }
        let mut column = 0;
        while column < columns {
            let left = (columns - column) / V::LANES;
            // SAFETY: all segments were checked just now, and tiles lie inside `k` and `columns`.
            let done = unsafe {
                match (V::REGISTERS >= 32, left) {
                    (true, 4) => self.columns::<V, 6, 4>(column, columns),
                    (true, 3 | 5..) => self.columns::<V, 8, 3>(column, columns),
                    (_, 2..) => self.columns::<V, 6, 2>(column, columns),
                    _ => self.columns::<V, 8, 1>(column, columns),
                }
            };
            column += done * V::LANES;
        }
    }
}

impl TransposedProduct<'_> {
    /// All rows of `C`, `NV` vectors of columns from `column` on. Returns `NV`.
    #[inline(always)]
    unsafe fn columns<V: Simd, const MR: usize, const NV: usize>(&mut self, column: usize, ldc: usize) -> usize {
        let mut row = 0;
        // SAFETY: rows `row..row + height` exist.
        unsafe {
            while row + MR <= self.k {
                self.tile::<V, MR, NV>(row, column, ldc);
                row += MR;
            }
            while row + 3 <= self.k {
                self.tile::<V, 3, NV>(row, column, ldc);
                row += 3;
            }
            while row < self.k {
                self.tile::<V, 1, NV>(row, column, ldc);
                row += 1;
            }
        }
        NV
    }

    #[inline(always)]
    unsafe fn tile<V: Simd, const MR: usize, const NV: usize>(&mut self, row: usize, column: usize, ldc: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[V::splat(0.0); NV]; MR];
            for segment in self.segments {
                let mut a = self.a.as_ptr().wrapping_add(segment.a + row);
                let mut b = self.b.as_ptr().wrapping_add(segment.b + column);
                for _ in 0..segment.count {
                    let mut line = [V::splat(0.0); NV];
                    for (j, line) in line.iter_mut().enumerate() {
                        *line = V::load(b.add(j * V::LANES));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let value = V::splat(*a.add(i));
                        for (sum, &line) in sums.iter_mut().zip(&line) {
                            *sum = value.mul_add(line, *sum);
                        }
                    }
                    a = a.wrapping_add(self.a_step);
                    b = b.wrapping_add(self.b_step);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let c = self.c.as_mut_ptr().add((row + i) * ldc + column + j * V::LANES);
                    V::load(c).add(sum).store(c);
                }
            }
        }
    }
}
