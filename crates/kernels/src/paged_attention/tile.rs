//! A few queries of one head of keys and values, page by page.

use super::page::{BLOCK, Blocks, Floats, Page, Shape};
use super::{Heads, KvLayer, MAX_HEAD, Masking, PAGE, Span};
use crate::low_bit::{Brain, Format, Half, Kernel, Quads, Single};
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
        unsafe {
            match self.layer.format {
                Format::F16 => self.all::<V, Floats<Half>>(),
                Format::Bf16 => self.all::<V, Floats<Brain>>(),
                Format::Q8_0 => self.all::<V, Blocks<8>>(),
                Format::Q4_0 => self.all::<V, Blocks<4>>(),
                _ => self.all::<V, Floats<Single>>(),
            }
        }
    }
}

impl Queries<'_> {
    #[inline(always)]
    unsafe fn all<V: Quads, P: Page>(&self) {
        let mut row = self.rows.start;
        // SAFETY: the rows exist.
        unsafe {
            while row < self.rows.end {
                let count = (self.rows.end - row).min(TILE);
                match count {
                    5.. => self.tile::<V, P, 8>(row, count),
                    3.. => self.tile::<V, P, 4>(row, count),
                    2 => self.tile::<V, P, 2>(row, count),
                    _ => self.tile::<V, P, 1>(row, count),
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
    unsafe fn tile<V: Quads, P: Page, const N: usize>(&self, first: usize, count: usize) {
        let Heads { kv_heads, head_dim, .. } = self.layer.heads;
        let shape = Shape::of(self.layer.format, head_dim);
        let (wide, bytes) = (shape.wide, shape.bytes());
        let places: [(usize, usize); N] = std::array::from_fn(|n| self.place(first + n.min(count - 1)));
        let window = self.masking.window.unwrap_or(usize::MAX);
        let starts = places.map(|(_, position)| (position + 1).saturating_sub(window));
        let page_range = starts[0] / PAGE..places[N - 1].1 / PAGE + 1;
        let mut sums = [[0.0f32; MAX_HEAD]; N];
        let (mut maxima, mut totals) = ([LOWEST; N], [0.0f32; N]);
        let lanes = V::LANES;
        // SAFETY: pages, heads and elements exist, as `attend` checked.
        unsafe {
            let mut q = [[0.0f32; MAX_HEAD]; N];
            let mut q_totals = [[0.0f32; MAX_HEAD / BLOCK]; N];
            for ((q, q_totals), (at, _)) in q.iter_mut().zip(&mut q_totals).zip(places) {
                q[..head_dim].copy_from_slice(&self.q[at..at + head_dim]);
                for (total, q) in q_totals.iter_mut().zip(q[..wide].chunks(BLOCK)) {
                    *total = q.iter().sum();
                }
            }
            for page in page_range {
                let id = self.pages[page] as usize * kv_heads + self.head;
                let (keys, values) = (self.keys.add(id * bytes[0]), self.values.add(id * bytes[1]));
                let mut scores = [[0.0f32; PAGE]; N];
                P::scores::<V, N>(keys, head_dim, &q, &q_totals, &mut scores);
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
                P::add_values::<V, N>(values, wide, &scores, end, &mut sums);
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
