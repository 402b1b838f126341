//! In which order the rows of a pass are computed.
//!
//! The stages form a chain. Each produces its rows from top to bottom, at most [`Schedule::band`] at a time, as soon as
//! the rows of the stage before it that it reaches are there. The schedule knows nothing of data: it is also run with
//! nothing but counters, to size the rolling windows between stages.

use std::ops::Range;

/// What a stage does. The numbers are those of the UFONE unit and of its spatial-aware layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Takes rows from the source; below the picture's last row, mirrors it.
    Read,
    /// `sft`.
    Head,
    /// All inner-patch layers of a unit, then what the first spatial-aware layer makes of each pixel alone.
    Patches(usize),
    /// The 5×5 depthwise convolution.
    Near(usize, usize),
    /// The dilated 7×7 one, the gating and the residual; then the feed-forward layer's first product.
    Mix(usize, usize),
    /// The rest of the feed-forward layer, then what the next layer makes of each pixel alone.
    Gate(usize, usize),
    /// `conv_after_body` plus the head.
    Body,
    /// `upsample.0`, pixel shuffle, and delivery to the sink.
    Tail,
}

#[derive(Clone, Copy, Debug)]
struct Stage {
    work: Work,
    /// Rows above and below an output row that it reads.
    reach: usize,
    /// Its rows are produced in multiples of this many.
    grain: usize,
}

/// Rows between the taps of a stage and its output, and the heights that rows are produced in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grains {
    /// Side of a patch.
    pub patch: usize,
    /// Row step of the convolution after the body.
    pub body: usize,
    /// Row step of the tail convolution.
    pub tail: usize,
}

/// The state of a pass: how many rows each stage has produced.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    stages: Vec<Stage>,
    done: Vec<usize>,
    height: usize,
    band: usize,
}

/// Rows that the 5×5 depthwise convolution reaches up and down.
pub(super) const NEAR_REACH: usize = 2;
/// Rows that the 7×7 depthwise convolution of dilation 3 reaches up and down.
pub(super) const FAR_REACH: usize = 9;

impl Schedule {
    /// A pass over `height` rows, a whole number of patches; unit `u` has `spatial_layers[u]` spatial-aware layers.
    /// `band` is a multiple of every grain.
    pub(super) fn new(height: usize, spatial_layers: &[usize], grains: Grains, band: usize) -> Schedule {
        let stage = |work, reach, grain| Stage { work, reach, grain };
        let mut stages = vec![stage(Work::Read, 0, 1), stage(Work::Head, 1, 1)];
        for (u, &layers) in spatial_layers.iter().enumerate() {
            stages.push(stage(Work::Patches(u), 0, grains.patch));
            for s in 0..layers {
                stages.push(stage(Work::Near(u, s), NEAR_REACH, 1));
                stages.push(stage(Work::Mix(u, s), FAR_REACH, 1));
                stages.push(stage(Work::Gate(u, s), 1, 1));
            }
        }
        stages.push(stage(Work::Body, 1, grains.body));
        stages.push(stage(Work::Tail, 1, grains.tail));
        Schedule { done: vec![0; stages.len()], stages, height, band }
    }

    /// Most rows that a stage produces at a time.
    pub(super) fn band(&self) -> usize {
        self.band
    }

    /// Lets every stage produce what it can, in order. False when all rows are done or `run` returns false.
    pub(super) fn advance(&mut self, run: &mut dyn FnMut(Work, Range<usize>) -> bool) -> bool {
        for i in 0..self.stages.len() {
            let Stage { work, reach, grain } = self.stages[i];
            let ready = match i.checked_sub(1).map(|before| self.done[before]) {
                Some(before) if before < self.height => before.saturating_sub(reach) / grain * grain,
                _ => self.height,
            };
            let rows = self.done[i]..ready.min(self.done[i] + self.band);
            if !rows.is_empty() {
                if !run(work, rows.clone()) {
                    return false;
                }
                self.done[i] = rows.end;
            }
        }
        self.done.last().is_some_and(|&done| done < self.height)
    }

    /// Rows that a rolling window of `producer`'s output must hold for `consumer`, which reads from `back` rows above the
    /// first row that it has yet to produce.
    pub(super) fn capacity(&self, producer: Work, consumer: Work, back: usize) -> usize {
        let position = |work| self.stages.iter().position(|s| s.work == work);
        let (Some(from), Some(to)) = (position(producer), position(consumer)) else { return 1 };
        let mut counters = Schedule { done: vec![0; self.stages.len()], ..self.clone() };
        let mut capacity = 1;
        let mut consumed = 0usize;
        let mut more = true;
        while more {
            more = counters.advance(&mut |work, rows| {
                if work == self.stages[from].work {
                    capacity = capacity.max(rows.end - consumed.saturating_sub(back));
                }
                if work == self.stages[to].work {
                    consumed = rows.end;
                }
                true
            });
        }
        capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_produced_once_after_what_it_reads() {
        let grains = Grains { patch: 8, body: 4, tail: 4 };
        for height in [8, 16, 40, 200] {
            for band in [8, 24, 64] {
                for layers in [&[4][..], &[2, 1, 3], &[0], &[1, 0]] {
                    let mut schedule = Schedule::new(height, layers, grains, band);
                    let stages = schedule.stages.clone();
                    let mut done = vec![0; stages.len()];
                    let mut more = true;
                    while more {
                        more = schedule.advance(&mut |work, rows| {
                            let i = stages.iter().position(|s| s.work == work).unwrap();
                            assert_eq!(rows.start, done[i]);
                            assert!(rows.len() <= band && rows.end % stages[i].grain == 0);
                            if i > 0 {
                                assert!(done[i - 1] >= (rows.end + stages[i].reach).min(height));
                            }
                            done[i] = rows.end;
                            true
                        });
                    }
                    assert!(done.iter().all(|&d| d == height), "{height} {band} {layers:?}: {done:?}");
                    let lag = schedule.capacity(Work::Read, Work::Body, 1);
                    let chain = layers.iter().sum::<usize>() * (NEAR_REACH + FAR_REACH + 1);
                    assert!(lag <= chain + 3 * band + 16, "{lag} rows for a chain of {chain}");
                }
            }
        }
    }
}
