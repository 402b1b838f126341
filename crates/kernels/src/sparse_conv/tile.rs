//! The pointwise product: tiles of pixels that stay in registers while the columns of a block pass.

use super::PackedSparse;
use super::packed::Entry;
use super::tiles::{candidates, is_candidate};
use super::unknown::Unknown;
use crate::AlignedBuf;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};
use std::mem::MaybeUninit;
use std::ops::Range;

/// What happens to a sum before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Lowest and highest value.
    pub range: (f32, f32),
    /// Added after that, `[out_channels][plane]` like the output, and the range of what comes of it.
    pub residual: Option<(&'a [f32], (f32, f32))>,
}

/// The rows of pixels that a product is computed for.
///
/// Pixel `x` of row `y` is at `offset + y · input_row + x` of the input, for the offset of each column, and at
/// `o · output_plane + y · output_row + x` of the output for channel `o`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows. A 1×1 convolution takes all its pixels as one row.
    pub rows: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Floats from a row of the input to the next.
    pub input_row: usize,
    /// Floats from a row of the output to the next.
    pub output_row: usize,
    /// Floats from a channel of the output to the next.
    pub output_plane: usize,
}

/// Computes the blocks `blocks` of output channels for the pixels of `product`.
///
/// * `input`: `PADDING` floats must follow the last one that a pixel needs;
/// * `output`: begins at the first pixel of channel 0, whatever `blocks` is.
///
/// # Panics
/// If the blocks, the input or the output do not fit.
pub fn multiply(
    packed: &PackedSparse,
    product: Product,
    input: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
    blocks: Range<usize>,
) {
    let written = product.written(packed);
    assert!(output.len() >= written, "the product writes {written} floats of {}", output.len());
    // Layers bring room for a tile in their scratch.
    let mut tile = AlignedBuf::zeroed(packed.gathered_len());
    // SAFETY: the output is as long as it has to be, and this is the only reference to it; so is the tile.
    unsafe { multiply_at(packed, product, input, output.as_mut_ptr(), epilogue, blocks, tile.as_mut_ptr()) }
}

impl Product {
    /// Floats from the first to the last that are written, at most.
    pub(super) fn written(&self, packed: &PackedSparse) -> usize {
        match self.rows.checked_sub(1) {
            Some(last) => (packed.out_channels() - 1) * self.output_plane + last * self.output_row + self.width,
            None => 0,
        }
    }
}

/// [`multiply`] into memory that others may write elsewhere in at the same time.
///
/// # Safety
/// The pixels of `product` in the channels of `blocks` must be writable, and nobody else may use them meanwhile; the same holds for
/// [`gathered_len`](PackedSparse::gathered_len) floats at `gathered`.
///
/// # Panics
/// If the blocks or the input do not fit.
pub(super) unsafe fn multiply_at(
    packed: &PackedSparse,
    product: Product,
    input: &[f32],
    output: *mut f32,
    epilogue: Epilogue<'_>,
    blocks: Range<usize>,
    gathered: *mut f32,
) {
    let Product { rows, width, input_row, .. } = product;
    assert!(blocks.start <= blocks.end && blocks.end <= packed.blocks(), "blocks {blocks:?}");
    if rows == 0 || width == 0 || blocks.is_empty() {
        return;
    }
    let read = packed.highest() + (rows - 1) * input_row + width + super::PADDING;
    assert!(input.len() >= read, "the product reads {read} floats of {}", input.len());
    assert!(epilogue.residual.is_none_or(|(residual, _)| residual.len() >= product.written(packed)), "residual");
    #[cfg(target_arch = "aarch64")]
    if packed.is_half() {
        // SAFETY: weights are in half precision where the CPU computes so; the rest was checked or is the caller's promise.
        return unsafe { super::half::multiply(packed, product, input, output, epilogue, blocks, gathered) };
    }
    let kernel = Multiply { packed, product, input, output, epilogue, blocks, gathered };
    // SAFETY: the weights were packed for an instruction set that this CPU has; lengths were checked just now, and the
    // caller vouches for the output.
    unsafe { dispatch(packed.isa(), kernel) }
}

/// Floats of a cache line.
const LINE: usize = 16;
/// How far ahead of the products weights are asked for, in floats: further than the machine itself looks, which stops at the
/// end of a page.
const AHEAD: usize = 512;

struct Multiply<'a> {
    packed: &'a PackedSparse,
    product: Product,
    input: &'a [f32],
    output: *mut f32,
    epilogue: Epilogue<'a>,
    blocks: Range<usize>,
    /// Room for a tile of all columns, if they are gathered.
    gathered: *mut f32,
}

/// Whether the pixels of a tile are copied to neighbouring memory before the blocks pass: where tiles are so small that the
/// L1 cache and the table of pages would do badly with a piece of each plane.
pub(super) const GATHERS: bool = cfg!(target_arch = "wasm32");
/// Whether a tile leaves no registers for one more pixel: V8 loads all that a column needs before it multiplies.
const FEW_REGISTERS: bool = cfg!(target_arch = "wasm32");

/// Whether the loop over columns has two in a turn: V8 asks in every turn whether it is to stop. A branch between the two
/// keeps it from loading what both need at once. Columns in order ([`PackedSparse::in_order`]) are taken by twos alone.
const PAIRS: bool = cfg!(target_arch = "wasm32");

/// Floats from a column of a gathered tile to the next, where there is no choice between tiles.
const fn gathered_pixels<V: Simd>(block: usize) -> usize {
    candidates(V::LANES, V::REGISTERS, block)[0] * V::LANES
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the checks of `multiply` hold for every way on.
        unsafe {
            match self.packed.block() {
                1 => self.rows::<V, 1>(),
                2 => self.rows::<V, 2>(),
                #[cfg(not(best_isa_only))]
                4 => self.rows::<V, 4>(),
                #[cfg(best_isa_only)]
                _ => self.rows::<V, 4>(),
                #[cfg(not(best_isa_only))]
                8 => self.rows::<V, 8>(),
                #[cfg(not(best_isa_only))]
                16 => self.rows::<V, 16>(),
                #[cfg(not(best_isa_only))]
                _ => self.rows::<V, 32>(),
            }
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    unsafe fn rows<V: Simd, const B: usize>(&self) {
        let vectors = self.packed.vectors;
        for row in 0..self.product.rows {
            // SAFETY: the row is one of those checked.
            unsafe {
                if const { is_candidate(V::LANES, V::REGISTERS, B, 8) } && vectors == 8 {
                    self.row::<V, 8, B>(row);
                } else if const { is_candidate(V::LANES, V::REGISTERS, B, 6) } && vectors == 6 {
                    self.row::<V, 6, B>(row);
                } else if const { is_candidate(V::LANES, V::REGISTERS, B, 4) } && vectors == 4 {
                    self.row::<V, 4, B>(row);
                } else if const { is_candidate(V::LANES, V::REGISTERS, B, 3) } && vectors == 3 {
                    self.row::<V, 3, B>(row);
                } else if const { is_candidate(V::LANES, V::REGISTERS, B, 2) } && vectors == 2 {
                    self.row::<V, 2, B>(row);
                } else {
                    self.row::<V, 1, B>(row);
                }
            }
        }
    }

    /// Whole tiles, then the rest: whole vectors, and at last part of one.
    ///
    /// A few pixels after the last tile (planes of 7×7 have one, those of 14×14 four) go along with as many of the tiles, each
    /// as one vector of a block's channels, where there are vectors of that length; so does the only pixel of a row. Where the
    /// registers would not do, a single pixel after the last tile goes by itself.
    #[inline(always)]
    unsafe fn row<V: Simd, const NV: usize, const B: usize>(&self, row: usize) {
        // SAFETY: as for this method.
        unsafe {
            if const { <V::Half as Simd>::LANES == B } {
                self.row_narrow::<V, V::Half, NV, B>(row);
            } else {
                self.row_narrow::<V, <V::Half as Simd>::Half, NV, B>(row);
            }
        }
    }

    #[inline(always)]
    unsafe fn row_narrow<V: Simd, N: Simd, const NV: usize, const B: usize>(&self, row: usize) {
        let width = self.product.width;
        let narrow = const { N::LANES == B };
        let mut x = 0;
        // SAFETY: `x` and what is taken from it stay within the row; reads may go on into the padding.
        unsafe {
            if narrow && width == 1 {
                self.pixel::<V, N, B>(row, 0);
                return;
            }
            let (tiles, left) = (width / (NV * V::LANES), width % (NV * V::LANES));
            if !FEW_REGISTERS && narrow && left <= tiles.min(4) && 2 * left <= V::LANES {
                for i in 0..left {
                    self.tile::<V, N, NV, B, true>(row, x, NV * V::LANES, width - left + i - x);
                    x += NV * V::LANES;
                }
                while x + NV * V::LANES <= width {
                    self.tile::<V, N, NV, B, false>(row, x, NV * V::LANES, 0);
                    x += NV * V::LANES;
                }
                return;
            }
            while x + NV * V::LANES <= width {
                self.tile::<V, N, NV, B, false>(row, x, NV * V::LANES, 0);
                x += NV * V::LANES;
            }
            let rest = (width - x).div_ceil(V::LANES);
            if NV > 4 && rest > 4 {
                let taken = (width - x).min(4 * V::LANES);
                self.tile::<V, N, 4, B, false>(row, x, taken, 0);
                x += taken;
            }
            if const { NV > 3 && V::LANES > 4 } && narrow && width - x == 3 * V::LANES + 1 {
                self.tile::<V, N, 3, B, true>(row, x, 3 * V::LANES, 3 * V::LANES);
                return;
            }
            if NV > 2 && (width - x).div_ceil(V::LANES) > 2 {
                let taken = (width - x).min(3 * V::LANES);
                self.tile::<V, N, 3, B, false>(row, x, taken, 0);
                x += taken;
            }
            if NV > 1 && (width - x).div_ceil(V::LANES) == 2 {
                let taken = width - x;
                self.tile::<V, N, 2, B, false>(row, x, taken, 0);
                x += taken;
            }
            if FEW_REGISTERS && narrow && width - x == 1 {
                self.pixel::<V, N, B>(row, x);
                return;
            }
            while x < width {
                let taken = (width - x).min(V::LANES);
                if const { <V::Half as Simd>::LANES < V::LANES } && taken <= <V::Half as Simd>::LANES {
                    self.tile::<V::Half, N, 1, B, false>(row, x, taken, 0);
                } else {
                    self.tile::<V, N, 1, B, false>(row, x, taken, 0);
                }
                x += taken;
            }
        }
    }

    /// Pixels `x .. x + count` of a row, `NV` vectors of which the last may be partly filled, for all blocks; and pixel
    /// `x + more` if `ONE_MORE`.
    #[inline(always)]
    unsafe fn tile<V: Simd, N: Simd, const NV: usize, const B: usize, const ONE_MORE: bool>(
        &self,
        row: usize,
        x: usize,
        count: usize,
        more: usize,
    ) {
        // SAFETY: as for `blocks`.
        unsafe {
            // Dense weights come in blocks of four there.
            if const { GATHERS && B == 4 } && self.packed.in_order {
                self.blocks::<V, N, NV, B, ONE_MORE, true>(row, x, count, more);
            } else {
                self.blocks::<V, N, NV, B, ONE_MORE, false>(row, x, count, more);
            }
        }
    }

    /// The same, for columns that are `IN_ORDER` or not.
    ///
    /// Engines for WebAssembly keep the sums in registers only in functions as small as this: where tiles of all sizes are in
    /// one, V8 stores them after every column.
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn blocks<V: Simd, N: Simd, const NV: usize, const B: usize, const ONE_MORE: bool, const IN_ORDER: bool>(
        &self,
        row: usize,
        x: usize,
        count: usize,
        more: usize,
    ) {
        // SAFETY: the pixels are those of the row; an input vector ends within the padding.
        unsafe {
            let input = self.input::<V, NV>(row, x);
            let pixel = row * self.product.output_row + x;
            let mut entry = self.packed.entry::<B>(self.blocks.start);
            for block in self.blocks.clone() {
                entry = self.block::<V, N, NV, B, ONE_MORE, IN_ORDER>(block, entry, input, pixel, count, more);
            }
        }
    }

    /// Where the entries' offsets begin for pixel `x` of a row; gathers `NV` vectors of each column there, if this product
    /// does that.
    #[inline(always)]
    unsafe fn input<V: Simd, const NV: usize>(&self, row: usize, x: usize) -> *const f32 {
        // SAFETY: the pixel is one of the row; a column's vectors may end in the padding, and there is room for a tile.
        unsafe {
            let from = self.input.as_ptr().add(row * self.product.input_row + x);
            if !GATHERS || self.packed.columns_at.is_empty() {
                return from;
            }
            let mut to = self.gathered;
            for &offset in &self.packed.columns_at {
                for j in 0..NV {
                    V::load(from.add(offset as usize + j * V::LANES)).store(to.add(j * V::LANES));
                }
                to = to.add(self.packed.pixels());
            }
            self.gathered
        }
    }

    /// The channels of `block`, whose first entry is `entry`: `count` pixels from `pixel` of the output on, and one more if asked
    /// for. Returns the entry after its last.
    #[inline(always)]
    unsafe fn block<V: Simd, N: Simd, const NV: usize, const B: usize, const ONE_MORE: bool, const IN_ORDER: bool>(
        &self,
        block: usize,
        mut entry: Entry<B>,
        input: *const f32,
        pixel: usize,
        count: usize,
        more: usize,
    ) -> Entry<B> {
        let packed = self.packed;
        let output_plane = self.product.output_plane;
        // SAFETY: as for `tile`.
        unsafe {
            let bias = packed.bias.as_ptr().add(block * B);
            for i in 0..B {
                for j in 0..(NV * V::LANES).div_ceil(LINE) {
                    V::prefetch_write(self.output.wrapping_add((block * B + i) * output_plane + pixel + j * LINE));
                }
            }
            let mut sums = [[V::splat(0.0); NV]; B];
            for (i, sums) in sums.iter_mut().enumerate() {
                let start = V::splat(*bias.add(i));
                for sum in sums.iter_mut() {
                    *sum = start;
                }
            }
            let mut one = N::splat(0.0);
            if ONE_MORE {
                one = N::load(bias);
            }
            let unknown = Unknown::zero();
            let (mut left, mut next) = (packed.count(block), input);
            while left > 0 {
                let pixels = if IN_ORDER { next } else { entry.pixels(input) };
                Self::column::<V, N, NV, B, ONE_MORE>(pixels, entry.weights(), more, &mut sums, &mut one);
                entry = entry.next(unknown);
                left -= 1;
                if PAIRS {
                    if left == 0 {
                        break;
                    }
                    let pixels = if IN_ORDER { next.add(gathered_pixels::<V>(B)) } else { entry.pixels(input) };
                    Self::column::<V, N, NV, B, ONE_MORE>(pixels, entry.weights(), more, &mut sums, &mut one);
                    entry = entry.next(unknown);
                    left -= 1;
                    if IN_ORDER {
                        next = unknown.hide(next.add(2 * gathered_pixels::<V>(B)) as usize) as *const f32;
                    }
                }
            }
            let channels = (packed.out_channels() - block * B).min(B);
            let channel = block * B * output_plane;
            let output = self.output.add(pixel);
            self.finish::<V, NV, B>(&sums, channels, output, channel, pixel, count);
            if ONE_MORE {
                let (output, pixel) = (output.add(more), pixel + more);
                self.finish_pixel(one, channels, output, channel, pixel);
            }
            entry
        }
    }

    /// Adds the products of the pixels at `from` and an entry's weights to the sums.
    #[inline(always)]
    unsafe fn column<V: Simd, N: Simd, const NV: usize, const B: usize, const ONE_MORE: bool>(
        from: *const f32,
        weight: *const f32,
        more: usize,
        sums: &mut [[V; NV]; B],
        one: &mut N,
    ) {
        // SAFETY: as for `tile`.
        unsafe {
            let mut pixels = [V::splat(0.0); NV];
            for (j, pixels) in pixels.iter_mut().enumerate() {
                *pixels = V::load(from.add(j * V::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*weight.add(i));
                for (sum, &pixels) in sums.iter_mut().zip(&pixels) {
                    *sum = pixels.mul_add(value, *sum);
                }
            }
            if ONE_MORE {
                *one = N::splat(*from.add(more)).mul_add(N::load(weight), *one);
            }
            V::prefetch(weight.wrapping_add(AHEAD));
        }
    }

    /// One pixel of a row: vectors of the `B` channels of a block. Sums are split in four, so that a product need not wait for
    /// the one before it.
    #[inline(always)]
    unsafe fn pixel<V: Simd, N: Simd, const B: usize>(&self, row: usize, x: usize) {
        let Product { output_row, output_plane, .. } = self.product;
        let packed = self.packed;
        // SAFETY: as for `tile`.
        unsafe {
            let (input, unknown) = (self.input::<V, 1>(row, x), Unknown::zero());
            for block in self.blocks.clone() {
                let mut sums = [N::splat(0.0); 4];
                sums[0] = N::load(packed.bias.as_ptr().add(block * B));
                let (mut entry, mut left) = (packed.entry::<B>(block), packed.count(block));
                while left >= 4 {
                    for j in 0..(4 * B).div_ceil(LINE) {
                        N::prefetch(entry.weights().wrapping_add(j * LINE + AHEAD));
                    }
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let entry = entry.after(j);
                        *sum = N::splat(*entry.pixels(input)).mul_add(N::load(entry.weights()), *sum);
                    }
                    entry = entry.after(3).next(unknown);
                    left -= 4;
                }
                while left > 0 {
                    sums[0] = N::splat(*entry.pixels(input)).mul_add(N::load(entry.weights()), sums[0]);
                    entry = entry.after(1);
                    left -= 1;
                }
                let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                let channels = (packed.out_channels() - block * B).min(B);
                let pixel = row * output_row + x;
                self.finish_pixel(sum, channels, self.output.add(pixel), block * B * output_plane, pixel);
            }
        }
    }

    /// Clamps, adds the residual, and stores one pixel of `channels` channels.
    #[inline(always)]
    unsafe fn finish_pixel<N: Simd>(&self, sum: N, channels: usize, output: *mut f32, channel: usize, pixel: usize) {
        // SAFETY: the checks of `multiply` cover this pixel of each of these channels, in the residual too.
        unsafe {
            let (low, high) = self.epilogue.range;
            let mut values = [0.0; MAX_LANES];
            N::splat(high).min(N::splat(low).max(sum)).store(values.as_mut_ptr());
            for (i, &value) in values.iter().enumerate().take(channels) {
                let at = channel + i * self.product.output_plane;
                *output.add(at) = match self.epilogue.residual {
                    None => value,
                    // NaN passes.
                    Some((residual, (low, high))) => (value + *residual.as_ptr().add(at + pixel)).clamp(low, high),
                };
            }
        }
    }

    /// Clamps, adds the residual, and stores `count` pixels of `channels` channels.
    ///
    /// Registers have no index that is known at run time only: sums of which some may be left out go through memory, else
    /// they would be kept there while the columns pass.
    #[inline(always)]
    unsafe fn finish<V: Simd, const NV: usize, const B: usize>(
        &self,
        sums: &[[V; NV]; B],
        channels: usize,
        output: *mut f32,
        channel: usize,
        pixel: usize,
        count: usize,
    ) {
        let plane = self.product.output_plane;
        // SAFETY: the checks of `multiply` cover `count` pixels of each of these channels, in the residual too.
        unsafe {
            let (low, high) = (V::splat(self.epilogue.range.0), V::splat(self.epilogue.range.1));
            if channels == B && count == NV * V::LANES && self.epilogue.residual.is_none() {
                for (i, sums) in sums.iter().enumerate() {
                    for (j, &sum) in sums.iter().enumerate() {
                        // In this order NaN passes.
                        high.min(low.max(sum)).store(output.add(channel + i * plane + j * V::LANES));
                    }
                }
                return;
            }
            let mut clamped = MaybeUninit::<[[V; NV]; B]>::uninit();
            let clamped = clamped.as_mut_ptr().cast::<f32>();
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    high.min(low.max(sum)).store(clamped.add((i * NV + j) * V::LANES));
                }
            }
            for i in 0..channels {
                for j in 0..NV {
                    let left = count - j * V::LANES;
                    let at = channel + i * plane;
                    let mut value = V::load(clamped.add((i * NV + j) * V::LANES));
                    if let Some((residual, (low, high))) = self.epilogue.residual {
                        let from = residual.as_ptr().add(at + pixel + j * V::LANES);
                        let other = if left >= V::LANES { V::load(from) } else { V::load_first(from, left) };
                        value = V::splat(high).min(V::splat(low).max(value.add(other)));
                    }
                    let to = output.add(at + j * V::LANES);
                    if left >= V::LANES { value.store(to) } else { value.store_first(to, left) }
                }
            }
        }
    }
}
