//! How a head's part of a page is multiplied: scores from keys, sums from values, for each way to store them.

use super::store::Place;
use super::{MAX_HEAD, PAGE};
use crate::low_bit::{Format, Quads, Stored, f16_to_f32};
use crate::simd::Simd;
use std::marker::PhantomData;

/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;

/// What a head's part of a page looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub format: Format,
    head_dim: usize,
    /// Elements of a position of values, padded; of keys too where there are blocks.
    pub wide: usize,
}

impl Shape {
    pub(super) fn of(format: Format, head_dim: usize) -> Shape {
        Shape { format, head_dim, wide: head_dim.next_multiple_of(if format.is_dense() { 16 } else { BLOCK }) }
    }

    /// Bytes of the integers of blocks.
    pub(super) fn integer_bytes(self) -> usize {
        self.wide * PAGE / if self.format == Format::Q4_0 { 2 } else { 1 }
    }

    /// Bytes of keys and of values.
    pub(super) fn bytes(self) -> [usize; 2] {
        if self.format.is_dense() {
            [self.head_dim, self.wide].map(|dim| dim * PAGE * self.format.block().1)
        } else {
            [self.integer_bytes() + self.wide / BLOCK * PAGE * 2; 2]
        }
    }
}

/// Element `d` of a position, as it is stored; the scalar truth.
pub(super) fn element(format: Format, head_dim: usize, bytes: &[u8], place: Place, d: usize) -> f32 {
    let shape = Shape::of(format, head_dim);
    let half = |at: usize| u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]]);
    let at = place.index(d, shape.wide);
    let scale = |slot: usize| f16_to_f32(half(shape.integer_bytes() / 2 + d / BLOCK * PAGE + slot));
    let (Place::Key(slot) | Place::Value(slot)) = place;
    match format {
        Format::F16 => f16_to_f32(half(at)),
        Format::Bf16 => f32::from_bits(u32::from(half(at)) << 16),
        Format::Q8_0 => f32::from(bytes[at] as i8) * scale(slot),
        Format::Q4_0 => {
            let byte = bytes[place.index(d / BLOCK * (BLOCK / 2) + d % (BLOCK / 2), shape.wide / 2)];
            let code = byte >> (d % BLOCK / (BLOCK / 2) * 4) & 15;
            (f32::from(code) - 8.0) * scale(slot)
        }
        _ => f32::from_ne_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]),
    }
}

/// Queries of a tile, padded with zeros.
pub(super) type Rows<const N: usize> = [[f32; MAX_HEAD]; N];
/// Scores of a page, or the weights they become.
pub(super) type Scores<const N: usize> = [[f32; PAGE]; N];

/// A way to store keys and values.
///
/// # Safety
/// Methods need the instructions of `V`, and pointers to a head's part of a page.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Page {
    /// `scores = q · keys`, for all positions.
    unsafe fn scores<V: Quads, const N: usize>(
        keys: *const u8,
        head_dim: usize,
        q: &Rows<N>,
        totals: &[[f32; MAX_HEAD / BLOCK]; N],
        scores: &mut Scores<N>,
    );
    /// `sums += weights · values`, for positions below `end`; weights are zero from there on.
    unsafe fn add_values<V: Quads, const N: usize>(
        values: *const u8,
        wide: usize,
        weights: &Scores<N>,
        end: usize,
        sums: &mut Rows<N>,
    );
}

/// Floats.
pub(super) struct Floats<S>(PhantomData<S>);

impl<S: Stored> Page for Floats<S> {
    #[inline(always)]
    unsafe fn scores<V: Quads, const N: usize>(
        keys: *const u8,
        head_dim: usize,
        q: &Rows<N>,
        _: &[[f32; MAX_HEAD / BLOCK]; N],
        scores: &mut Scores<N>,
    ) {
        let lanes = V::LANES;
        // SAFETY: the trait's contract.
        unsafe {
            for part in (0..PAGE).step_by(2 * lanes) {
                let mut s = [[V::Floats::splat(0.0); 2]; N];
                for d in 0..head_dim {
                    let at = keys.add((d * PAGE + part) * S::BYTES);
                    let k = [S::load::<V>(at), S::load::<V>(at.add(lanes * S::BYTES))];
                    for (s, q) in s.iter_mut().zip(q) {
                        let q = V::Floats::splat(*q.as_ptr().add(d));
                        *s = [k[0].mul_add(q, s[0]), k[1].mul_add(q, s[1])];
                    }
                }
                for (scores, s) in scores.iter_mut().zip(s) {
                    s[0].store(scores.as_mut_ptr().add(part));
                    s[1].store(scores.as_mut_ptr().add(part + lanes));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_values<V: Quads, const N: usize>(
        values: *const u8,
        wide: usize,
        weights: &Scores<N>,
        end: usize,
        sums: &mut Rows<N>,
    ) {
        let lanes = V::LANES;
        // SAFETY: the trait's contract.
        unsafe {
            for part in (0..wide).step_by(2 * lanes) {
                // A padded head is a multiple of 16 elements, which may be one vector or many.
                if part + 2 * lanes <= wide {
                    add_floats::<V, S, N, 2>(sums, weights, values, part, wide, end);
                } else {
                    add_floats::<V, S, N, 1>(sums, weights, values, part, wide, end);
                }
            }
        }
    }
}

/// Adds `weights · values` for `J` vectors of elements from `part` on.
#[inline(always)]
unsafe fn add_floats<V: Quads, S: Stored, const N: usize, const J: usize>(
    sums: &mut Rows<N>,
    weights: &Scores<N>,
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

/// Blocks of integers of `BITS` bits, 8 or 4: they are multiplied as floats, and scales once a block.
pub(super) struct Blocks<const BITS: usize>;

impl<const BITS: usize> Blocks<BITS> {
    /// What is added to the integers.
    const OFFSET: f32 = if BITS == 4 { 8.0 } else { 0.0 };

    /// Of `LANES` bytes from `from` on the two vectors of elements `i` and `i + 16`; of 8 bits they lie `apart`.
    #[inline(always)]
    unsafe fn pair<V: Quads>(from: *const u8, apart: usize) -> [V::Floats; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            if BITS == 4 {
                let (low, high) = V::nibbles(from);
                [low, high]
            } else {
                [V::signed(from), V::signed(from.add(apart))]
            }
        }
    }
}

impl<const BITS: usize> Page for Blocks<BITS> {
    #[inline(always)]
    unsafe fn scores<V: Quads, const N: usize>(
        keys: *const u8,
        head_dim: usize,
        q: &Rows<N>,
        totals: &[[f32; MAX_HEAD / BLOCK]; N],
        scores: &mut Scores<N>,
    ) {
        let (lanes, half) = (V::LANES, BLOCK / 2);
        let blocks = head_dim.div_ceil(BLOCK);
        // SAFETY: the trait's contract; queries are padded to whole blocks.
        unsafe {
            let scales = keys.add(blocks * BLOCK * PAGE * BITS / 8).cast::<u16>();
            for part in (0..PAGE).step_by(2 * lanes) {
                let mut all = [[V::Floats::splat(0.0); 2]; N];
                for block in 0..blocks {
                    let mut s = [[V::Floats::splat(0.0); 2]; N];
                    for i in 0..half {
                        let at = keys.add((block * BLOCK * BITS / 8 + i) * PAGE + part);
                        let [a0, b0] = Self::pair::<V>(at, half * PAGE);
                        let [a1, b1] = Self::pair::<V>(at.add(lanes), half * PAGE);
                        for (s, q) in s.iter_mut().zip(q) {
                            let q = q.as_ptr().add(block * BLOCK + i);
                            let (a, b) = (V::Floats::splat(*q), V::Floats::splat(*q.add(half)));
                            s[0] = b0.mul_add(b, a0.mul_add(a, s[0]));
                            s[1] = b1.mul_add(b, a1.mul_add(a, s[1]));
                        }
                    }
                    let at = scales.add(block * PAGE + part);
                    let scale = [V::halves(at), V::halves(at.add(lanes))];
                    for ((all, s), totals) in all.iter_mut().zip(&s).zip(totals) {
                        let more = V::Floats::splat(Self::OFFSET * totals[block]);
                        *all = [s[0].sub(more).mul_add(scale[0], all[0]), s[1].sub(more).mul_add(scale[1], all[1])];
                    }
                }
                for (scores, s) in scores.iter_mut().zip(all) {
                    s[0].store(scores.as_mut_ptr().add(part));
                    s[1].store(scores.as_mut_ptr().add(part + lanes));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_values<V: Quads, const N: usize>(
        values: *const u8,
        wide: usize,
        weights: &Scores<N>,
        end: usize,
        sums: &mut Rows<N>,
    ) {
        let (lanes, half) = (V::LANES, BLOCK / 2);
        // SAFETY: the trait's contract; a padded head is whole blocks.
        unsafe {
            let scales = values.add(wide * PAGE * BITS / 8).cast::<u16>();
            for block in 0..wide / BLOCK {
                let mut scaled = [[0.0f32; PAGE]; N];
                let mut total = [V::Floats::splat(0.0); N];
                for at in (0..PAGE).step_by(lanes) {
                    let scale = V::halves(scales.add(block * PAGE + at));
                    for ((scaled, weights), total) in scaled.iter_mut().zip(weights).zip(&mut total) {
                        let product = V::Floats::load(weights.as_ptr().add(at)).mul(scale);
                        product.store(scaled.as_mut_ptr().add(at));
                        *total = total.add(product);
                    }
                }
                for part in (0..half).step_by(lanes) {
                    let mut s = [[V::Floats::splat(0.0); 2]; N];
                    for position in 0..end {
                        let at = values.add((position * wide + block * BLOCK) * BITS / 8 + part);
                        let v = Self::pair::<V>(at, half);
                        for (s, scaled) in s.iter_mut().zip(&scaled) {
                            let weight = V::Floats::splat(scaled[position]);
                            *s = [v[0].mul_add(weight, s[0]), v[1].mul_add(weight, s[1])];
                        }
                    }
                    for ((s, sums), total) in s.into_iter().zip(sums.iter_mut()).zip(total) {
                        let more = V::Floats::splat(if BITS == 4 { Self::OFFSET * total.sum() } else { 0.0 });
                        for (j, s) in s.into_iter().enumerate() {
                            let at = sums.as_mut_ptr().add(block * BLOCK + j * half + part);
                            V::Floats::load(at).add(s.sub(more)).store(at);
                        }
                    }
                }
            }
        }
    }
}
