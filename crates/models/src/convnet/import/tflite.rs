//! TFLite networks.
//!
//! Pixels lie as `[height][width][channels]` in TFLite and planar here, which shows in three places: weights are reordered, a
//! fully-connected layer becomes a convolution whose kernel covers its input, and flattening disappears where what follows is
//! such a layer. Padding operators disappear into the convolutions that read them; quantising and dequantising operators
//! disappear into [`Quantization`]. Networks in 8-bit integers become real-number networks, as `quantization.rs` explains.

use std::collections::HashMap;

use supple_weights::tflite::{self, Model, Operator, Options, Subgraph, Tensor};

use super::names::{self, Names};
use super::tflite_weights::{self, Order, Sides};
use crate::Error;
use crate::convnet::quantization::{NodeQuantization, Quantization};
use crate::convnet::{
    Activation, Conv, ConvNet, Depthwise, Node, NodeId, Op, Padding, Pattern, Preprocessing, Shape, TensorQuantization,
    Window2d,
};

/// Weights that a network may have for each byte of its file, and [`MORE_WEIGHTS`] more: operators can share what a file
/// holds once, but hardly do.
const WEIGHTS_PER_BYTE: usize = 4;
const MORE_WEIGHTS: usize = 1 << 16;

impl ConvNet {
    /// The network of a TFLite file: the first subgraph, with one input and one output, for one picture at a time. `source` is
    /// what errors call the file; the network's name is the last part of it without its extension.
    ///
    /// Supported are `CONV_2D`, `DEPTHWISE_CONV_2D`, `FULLY_CONNECTED`, `ADD`, `CONCATENATION`, `AVERAGE_POOL_2D`, `MAX_POOL_2D`,
    /// `MEAN` over height and width, `SOFTMAX`, `PAD` before convolutions, `RESHAPE` and `SQUEEZE` that flatten, `RELU`, `RELU6`,
    /// `QUANTIZE` and `DEQUANTIZE`, with weights in `f32`, `f16`, `u8` or `i8`.
    ///
    /// The preprocessing follows from the input's quantisation, where integers are the samples of a picture (for `i8`, the
    /// samples less 128). For an input in floating point the file does not say, and it is the default, −1 to 1. There are no labels.
    ///
    /// # Errors
    /// [`Error::UnsupportedOperator`] names an operator that is none of those, or one used in another way; [`Error::BadNetwork`]
    /// names an operator that does not fit its neighbours; [`Error::Weights`] for constants that cannot be read.
    pub fn from_tflite(model: &Model, source: &str) -> Result<ConvNet, Error> {
        let path = std::path::Path::new(source);
        let name = path.file_stem().map_or_else(|| source.to_string(), |stem| stem.to_string_lossy().into_owned());
        let Some(graph) = model.subgraphs.first() else {
            return Err(Error::BadNetwork { network: name, node: String::new(), problem: "there is none".into() });
        };
        Importer::new(model, graph, source, name).run()
    }
}

/// What a tensor of pixels in the file is here.
#[derive(Clone, Copy)]
struct Value {
    node: NodeId,
    /// Of the node's tensor, before `padding` and whether or not it is flattened.
    shape: Shape,
    /// Zeros that a `PAD` has put around it and that no node adds: top, bottom, left, right.
    padding: [usize; 4],
    /// Whether it was flattened in the file's order of pixels, which is not the order here unless there is one pixel.
    flat: bool,
}

struct Importer<'a> {
    model: &'a Model,
    graph: &'a Subgraph,
    source: &'a str,
    network: String,
    nodes: Vec<Node>,
    quantization: Vec<NodeQuantization>,
    shapes: Vec<Shape>,
    names: Names,
    values: HashMap<usize, Value>,
    /// Constants that an operator converts to floating point: the result's index and the constant's.
    dequantised: HashMap<usize, usize>,
    /// How often each tensor is read.
    reads: Vec<usize>,
    weights_left: usize,
}

impl<'a> Importer<'a> {
    fn new(model: &'a Model, graph: &'a Subgraph, source: &'a str, network: String) -> Self {
        let mut reads = vec![0; graph.tensors.len()];
        let inputs = graph.operators.iter().flat_map(|operator| operator.inputs.iter().flatten());
        inputs.chain(&graph.outputs).for_each(|&tensor| reads[tensor] += 1);
        Importer {
            model,
            graph,
            source,
            network,
            nodes: Vec::new(),
            quantization: Vec::new(),
            shapes: Vec::new(),
            names: Names::default(),
            values: HashMap::new(),
            dequantised: HashMap::new(),
            reads,
            weights_left: model.size().saturating_mul(WEIGHTS_PER_BYTE).saturating_add(MORE_WEIGHTS),
        }
    }

    fn run(mut self) -> Result<ConvNet, Error> {
        let (&[input], &[output]) = (&self.graph.inputs[..], &self.graph.outputs[..]) else {
            let (inputs, outputs) = (self.graph.inputs.len(), self.graph.outputs.len());
            return Err(self.bad("", format!("has {inputs} inputs and {outputs} outputs, and may have one of each")));
        };
        let tensor = &self.graph.tensors[input];
        let Some(shape) = shape_of(tensor) else {
            return Err(self.bad("", format!("takes {:?}, not the pixels of one picture", tensor.shape)));
        };
        let name = self.names.unique("input");
        self.push(input, name, Op::Input(shape), vec![], Activation::None, shape);
        for operator in &self.graph.operators {
            self.operator(operator)?;
        }

        let Some(&last) = self.values.get(&output) else {
            return Err(self.bad("", "computes its output nowhere".into()));
        };
        if last.padding != [0; 4] || (last.flat && last.shape.pixels() > 1) {
            return Err(self.bad("", "gives back pixels that are padded or flattened".into()));
        }
        // What comes later does not reach the output.
        self.nodes.truncate(last.node + 1);
        self.quantization.truncate(last.node + 1);
        let preprocessing = preprocessing(self.quantization.first().and_then(|input| input.output));
        let quantised = self.quantization.iter().any(|node| node.output.is_some());
        let quantization = quantised.then_some(Quantization { nodes: self.quantization });
        let network =
            ConvNet { name: self.network, nodes: self.nodes, preprocessing, labels: Vec::new(), quantization };
        for ((node, found), stated) in network.nodes.iter().zip(network.shapes()?).zip(self.shapes) {
            if found != stated {
                let (network, node) = (network.name.clone(), node.name.clone());
                return Err(Error::BadNetwork { network, node, problem: format!("gives {found} and states {stated}") });
            }
        }
        if let Some(quantization) = &network.quantization {
            quantization.check(&network)?;
        }
        Ok(network)
    }

    fn operator(&mut self, operator: &Operator) -> Result<(), Error> {
        let &[output] = &operator.outputs[..] else {
            return Err(self.unsupported(operator, &format!(" with {} outputs", operator.outputs.len())));
        };
        let inputs: Vec<usize> = operator.inputs.iter().flatten().copied().collect();
        let Some(&input) = inputs.first() else {
            return Err(self.unsupported(operator, " without inputs"));
        };
        match (&operator.name[..], &operator.options) {
            ("CONV_2D" | "DEPTHWISE_CONV_2D" | "FULLY_CONNECTED", _) => self.convolution(operator, output),
            ("ADD", Options::Add { activation }) => self.add(operator, &inputs, output, *activation),
            ("CONCATENATION", &Options::Concatenation { axis, activation }) => {
                self.concatenation(operator, &inputs, output, axis, activation)
            }
            ("AVERAGE_POOL_2D" | "MAX_POOL_2D", &Options::Pool2d { window, size, activation }) => {
                self.pool(operator, input, output, window, size, activation)
            }
            ("MEAN", _) => self.mean(operator, &inputs, output),
            ("RESHAPE" | "SQUEEZE" | "EXPAND_DIMS", _) => self.reshape(operator, input, output),
            ("SOFTMAX", &Options::Softmax { beta }) => {
                if beta != 1.0 {
                    return Err(self.unsupported(operator, &format!(" with beta {beta}")));
                }
                let value = self.plain(operator, input)?;
                let name = self.name(output);
                self.push(output, name, Op::Softmax, vec![value.node], Activation::None, value.shape);
                Ok(())
            }
            ("PAD", _) => self.pad(operator, &inputs, output),
            ("RELU", _) => self.activate(operator, input, output, Activation::Relu),
            ("RELU6", _) => self.activate(operator, input, output, Activation::Relu6),
            ("QUANTIZE" | "DEQUANTIZE", _) => self.convert(operator, input, output),
            _ => Err(self.unsupported(operator, "")),
        }
    }

    fn convolution(&mut self, operator: &Operator, output: usize) -> Result<(), Error> {
        let (Some(&Some(input)), Some(&Some(weights))) = (operator.inputs.first(), operator.inputs.get(1)) else {
            return Err(self.unsupported(operator, " without weights"));
        };
        let bias = operator.inputs.get(2).copied().flatten();
        let value = self.value(operator, input)?;
        let shape = value.shape;
        let weights = self.constant(weights);
        let sides = &weights.shape[..];
        let plan = match (&operator.options, sides) {
            (Options::Conv2d { window, dilation, activation }, &[out, height, width, channels]) => {
                if channels != shape.channels {
                    return Err(self.unsupported(operator, " in groups of channels"));
                }
                Plan { kernel: [height, width], out, channels, window: Some((window, dilation)), activation }
            }
            (Options::DepthwiseConv2d { window, dilation, activation, .. }, &[1, height, width, out]) => {
                if shape.channels == 0 || out % shape.channels != 0 {
                    return Err(self.unsupported(operator, " with channels that its input's do not divide"));
                }
                Plan { kernel: [height, width], out, channels: 1, window: Some((window, dilation)), activation }
            }
            (Options::FullyConnected { activation, weights_format: 0 }, &[out, columns]) => {
                if columns != shape.len() {
                    return Err(self.unsupported(operator, " on a part of its input"));
                }
                let kernel = [shape.height, shape.width];
                Plan { kernel, out, channels: shape.channels, window: None, activation }
            }
            (Options::FullyConnected { .. }, &[_, _]) => {
                return Err(self.unsupported(operator, " with shuffled weights"));
            }
            _ => return Err(self.unsupported(operator, &format!(" with weights of shape {sides:?}"))),
        };
        let name = self.name(output);
        let window = self.window(operator, &value, &plan, &name)?;
        let activation = self.activation(operator, *plan.activation)?;
        let depthwise = matches!(operator.options, Options::DepthwiseConv2d { .. });

        let elements = weights.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let left = elements.and_then(|elements| self.weights_left.checked_sub(elements));
        self.weights_left = left.ok_or_else(|| self.bad(&name, "has more weights than its file can hold".into()))?;
        let sides = Sides {
            out_channels: plan.out,
            taps: plan.kernel[0].saturating_mul(plan.kernel[1]),
            in_channels: plan.channels,
        };
        let order = if depthwise { Order::OutLast } else { Order::OutFirst };
        let input_quantization = self.quantization[value.node].output;
        let bias = bias.map(|bias| self.constant(bias));
        let read = tflite_weights::read(self.model, weights, bias, input_quantization, order, sides)?;
        let read = read.map_err(|problem| self.bad(&name, problem))?;
        let (channels, weights, bias) = (plan.out, read.weights, read.bias);
        let op = if depthwise {
            let multiplier = plan.out / shape.channels;
            Op::Depthwise(Depthwise { channels, multiplier, window, weights, bias })
        } else {
            let (out_channels, in_channels, pattern) = (plan.out, plan.channels, Pattern::Dense);
            Op::Conv(Conv { out_channels, in_channels, window, weights, bias, pattern })
        };
        let sides = window.output(shape.height, shape.width).map_err(|problem| self.bad(&name, problem))?;
        let shape = Shape { channels, height: sides[0], width: sides[1] };
        let node = self.push(output, name, op, vec![value.node], activation, shape);
        self.quantization[node].weights = read.quantization;
        Ok(())
    }

    /// The window of a convolution, with the zeros that a `PAD` before it has added.
    fn window(&self, operator: &Operator, value: &Value, plan: &Plan<'_>, name: &str) -> Result<Window2d, Error> {
        let Some((window, dilation)) = plan.window else {
            if value.padding != [0; 4] {
                return Err(self.unsupported(operator, " on padded pixels"));
            }
            return Ok(Window2d { kernel: plan.kernel, stride: [1; 2], padding: Padding::Explicit([0; 4]) });
        };
        if value.flat && value.shape.pixels() > 1 {
            return Err(self.unsupported(operator, " on flattened pixels"));
        }
        if *dilation != [1; 2] {
            return Err(self.unsupported(operator, " with dilation"));
        }
        let mut made = self.moving(window, plan.kernel, name)?;
        if value.padding != [0; 4] {
            let [top, bottom, left, right] = value.padding;
            let padded = made.padding_at(value.shape.height + top + bottom, value.shape.width + left + right);
            made.padding = Padding::Explicit(std::array::from_fn(|side| padded[side] + value.padding[side]));
        }
        Ok(made)
    }

    /// A window that moves as the file says, its numbers checked.
    fn moving(&self, window: &tflite::Window, kernel: [usize; 2], name: &str) -> Result<Window2d, Error> {
        let padding = match window.padding {
            tflite::Padding::Same => Padding::Same,
            tflite::Padding::Valid => Padding::Explicit([0; 4]),
        };
        match window.stride.map(usize::try_from) {
            [Ok(rows @ 1..), Ok(columns @ 1..)] => Ok(Window2d { kernel, stride: [rows, columns], padding }),
            _ => Err(self.bad(name, format!("has a stride of {:?}", window.stride))),
        }
    }

    fn add(
        &mut self,
        operator: &Operator,
        inputs: &[usize],
        output: usize,
        activation: tflite::Activation,
    ) -> Result<(), Error> {
        let &[first, second] = inputs else {
            return Err(self.unsupported(operator, &format!(" with {} inputs", inputs.len())));
        };
        let (first, second) = (self.plain(operator, first)?, self.plain(operator, second)?);
        if first.shape != second.shape {
            return Err(self.unsupported(operator, &format!(" of {} and {}", first.shape, second.shape)));
        }
        let (activation, name) = (self.activation(operator, activation)?, self.name(output));
        self.push(output, name, Op::Add, vec![first.node, second.node], activation, first.shape);
        Ok(())
    }

    fn concatenation(
        &mut self,
        operator: &Operator,
        inputs: &[usize],
        output: usize,
        axis: i32,
        activation: tflite::Activation,
    ) -> Result<(), Error> {
        let values = inputs.iter().map(|&input| self.plain(operator, input)).collect::<Result<Vec<_>, _>>()?;
        let rank = self.graph.tensors[inputs[0]].shape.len() as i32;
        if axis != -1 && axis != rank - 1 {
            return Err(self.unsupported(operator, &format!(" along dimension {axis}")));
        }
        let channels = values.iter().try_fold(0usize, |sum, value| sum.checked_add(value.shape.channels));
        let (activation, name) = (self.activation(operator, activation)?, self.name(output));
        let shape = Shape { channels: channels.unwrap_or(usize::MAX), ..values[0].shape };
        let nodes = values.iter().map(|value| value.node).collect();
        self.push(output, name, Op::Concat, nodes, activation, shape);
        Ok(())
    }

    fn pool(
        &mut self,
        operator: &Operator,
        input: usize,
        output: usize,
        window: tflite::Window,
        size: [i32; 2],
        activation: tflite::Activation,
    ) -> Result<(), Error> {
        let (value, name) = (self.plain(operator, input)?, self.name(output));
        let activation = self.activation(operator, activation)?;
        let [Ok(height @ 1..), Ok(width @ 1..)] = size.map(usize::try_from) else {
            return Err(self.bad(&name, format!("has a window of {size:?}")));
        };
        let window = self.moving(&window, [height, width], &name)?;
        let from = value.shape;
        let [height, width] = window.output(from.height, from.width).map_err(|problem| self.bad(&name, problem))?;
        let shape = Shape { channels: from.channels, height, width };
        let whole = shape.pixels() == 1
            && window.kernel == [from.height, from.width]
            && window.padding_at(from.height, from.width) == [0; 4];
        let op = match (&operator.name[..], whole) {
            ("MAX_POOL_2D", _) => Op::MaxPool(window),
            (_, true) => Op::GlobalAveragePool,
            (_, false) => Op::AveragePool(window),
        };
        self.push(output, name, op, vec![value.node], activation, shape);
        Ok(())
    }

    fn mean(&mut self, operator: &Operator, inputs: &[usize], output: usize) -> Result<(), Error> {
        let &[input, axes] = inputs else {
            return Err(self.unsupported(operator, &format!(" with {} inputs", inputs.len())));
        };
        let value = self.plain(operator, input)?;
        let rank = self.graph.tensors[input].shape.len() as i64;
        let mut axes = self.model.integers(self.constant(axes))?.unwrap_or_default();
        axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis = axis.saturating_add(rank));
        axes.sort_unstable();
        if rank != 4 || axes != [1, 2] {
            return Err(self.unsupported(operator, &format!(" over dimensions {axes:?}")));
        }
        let (name, shape) = (self.name(output), Shape { height: 1, width: 1, ..value.shape });
        self.push(output, name, Op::GlobalAveragePool, vec![value.node], Activation::None, shape);
        Ok(())
    }

    /// Flattening, and taking away or adding dimensions of size 1.
    fn reshape(&mut self, operator: &Operator, input: usize, output: usize) -> Result<(), Error> {
        let mut value = self.value(operator, input)?;
        let sides = &self.graph.tensors[output].shape;
        let (last, shape) = (sides.last().copied().unwrap_or(1), value.shape);
        let same = shape_of(&self.graph.tensors[output]) == Some(shape) && !value.flat;
        let elements = sides.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let flattens = last == shape.len() && elements == Some(last);
        if value.padding != [0; 4] || !(same || flattens) {
            return Err(self.unsupported(operator, &format!(" from {shape} to {sides:?}")));
        }
        value.flat |= !same;
        self.values.insert(output, value);
        Ok(())
    }

    fn pad(&mut self, operator: &Operator, inputs: &[usize], output: usize) -> Result<(), Error> {
        let &[input, amounts] = inputs else {
            return Err(self.unsupported(operator, &format!(" with {} inputs", inputs.len())));
        };
        // Zeros that another `PAD` has added may be added to, all of them being zeros.
        let mut value = self.value(operator, input)?;
        let amounts = self.model.integers(self.constant(amounts))?.unwrap_or_default();
        let unsupported = || self.unsupported(operator, &format!(" by {amounts:?}"));
        let &[0, 0, top, bottom, left, right, 0, 0] = &amounts[..] else { return Err(unsupported()) };
        if value.flat {
            return Err(self.unsupported(operator, " on flattened pixels"));
        }
        const MOST: i64 = 1 << 12;
        for (sum, amount) in value.padding.iter_mut().zip([top, bottom, left, right]) {
            let amount = usize::try_from(amount).ok().filter(|_| amount <= MOST).ok_or_else(unsupported)?;
            *sum = (*sum + amount).min(MOST as usize + 1);
        }
        self.values.insert(output, value);
        Ok(())
    }

    fn activate(
        &mut self,
        operator: &Operator,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> Result<(), Error> {
        let value = self.value(operator, input)?;
        let quantization = tflite_weights::pixels(&self.graph.tensors[output]);
        // Integers are rounded once more where the scale changes, so that there the activation stays a node.
        let same = self.quantization[value.node].output == quantization;
        if same && self.reads[input] == 1 && value.node != 0 {
            let own = &mut self.nodes[value.node].activation;
            *own = match (*own, activation) {
                (Activation::None, activation) => activation,
                (Activation::Relu, Activation::Relu6) => Activation::Relu6,
                (own, _) => own,
            };
            self.values.insert(output, value);
            return Ok(());
        }
        self.identity(operator, input, output, activation)
    }

    /// `QUANTIZE` and `DEQUANTIZE`.
    fn convert(&mut self, operator: &Operator, input: usize, output: usize) -> Result<(), Error> {
        if self.graph.tensors[input].is_constant() {
            if operator.name == "QUANTIZE" {
                return Err(self.unsupported(operator, " on constants"));
            }
            self.dequantised.insert(output, input);
            return Ok(());
        }
        let value = self.value(operator, input)?;
        let wanted = tflite_weights::pixels(&self.graph.tensors[output]);
        let found = &mut self.quantization[value.node].output;
        match (*found, wanted) {
            // The input's real numbers are quantised at once, or results are left in integers a little longer.
            (None, Some(_)) if value.node == 0 => *found = wanted,
            (found, wanted) if found == wanted || wanted.is_none() => {}
            _ => return self.identity(operator, input, output, Activation::None),
        }
        self.values.insert(output, value);
        Ok(())
    }

    /// A node that computes the activation alone: the maximum of windows of one pixel.
    fn identity(
        &mut self,
        operator: &Operator,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> Result<(), Error> {
        let (value, name) = (self.value(operator, input)?, self.name(output));
        let (op, shape) = (Op::MaxPool(Window2d::POINT), value.shape);
        let node = self.push(output, name, op, vec![value.node], activation, shape);
        self.values.insert(output, Value { node, ..value });
        Ok(())
    }

    /// Adds a node that computes the tensor `output` of the file.
    fn push(
        &mut self,
        output: usize,
        name: String,
        op: Op,
        inputs: Vec<NodeId>,
        activation: Activation,
        shape: Shape,
    ) -> NodeId {
        let node = self.nodes.len();
        self.nodes.push(Node { name, op, inputs, activation });
        // `ConvNet::shapes` says the same in the end, unless the file contradicts itself.
        self.shapes.push(shape);
        let output_quantization = tflite_weights::pixels(&self.graph.tensors[output]);
        self.quantization.push(NodeQuantization { output: output_quantization, weights: None });
        self.values.insert(output, Value { node, shape, padding: [0; 4], flat: false });
        node
    }

    fn value(&self, operator: &Operator, tensor: usize) -> Result<Value, Error> {
        self.values.get(&tensor).copied().ok_or_else(|| {
            if self.graph.tensors[tensor].is_constant() || self.dequantised.contains_key(&tensor) {
                return self.unsupported(operator, " with a constant in place of pixels");
            }
            let name = &self.graph.tensors[tensor].name;
            self.bad(&self.names_of(operator), format!("reads tensor {name:?}, which is not computed before it"))
        })
    }

    /// A value that is neither padded nor flattened from several pixels.
    fn plain(&self, operator: &Operator, tensor: usize) -> Result<Value, Error> {
        let value = self.value(operator, tensor)?;
        if value.padding != [0; 4] {
            return Err(self.unsupported(operator, " on padded pixels"));
        }
        if value.flat && value.shape.pixels() > 1 {
            return Err(self.unsupported(operator, " on flattened pixels"));
        }
        Ok(value)
    }

    /// The tensor, or the constant that it is a conversion of.
    fn constant(&self, tensor: usize) -> &'a Tensor {
        &self.graph.tensors[self.dequantised.get(&tensor).copied().unwrap_or(tensor)]
    }

    fn activation(&self, operator: &Operator, activation: tflite::Activation) -> Result<Activation, Error> {
        match activation {
            tflite::Activation::None => Ok(Activation::None),
            tflite::Activation::Relu => Ok(Activation::Relu),
            tflite::Activation::Relu6 => Ok(Activation::Relu6),
            other => Err(self.unsupported(operator, &format!(" with activation {other:?}"))),
        }
    }

    fn name(&mut self, output: usize) -> String {
        self.names.unique(&names::layer(&self.graph.tensors[output].name))
    }

    fn names_of(&self, operator: &Operator) -> String {
        operator.outputs.first().map_or_else(String::new, |&output| names::layer(&self.graph.tensors[output].name))
    }

    fn unsupported(&self, operator: &Operator, hint: &str) -> Error {
        Error::UnsupportedOperator { file: self.source.into(), operator: operator.name.clone(), hint: hint.into() }
    }

    fn bad(&self, node: &str, problem: String) -> Error {
        Error::BadNetwork { network: self.network.clone(), node: node.into(), problem }
    }
}

/// How a convolution is set, whichever of the three it is.
struct Plan<'a> {
    kernel: [usize; 2],
    out: usize,
    channels: usize,
    /// How it moves, and its dilation; `None` for fully-connected layers.
    window: Option<(&'a tflite::Window, &'a [i32; 2])>,
    activation: &'a tflite::Activation,
}

/// The pixels of one picture: `[1][height][width][channels]` or `[1][channels]`.
fn shape_of(tensor: &Tensor) -> Option<Shape> {
    match tensor.shape[..] {
        [1, height, width, channels] => Some(Shape { channels, height, width }),
        [1, channels] => Some(Shape { channels, height: 1, width: 1 }),
        _ => None,
    }
}

/// `real = scale × (q − zero point)` with `q` a sample, or for `i8` a sample less 128, as `(sample / 255 − mean) / deviation`.
fn preprocessing(input: Option<TensorQuantization>) -> Preprocessing {
    let default = Preprocessing::default();
    let Some(input) = input else { return default };
    let (lowest, _) = input.dtype.range();
    let zero = input.zero_point - lowest;
    Preprocessing { mean: [zero as f32 / 255.0; 3], deviation: [1.0 / (255.0 * input.scale); 3], ..default }
}
