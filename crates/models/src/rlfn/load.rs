//! Packing an RLFN for the CPU's pass.

use super::checkpoint::{BlockLayers, Checkpoint, Layer};
use super::{Block, Rlfn};
use crate::{Error, Precision};
use supple_tensor::kernels::conv::{Numerics, PackedConv};
use supple_tensor::kernels::gemm::PackedMatrix;
use supple_tensor::kernels::simd::bf16_is_fast;
use supple_tensor::kernels::spatial_attention::Gate;
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;

impl Rlfn {
    /// Builds the network from a checkpoint: the number of channels, blocks and the scale are read from it.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than its neighbours ask for, or holds NaN.
    pub fn load(cpu: &Cpu, weights: &Weights, precision: Precision) -> Result<Rlfn, Error> {
        let isa = cpu.isa;
        // The first and the last layers are the picture itself; those between bear coarser rounding.
        let (numerics, inner) = match precision {
            Precision::F32 => (Numerics::Strict, Numerics::Strict),
            _ if bf16_is_fast(isa) => (Numerics::Strict, Numerics::Bf16),
            _ => (Numerics::Relaxed, Numerics::Relaxed),
        };
        let checkpoint = Checkpoint::read(weights)?;
        let [c, mid, f] = checkpoint.channels;
        let out = checkpoint.tail.bias.len();
        let blocks: Vec<Block> = checkpoint.blocks.iter().map(|block| pack_block(isa, inner, block)).collect();

        let whole = 28 * c + 9 * c * c + c + out * (9 * c + 1);
        let block = 18 * c * mid + 9 * mid * mid + 2 * mid + c + c * c + c + 2 * c * f + f + c + 19 * f * f + 3 * f;
        // conv_f, conv3 and conv4 become a coarse 3×3 convolution and a 1×1 one, each with `c` outputs and a bias.
        let fused_block = block - (10 * f * f + 2 * f) + 9 * f * c + c;
        let parameters = [block, fused_block].map(|block| whole + blocks.len() * block);
        Ok(Rlfn {
            name: super::name(c, mid, blocks.len()),
            scale: checkpoint.scale,
            tile: numerics.tile_side(),
            channels: c,
            mid_channels: mid,
            attention_channels: f,
            parameters: parameters.into(),
            head: pack(isa, numerics, &checkpoint.head),
            blocks,
            body: pack(isa, numerics, &checkpoint.body),
            tail: pack(isa, numerics, &checkpoint.tail),
            spare: Default::default(),
        })
    }
}

fn pack(isa: Isa, numerics: Numerics, layer: &Layer) -> PackedConv {
    PackedConv::pack_with(isa, numerics, &layer.shape, &layer.weight, Some(&layer.bias))
}

fn pack_block(isa: Isa, numerics: Numerics, layers: &BlockLayers) -> Block {
    let conv = |layer: &Layer| pack(isa, numerics, layer);
    let (f, c) = (layers.gate.shape.in_channels, layers.gate.shape.out_channels);
    let mix = PackedMatrix::pack(isa, f, c, |k, n| layers.gate.weight[n * f + k]);
    let mut bias = vec![0.0; mix.padded_columns()];
    bias[..c].copy_from_slice(&layers.gate.bias);
    let coarse = &layers.coarse;
    Block {
        first: conv(&layers.first),
        second: conv(&layers.second),
        third: conv(&layers.third),
        mix: conv(&layers.mix),
        reduce: conv(&layers.reduce),
        half: conv(&layers.half),
        // A tile of this map would span 24 columns of the picture, and widen the halo by as much.
        coarse: PackedConv::pack_direct(isa, &coarse.shape, &coarse.weight, Some(&coarse.bias)),
        gate: Gate { mix, bias },
    }
}
