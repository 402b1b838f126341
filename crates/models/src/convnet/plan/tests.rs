//! Plans against the reference, on every instruction set and several numbers of threads.

use super::*;
use crate::convnet::{Activation, Conv, Depthwise, Node, Padding, Pattern, Window2d, reference};
use supple_tensor::kernels::Isa;
use supple_tensor::kernels::testing::noise;

/// A network built node by node.
struct Builder {
    network: ConvNet,
    seed: u64,
}

impl Builder {
    fn new(channels: usize, height: usize, width: usize) -> Builder {
        let network = ConvNet {
            name: "test".into(),
            nodes: Vec::new(),
            preprocessing: Preprocessing::default(),
            labels: Vec::new(),
            quantization: None,
        };
        let mut builder = Builder { network, seed: 1 };
        builder.push(Op::Input(Shape { channels, height, width }), &[], Activation::None);
        builder
    }

    fn push(&mut self, op: Op, inputs: &[NodeId], activation: Activation) -> NodeId {
        let id = self.network.nodes.len();
        self.network.nodes.push(Node { name: format!("node_{id}"), op, inputs: inputs.to_vec(), activation });
        id
    }

    fn noise(&mut self, len: usize) -> Vec<f32> {
        self.seed += 2;
        noise(len, self.seed)
    }

    fn conv(&mut self, input: NodeId, channels: [usize; 2], window: Window2d, pattern: Pattern) -> NodeId {
        let [in_channels, out_channels] = channels;
        let columns = in_channels * window.kernel[0] * window.kernel[1];
        let mut weights = self.noise(out_channels * columns);
        if let Pattern::Block(block) | Pattern::Kernel(block) = pattern {
            let keep = self.noise(out_channels.div_ceil(block) * columns);
            for (i, weight) in weights.iter_mut().enumerate() {
                if keep[i / columns / block * columns + i % columns] < 0.2 {
                    *weight = 0.0;
                }
            }
        }
        let bias = self.noise(out_channels);
        let conv = Conv { out_channels, in_channels, window, weights, bias, pattern };
        self.push(Op::Conv(conv), &[input], Activation::Relu6)
    }

    fn depthwise(&mut self, input: NodeId, channels: usize, multiplier: usize, window: Window2d) -> NodeId {
        let channels = channels * multiplier;
        let weights = self.noise(channels * window.kernel[0] * window.kernel[1]);
        let bias = self.noise(channels);
        let depthwise = Depthwise { channels, multiplier, window, weights, bias };
        self.push(Op::Depthwise(depthwise), &[input], Activation::Relu)
    }

    fn check(&self) {
        let shape = self.network.input_shape().unwrap();
        let input = noise(shape.len(), 99);
        let wanted = reference::run_all(&self.network, &input).unwrap();
        let all: Vec<NodeId> = (0..wanted.len()).collect();
        for isa in Isa::available() {
            for threads in [1, 2, 5] {
                let cpu = Cpu::new(isa, threads);
                let mut fast = Plan::fast(&cpu, &self.network).unwrap();
                let tolerance = if fast.is_half() { 0.01 } else { EXACT };
                let found = fast.run(&input).unwrap();
                agree(found, &wanted[wanted.len() - 1], tolerance, &format!("fast, {isa}, {threads} threads"));
                for keep in [&[][..], &all] {
                    let mut plan = Plan::keeping(&cpu, &self.network, keep).unwrap();
                    for _ in 0..2 {
                        let found = plan.run(&input).unwrap().to_vec();
                        agree(&found, &wanted[wanted.len() - 1], EXACT, &format!("{isa}, {threads} threads"));
                    }
                    for &id in keep {
                        let what = format!("{isa}, {threads} threads, node {id}");
                        agree(&plan.tensor(id).unwrap(), &wanted[id], EXACT, &what);
                    }
                }
            }
        }
    }
}

/// By how much numbers in f32 may be off, in parts of the largest.
const EXACT: f64 = 1e-5;

fn agree(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        // Written so that NaN fails.
        assert!((f64::from(f) - w).abs() <= tolerance * scale, "{what}: at {i} found {f}, wanted {w}");
    }
}

#[test]
fn a_mobile_chain_equals_the_reference() {
    for (height, width) in [(33, 29), (64, 64)] {
        for pattern in [Pattern::Dense, Pattern::Block(4), Pattern::Block(8), Pattern::Block(1), Pattern::Block(16)] {
            let mut net = Builder::new(3, height, width);
            let x = net.conv(0, [3, 13], Window2d::square(3, 2, Padding::Same), Pattern::Dense);
            let x = net.depthwise(x, 13, 1, Window2d::square(3, 1, Padding::Same));
            let x = net.conv(x, [13, 40], Window2d::POINT, pattern);
            let x = net.depthwise(x, 40, 1, Window2d::square(3, 2, Padding::Explicit([1; 4])));
            let x = net.conv(x, [40, 37], Window2d::POINT, pattern);
            let x = net.depthwise(x, 37, 1, Window2d::square(5, 2, Padding::Same));
            let x = net.conv(x, [37, 24], Window2d::POINT, pattern);
            let x = net.push(Op::GlobalAveragePool, &[x], Activation::None);
            let x = net.conv(x, [24, 11], Window2d::POINT, Pattern::Dense);
            net.push(Op::Softmax, &[x], Activation::None);
            net.check();
        }
    }
}

#[test]
fn residuals_branches_and_pools_equal_the_reference() {
    let mut net = Builder::new(2, 18, 22);
    let same = |kernel, stride| Window2d::square(kernel, stride, Padding::Same);
    let a = net.conv(0, [2, 8], same(3, 1), Pattern::Kernel(4));
    let wide = net.conv(a, [8, 24], Window2d::POINT, Pattern::Block(4));
    let deep = net.depthwise(wide, 24, 1, same(3, 1));
    let back = net.conv(deep, [24, 8], Window2d::POINT, Pattern::Block(2));
    let sum = net.push(Op::Add, &[a, back], Activation::Relu); // a product with its residual
    let twice = net.push(Op::Add, &[sum, sum], Activation::None);
    let skip = net.conv(twice, [8, 12], Window2d::square(1, 2, Padding::Explicit([0; 4])), Pattern::Dense);
    let main = net.conv(twice, [8, 12], same(3, 2), Pattern::Dense);
    let both = net.push(Op::Add, &[main, skip], Activation::Relu6); // the later operand is not a point convolution
    let doubled = net.depthwise(both, 12, 2, same(3, 1)); // two readers
    let one = net.conv(doubled, [24, 5], Window2d::POINT, Pattern::Dense);
    let pooled = net.push(Op::MaxPool(same(3, 1)), &[doubled], Activation::None);
    let mean = net.push(Op::AveragePool(same(3, 1)), &[one], Activation::Relu);
    let joined = net.push(Op::Concat, &[pooled, mean, one], Activation::None);
    let whole = Window2d { kernel: [9, 11], ..Window2d::POINT };
    net.conv(joined, [34, 7], whole, Pattern::Dense); // fully connected
    net.check();
}

#[test]
fn a_single_depthwise_or_input_is_a_network_too() {
    let mut net = Builder::new(5, 9, 9);
    net.depthwise(0, 5, 1, Window2d::square(3, 1, Padding::Same));
    net.check();
    let net = Builder::new(5, 9, 9);
    net.check();
}

#[test]
fn bytes_are_normalised_like_floats() {
    let mut net = Builder::new(3, 10, 12);
    net.conv(0, [3, 4], Window2d::square(3, 2, Padding::Same), Pattern::Dense);
    let rgb: Vec<u8> = (0..360).map(|i| (i * 97 % 256) as u8).collect();
    let planar: Vec<f32> = (0..360).map(|i| (f32::from(rgb[i % 120 * 3 + i / 120]) / 255.0 - 0.5) / 0.5).collect();
    let mut plan = Plan::new(&Cpu::new(Isa::detect(), 1), &net.network).unwrap();
    let from_floats = plan.run(&planar).unwrap().to_vec();
    assert_eq!(plan.run_rgb(&rgb).unwrap(), from_floats);
    assert!(matches!(plan.run(&planar[1..]), Err(Error::WrongInput { found: 359, .. })));
    assert!(matches!(plan.run_rgb(&rgb[1..]), Err(Error::WrongInput { .. })));
}

#[test]
fn fast_is_half_precision_where_the_cpu_computes_in_it() {
    let mut net = Builder::new(3, 10, 12);
    net.conv(0, [3, 8], Window2d::square(3, 2, Padding::Same), Pattern::Dense);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 1);
        assert_eq!(Plan::fast(&cpu, &net.network).unwrap().is_half(), isa == Isa::Neon && has_fp16(), "{isa}");
        assert!(!Plan::new(&cpu, &net.network).unwrap().is_half());
    }
}

#[test]
fn impossible_networks_are_refused() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let good = || {
        let mut net = Builder::new(3, 10, 12);
        net.conv(0, [3, 4], Window2d::square(3, 2, Padding::Same), Pattern::Dense);
        net.network
    };
    assert!(Plan::new(&cpu, &good()).is_ok());
    let spoil: [fn(&mut ConvNet); 8] = [
        |net| net.nodes.clear(),
        |net| net.nodes[1].inputs = vec![1],
        |net| net.nodes[1].inputs.clear(),
        |net| net.nodes[0].op = Op::Input(Shape { channels: 3, height: 0, width: 4 }),
        |net| net.nodes[0].op = Op::Input(Shape { channels: 3, height: usize::MAX, width: usize::MAX }),
        |net| conv_of(net).weights[5] = f32::NAN,
        |net| conv_of(net).window.stride = [0, 1],
        |net| conv_of(net).bias.push(1.0),
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut net = good();
        spoil(&mut net);
        assert!(matches!(Plan::new(&cpu, &net), Err(Error::BadNetwork { .. })), "case {i}");
    }
}

fn conv_of(net: &mut ConvNet) -> &mut Conv {
    match &mut net.nodes[1].op {
        Op::Conv(conv) => conv,
        _ => unreachable!("the second node is a convolution"),
    }
}
