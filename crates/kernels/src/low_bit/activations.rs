//! Activations in 8-bit integers.
//!
//! Each 32 values of a column share a scale: `scale = max |x| / 127`, `q = round(x / scale)`, ties to even, so that `|q| ≤
//! 127`. Beside them stand what products need again and again: sums of 16 and of 32 integers, negative, for weights whose
//! zero is not 0; and those sums times the scale, for weights with a minimum.

use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Isa};

/// Columns of `k` activations.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    pub(super) k: usize,
    pub(super) columns: usize,
    /// `[columns, k]`.
    pub(super) quants: Vec<i8>,
    /// `[columns, k / 32]`.
    pub(super) scales: Vec<f32>,
    /// Negative sums of 32, then of 16: `[columns, k / 32]` and `[columns, k / 16]`.
    pub(super) sums: [Vec<i32>; 2],
    /// Sums times scales, as above, not negative.
    pub(super) scaled_sums: [Vec<f32>; 2],
}

impl Activations {
    /// None yet.
    pub fn new() -> Activations {
        Activations::default()
    }

    /// Makes room for `columns` columns of `k` activations; allocates only when there was less room before.
    ///
    /// # Panics
    /// If `k` is no multiple of 32.
    pub fn resize(&mut self, columns: usize, k: usize) {
        assert!(k.is_multiple_of(32), "activations come in blocks of 32, not {k}");
        (self.k, self.columns) = (k, columns);
        self.quants.resize(columns * k, 0);
        self.scales.resize(columns * k / 32, 0.0);
        for (i, width) in [32, 16].into_iter().enumerate() {
            self.sums[i].resize(columns * k / width, 0);
            self.scaled_sums[i].resize(columns * k / width, 0.0);
        }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Length of a column.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The integers and scales of column `column`.
    pub fn column(&self, column: usize) -> (&[i8], &[f32]) {
        (&self.quants[column * self.k..][..self.k], &self.scales[column * self.k / 32..][..self.k / 32])
    }

    /// Quantises columns that lie one after another in `x`.
    ///
    /// # Panics
    /// If `x` is not `columns · k` long.
    pub fn quantise(&mut self, cpu: &Cpu, x: &[f32]) {
        let k = self.k;
        let parts = self.parts();
        assert_eq!(x.len(), parts.columns * k, "activations to quantise");
        cpu.pool.run(if parts.columns < 4 { 1 } else { parts.columns }, &|task, _| {
            let columns = if parts.columns < 4 { 0..parts.columns } else { task..task + 1 };
            for column in columns {
                // SAFETY: each column is quantised by one task.
                unsafe { parts.quantise(cpu.isa, column, &x[column * k..][..k]) }
            }
        });
    }

    pub(crate) fn parts(&mut self) -> Parts {
        Parts {
            k: self.k,
            columns: self.columns,
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: [self.sums[0].as_mut_ptr(), self.sums[1].as_mut_ptr()],
            scaled_sums: [self.scaled_sums[0].as_mut_ptr(), self.scaled_sums[1].as_mut_ptr()],
        }
    }
}

/// Columns of [`Activations`] that tasks of a parallel region fill, each its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    k: usize,
    columns: usize,
    quants: *mut i8,
    scales: *mut f32,
    sums: [*mut i32; 2],
    scaled_sums: [*mut f32; 2],
}

// SAFETY: whoever fills a column promises that nobody else does.
unsafe impl Send for Parts {}
// SAFETY: as above.
unsafe impl Sync for Parts {}

impl Parts {
    /// Quantises `x` into column `column`.
    ///
    /// # Safety
    /// The activations are alive and were not resized since, and no one else uses the column meanwhile.
    pub(crate) unsafe fn quantise(&self, isa: Isa, column: usize, x: &[f32]) {
        assert!(column < self.columns && x.len() == self.k, "column {column} of {}", self.columns);
        // SAFETY: the caller's promise; a column's parts lie within the buffers.
        unsafe {
            let part = |width: usize| column * self.k / width;
            dispatch(
                isa,
                Quantise {
                    x,
                    quants: std::slice::from_raw_parts_mut(self.quants.add(column * self.k), self.k),
                    scales: std::slice::from_raw_parts_mut(self.scales.add(part(32)), self.k / 32),
                    sums: [32, 16].map(|w| {
                        std::slice::from_raw_parts_mut(self.sums[usize::from(w == 16)].add(part(w)), self.k / w)
                    }),
                    scaled_sums: [32, 16].map(|w| {
                        std::slice::from_raw_parts_mut(self.scaled_sums[usize::from(w == 16)].add(part(w)), self.k / w)
                    }),
                },
            );
        }
    }
}

struct Quantise<'a> {
    x: &'a [f32],
    quants: &'a mut [i8],
    scales: &'a mut [f32],
    sums: [&'a mut [i32]; 2],
    scaled_sums: [&'a mut [f32]; 2],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    // Plain loops of a fixed length, which become vectors of whatever instruction set this is compiled for.
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        for (block, x) in self.x.as_chunks::<32>().0.iter().enumerate() {
            let mut lanes = [0.0f32; 16];
            for (i, &v) in x.iter().enumerate() {
                lanes[i % 16] = lanes[i % 16].max(v.abs());
            }
            let largest = lanes.iter().fold(0.0f32, |a, &b| a.max(b)).min(f32::MAX);
            let scale = largest / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let mut numbers = [0i32; 32];
            for (n, &v) in numbers.iter_mut().zip(x) {
                *n = ((v * inverse).round_ties_even() as i32).clamp(-127, 127);
            }
            for (q, &n) in self.quants[block * 32..][..32].iter_mut().zip(&numbers) {
                *q = n as i8;
            }
            let halves = [numbers[..16].iter().sum::<i32>(), numbers[16..].iter().sum::<i32>()];
            let sum = halves[0] + halves[1];
            self.scales[block] = scale;
            self.sums[0][block] = -sum;
            self.scaled_sums[0][block] = scale * sum as f32;
            for (i, half) in halves.into_iter().enumerate() {
                self.sums[1][2 * block + i] = -half;
                self.scaled_sums[1][2 * block + i] = scale * half as f32;
            }
        }
    }
}
