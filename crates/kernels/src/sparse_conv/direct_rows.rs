//! Depthwise 3×3 with stride 1 or 2 along the rows, for few and short registers.
//!
//! Two output rows are made together, vector after vector, so that the weights and the two sums are all that stays in
//! registers. The last vector of a row ends with the row, and overlaps the one before it; so do the last two rows.

use super::Phases;
use super::direct::Direct;
use super::unknown::Unknown;
use crate::simd::Simd;
use std::ops::Range;

/// Input rows that two output rows need at most.
const ROWS: usize = 5;

/// Whether [`Direct::run_by_rows`] computes `rows` of what [`Direct`] takes, and is the better way for vectors of `V`.
pub(super) fn takes<V: Simd>(phases: &Phases, rows: &Range<usize>) -> bool {
    let ([_, left], [_, stride], width) = (phases.padding(), phases.stride(), phases.out_width());
    // The second of three taps lies within the row.
    let inside = (width - 1) * stride + 1 < phases.size()[1] + left;
    V::LANES == 4 && V::REGISTERS <= 16 && width > V::LANES && rows.len() > 1 && inside
}

/// Which vector of two output rows, and whether it is the first or the last of them.
#[derive(Clone, Copy)]
struct Place {
    /// Output column.
    x: usize,
    first: bool,
    last: bool,
}

/// How rows meet the kernel.
#[derive(Clone, Copy)]
struct Rows {
    out_width: usize,
    left: usize,
    /// Whether the last tap of the last output is beyond the row.
    open: bool,
}

impl<V: Simd> Direct<V> {
    /// Output rows `rows`, each after the other at `to`. `zeros` is as long as a row of [`Phases`], and padding.
    ///
    /// # Safety
    /// The planes must be as the fields say, [`takes`] and [`super::direct::takes`] true, and the CPU must have the
    /// instruction set of `V`.
    #[inline(always)]
    pub unsafe fn run_by_rows(&self, phases: &Phases, rows: Range<usize>, zeros: *const f32) {
        // SAFETY: as for this method.
        unsafe {
            match phases.stride()[1] {
                1 => self.plane::<1>(phases, rows, zeros),
                _ => self.plane::<2>(phases, rows, zeros),
            }
        }
    }

    /// A function of its own in WebAssembly, where engines keep weights in registers only in small ones.
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn plane<const S: usize>(&self, phases: &Phases, rows: Range<usize>, zeros: *const f32) {
        let ([height, width], [top, left], out_width) = (phases.size(), phases.padding(), phases.out_width());
        let open = (out_width - 1) * S + 2 >= width + left;
        let shape = Rows { out_width, left, open };
        let unknown = Unknown::zero();
        let mut row = rows.start;
        // SAFETY: rows of the plane are read, or the zeros; with less than two vectors after them.
        unsafe {
            while row < rows.end {
                row = row.min(rows.end - 2);
                let mut from = [zeros; ROWS];
                for (r, from) in from.iter_mut().enumerate().take(3 + S) {
                    let r = row * S + r;
                    if r >= top && r - top < height {
                        *from = self.from.add((r - top) * width);
                    }
                }
                let to = self.to.add((row - rows.start) * out_width);
                self.piece::<S>(&from, to, shape, Place { x: 0, first: true, last: false });
                let mut x = V::LANES;
                while x + V::LANES < out_width {
                    self.piece::<S>(&from, to, shape, Place { x, first: false, last: false });
                    x = unknown.hide(x + V::LANES);
                }
                self.piece::<S>(&from, to, shape, Place { x: out_width - V::LANES, first: false, last: true });
                row += 2;
            }
        }
    }

    /// A vector of each of two output rows.
    #[inline(always)]
    unsafe fn piece<const S: usize>(&self, from: &[*const f32; ROWS], to: *mut f32, shape: Rows, place: Place) {
        // SAFETY: as for `plane`.
        unsafe {
            let mut sums = [self.bias; 2];
            for (r, &from) in from.iter().enumerate().take(3 + S) {
                let taps = if S == 1 { Self::taps(from, place) } else { Self::strided_taps(from, shape, place) };
                for (o, sum) in sums.iter_mut().enumerate() {
                    if r >= o * S && r - o * S < 3 {
                        for (&tap, &weight) in taps.iter().zip(&self.weights[r - o * S]) {
                            *sum = tap.mul_add(weight, *sum);
                        }
                    }
                }
            }
            for (o, sum) in sums.into_iter().enumerate() {
                // In this order NaN passes.
                self.high.min(self.low.max(sum)).store(to.add(o * shape.out_width + place.x));
            }
        }
    }

    /// The taps of a row for stride 1.
    #[inline(always)]
    unsafe fn taps(from: *const f32, place: Place) -> [V; 3] {
        // SAFETY: the columns are those of the row, if the first of the first and the last of the last are not loaded.
        unsafe {
            if place.first {
                let middle = V::load(from);
                return [middle.before::<1>(V::splat(0.0)), middle, V::load(from.add(1))];
            }
            let from = from.add(place.x - 1);
            let middle = V::load(from.add(1));
            let right = if place.last { middle.after::<1>(V::splat(0.0)) } else { V::load(from.add(2)) };
            [V::load(from), middle, right]
        }
    }

    /// The taps of a row for stride 2.
    #[inline(always)]
    unsafe fn strided_taps(from: *const f32, shape: Rows, place: Place) -> [V; 3] {
        // SAFETY: as for `taps`; what is loaded after the row is not used.
        unsafe {
            // The first vector begins with the column left of the row, if that belongs to the taps.
            let before = shape.left > 0 && place.first;
            let from = if before { from } else { from.add(2 * place.x - shape.left) };
            let at = usize::from(before);
            let a = if before { V::load(from).before::<1>(V::splat(0.0)) } else { V::load(from) };
            let b = V::load(from.add(V::LANES - at));
            let c = if place.last && shape.open { V::splat(0.0) } else { V::load(from.add(2 * V::LANES - at)) };
            let even = a.even(b);
            [even, a.odd(b), even.after::<1>(c)]
        }
    }
}
