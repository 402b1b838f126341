//! Products with matrices of floats, which stay in 16 bits where they are stored so.
//!
//! `LANES` rows make a group, which lies `[k][LANES]`: a lane is a row. A tile is a few groups times a few columns; each sum
//! is made in the order of `k`, whatever the tile.

use super::formats::{Format, dequantise, f32_to_f16};
use super::pack::each_group;
use super::vector::{Brain, Half, Kernel, Quads, Single, Stored, dispatch, shape};
use crate::pool::SendPtr;
use crate::simd::{Simd, bf16_bits};
use crate::sparse_conv_i8::Level;
use crate::{AlignedBuf, Cpu};
use std::ops::Range;

/// A matrix `[rows, k]` of floats, rearranged for one instruction set.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    format: Format,
    level: Level,
    rows: usize,
    k: usize,
    data: AlignedBuf,
}

/// One of the products of a region.
#[derive(Debug)]
pub struct DenseJob<'a> {
    /// The matrix.
    pub matrix: &'a DenseMatrix,
    /// `[columns, rows]`.
    pub out: &'a mut [f32],
    /// Floats from one column's result to the next.
    pub stride: usize,
}

impl DenseMatrix {
    /// Rearranges `rows` rows of `k` floats, which lie in `bytes` as a file has them.
    ///
    /// # Panics
    /// If the format is not one of floats, or the number of bytes does not fit.
    pub fn pack(cpu: &Cpu, format: Format, rows: usize, k: usize, bytes: &[u8]) -> DenseMatrix {
        DenseMatrix::pack_for(cpu, Level::of(cpu.isa), format, rows, k, bytes)
    }

    pub(super) fn pack_for(
        cpu: &Cpu,
        level: Level,
        format: Format,
        rows: usize,
        k: usize,
        bytes: &[u8],
    ) -> DenseMatrix {
        assert!(format.is_dense(), "{} is no format of floats", format.name());
        let size = format.block().1;
        assert_eq!(rows.checked_mul(k * size), Some(bytes.len()), "bytes of {rows} rows of {k} floats");
        let lanes = shape(level).0;
        let groups = rows.div_ceil(lanes);
        let stride = k * lanes * size;
        // SAFETY: packing writes every byte of each group, and groups are whole floats.
        let mut data = unsafe { AlignedBuf::unwritten((groups * stride).div_ceil(4)) };
        let to = SendPtr(data.as_mut_ptr().cast::<u8>());
        each_group(cpu, groups, groups * stride, &|group| {
            // SAFETY: groups lie one after another, and each is written by one task.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(group * stride), stride) };
            let first = group * lanes;
            let rows = &bytes[first * k * size..(first + lanes).min(rows) * k * size];
            match size {
                4 => pack_group::<4>(lanes, k, rows, to),
                _ => pack_group::<2>(lanes, k, rows, to),
            }
        });
        DenseMatrix { format, level, rows, k, data }
    }

    /// [`pack`](Self::pack) of 32-bit floats, rounded where `format` has fewer bits.
    ///
    /// # Panics
    /// As there.
    pub fn pack_floats(cpu: &Cpu, format: Format, rows: usize, k: usize, values: &[f32]) -> DenseMatrix {
        let bytes: Vec<u8> = match format {
            Format::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Format::F16 => values.iter().flat_map(|&v| f32_to_f16(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| bf16_bits(v).to_le_bytes()).collect(),
        };
        DenseMatrix::pack(cpu, format, rows, k, &bytes)
    }

    /// Format of its weights.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        4 * self.data.len()
    }

    fn groups(&self) -> usize {
        self.rows.div_ceil(shape(self.level).0)
    }

    /// The values of row `row`.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not `k` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k, "row {row} of {}x{}", self.rows, self.k);
        let (lanes, size) = (shape(self.level).0, self.format.block().1);
        // SAFETY: any byte of a float may be read.
        let bytes = unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<u8>(), 4 * self.data.len()) };
        let group = &bytes[row / lanes * self.k * lanes * size..];
        for (i, out) in out.iter_mut().enumerate() {
            let value = &group[(i * lanes + row % lanes) * size..][..size];
            if cfg!(target_endian = "big") {
                let reversed: Vec<u8> = value.iter().rev().copied().collect();
                dequantise(self.format, &reversed, std::slice::from_mut(out));
            } else {
                dequantise(self.format, value, std::slice::from_mut(out));
            }
        }
    }
}

/// Packs the rows of one group, floats of `SIZE` bytes; those that are missing become zero.
fn pack_group<const SIZE: usize>(lanes: usize, k: usize, rows: &[u8], to: &mut [u8]) {
    if rows.len() < lanes * k * SIZE {
        to.fill(0);
    }
    // Rows take turns, so that what they write is still at hand.
    const TURN: usize = 64;
    for (turn, to) in to.chunks_mut(TURN * lanes * SIZE).enumerate() {
        for (lane, row) in rows.chunks_exact(k * SIZE).enumerate() {
            let values = row[turn * TURN * SIZE..].as_chunks::<SIZE>().0;
            for (to, value) in to.chunks_exact_mut(lanes * SIZE).zip(values) {
                let mut value = *value;
                if cfg!(target_endian = "big") {
                    value.reverse();
                }
                to[lane * SIZE..][..SIZE].copy_from_slice(&value);
            }
        }
    }
}

/// Multiplies each job's matrix with `columns` columns, which lie in `x` one after another.
///
/// # Panics
/// If there are more than [`MAX_JOBS`](super::MAX_JOBS), or a slice is shorter than its shape says.
pub fn multiply_dense(cpu: &Cpu, columns: usize, x: &[f32], jobs: &mut [DenseJob<'_>]) {
    assert!(jobs.len() <= super::MAX_JOBS, "{} products in one region", jobs.len());
    if columns == 0 {
        return;
    }
    let mut targets = [None; super::MAX_JOBS];
    let mut panels = 0;
    for (target, job) in targets.iter_mut().zip(jobs) {
        let DenseMatrix { rows, k, .. } = *job.matrix;
        assert!(x.len() >= columns * k, "activations of {columns} columns of {k}");
        assert!(job.stride >= rows && job.out.len() >= (columns - 1) * job.stride + rows, "room for a product");
        *target = Some((job.matrix, SendPtr(job.out.as_mut_ptr()), job.stride, panels));
        panels += job.matrix.groups().div_ceil(PANEL);
    }
    let threads = cpu.threads();
    let block = panels.div_ceil(threads * 6).max(1);
    cpu.pool.run(panels.div_ceil(block), &|task, _| {
        let range = task * block..((task + 1) * block).min(panels);
        for &(matrix, out, stride, first) in targets.iter().flatten() {
            let own = range.start.max(first)..range.end.min(first + matrix.groups().div_ceil(PANEL));
            if !own.is_empty() {
                let panels = own.start - first..own.end - first;
                // SAFETY: the matrix was packed for this level, which the CPU therefore has; sizes were checked above, and
                // no two tasks share rows.
                unsafe { dispatch(matrix.level, Part { matrix, columns, x, out, stride, panels }) }
            }
        }
    });
}

/// Groups of a tile.
const PANEL: usize = 4;

struct Part<'a> {
    matrix: &'a DenseMatrix,
    columns: usize,
    x: &'a [f32],
    out: SendPtr<f32>,
    stride: usize,
    panels: Range<usize>,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: Quads>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.matrix.format {
                Format::F16 => self.all::<V, Half>(),
                Format::Bf16 => self.all::<V, Brain>(),
                _ => self.all::<V, Single>(),
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn all<V: Quads, S: Stored>(&self) {
        let groups = self.matrix.groups();
        for panel in self.panels.clone() {
            let mut group = panel * PANEL;
            let end = (group + PANEL).min(groups);
            // SAFETY: the groups exist.
            unsafe {
                if group + PANEL <= end {
                    self.columns::<V, S, PANEL>(group);
                } else {
                    while group < end {
                        self.columns::<V, S, 1>(group);
                        group += 1;
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn columns<V: Quads, S: Stored, const G: usize>(&self, group: usize) {
        let mut column = 0;
        // SAFETY: the columns exist.
        unsafe {
            if <V::Floats as Simd>::REGISTERS >= 32 {
                while column + 6 <= self.columns {
                    self.tile::<V, S, 6, G>(group, column);
                    column += 6;
                }
            }
            while column + 2 <= self.columns {
                self.tile::<V, S, 2, G>(group, column);
                column += 2;
            }
            if column < self.columns {
                self.tile::<V, S, 1, G>(group, column);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Quads, S: Stored, const N: usize, const G: usize>(&self, group: usize, column: usize) {
        let (k, lanes) = (self.matrix.k, V::LANES);
        // SAFETY: groups and columns exist, by the caller's promise.
        unsafe {
            let stride = k * lanes * S::BYTES;
            let weights = self.matrix.data.as_ptr().cast::<u8>().add(group * stride);
            let x = self.x.as_ptr().add(column * k);
            let mut sums = [[V::Floats::splat(0.0); G]; N];
            for i in 0..k {
                let w: [V::Floats; G] =
                    std::array::from_fn(|g| S::load::<V>(weights.add(g * stride + i * lanes * S::BYTES)));
                for (t, sums) in sums.iter_mut().enumerate() {
                    let value = V::Floats::splat(*x.add(t * k + i));
                    for (sum, &w) in sums.iter_mut().zip(&w) {
                        *sum = w.mul_add(value, *sum);
                    }
                }
            }
            for (t, sums) in sums.into_iter().enumerate() {
                for (g, sum) in sums.into_iter().enumerate() {
                    let row = (group + g) * lanes;
                    let out = self.out.get().add((column + t) * self.stride + row);
                    let count = lanes.min(self.matrix.rows - row);
                    if count == lanes { sum.store(out) } else { sum.store_first(out, count) }
                }
            }
        }
    }
}
