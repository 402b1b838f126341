//! Plans in integers against plain arithmetic, against real numbers, and against TensorFlow Lite's output.

use super::super::{
    Activation, Calibration, Conv, ConvNet, Depthwise, Node, Op, Padding, Pattern, Plan, PlanI8, Preprocessing, Shape,
    Window2d, quantize,
};
use crate::Error;
use std::time::{Duration, Instant};
use supple_tensor::{Cpu, Isa};

/// `len` values in −1..1 that look random.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    supple_tensor::kernels::testing::noise(len, seed)
}

/// Bytes of a linear congruential generator: what the Python scripts that made the expected results fed to TensorFlow Lite.
fn picture(len: usize) -> Vec<u8> {
    let mut state = 12345u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// A network that is put together node by node.
struct Net(ConvNet);

impl Net {
    fn new(shape: Shape) -> Net {
        let node = Node { name: "input".into(), op: Op::Input(shape), inputs: vec![], activation: Activation::None };
        Net(ConvNet {
            name: "test".into(),
            nodes: vec![node],
            preprocessing: Preprocessing::default(),
            labels: vec![],
            quantization: None,
        })
    }

    fn last(&self) -> usize {
        self.0.nodes.len() - 1
    }

    fn channels(&self, id: usize) -> usize {
        self.0.shapes().unwrap()[id].channels
    }

    fn push(&mut self, op: Op, inputs: Vec<usize>, activation: Activation) -> usize {
        let name = format!("node_{}", self.0.nodes.len());
        self.0.nodes.push(Node { name, op, inputs, activation });
        self.last()
    }

    fn conv(&mut self, input: usize, out_channels: usize, window: Window2d, activation: Activation) -> usize {
        let in_channels = self.channels(input);
        let columns = in_channels * window.kernel[0] * window.kernel[1];
        let seed = self.0.nodes.len() as u64;
        let gain = (3.0 / columns as f32).sqrt() * 1.4;
        let weights = noise(out_channels * columns, seed).iter().map(|w| w * gain).collect();
        let bias = noise(out_channels, seed + 1000).iter().map(|b| b * 0.2).collect();
        let conv = Conv { out_channels, in_channels, window, weights, bias, pattern: Pattern::Dense };
        self.push(Op::Conv(conv), vec![input], activation)
    }

    fn depthwise(&mut self, input: usize, multiplier: usize, window: Window2d, activation: Activation) -> usize {
        let channels = self.channels(input) * multiplier;
        let area = window.kernel[0] * window.kernel[1];
        let seed = self.0.nodes.len() as u64;
        let weights = noise(channels * area, seed).iter().map(|w| w * 0.8).collect();
        let bias = noise(channels, seed + 1000).iter().map(|b| b * 0.2).collect();
        let depthwise = Depthwise { channels, multiplier, window, weights, bias };
        self.push(Op::Depthwise(depthwise), vec![input], activation)
    }
}

fn same(kernel: usize, stride: usize) -> Window2d {
    Window2d::square(kernel, stride, Padding::Same)
}

/// Every operator, with channel counts that are no multiples of four.
fn all_operators() -> ConvNet {
    let mut net = Net::new(Shape { channels: 3, height: 21, width: 18 });
    let a = net.conv(0, 13, same(3, 2), Activation::Relu6);
    let b = net.depthwise(a, 1, same(3, 1), Activation::Relu6);
    let c = net.conv(b, 13, Window2d::POINT, Activation::None);
    let d = net.push(Op::Add, vec![a, c], Activation::Relu);
    let e = net.depthwise(d, 2, same(5, 2), Activation::Relu);
    let f = net.push(Op::MaxPool(same(3, 2)), vec![d], Activation::None);
    let g = net.push(Op::Concat, vec![e, f], Activation::None);
    let h = net.push(Op::AveragePool(same(2, 1)), vec![g], Activation::None);
    let i = net.conv(h, 20, Window2d::POINT, Activation::Relu);
    let j = net.push(Op::GlobalAveragePool, vec![i], Activation::None);
    let k = net.conv(j, 10, Window2d::POINT, Activation::None);
    net.push(Op::Softmax, vec![k], Activation::None);
    net.0
}

/// MobileNet-v1 of width 1, with random weights.
fn mobilenet(sides: usize) -> ConvNet {
    let mut net = Net::new(Shape { channels: 3, height: sides, width: sides });
    let mut last = net.conv(0, 32, same(3, 2), Activation::Relu6);
    let blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
    let blocks = blocks.into_iter().chain([(512, 1); 5]).chain([(1024, 2), (1024, 1)]);
    for (channels, stride) in blocks {
        last = net.depthwise(last, 1, same(3, stride), Activation::Relu6);
        last = net.conv(last, channels, Window2d::POINT, Activation::Relu6);
    }
    last = net.push(Op::GlobalAveragePool, vec![last], Activation::None);
    last = net.conv(last, 1001, Window2d::POINT, Activation::None);
    net.push(Op::Softmax, vec![last], Activation::None);
    net.0
}

/// Zeroes blocks of `block` outputs by `block_in` inputs of the 1×1 convolutions, `sparsity` in a hundred.
fn prune(network: &mut ConvNet, block: usize, block_in: usize, sparsity: usize) {
    for node in &mut network.nodes {
        let Op::Conv(conv) = &mut node.op else { continue };
        if conv.window.kernel != [1; 2] {
            continue;
        }
        conv.pattern = Pattern::Block(block);
        let across = conv.in_channels.div_ceil(block_in);
        let dice = noise(conv.out_channels.div_ceil(block) * across, conv.in_channels as u64);
        for (i, weight) in conv.weights.iter_mut().enumerate() {
            let (o, i) = (i / conv.in_channels / block, i % conv.in_channels / block_in);
            if (dice[o * across + i] + 1.0) * 50.0 < sparsity as f32 {
                *weight = 0.0;
            }
        }
    }
}

fn inputs(network: &ConvNet, count: usize) -> Vec<Vec<f32>> {
    let len = network.input_shape().unwrap().len();
    (0..count).map(|i| noise(len, 77 + i as u64)).collect()
}

#[test]
fn integers_are_near_real_numbers_for_every_operator() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let network = all_operators();
    for (calibration, least) in [(Calibration::MinMax, 28.0), (Calibration::Percentile(1e-4), 20.0)] {
        let quantised = quantize(&cpu, &network, &inputs(&network, 8), calibration).unwrap();
        assert!(quantised.snr_db > least, "{calibration:?}: {} dB", quantised.snr_db);
        let mut plan = PlanI8::new(&cpu, &quantised.network).unwrap();
        let mut real = Plan::new(&cpu, &network).unwrap();
        let input = &inputs(&network, 1)[0];
        let (found, wanted) = (plan.run(input).unwrap(), real.run(input).unwrap());
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() < 0.03, "{found} for {wanted}");
        }
    }
}

#[test]
fn results_do_not_depend_on_instructions_threads_or_fusion() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let network = all_operators();
    let quantised = quantize(&cpu, &network, &inputs(&network, 4), Calibration::MinMax).unwrap().network;
    let samples = picture(network.input_shape().unwrap().len());
    let mut wanted: Option<Vec<u8>> = None;
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            for keep in [vec![], (0..network.nodes.len() - 1).collect()] {
                let mut plan = PlanI8::keeping(&Cpu::new(isa, threads), &quantised, &keep).unwrap();
                plan.run_u8(&samples).unwrap();
                let wanted = wanted.get_or_insert_with(|| plan.integers().to_vec());
                assert_eq!(plan.integers(), &wanted[..], "{isa}, {threads} threads, {} kept", keep.len());
                // Again, over whatever the first run has left.
                plan.run_u8(&samples).unwrap();
                assert_eq!(plan.integers(), &wanted[..], "{isa}, second run");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_layers_are_described() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let mut network = all_operators();
    prune(&mut network, 4, 4, 50);
    let quantised = quantize(&cpu, &network, &inputs(&network, 2), Calibration::MinMax).unwrap().network;
    for (before, after) in network.nodes.iter().zip(&quantised.nodes) {
        if let (Op::Conv(before), Op::Conv(after)) = (&before.op, &after.op) {
            assert!(before.weights.iter().zip(&after.weights).all(|(b, a)| *b != 0.0 || *a == 0.0));
        }
    }
    let mut plan = PlanI8::new(&cpu, &quantised).unwrap();
    let names: Vec<&str> = plan.layers().iter().map(|layer| layer.kind.as_str()).collect();
    assert!(names.contains(&"depthwise 3x3 + conv 1x1") && names.contains(&"softmax"), "{names:?}");
    assert!(plan.layers().iter().any(|layer| layer.sparsity() > 0.2));
    let mut times = vec![Duration::ZERO; plan.layers().len()];
    plan.run_timed(&inputs(&network, 1)[0], &mut times).unwrap();
    assert!(times.iter().any(|time| !time.is_zero()));
}

#[test]
fn what_cannot_be_run_is_an_error() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let network = all_operators();
    assert!(matches!(PlanI8::new(&cpu, &network), Err(Error::BadNetwork { .. })));
    assert!(matches!(quantize(&cpu, &network, &[], Calibration::MinMax), Err(Error::BadNetwork { .. })));
    assert!(matches!(quantize(&cpu, &network, &[vec![0.0; 5]], Calibration::MinMax), Err(Error::WrongInput { .. })));
    let good = quantize(&cpu, &network, &inputs(&network, 1), Calibration::MinMax).unwrap().network;
    let mut plan = PlanI8::new(&cpu, &good).unwrap();
    assert!(matches!(plan.run_u8(&[0; 7]), Err(Error::WrongInput { .. })));
    assert!(matches!(plan.run_rgb(&[]), Err(Error::WrongInput { .. })));
    assert!(matches!(plan.run(&[0.0]), Err(Error::WrongInput { .. })));
    // NaN is some integer, and the result finite.
    let nan = vec![f32::NAN; network.input_shape().unwrap().len()];
    assert!(plan.run(&nan).unwrap().iter().all(|value| value.is_finite()));

    let mut missing = good.clone();
    missing.quantization.as_mut().unwrap().nodes[3].output = None;
    assert!(matches!(PlanI8::new(&cpu, &missing), Err(Error::BadNetwork { .. })));
    let mut huge = good.clone();
    huge.quantization.as_mut().unwrap().nodes[1].weights.as_mut().unwrap().bias[0] = i32::MAX;
    if let Op::Conv(conv) = &mut huge.nodes[1].op {
        conv.bias[0] = 1e30;
    }
    assert!(matches!(PlanI8::new(&cpu, &huge), Err(Error::BadNetwork { .. })));
    let mut rescaled = good;
    let pool = rescaled.nodes.iter().position(|node| matches!(node.op, Op::AveragePool(_))).unwrap();
    rescaled.quantization.as_mut().unwrap().nodes[pool].output.as_mut().unwrap().scale *= 2.0;
    assert!(matches!(PlanI8::new(&cpu, &rescaled), Err(Error::BadNetwork { .. })));
}

/// FNV-1a of bytes.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Sizes, hashes: what TensorFlow Lite's reference kernels (ai-edge-litert 2.3.0, `BUILTIN_REF`, all tensors preserved) give for
/// the last tensor before a softmax on [`picture`], as unsigned bytes (signed ones plus 128).
#[test]
fn integers_are_those_of_tensorflow_lite() {
    let Ok(data) = std::env::var("SUPPLE_DATA") else {
        println!("skipped: SUPPLE_DATA is not set");
        return;
    };
    let wanted = [
        ("vww_96_int8.tflite", 2, 0xa92da07b6f04598),
        ("mobilenet_v1_0.25_128_quant.tflite", 1001, 0xd61f348cb9705922),
        ("mobilenet_v1_1.0_224_quant_embedding_extractor.tflite", 1024, 0x66fa06dd2f1a6f03),
        ("pretrainedResnet_quant.tflite", 10, 0x91e8e4e3364f9122),
        ("mobilenet_quant_v1_224_head_layers.tflite", 1001, 0x3db89e5790e0e43b),
    ];
    for (file, len, expected) in wanted {
        let network = ConvNet::open(&std::path::Path::new(&data).join("vision").join(file)).unwrap();
        for isa in Isa::available() {
            let mut plan = PlanI8::new(&Cpu::new(isa, 1), &network).unwrap();
            plan.run_u8(&picture(network.input_shape().unwrap().len())).unwrap();
            let found = plan.integers();
            assert_eq!(
                (found.len(), hash(found)),
                (len, expected),
                "{file}, {isa}: {:?}",
                &found[..found.len().min(16)]
            );
        }
    }
}

/// Times of MobileNet-v1 in `f32` and in integers. Run it alone:
/// `cargo test --release -p supple-models --lib plan_i8 -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_mobilenet() {
    let isa = Isa::from_env().unwrap();
    let cpu = Cpu::new(isa, 1);
    let peak = supple_tensor::kernels::peak::fma_gflops(isa, &cpu.pool);
    println!("{isa}: f32 peak {peak:.0} GFLOP/s on one thread");
    for sparsity in [0, 30, 50, 70] {
        let mut network = mobilenet(224);
        let (mut real_network, gmacs) = (network.clone(), 0.5687);
        if sparsity > 0 {
            prune(&mut network, 4, 4, sparsity);
            prune(&mut real_network, supple_tensor::kernels::sparse_conv::default_block(isa), 1, sparsity);
        }
        let quantised = quantize(&cpu, &network, &inputs(&network, 2), Calibration::MinMax).unwrap();
        let mut integer = PlanI8::new(&cpu, &quantised.network).unwrap();
        let mut real = Plan::new(&cpu, &real_network).unwrap();
        let samples = picture(network.input_shape().unwrap().len());
        let input = &inputs(&network, 1)[0];
        // The sum of each layer's best time: what other processes take shows least in it.
        let mut times = vec![Duration::MAX; integer.layers().len()];
        let mut real_times = vec![Duration::MAX; real.layers().len()];
        let (mut whole, mut whole_real) = (Duration::MAX, Duration::MAX);
        for _ in 0..60 {
            let began = Instant::now();
            integer.run_u8(&samples).unwrap();
            whole = whole.min(began.elapsed());
            let began = Instant::now();
            real.run(input).unwrap();
            whole_real = whole_real.min(began.elapsed());
            let mut now = vec![Duration::ZERO; times.len()];
            integer.run_timed(input, &mut now).unwrap();
            times.iter_mut().zip(now).for_each(|(best, now)| *best = (*best).min(now));
            let mut now = vec![Duration::ZERO; real_times.len()];
            real.run_timed(input, &mut now).unwrap();
            real_times.iter_mut().zip(now).for_each(|(best, now)| *best = (*best).min(now));
        }
        let (sum, sum_real): (Duration, Duration) = (times.iter().sum(), real_times.iter().sum());
        println!(
            "{sparsity:2} % sparse: int8 {sum:.2?} ({:.0} GOP/s; whole {whole:.2?}), f32 {sum_real:.2?} (whole {whole_real:.2?}), {:.1} dB",
            2.0 * gmacs / sum.as_secs_f64(),
            quantised.snr_db
        );
        for (layer, time) in integer.layers().iter().zip(&times) {
            let rate = 2e-9 * layer.nonzero_macs as f64 / time.as_secs_f64();
            println!("    {time:9.1?} {rate:6.0} GOP/s  {} {} -> {}", layer.kind, layer.input, layer.output);
        }
    }
}
