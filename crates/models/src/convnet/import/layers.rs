//! Networks built layer by layer, their weights from a checkpoint with batch normalisation, or random.

use supple_tensor::kernels::testing::noise;
use supple_weights::Weights;

use crate::Error;
use crate::convnet::{
    Activation, Conv, ConvNet, Depthwise, Node, NodeId, Op, Padding, Pattern, Preprocessing, Shape, Window2d,
};

/// Where weights come from.
pub(crate) enum Parameters<'a> {
    /// Tensors by name, batch normalisations with this added to the variance.
    Named { weights: &'a Weights, epsilon: f64 },
    /// Drawn at random so that activations neither vanish nor explode; the number is the seed of the next layer.
    Random(u64),
}

/// Names of the tensors of a layer, without their last part; what random layers need not have.
#[derive(Clone, Default)]
pub(crate) struct Source {
    /// The convolution: `.weight`, and `.bias` where there is one.
    pub conv: String,
    /// The batch normalisation after it: `.weight`, `.bias`, `.running_mean`, `.running_var`; empty where there is none.
    pub norm: String,
}

impl Source {
    pub fn new(conv: impl Into<String>, norm: impl Into<String>) -> Source {
        Source { conv: conv.into(), norm: norm.into() }
    }
}

/// A network under construction.
pub(crate) struct Layers<'a> {
    nodes: Vec<Node>,
    parameters: Parameters<'a>,
}

impl<'a> Layers<'a> {
    /// A network that takes pictures of `side × side` pixels.
    pub fn new(side: usize, parameters: Parameters<'a>) -> Self {
        let op = Op::Input(Shape { channels: 3, height: side, width: side });
        let input = Node { name: "input".into(), op, inputs: Vec::new(), activation: Activation::None };
        Layers { nodes: vec![input], parameters }
    }

    /// A convolution of all channels; reads the last node.
    pub fn conv(
        &mut self,
        name: String,
        source: Source,
        channels: [usize; 2],
        window: Window2d,
        activation: Activation,
    ) -> Result<(), Error> {
        let [in_channels, out_channels] = channels;
        let [height, width] = window.kernel;
        let (weights, bias) = self.parameters(&source, &[out_channels, in_channels, height, width], activation)?;
        let op = Op::Conv(Conv { out_channels, in_channels, window, weights, bias, pattern: Pattern::Dense });
        self.push(name, op, activation);
        Ok(())
    }

    /// A convolution of each channel by itself; reads the last node.
    pub fn depthwise(
        &mut self,
        name: String,
        source: Source,
        channels: usize,
        window: Window2d,
        activation: Activation,
    ) -> Result<(), Error> {
        let [height, width] = window.kernel;
        let (weights, bias) = self.parameters(&source, &[channels, 1, height, width], activation)?;
        self.push(name, Op::Depthwise(Depthwise { channels, multiplier: 1, window, weights, bias }), activation);
        Ok(())
    }

    /// Adds the tensor of an earlier node to the last one's.
    pub fn add(&mut self, name: String, other: NodeId) {
        let inputs = vec![other, self.last()];
        self.nodes.push(Node { name, op: Op::Add, inputs, activation: Activation::None });
    }

    /// The mean of each plane, a fully-connected layer, and `exp(x) / Σ exp(x)`.
    pub fn classifier(&mut self, source: &str, channels: usize, classes: usize) -> Result<(), Error> {
        self.push("pool".into(), Op::GlobalAveragePool, Activation::None);
        let shape = [classes, channels];
        let (weights, bias) = match &self.parameters {
            Parameters::Named { weights, .. } => {
                let bias = weights.tensor(&format!("{source}.bias"), &[classes])?;
                (weights.tensor(&format!("{source}.weight"), &shape)?, bias)
            }
            Parameters::Random(_) => self.parameters(&Source::default(), &shape, Activation::None)?,
        };
        let (out_channels, in_channels, window, pattern) = (classes, channels, Window2d::POINT, Pattern::Dense);
        let conv = Conv { out_channels, in_channels, window, weights, bias, pattern };
        self.push("classifier".into(), Op::Conv(conv), Activation::None);
        self.push("softmax".into(), Op::Softmax, Activation::None);
        Ok(())
    }

    /// The last node.
    pub fn last(&self) -> NodeId {
        self.nodes.len() - 1
    }

    /// The network, checked.
    pub fn finish(self, name: String, preprocessing: Preprocessing) -> Result<ConvNet, Error> {
        let network = ConvNet { name, nodes: self.nodes, preprocessing, labels: Vec::new(), quantization: None };
        network.shapes()?;
        Ok(network)
    }

    fn push(&mut self, name: String, op: Op, activation: Activation) {
        let inputs = vec![self.last()];
        self.nodes.push(Node { name, op, inputs, activation });
    }

    /// Weights of this shape, output channels first, and biases, the batch normalisation folded into both:
    /// `weight × gamma / √(variance + ε)` and `beta + (bias − mean) × gamma / √(variance + ε)`.
    fn parameters(
        &mut self,
        source: &Source,
        shape: &[usize],
        activation: Activation,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (out, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let (weights, epsilon) = match &mut self.parameters {
            Parameters::Named { weights, epsilon } => (*weights, *epsilon),
            Parameters::Random(seed) => {
                *seed = seed.wrapping_add(1);
                // Noise in ±1 has a variance of 1/3; a ReLU halves the power of what passes.
                let gain = if activation == Activation::None { 3.0 } else { 6.0 };
                let scale = (gain / columns.max(1) as f32).sqrt();
                let weights = noise(out * columns, *seed).into_iter().map(|value| value * scale).collect();
                let bias = noise(out, !*seed).into_iter().map(|value| value * 0.1).collect();
                return Ok((weights, bias));
            }
        };
        let mut values = weights.tensor(&format!("{}.weight", source.conv), shape)?;
        let bias_name = format!("{}.bias", source.conv);
        let mut bias = if weights.contains(&bias_name) { weights.tensor(&bias_name, &[out])? } else { vec![0.0; out] };
        if !source.norm.is_empty() {
            let read = |part: &str| weights.tensor(&format!("{}.{part}", source.norm), &[out]);
            let [gamma, beta] = [read("weight")?, read("bias")?];
            let [mean, variance] = [read("running_mean")?, read("running_var")?];
            for o in 0..out {
                let factor = f64::from(gamma[o]) / (f64::from(variance[o]) + epsilon).sqrt();
                let row = &mut values[o * columns..][..columns];
                row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
                bias[o] = (f64::from(beta[o]) + (f64::from(bias[o]) - f64::from(mean[o])) * factor) as f32;
            }
        }
        Ok((values, bias))
    }
}

/// A square window whose output is `⌈side / stride⌉`: padded as TensorFlow does, or by half the kernel on each side, as PyTorch's
/// networks are.
pub(crate) fn window(kernel: usize, stride: usize, tensorflow: bool) -> Window2d {
    let padding = if tensorflow { Padding::Same } else { Padding::Explicit([kernel / 2; 4]) };
    Window2d::square(kernel, stride, padding)
}

/// Sides of the tensor `name`, if it has this many and all are plausible.
pub(crate) fn sides<const RANK: usize>(weights: &Weights, name: &str) -> Option<[usize; RANK]> {
    let sides: [usize; RANK] = weights.info(name)?.shape[..].try_into().ok()?;
    // An empty tensor may claim any side, and products of sides must not overflow.
    sides.iter().all(|side| (1..=MAX_CLASSES).contains(side)).then_some(sides)
}

/// Most classes, and most channels.
pub(crate) const MAX_CLASSES: usize = 1 << 16;

/// ImageNet's mean and deviation, with which PyTorch's networks are trained.
pub(crate) const IMAGENET: Preprocessing =
    Preprocessing { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225], crop: 0.875 };
