//! A network of operators on a device: batches of pictures in tensor operators, the same that a [`Plan`](super::Plan) runs on the
//! CPU.
//!
//! A convolution that only an addition reads takes the other operand as its residual.

use super::{Activation, ConvNet, Node, NodeId, Op, Shape};
use crate::Error;
use supple_tensor::ops::{self, ConvShape, PaddedConv2d};
use supple_tensor::{DType, Device, Tensor};

/// A network's layers on a device.
#[derive(Debug)]
pub struct ConvNetLayers {
    dtype: DType,
    steps: Vec<Step>,
    /// How often each node's tensor is read.
    reads: Vec<usize>,
    input: Shape,
    output: Shape,
    six: Tensor,
}

/// A node, or a convolution and the addition after it.
#[derive(Debug)]
struct Step {
    /// Whose tensor it makes.
    node: NodeId,
    inputs: Vec<NodeId>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// With two inputs the second is added.
    Conv(Box<PaddedConv2d>),
    Add(Activation),
    Concat(Activation),
    GlobalAverage(Activation),
    Pool {
        is_max: bool,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        activation: Activation,
    },
    Softmax,
}

impl ConvNetLayers {
    /// The layers of `network` on a device, with activations of type `dtype`.
    ///
    /// # Errors
    /// If the network is inconsistent, has an operator that does not run there, or the device fails.
    pub fn new(device: &Device, dtype: DType, network: &ConvNet) -> Result<ConvNetLayers, Error> {
        let shapes = network.shapes()?;
        let nodes = &network.nodes;
        let mut reads = vec![0; nodes.len()];
        nodes.iter().flat_map(|node| &node.inputs).for_each(|&input| reads[input] += 1);
        if let Some(last) = reads.last_mut() {
            *last += 1;
        }
        // Convolutions that an addition takes along, by the addition.
        let mut taken = vec![None; nodes.len()];
        let mut absorbed = vec![false; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            let [a, b] = node.inputs[..] else { continue };
            let product = a.max(b);
            let is_conv = matches!(nodes[product].op, Op::Conv(_)) && reads[product] == 1;
            if matches!(node.op, Op::Add) && node.activation == Activation::None && a != b && is_conv {
                taken[id] = Some(product);
                absorbed[product] = true;
            }
        }
        let mut steps = Vec::new();
        for (id, node) in nodes.iter().enumerate() {
            if matches!(node.op, Op::Input(_)) || absorbed[id] {
                continue;
            }
            let (worker, mut inputs) = match taken[id] {
                Some(product) => {
                    let other = node.inputs.iter().copied().find(|&input| input != product).unwrap_or(product);
                    (product, vec![nodes[product].inputs[0], other])
                }
                None => (id, node.inputs.clone()),
            };
            let input = nodes[worker].inputs.first().map(|&input| shapes[input]);
            let input = input.ok_or_else(|| refused(network, node, "reads nothing"))?;
            inputs.truncate(if matches!(nodes[worker].op, Op::Conv(_)) { 2 } else { usize::MAX });
            steps.push(Step { node: id, inputs, work: work(device, network, &nodes[worker], input)? });
        }
        let output = *shapes.last().expect("checked with the shapes");
        let six = Tensor::from_slice(device, &[6.0f32], &[1])?.to_dtype(dtype)?;
        Ok(ConvNetLayers { dtype, steps, reads, input: shapes[0], output, six })
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Shape {
        self.input
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Shape {
        self.output
    }

    /// Type of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Pictures `[n, height, width, channels]`, normalised, as `[n, height, width, channels]` of the last node, f32.
    ///
    /// # Errors
    /// If the pictures have another size, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let mut left = self.reads.clone();
        let mut tensors: Vec<Option<Tensor>> = vec![None; left.len()];
        tensors[0] = Some(x.to_dtype(self.dtype)?);
        for step in &self.steps {
            let of = |i: usize| tensors[step.inputs[i]].as_ref().expect("made before it is read");
            let y = match &step.work {
                Work::Conv(conv) => conv.forward(of(0), (step.inputs.len() > 1).then(|| of(1)))?,
                Work::Add(activation) => self.activate(&ops::add(of(0), of(1))?, *activation)?,
                Work::Concat(activation) => {
                    let all: Vec<&Tensor> = (0..step.inputs.len()).map(of).collect();
                    self.activate(&ops::concat(&all, 3)?, *activation)?
                }
                Work::GlobalAverage(activation) => {
                    let x = of(0);
                    let [height, width] = [x.shape()[1], x.shape()[2]];
                    self.activate(&ops::avg_pool2d(x, [height, width], [1; 2], [0; 2])?, *activation)?
                }
                Work::Pool { is_max, kernel, stride, padding, activation } => {
                    let y = if *is_max {
                        ops::max_pool2d(of(0), *kernel, *stride, *padding)?
                    } else {
                        ops::avg_pool2d(of(0), *kernel, *stride, *padding)?
                    };
                    self.activate(&y, *activation)?
                }
                // In f32, as probabilities are many and small.
                Work::Softmax => ops::softmax(&of(0).to_dtype(DType::F32)?)?.to_dtype(self.dtype)?,
            };
            tensors[step.node] = Some(y);
            for &input in &step.inputs {
                left[input] = left[input].saturating_sub(1);
                if left[input] == 0 {
                    tensors[input] = None;
                }
            }
        }
        let last = tensors.pop().flatten().expect("the last node makes the result");
        Ok(last.contiguous()?.to_dtype(DType::F32)?)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        Ok(match activation {
            Activation::None => x.clone(),
            Activation::Relu => ops::relu(x)?,
            // min(v, 6) = v - relu(v - 6)
            Activation::Relu6 => {
                let y = ops::relu(x)?;
                ops::sub(&y, &ops::relu(&ops::sub(&y, &self.six)?)?)?
            }
        })
    }
}

fn refused(network: &ConvNet, node: &Node, problem: &str) -> Error {
    Error::BadNetwork { network: network.name.clone(), node: node.name.clone(), problem: problem.to_owned() }
}

fn work(device: &Device, network: &ConvNet, node: &Node, input: Shape) -> Result<Work, Error> {
    let pool_padding = |padding: [usize; 4], is_max: bool| {
        let [top, bottom, left, right] = padding;
        let odd = || refused(network, node, "pools with padding that does not run on a device");
        let fits = (top, left) == (bottom, right) && (is_max || padding == [0; 4]);
        fits.then_some([top, left]).ok_or_else(odd)
    };
    Ok(match &node.op {
        Op::Input(_) => return Err(refused(network, node, "is an input in the middle")),
        Op::Conv(conv) => {
            let kind = ConvShape {
                kernel: conv.window.kernel,
                stride: conv.window.stride,
                padding: [0; 2],
                ..ConvShape::same(conv.in_channels, conv.out_channels, 1)
            };
            let padding = conv.window.padding_at(input.height, input.width);
            let (weight, bias) = (&conv.weights, Some(&conv.bias[..]));
            Work::Conv(Box::new(PaddedConv2d::new(device, kind, padding, node.activation.range(), weight, bias)?))
        }
        Op::Depthwise(depthwise) => {
            let inputs = depthwise.channels / depthwise.multiplier.max(1);
            let kind = ConvShape {
                kernel: depthwise.window.kernel,
                stride: depthwise.window.stride,
                padding: [0; 2],
                groups: inputs,
                ..ConvShape::same(inputs, depthwise.channels, 1)
            };
            let padding = depthwise.window.padding_at(input.height, input.width);
            let (weight, bias) = (&depthwise.weights, Some(&depthwise.bias[..]));
            Work::Conv(Box::new(PaddedConv2d::new(device, kind, padding, node.activation.range(), weight, bias)?))
        }
        Op::Add => Work::Add(node.activation),
        Op::Concat => Work::Concat(node.activation),
        Op::GlobalAveragePool => Work::GlobalAverage(node.activation),
        Op::AveragePool(window) | Op::MaxPool(window) => Work::Pool {
            is_max: matches!(node.op, Op::MaxPool(_)),
            kernel: window.kernel,
            stride: window.stride,
            padding: pool_padding(window.padding_at(input.height, input.width), matches!(node.op, Op::MaxPool(_)))?,
            activation: node.activation,
        },
        Op::Softmax => Work::Softmax,
    })
}
