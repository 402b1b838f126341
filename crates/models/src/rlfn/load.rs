//! Reading RLFN checkpoints, and the fusions applied on the way.

use super::{Block, Rlfn};
use crate::{Error, Precision};
use supple_tensor::kernels::conv::{ConvShape, Numerics, PackedConv};
use supple_tensor::kernels::gemm::PackedMatrix;
use supple_tensor::kernels::simd::bf16_is_fast;
use supple_tensor::kernels::spatial_attention::Gate;
use supple_tensor::{Cpu, Isa};
use supple_weights::Weights;

/// Whether the tensors' names are those of an RLFN.
pub fn recognises(weights: &Weights) -> bool {
    ["conv_1.weight", "block_1.c1_r.weight", "block_1.esa.conv_f.weight", "upsampler.0.weight"]
        .iter()
        .all(|name| weights.contains(name))
}

/// A convolution as it stands in a checkpoint.
pub(super) struct Layer {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub(super) fn layer(weights: &Weights, name: &str, shape: [usize; 4]) -> Result<Layer, Error> {
    Ok(Layer {
        weight: weights.tensor(&format!("{name}.weight"), &shape)?,
        bias: weights.tensor(&format!("{name}.bias"), &shape[..1])?,
    })
}

/// The number of output channels of a convolution, read from its shape.
pub(super) fn outputs(weights: &Weights, name: &str) -> usize {
    weights.info(&format!("{name}.weight")).and_then(|info| info.shape.first().copied()).unwrap_or(0)
}

/// `a · b` for row-major matrices of `m × k` and `k × n`, summed in `f64`.
pub(super) fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let cell =
        |i: usize, j: usize| (0..k).map(|x| f64::from(a[i * k + x]) * f64::from(b[x * n + j])).sum::<f64>() as f32;
    (0..m * n).map(|at| cell(at / n, at % n)).collect()
}

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
        let c = outputs(weights, "conv_1");
        let mid = outputs(weights, "block_1.c1_r");
        let f = outputs(weights, "block_1.esa.conv1");
        let out = outputs(weights, "upsampler.0");
        let scale = (1..=8).find(|s| 3 * s * s == out).ok_or_else(|| Error::UnknownNetwork {
            file: weights.source().into(),
            found: format!("upsampler.0.weight has {out} outputs, which is 3·s·s for no scale s"),
        })?;
        // The paper's checkpoints take 0..255; ours say "0..1" in their metadata.
        let unit_range = weights.metadata().get("range").is_some_and(|range| range == "0..1");
        let range = if unit_range { 1.0 } else { 255.0 };

        let mut head = layer(weights, "conv_1", [c, 3, 3, 3])?;
        head.weight.iter_mut().for_each(|w| *w *= range);
        let pack = |shape: ConvShape, l: &Layer| PackedConv::pack_with(isa, numerics, &shape, &l.weight, Some(&l.bias));
        let mut blocks = Vec::new();
        while weights.contains(&format!("block_{}.c1_r.weight", blocks.len() + 1)) {
            blocks.push(load_block(isa, inner, weights, &format!("block_{}", blocks.len() + 1), [c, mid, f])?);
        }
        let body = layer(weights, "conv_2", [c, c, 3, 3])?;
        let tail = reorder_tail(&layer(weights, "upsampler.0", [out, c, 3, 3])?, scale, range);

        let checkpoint = 28 * c + 9 * c * c + c + out * (9 * c + 1);
        let block = 18 * c * mid + 9 * mid * mid + 2 * mid + c + c * c + c + 2 * c * f + f + c + 19 * f * f + 3 * f;
        // conv_f, conv3 and conv4 become a coarse 3×3 convolution and a 1×1 one, each with `c` outputs and a bias.
        let fused_block = block - (10 * f * f + 2 * f) + 9 * f * c + c;
        let parameters = [block, fused_block].map(|block| checkpoint + blocks.len() * block);
        Ok(Rlfn {
            name: super::name(c, mid, blocks.len()),
            scale,
            tile: numerics.tile_side(),
            channels: c,
            mid_channels: mid,
            attention_channels: f,
            parameters: parameters.into(),
            head: pack(ConvShape::same(3, c, 3), &head),
            blocks,
            body: pack(ConvShape::same(c, c, 3), &body),
            tail: pack(ConvShape::same(c, out, 3), &tail),
            spare: Default::default(),
        })
    }
}

fn load_block(
    isa: Isa,
    numerics: Numerics,
    weights: &Weights,
    name: &str,
    [c, mid, f]: [usize; 3],
) -> Result<Block, Error> {
    let conv = |part: &str, shape: ConvShape| -> Result<PackedConv, Error> {
        let side = shape.kernel[0];
        let l = layer(weights, &format!("{name}.{part}"), [shape.out_channels, shape.in_channels, side, side])?;
        Ok(PackedConv::pack_with(isa, numerics, &shape, &l.weight, Some(&l.bias)))
    };
    let conv3 = layer(weights, &format!("{name}.esa.conv3"), [f, f, 3, 3])?;
    let conv4 = layer(weights, &format!("{name}.esa.conv4"), [c, f, 1, 1])?;
    let conv_f = layer(weights, &format!("{name}.esa.conv_f"), [f, f, 1, 1])?;

    // conv4 behind conv3, on the coarse map; its bias goes to the other branch.
    let coarse = Layer {
        weight: product(&conv4.weight, &conv3.weight, c, f, f * 9),
        bias: product(&conv4.weight, &conv3.bias, c, f, 1),
    };
    // conv4 behind conv_f, at full size.
    let mix = product(&conv4.weight, &conv_f.weight, c, f, f);
    let mix = PackedMatrix::pack(isa, f, c, |k, n| mix[n * f + k]);
    let mut bias = vec![0.0; mix.padded_columns()];
    for ((to, fused), own) in bias.iter_mut().zip(product(&conv4.weight, &conv_f.bias, c, f, 1)).zip(&conv4.bias) {
        *to = fused + own;
    }
    let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(f, f, 3) };
    Ok(Block {
        first: conv("c1_r", ConvShape::same(c, mid, 3))?,
        second: conv("c2_r", ConvShape::same(mid, mid, 3))?,
        third: conv("c3_r", ConvShape::same(mid, c, 3))?,
        mix: conv("c5", ConvShape::same(c, c, 1))?,
        reduce: conv("esa.conv1", ConvShape::same(c, f, 1))?,
        half: conv("esa.conv2", half)?,
        // A tile of this map would span 24 columns of the picture, and widen the halo by as much.
        coarse: PackedConv::pack_direct(isa, &ConvShape::same(f, c, 3), &coarse.weight, Some(&coarse.bias)),
        gate: Gate { mix, bias },
    })
}

/// Divides by the range, and reorders channels from `[colour][sub-row][sub-column]` to `[sub-row][sub-column][colour]`.
pub(super) fn reorder_tail(tail: &Layer, scale: usize, range: f32) -> Layer {
    let outputs = tail.bias.len();
    let per_output = tail.weight.len() / outputs;
    let source = |o: usize| (o % 3) * scale * scale + o / 3;
    Layer {
        weight: (0..outputs)
            .flat_map(|o| &tail.weight[source(o) * per_output..][..per_output])
            .map(|w| w / range)
            .collect(),
        bias: (0..outputs).map(|o| tail.bias[source(o)] / range).collect(),
    }
}
