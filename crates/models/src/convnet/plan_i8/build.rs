//! From a list of operators and their quantisation to a plan in integers: fusion, buffers, packing.

use super::step::{Step, Work};
use super::{PlanI8, Tensor, offset, to_byte};
use crate::Error;
use crate::convnet::plan::describe;
use crate::convnet::{
    Activation, ConvNet, IntegerType, Node, NodeId, Op, Quantization, Shape, TensorQuantization, Window2d,
};
use supple_tensor::Cpu;
use supple_tensor::kernels::sparse_conv_i8::{
    AddLayer, ConvLayer, Factor, Feed, Geometry, IntegerWeights, Level, PackError, PackedConv, PackedDepthwise,
    PoolKind, QuadBuf, Requantisation, Scratch,
};

/// A network with all that is known of it.
struct Builder<'a> {
    network: &'a ConvNet,
    quantization: &'a Quantization,
    shapes: Vec<Shape>,
    /// For a convolution: the depthwise convolution that feeds it.
    feed: Vec<Option<NodeId>>,
    /// Nodes that are part of another's step.
    absorbed: Vec<bool>,
    level: Level,
    threads: usize,
}

pub(super) fn plan(cpu: &Cpu, network: &ConvNet, keep: &[NodeId]) -> Result<PlanI8, Error> {
    let shapes = network.shapes()?;
    assert!(keep.iter().all(|&id| id < shapes.len()), "nodes to be kept exist");
    let Some(quantization) = &network.quantization else {
        return Err(bad(network, "", "is not quantised".into()));
    };
    quantization.check(network)?;
    let last = shapes.len() - 1;
    // The softmax of a network's end is computed when the result is made.
    let softmax = matches!(network.nodes[last].op, Op::Softmax) && network.nodes[last].activation == Activation::None;
    let end = if softmax { network.nodes[last].inputs[0] } else { last };
    let kept = |id: NodeId| keep.contains(&id) || id == end;
    let (feed, absorbed) = fuse(network, &kept);
    let (level, threads) = (Level::of(cpu.isa), cpu.threads());
    let builder = Builder { network, quantization, shapes, feed, absorbed, level, threads };

    let (tensors, count) = builder.place(&kept, softmax.then_some(last))?;
    let at = |id: NodeId| tensors[id].expect("what is read has a place");
    let (mut steps, mut layers) = (Vec::new(), Vec::new());
    for (id, node) in network.nodes.iter().enumerate() {
        if builder.absorbed[id] || matches!(node.op, Op::Input(_)) {
            continue;
        }
        let mut members: Vec<NodeId> = builder.feed[id].into_iter().collect();
        members.push(id);
        layers.push(describe(network, &builder.shapes, &members));
        if softmax && id == last {
            steps.push(Step { work: Work::Nothing, inputs: vec![], output: at(end) });
            continue;
        }
        let inputs: Vec<Tensor> = builder.reads(id).iter().map(|&read| at(read)).collect();
        let work = builder.work(id, &inputs, &at(id))?;
        steps.push(Step { work, inputs, output: at(id) });
    }

    let mut buffers: Vec<QuadBuf> = (0..count).map(|_| QuadBuf::new(0, 0, 0)).collect();
    for Tensor { shape, buffer, .. } in tensors.iter().flatten() {
        // The input comes last, so that its buffer has its shape.
        buffers[*buffer].reshape(shape.channels, shape.height, shape.width);
    }
    let (input, output) = (at(0), at(end));
    buffers[input.buffer].reshape(input.shape.channels, input.shape.height, input.shape.width);
    let part = steps.iter().map(Step::scratch_bytes).max().unwrap_or(0);
    let visible = tensors.iter().enumerate().map(|(id, tensor)| tensor.filter(|_| kept(id)));
    Ok(PlanI8 {
        cpu: cpu.clone(),
        network: network.name.clone(),
        layers,
        steps,
        tensors: visible.collect(),
        buffers: buffers.into_iter().map(Some).collect(),
        scratch: Scratch::new(threads, part),
        input,
        output,
        softmax,
        bytes: vec![0; output.shape.len()],
        result: vec![0.0; output.shape.len()],
        samples: samples(network, &input.quantization),
    })
}

/// Decides which depthwise convolutions feed a product, and which nodes are part of another's step.
fn fuse(network: &ConvNet, kept: &impl Fn(NodeId) -> bool) -> (Vec<Option<NodeId>>, Vec<bool>) {
    let nodes = &network.nodes;
    let mut readers = vec![0usize; nodes.len()];
    nodes.iter().flat_map(|node| &node.inputs).for_each(|&input| readers[input] += 1);
    let (mut feed, mut absorbed) = (vec![None; nodes.len()], vec![false; nodes.len()]);
    for (id, node) in nodes.iter().enumerate() {
        let (Op::Conv(conv), &[source]) = (&node.op, &node.inputs[..]) else { continue };
        let free = readers[source] == 1 && !kept(source);
        if is_point(&conv.window) && free && matches!(nodes[source].op, Op::Depthwise(_)) {
            feed[id] = Some(source);
            absorbed[source] = true;
        }
    }
    (feed, absorbed)
}

fn is_point(window: &Window2d) -> bool {
    window.kernel == [1; 2] && window.stride == [1; 2] && window.padding_at(1, 1) == [0; 4]
}

fn bad(network: &ConvNet, node: &str, problem: String) -> Error {
    Error::BadNetwork { network: network.name.clone(), node: node.into(), problem }
}

/// The byte that each sample of a picture becomes, for each colour.
fn samples(network: &ConvNet, input: &TensorQuantization) -> Vec<[u8; 256]> {
    let preprocessing = &network.preprocessing;
    let table = |colour: usize| {
        let (mean, deviation) = (preprocessing.mean[colour], preprocessing.deviation[colour]);
        std::array::from_fn(|sample| to_byte((sample as f32 / 255.0 - mean) / deviation, input))
    };
    (0..3).map(table).collect()
}

impl Builder<'_> {
    fn bad(&self, id: NodeId, problem: impl Into<String>) -> Error {
        bad(self.network, &self.network.nodes[id].name, problem.into())
    }

    fn packed<T>(&self, id: NodeId, packed: Result<T, PackError>) -> Result<T, Error> {
        packed.map_err(|error| self.bad(id, format!("cannot be computed in integers: {error}")))
    }

    /// The nodes whose tensors the step of node `id` reads.
    fn reads(&self, id: NodeId) -> &[NodeId] {
        &self.network.nodes[self.feed[id].unwrap_or(id)].inputs
    }

    /// The quantisation of a node's tensor.
    fn quantization(&self, id: NodeId) -> Result<TensorQuantization, Error> {
        self.quantization.nodes[id].output.ok_or_else(|| self.bad(id, "is not quantised"))
    }

    /// Gives each tensor that exists a buffer; those that are no longer read hand theirs on. Also the number of buffers.
    fn place(
        &self,
        kept: &impl Fn(NodeId) -> bool,
        softmax: Option<NodeId>,
    ) -> Result<(Vec<Option<Tensor>>, usize), Error> {
        let count = self.network.nodes.len();
        let here = |&id: &NodeId| !self.absorbed[id] && softmax != Some(id);
        let mut last_read = vec![0; count];
        for id in (0..count).filter(here) {
            self.reads(id).iter().for_each(|&read| last_read[read] = id);
        }
        let (mut tensors, mut buffers, mut free) = (vec![None; count], 0, Vec::new());
        for id in (0..count).filter(here) {
            let buffer = free.pop().unwrap_or_else(|| {
                buffers += 1;
                buffers - 1
            });
            tensors[id] = Some(Tensor { shape: self.shapes[id], buffer, quantization: self.quantization(id)? });
            let mut done = self.reads(id).to_vec();
            // What nobody reads is done at once.
            done.extend((last_read[id] == 0).then_some(id));
            done.sort_unstable();
            done.dedup();
            for read in done {
                // The input keeps its buffer, so that it can be read again.
                let last = last_read[read] == id || read == id;
                if last && !kept(read) && read != 0 {
                    free.extend(tensors[read].map(|tensor: Tensor| tensor.buffer));
                }
            }
        }
        Ok((tensors, buffers))
    }

    /// Lowest and highest byte of a node's tensor.
    fn range(&self, id: NodeId, quantization: &TensorQuantization) -> [i32; 2] {
        let (lowest, highest) = quantization.dtype.range();
        // As TensorFlow Lite has it: in single precision, ties away from zero.
        let steps = |real: f32| quantization.zero_point.saturating_add((real / quantization.scale).round() as i32);
        let (from, to) = match self.network.nodes[id].activation {
            Activation::None => (lowest, highest),
            Activation::Relu => (lowest.max(steps(0.0)), highest),
            Activation::Relu6 => (lowest.max(steps(0.0)), highest.min(steps(6.0))),
        };
        [from + offset(quantization), to + offset(quantization)]
    }

    fn work(&self, id: NodeId, inputs: &[Tensor], output: &Tensor) -> Result<Work, Error> {
        let node = &self.network.nodes[id];
        let range = self.range(id, &output.quantization);
        let byte_zero = |tensor: &Tensor| tensor.quantization.zero_point + offset(&tensor.quantization);
        Ok(match &node.op {
            Op::Input(_) => unreachable!("the input is no step"),
            Op::Conv(_) => Work::Conv(Box::new(self.conv(id)?)),
            Op::Depthwise(_) => Work::Depthwise(Box::new(self.depthwise(id)?)),
            Op::Add => {
                let scaled = |tensor: &Tensor| (tensor.quantization.scale, byte_zero(tensor));
                let layer = AddLayer::new(self.level, [scaled(&inputs[0]), scaled(&inputs[1])], scaled(output), range);
                Work::Add(self.packed(id, layer)?)
            }
            Op::Concat => Work::Concat(inputs.iter().map(|input| join_map(input, output, range)).collect()),
            Op::GlobalAveragePool | Op::AveragePool(_) | Op::MaxPool(_) => self.pool(id, &inputs[0], output, range)?,
            Op::Softmax => return Err(self.bad(id, "is a softmax before the end, which has no integers here")),
        })
    }

    fn pool(&self, id: NodeId, input: &Tensor, output: &Tensor, range: [i32; 2]) -> Result<Work, Error> {
        let shape = input.shape;
        let same = input.quantization.agrees(&output.quantization);
        let factor = f64::from(input.quantization.scale) / f64::from(output.quantization.scale);
        let average = PoolKind::Average { offset: offset(&input.quantization) };
        let whole = Window2d::square(1, 1, crate::convnet::Padding::Explicit([0; 4]));
        let (kind, window) = match &self.network.nodes[id].op {
            Op::GlobalAveragePool if !same => return Ok(Work::Mean(factor, range)),
            Op::GlobalAveragePool => (average, Window2d { kernel: [shape.height, shape.width], ..whole }),
            Op::AveragePool(window) => (average, *window),
            Op::MaxPool(window) if !same && is_point(window) => {
                return Ok(Work::Concat(vec![rescale_map(input, output, range)]));
            }
            Op::MaxPool(window) => (PoolKind::Max, *window),
            _ => unreachable!("the caller looked"),
        };
        if !same {
            return Err(self.bad(id, "is a pooling that changes the scale"));
        }
        Ok(Work::Pool { kind, geometry: self.geometry(&window, shape, output.shape), range })
    }

    fn geometry(&self, window: &Window2d, input: Shape, output: Shape) -> Geometry {
        let [top, _, left, _] = window.padding_at(input.height, input.width);
        Geometry {
            kernel: window.kernel,
            stride: window.stride,
            before: [top, left],
            input: [input.height, input.width],
            output: [output.height, output.width],
        }
    }

    /// The weights of a convolution less their zero points, its biases, and what becomes of its sums.
    fn integers(&self, id: NodeId) -> Result<(Vec<i16>, Vec<i32>, Requantisation, i32), Error> {
        let layer = self.quantization.layer(self.network, id)?;
        let Some(own) = &self.quantization.nodes[id].weights else {
            return Err(self.bad(id, "has weights that are not quantised"));
        };
        let columns = (layer.weights.len() / layer.bias.len().max(1)).max(1);
        let rows = layer.weights.chunks(columns).enumerate();
        let weights = rows.flat_map(|(o, row)| row.iter().map(move |&w| w - own.zero_point_of(o) as i16)).collect();
        // TensorFlow Lite multiplies the scales of a layer with a single scale of weights in single precision, but for
        // convolutions of signed bytes.
        let input_shape = self.shapes[self.network.nodes[id].inputs[0]];
        let covers = match &self.network.nodes[id].op {
            Op::Conv(conv) => {
                let window = &conv.window;
                window.kernel == [input_shape.height, input_shape.width]
                    && window.padding_at(input_shape.height, input_shape.width) == [0; 4]
            }
            _ => false,
        };
        let single = own.scale.len() == 1 && (layer.input.dtype == IntegerType::U8 || covers);
        let factor = |(o, &real): (usize, &f64)| match single {
            true => Factor::new(f64::from(layer.input.scale * own.scale_of(o)) / f64::from(layer.output.scale)),
            false => Factor::new(real),
        };
        let requantisation = Requantisation {
            factors: layer.multiplier.iter().enumerate().map(factor).collect(),
            zero_point: layer.output.zero_point + offset(&layer.output),
            range: self.range(id, &layer.output),
        };
        Ok((weights, layer.bias, requantisation, layer.input.zero_point + offset(&layer.input)))
    }

    fn depthwise(&self, id: NodeId) -> Result<PackedDepthwise, Error> {
        let Node { op: Op::Depthwise(depthwise), inputs, .. } = &self.network.nodes[id] else {
            unreachable!("the caller looked")
        };
        let (weights, bias, requantisation, input_zero) = self.integers(id)?;
        let geometry = self.geometry(&depthwise.window, self.shapes[inputs[0]], self.shapes[id]);
        let weights = IntegerWeights { weights: &weights, bias: &bias, inputs: 1, area: geometry.area(), input_zero };
        let packed = PackedDepthwise::new(self.level, &weights, &requantisation, depthwise.multiplier, geometry);
        self.packed(id, packed)
    }

    fn conv(&self, id: NodeId) -> Result<ConvLayer, Error> {
        let Node { op: Op::Conv(conv), inputs, .. } = &self.network.nodes[id] else {
            unreachable!("the caller looked")
        };
        let (weights, bias, requantisation, input_zero) = self.integers(id)?;
        let [height, width] = conv.window.kernel;
        let weights = IntegerWeights {
            weights: &weights,
            bias: &bias,
            inputs: conv.in_channels,
            area: height * width,
            input_zero,
        };
        let packed = self.packed(id, PackedConv::new(self.level, &weights, &requantisation))?;
        let output = self.shapes[id];
        let feed = match self.feed[id] {
            Some(depthwise) => Feed::Depthwise(self.depthwise(depthwise)?),
            None if is_point(&conv.window) => Feed::Planes,
            None => Feed::Taps(self.geometry(&conv.window, self.shapes[inputs[0]], output)),
        };
        Ok(ConvLayer::new(packed, feed, [output.height, output.width], self.threads))
    }
}

/// The byte that each byte of an input becomes where tensors are joined: in single precision, as TensorFlow Lite does it.
fn join_map(input: &Tensor, output: &Tensor, range: [i32; 2]) -> [u8; 256] {
    let zero = |tensor: &Tensor| tensor.quantization.zero_point + offset(&tensor.quantization);
    if input.quantization.agrees(&output.quantization) {
        return std::array::from_fn(|byte| (byte as i32).clamp(range[0], range[1]) as u8);
    }
    let scale = input.quantization.scale * (1.0 / output.quantization.scale);
    let bias = -(zero(input) as f32) * scale;
    let joined = |byte: usize| (byte as f32 * scale + bias).round() as i32;
    std::array::from_fn(|byte| joined(byte).saturating_add(zero(output)).clamp(range[0], range[1]) as u8)
}

/// The byte that each byte of an input becomes on another scale, in fixed point.
fn rescale_map(input: &Tensor, output: &Tensor, range: [i32; 2]) -> [u8; 256] {
    let zero = |tensor: &Tensor| tensor.quantization.zero_point + offset(&tensor.quantization);
    let factor = Factor::new(f64::from(input.quantization.scale) / f64::from(output.quantization.scale));
    let scaled = |byte: usize| factor.apply(byte as i32 - zero(input)).saturating_add(zero(output));
    std::array::from_fn(|byte| scaled(byte).clamp(range[0], range[1]) as u8)
}
