//! What an RLFN checkpoint holds, as one description that the CPU's pass and other devices pack their layers from.
//!
//! The exact fusions are applied here, as the head of [`rlfn`](super) says.

use crate::Error;
use supple_tensor::ops::ConvShape;
use supple_weights::Weights;

/// Whether the tensors' names are those of an RLFN.
pub fn recognises(weights: &Weights) -> bool {
    ["conv_1.weight", "block_1.c1_r.weight", "block_1.esa.conv_f.weight", "upsampler.0.weight"]
        .iter()
        .all(|name| weights.contains(name))
}

/// A convolution.
pub(super) struct Layer {
    pub shape: ConvShape,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// The layers of a block: three convolutions, the one after the residual, and the attention's.
pub(super) struct BlockLayers {
    pub first: Layer,
    pub second: Layer,
    pub third: Layer,
    pub mix: Layer,
    /// To the attention's channels.
    pub reduce: Layer,
    /// With stride 2, before the pooling.
    pub half: Layer,
    /// `conv4` behind `conv3`, on the coarse map; `conv4`'s bias goes to the other branch.
    pub coarse: Layer,
    /// `conv4` behind `conv_f`, at full size.
    pub gate: Layer,
}

/// A checkpoint's layers after the fusions.
pub(super) struct Checkpoint {
    /// Channels of the trunk, within blocks, and of the attention.
    pub channels: [usize; 3],
    pub scale: usize,
    pub head: Layer,
    pub blocks: Vec<BlockLayers>,
    pub body: Layer,
    /// Outputs in the order `[sub-row][sub-column][colour]`.
    pub tail: Layer,
}

impl Checkpoint {
    /// Reads a checkpoint: the number of channels, blocks and the scale are found in it.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than its neighbours ask for, or holds NaN.
    pub(super) fn read(weights: &Weights) -> Result<Checkpoint, Error> {
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

        let mut head = layer(weights, "conv_1", ConvShape::same(3, c, 3))?;
        head.weight.iter_mut().for_each(|w| *w *= range);
        let mut blocks = Vec::new();
        while weights.contains(&format!("block_{}.c1_r.weight", blocks.len() + 1)) {
            blocks.push(block(weights, &format!("block_{}", blocks.len() + 1), [c, mid, f])?);
        }
        let body = layer(weights, "conv_2", ConvShape::same(c, c, 3))?;
        let tail = reorder_tail(layer(weights, "upsampler.0", ConvShape::same(c, out, 3))?, scale, range);
        Ok(Checkpoint { channels: [c, mid, f], scale, head, blocks, body, tail })
    }
}

/// The number of output channels of a convolution, read from its shape.
fn outputs(weights: &Weights, name: &str) -> usize {
    weights.info(&format!("{name}.weight")).and_then(|info| info.shape.first().copied()).unwrap_or(0)
}

fn layer(weights: &Weights, name: &str, shape: ConvShape) -> Result<Layer, Error> {
    let [height, width] = shape.kernel;
    let dims = [shape.out_channels, shape.in_channels, height, width];
    let weight = weights.tensor(&format!("{name}.weight"), &dims)?;
    Ok(Layer { shape, weight, bias: weights.tensor(&format!("{name}.bias"), &dims[..1])? })
}

fn block(weights: &Weights, name: &str, [c, mid, f]: [usize; 3]) -> Result<BlockLayers, Error> {
    let read = |part: &str, shape: ConvShape| layer(weights, &format!("{name}.{part}"), shape);
    let conv3 = read("esa.conv3", ConvShape::same(f, f, 3))?;
    let conv4 = read("esa.conv4", ConvShape::same(f, c, 1))?;
    let conv_f = read("esa.conv_f", ConvShape::same(f, f, 1))?;
    let coarse = Layer {
        shape: ConvShape::same(f, c, 3),
        weight: product(&conv4.weight, &conv3.weight, c, f, f * 9),
        bias: product(&conv4.weight, &conv3.bias, c, f, 1),
    };
    let mut gate = Layer {
        shape: ConvShape::same(f, c, 1),
        weight: product(&conv4.weight, &conv_f.weight, c, f, f),
        bias: product(&conv4.weight, &conv_f.bias, c, f, 1),
    };
    gate.bias.iter_mut().zip(&conv4.bias).for_each(|(to, own)| *to += own);
    let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(f, f, 3) };
    Ok(BlockLayers {
        first: read("c1_r", ConvShape::same(c, mid, 3))?,
        second: read("c2_r", ConvShape::same(mid, mid, 3))?,
        third: read("c3_r", ConvShape::same(mid, c, 3))?,
        mix: read("c5", ConvShape::same(c, c, 1))?,
        reduce: read("esa.conv1", ConvShape::same(c, f, 1))?,
        half: read("esa.conv2", half)?,
        coarse,
        gate,
    })
}

/// `a · b` for row-major matrices of `m × k` and `k × n`, summed in `f64`.
fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let cell =
        |i: usize, j: usize| (0..k).map(|x| f64::from(a[i * k + x]) * f64::from(b[x * n + j])).sum::<f64>() as f32;
    (0..m * n).map(|at| cell(at / n, at % n)).collect()
}

/// Divides by the range, and reorders channels from `[colour][sub-row][sub-column]` to `[sub-row][sub-column][colour]`.
fn reorder_tail(tail: Layer, scale: usize, range: f32) -> Layer {
    let outputs = tail.bias.len();
    let per_output = tail.weight.len() / outputs;
    let source = |o: usize| (o % 3) * scale * scale + o / 3;
    let rows = (0..outputs).flat_map(|o| &tail.weight[source(o) * per_output..][..per_output]);
    Layer {
        shape: tail.shape,
        weight: rows.map(|w| w / range).collect(),
        bias: (0..outputs).map(|o| tail.bias[source(o)] / range).collect(),
    }
}
