//! Packed matrices.

use super::formats::{Format, IQ4_VALUES, f16_to_f32};
use super::layout::{CHUNK, Layout, Scales, WithLayout, take, with_layout};
use super::pack::{PackGroup, each_group};
use super::vector::shape;
use crate::pool::SendPtr;
use crate::sparse_conv_i8::Level;
use crate::{AlignedBuf, Cpu};

/// A matrix `[rows, k]` of blocks, rearranged for one instruction set; see the layout's table in `layout.rs`.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) format: Format,
    pub(super) level: Level,
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) quants: AlignedBuf,
    pub(super) scales: AlignedBuf,
    /// Bytes of a group in `quants` and in `scales`.
    pub(super) strides: [usize; 2],
}

impl Matrix {
    /// Rearranges `rows` rows of `k` weights, which lie in `bytes` as a file has them, with all threads.
    ///
    /// # Panics
    /// If the format is one of floats, `k` is no whole number of blocks, or the number of bytes does not fit.
    pub fn pack(cpu: &Cpu, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Matrix {
        Matrix::pack_for(cpu, Level::of(cpu.isa), format, rows, k, bytes)
    }

    pub(super) fn pack_for(cpu: &Cpu, level: Level, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Matrix {
        assert!(!format.is_dense(), "{} has no blocks", format.name());
        let row_bytes = format.row_bytes(k).expect("whole blocks");
        assert_eq!(rows.checked_mul(row_bytes), Some(bytes.len()), "bytes of {rows} rows of {k} weights");
        let (lanes, _) = shape(level);
        let groups = rows.div_ceil(lanes);
        let strides = with_layout(format, Strides { k, lanes });
        let floats = |stride: usize| (groups * stride).div_ceil(4);
        // SAFETY: packing writes every byte of each group, and groups are whole floats.
        let [mut quants, mut scales] = strides.map(|stride| unsafe { AlignedBuf::unwritten(floats(stride)) });
        let targets = [SendPtr(quants.as_mut_ptr().cast::<u8>()), SendPtr(scales.as_mut_ptr().cast::<u8>())];
        each_group(cpu, groups, groups * strides[0], &|group| {
            let first = group * lanes;
            let rows = &bytes[first * row_bytes..(first + lanes).min(rows) * row_bytes];
            // SAFETY: groups lie one after another in both buffers, and each is written by one task.
            let [quants, scales] = std::array::from_fn(|i| unsafe {
                std::slice::from_raw_parts_mut(targets[i].get().add(group * strides[i]), strides[i])
            });
            with_layout(format, PackGroup { level, rows, row_bytes, quants, scales });
        });
        Matrix { format, level, rows, k, quants, scales, strides }
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
        4 * (self.quants.len() + self.scales.len())
    }

    pub(super) fn lanes(&self) -> usize {
        shape(self.level).0
    }

    /// Number of groups of rows.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(self.lanes())
    }

    /// The exact values of row `row`.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not `k` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k, "row {row} of {}x{}", self.rows, self.k);
        let (group, lane) = (row / self.lanes(), row % self.lanes());
        let [quants, scales] = [&self.quants, &self.scales].map(|buf| {
            // SAFETY: any byte of a float may be read.
            unsafe { std::slice::from_raw_parts(buf.as_ptr().cast::<u8>(), 4 * buf.len()) }
        });
        let quants = &quants[group * self.strides[0]..][..self.strides[0]];
        let scales = &scales[group * self.strides[1]..][..self.strides[1]];
        with_layout(self.format, ReadRow { level: self.level, lane, quants, scales, out });
    }
}

/// Bytes of a group.
struct Strides {
    k: usize,
    lanes: usize,
}

impl WithLayout for Strides {
    type Output = [usize; 2];
    fn run<L: Layout>(self) -> [usize; 2] {
        let (weights, bytes) = L::SCALES.record(L::SUB);
        [self.k / CHUNK * L::VECTORS * 4 * self.lanes, self.k / weights * bytes * self.lanes]
    }
}

fn get(record: &[u8], lanes: usize, lane: usize, index: usize) -> f32 {
    let at = 2 * (index * lanes + lane);
    f16_to_f32(u16::from_ne_bytes([record[at], record[at + 1]]))
}

/// Reads one row of a group.
struct ReadRow<'a> {
    level: Level,
    lane: usize,
    quants: &'a [u8],
    scales: &'a [u8],
    out: &'a mut [f32],
}

impl WithLayout for ReadRow<'_> {
    type Output = ();
    fn run<L: Layout>(self) {
        let (lanes, signed) = shape(self.level);
        let (vector, lane) = (4 * lanes, self.lane);
        let (weights, record_bytes) = L::SCALES.record(L::SUB);
        for (sub, out) in self.out.chunks_exact_mut(L::SUB).enumerate() {
            let record = &self.scales[sub * L::SUB / weights * record_bytes * lanes..];
            let s = sub % (weights / L::SUB);
            let d = get(record, lanes, lane, 0);
            let m = || get(record, lanes, lane, 1);
            let (scale, min) = match L::SCALES {
                Scales::Half => (d, 0.0),
                Scales::HalfMin => (d, m()),
                Scales::Super => (d * f32::from(record[(2 + s) * lanes + lane] as i8), 0.0),
                Scales::SuperMin => (
                    d * f32::from(record[(4 + 2 * s) * lanes + lane]),
                    m() * f32::from(record[(5 + 2 * s) * lanes + lane]),
                ),
                Scales::SuperNibbles => {
                    let both = record[(4 + s) * lanes + lane];
                    (d * f32::from(both & 15), m() * f32::from(both >> 4))
                }
            };
            for (i, out) in out.iter_mut().enumerate() {
                let at = sub * L::SUB + i;
                let chunk = &self.quants[at / CHUNK * L::VECTORS * vector..];
                let q = take(L::LOW, L::HIGH, chunk, vector, at % CHUNK / 4, lane * 4 + at % 4);
                let value = match (L::TABLE, L::LOW) {
                    (true, _) => i32::from(IQ4_VALUES[usize::from(q)]),
                    (_, 8) if signed => i32::from(q as i8),
                    _ => i32::from(q) - L::FORMAT.offset(),
                };
                let product = scale * value as f32;
                *out = if L::SCALES.has_min() { product + min } else { product };
            }
        }
    }
}
