//! Packing: bytes of a file, rearranged into the layout of `layout.rs`.
//!
//! A matrix is read once and written once, into memory that nobody touched before. Threads take runs of groups of about a
//! huge page, so that it is one thread that has a page cleared. Within a group the rows take turns every 256 weights: what
//! they write lies side by side. Four weights move at a time, as the bytes of one number.

use super::formats::{Block, IQ4_VALUES};
use super::layout::{CHUNK, Layout, STEPS, Scales, WithLayout, planes};
use super::vector::shape;
use crate::Cpu;
use crate::sparse_conv_i8::Level;

/// Bytes of a run of groups.
const RUN: usize = 2 << 20;
/// Weights after which another row has its turn.
const TURN: usize = 256;

/// Calls `pack(group)` for each group of a matrix of `bytes` bytes, with all threads.
pub(super) fn each_group(cpu: &Cpu, groups: usize, bytes: usize, pack: &(dyn Fn(usize) + Sync)) {
    let runs = (bytes / RUN).max(cpu.threads()).min(groups);
    let at = |run: usize| (run as u128 * groups as u128 / runs as u128) as usize;
    cpu.pool.run(runs, &|run, _| (at(run)..at(run + 1)).for_each(pack));
}

/// Packs the rows of one group; those that are missing become zero.
pub(super) struct PackGroup<'a> {
    pub level: Level,
    pub rows: &'a [u8],
    pub row_bytes: usize,
    pub quants: &'a mut [u8],
    pub scales: &'a mut [u8],
}

impl WithLayout for PackGroup<'_> {
    type Output = ();
    fn run<L: Layout>(mut self) {
        let (lanes, _) = shape(self.level);
        let (weights, size) = L::FORMAT.block();
        let blocks = self.row_bytes / size;
        if self.rows.len() < lanes * self.row_bytes {
            self.quants.fill(0);
            self.scales.fill(0);
        }
        let mut block = Block::default();
        for first in (0..blocks).step_by(TURN / weights) {
            for (lane, row) in self.rows.chunks_exact(self.row_bytes).enumerate() {
                let last = (first + TURN / weights).min(blocks);
                for (b, bytes) in (first..last).zip(row[first * size..last * size].chunks_exact(size)) {
                    L::FORMAT.read(bytes, &mut block);
                    self.put_quants::<L>(b, lane, &block);
                    self.put_scales::<L>(b, lane, &block);
                }
            }
        }
    }
}

impl PackGroup<'_> {
    #[inline(always)]
    fn put_quants<L: Layout>(&mut self, b: usize, lane: usize, block: &Block) {
        let (lanes, signed) = shape(self.level);
        let (weights, vector) = (L::FORMAT.block().0, 4 * lanes);
        let chunk_bytes = L::VECTORS * vector;
        let chunks = &mut self.quants[b * (weights / CHUNK) * chunk_bytes..][..weights / CHUNK * chunk_bytes];
        for (chunk, quants) in chunks.chunks_exact_mut(chunk_bytes).zip(block.quants.chunks_exact(CHUNK)) {
            let steps: [u32; STEPS] = std::array::from_fn(|s| {
                let quad: [u8; 4] = std::array::from_fn(|i| match L::TABLE {
                    true => INDICES[usize::from(quants[4 * s + i])],
                    false => quants[4 * s + i],
                });
                u32::from_ne_bytes(quad) ^ if L::LOW == 8 && signed { 0x8080_8080 } else { 0 }
            });
            let planes = planes(L::LOW, L::HIGH, &steps);
            for (vector, plane) in chunk.chunks_exact_mut(vector).zip(planes) {
                vector[4 * lane..][..4].copy_from_slice(&plane.to_ne_bytes());
            }
        }
    }

    #[inline(always)]
    fn put_scales<L: Layout>(&mut self, b: usize, lane: usize, block: &Block) {
        let (lanes, _) = shape(self.level);
        let (per_record, bytes) = L::SCALES.record(L::SUB);
        debug_assert_eq!(per_record, L::FORMAT.block().0, "a record of scales is a block");
        let record = &mut self.scales[b * bytes * lanes..][..bytes * lanes];
        let min = if L::FORMAT.min_sign() < 0.0 { block.min ^ 0x8000 } else { block.min };
        put(record, lanes, lane, 0, block.scale);
        if L::SCALES.has_min() {
            put(record, lanes, lane, 1, min);
        }
        for sub in 0..per_record / L::SUB {
            let (scale, min) = (block.scales[sub] as u8, block.mins[sub]);
            match L::SCALES {
                Scales::Half | Scales::HalfMin => {}
                Scales::Super => record[(2 + sub) * lanes + lane] = scale,
                Scales::SuperMin => {
                    record[(4 + 2 * sub) * lanes + lane] = scale;
                    record[(5 + 2 * sub) * lanes + lane] = min;
                }
                Scales::SuperNibbles => record[(4 + sub) * lanes + lane] = scale | min << 4,
            }
        }
    }
}

/// Half `index` of a record.
fn put(record: &mut [u8], lanes: usize, lane: usize, index: usize, value: u16) {
    record[2 * (index * lanes + lane)..][..2].copy_from_slice(&value.to_ne_bytes());
}

/// The index of each value of the table, which has 128 added.
const INDICES: [u8; 256] = {
    let mut indices = [0; 256];
    let mut index = 0;
    while index < IQ4_VALUES.len() {
        indices[(IQ4_VALUES[index] as u8 ^ 0x80) as usize] = index as u8;
        index += 1;
    }
    indices
};
