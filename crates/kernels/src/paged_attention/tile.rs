//! A few queries of one head of keys and values, page by page.

use super::{Heads, KvLayer, MAX_HEAD, Masking, PAGE, Span, padded};
use crate::low_bit::{Format, Half, Kernel, Quads, Single, Stored};
use crate::math;
use crate::simd::{MAX_LANES, Simd};
use std::ops::Range;

/// Most queries of a tile.
const TILE: usize = 8;
/// The running maximum before the first score.
const LOWEST: f32 = -1e30;

/// Queries of one head of keys: row `r` is token `r / group` and head `r % group` of those that share it.
pub(super) struct Queries<'a> {
    pub layer: &'a KvLayer,
    pub masking: Masking,
    pub span: Span,
    pub pages: &'a [u32],
    pub head: usize,
    pub rows: Range<usize>,
    pub q: &'a [f32],
    pub out: *mut f32,
    pub keys: *const u8,
    pub values: *const u8,
}

impl Kernel for Queries<'_> {
    #[inline(always)]
    unsafe fn run<V: Quads>(self) {
        // SAFETY: the caller's promise.
        unsafe { if self.layer.format == Format::F16 { self.all::<V, Half>() } else { self.all::<V, Single>() } }
    }
}

impl Queries<'_> {
    #[inline(always)]
    unsafe fn all<V: Quads, S: Stored>(&self) {
        let mut row = self.rows.start;
        // SAFETY: the rows exist.
        unsafe {
            while row < self.rows.end {
                let count = (self.rows.end - row).min(TILE);
                match count {
                    5.. => self.tile::<V, S, 8>(row, count),
                    3.. => self.tile::<V, S, 4>(row, count),
                    2 => self.tile::<V, S, 2>(row, count),
                    _ => self.tile::<V, S, 1>(row, count),
                }
                row += count;
            }
        }
    }

    /// Where row `row` is in queries and output, and its position.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let Heads { heads, kv_heads, head_dim } = self.layer.heads;
        let group = heads / kv_heads;
        let (token, head) = (row / group, self.head * group + row % group);
        (((self.span.row + token) * heads + head) * head_dim, self.span.start + token)
    }

    /// Rows `first..first + count`; a tile of `N` rows repeats the last one to be full.
    #[inline(always)]
    unsafe fn tile<V: Quads, S: Stored, const N: usize>(&self, first: usize, count: usize) {
        let Heads { kv_heads, head_dim, .. } = self.layer.heads;
        let wide = padded(head_dim);
        let places: [(usize, usize); N] = std::array::from_fn(|n| self.place(first + n.min(count - 1)));
        let window = self.masking.window.unwrap_or(usize::MAX);
        let starts = places.map(|(_, position)| (position + 1).saturating_sub(window));
        let page_range = starts[0] / PAGE..places[N - 1].1 / PAGE + 1;
        let mut sums = [[0.0f32; MAX_HEAD]; N];
        let (mut maxima, mut totals) = ([LOWEST; N], [0.0f32; N]);
        let lanes = V::LANES;
        // SAFETY: pages, heads and elements exist, as `attend` checked.
        unsafe {
            let q: [*const f32; N] = places.map(|(at, _)| self.q.as_ptr().add(at));
            for page in page_range {
                let id = self.pages[page] as usize * kv_heads + self.head;
                let keys = self.keys.add(id * head_dim * PAGE * S::BYTES);
                let values = self.values.add(id * wide * PAGE * S::BYTES);
                let mut scores = [[0.0f32; PAGE]; N];
                for part in (0..PAGE).step_by(2 * lanes) {
                    let mut s = [[V::Floats::splat(0.0); 2]; N];
                    for d in 0..head_dim {
                        let at = keys.add((d * PAGE + part) * S::BYTES);
                        let k = [S::load::<V>(at), S::load::<V>(at.add(lanes * S::BYTES))];
                        for (s, q) in s.iter_mut().zip(q) {
                            let q = V::Floats::splat(*q.add(d));
                            *s = [k[0].mul_add(q, s[0]), k[1].mul_add(q, s[1])];
                        }
                    }
                    for (scores, s) in scores.iter_mut().zip(s) {
                        s[0].store(scores.as_mut_ptr().add(part));
                        s[1].store(scores.as_mut_ptr().add(part + lanes));
                    }
                }
                for n in 0..N {
                    let visible = starts[n].saturating_sub(page * PAGE).min(PAGE)
                        ..(places[n].1 + 1).saturating_sub(page * PAGE).min(PAGE);
                    let factor = self.weigh::<V::Floats>(&mut scores[n], visible, &mut maxima[n], &mut totals[n]);
                    if factor != 1.0 {
                        for at in (0..wide).step_by(lanes) {
                            let sum = V::Floats::load(sums[n].as_ptr().add(at));
                            sum.mul(V::Floats::splat(factor)).store(sums[n].as_mut_ptr().add(at));
                        }
                    }
                }
                let end = (places[N - 1].1 + 1 - page * PAGE).min(PAGE);
                for part in (0..wide).step_by(2 * lanes) {
                    // A padded head is a multiple of 16 elements, which may be one vector or many.
                    if part + 2 * lanes <= wide {
                        add_values::<V, S, N, 2>(&mut sums, &scores, values, part, wide, end);
                    } else {
                        add_values::<V, S, N, 1>(&mut sums, &scores, values, part, wide, end);
                    }
                }
            }
            for n in 0..count {
                let inverse = V::Floats::splat(1.0 / totals[n]);
                let out = self.out.add(places[n].0);
                let mut at = 0;
                while at < head_dim {
                    let result = V::Floats::load(sums[n].as_ptr().add(at)).mul(inverse);
                    let left = head_dim - at;
                    if left >= lanes {
                        result.store(out.add(at))
                    } else {
                        result.store_first(out.add(at), left)
                    }
                    at += lanes;
                }
            }
        }
    }

    /// Turns the scores of a page into weights relative to the new maximum, zero where the query does not see; returns the
    /// factor for what was summed before.
    #[inline(always)]
    unsafe fn weigh<F: Simd>(
        &self,
        scores: &mut [f32; PAGE],
        visible: Range<usize>,
        maximum: &mut f32,
        total: &mut f32,
    ) -> f32 {
        // SAFETY: a page is whole vectors.
        unsafe {
            if let Some(cap) = self.masking.soft_cap {
                for at in (0..PAGE).step_by(F::LANES) {
                    let x = F::load(scores.as_ptr().add(at)).div(F::splat(cap));
                    math::tanh(x).mul(F::splat(cap)).store(scores.as_mut_ptr().add(at));
                }
            }
            let mut largest = *maximum;
            for &score in scores.get(visible.clone()).unwrap_or_default() {
                largest = largest.max(score);
            }
            for at in (0..PAGE).step_by(F::LANES) {
                let x = F::load(scores.as_ptr().add(at)).sub(F::splat(largest));
                math::exp(x).store(scores.as_mut_ptr().add(at));
            }
            for (i, weight) in scores.iter_mut().enumerate() {
                if !visible.contains(&i) {
                    *weight = 0.0;
                }
            }
            let mut sum = F::splat(0.0);
            for at in (0..PAGE).step_by(F::LANES) {
                sum = sum.add(F::load(scores.as_ptr().add(at)));
            }
            let factor = if largest == *maximum { 1.0 } else { exp::<F>(*maximum - largest) };
            *total = *total * factor + sum.sum();
            *maximum = largest;
            factor
        }
    }
}

#[inline(always)]
unsafe fn exp<F: Simd>(x: f32) -> f32 {
    let mut lanes = [0.0; MAX_LANES];
    // SAFETY: no vector is longer than `MAX_LANES`.
    unsafe { math::exp(F::splat(x)).store(lanes.as_mut_ptr()) };
    lanes[0]
}

/// Adds `weights · values` for `J` vectors of elements from `part` on.
#[inline(always)]
unsafe fn add_values<V: Quads, S: Stored, const N: usize, const J: usize>(
    sums: &mut [[f32; MAX_HEAD]; N],
    weights: &[[f32; PAGE]; N],
    values: *const u8,
    part: usize,
    wide: usize,
    end: usize,
) {
    let lanes = V::LANES;
    // SAFETY: the elements exist, by the caller's promise.
    unsafe {
        let mut s = [[V::Floats::splat(0.0); J]; N];
        for (s, sums) in s.iter_mut().zip(sums.iter()) {
            for (j, s) in s.iter_mut().enumerate() {
                *s = V::Floats::load(sums.as_ptr().add(part + j * lanes));
            }
        }
        for position in 0..end {
            let at = values.add((position * wide + part) * S::BYTES);
            let v: [V::Floats; J] = std::array::from_fn(|j| S::load::<V>(at.add(j * lanes * S::BYTES)));
            for (s, weights) in s.iter_mut().zip(weights) {
                let weight = V::Floats::splat(weights[position]);
                for (s, &v) in s.iter_mut().zip(&v) {
                    *s = v.mul_add(weight, *s);
                }
            }
        }
        for (s, sums) in s.into_iter().zip(sums) {
            for (j, s) in s.into_iter().enumerate() {
                s.store(sums.as_mut_ptr().add(part + j * lanes));
            }
        }
    }
}
