//! Weights in blocks of output channels that share their zero columns.

use super::tiles;
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
    pub(super) counts: Vec<u32>,
    indices: Vec<u32>,
    pub(super) values: AlignedBuf,
    pub(super) bias: AlignedBuf,
    /// Where the entries of each block begin, and where the last end.
    pub(super) starts: Vec<usize>,
    /// Vectors of pixels in a tile.
    pub(super) vectors: usize,
}

/// Where in the input each entry of a [`PackedSparse`] begins, in floats.
#[derive(Clone, Debug)]
pub struct Offsets {
    pub(super) values: Vec<u32>,
    pub(super) highest: usize,
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
        let (mut counts, mut indices, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new(), vec![0]);
        let mut entry = vec![0.0; block];
        for b in 0..blocks {
            let before = indices.len();
            for column in 0..columns {
                for (i, value) in entry.iter_mut().enumerate() {
                    let channel = b * block + i;
                    *value = if channel < out_channels { weights[channel * columns + column] } else { 0.0 };
                }
                if keep(&entry) {
                    indices.push(column as u32);
                    values.extend_from_slice(&entry);
                }
            }
            counts.push((indices.len() - before) as u32);
            starts.push(indices.len());
        }
        let mut padded = AlignedBuf::zeroed(blocks * block);
        padded[..out_channels].copy_from_slice(bias);
        let values = AlignedBuf::from_slice(&values);
        let bias = padded;
        PackedSparse { isa, out_channels, columns, block, counts, indices, values, bias, starts, vectors }
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
        self.counts.len()
    }

    /// Weights that are stored, those of channels that only fill the last block included.
    pub fn stored(&self) -> usize {
        self.indices.len() * self.block
    }

    /// Where each stored entry meets the input, if column `k` begins at float `of(k)`.
    ///
    /// # Panics
    /// If an offset exceeds 32 bits.
    pub fn offsets(&self, of: impl Fn(usize) -> usize) -> Offsets {
        let to_u32 = |column: &u32| u32::try_from(of(*column as usize)).expect("offsets fit 32 bits");
        let values: Vec<u32> = self.indices.iter().map(to_u32).collect();
        let highest = values.iter().copied().max().unwrap_or(0) as usize;
        Offsets { values, highest }
    }
}
