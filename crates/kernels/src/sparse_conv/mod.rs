//! Convolution of planar pictures by block-sparse weights: the pointwise product and what feeds it.
//!
//! `out[o][p] = clamp(bias[o] + Σ_k w[o][k] · in[offset(k) + p])`, optionally `clamp(that + residual[o][p])`
//!
//! A picture is planar: `[channels][plane]`, where a plane holds `height · width` floats row by row and some unused ones
//! after them. Column `k` of the weights meets the input that lies at an offset of its own, the same for every pixel of
//! a row: for a 1×1 convolution the plane of input channel `k`, for k×k one tap of a channel in zero-padded [`Phases`] of
//! the input. So one kernel serves 1×1, k×k and fully-connected layers.
//!
//! Neighbouring output channels, `block` of them, share the columns at which they are not zero. For each block and each of
//! those columns the kernel loads a tile of pixels once and multiplies it by `block` weights, all sums staying in
//! registers. A dense layer is one whose blocks have all columns.
//!
//! | part of [`PackedSparse`] | shape |
//! |---|---|
//! | starts | `[blocks + 1]`, the first entry of each block and the end of the last; an entry is a column that is not zero |
//! | offsets | `[entries]`, where the column meets the input; columns ascend in each block |
//! | weights | `[entries][block]`; in WebAssembly each entry's after its offset, in one array |
//! | bias | `[blocks · block]` |
//!
//! Files: `packed.rs` (this layout), `tile.rs` (the kernel), `tiles.rs` (its shape), `half.rs` (in half precision), `phases.rs` (zero-padded input), `depthwise.rs`, `direct.rs`
//! (its most usual case), `layer.rs` (a whole layer on all threads), `pool.rs`.
//!
//! Source: the block-sparse kernels of Elsen et al., "Fast Sparse ConvNets", arXiv 1911.09723; the granularity is
//! SparseByteNN's (Xu et al., arXiv 2310.19509), in our reconstruction.

mod depthwise;
mod direct;
mod direct_rows;
mod half;
mod layer;
mod packed;
mod phases;
mod planes;
mod pool;
mod tile;
mod tiles;
mod unknown;

#[cfg(test)]
mod tests;

pub use depthwise::PlanarDepthwise;
pub use half::HALF_BLOCK;
pub use layer::{Feed, SparseLayer};
pub use packed::{BLOCKS, PackedSparse, default_block};
pub use phases::Phases;
pub use planes::{PADDING, plane_len};
pub use pool::{Reduce, global_average, pool_rows};
pub use tile::{Epilogue, Product, multiply};
pub use tiles::tune;
