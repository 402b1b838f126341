//! Weights in blocks of output channels that share their zero columns.

use super::tile::GATHERS;
use super::unknown::Unknown;
use super::{half, tiles};
use crate::isa::has_fp16;
use crate::simd::lanes;
use crate::{AlignedBuf, Isa};

/// Block sizes that there are kernels for.
pub const BLOCKS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// The block size that dense weights are packed with: the one whose kernel is fastest.
pub fn default_block(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Amx => 8,
        _ => 4,
    }
}

/// The block size to pack blocks of `block` channels with. A block is as well several smaller ones: programs for which size
/// counts have kernels for none that are larger than the usual.
fn with_kernel(isa: Isa, block: usize) -> usize {
    if cfg!(best_isa_only) { block.min(default_block(isa)) } else { block }
}

/// The weights of a convolution, packed for one instruction set; see the head of the module.
#[derive(Clone, Debug)]
pub struct PackedSparse {
    isa: Isa,
    out_channels: usize,
    columns: usize,
    block: usize,
    indices: Vec<u32>,
    /// Of each entry, in floats; or nothing, if [`INTERLEAVED`].
    offsets: Vec<u32>,
    /// Weights of each entry, after its offset if [`INTERLEAVED`].
    entries: AlignedBuf,
    pub(super) bias: AlignedBuf,
    /// Where the entries of each block begin, and where the last end.
    starts: Vec<usize>,
    /// Where each column begins in the input, if tiles of it are gathered; else empty.
    pub(super) columns_at: Vec<u32>,
    /// Whether every block has all columns, and meets them in gathered tiles: one after the other then, so that no offset has
    /// to be looked up.
    pub(super) in_order: bool,
    /// The highest place in the input that a column begins at.
    highest: usize,
    /// Vectors of pixels in a tile.
    pub(super) vectors: usize,
    /// Weights of each entry in half precision, in place of `entries`.
    half: Option<Vec<u16>>,
}

/// Whether an entry's offset, in bytes, stands before its weights: engines for WebAssembly have few registers and count every
/// instruction, so that one pointer is better than two. On x86-64 weights of their own are faster.
const INTERLEAVED: bool = cfg!(target_arch = "wasm32");

/// An entry of a [`PackedSparse`] with blocks of `B` channels.
#[derive(Clone, Copy)]
pub(super) struct Entry<const B: usize> {
    offset: *const u32,
    /// Not used if [`INTERLEAVED`].
    weights: *const f32,
}

impl<const B: usize> Entry<B> {
    /// Where its column meets the input.
    ///
    /// # Safety
    /// There must be such an entry, and the input must reach there.
    #[inline(always)]
    pub unsafe fn pixels(self, input: *const f32) -> *const f32 {
        // SAFETY: an entry has an offset, and the caller vouches for the input.
        unsafe {
            let offset = *self.offset as usize;
            if INTERLEAVED { input.byte_add(offset) } else { input.add(offset) }
        }
    }

    /// Its `B` weights.
    ///
    /// # Safety
    /// There must be such an entry.
    #[inline(always)]
    pub unsafe fn weights(self) -> *const f32 {
        // SAFETY: the weights follow the offset.
        if INTERLEAVED { unsafe { self.offset.add(1).cast() } } else { self.weights }
    }

    /// The entry `n` further on.
    ///
    /// # Safety
    /// There must be as many, or one less.
    #[inline(always)]
    pub unsafe fn after(self, n: usize) -> Entry<B> {
        // SAFETY: both end where the entries do.
        unsafe {
            if INTERLEAVED {
                Entry { offset: self.offset.add(n * (1 + B)), ..self }
            } else {
                Entry { offset: self.offset.add(n), weights: self.weights.add(n * B) }
            }
        }
    }

    /// The next entry, for loops.
    ///
    /// # Safety
    /// As for [`after`](Self::after).
    #[inline(always)]
    pub unsafe fn next(self, unknown: Unknown) -> Entry<B> {
        // SAFETY: the caller's promise.
        let next = unsafe { self.after(1) };
        if INTERLEAVED { Entry { offset: unknown.hide(next.offset as usize) as *const u32, ..next } } else { next }
    }
}

impl PackedSparse {
    /// Packs `weights` (`[out_channels][columns]`) and `bias` (`[out_channels]`), leaving out the columns that are zero in
    /// all channels of a block.
    ///
    /// # Panics
    /// If the lengths do not fit, there are no channels, or `block` is not one of [`BLOCKS`].
    pub fn pack(isa: Isa, weights: &[f32], bias: &[f32], columns: usize, block: usize) -> PackedSparse {
        let block = with_kernel(isa, block);
        let vectors = tiles::vectors(isa, block);
        PackedSparse::build(isa, weights, bias, columns, block, vectors, |entry| entry.iter().any(|&w| w != 0.0))
    }

    /// As [`pack`](Self::pack), with all columns, zero or not.
    ///
    /// # Panics
    /// As [`pack`](Self::pack).
    pub fn pack_dense(isa: Isa, weights: &[f32], bias: &[f32], columns: usize, block: usize) -> PackedSparse {
        let block = with_kernel(isa, block);
        PackedSparse::build(isa, weights, bias, columns, block, tiles::vectors(isa, block), |_| true)
    }

    /// As [`pack_dense`](Self::pack_dense), for tiles of `vectors` vectors.
    pub(super) fn with_tile(
        isa: Isa,
        weights: &[f32],
        bias: &[f32],
        columns: usize,
        block: usize,
        vectors: usize,
    ) -> PackedSparse {
        PackedSparse::build(isa, weights, bias, columns, block, vectors, |_| true)
    }

    fn build(
        isa: Isa,
        weights: &[f32],
        bias: &[f32],
        columns: usize,
        block: usize,
        vectors: usize,
        keep: impl Fn(&[f32]) -> bool,
    ) -> PackedSparse {
        let out_channels = bias.len();
        assert!(out_channels > 0 && weights.len() == out_channels * columns, "sparse weights");
        assert!(BLOCKS.contains(&block) && u32::try_from(columns).is_ok(), "block of {block}, {columns} columns");
        let blocks = out_channels.div_ceil(block);
        let (mut indices, mut entries, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        let mut entry = vec![0.0; block];
        for b in 0..blocks {
            for column in 0..columns {
                for (i, value) in entry.iter_mut().enumerate() {
                    let channel = b * block + i;
                    *value = if channel < out_channels { weights[channel * columns + column] } else { 0.0 };
                }
                if keep(&entry) {
                    indices.push(column as u32);
                    if INTERLEAVED {
                        entries.push(0.0);
                    }
                    entries.extend_from_slice(&entry);
                }
            }
            starts.push(indices.len());
        }
        let mut padded = AlignedBuf::zeroed(blocks * block);
        padded[..out_channels].copy_from_slice(bias);
        let entries = AlignedBuf::from_slice(&entries);
        let offsets = if INTERLEAVED { Vec::new() } else { vec![0; indices.len()] };
        PackedSparse {
            isa,
            out_channels,
            columns,
            block,
            indices,
            offsets,
            entries,
            bias: padded,
            starts,
            columns_at: Vec::new(),
            in_order: false,
            highest: 0,
            vectors,
            half: None,
        }
    }

    /// The same weights rounded to half precision, and products computed in it (see `half.rs`), where this CPU computes so
    /// twice as fast and there is a kernel for blocks of this size; else what it is. To be placed again.
    pub fn in_half(self) -> PackedSparse {
        // A block is as well several smaller ones.
        if self.isa != Isa::Neon || !has_fp16() || !half::has_kernel(self.block.min(half::HALF_BLOCK)) {
            return self;
        }
        let (block, parts) = (self.block.min(half::HALF_BLOCK), self.block.div_ceil(half::HALF_BLOCK));
        let (mut indices, mut weights, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for entries in self.starts.windows(2) {
            for part in 0..parts {
                for i in entries[0]..entries[1] {
                    indices.push(self.indices[i]);
                    let from = &self.entries[i * self.block + part * block..][..block];
                    weights.extend(from.iter().map(|&weight| half::bits(weight)));
                }
                starts.push(indices.len());
            }
        }
        let (offsets, entries) = (vec![0; indices.len()], AlignedBuf::zeroed(0));
        let mut made = PackedSparse { block, indices, offsets, entries, starts, half: Some(weights), ..self };
        // Blocks that only fill up the last of the larger ones have nothing to compute.
        made.starts.truncate(made.out_channels.div_ceil(block) + 1);
        made
    }

    /// Whether products are computed in half precision.
    pub fn is_half(&self) -> bool {
        self.half.is_some()
    }

    /// Where each entry of a block meets the gathered tile, and the weights of all, in half precision.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn half_entries(&self, block: usize) -> (&[u32], &[u16]) {
        let (first, last) = (self.starts[block], self.starts[block + 1]);
        let weights = self.half.as_deref().unwrap_or_default();
        (&self.offsets[first..last], &weights[first * self.block..last * self.block])
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Output channels.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Output channels of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Number of blocks; the last may have fewer channels than the others.
    pub fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// Weights that are stored, those of channels that only fill the last block included.
    pub fn stored(&self) -> usize {
        self.indices.len() * self.block
    }

    /// Says where each column meets the input: column `k` begins at float `of(k)`. At first all begin at float 0. `gather`
    /// says that tiles of the input may be gathered; for a single pixel or few columns that is not worth it.
    ///
    /// # Panics
    /// If an offset exceeds 32 bits.
    pub fn place(&mut self, of: impl Fn(usize) -> usize, gather: bool) {
        let to_u32 = |offset: usize| u32::try_from(offset).expect("offsets fit 32 bits");
        self.highest = 0;
        let gather = self.is_half() || gather && GATHERS;
        let pixels = self.pixels();
        let block = self.block;
        for (i, &column) in self.indices.iter().enumerate() {
            let offset = if gather { column as usize * pixels } else { of(column as usize) };
            self.highest = self.highest.max(offset);
            if INTERLEAVED {
                self.entries[i * (1 + block)] = f32::from_bits(to_u32(offset * size_of::<f32>()));
            } else {
                self.offsets[i] = to_u32(offset);
            }
        }
        self.columns_at.clear();
        self.in_order = gather && !self.is_half() && self.indices.len() == self.blocks() * self.columns;
        if gather {
            self.columns_at.extend((0..self.columns).map(|column| to_u32(of(column))));
            self.highest = self.columns_at.iter().copied().max().unwrap_or(0) as usize;
        }
    }

    /// Floats that a product needs to gather a tile; none where tiles are read in place.
    pub(super) fn gathered_len(&self) -> usize {
        let numbers = self.columns_at.len() * self.pixels();
        if self.is_half() { numbers.div_ceil(2) } else { numbers }
    }

    /// Pixels of a tile.
    pub(super) fn pixels(&self) -> usize {
        if self.is_half() { half::pixels(self.block) } else { self.vectors * lanes(self.isa) }
    }

    /// The highest place in the input that a column begins at.
    pub(super) fn highest(&self) -> usize {
        self.highest
    }

    /// The first entry of a block.
    ///
    /// # Safety
    /// There must be such a block, and blocks must have `B` channels.
    #[inline(always)]
    pub(super) unsafe fn entry<const B: usize>(&self, block: usize) -> Entry<B> {
        // SAFETY: the block begins within the entries.
        unsafe {
            let first = *self.starts.get_unchecked(block);
            if INTERLEAVED {
                let offset = self.entries.as_ptr().add(first * (1 + B)).cast();
                Entry { offset, weights: std::ptr::null() }
            } else {
                Entry { offset: self.offsets.as_ptr().add(first), weights: self.entries.as_ptr().add(first * B) }
            }
        }
    }

    /// Entries of a block.
    ///
    /// # Safety
    /// There must be such a block.
    #[inline(always)]
    pub(super) unsafe fn count(&self, block: usize) -> usize {
        // SAFETY: each block has a start, and the last an end.
        unsafe { self.starts.get_unchecked(block + 1) - self.starts.get_unchecked(block) }
    }
}
