//! The list of operators.

use serde::{Deserialize, Serialize};

use super::{Quantization, Shape};

/// Position of a node in [`ConvNet::nodes`].
pub type NodeId = usize;

/// A convolutional network.
#[derive(Clone, Debug)]
pub struct ConvNet {
    /// What it is called, such as `mobilenet_v1_1.0_224`.
    pub name: String,
    /// Operators, each after those it reads. The first is [`Op::Input`], the last one's tensor is the result.
    pub nodes: Vec<Node>,
    /// How a picture becomes the input.
    pub preprocessing: Preprocessing,
    /// A name for each output, if known.
    pub labels: Vec<String>,
    /// How the network was stored in integers, for one that was. A method that changes weights to what no integer stands
    /// for, or the nodes, must drop it.
    pub quantization: Option<Quantization>,
}

/// One operator and the tensors it reads.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in its network, such as `pointwise_3`.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// The tensors read, by the nodes that compute them.
    pub inputs: Vec<NodeId>,
    /// Applied to the result.
    pub activation: Activation,
}

/// What a node computes.
#[derive(Clone, Debug)]
pub enum Op {
    /// The network's input, of this shape.
    Input(Shape),
    /// A convolution that reads all channels for each output. A fully-connected layer is one whose kernel covers its input.
    Conv(Conv),
    /// A convolution that reads one channel for each output.
    Depthwise(Depthwise),
    /// The sum of two tensors of one shape.
    Add,
    /// Tensors one after another along the channels.
    Concat,
    /// The mean of each plane.
    GlobalAveragePool,
    /// The mean of each window; positions in the padding do not count.
    AveragePool(Window2d),
    /// The maximum of each window.
    MaxPool(Window2d),
    /// `exp(x) / Σ exp(x)` over the channels, at each pixel.
    Softmax,
}

/// A window that slides over a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Window2d {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Rows and columns between neighbours.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: Padding,
}

/// Zeros around the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// TensorFlow's: output sides are `⌈input / stride⌉`; an odd row or column goes to the bottom or the right.
    Same,
    /// Top, bottom, left, right.
    Explicit([usize; 4]),
}

/// A convolution over all channels.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Output channels.
    pub out_channels: usize,
    /// Input channels.
    pub in_channels: usize,
    /// How the kernel moves.
    pub window: Window2d,
    /// `[out_channels][in_channels][kernel height][kernel width]`.
    pub weights: Vec<f32>,
    /// `[out_channels]`.
    pub bias: Vec<f32>,
    /// Which zeros of `weights` a method has put there.
    pub pattern: Pattern,
}

/// A convolution of each channel by itself; output channel `c` reads input channel `c / multiplier`.
#[derive(Clone, Debug)]
pub struct Depthwise {
    /// Output channels.
    pub channels: usize,
    /// Output channels for each input channel.
    pub multiplier: usize,
    /// How the kernel moves.
    pub window: Window2d,
    /// `[channels][kernel height][kernel width]`.
    pub weights: Vec<f32>,
    /// `[channels]`.
    pub bias: Vec<f32>,
}

/// Which weights of a convolution are zero together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// None: every weight is stored.
    #[default]
    Dense,
    /// Neighbouring output channels, in groups of this many from the first, share zeros at each (input channel, tap).
    Block(usize),
    /// As `Block`, and all taps of an input channel are zero together.
    Kernel(usize),
}

/// Applied to each element of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// Lowest and highest value of the result.
    pub fn range(self) -> (f32, f32) {
        match self {
            Activation::None => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
        }
    }
}

/// How a picture becomes a network's input: `(sample / 255 − mean) / deviation`, red green blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Preprocessing {
    /// Subtracted, one a colour.
    pub mean: [f32; 3],
    /// What is then divided by.
    pub deviation: [f32; 3],
    /// The part of the picture's shorter side that the centred square crop keeps.
    pub crop: f32,
}

impl Default for Preprocessing {
    /// −1 to 1 and a crop of 0.875, as MobileNet has it.
    fn default() -> Self {
        Preprocessing { mean: [0.5; 3], deviation: [0.5; 3], crop: 0.875 }
    }
}

impl ConvNet {
    /// The shape of the input, as `Op::Input` says; `None` if the first node is no input.
    pub fn input_shape(&self) -> Option<Shape> {
        match self.nodes.first()?.op {
            Op::Input(shape) => Some(shape),
            _ => None,
        }
    }

    /// The convolutions over all channels, with their nodes.
    pub fn convs(&self) -> impl Iterator<Item = (NodeId, &Conv)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match &node.op {
            Op::Conv(conv) => Some((id, conv)),
            _ => None,
        })
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        let of = |node: &Node| match &node.op {
            Op::Conv(conv) => conv.weights.len() + conv.bias.len(),
            Op::Depthwise(depthwise) => depthwise.weights.len() + depthwise.bias.len(),
            _ => 0,
        };
        self.nodes.iter().map(of).sum()
    }
}

impl Conv {
    /// Weights of one output channel.
    pub fn columns(&self) -> usize {
        self.in_channels * self.window.kernel[0] * self.window.kernel[1]
    }

    /// Share of weights that are zero.
    pub fn sparsity(&self) -> f64 {
        let zeros = self.weights.iter().filter(|&&w| w == 0.0).count();
        zeros as f64 / self.weights.len().max(1) as f64
    }
}

impl Window2d {
    /// A 1×1 window that visits every pixel.
    pub const POINT: Window2d = Window2d { kernel: [1; 2], stride: [1; 2], padding: Padding::Explicit([0; 4]) };

    /// A square window.
    pub fn square(kernel: usize, stride: usize, padding: Padding) -> Window2d {
        Window2d { kernel: [kernel; 2], stride: [stride; 2], padding }
    }
}
