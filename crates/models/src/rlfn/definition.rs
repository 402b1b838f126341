//! RLFN as a function of tensors, for training: the graph at the head of [`rlfn`](super), on the names of its checkpoints.
//!
//! Pictures are 0..1; a published checkpoint, which takes 0..255, is rescaled when it is read.

use crate::{Error, Network, Parameters};
use supple_tensor::ops::{self, Activation, ConvShape, ResizeMode};
use supple_tensor::{Device, Tensor};
use supple_weights::Weights;

/// Slope of the leaky ReLUs.
const SLOPE: f32 = 0.05;

/// The size of an RLFN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Channels of the trunk.
    pub channels: usize,
    /// Channels between the convolutions of a block.
    pub mid_channels: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Channels of the attention.
    pub attention_channels: usize,
    /// Output pixels along a side of an input pixel.
    pub scale: usize,
}

impl Definition {
    /// RLFN_S, with 48 channels.
    pub fn small(scale: usize) -> Definition {
        Definition { channels: 48, mid_channels: 48, blocks: 6, attention_channels: 16, scale }
    }

    /// RLFN, with 52 channels.
    pub fn base(scale: usize) -> Definition {
        Definition { channels: 52, mid_channels: 52, ..Definition::small(scale) }
    }

    /// The NTIRE 2022 entry before its channels were pruned from 48 to 46.
    pub fn challenge(scale: usize) -> Definition {
        Definition { blocks: 4, ..Definition::small(scale) }
    }

    /// A network of 11 thousand parameters, for trials.
    pub fn tiny(scale: usize) -> Definition {
        Definition { channels: 16, mid_channels: 16, blocks: 1, ..Definition::small(scale) }
    }

    /// Reads the parameters of a checkpoint, rescaled to pictures in 0..1.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than this network's.
    pub fn read(&self, device: &Device, weights: &Weights) -> Result<Parameters, Error> {
        let mut parameters = Parameters::read(device, weights, &self.shapes())?;
        if weights.metadata().get("range").is_none_or(|range| range != "0..1") {
            for (name, factor) in
                [("conv_1.weight", 255.0), ("upsampler.0.weight", 1.0 / 255.0), ("upsampler.0.bias", 1.0 / 255.0)]
            {
                let scaled = ops::scale(parameters.get(&self.name(), name)?, factor)?;
                parameters.insert(name, scaled);
            }
        }
        Ok(parameters)
    }

    /// The attention of a block.
    fn attention(&self, p: &Layers<'_>, block: &str, x: &Tensor) -> Result<Tensor, Error> {
        let name = |part: &str| format!("{block}.esa.{part}");
        let (c, f) = (self.channels, self.attention_channels);
        let reduced = p.conv(&name("conv1"), ConvShape::same(c, f, 1), x, Activation::Identity)?;
        let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(f, f, 3) };
        let coarse = p.conv(&name("conv2"), half, &reduced, Activation::Identity)?;
        let coarse = ops::max_pool2d(&coarse, [7, 7], [3, 3], [0, 0])?;
        let coarse = p.conv(&name("conv3"), ConvShape::same(f, f, 3), &coarse, Activation::Identity)?;
        let coarse = ops::resize(&coarse, ResizeMode::Bilinear, [x.shape()[1], x.shape()[2]])?;
        let fine = p.conv(&name("conv_f"), ConvShape::same(f, f, 1), &reduced, Activation::Identity)?;
        let both = ops::add(&coarse, &fine)?;
        let mask = p.conv(&name("conv4"), ConvShape::same(f, c, 1), &both, Activation::Identity)?;
        Ok(ops::sigmoid_gate(x, &mask)?)
    }

    fn block(&self, p: &Layers<'_>, block: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (c, mid) = (self.channels, self.mid_channels);
        let name = |part: &str| format!("{block}.{part}");
        let first = p.layer(&name("c1_r"), ConvShape::same(c, mid, 3))?;
        let second = p.layer(&name("c2_r"), ConvShape::same(mid, mid, 3))?;
        let third = p.layer(&name("c3_r"), ConvShape::same(mid, c, 3))?;
        let o = ops::residual_convs(x, &[first, second, third], SLOPE)?;
        let o = p.conv(&name("c5"), ConvShape::same(c, c, 1), &o, Activation::Identity)?;
        self.attention(p, block, &o)
    }
}

impl Network for Definition {
    fn name(&self) -> String {
        super::name(self.channels, self.mid_channels, self.blocks)
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (c, mid, f) = (self.channels, self.mid_channels, self.attention_channels);
        let mut shapes = Vec::new();
        let mut conv = |name: String, out: usize, inputs: usize, side: usize| {
            shapes.push((format!("{name}.weight"), vec![out, inputs, side, side]));
            shapes.push((format!("{name}.bias"), vec![out]));
        };
        conv("conv_1".into(), c, 3, 3);
        for b in 1..=self.blocks {
            for (part, out, inputs, side) in [
                ("c1_r", mid, c, 3),
                ("c2_r", mid, mid, 3),
                ("c3_r", c, mid, 3),
                ("c5", c, c, 1),
                ("esa.conv1", f, c, 1),
                ("esa.conv_f", f, f, 1),
                ("esa.conv2", f, f, 3),
                ("esa.conv3", f, f, 3),
                ("esa.conv4", c, f, 1),
            ] {
                conv(format!("block_{b}.{part}"), out, inputs, side);
            }
        }
        conv("conv_2".into(), c, c, 3);
        conv("upsampler.0".into(), 3 * self.scale * self.scale, c, 3);
        shapes
    }

    fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, Error> {
        let (c, network) = (self.channels, self.name());
        let p = Layers { network: &network, parameters };
        let head = p.conv("conv_1", ConvShape::same(3, c, 3), x, Activation::Identity)?;
        let mut body = head.clone();
        for b in 1..=self.blocks {
            body = self.block(&p, &format!("block_{b}"), &body)?;
        }
        let body = p.conv("conv_2", ConvShape::same(c, c, 3), &body, Activation::Identity)?;
        let body = ops::add(&body, &head)?;
        let tail = ConvShape::same(c, 3 * self.scale * self.scale, 3);
        let y = p.conv("upsampler.0", tail, &body, Activation::Identity)?;
        Ok(ops::pixel_shuffle(&y, self.scale)?)
    }
}

/// Layers of a network by name.
struct Layers<'a> {
    network: &'a str,
    parameters: &'a Parameters,
}

impl Layers<'_> {
    /// Weight, bias and shape of a convolution.
    fn layer(&self, name: &str, shape: ConvShape) -> Result<(&Tensor, &Tensor, ConvShape), Error> {
        let weight = self.parameters.get(self.network, &format!("{name}.weight"))?;
        let bias = self.parameters.get(self.network, &format!("{name}.bias"))?;
        Ok((weight, bias, shape))
    }

    fn conv(&self, name: &str, shape: ConvShape, x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        let (weight, bias, shape) = self.layer(name, shape)?;
        Ok(ops::conv2d(x, weight, Some(bias), shape, activation)?)
    }
}
