//! What is written is read again; what lies is refused.

use super::*;
use crate::mobilenet::{Config, v1_random};

/// A small network whose pointwise convolutions have this pattern and share of zeros.
fn network(pattern: Pattern, sparsity: f64) -> ConvNet {
    let config = Config { width: 0.25, resolution: 32, classes: 10 };
    let mut network = v1_random(config, 3).unwrap();
    network.labels = (0..10).map(|i| format!("label \"{i}\" ü")).collect();
    network.preprocessing = Preprocessing { mean: [0.1, 0.2, 0.3], deviation: [0.5, 1.0, 2.0], crop: 0.9 };
    for node in &mut network.nodes {
        let Op::Conv(conv) = &mut node.op else { continue };
        conv.pattern = pattern;
        let (Pattern::Block(rows) | Pattern::Kernel(rows)) = pattern else { continue };
        let area = conv.window.kernel[0] * conv.window.kernel[1];
        let columns = conv.columns();
        for (i, weight) in conv.weights.iter_mut().enumerate() {
            let (group, mut column) = (i / columns / rows, i % columns);
            if matches!(pattern, Pattern::Kernel(_)) {
                column /= area;
            }
            let chance = (group * 7919 + column * 104_729) % 1000;
            if (chance as f64) < sparsity * 1000.0 {
                *weight = 0.0;
            }
        }
    }
    network
}

fn saved(network: &ConvNet, storage: Storage) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    network.save(&path, storage).unwrap();
    std::fs::read(path).unwrap()
}

fn loaded(bytes: Vec<u8>) -> Result<ConvNet, Error> {
    ConvNet::load(&Weights::from_bytes("test", bytes)?)
}

fn weights(network: &ConvNet) -> Vec<f32> {
    let of = |node: &Node| match &node.op {
        Op::Conv(conv) => [&conv.weights[..], &conv.bias].concat(),
        Op::Depthwise(depthwise) => [&depthwise.weights[..], &depthwise.bias].concat(),
        _ => Vec::new(),
    };
    network.nodes.iter().flat_map(of).collect()
}

#[test]
fn networks_come_back_as_they_were() {
    // 10 classes are no multiple of 4 or 8, and so the last group of the classifier is short.
    for pattern in [Pattern::Dense, Pattern::Block(4), Pattern::Block(8), Pattern::Kernel(4), Pattern::Block(1)] {
        for sparsity in [0.0, 0.3, 0.9, 1.0] {
            let network = network(pattern, sparsity);
            let bytes = saved(&network, Storage::F32);
            let back = loaded(bytes.clone()).unwrap();
            assert_eq!(weights(&back), weights(&network), "{pattern:?} {sparsity}");
            assert_eq!(back.name, network.name);
            assert_eq!(back.labels, network.labels);
            assert_eq!(back.preprocessing, network.preprocessing);
            let operators = |network: &ConvNet| {
                let nodes: Vec<_> = network.nodes.iter().map(describe).collect();
                serde_json::to_string(&nodes).unwrap()
            };
            assert_eq!(operators(&back), operators(&network));
            assert_eq!(saved(&back, Storage::F32), bytes, "the same network gives the same bytes");
        }
    }
}

#[test]
fn halves_are_the_nearest() {
    for pattern in [Pattern::Dense, Pattern::Block(4)] {
        let network = network(pattern, 0.5);
        let back = loaded(saved(&network, Storage::F16)).unwrap();
        let is_bias = |network: &ConvNet| {
            let of = |node: &Node| match &node.op {
                Op::Conv(conv) => [vec![false; conv.weights.len()], vec![true; conv.bias.len()]].concat(),
                Op::Depthwise(d) => [vec![false; d.weights.len()], vec![true; d.bias.len()]].concat(),
                _ => Vec::new(),
            };
            network.nodes.iter().flat_map(of).collect::<Vec<_>>()
        };
        for ((found, wanted), bias) in weights(&back).into_iter().zip(weights(&network)).zip(is_bias(&network)) {
            let wanted = if bias { wanted } else { half::f16::from_f32(wanted).to_f32() };
            assert_eq!(found, wanted);
        }
    }
    let mut huge = network(Pattern::Block(4), 0.5);
    let Op::Conv(conv) = &mut huge.nodes[1].op else { panic!("the first is a convolution") };
    conv.weights[0] = 1e6;
    let folder = tempfile::tempdir().unwrap();
    assert!(huge.save(&folder.path().join("huge"), Storage::F16).is_err());
}

#[test]
fn zeros_take_little_room() {
    let dense = saved(&network(Pattern::Dense, 0.0), Storage::F32).len() as f64;
    let third = saved(&network(Pattern::Block(4), 0.3), Storage::F32).len() as f64;
    let most = saved(&network(Pattern::Block(4), 0.9), Storage::F32).len() as f64;
    // 3.15 bytes a weight against 4, and 0.45; the rest is not sparse.
    assert!(third < 0.86 * dense, "{third} of {dense}");
    assert!(most < 0.30 * dense, "{most} of {dense}");
    assert!(saved(&network(Pattern::Block(4), 0.0), Storage::F32).len() as f64 <= 1.01 * dense);
    let half = saved(&network(Pattern::Block(4), 0.3), Storage::F16).len() as f64;
    assert!(half < 0.62 * third, "{half} of {third}");
}

/// The section of a 6×5 convolution of 2×1 taps, in blocks of 4.
fn section(pattern: Pattern) -> (Vec<u8>, section::Shape, Vec<f32>) {
    let mut weights: Vec<f32> = (1..=60).map(|i| i as f32).collect();
    // Input channel 2 of the first group is zero.
    for o in 0..4 {
        weights[(o * 5 + 2) * 2..][..2].fill(0.0);
    }
    let window = Window2d { kernel: [2, 1], ..Window2d::POINT };
    let conv = Conv { out_channels: 6, in_channels: 5, window, weights, bias: vec![0.5; 6], pattern };
    let bytes = section::write(&conv, Storage::F32).unwrap().unwrap();
    let shape = section::Shape { out_channels: 6, in_channels: 5, kernel: [2, 1], pattern };
    (bytes, shape, conv.weights)
}

#[test]
fn sections_have_the_bytes_that_are_documented() {
    let (bytes, shape, weights) = section(Pattern::Block(4));
    assert_eq!(&bytes[..8], [6, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(&bytes[8..13], [2, 1, 4, 1, 0]);
    assert_eq!(&bytes[13..21], [2, 0, 0, 0, 18, 0, 0, 0]);
    assert_eq!(&bytes[21..25], [8, 0, 10, 0]);
    // Columns 2 and 7 are input channel 2 at the first and the second tap.
    assert_eq!(&bytes[25..41], [0, 0, 1, 0, 3, 0, 4, 0, 5, 0, 6, 0, 8, 0, 9, 0]);
    let values = 25 + 18 * 2;
    let first: Vec<f32> = bytes[values..][..16].as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
    assert_eq!(first, [weights[0], weights[10], weights[20], weights[30]]);
    assert_eq!(bytes.len(), values + 18 * 4 * 4 + 6 * 4);
    assert_eq!(section::read(&bytes, shape).unwrap(), (weights, vec![0.5; 6]));

    let (bytes, shape, weights) = section(Pattern::Kernel(4));
    assert_eq!(&bytes[8..25], [2, 1, 4, 2, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4, 0, 5, 0]);
    assert_eq!(&bytes[25..33], [0, 0, 1, 0, 3, 0, 4, 0]);
    assert_eq!(section::read(&bytes, shape).unwrap().0, weights);
}

#[test]
fn sections_that_lie_are_refused() {
    let (good, shape, _) = section(Pattern::Block(4));
    let refused = |name: &str, change: &dyn Fn(&mut Vec<u8>), wanted: &str| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let problem = section::read(&bytes, shape).expect_err(name);
        assert!(problem.contains(wanted), "{name}: {problem}");
    };
    refused("other channels", &|b| b[0] = 7, "of shape");
    refused("other kernel", &|b| b[8] = 1, "of shape");
    refused("other block", &|b| b[10] = 8, "of shape");
    refused("no block", &|b| b[10] = 0, "of shape");
    refused("unknown type", &|b| b[12] = 9, "of type 9");
    refused("other groups", &|b| b[13] = 3, "of shape");
    refused("more blocks than there are", &|b| b[17..21].fill(0xff), "ends early");
    refused("fewer blocks than there are", &|b| b[17] = 17, "after its end");
    refused("counts that do not add up", &|b| b[21] = 9, "19 blocks");
    refused("column out of range", &|b| b[39] = 10, "column 10");
    refused("columns that descend", &|b| b[27] = 0, "column 0");
    refused("weight that is NaN", &|b| b[61..65].copy_from_slice(&f32::NAN.to_le_bytes()), "NaN");
    refused("bias that is infinite", &|b| b.splice(349..353, f32::INFINITY.to_le_bytes()).for_each(drop), "inf");
    refused("weight beyond the last channel", &|b| b[61 + (8 * 4 + 3) * 4 + 2] = 1, "output channel 7");
    refused("bytes after the end", &|b| b.push(0), "after its end");
    for length in 0..good.len() {
        assert!(section::read(&good[..length], shape).is_err(), "{length} bytes");
    }
    // No change of one byte makes the reader panic.
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let _ = section::read(&bytes, shape);
        }
    }
}

/// Replaces text in the header of a file, whose length is corrected.
fn edited(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    assert!(header.contains(from), "{from} is in the header");
    let header = header.replacen(from, to, 1);
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn descriptions_that_lie_are_refused() {
    let good = saved(&network(Pattern::Block(4), 0.5), Storage::F32);
    let cases = [
        ("\"supple_convnet\":\"1\"", "\"supple_convnet\":\"2\"", "version \"2\""),
        ("\"supple_convnet\"", "\"supple_conv\"", "no supple_convnet"),
        ("\"network\":", "\"net\":", "no description"),
        ("\\\"inputs\\\":[0]", "\\\"inputs\\\":[999]", "tensor 999"),
        ("\\\"inputs\\\":[0]", "\\\"inputs\\\":[-1]", "cannot be read"),
        ("\\\"inputs\\\":[0]", "\\\"inputs\\\":[]", "0 inputs"),
        ("\\\"block\\\":4", "\\\"block\\\":0", "section"),
        ("\\\"block\\\":4", "\\\"block\\\":18446744073709551615", "section"),
        ("\\\"in_channels\\\":3", "\\\"in_channels\\\":18446744073709551615", "weights"),
        ("\\\"out_channels\\\":8", "\\\"out_channels\\\":4000000000", "weights"),
        ("\\\"stride\\\":[2,2]", "\\\"stride\\\":[0,2]", "not possible"),
        ("\\\"height\\\":32", "\\\"height\\\":4000000000", "too large"),
        ("\\\"crop\\\":0.9", "\\\"crop\\\":0.0", "preprocessing"),
        ("\\\"crop\\\":0.9", "\\\"crop\\\":null", "cannot be read"),
        ("\\\"crop\\\":0.9", "\\\"crop\\\":1e400", "cannot be read"),
        ("\\\"deviation\\\":[0.5", "\\\"deviation\\\":[0.0", "preprocessing"),
        ("\\\"op\\\":\\\"softmax\\\"", "\\\"op\\\":\\\"softmix\\\"", "cannot be read"),
        ("\\\"name\\\":\\\"depthwise_1\\\"", "\\\"name\\\":\\\"depthwise_2\\\"", "name of another"),
        ("\\\"name\\\":\\\"softmax\\\"", "\\\"name\\\":\\\"pool\\\"", "name of another"),
        ("\\\"relu6\\\"", "\\\"gelu\\\"", "cannot be read"),
    ];
    for (from, to, wanted) in cases {
        let error = loaded(edited(&good, from, to)).map(|network| network.name).expect_err(to).to_string();
        assert!(error.contains(wanted), "{to}: {error}");
    }
    loaded(good).unwrap();
}
