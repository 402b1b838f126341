//! DITN as a function of tensors, for training, on the names of its checkpoints.
//!
//! ```text
//! head = sft(x);  body = conv_after_body(units(head)) + head;  out = pixel_shuffle(upsample.0(body))
//! unit: unfold into 8×8 patches once; inner-patch layers on patches; fold once; spatial-aware layers on the whole map
//! inner:    x += attention(pre1(x));  x += ffn(pre2(x))        channel attention within a patch
//! spatial:  x += gating(pre1(x));     x += ffn(pre2(x))        gating by depthwise 5×5, 7×7 (dilation 3) and 1×1
//! ```
//!
//! `pre` is a layer norm, or, in its place, a 1×1 convolution of the hyperbolic tangent, which folds into the next layer when
//! the network is loaded. A twin is trained with layer norms first and fine-tuned from them with tangents
//! ([`substitute_tanh`]). Sides must be multiples of eight; the streaming pass pads others.
//!
//! Source: Liu et al., "Unfolding Once is Enough", arXiv 2308.02794.

use super::PATCH;
use super::checkpoint::EPSILON;
use crate::{Error, Network, Parameters};
use supple_tensor::ops::{self, Activation, ConvShape};
use supple_tensor::{DType, Device, Tensor};

/// What stands before each part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// A layer norm over channels.
    Layer,
    /// A hyperbolic tangent and a 1×1 convolution.
    Tanh,
}

/// The size of a DITN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Channels of the trunk.
    pub channels: usize,
    /// Number of units.
    pub units: usize,
    /// Inner-patch layers of a unit.
    pub inner: usize,
    /// Spatial-aware layers of a unit.
    pub spatial: usize,
    /// What stands before each part of a layer.
    pub norm: Norm,
    /// Output pixels along a side of an input pixel.
    pub scale: usize,
}

impl Definition {
    /// DITN_Tiny: one unit, with layer norms.
    pub fn tiny(scale: usize) -> Definition {
        Definition { channels: 60, units: 1, inner: 4, spatial: 4, norm: Norm::Layer, scale }
    }

    /// DITN_Real: one unit, with hyperbolic tangents.
    pub fn real(scale: usize) -> Definition {
        Definition { norm: Norm::Tanh, ..Definition::tiny(scale) }
    }

    /// DITN: three units, with layer norms.
    pub fn base(scale: usize) -> Definition {
        Definition { units: 3, ..Definition::tiny(scale) }
    }

    fn layers(&self) -> impl Iterator<Item = (String, bool)> {
        let (inner, spatial) = (self.inner, self.spatial);
        (0..self.units).flat_map(move |u| {
            let inner = (0..inner).map(move |l| (format!("UFONE.{u}.ITLs.{l}"), true));
            inner.chain((0..spatial).map(move |l| (format!("UFONE.{u}.SALs.{l}"), false)))
        })
    }

    /// What stands before part `which` of a layer.
    fn before(&self, p: &Layers<'_>, layer: &str, which: usize, x: &Tensor) -> Result<Tensor, Error> {
        match self.norm {
            Norm::Layer => {
                let weight = p.get(&format!("{layer}.norm{which}.weight"))?;
                Ok(ops::layer_norm(x, weight, p.get(&format!("{layer}.norm{which}.bias"))?, EPSILON)?)
            }
            Norm::Tanh => {
                let same = ConvShape::same(self.channels, self.channels, 1);
                p.conv(&format!("{layer}.conv{which}"), same, &ops::tanh(x)?)
            }
        }
    }

    /// `x` plus attention among the channels of each patch `[patches, 8, 8, c]`.
    fn attention(&self, p: &Layers<'_>, layer: &str, x: &Tensor) -> Result<Tensor, Error> {
        let name = |part: &str| format!("{layer}.attn.{part}");
        let &[patches, h, w, c] = &**x.shape() else { unreachable!("made by forward") };
        let weight = p.get(&name("qkv.weight"))?.reshape(&[3 * c, c, 1, 1])?;
        let (shape, bias) = (ConvShape::same(c, 3 * c, 1), p.get(&name("qkv.bias"))?);
        let before = self.before(p, layer, 1, x)?;
        let qkv = ops::conv2d(&before, &weight, Some(bias), shape, Activation::Identity)?;
        let temperature = p.get(&name("temperature"))?;
        let mixed = ops::channel_attention(&qkv.reshape(&[patches, h * w, 3 * c])?, temperature, 1e-12)?;
        let (mixed, weight) = (mixed.reshape(&[patches, h, w, c])?, p.get(&name("project_out.weight"))?);
        Ok(ops::conv2d_add(&mixed, weight, None, ConvShape::same(c, c, 1), x)?)
    }

    /// `x` plus the gated feed-forward part.
    fn feed_forward(&self, p: &Layers<'_>, layer: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (c, name) = (self.channels, |part: &str| format!("{layer}.ffn.{part}"));
        let before = self.before(p, layer, 2, x)?;
        let hidden = p.conv_without_bias(&name("project_in"), ConvShape::same(c, 4 * c, 1), &before)?;
        let depthwise = ConvShape { groups: 4 * c, ..ConvShape::same(4 * c, 4 * c, 3) };
        let gated = ops::gelu_gate(&p.conv_without_bias(&name("dwconv"), depthwise, &hidden)?)?;
        let weight = p.get(&name("project_out.weight"))?;
        Ok(ops::conv2d_add(&gated, weight, None, ConvShape::same(2 * c, c, 1), x)?)
    }

    /// `x` plus gating by what large kernels see.
    fn gating(&self, p: &Layers<'_>, layer: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (c, name) = (self.channels, |part: &str| format!("{layer}.SDA.{part}"));
        let (before, same) = (self.before(p, layer, 1, x)?, ConvShape::same(c, c, 1));
        let both = [p.get(&name("proj_first.0.weight"))?, p.get(&name("proj_first.0.bias"))?];
        // Halves of the weights, and not of the result: they are smaller.
        let half = |i: usize| -> Result<Tensor, Error> {
            let [weight, bias] = [both[0].narrow(0, i * c, c)?, both[1].narrow(0, i * c, c)?];
            Ok(ops::conv2d(&before, &weight, Some(&bias), same, Activation::Identity)?)
        };
        let (context, value) = (half(0)?, half(1)?);
        let near = ConvShape { groups: c, ..ConvShape::same(c, c, 5) };
        let far = ConvShape { groups: c, dilation: [3; 2], padding: [9; 2], ..ConvShape::same(c, c, 7) };
        let context = p.conv(&name("DConvs.0"), near, &context)?;
        let context = p.conv(&name("DConvs.1"), far, &context)?;
        let context = p.conv(&name("DConvs.2"), same, &context)?;
        let gated = ops::mul(&value, &context)?;
        // The factor of each channel goes into the weights.
        let scale = p.get(&name("scale"))?;
        let weight = ops::mul(p.get(&name("proj_last.0.weight"))?, &scale.reshape(&[c, 1, 1, 1])?)?;
        let bias = ops::mul(p.get(&name("proj_last.0.bias"))?, &scale.reshape(&[c])?)?;
        Ok(ops::conv2d_add(&gated, &weight, Some(&bias), same, x)?)
    }

    fn unit(&self, p: &Layers<'_>, unit: usize, x: &Tensor) -> Result<Tensor, Error> {
        let &[n, h, w, c] = &**x.shape() else { unreachable!("made by forward") };
        let (rows, columns) = (h / PATCH, w / PATCH);
        // Copied once, into padded rows, which other shapes are views of.
        let patches = x.reshape(&[n, rows, PATCH, columns, PATCH, c])?.permute(&[0, 1, 3, 2, 4, 5])?.padded()?;
        let mut x = patches.reshape(&[n * rows * columns, PATCH, PATCH, c])?;
        for l in 0..self.inner {
            let layer = format!("UFONE.{unit}.ITLs.{l}");
            x = self.attention(p, &layer, &x)?;
            x = self.feed_forward(p, &layer, &x)?;
        }
        let map = x.reshape(&[n, rows, columns, PATCH, PATCH, c])?.permute(&[0, 1, 3, 2, 4, 5])?.padded()?;
        let mut x = map.reshape(&[n, h, w, c])?;
        for l in 0..self.spatial {
            let layer = format!("UFONE.{unit}.SALs.{l}");
            x = self.gating(p, &layer, &x)?;
            x = self.feed_forward(p, &layer, &x)?;
        }
        Ok(x)
    }
}

impl Network for Definition {
    fn name(&self) -> String {
        super::name(self.channels, self.norm == Norm::Layer, &vec![(self.inner, self.spatial); self.units])
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.channels;
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut put = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        // Weight before bias: the start of a bias depends on it.
        macro_rules! conv {
            ($name:expr, $out:expr, $inputs:expr, $side:expr) => {
                put(format!("{}.weight", $name), &[$out, $inputs, $side, $side]);
                put(format!("{}.bias", $name), &[$out]);
            };
        }
        conv!("sft", c, 3, 3);
        for (layer, inner) in self.layers() {
            for which in [1, 2] {
                match self.norm {
                    Norm::Layer => {
                        put(format!("{layer}.norm{which}.weight"), &[c]);
                        put(format!("{layer}.norm{which}.bias"), &[c]);
                    }
                    Norm::Tanh => {
                        conv!(format!("{layer}.conv{which}"), c, c, 1);
                    }
                }
            }
            put(format!("{layer}.ffn.project_in.weight"), &[4 * c, c, 1, 1]);
            put(format!("{layer}.ffn.dwconv.weight"), &[4 * c, 1, 3, 3]);
            put(format!("{layer}.ffn.project_out.weight"), &[c, 2 * c, 1, 1]);
            if inner {
                put(format!("{layer}.attn.temperature"), &[1, 1, 1]);
                put(format!("{layer}.attn.qkv.weight"), &[3 * c, c]);
                put(format!("{layer}.attn.qkv.bias"), &[3 * c]);
                put(format!("{layer}.attn.project_out.weight"), &[c, c, 1, 1]);
            } else {
                put(format!("{layer}.SDA.scale"), &[1, c, 1, 1]);
                conv!(format!("{layer}.SDA.DConvs.0"), c, 1, 5);
                conv!(format!("{layer}.SDA.DConvs.1"), c, 1, 7);
                conv!(format!("{layer}.SDA.DConvs.2"), c, c, 1);
                conv!(format!("{layer}.SDA.proj_first.0"), 2 * c, c, 1);
                conv!(format!("{layer}.SDA.proj_last.0"), c, c, 1);
            }
        }
        conv!("conv_after_body", c, c, 3);
        conv!("upsample.0", 3 * self.scale * self.scale, c, 3);
        shapes
    }

    fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, Error> {
        let (c, network) = (self.channels, self.name());
        let sides = x.shape().get(1..3).unwrap_or_default();
        if x.rank() != 4 || !sides.iter().all(|side| side.is_multiple_of(PATCH)) {
            let problem = format!("wants images with sides that are multiples of {PATCH}, got shape {:?}", x.shape());
            return Err(Error::BadNetwork { network, node: String::new(), problem });
        }
        let p = Layers { network: &network, parameters };
        let head = p.conv("sft", ConvShape::same(3, c, 3), x)?;
        let mut body = head.clone();
        for unit in 0..self.units {
            body = self.unit(&p, unit, &body)?;
        }
        let body = ops::add(&p.conv("conv_after_body", ConvShape::same(c, c, 3), &body)?, &head)?;
        let y = p.conv("upsample.0", ConvShape::same(c, 3 * self.scale * self.scale, 3), &body)?;
        Ok(ops::pixel_shuffle(&y, self.scale)?)
    }

    fn initialise(&self, device: &Device, seed: u64) -> Result<Parameters, Error> {
        let mut parameters = Parameters::uniform(device, &self.shapes(), seed)?;
        for (name, shape) in self.shapes() {
            let is_norm = name.contains(".norm");
            let value = match name.rsplit('.').next() {
                Some("temperature" | "scale") => 1.0,
                Some("weight") if is_norm => 1.0,
                Some("bias") if is_norm => 0.0,
                _ => continue,
            };
            let values = vec![value; shape.iter().product()];
            parameters.insert(&name, Tensor::from_slice::<f32>(device, &values, &shape)?);
        }
        Ok(parameters)
    }
}

/// The network with hyperbolic tangents in place of layer norms, which begin as near to those as they can: gains become the
/// diagonals of the 1×1 convolutions, and shifts their biases.
///
/// # Errors
/// If the network has no layer norms or a parameter is missing.
pub fn substitute_tanh(definition: &Definition, parameters: &Parameters) -> Result<(Definition, Parameters), Error> {
    let (c, network) = (definition.channels, definition.name());
    if definition.norm != Norm::Layer {
        let problem = "has no layer norms to substitute".to_owned();
        return Err(Error::BadNetwork { network, node: String::new(), problem });
    }
    let mut parameters = parameters.clone();
    for (layer, _) in definition.layers() {
        for which in [1, 2] {
            let norm = format!("{layer}.norm{which}");
            parameters.get(&network, &format!("{norm}.bias"))?;
            let gain = parameters.get(&network, &format!("{norm}.weight"))?;
            let device = gain.device().clone();
            let mut weight = Tensor::zeros(&device, &[c, c, 1, 1], DType::F32)?;
            for (i, gain) in gain.to_vec::<f32>()?.into_iter().enumerate() {
                weight.as_mut_slice::<f32>()?[i * c + i] = gain;
            }
            parameters.insert(&format!("{layer}.conv{which}.weight"), weight);
            parameters.remove(&format!("{norm}.weight"));
            if let Some(shift) = parameters.remove(&format!("{norm}.bias")) {
                parameters.insert(&format!("{layer}.conv{which}.bias"), shift);
            }
        }
    }
    Ok((Definition { norm: Norm::Tanh, ..*definition }, parameters))
}

/// Layers of a network by name.
struct Layers<'a> {
    network: &'a str,
    parameters: &'a Parameters,
}

impl Layers<'_> {
    fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.parameters.get(self.network, name)
    }

    fn conv(&self, name: &str, shape: ConvShape, x: &Tensor) -> Result<Tensor, Error> {
        let (weight, bias) = (self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?);
        Ok(ops::conv2d(x, weight, Some(bias), shape, Activation::Identity)?)
    }

    fn conv_without_bias(&self, name: &str, shape: ConvShape, x: &Tensor) -> Result<Tensor, Error> {
        Ok(ops::conv2d(x, self.get(&format!("{name}.weight"))?, None, shape, Activation::Identity)?)
    }
}
