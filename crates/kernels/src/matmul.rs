//! Products of matrices that are both computed at run time: small and many, as in attention.
//!
//! `C[b][m][n] = Σ_k A[b][m][k] · B[b][k][n]`, all row-major and without gaps. `B` is read where it lies; for a matrix
//! that stays the same, [`gemm`](crate::gemm) packs it once and is faster.

use crate::Cpu;
use crate::parallel::for_row_blocks;
use crate::partial::{load_partial, store_partial};
use crate::simd::{Kernel, Simd, dispatch};

/// Rows of a tile.
const TILE: usize = 4;

/// Multiplies `batch` pairs of matrices; `[m, k, n]` are their sizes.
///
/// # Panics
/// If a slice is shorter than its shape says.
pub fn matmul(cpu: &Cpu, batch: usize, [m, k, n]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() >= batch * m * k && b.len() >= batch * k * n && c.len() >= batch * m * n, "matmul: slices");
    for_row_blocks(cpu, batch * m, (k * n).max(1), c, n, &|range, mut c| {
        let mut row = range.start;
        while row < range.end {
            // The rows of the range that belong to one matrix.
            let (index, count) = (row / m, (m - row % m).min(range.end - row));
            let (own, rest) = std::mem::take(&mut c).split_at_mut(count * n);
            let product = Product { m: count, k, n, a: &a[row * k..], b: &b[index * k * n..], c: own };
            // SAFETY: the CPU has the instruction set of its `Cpu`; the slices hold what the sizes say.
            unsafe { dispatch(cpu.isa, product) }
            (c, row) = (rest, row + count);
        }
    });
}

/// The reference for one product, in `f64`.
pub fn matmul_reference([m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}

struct Product<'a> {
    m: usize,
    k: usize,
    n: usize,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(mut self) {
        let mut row = 0;
        // SAFETY: rows `row..row + height` exist.
        unsafe {
            while row + TILE <= self.m {
                self.rows::<V, TILE>(row);
                row += TILE;
            }
            while row < self.m {
                self.rows::<V, 1>(row);
                row += 1;
            }
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    unsafe fn rows<V: Simd, const R: usize>(&mut self, row: usize) {
        let mut column = 0;
        // SAFETY: columns `column..column + width` exist.
        unsafe {
            while column + 2 * V::LANES <= self.n {
                self.tile::<V, R, 2>(row, column);
                column += 2 * V::LANES;
            }
            while column + V::LANES <= self.n {
                self.tile::<V, R, 1>(row, column);
                column += V::LANES;
            }
            if column < self.n {
                self.last::<V, R>(row, column);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Simd, const R: usize, const C: usize>(&mut self, row: usize, column: usize) {
        // SAFETY: the tile lies inside the three matrices.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            let (a, b) = (self.a.as_ptr().add(row * self.k), self.b.as_ptr().add(column));
            for k in 0..self.k {
                let mut line = [V::splat(0.0); C];
                for (j, line) in line.iter_mut().enumerate() {
                    *line = V::load(b.add(k * self.n + j * V::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*a.add(i * self.k + k));
                    for (sum, &line) in sums.iter_mut().zip(&line) {
                        *sum = value.mul_add(line, *sum);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    sum.store(self.c.as_mut_ptr().add((row + i) * self.n + column + j * V::LANES));
                }
            }
        }
    }

    /// The columns from `column` on, fewer than a vector.
    #[inline(always)]
    unsafe fn last<V: Simd, const R: usize>(&mut self, row: usize, column: usize) {
        // SAFETY: the tile lies inside the three matrices, and `count` is below `LANES`.
        unsafe {
            let count = self.n - column;
            let mut sums = [V::splat(0.0); R];
            let (a, b) = (self.a.as_ptr().add(row * self.k), self.b.as_ptr().add(column));
            for k in 0..self.k {
                let line = load_partial::<V>(b.add(k * self.n), count, 0.0);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = V::splat(*a.add(i * self.k + k)).mul_add(line, *sum);
                }
            }
            for (i, &sum) in sums.iter().enumerate() {
                store_partial(sum, self.c.as_mut_ptr().add((row + i) * self.n + column), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn every_shape_equals_the_reference() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let cpu = Cpu::new(isa, threads);
                for (batch, m, k, n) in [
                    (1, 1, 1, 1),
                    (2, 3, 0, 5),
                    (3, 5, 7, 11),
                    (2, 17, 16, 48),
                    (5, 4, 60, 33),
                    (7, 37, 31, 61),
                    (2, 0, 3, 4),
                ] {
                    let (a, b) = (noise(batch * m * k, 1), noise(batch * k * n, 2));
                    let mut c = vec![f32::NAN; batch * m * n];
                    matmul(&cpu, batch, [m, k, n], &a, &b, &mut c);
                    for i in 0..batch {
                        let wanted = matmul_reference([m, k, n], &a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
                        for (found, wanted) in c[i * m * n..].iter().zip(wanted) {
                            assert!((f64::from(*found) - wanted).abs() < 1e-5, "{isa} {batch}x{m}x{k}x{n}");
                        }
                    }
                }
            }
        }
    }
}
