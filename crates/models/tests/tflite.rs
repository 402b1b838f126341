//! TFLite networks against TensorFlow Lite's interpreter.
//!
//! The files in `tests/tflite/` are written by `generate.py`, with the interpreter's results beside them. Published networks are
//! read from the folder `vision` of `SUPPLE_DATA`; without it those tests are skipped.

use std::path::{Path, PathBuf};

use supple_models::Error;
use supple_models::convnet::{Activation, ConvNet, Op, Storage, reference};
use supple_weights::tflite::Model;

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tflite").join(file)
}

fn published(file: &str) -> Option<PathBuf> {
    let Some(data) = std::env::var_os("SUPPLE_DATA") else {
        println!("skipped: SUPPLE_DATA is not set");
        return None;
    };
    Some(Path::new(&data).join("vision").join(file))
}

/// `[height][width][channels]` to planes.
fn planes(network: &ConvNet, interleaved: &[f32]) -> Vec<f32> {
    let shape = network.input_shape().unwrap();
    assert_eq!(interleaved.len(), shape.len());
    let at = |i: usize| interleaved[i % shape.pixels() * shape.channels + i / shape.pixels()];
    (0..interleaved.len()).map(at).collect()
}

/// What the network makes of the input beside it, and what the interpreter made of it.
fn both(name: &str) -> (ConvNet, Vec<f64>, Vec<f64>) {
    let network = ConvNet::open(&here(&format!("{name}.tflite"))).unwrap();
    let golden = std::fs::read_to_string(here(&format!("{name}.json"))).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        golden[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let input: Vec<f32> = numbers("input").into_iter().map(|value| value as f32).collect();
    let found = reference::run(&network, &planes(&network, &input)).unwrap();
    (network, found, numbers("output"))
}

fn largest_difference(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn floating_point_is_exact() {
    for name in ["everything", "halves"] {
        let (network, found, wanted) = both(name);
        let difference = largest_difference(&found, &wanted);
        assert!(difference < 1e-5, "{name}: {difference}");
        assert!(wanted.iter().any(|value| value.abs() > 0.01), "{name}: a result of zeros would show nothing");
        assert!(network.quantization.is_none());
    }
}

#[test]
fn activations_stay_where_their_input_is_read_twice() {
    let (network, ..) = both("everything");
    let node = |name: &str| network.nodes.iter().find(|node| node.name == name).unwrap();
    assert_eq!(node("first").activation, Activation::None);
    assert!(matches!(node("active").op, Op::MaxPool(_)));
    assert_eq!(node("again").activation, Activation::Relu6, "it is read once, by the activation alone");
}

#[test]
fn integers_are_near_and_can_be_had_back() {
    let (network, found, wanted) = both("per_channel");
    let quantization = network.quantization.as_ref().unwrap();
    let step = f64::from(quantization.nodes.last().unwrap().output.unwrap().scale);
    let difference = largest_difference(&found, &wanted);
    assert!(difference < 2.0 * step, "{difference} with steps of {step}");

    let model = Model::open(&here("per_channel.tflite")).unwrap();
    let convolutions: Vec<usize> =
        (0..network.nodes.len()).filter(|&id| quantization.nodes[id].weights.is_some()).collect();
    assert_eq!(convolutions.len(), 3);
    let operators = model.subgraphs[0].operators.iter().filter(|operator| operator.name.contains("CONV_2D"));
    for (&id, operator) in convolutions.iter().zip(operators) {
        let layer = quantization.layer(&network, id).unwrap();
        let tensor = |i: usize| &model.subgraphs[0].tensors[operator.inputs[i].unwrap()];
        let mut stored: Vec<i16> =
            model.data(tensor(1)).unwrap().unwrap().iter().map(|&byte| i16::from(byte as i8)).collect();
        let mut weights = layer.weights.clone();
        // The order differs.
        stored.sort_unstable();
        weights.sort_unstable();
        assert_eq!(weights, stored);
        let bias: Vec<i64> = layer.bias.iter().map(|&bias| bias.into()).collect();
        assert_eq!(Some(bias), model.integers(tensor(2)).unwrap());
        assert_eq!(layer.multiplier.len(), layer.bias.len());
    }
}

/// The network computed in integers, as `quantization.rs` explains, gives what the interpreter gives.
#[test]
fn the_description_of_integers_is_complete() {
    let (network, _, wanted) = both("per_channel");
    let quantization = network.quantization.as_ref().unwrap();
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(here("per_channel.json")).unwrap()).unwrap();
    let input: Vec<f32> =
        golden["input"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    let shapes = network.shapes().unwrap();
    // The reference runs integers as real numbers, which is exact, one node at a time; results are requantised between nodes.
    let output = |id: usize| quantization.nodes[id].output.unwrap();
    let clamp = |id: usize, q: f64| {
        let (low, high) = output(id).dtype.range();
        let (lowest, highest) = network.nodes[id].activation.range();
        let at = |real: f32| (f64::from(real) / f64::from(output(id).scale)).round() + f64::from(output(id).zero_point);
        q.clamp(f64::from(low).max(at(lowest)), f64::from(high).min(at(highest)))
    };
    let first: Vec<f64> = planes(&network, &input)
        .iter()
        .map(|&x| clamp(0, (x / output(0).scale).round() as f64 + f64::from(output(0).zero_point)))
        .collect();
    let mut tensors = vec![first];
    for id in 1..network.nodes.len() {
        let node = &network.nodes[id];
        let source = node.inputs[0];
        let centred: Vec<f32> =
            tensors[source].iter().map(|&q| (q - f64::from(output(source).zero_point)) as f32).collect();
        let mut one = network.clone();
        one.quantization = None;
        let mut alone = node.clone();
        alone.inputs = vec![0];
        alone.activation = Activation::None;
        let ratio = f64::from(output(source).scale) / f64::from(output(id).scale);
        let factors = if quantization.nodes[id].weights.is_some() {
            let layer = quantization.layer(&network, id).unwrap();
            let zero = quantization.nodes[id].weights.as_ref().unwrap();
            let columns = layer.weights.len() / layer.bias.len();
            let centred = |i: usize| f32::from(layer.weights[i]) - zero.zero_point_of(i / columns) as f32;
            let weights: Vec<f32> = (0..layer.weights.len()).map(centred).collect();
            let bias: Vec<f32> = layer.bias.iter().map(|&bias| bias as f32).collect();
            match &mut alone.op {
                Op::Conv(conv) => (conv.weights, conv.bias) = (weights, bias),
                Op::Depthwise(depthwise) => (depthwise.weights, depthwise.bias) = (weights, bias),
                _ => unreachable!(),
            }
            layer.multiplier
        } else {
            vec![ratio; shapes[id].channels]
        };
        let mut start = network.nodes[0].clone();
        start.op = Op::Input(shapes[source]);
        one.nodes = vec![start, alone];
        let sums = reference::run(&one, &centred).unwrap();
        let zero = f64::from(output(id).zero_point);
        let requantised = sums.iter().enumerate().map(|(i, sum)| {
            let scaled = sum * factors[i / shapes[id].pixels()];
            clamp(id, scaled.round() + zero)
        });
        tensors.push(requantised.collect());
    }
    let last = network.nodes.len() - 1;
    let found: Vec<f64> = tensors[last]
        .iter()
        .map(|q| (q - f64::from(output(last).zero_point)) * f64::from(output(last).scale))
        .collect();
    let difference = largest_difference(&found, &wanted);
    assert!(difference < 1e-5, "{found:?} {wanted:?}");
}

#[test]
fn weights_between_the_steps_are_refused() {
    let (mut network, ..) = both("per_channel");
    let quantization = network.quantization.clone().unwrap();
    let id = network.convs().next().unwrap().0;
    let Op::Conv(conv) = &mut network.nodes[id].op else { unreachable!() };
    conv.weights[3] = 0.0;
    quantization.layer(&network, id).expect("zero is a step");
    let Op::Conv(conv) = &mut network.nodes[id].op else { unreachable!() };
    conv.weights[3] = 1e-6;
    assert!(quantization.layer(&network, id).unwrap_err().to_string().contains("none of its quantisation's"));
}

#[test]
fn unsupported_operators_are_named() {
    let error = ConvNet::open(&here("unsupported.tflite")).unwrap_err();
    assert!(matches!(&error, Error::UnsupportedOperator { operator, .. } if operator == "HARD_SWISH"), "{error}");
}

#[test]
fn damaged_files_are_errors() {
    for name in ["everything", "halves", "per_channel", "unsupported"] {
        let good = std::fs::read(here(&format!("{name}.tflite"))).unwrap();
        for length in (0..good.len()).step_by(7) {
            let _ = ConvNet::from_bytes("cut", good[..length].to_vec());
        }
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for _ in 0..3000 {
            let mut bytes = good.clone();
            for _ in 0..=random() % 3 {
                let at = random() % bytes.len();
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random() as u8][random() % 6];
            }
            if let Ok(network) = ConvNet::from_bytes("mutated", bytes) {
                network.shapes().expect("a network that was read is consistent");
            }
        }
    }
}

#[test]
fn saving_keeps_the_integers() {
    let (network, ..) = both("per_channel");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    network.save(&path, Storage::F32).unwrap();
    let back = ConvNet::open(&path).unwrap();
    assert_eq!(back.quantization, network.quantization);
    for (id, _) in network.convs() {
        let layer = |network: &ConvNet| network.quantization.as_ref().unwrap().layer(network, id).unwrap();
        assert_eq!(layer(&back), layer(&network));
    }
}

/// A picture of smooth waves, in steps of the input's quantisation or of 1/255.
fn waves(network: &ConvNet) -> Vec<f32> {
    let shape = network.input_shape().unwrap();
    let preprocessing = network.preprocessing;
    let sample = |i: usize| {
        let (c, y, x) = (i / shape.pixels(), i % shape.pixels() / shape.width, i % shape.width);
        let wave = (y * 7 + c * 40) as f32 / shape.height as f32 + (x * 5) as f32 / shape.width as f32;
        let value = ((wave.sin() * 0.5 + 0.5) * 255.0).round();
        (value / 255.0 - preprocessing.mean[c]) / preprocessing.deviation[c]
    };
    (0..shape.len()).map(sample).collect()
}

#[test]
fn published_networks_are_read() {
    let files = [
        ("pretrainedResnet.tflite", "3x32x32", 10, 77_706, false),
        ("pretrainedResnet_quant.tflite", "3x32x32", 10, 77_706, true),
        ("vww_96_float.tflite", "3x96x96", 2, 210_850, false),
        ("vww_96_int8.tflite", "3x96x96", 2, 210_850, true),
        ("mobilenet_v1_0.25_128_quant.tflite", "3x128x128", 1001, 467_593, true),
    ];
    for (file, input, outputs, parameters, quantised) in files {
        let Some(path) = published(file) else { return };
        let network = ConvNet::open(&path).unwrap();
        let shapes = network.shapes().unwrap();
        assert_eq!(shapes[0].to_string(), input, "{file}");
        assert_eq!(shapes.last().unwrap().len(), outputs, "{file}");
        assert_eq!(network.parameters(), parameters, "{file}");
        let Some(quantization) = &network.quantization else {
            assert!(!quantised, "{file}");
            continue;
        };
        for (id, node) in network.nodes.iter().enumerate() {
            if let Op::Conv(_) | Op::Depthwise(_) = node.op {
                let layer = quantization.layer(&network, id).unwrap();
                assert_eq!(layer.bias, quantization.nodes[id].weights.as_ref().unwrap().bias);
            }
        }
        let result = reference::run(&network, &waves(&network)).unwrap();
        assert!((result.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{file}");
    }
}

#[test]
fn two_halves_make_one_network() {
    let Some(body) = published("mobilenet_v1_1.0_224_quant_embedding_extractor.tflite") else { return };
    let Some(head) = published("mobilenet_quant_v1_224_head_layers.tflite") else { return };
    let network = ConvNet::open_joined(&body, &head).unwrap();
    assert_eq!(network.parameters(), 4_222_057);
    assert_eq!(network.shapes().unwrap().last().unwrap().len(), 1001);
    network.quantization.as_ref().unwrap().check(&network).unwrap();

    let error = ConvNet::open_joined(&head, &body).unwrap_err().to_string();
    assert!(error.contains("the first gives 1001x1x1 and the second takes 3x224x224"), "{error}");
    let (body, mut other) = (ConvNet::open(&body).unwrap(), ConvNet::open(&head).unwrap());
    other.quantization.as_mut().unwrap().nodes[0].output.as_mut().unwrap().scale *= 1.01;
    let error = ConvNet::join(body, other).unwrap_err().to_string();
    assert!(error.contains("scale"), "{error}");
}
