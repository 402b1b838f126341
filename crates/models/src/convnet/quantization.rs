//! How a network that was stored in 8-bit integers relates to them.
//!
//! A [`ConvNet`] read from a quantised file holds real numbers: each weight is the `f32` nearest to
//! `scale × (integer − zero point)`. This description stands beside it, so that the file's integers can be had back exactly and
//! the network can be computed in integers as the file's makers meant it. The scheme is TensorFlow Lite's:
//!
//! * A tensor of pixels has one scale and one zero point: `real = scale × (q − zero_point)`, `q` a `u8` or an `i8`. Results beyond
//!   the range of `q` saturate. Some files leave out a ReLU because saturation does the same; the real-number
//!   network then lacks that clamp.
//! * Weights have one scale and zero point, or one for each output channel; zero points of `i8` weights are 0.
//! * A bias is an `i32` in units of `input scale × weight scale` of its channel, zero point 0, so that it can be added to the sum.
//!
//! For a convolution, with `i` over the taps inside the picture (those in the padding count as real 0, that is `q = zero_point`):
//!
//! ```text
//! sum[o] = bias[o] + Σ_i (x[i] − x_zero) (w[o][i] − w_zero[o])             exact in i32
//! y[o]   = clamp(y_zero + round(sum[o] × x_scale w_scale[o] / y_scale))    clamp to the type and to the activation
//! ```
//!
//! Source: TensorFlow Lite's 8-bit quantisation specification; Jacob et al., arXiv 1712.05877.

use serde::{Deserialize, Serialize};

use super::{ConvNet, NodeId, Op};
use crate::Error;

/// The quantisation of a network's tensors and weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Quantization {
    /// One for each node of [`ConvNet::nodes`].
    pub nodes: Vec<NodeQuantization>,
}

/// The quantisation of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct NodeQuantization {
    /// Of the tensor that the node computes, after its activation; `None` where the file keeps it in floating point.
    pub output: Option<TensorQuantization>,
    /// Of the node's weights; `None` for nodes without weights, or with weights in floating point.
    pub weights: Option<WeightQuantization>,
}

/// Type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegerType {
    /// 0 to 255.
    U8,
    /// −128 to 127.
    I8,
}

/// `real = scale × (q − zero_point)` for a whole tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct TensorQuantization {
    /// Type of `q`.
    pub dtype: IntegerType,
    /// Positive and finite.
    pub scale: f32,
    /// In the range of `dtype`.
    pub zero_point: i32,
}

/// `real = scale[o] × (q − zero_point[o])` for the weights of output channel `o`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct WeightQuantization {
    /// Type of `q`.
    pub dtype: IntegerType,
    /// One for all, or one for each output channel. Positive and finite.
    pub scale: Vec<f32>,
    /// As many as `scale`, in the range of `dtype`.
    pub zero_point: Vec<i32>,
    /// The file's biases, one for each output channel, in units of `input scale × weight scale`.
    pub bias: Vec<i32>,
}

/// A convolution in integers.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerLayer {
    /// In the order of [`Conv::weights`](super::Conv::weights) or [`Depthwise::weights`](super::Depthwise::weights), zero
    /// points not subtracted: 0 to 255, or −128 to 127, as [`WeightQuantization::dtype`] says.
    pub weights: Vec<i16>,
    /// One for each output channel, in units of `input scale × weight scale`.
    pub bias: Vec<i32>,
    /// Of the tensor read.
    pub input: TensorQuantization,
    /// Of the tensor computed.
    pub output: TensorQuantization,
    /// What turns a sum into steps of the output, one for each output channel:
    /// `input scale × weight scale / output scale`, in `f64` throughout.
    pub multiplier: Vec<f64>,
}

impl IntegerType {
    /// Lowest and highest value.
    pub fn range(self) -> (i32, i32) {
        match self {
            IntegerType::U8 => (0, 255),
            IntegerType::I8 => (-128, 127),
        }
    }

    fn holds(self, value: i32) -> bool {
        let (lowest, highest) = self.range();
        (lowest..=highest).contains(&value)
    }
}

impl TensorQuantization {
    /// Whether two tensors share their integers: the same type and zero point, and scales that differ by rounding alone.
    pub fn agrees(&self, other: &TensorQuantization) -> bool {
        let near = (self.scale - other.scale).abs() <= 1e-5 * self.scale;
        self.dtype == other.dtype && self.zero_point == other.zero_point && near
    }

    fn check(&self) -> Result<(), String> {
        if !(self.scale.is_finite() && self.scale > 0.0 && self.dtype.holds(self.zero_point)) {
            return Err(format!("scale {} with zero point {}", self.scale, self.zero_point));
        }
        Ok(())
    }
}

impl WeightQuantization {
    /// Scale of output channel `o`.
    pub fn scale_of(&self, o: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[o] }
    }

    /// Zero point of output channel `o`.
    pub fn zero_point_of(&self, o: usize) -> i32 {
        if self.zero_point.len() == 1 { self.zero_point[0] } else { self.zero_point[o] }
    }

    /// The weight that the integer `q` of output channel `o` stands for.
    pub fn real(&self, o: usize, q: i32) -> f32 {
        (f64::from(self.scale_of(o)) * f64::from(q - self.zero_point_of(o))) as f32
    }

    /// The bias that `bias[o]` stands for, next to an input of this scale.
    pub fn real_bias(&self, o: usize, input_scale: f32) -> f32 {
        (f64::from(self.bias[o]) * f64::from(input_scale) * f64::from(self.scale_of(o))) as f32
    }

    fn check(&self, channels: usize) -> Result<(), String> {
        let scales = self.scale.len();
        if !(scales == 1 || scales == channels) || self.zero_point.len() != scales || self.bias.len() != channels {
            let (zeros, biases) = (self.zero_point.len(), self.bias.len());
            return Err(format!("{scales} scales, {zeros} zero points and {biases} biases for {channels} channels"));
        }
        let parameters = self.scale.iter().zip(&self.zero_point);
        for (&scale, &zero_point) in parameters {
            TensorQuantization { dtype: self.dtype, scale, zero_point }.check()?;
        }
        Ok(())
    }
}

impl Quantization {
    /// Checks lengths and ranges against the network that this describes.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] names the node.
    pub fn check(&self, network: &ConvNet) -> Result<(), Error> {
        if self.nodes.len() != network.nodes.len() {
            let problem = format!("{} operators with the quantisation of {}", network.nodes.len(), self.nodes.len());
            return Err(Error::BadNetwork { network: network.name.clone(), node: String::new(), problem });
        }
        for (node, quantization) in network.nodes.iter().zip(&self.nodes) {
            let channels = match &node.op {
                Op::Conv(conv) => Some(conv.out_channels),
                Op::Depthwise(depthwise) => Some(depthwise.channels),
                _ => None,
            };
            let weights = match (&quantization.weights, channels) {
                (Some(weights), Some(channels)) => weights.check(channels),
                (Some(_), None) => Err("has no weights, but their quantisation".into()),
                (None, _) => Ok(()),
            };
            let checked = weights.and(quantization.output.map_or(Ok(()), |output| output.check()));
            checked.map_err(|problem| bad(network, &node.name, format!("is quantised wrongly: {problem}")))?;
        }
        Ok(())
    }

    /// The integers of a convolution. Its weights may have been set to zero since the file was read; its biases may be any.
    ///
    /// A weight must be what an integer stands for, exactly. A bias that is no longer what the file's integer stands for
    /// becomes the nearest integer.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] if the node is no convolution, it or its input or output is not quantised, or a weight was changed to
    /// what no integer stands for.
    pub fn layer(&self, network: &ConvNet, id: NodeId) -> Result<IntegerLayer, Error> {
        self.check(network)?;
        let Some(node) = network.nodes.get(id) else {
            return Err(bad(network, "", format!("there is no operator {id}")));
        };
        let fail = |problem: &str| bad(network, &node.name, problem.into());
        let (weights, bias) = match &node.op {
            Op::Conv(conv) => (&conv.weights, &conv.bias),
            Op::Depthwise(depthwise) => (&depthwise.weights, &depthwise.bias),
            _ => return Err(fail("has no weights")),
        };
        let own = &self.nodes[id];
        let input = node.inputs.first().and_then(|&input| self.nodes.get(input)?.output);
        let (Some(quantization), Some(input), Some(output)) = (&own.weights, input, own.output) else {
            return Err(fail("is not quantised"));
        };
        if bias.len() != quantization.bias.len() || !weights.len().is_multiple_of(bias.len().max(1)) {
            return Err(fail("has weights that do not fit its shape"));
        }

        let columns = (weights.len() / bias.len().max(1)).max(1);
        let mut integers = Vec::with_capacity(weights.len());
        for (o, row) in weights.chunks(columns).enumerate() {
            let (scale, zero) = (f64::from(quantization.scale_of(o)), f64::from(quantization.zero_point_of(o)));
            for &weight in row {
                let q = (f64::from(weight) / scale).round() + zero;
                // A cast saturates, and what was out of range stands for another weight.
                let q = q as i32;
                if !quantization.dtype.holds(q) || quantization.real(o, q) != weight {
                    return Err(fail("has a weight that is none of its quantisation's"));
                }
                integers.push(q as i16);
            }
        }
        let unit = |o: usize| f64::from(input.scale) * f64::from(quantization.scale_of(o));
        let integer_bias = |(o, &real): (usize, &f32)| {
            let unchanged = quantization.real_bias(o, input.scale) == real;
            if unchanged { quantization.bias[o] } else { (f64::from(real) / unit(o)).round() as i32 }
        };
        Ok(IntegerLayer {
            weights: integers,
            bias: bias.iter().enumerate().map(integer_bias).collect(),
            input,
            output,
            multiplier: (0..bias.len()).map(|o| unit(o) / f64::from(output.scale)).collect(),
        })
    }
}

fn bad(network: &ConvNet, node: &str, problem: String) -> Error {
    Error::BadNetwork { network: network.name.clone(), node: node.into(), problem }
}
