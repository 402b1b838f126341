//! Depthwise 3×3 with stride 1 or 2 straight from the planes: what MobileNets are made of.
//!
//! A strip, one vector wide, walks down the rows. The left and right neighbours of a vector are loaded one float off, and
//! at the ends of a row shifted in with a zero. For stride 1 every input row is loaded once and multiplied into the three
//! output rows that it touches, whose sums stay in registers; for stride 2 the row that two outputs share is kept.

use super::Phases;
use crate::simd::Simd;
use std::ops::Range;

/// One channel of a depthwise convolution.
#[derive(Clone, Copy)]
pub(super) struct Direct<V> {
    /// `[ky][kx]`.
    pub weights: [[V; 3]; 3],
    pub bias: V,
    pub low: V,
    pub high: V,
    /// The input plane, `[height][width]`, and `PADDING` floats that may be read after it.
    pub from: *const f32,
    /// The first output row of those asked for.
    pub to: *mut f32,
}

/// Where a strip lies in its rows.
#[derive(Clone, Copy)]
struct Strip {
    x: usize,
    /// Output pixels.
    count: usize,
}

/// The three taps of a row, for a vector of outputs.
type Taps<V> = [V; 3];

/// Whether these rows can be convolved here.
pub(super) fn takes(phases: &Phases) -> bool {
    let [_, left] = phases.padding();
    phases.kernel() == [3, 3]
        && match phases.stride() {
            [1, 1] => left == 1 && phases.out_width() == phases.size()[1],
            [2, 2] => left <= 1,
            _ => false,
        }
}

impl<V: Simd> Direct<V> {
    /// Output rows `rows`, each after the other at `to`.
    ///
    /// # Safety
    /// The planes must be as the fields say, [`takes`] true, and the CPU must have the instruction set of `V`.
    #[inline(always)]
    pub unsafe fn run(&self, phases: &Phases, rows: Range<usize>) {
        let width = phases.out_width();
        let mut x = 0;
        while x < width {
            let strip = Strip { x, count: V::LANES.min(width - x) };
            // SAFETY: the strip is part of the rows.
            unsafe {
                match (phases.stride()[0], x == 0, x + V::LANES >= width) {
                    (1, true, true) => self.strip::<true, true>(phases, rows.clone(), strip),
                    (1, true, false) => self.strip::<true, false>(phases, rows.clone(), strip),
                    (1, false, true) => self.strip::<false, true>(phases, rows.clone(), strip),
                    (1, false, false) => self.strip::<false, false>(phases, rows.clone(), strip),
                    _ => self.strip_by_two(phases, rows.clone(), strip),
                }
            }
            x += V::LANES;
        }
    }

    /// `sum` and a row of the kernel times a row of taps.
    #[inline(always)]
    unsafe fn add(sum: V, taps: &Taps<V>, weights: &[V; 3]) -> V {
        // SAFETY: the caller has the instruction set.
        unsafe { taps[2].mul_add(weights[2], taps[1].mul_add(weights[1], taps[0].mul_add(weights[0], sum))) }
    }

    #[inline(always)]
    unsafe fn store(&self, sum: V, at: usize, count: usize) {
        // SAFETY: `count` pixels of the row are left at `at`.
        unsafe {
            // In this order NaN passes.
            let value = self.high.min(self.low.max(sum));
            if count == V::LANES { value.store(self.to.add(at)) } else { value.store_first(self.to.add(at), count) }
        }
    }

    /// A strip with stride 1 that is the first or the last of its rows, or both.
    #[inline(always)]
    unsafe fn strip<const FIRST: bool, const LAST: bool>(&self, phases: &Phases, rows: Range<usize>, strip: Strip) {
        let ([height, width], top) = (phases.size(), phases.padding()[0]);
        // SAFETY: rows of the plane are read, with less than a vector after them; rows of the output are written.
        unsafe {
            let (mut above, mut here) = (self.bias, self.bias);
            for row in rows.start..rows.end + 2 {
                // Row `row - top` of the input is the first of the kernel for output `row`, the second for the one above.
                let mut below = self.bias;
                if row >= top && row - top < height {
                    let from = self.from.add((row - top) * width + strip.x);
                    let middle = if LAST { V::load_first(from, strip.count) } else { V::load(from) };
                    let left = if FIRST { middle.before::<1>(V::splat(0.0)) } else { V::load(from.sub(1)) };
                    let right = match (LAST, strip.count) {
                        (false, _) => V::load(from.add(1)),
                        (true, 1) => V::splat(0.0),
                        (true, count) => V::load_first(from.add(1), count - 1),
                    };
                    let taps = [left, middle, right];
                    above = Self::add(above, &taps, &self.weights[2]);
                    here = Self::add(here, &taps, &self.weights[1]);
                    below = Self::add(below, &taps, &self.weights[0]);
                }
                if row >= rows.start + 2 {
                    self.store(above, (row - 2 - rows.start) * width + strip.x, strip.count);
                }
                above = here;
                here = below;
            }
        }
    }

    /// A strip with stride 2.
    #[inline(always)]
    unsafe fn strip_by_two(&self, phases: &Phases, rows: Range<usize>, strip: Strip) {
        // SAFETY: as for `strip`.
        unsafe {
            let mut taps = self.taps_by_two(phases, 2 * rows.start, strip);
            for row in rows.clone() {
                let sum = Self::add(self.bias, &taps, &self.weights[0]);
                taps = self.taps_by_two(phases, 2 * row + 1, strip);
                let sum = Self::add(sum, &taps, &self.weights[1]);
                taps = self.taps_by_two(phases, 2 * row + 2, strip);
                let sum = Self::add(sum, &taps, &self.weights[2]);
                self.store(sum, (row - rows.start) * phases.out_width() + strip.x, strip.count);
            }
        }
    }

    /// The taps of row `row` of the padded input.
    #[inline(always)]
    unsafe fn taps_by_two(&self, phases: &Phases, row: usize, strip: Strip) -> Taps<V> {
        let ([height, width], [top, left]) = (phases.size(), phases.padding());
        // SAFETY: only columns of the row are read, or whole vectors that the row has.
        unsafe {
            if row < top || row - top >= height {
                return [V::splat(0.0); 3];
            }
            let from = self.from.add((row - top) * width);
            let column = 2 * strip.x;
            let (a, b) = pair::<V>(from, column, width);
            let (even, odd) = (a.even(b), a.odd(b));
            if left == 0 {
                let (a, b) = pair::<V>(from, column + 2, width);
                [even, odd, a.even(b)]
            } else if column == 0 {
                [odd.before::<1>(V::splat(0.0)), even, odd]
            } else {
                let (a, b) = pair::<V>(from, column - 1, width);
                [a.even(b), even, odd]
            }
        }
    }
}

/// Two vectors from `column` on; what is not in the row is zero.
///
/// # Safety
/// `from` must be a row of `width` floats, and the CPU must have the instruction set of `V`.
#[inline(always)]
unsafe fn pair<V: Simd>(from: *const f32, column: usize, width: usize) -> (V, V) {
    // SAFETY: no more is read than the row has.
    unsafe {
        let from = from.add(column.min(width));
        let count = width.saturating_sub(column);
        if count >= 2 * V::LANES {
            (V::load(from), V::load(from.add(V::LANES)))
        } else if count > V::LANES {
            (V::load(from), V::load_first(from.add(V::LANES), count - V::LANES))
        } else if count > 0 {
            (V::load_first(from, count), V::splat(0.0))
        } else {
            (V::splat(0.0), V::splat(0.0))
        }
    }
}
