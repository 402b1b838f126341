//! From a list of operators to a plan: fusion, buffers, packing.

use super::step::{Step, Tensor, Work};
use super::{Layer, Numbers, Plan, sample_tables};
use crate::Error;
use crate::convnet::{Conv, ConvNet, Depthwise, Node, NodeId, Op, Pattern, Shape, Window2d};
use supple_tensor::Cpu;
use supple_tensor::kernels::sparse_conv::{
    Feed, HALF_BLOCK, PackedSparse, Phases, PlanarDepthwise, Reduce, SparseLayer, default_block,
};
use supple_tensor::kernels::{AlignedBuf, Isa};

/// How nodes go together.
struct Fusion {
    /// For a convolution: the depthwise convolution that feeds it.
    feed: Vec<Option<NodeId>>,
    /// For an addition: the convolution whose residual it is.
    product: Vec<Option<NodeId>>,
    /// Nodes that are part of another's step.
    absorbed: Vec<bool>,
}

pub(super) fn plan(cpu: &Cpu, network: &ConvNet, keep: &[NodeId], numbers: Numbers) -> Result<Plan, Error> {
    let shapes = network.shapes()?;
    assert!(keep.iter().all(|&id| id < shapes.len()), "nodes to be kept exist");
    let kept = |id: NodeId| keep.contains(&id) || id + 1 == shapes.len();
    let fusion = fuse(network, &shapes, &kept);
    let (tensors, lengths) = place(network, &shapes, &fusion, &kept);
    let at = |id: NodeId| tensors[id].expect("what is read has a place");

    let (mut steps, mut layers) = (Vec::new(), Vec::new());
    for (id, node) in network.nodes.iter().enumerate() {
        if fusion.absorbed[id] || matches!(node.op, Op::Input(_)) {
            continue;
        }
        let members = fusion.members(id);
        let inputs: Vec<Tensor> = fusion.reads(network, id).into_iter().map(at).collect();
        let work = match (&node.op, fusion.product[id]) {
            (Op::Add, Some(product)) => {
                let layer = Box::new(conv_layer(cpu, network, &shapes, &fusion, product, numbers));
                Work::Conv { layer, residual: Some(network.nodes[product].activation.range()) }
            }
            _ => work(cpu, network, &shapes, &fusion, id, numbers),
        };
        layers.push(describe(network, &shapes, &members));
        steps.push(Step { work, inputs, output: at(id), range: node.activation.range() });
    }
    let scratch = steps.iter().map(|step| step.scratch_len(cpu.threads())).max().unwrap_or(0);
    let output = at(shapes.len() - 1);
    let half = steps.iter().any(|step| matches!(&step.work, Work::Conv { layer, .. } if layer.packed().is_half()));
    let visible = tensors.iter().enumerate().map(|(id, tensor)| tensor.filter(|_| kept(id)));
    Ok(Plan {
        cpu: cpu.clone(),
        network: network.name.clone(),
        layers,
        steps,
        tensors: visible.collect(),
        buffers: lengths.into_iter().map(AlignedBuf::zeroed).collect(),
        scratch: AlignedBuf::zeroed(scratch),
        input: at(0),
        output,
        result: vec![0.0; output.shape.len()],
        samples: sample_tables(&network.preprocessing),
        half,
    })
}

/// Decides which nodes go together.
fn fuse(network: &ConvNet, shapes: &[Shape], kept: &impl Fn(NodeId) -> bool) -> Fusion {
    let nodes = &network.nodes;
    let mut readers = vec![0usize; nodes.len()];
    nodes.iter().flat_map(|node| &node.inputs).for_each(|&input| readers[input] += 1);
    let free = |id: NodeId| readers[id] == 1 && !kept(id);
    let mut fusion =
        Fusion { feed: vec![None; nodes.len()], product: vec![None; nodes.len()], absorbed: vec![false; nodes.len()] };
    for (id, node) in nodes.iter().enumerate() {
        match &node.op {
            Op::Conv(conv) if is_point(&conv.window) => {
                let source = node.inputs[0];
                if matches!(nodes[source].op, Op::Depthwise(_)) && free(source) {
                    fusion.feed[id] = Some(source);
                    fusion.absorbed[source] = true;
                }
            }
            Op::Add if node.inputs[0] != node.inputs[1] => {
                // The later operand, so that the other one is there when the product is computed.
                let product = node.inputs[0].max(node.inputs[1]);
                let is_conv = matches!(nodes[product].op, Op::Conv(_)) && shapes[product] == shapes[id];
                if is_conv && free(product) {
                    fusion.product[id] = Some(product);
                    fusion.absorbed[product] = true;
                }
            }
            _ => {}
        }
    }
    fusion
}

impl Fusion {
    /// The nodes of the step of node `id`, in order.
    fn members(&self, id: NodeId) -> Vec<NodeId> {
        let product = self.product[id].unwrap_or(id);
        let mut members: Vec<NodeId> = self.feed[product].into_iter().collect();
        members.push(product);
        members.extend(self.product[id].is_some().then_some(id));
        members
    }

    /// The nodes whose tensors the step of node `id` reads.
    fn reads(&self, network: &ConvNet, id: NodeId) -> Vec<NodeId> {
        let source = |id: NodeId| network.nodes[self.feed[id].unwrap_or(id)].inputs.clone();
        match self.product[id] {
            None => source(id),
            Some(product) => {
                let mut reads = source(product);
                reads.extend(network.nodes[id].inputs.iter().copied().filter(|&input| input != product));
                reads
            }
        }
    }
}

/// Gives each tensor that exists a buffer; those that are no longer read hand theirs on. Also the buffers' lengths.
fn place(
    network: &ConvNet,
    shapes: &[Shape],
    fusion: &Fusion,
    kept: &impl Fn(NodeId) -> bool,
) -> (Vec<Option<Tensor>>, Vec<usize>) {
    let count = network.nodes.len();
    let mut last_read = vec![0; count];
    for id in (0..count).filter(|&id| !fusion.absorbed[id]) {
        fusion.reads(network, id).into_iter().for_each(|read| last_read[read] = id);
    }
    let (mut tensors, mut lengths, mut free) = (vec![None; count], Vec::new(), Vec::<usize>::new());
    for id in (0..count).filter(|&id| !fusion.absorbed[id]) {
        let len = Tensor::buffer_len(shapes[id]);
        // The smallest that is large enough, else the largest, which grows.
        let chosen = (0..free.len()).min_by_key(|&i| {
            let there: usize = lengths[free[i]];
            (there < len, there.abs_diff(len))
        });
        let buffer = match chosen {
            Some(i) => free.swap_remove(i),
            None => {
                lengths.push(0);
                lengths.len() - 1
            }
        };
        lengths[buffer] = lengths[buffer].max(len);
        tensors[id] = Some(Tensor { shape: shapes[id], plane: Tensor::plane(shapes[id]), buffer });
        let mut done = fusion.reads(network, id);
        done.sort_unstable();
        done.dedup();
        for read in done {
            // The input keeps its buffer, so that it can be read again.
            if last_read[read] == id && !kept(read) && read != 0 {
                free.extend(tensors[read].map(|tensor: Tensor| tensor.buffer));
            }
        }
        if last_read[id] == 0 && !kept(id) && id != 0 {
            free.push(buffer); // nobody reads it
        }
    }
    (tensors, lengths)
}

fn work(cpu: &Cpu, network: &ConvNet, shapes: &[Shape], fusion: &Fusion, id: NodeId, numbers: Numbers) -> Work {
    let node = &network.nodes[id];
    let input = shapes[node.inputs[0]];
    match &node.op {
        Op::Input(_) => unreachable!("the input is no step"),
        Op::Conv(_) => {
            Work::Conv { layer: Box::new(conv_layer(cpu, network, shapes, fusion, id, numbers)), residual: None }
        }
        Op::Depthwise(depthwise) => Work::Depthwise(depthwise_layer(cpu.isa, depthwise, input, shapes[id])),
        Op::Add => Work::Add,
        Op::Concat => Work::Concat,
        Op::GlobalAveragePool => Work::GlobalAverage,
        Op::AveragePool(window) => Work::Pool(Reduce::Mean, *window),
        Op::MaxPool(window) => Work::Pool(Reduce::Max, *window),
        Op::Softmax => Work::Softmax,
    }
}

fn is_point(window: &Window2d) -> bool {
    window.kernel == [1; 2] && window.stride == [1; 2] && window.padding_at(1, 1) == [0; 4]
}

fn phases(window: &Window2d, input: Shape, output: Shape) -> Phases {
    let [top, _, left, _] = window.padding_at(input.height, input.width);
    Phases::new(window.kernel, window.stride, [top, left], [input.height, input.width], output.width)
}

fn depthwise_layer(isa: Isa, depthwise: &Depthwise, input: Shape, output: Shape) -> PlanarDepthwise {
    let phases = phases(&depthwise.window, input, output);
    PlanarDepthwise::new(isa, &depthwise.weights, &depthwise.bias, depthwise.multiplier, phases)
}

fn conv_layer(
    cpu: &Cpu,
    network: &ConvNet,
    shapes: &[Shape],
    fusion: &Fusion,
    id: NodeId,
    numbers: Numbers,
) -> SparseLayer {
    let node = &network.nodes[id];
    let Op::Conv(conv) = &node.op else { unreachable!("the caller looked") };
    let output = shapes[id];
    let (source, feed) = match fusion.feed[id] {
        Some(depthwise) => {
            let Node { op: Op::Depthwise(layer), inputs, activation, .. } = &network.nodes[depthwise] else {
                unreachable!("only depthwise convolutions feed products");
            };
            let layer = depthwise_layer(cpu.isa, layer, shapes[inputs[0]], shapes[depthwise]);
            (shapes[inputs[0]], Feed::Depthwise(layer, activation.range()))
        }
        None => {
            let input = shapes[node.inputs[0]];
            let window = &conv.window;
            let covers = window.kernel == [input.height, input.width]
                && output.pixels() == 1
                && window.padding_at(input.height, input.width) == [0; 4];
            let feed = match (is_point(window), covers) {
                (true, _) => Feed::Planes { area: 1 },
                (_, true) => Feed::Planes { area: input.pixels() },
                _ => Feed::Phases(phases(window, input, output)),
            };
            (input, feed)
        }
    };
    let size = [output.height, output.width];
    let packed = pack(cpu.isa, conv, numbers);
    // A single pixel would leave most of a tile empty.
    let packed = if numbers == Numbers::Half && output.pixels() > 1 { packed.in_half() } else { packed };
    SparseLayer::new(packed, feed, Tensor::plane(source), size, Tensor::plane(output), cpu.threads())
}

/// Packs the weights in the blocks that they were pruned in, or as the instruction set likes it best where they were not.
fn pack(isa: Isa, conv: &Conv, numbers: Numbers) -> PackedSparse {
    let columns = conv.columns();
    let dense = if numbers == Numbers::Half { HALF_BLOCK } else { default_block(isa) };
    match conv.pattern {
        Pattern::Dense => PackedSparse::pack_dense(isa, &conv.weights, &conv.bias, columns, dense),
        Pattern::Block(block) | Pattern::Kernel(block) => {
            PackedSparse::pack(isa, &conv.weights, &conv.bias, columns, block)
        }
    }
}

pub(in crate::convnet) fn describe(network: &ConvNet, shapes: &[Shape], members: &[NodeId]) -> Layer {
    let mut layer = Layer {
        name: String::new(),
        kind: String::new(),
        input: shapes[network.nodes[members[0]].inputs[0]],
        output: shapes[members[members.len() - 1]],
        macs: 0,
        nonzero_macs: 0,
    };
    for (i, &id) in members.iter().enumerate() {
        let node = &network.nodes[id];
        let side = |window: &Window2d| {
            let stride = if window.stride == [1; 2] { String::new() } else { format!(" /{}", window.stride[0]) };
            format!("{}x{}{stride}", window.kernel[0], window.kernel[1])
        };
        let count = |weights: &[f32]| weights.iter().filter(|&&w| w != 0.0).count() as u64;
        let pixels = shapes[id].pixels() as u64;
        let (kind, macs, nonzero) = match &node.op {
            Op::Input(_) => ("input".into(), 0, 0),
            Op::Conv(conv) => (format!("conv {}", side(&conv.window)), conv.weights.len() as u64, stored(conv)),
            Op::Depthwise(depthwise) => (
                format!("depthwise {}", side(&depthwise.window)),
                depthwise.weights.len() as u64,
                count(&depthwise.weights),
            ),
            Op::Add => ("add".into(), 0, 0),
            Op::Concat => ("concat".into(), 0, 0),
            Op::GlobalAveragePool => ("global average".into(), 0, 0),
            Op::AveragePool(window) => (format!("average {}", side(window)), 0, 0),
            Op::MaxPool(window) => (format!("max {}", side(window)), 0, 0),
            Op::Softmax => ("softmax".into(), 0, 0),
        };
        let plus = if i == 0 { "" } else { " + " };
        layer.name += &format!("{plus}{}", node.name);
        layer.kind += &format!("{plus}{kind}");
        layer.macs += macs * pixels;
        layer.nonzero_macs += nonzero * pixels;
    }
    layer
}

/// Weights that take part: in a pruned convolution those of blocks that are not zero throughout.
fn stored(conv: &Conv) -> u64 {
    match conv.pattern {
        Pattern::Dense => conv.weights.len() as u64,
        _ => conv.weights.iter().filter(|&&w| w != 0.0).count() as u64,
    }
}
