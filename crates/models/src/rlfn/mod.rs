//! RLFN, the residual local feature network: a plain convolutional network for super-resolution.
//!
//! ```text
//! head  = conv_1(x)                                   3×3, 3 → C
//! block: o = lrelu(c3_r(lrelu(c2_r(lrelu(c1_r(x)))))) + x;  o = c5(o);  o · esa(o)
//! body  = conv_2(block_N(…block_1(head))) + head
//! out   = pixel_shuffle(upsampler.0(body))
//!
//! esa:   r = conv1(o)                                 1×1, C → 16
//!        c = conv3(max_pool 7, stride 3(conv2(r)))    3×3 stride 2 without padding; 3×3
//!        mask = sigmoid(conv4(resize(c) + conv_f(r)))
//! ```
//!
//! Two exact fusions at load time: `conv4` moves to the coarse side of the resize, into `conv3`, and into `conv_f` on the
//! other side (bilinear weights sum to 1, and 1×1 convolutions commute with a resize); and checkpoints that work on
//! 0..255 get their first and last convolution scaled to 0..1.
//!
//! The attention looks far: its coarse grid is tied to the picture's corner and size. A pass therefore streams rows
//! through all stages, each stage lagging behind the one before it, which gives the whole picture's result without
//! holding the picture. [`Definition`] is the same network on tensors, for training.
//!
//! Source: Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", arXiv 2205.07514.

mod checkpoint;
mod definition;
mod load;
#[cfg(feature = "cuda")]
mod on_device;
mod pass;
mod prune;
mod schedule;

use crate::{Error, Sink, Source, SuperResolution, Window};
use schedule::attention_sides;
use std::sync::Mutex;
use supple_tensor::Cpu;
use supple_tensor::kernels::conv::PackedConv;
use supple_tensor::kernels::spatial_attention::Gate;

pub use checkpoint::recognises;
pub use definition::Definition;
#[cfg(feature = "cuda")]
pub use on_device::RlfnLayers;
pub use prune::prune_channels;

/// Smallest side for which the attention's pooling has a window.
const MIN_SIDE: usize = 15;

/// What a network of this size is called.
fn name(channels: usize, mid_channels: usize, blocks: usize) -> String {
    match (channels, mid_channels, blocks) {
        (48, 48, 6) => "RLFN_S".to_owned(),
        (52, 52, 6) => "RLFN".to_owned(),
        (46, 48, 4) => "RLFN_ntire".to_owned(),
        (c, mid, n) => format!("RLFN {c}/{mid}/{n}"),
    }
}

/// A loaded RLFN.
#[derive(Debug)]
pub struct Rlfn {
    name: String,
    scale: usize,
    /// Side of the convolutions' tiles.
    tile: usize,
    channels: usize,
    mid_channels: usize,
    attention_channels: usize,
    /// In the checkpoint, and after fusion.
    parameters: (usize, usize),
    head: PackedConv,
    blocks: Vec<Block>,
    body: PackedConv,
    /// Output channels in the order `[sub-row][sub-column][colour]`.
    tail: PackedConv,
    /// Memory of an earlier pass.
    spare: Mutex<Option<pass::Buffers>>,
}

/// A residual local feature block with its attention.
#[derive(Debug)]
struct Block {
    first: PackedConv,
    second: PackedConv,
    third: PackedConv,
    /// `c5`.
    mix: PackedConv,
    /// The attention's `conv1`.
    reduce: PackedConv,
    /// `conv2`.
    half: PackedConv,
    /// `conv4` without bias after `conv3`.
    coarse: PackedConv,
    /// `conv4` after `conv_f`, and the mask.
    gate: Gate,
}

impl Rlfn {
    /// Floats of scratch that any layer needs.
    fn scratch_len(&self, cpu: &Cpu) -> usize {
        let blocks =
            self.blocks.iter().flat_map(|b| [&b.first, &b.second, &b.third, &b.mix, &b.reduce, &b.half, &b.coarse]);
        let layers = [&self.head, &self.body, &self.tail].into_iter().chain(blocks).map(|layer| layer.scratch_len(cpu));
        layers.chain(self.blocks.iter().map(|b| b.gate.scratch_len(cpu))).max().unwrap_or(0)
    }
}

impl SuperResolution for Rlfn {
    fn name(&self) -> &str {
        &self.name
    }

    fn scale(&self) -> usize {
        self.scale
    }

    fn parameters(&self) -> (usize, usize) {
        self.parameters
    }

    fn macs(&self, width: usize, height: usize) -> u64 {
        let [c, mid, f, s] = [self.channels, self.mid_channels, self.attention_channels, self.scale].map(|n| n as u64);
        let ((half_h, coarse_h), (half_w, coarse_w)) = (attention_sides(height), attention_sides(width));
        let [pixels, half, coarse] =
            [(width, height), (half_w, half_h), (coarse_w, coarse_h)].map(|(w, h)| (w * h) as u64);
        let block = pixels * (18 * c * mid + 9 * mid * mid + c * c + 2 * c * f + f * f) + (half + coarse) * 9 * f * f;
        pixels * (27 * c + 9 * c * c + 27 * c * s * s) + self.blocks.len() as u64 * block
    }

    fn min_side(&self) -> usize {
        MIN_SIDE
    }

    /// A block's three convolutions reach one tile each (a tile's rounding depends on all of its inputs) and its
    /// attention 27 columns; body and tail reach a tile each, the head one column.
    fn halo(&self) -> usize {
        (self.blocks.len() * (3 * self.tile + 27) + 2 * self.tile + 1).next_multiple_of(self.alignment())
    }

    /// A multiple of the convolutions' tiles of 4 or 6 and of the attention's grid of 6.
    fn alignment(&self) -> usize {
        12
    }

    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize {
        pass::working_memory(self, cpu, window)
    }

    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        window.check(self)?;
        pass::Pass::new(self, cpu, window).run(window, source, sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
