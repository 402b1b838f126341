//! The product: sums of a tile of pixels for four outputs at a time, all in registers, then bytes.
//!
//! `out[o][p] = requantise(bias[o] + Σ_c w[o][c] · in[c][p])`
//!
//! Two kernels share the work. Where pixels fill vectors, a lane is a pixel: each vector of 16 pixels' quads is loaded
//! once and multiplied by the quads of four outputs, each of them in all lanes. For the pixels that are left, and for
//! fully-connected layers, four lanes are the outputs of a pixel: a quad of the input in four lanes meets a whole block.

// One index goes through several arrays of registers.
#![allow(clippy::needless_range_loop)]

use super::packed::PackedConv;
use super::vector::{Kernel, MAX_VECTOR, Vector, dispatch};
use std::ops::Range;

/// One call of the kernel: a range of pixels and of groups of four outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) conv: &'a PackedConv,
    /// The first pixel of the first quad of inputs.
    pub(super) input: *const u8,
    /// Bytes from a quad of inputs to the next.
    pub(super) input_plane: usize,
    /// The first pixel of the first quad of outputs.
    pub(super) output: *mut u8,
    /// Bytes from a quad of outputs to the next.
    pub(super) output_plane: usize,
    pub(super) pixels: usize,
    pub(super) first_group: usize,
    pub(super) groups: usize,
}

impl Product<'_> {
    /// Computes it.
    ///
    /// # Safety
    /// Each quad of inputs has `pixels` valid pixels and `MAX_VECTOR` bytes behind them; each of the groups of outputs has
    /// room for `pixels` pixels. Nothing else is written.
    ///
    /// # Panics
    /// If the convolution does not have these groups.
    pub(super) unsafe fn run(self) {
        assert!(self.first_group + self.groups <= self.conv.groups(), "groups of outputs");
        // SAFETY: whoever packed the weights asked for the level; the caller vouches for the pointers.
        unsafe { dispatch(self.conv.level, self) }
    }

    /// The blocks of a group.
    #[inline(always)]
    fn blocks(&self, group: usize) -> Range<usize> {
        self.conv.starts[group] as usize..self.conv.starts[group + 1] as usize
    }

    /// Pixels from `first` on, `N` vectors of which `count` pixels are stored.
    ///
    /// # Safety
    /// As [`run`](Self::run) and [`Vector`].
    #[inline(always)]
    unsafe fn tile<V: Vector, const N: usize>(&self, first: usize, count: usize) {
        let vector = V::LANES * 4;
        let range = self.conv.factors.range();
        for group in self.first_group..self.first_group + self.groups {
            // SAFETY: columns are below the number of quads, values hold a block for each; the rest is the caller's promise.
            unsafe {
                let input = self.input.add(first * 4);
                let mut sums = [[V::zero_sums(); N]; 4];
                for block in self.blocks(group) {
                    let column = *self.conv.block_columns.get_unchecked(block) as usize;
                    let from = input.add(column * self.input_plane);
                    let weights = self.conv.values.as_slice().as_ptr().add(block * V::FORM.block_bytes());
                    let weights = V::load_block(weights);
                    for j in 0..N {
                        let quads = V::load_quads(from.add(j * vector));
                        sums[0][j] = V::dot::<0>(sums[0][j], quads, weights);
                        sums[1][j] = V::dot::<1>(sums[1][j], quads, weights);
                        sums[2][j] = V::dot::<2>(sums[2][j], quads, weights);
                        sums[3][j] = V::dot::<3>(sums[3][j], quads, weights);
                    }
                }
                let mut bytes = [[V::splat(0); 4]; N];
                for k in 0..4 {
                    let lanes = self.conv.factors.of_channel::<V>(group * 4 + k);
                    for j in 0..N {
                        bytes[j][k] = lanes.finish::<true>(sums[k][j]);
                    }
                }
                let output = self.output.add((group - self.first_group) * self.output_plane + first * 4);
                for j in 0..N {
                    if (j + 1) * V::LANES <= count {
                        V::store_quads(bytes[j], range, output.add(j * vector));
                    } else {
                        let mut whole = [0; MAX_VECTOR];
                        V::store_quads(bytes[j], range, whole.as_mut_ptr());
                        std::ptr::copy_nonoverlapping(
                            whole.as_ptr(),
                            output.add(j * vector),
                            (count - j * V::LANES) * 4,
                        );
                    }
                }
            }
        }
    }

    /// `count` pixels from `first` on, at most a quarter of the lanes.
    ///
    /// # Safety
    /// As [`run`](Self::run) and [`Vector`].
    #[inline(always)]
    unsafe fn few<V: Vector>(&self, first: usize, count: usize) {
        /// Independent sums, so that one product does not wait for the other.
        const SUMS: usize = 4;
        for group in self.first_group..self.first_group + self.groups {
            // SAFETY: as in `tile`.
            unsafe {
                let input = self.input.add(first * 4);
                let columns = self.conv.block_columns.as_ptr();
                let values = self.conv.values.as_slice().as_ptr();
                let mut sums = [V::zero_sums(); SUMS];
                let blocks = self.blocks(group);
                let mut block = blocks.start;
                while block + SUMS <= blocks.end {
                    for s in 0..SUMS {
                        let quads = V::repeat_quads(input.add(*columns.add(block + s) as usize * self.input_plane));
                        let weights = V::load_block(values.add((block + s) * V::FORM.block_bytes()));
                        sums[s] = V::dot_each(sums[s], quads, weights);
                    }
                    block += SUMS;
                }
                while block < blocks.end {
                    let quads = V::repeat_quads(input.add(*columns.add(block) as usize * self.input_plane));
                    let weights = V::load_block(values.add(block * V::FORM.block_bytes()));
                    sums[0] = V::dot_each(sums[0], quads, weights);
                    block += 1;
                }
                let all = V::add_sums(V::add_sums(sums[0], sums[1]), V::add_sums(sums[2], sums[3]));
                let mut whole = [0; MAX_VECTOR];
                let lanes = self.conv.factors.of_quad::<V>(group * 4);
                lanes.finish::<false>(all).store_bytes(self.conv.factors.range(), whole.as_mut_ptr());
                let output = self.output.add((group - self.first_group) * self.output_plane + first * 4);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), output, count * 4);
            }
        }
    }
}

impl Kernel for Product<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // What is left behind whole vectors goes four by four, or two by two, where that is cheaper than a vector.
        let left = self.pixels % V::LANES;
        let by_few = left.div_ceil(V::LANES / 4) <= 2;
        let vectors = if by_few { self.pixels / V::LANES } else { self.pixels.div_ceil(V::LANES) };
        let tiles = vectors.div_ceil(V::TILE);
        let mut done = 0;
        for tile in 0..tiles {
            // Tiles of nearly one size: the smaller the tile, the more often weights are loaded.
            let count = (tile + 1) * vectors / tiles - tile * vectors / tiles;
            let (first, pixels) = (done * V::LANES, (count * V::LANES).min(self.pixels - done * V::LANES));
            // SAFETY: tiles lie within the pixels, but for whole vectors, which may be read.
            unsafe {
                match count {
                    1 => self.tile::<V, 1>(first, pixels),
                    2 => self.tile::<V, 2>(first, pixels),
                    3 if V::TILE >= 3 => self.tile::<V, 3>(first, pixels),
                    4 if V::TILE >= 4 => self.tile::<V, 4>(first, pixels),
                    5 if V::TILE >= 5 => self.tile::<V, 5>(first, pixels),
                    6 if V::TILE >= 6 => self.tile::<V, 6>(first, pixels),
                    _ => unreachable!("tiles have at most V::TILE vectors"),
                }
            }
            done += count;
        }
        let mut first = done * V::LANES;
        while first < self.pixels {
            let count = (V::LANES / 4).min(self.pixels - first);
            // SAFETY: the pixels are there.
            unsafe { self.few::<V>(first, count) };
            first += count;
        }
    }
}
