//! A unit of a patch transformer: layers within patches of 8×8 pixels, then layers over the whole map.
//!
//! ```text
//! within patches:    x += project(attention(query, key, value of normal(x)))        attention between the patch's channels
//!                    x += feed_forward(normal(x))                                   zeros around the patch
//! over the map:      x += last(value(normal(x)) · mix(far(near(context(normal(x))))))
//!                    x += feed_forward(normal(x))
//! feed_forward(z):   output(gelu(depthwise(gate(z))) · depthwise(pass(z)))
//! ```
//!
//! `near` is a depthwise 5×5 and `far` a depthwise 7×7 with dilation 3; the depthwise convolutions of the feed-forward layer are
//! 3×3, all others 1×1. On a GPU in f16 and bf16 each half of a layer is one kernel, and all layers of a patch are one together,
//! for the channels that these kernels take; elsewhere it is composed of other operators.
//!
//! Source: Liu et al., "Unfolding Once is Enough", arXiv 2308.02794.

use super::{
    Activation, Conv2d, ConvShape, add, gelu, l2_normalize, layer_norm, matmul, mul, same_device, scale, softmax, tanh,
};
use crate::autograd::refuse_gradient;
use crate::error::refuse;
use crate::{Device, Error, Tensor};

const OP: &str = "patch_transformer";

/// Side of a patch, in pixels.
pub const PATCH: usize = 8;

/// What stands before each product of features, without gain and shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normal {
    /// A hyperbolic tangent.
    Tanh,
    /// A layer norm over channels.
    Layer {
        /// Added to the variance.
        epsilon: f32,
    },
}

/// Weights of a convolution, `[outputs][inputs of a group][taps]`, and its bias, `[outputs]` or nothing.
#[derive(Clone, Debug, Default)]
pub struct Affine {
    /// Weights.
    pub weight: Vec<f32>,
    /// Bias.
    pub bias: Vec<f32>,
}

/// Weights of a gated feed-forward layer.
#[derive(Clone, Debug)]
pub struct FeedForwardWeights {
    /// To the channels that are gated.
    pub gate: Affine,
    /// To those that they multiply.
    pub pass: Affine,
    /// 3×3 taps of the first.
    pub gate_taps: Vec<f32>,
    /// Of the second.
    pub pass_taps: Vec<f32>,
    /// Back.
    pub output: Affine,
}

/// Weights of a layer within patches.
#[derive(Clone, Debug)]
pub struct PatchLayerWeights {
    /// Queries, keys and values.
    pub attention: [Affine; 3],
    /// Factor of the scores.
    pub temperature: f32,
    /// After the attention.
    pub project: Affine,
    /// The second half.
    pub feed_forward: FeedForwardWeights,
}

/// Weights of a layer over the whole map.
#[derive(Clone, Debug)]
pub struct SpatialLayerWeights {
    /// What the large kernels see.
    pub context: Affine,
    /// What they gate.
    pub value: Affine,
    /// Depthwise 5×5.
    pub near: Affine,
    /// Depthwise 7×7, dilation 3.
    pub far: Affine,
    /// After them.
    pub mix: Affine,
    /// After the gate.
    pub last: Affine,
    /// The second half.
    pub feed_forward: FeedForwardWeights,
}

/// Weights of a unit.
#[derive(Clone, Debug)]
pub struct PatchTransformerWeights {
    /// Channels of the map.
    pub channels: usize,
    /// What stands before each product of features.
    pub normal: Normal,
    /// Layers within patches.
    pub inner: Vec<PatchLayerWeights>,
    /// Layers over the map.
    pub spatial: Vec<SpatialLayerWeights>,
}

/// A unit's weights, packed for a device.
#[derive(Debug)]
pub struct PatchTransformer {
    device: Device,
    channels: usize,
    normal: Normal,
    inner: Vec<PatchLayer>,
    spatial: Vec<SpatialLayer>,
    /// Gain and shift of a layer norm that has none, `[channels]` each.
    plain: [Tensor; 2],
    #[cfg(feature = "cuda")]
    fused: Option<crate::cuda::patch_transformer::Taps>,
}

#[derive(Debug)]
pub(crate) struct FeedForward {
    pub(crate) gate: Conv2d,
    pub(crate) pass: Conv2d,
    gate_depthwise: Conv2d,
    pass_depthwise: Conv2d,
    pub(crate) output: Conv2d,
}

#[derive(Debug)]
pub(crate) struct PatchLayer {
    pub(crate) attention: [Conv2d; 3],
    pub(crate) temperature: f32,
    pub(crate) project: Conv2d,
    pub(crate) feed_forward: FeedForward,
}

#[derive(Debug)]
pub(crate) struct SpatialLayer {
    pub(crate) first: [Conv2d; 2],
    near: Conv2d,
    far: Conv2d,
    pub(crate) mix: Conv2d,
    pub(crate) last: Conv2d,
    pub(crate) feed_forward: FeedForward,
}

/// Packs weights of 1×1 and depthwise convolutions.
struct Packer<'a> {
    device: &'a Device,
    channels: usize,
}

impl Packer<'_> {
    fn conv(&self, shape: ConvShape, weights: &Affine) -> Result<Conv2d, Error> {
        let bias = (!weights.bias.is_empty()).then_some(&weights.bias[..]);
        Conv2d::new(self.device, shape, &weights.weight, bias)
    }

    fn point(&self, weights: &Affine, inputs: usize, outputs: usize) -> Result<Conv2d, Error> {
        self.conv(ConvShape::same(inputs, outputs, 1), weights)
    }

    fn square(&self, weights: &Affine) -> Result<Conv2d, Error> {
        self.point(weights, self.channels, self.channels)
    }

    fn depthwise(&self, weights: &Affine, channels: usize, side: usize, dilation: usize) -> Result<Conv2d, Error> {
        let padding = [dilation * (side / 2); 2];
        let same = ConvShape::same(channels, channels, side);
        self.conv(ConvShape { groups: channels, dilation: [dilation; 2], padding, ..same }, weights)
    }

    fn feed_forward(&self, weights: &FeedForwardWeights) -> Result<FeedForward, Error> {
        let (c, hidden) = (self.channels, hidden(weights));
        let taps = |taps: &Vec<f32>| Affine { weight: taps.clone(), bias: Vec::new() };
        Ok(FeedForward {
            gate: self.point(&weights.gate, c, hidden)?,
            pass: self.point(&weights.pass, c, hidden)?,
            gate_depthwise: self.depthwise(&taps(&weights.gate_taps), hidden, 3, 1)?,
            pass_depthwise: self.depthwise(&taps(&weights.pass_taps), hidden, 3, 1)?,
            output: self.point(&weights.output, hidden, c)?,
        })
    }
}

/// Channels behind a gate.
fn hidden(weights: &FeedForwardWeights) -> usize {
    weights.gate_taps.len() / 9
}

impl PatchTransformer {
    /// Packs `weights`.
    ///
    /// # Errors
    /// If they have other lengths than the channels ask for, or the device fails.
    pub fn new(device: &Device, weights: &PatchTransformerWeights) -> Result<PatchTransformer, Error> {
        let c = weights.channels;
        let pack = Packer { device, channels: c };
        let inner = weights.inner.iter().map(|layer| {
            let [query, key, value] = &layer.attention;
            Ok(PatchLayer {
                attention: [pack.square(query)?, pack.square(key)?, pack.square(value)?],
                temperature: layer.temperature,
                project: pack.square(&layer.project)?,
                feed_forward: pack.feed_forward(&layer.feed_forward)?,
            })
        });
        let spatial = weights.spatial.iter().map(|layer| {
            Ok(SpatialLayer {
                first: [pack.square(&layer.context)?, pack.square(&layer.value)?],
                near: pack.depthwise(&layer.near, c, 5, 1)?,
                far: pack.depthwise(&layer.far, c, 7, 3)?,
                mix: pack.square(&layer.mix)?,
                last: pack.square(&layer.last)?,
                feed_forward: pack.feed_forward(&layer.feed_forward)?,
            })
        });
        Ok(PatchTransformer {
            inner: inner.collect::<Result<_, Error>>()?,
            spatial: spatial.collect::<Result<_, Error>>()?,
            plain: [1.0f32, 0.0]
                .map(|value| Tensor::from_slice(device, &vec![value; c], &[c]))
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?
                .try_into()
                .expect("two of two"),
            #[cfg(feature = "cuda")]
            fused: crate::cuda::patch_transformer::Taps::new(device, weights)?,
            device: device.clone(),
            channels: c,
            normal: weights.normal,
        })
    }

    /// The unit of a map `[n, h, w, channels]` whose sides are multiples of 8.
    ///
    /// # Errors
    /// If the map has another shape or lies elsewhere, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        same_device(OP, &self.device, x.device())?;
        let whole = |side: &usize| *side > 0 && side.is_multiple_of(PATCH);
        if x.rank() != 4 || x.shape()[3] != self.channels || !x.shape()[1..3].iter().all(whole) || x.shape()[0] == 0 {
            let c = self.channels;
            return refuse!(OP, "wants [n, h, w, {c}] with sides that are multiples of {PATCH}, got {:?}", x.shape());
        }
        refuse_gradient(OP, "the operators that it is made of", &[x])?;
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(gpu), Some(taps)) = (&self.device, &self.fused)
            && x.dtype().size() == 2
        {
            return crate::cuda::patch_transformer::run(gpu, self.normal, &self.inner, &self.spatial, taps, x);
        }
        self.compose(x)
    }

    fn normalise(&self, x: &Tensor) -> Result<Tensor, Error> {
        let Normal::Layer { epsilon } = self.normal else { return tanh(x) };
        let (gain, shift) = (self.plain[0].to_dtype(x.dtype())?, self.plain[1].to_dtype(x.dtype())?);
        layer_norm(x, &gain, &shift, epsilon)
    }

    /// The unit, of other operators.
    fn compose(&self, x: &Tensor) -> Result<Tensor, Error> {
        let &[n, h, w, c] = &**x.shape() else { unreachable!("checked by forward") };
        let (rows, columns) = (h / PATCH, w / PATCH);
        let patches = x.reshape(&[n, rows, PATCH, columns, PATCH, c])?.permute(&[0, 1, 3, 2, 4, 5])?;
        let mut x = patches.reshape(&[n * rows * columns, PATCH, PATCH, c])?.padded()?;
        for layer in &self.inner {
            x = add(&x, &self.attention(layer, &self.normalise(&x)?)?)?;
            x = self.feed_forward(&layer.feed_forward, &x)?;
        }
        let map = x.reshape(&[n, rows, columns, PATCH, PATCH, c])?.permute(&[0, 1, 3, 2, 4, 5])?;
        let mut x = map.reshape(&[n, h, w, c])?.padded()?;
        for layer in &self.spatial {
            let plain = |conv: &Conv2d, x: &Tensor| conv.forward(x, Activation::Identity, None);
            let z = self.normalise(&x)?;
            let context = plain(&layer.far, &plain(&layer.near, &plain(&layer.first[0], &z)?)?)?;
            let gated = mul(&plain(&layer.first[1], &z)?, &plain(&layer.mix, &context)?)?;
            x = layer.last.forward(&gated, Activation::Identity, Some(&x))?;
            x = self.feed_forward(&layer.feed_forward, &x)?;
        }
        Ok(x)
    }

    /// Attention between the channels of each patch `[patches, 8, 8, c]`.
    fn attention(&self, layer: &PatchLayer, z: &Tensor) -> Result<Tensor, Error> {
        let &[patches, _, _, c] = &**z.shape() else { unreachable!("made by compose") };
        let part = |i: usize| {
            let part = layer.attention[i].forward(z, Activation::Identity, None)?;
            part.reshape(&[patches, PATCH * PATCH, c])?.transpose(1, 2)?.contiguous()
        };
        let [q, k] = [l2_normalize(&part(0)?, 1e-12)?, l2_normalize(&part(1)?, 1e-12)?];
        let scores = scale(&matmul(&q, &k.transpose(1, 2)?)?, layer.temperature)?;
        let mixed = matmul(&softmax(&scores)?, &part(2)?)?;
        let mixed = mixed.transpose(1, 2)?.reshape(&[patches, PATCH, PATCH, c])?;
        layer.project.forward(&mixed, Activation::Identity, None)
    }

    /// `x + feed_forward(normal(x))`.
    fn feed_forward(&self, layer: &FeedForward, x: &Tensor) -> Result<Tensor, Error> {
        let z = self.normalise(x)?;
        let branch = |first: &Conv2d, depthwise: &Conv2d| {
            depthwise.forward(&first.forward(&z, Activation::Identity, None)?, Activation::Identity, None)
        };
        let gate = gelu(&branch(&layer.gate, &layer.gate_depthwise)?)?;
        let gated = mul(&gate, &branch(&layer.pass, &layer.pass_depthwise)?)?;
        layer.output.forward(&gated, Activation::Identity, Some(x))
    }
}
