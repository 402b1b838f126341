//! Small random networks for tests.

use super::moments::Random;
use supple_models::convnet::{
    Activation, Conv, ConvNet, Depthwise, Node, NodeId, Op, Padding, Pattern, Preprocessing, Shape, Window2d, reference,
};

/// Builds a network of random weights.
pub struct Net {
    network: ConvNet,
    random: Random,
}

impl Net {
    /// A network with an input of this shape, which is node 0.
    pub fn new(channels: usize, height: usize, width: usize) -> Net {
        let network = ConvNet {
            name: "random".into(),
            nodes: Vec::new(),
            preprocessing: Preprocessing::default(),
            labels: Vec::new(),
            quantization: None,
        };
        let mut net = Net { network, random: Random::new(11) };
        net.push(Op::Input(Shape { channels, height, width }), &[], Activation::None);
        net
    }

    fn push(&mut self, op: Op, inputs: &[NodeId], activation: Activation) -> NodeId {
        let name = format!("node_{}", self.network.nodes.len());
        self.network.nodes.push(Node { name, op, inputs: inputs.into(), activation });
        self.network.nodes.len() - 1
    }

    fn shape(&self, node: NodeId) -> Shape {
        self.network.shapes().expect("consistent")[node]
    }

    fn weights(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.random.normal() * scale).collect()
    }

    /// A convolution with a square kernel and padding `Same`.
    pub fn conv(&mut self, from: NodeId, out: usize, kernel: usize, stride: usize, activation: Activation) -> NodeId {
        let window = Window2d::square(kernel, stride, Padding::Same);
        self.any_conv(from, out, window, activation)
    }

    fn any_conv(&mut self, from: NodeId, out_channels: usize, window: Window2d, activation: Activation) -> NodeId {
        let in_channels = self.shape(from).channels;
        let columns = in_channels * window.kernel[0] * window.kernel[1];
        let weights = self.weights(out_channels * columns, (2.0 / columns as f32).sqrt());
        let bias = self.weights(out_channels, 0.1);
        let conv = Conv { out_channels, in_channels, window, weights, bias, pattern: Pattern::Dense };
        self.push(Op::Conv(conv), &[from], activation)
    }

    /// A convolution whose kernel covers its input.
    pub fn whole(&mut self, from: NodeId, out: usize) -> NodeId {
        let Shape { height, width, .. } = self.shape(from);
        let window = Window2d { kernel: [height, width], stride: [1; 2], padding: Padding::Explicit([0; 4]) };
        self.any_conv(from, out, window, Activation::None)
    }

    /// A depthwise convolution.
    pub fn depthwise(
        &mut self,
        from: NodeId,
        m: usize,
        kernel: usize,
        stride: usize,
        activation: Activation,
    ) -> NodeId {
        let channels = self.shape(from).channels * m;
        let window = Window2d::square(kernel, stride, Padding::Same);
        let weights = self.weights(channels * kernel * kernel, 0.5);
        let bias = self.weights(channels, 0.1);
        self.push(Op::Depthwise(Depthwise { channels, multiplier: m, window, weights, bias }), &[from], activation)
    }

    /// The sum of two tensors.
    pub fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.push(Op::Add, &[a, b], Activation::None)
    }

    /// Tensors one after another.
    pub fn concat(&mut self, all: &[NodeId]) -> NodeId {
        self.push(Op::Concat, all, Activation::None)
    }

    /// The mean of each plane.
    pub fn pool(&mut self, from: NodeId) -> NodeId {
        self.push(Op::GlobalAveragePool, &[from], Activation::None)
    }

    /// Means of windows without overlap.
    pub fn average_pool(&mut self, from: NodeId, side: usize) -> NodeId {
        self.push(Op::AveragePool(Window2d::square(side, side, Padding::Same)), &[from], Activation::None)
    }

    /// Maxima of windows without overlap.
    pub fn max_pool(&mut self, from: NodeId, side: usize) -> NodeId {
        self.push(Op::MaxPool(Window2d::square(side, side, Padding::Same)), &[from], Activation::None)
    }

    /// Probabilities.
    pub fn softmax(&mut self, from: NodeId) -> NodeId {
        self.push(Op::Softmax, &[from], Activation::None)
    }

    /// The network.
    pub fn finish(self) -> ConvNet {
        self.network
    }
}

/// A small MobileNet: first convolution, three depthwise and pointwise pairs, pool, classifier.
pub fn mobile() -> ConvNet {
    let mut net = Net::new(3, 16, 16);
    let mut at = net.conv(0, 8, 3, 2, Activation::Relu6);
    for (channels, stride) in [(16, 1), (24, 2), (32, 1)] {
        at = net.depthwise(at, 1, 3, stride, Activation::Relu6);
        at = net.conv(at, channels, 1, 1, Activation::Relu6);
    }
    at = net.pool(at);
    at = net.conv(at, 10, 1, 1, Activation::None);
    net.softmax(at);
    net.finish()
}

/// Inputs whose channels and neighbouring pixels are alike, as those of pictures are.
pub fn pictures(network: &ConvNet, count: usize, seed: u64) -> Vec<Vec<f32>> {
    let shape = network.input_shape().expect("has an input");
    let mut random = Random::new(seed);
    let mut picture = || {
        let waves: Vec<[f32; 4]> = (0..6).map(|_| [(); 4].map(|()| random.normal())).collect();
        let mut out = Vec::with_capacity(shape.len());
        for c in 0..shape.channels {
            for y in 0..shape.height {
                for x in 0..shape.width {
                    let wave =
                        |w: &[f32; 4]| w[3] * (w[0] * x as f32 + w[1] * y as f32 + w[2] * (1.0 + c as f32)).sin();
                    out.push(waves.iter().map(wave).sum::<f32>() * 0.5 + random.normal() * 0.1);
                }
            }
        }
        out
    };
    (0..count).map(|_| picture()).collect()
}

/// A permutation.
pub fn shuffled(len: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

/// Largest difference of two networks' results, in units of the first's largest value.
pub fn difference(a: &ConvNet, b: &ConvNet) -> f64 {
    let mut worst = 0.0f64;
    for picture in pictures(a, 3, 5) {
        let (x, y) = (reference::run(a, &picture).expect("runs"), reference::run(b, &picture).expect("runs"));
        let scale = x.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
        let far = x.iter().zip(&y).fold(0.0, |m: f64, (v, w)| m.max((v - w).abs()));
        worst = worst.max(far / scale);
    }
    worst
}

/// Both networks compute the same, up to `tolerance`.
pub fn assert_same_function(a: &ConvNet, b: &ConvNet, tolerance: f64) {
    let found = difference(a, b);
    assert!(found <= tolerance, "networks differ by {found:e}");
}
