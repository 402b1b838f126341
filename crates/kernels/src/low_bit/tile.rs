//! The tile: a group of rows times a few columns, for all of `k`.
//!
//! Weights come as [`Weights`], either straight from the packed planes, when they are used once, or from a buffer where the
//! whole group was unpacked before, when many columns use them. Both give the same numbers in the same order.

use super::activations::Activations;
use super::layout::{CHUNK, Layout, STEPS, scale, unpack};
use super::vector::Quads;
use crate::simd::Simd;
use std::marker::PhantomData;

/// Weights of a group of rows.
pub(super) trait Weights<V: Quads, L: Layout> {
    /// The eight steps of chunk `chunk`.
    unsafe fn chunk(&self, chunk: usize) -> [V; STEPS];
    /// Scale and minimum of sub-block `sub`.
    unsafe fn scale(&self, sub: usize) -> (V::Floats, V::Floats);
}

/// Weights as they are packed.
pub(super) struct Packed<L> {
    pub quants: *const u8,
    pub scales: *const u8,
    pub layout: PhantomData<L>,
}

impl<V: Quads, L: Layout> Weights<V, L> for Packed<L> {
    #[inline(always)]
    unsafe fn chunk(&self, chunk: usize) -> [V; STEPS] {
        // SAFETY: the caller asks for chunks of the group only.
        unsafe { unpack::<V, L>(self.quants.add(chunk * L::VECTORS * 4 * V::LANES)) }
    }
    #[inline(always)]
    unsafe fn scale(&self, sub: usize) -> (V::Floats, V::Floats) {
        // SAFETY: as above.
        unsafe { scale::<V, L>(self.scales, sub) }
    }
}

/// A group unpacked: bytes, then scales, then minima where there are such.
pub(super) struct Unpacked {
    pub quants: *const u8,
    pub scales: *const f32,
    pub mins: *const f32,
}

/// Bytes of an unpacked group, `[quants, scales]`; minima take as much as scales.
pub(super) fn unpacked_bytes(lanes: usize, k: usize, sub: usize) -> [usize; 2] {
    [k * lanes, k / sub * lanes * 4]
}

impl Unpacked {
    /// Unpacks a group to `to`.
    ///
    /// # Safety
    /// The group is there, and so is room at `to`.
    #[inline(always)]
    pub(super) unsafe fn fill<V: Quads, L: Layout>(from: &Packed<L>, k: usize, to: *mut u8) -> Unpacked {
        let [quants, scales] = unpacked_bytes(V::LANES, k, L::SUB);
        // SAFETY: the caller's promise.
        unsafe {
            for chunk in 0..k / CHUNK {
                let steps: [V; STEPS] = Weights::<V, L>::chunk(from, chunk);
                for (s, step) in steps.into_iter().enumerate() {
                    step.store(to.add((chunk * STEPS + s) * 4 * V::LANES));
                }
            }
            let (first, second) = (to.add(quants).cast::<f32>(), to.add(quants + scales).cast::<f32>());
            for sub in 0..k / L::SUB {
                let (scale, min) = Weights::<V, L>::scale(from, sub);
                scale.store(first.add(sub * V::LANES));
                if L::SCALES.has_min() {
                    min.store(second.add(sub * V::LANES));
                }
            }
            Unpacked { quants: to, scales: first, mins: second }
        }
    }
}

impl<V: Quads, L: Layout> Weights<V, L> for Unpacked {
    #[inline(always)]
    unsafe fn chunk(&self, chunk: usize) -> [V; STEPS] {
        // SAFETY: the caller asks for chunks of the group only.
        std::array::from_fn(|s| unsafe { V::load(self.quants.add((chunk * STEPS + s) * 4 * V::LANES)) })
    }
    #[inline(always)]
    unsafe fn scale(&self, sub: usize) -> (V::Floats, V::Floats) {
        // SAFETY: as above.
        unsafe {
            let scale = V::Floats::load(self.scales.add(sub * V::LANES));
            let min = if L::SCALES.has_min() {
                V::Floats::load(self.mins.add(sub * V::LANES))
            } else {
                V::Floats::splat(0.0)
            };
            (scale, min)
        }
    }
}

/// Where a tile's columns start, and how far one is from the next.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub x: &'a Activations,
    pub first: usize,
    /// `[columns, rows]` with row stride `stride`, at the first row of the group and column 0.
    pub out: *mut f32,
    pub stride: usize,
    /// Rows of the group that exist.
    pub rows: usize,
}

/// Multiplies a group with `N` columns.
///
/// # Safety
/// Weights, columns and room for the results must be there, and the CPU must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn tile<V: Quads, L: Layout, W: Weights<V, L>, const N: usize>(weights: &W, at: Columns<'_>) {
    let x = at.x;
    let (k, sub) = (x.k, L::SUB);
    let wide_offset = if L::WIDE && V::SIGNED { 0 } else { L::FORMAT.offset() };
    // SAFETY: column `first + t` exists for `t` below `N`; all indices stay within one column.
    unsafe {
        let quants = x.quants.as_ptr().add(at.first * k);
        let scales = x.scales.as_ptr().add(at.first * k / 32);
        let which = usize::from(sub == 16);
        let sums = x.sums[which].as_ptr().add(at.first * k / sub);
        let scaled_sums = x.scaled_sums[which].as_ptr().add(at.first * k / sub);
        let mut totals = [V::Floats::splat(0.0); N];
        for chunk in 0..k / CHUNK {
            let steps = weights.chunk(chunk);
            for part in 0..CHUNK / sub {
                let index = chunk * (CHUNK / sub) + part;
                let (scale, min) = weights.scale(index);
                let count = sub / 4;
                for (t, total) in totals.iter_mut().enumerate() {
                    let column = quants.add(t * k + chunk * CHUNK + part * sub);
                    let sum = sums.add(t * (k / sub) + index);
                    let mut sum = if wide_offset == 0 {
                        V::splat_bytes(0)
                    } else {
                        V::sum_at(sum).shift_left(wide_offset.trailing_zeros())
                    };
                    for s in 0..count {
                        let quad = V::quad(column.add(4 * s));
                        let step = steps[part * count + s];
                        sum = if L::WIDE { sum.dot_wide(step, quad) } else { sum.dot(step, quad) };
                    }
                    let scale = scale.mul(V::Floats::splat(*scales.add(t * (k / 32) + chunk)));
                    *total = sum.to_floats().mul_add(scale, *total);
                    if L::SCALES.has_min() {
                        let scaled = V::Floats::splat(*scaled_sums.add(t * (k / sub) + index));
                        *total = min.mul_add(scaled, *total);
                    }
                }
            }
        }
        for (t, total) in totals.into_iter().enumerate() {
            let out = at.out.add((at.first + t) * at.stride);
            if at.rows == V::LANES { total.store(out) } else { total.store_first(out, at.rows) }
        }
    }
}
