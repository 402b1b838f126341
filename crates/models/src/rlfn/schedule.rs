//! In which order the rows of a pass are computed.
//!
//! Each stage of the network produces its rows from top to bottom as soon as the rows it reads are there, at most
//! [`band`](Schedule::band) at a time. The schedule knows nothing of data: it is run once with nothing but counters, to
//! size the rolling windows, and then for real.

use std::ops::Range;
use supple_tensor::kernels::spatial_attention::Lerp;

/// A stage to run for some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take input rows from the source.
    Read(Range<usize>),
    /// `conv_1`.
    Head(Range<usize>),
    /// `c1_r` of a block.
    First(usize, Range<usize>),
    /// `c2_r`.
    Second(usize, Range<usize>),
    /// `c3_r` plus the block's input, `c5` and the attention's `conv1`.
    Third(usize, Range<usize>),
    /// The attention's `conv2`, half the rows.
    Half(usize, Range<usize>),
    /// Its max pooling, a sixth of the rows.
    Pool(usize, Range<usize>),
    /// Its `conv3` and `conv4`.
    Coarse(usize, Range<usize>),
    /// Its gate: the block's output.
    Gate(usize, Range<usize>),
    /// `conv_2` plus `conv_1`.
    Body(Range<usize>),
    /// The tail convolution, pixel shuffle, and delivery to the sink.
    Tail(Range<usize>),
}

/// Rows that each stage of a block has produced.
#[derive(Clone, Debug, Default)]
struct Block {
    first: usize,
    second: usize,
    third: usize,
    half: usize,
    pool: usize,
    coarse: usize,
    gate: usize,
}

/// Rows that a pass must hold at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capacities {
    pub input: usize,
    pub blocks: Vec<BlockCapacities>,
    /// Output of the last block.
    pub features: usize,
    pub body: usize,
}

/// Rows that a block must hold at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockCapacities {
    pub input: usize,
    pub first: usize,
    pub second: usize,
    pub third: usize,
    pub half: usize,
    pub pool: usize,
    pub coarse: usize,
}

/// Sizes of the attention's small maps along one side of a picture: after `conv2`, and after pooling.
pub(super) fn attention_sides(side: usize) -> (usize, usize) {
    let half = (side.saturating_sub(3)) / 2 + 1;
    (half, half.saturating_sub(7) / 3 + 1)
}

/// The state of a pass.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    height: usize,
    tile: usize,
    band: usize,
    read: usize,
    head: usize,
    blocks: Vec<Block>,
    body: usize,
    tail: usize,
    capacities: Capacities,
}

/// Rows of a 3×3 convolution with padding 1 that can be computed from `available` of `total` input rows.
fn ready(available: usize, total: usize) -> usize {
    if available == total { total } else { available.saturating_sub(1) }
}

impl Schedule {
    /// A pass down `height` rows through `blocks` blocks, `band` rows at a time, rounded up to a multiple of `tile`: the
    /// convolutions are computed in rows of tiles.
    pub(super) fn new(height: usize, blocks: usize, tile: usize, band: usize) -> Schedule {
        let capacities = Capacities { blocks: vec![BlockCapacities::default(); blocks], ..Capacities::default() };
        Schedule {
            height,
            tile,
            band: band.next_multiple_of(tile),
            read: 0,
            head: 0,
            blocks: vec![Block::default(); blocks],
            body: 0,
            tail: 0,
            capacities,
        }
    }

    /// Most rows of a step.
    pub(super) fn band(&self) -> usize {
        self.band
    }

    /// The rolling windows that a whole pass needs.
    pub(super) fn capacities(mut self) -> Capacities {
        while self.advance(&mut |_| true) {}
        self.capacities
    }

    /// Rows to do next out of `ready`, given that `done` are done: whole tiles except at the end.
    fn next(&self, done: usize, ready: usize) -> Range<usize> {
        let end = ready.min(done + self.band);
        done..if end == self.height { end } else { (end / self.tile * self.tile).max(done) }
    }

    /// Visits each stage once with the rows that it can do now. False when the pass is over or `visit` returned false.
    pub(super) fn advance(&mut self, visit: &mut dyn FnMut(Step) -> bool) -> bool {
        if self.tail == self.height {
            return false;
        }
        let height = self.height;
        let mut go = true;
        let mut visit = |step: Step, rows: &Range<usize>| {
            if go && !rows.is_empty() {
                go = visit(step);
            }
        };

        let rows = self.read..height.min(self.read + self.band);
        self.read = rows.end;
        let oldest = self.head.min(self.body).saturating_sub(1);
        self.capacities.input = self.capacities.input.max(self.read - oldest);
        visit(Step::Read(rows.clone()), &rows);

        let rows = self.next(self.head, ready(self.read, height));
        self.head = rows.end;
        visit(Step::Head(rows.clone()), &rows);

        let mut available = self.head;
        for b in 0..self.blocks.len() {
            let mut block = self.blocks[b].clone();
            let held = &mut self.capacities.blocks[b].input;
            *held = (*held).max(available - block.first.saturating_sub(1).min(block.third));

            let rows = self.next(block.first, ready(available, height));
            block.first = rows.end;
            visit(Step::First(b, rows.clone()), &rows);
            let first = block.first - block.second.saturating_sub(1);

            let rows = self.next(block.second, ready(block.first, height));
            block.second = rows.end;
            visit(Step::Second(b, rows.clone()), &rows);
            let second = block.second - block.third.saturating_sub(1);

            let rows = self.next(block.third, ready(block.second, height));
            block.third = rows.end;
            visit(Step::Third(b, rows.clone()), &rows);
            let third = block.third - block.gate.min(2 * block.half);

            let (half_height, coarse_height) = attention_sides(height);
            let end = if block.third == height { half_height } else { block.third.div_ceil(2) };
            let rows = block.half..end.saturating_sub(usize::from(block.third < height)).max(block.half);
            block.half = rows.end;
            visit(Step::Half(b, rows.clone()), &rows);
            let half = block.half - 3 * block.pool;

            let rows = block.pool..if block.half < 7 { 0 } else { ((block.half - 7) / 3 + 1).min(coarse_height) };
            block.pool = rows.end;
            visit(Step::Pool(b, rows.clone()), &rows);
            let pool = block.pool - block.coarse.saturating_sub(1);

            let rows = block.coarse..ready(block.pool, coarse_height);
            block.coarse = rows.end;
            visit(Step::Coarse(b, rows.clone()), &rows);
            let done = block.gate == height;
            let oldest = if done { block.coarse } else { Lerp::at(block.gate, coarse_height, height).first };
            let coarse = block.coarse - oldest;

            let mut end = block.gate;
            while end < block.third.min(block.gate + self.band)
                && Lerp::at(end, coarse_height, height).second < block.coarse
            {
                end += 1;
            }
            let rows = block.gate..end;
            block.gate = end;
            visit(Step::Gate(b, rows.clone()), &rows);

            let held = &mut self.capacities.blocks[b];
            for (held, now) in [
                (&mut held.first, first),
                (&mut held.second, second),
                (&mut held.third, third),
                (&mut held.half, half),
                (&mut held.pool, pool),
                (&mut held.coarse, coarse),
            ] {
                *held = (*held).max(now);
            }
            available = block.gate;
            self.blocks[b] = block;
        }

        let held = &mut self.capacities.features;
        *held = (*held).max(available - self.body.saturating_sub(1));
        let rows = self.next(self.body, ready(available, height));
        self.body = rows.end;
        visit(Step::Body(rows.clone()), &rows);

        let held = &mut self.capacities.body;
        *held = (*held).max(self.body - self.tail.saturating_sub(1));
        let rows = self.next(self.tail, ready(self.body, height));
        self.tail = rows.end;
        visit(Step::Tail(rows.clone()), &rows);
        go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_sees_every_row_once_in_order() {
        for height in [15, 16, 17, 31, 64, 129, 500] {
            for (tile, band) in [(4, 4), (4, 8), (6, 6), (4, 16), (6, 64), (4, 1024)] {
                let mut schedule = Schedule::new(height, 2, tile, band);
                let mut done = [0usize; 11];
                let mut steps = 0;
                while schedule.advance(&mut |step| {
                    let (stage, rows) = match step {
                        Step::Read(r) => (0, r),
                        Step::Head(r) => (1, r),
                        Step::First(1, r) => (2, r),
                        Step::Second(1, r) => (3, r),
                        Step::Third(1, r) => (4, r),
                        Step::Half(1, r) => (5, r),
                        Step::Pool(1, r) => (6, r),
                        Step::Coarse(1, r) => (7, r),
                        Step::Gate(1, r) => (8, r),
                        Step::Body(r) => (9, r),
                        Step::Tail(r) => (10, r),
                        _ => return true,
                    };
                    assert_eq!(rows.start, done[stage], "height {height} band {band} stage {stage}");
                    done[stage] = rows.end;
                    true
                }) {
                    steps += 1;
                    assert!(steps < 10 * height, "no progress at height {height}, band {band}: {done:?}");
                }
                let (half, coarse) = attention_sides(height);
                assert_eq!(
                    done,
                    [height, height, height, height, height, half, coarse, coarse, height, height, height]
                );
            }
        }
    }

    #[test]
    fn windows_do_not_grow_with_the_picture() {
        let small = Schedule::new(400, 6, 4, 8).capacities();
        let large = Schedule::new(4000, 6, 4, 8).capacities();
        for (a, b) in small.blocks.iter().zip(&large.blocks) {
            assert!(b.third <= a.third + 4 && b.third < 64 && b.coarse < 10, "{a:?} {b:?}");
        }
    }
}
