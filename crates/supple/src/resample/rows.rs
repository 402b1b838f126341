//! Resampling row by row: output rows are asked for from top to bottom, input rows are fetched when they are first
//! needed, filtered along the row and kept until no later output row needs them.

use super::taps::{Filter, Taps};

/// A resampler that makes one output row at a time.
pub struct RowResampler {
    columns: Taps,
    rows: Taps,
    width: usize,
    channels: usize,
    input: Vec<f32>,
    /// Input rows resampled along the row, input row `y` in slot `y % slots`.
    ring: Vec<f32>,
    slots: usize,
    /// First input row that is not in the ring yet.
    next: usize,
}

impl RowResampler {
    /// From a picture of `from` (width, height) to one of `to`, with interleaved `channels`. All must be positive.
    pub fn new(from: (usize, usize), to: (usize, usize), channels: usize, filter: Filter) -> RowResampler {
        let (columns, rows) = (Taps::new(from.0, to.0, filter), Taps::new(from.1, to.1, filter));
        let slots = rows.longest();
        RowResampler {
            columns,
            rows,
            width: to.0,
            channels,
            input: vec![0.0; from.0 * channels],
            ring: vec![0.0; slots * to.0 * channels],
            slots,
            next: 0,
        }
    }

    /// Output row `y`, in floats as wide as the output. Rows must be asked for in ascending order, though some may be
    /// skipped; `source(y, row)` fills input rows, each at most once and in ascending order.
    pub fn row(&mut self, y: usize, source: &mut dyn FnMut(usize, &mut [f32]), out: &mut [f32]) {
        let len = self.width * self.channels;
        let span = self.rows.span(y);
        self.next = self.next.max(span.start);
        while self.next < span.end {
            source(self.next, &mut self.input);
            let slot = self.next % self.slots;
            along_row(&self.columns, &self.input, self.channels, &mut self.ring[slot * len..][..len]);
            self.next += 1;
        }
        let out = &mut out[..len];
        out.fill(0.0);
        let (first, weights) = self.rows.at(y);
        for (i, &w) in weights.iter().enumerate() {
            let row = &self.ring[(first + i) % self.slots * len..][..len];
            for (o, v) in out.iter_mut().zip(row) {
                *o += w * v;
            }
        }
    }
}

fn along_row(taps: &Taps, input: &[f32], channels: usize, out: &mut [f32]) {
    match channels {
        1 => along_row_n::<1>(taps, input, out),
        2 => along_row_n::<2>(taps, input, out),
        3 => along_row_n::<3>(taps, input, out),
        _ => along_row_n::<4>(taps, input, out),
    }
}

fn along_row_n<const C: usize>(taps: &Taps, input: &[f32], out: &mut [f32]) {
    for (x, out) in out.chunks_exact_mut(C).enumerate() {
        let (first, weights) = taps.at(x);
        let mut sum = [0f32; C];
        for (pixel, w) in input[first * C..].chunks_exact(C).zip(weights) {
            for (s, v) in sum.iter_mut().zip(pixel) {
                *s += w * v;
            }
        }
        out.copy_from_slice(&sum);
    }
}
