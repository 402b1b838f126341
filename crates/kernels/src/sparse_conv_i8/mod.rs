//! Convolution of 8-bit pictures by block-sparse 8-bit weights, exactly as TensorFlow Lite's reference kernels compute it.
//!
//! ```text
//! sum[o][p] = bias[o] + Σ_c (w[o][c] − w_zero[o]) · (in[c][p] − in_zero)        exact, in 32 bits
//! out[o][p] = clamp(out_zero + round(sum[o][p] · in_scale · w_scale[o] / out_scale))
//! ```
//!
//! Activations are unsigned bytes in planes of quads, four channels side by side ([`QuadBuf`]); a file's signed bytes have 128
//! added, and so have their zero points. Weights are stored in blocks of four outputs by four inputs, those that are not
//! all zero. A dense layer is one that has all blocks.
//!
//! Results are the same bytes on every instruction set and for every number of threads.
//!
//! Files: `vector/` (instruction sets), `quads.rs` and `packed.rs` (layouts), `requantise.rs` (rounding), `tile.rs` (the
//! product), `depthwise.rs`, `layer.rs` (whole layers on all threads), `pool.rs`, `elementwise.rs`,
//! `reference.rs` (plain code).
//!
//! Sources: Jacob et al., arXiv 1712.05877, for the arithmetic; the block pattern is SparseByteNN's (Xu et al., arXiv
//! 2310.19509) in our reconstruction.

mod depthwise;
mod elementwise;
mod geometry;
mod layer;
mod packed;
mod pool;
mod quads;
pub mod reference;
mod requantise;
mod tile;
mod vector;

#[cfg(test)]
mod tests;

pub use depthwise::PackedDepthwise;
pub use elementwise::{AddLayer, copy_channels};
pub use geometry::Geometry;
pub use layer::{ConvLayer, Feed, Scratch, depthwise_scratch_bytes, run_depthwise};
pub use packed::{IntegerWeights, PackedConv};
pub use pool::{PoolKind, pool, rescaled_mean};
pub use quads::QuadBuf;
pub use requantise::{Factor, Requantisation};
pub use vector::{Form, Level};

use std::fmt;

/// Why a layer cannot be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// A sum of this output could overflow 32 bits, before or after it is scaled.
    Overflow {
        /// Output channel.
        output: usize,
    },
    /// A weight less its zero point is beyond −255 to 255.
    Weight {
        /// Output channel.
        output: usize,
        /// The weight.
        weight: i16,
    },
    /// A scale, a zero point or a range is impossible.
    Factor,
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackError::Overflow { output } => write!(f, "sums of output {output} can overflow 32 bits"),
            PackError::Weight { output, weight } => write!(f, "output {output} has a weight of {weight}"),
            PackError::Factor => f.write_str("a scale, a zero point or a range is impossible"),
        }
    }
}

impl std::error::Error for PackError {}
