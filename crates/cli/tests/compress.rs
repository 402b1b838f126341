//! `supple compress`: what it writes, says and refuses.

mod common;

use common::Sandbox;
use supple::convnet::{Activation, Conv, ConvNet, Node, Op, Padding, Pattern, Preprocessing, Shape, Storage, Window2d};

/// A classifier of 16×16 pictures: a first convolution, two inner 1×1 ones, a pool and a classifier.
fn network() -> ConvNet {
    let mut state = 1u32;
    let mut noise = |len: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    };
    let input = Op::Input(Shape { channels: 3, height: 16, width: 16 });
    let node = |name: &str, op: Op, inputs: &[usize]| Node {
        name: name.into(),
        op,
        inputs: inputs.into(),
        activation: Activation::Relu6,
    };
    let mut nodes = vec![Node { activation: Activation::None, ..node("input", input, &[]) }];
    let mut channels = 3;
    for (i, (out_channels, side)) in [(16, 3), (24, 1), (32, 1)].into_iter().enumerate() {
        let window = if side == 1 { Window2d::POINT } else { Window2d::square(side, 2, Padding::Same) };
        let weights = noise(out_channels * channels * side * side);
        let bias = noise(out_channels);
        let conv = Conv { out_channels, in_channels: channels, window, weights, bias, pattern: Pattern::Dense };
        nodes.push(node(&format!("conv_{i}"), Op::Conv(conv), &[i]));
        channels = out_channels;
    }
    nodes.push(Node { activation: Activation::None, ..node("pool", Op::GlobalAveragePool, &[3]) });
    let (weights, bias) = (noise(5 * channels), noise(5));
    let window = Window2d::POINT;
    let head = Conv { out_channels: 5, in_channels: channels, window, weights, bias, pattern: Pattern::Dense };
    nodes.push(Node { activation: Activation::None, ..node("classes", Op::Conv(head), &[4]) });
    let preprocessing = Preprocessing::default();
    ConvNet { name: "small".into(), nodes, preprocessing, labels: Vec::new(), quantization: None }
}

/// The network in `net.safetensors` and a few pictures in `pictures`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    network().save(&sandbox.path("net.safetensors"), Storage::F32).expect("written");
    for i in 0..6u32 {
        let dots: Vec<u8> = (0..24 * 20 * 3).map(|k: u32| (k * (i + 3) / 7 % 256) as u8).collect();
        let picture = supple::Picture::from_rgb8(24, 20, dots).expect("fits");
        let path = sandbox.path("pictures").join(format!("{i}.png"));
        std::fs::create_dir_all(path.parent().expect("has one")).expect("created");
        picture.save(path).expect("written");
    }
    sandbox
}

#[test]
fn a_compressed_network_is_as_sparse_as_asked_and_classifies() {
    let sandbox = sandbox();
    let line =
        "compress net.safetensors -s 0.5 --spread even --calibration pictures --report r.json --picture m.png --json";
    let report = sandbox.run(&line.split(' ').collect::<Vec<_>>()).exits(0).json();
    assert_eq!(report["output"], "net_sparse50.safetensors");
    assert!((report["sparsity"].as_f64().expect("a number") - 0.5).abs() < 0.02, "{report}");
    assert_eq!(report["layers"].as_array().expect("a list").len(), 2);
    let file: serde_json::Value = serde_json::from_slice(&sandbox.read("r.json")).expect("is JSON");
    assert_eq!(file["layers"], report["layers"]);
    assert!(supple::picture::open(sandbox.path("m.png")).expect("a picture").width() > 100);
    let pruned = ConvNet::open(&sandbox.path("net_sparse50.safetensors")).expect("can be read");
    let inner: Vec<&Conv> = pruned.convs().map(|(_, conv)| conv).skip(1).take(2).collect();
    assert!(inner.iter().all(|conv| conv.pattern == Pattern::Block(4) && (conv.sparsity() - 0.5).abs() < 0.02));
    sandbox.run(&["classify", "pictures/0.png", "-m", "net_sparse50.safetensors", "--top", "1"]).exits(0);
}

#[test]
fn by_default_it_is_the_multiplications_that_are_counted() {
    let sandbox = sandbox();
    let line = "compress net.safetensors -s 0.5 --calibration pictures --json";
    let report = sandbox.run(&line.split(' ').collect::<Vec<_>>()).exits(0).json();
    let pruned = ConvNet::open(&sandbox.path("net_sparse50.safetensors")).expect("can be read");
    let work = |network: &ConvNet| -> f64 {
        let shapes = network.shapes().expect("consistent");
        let inner = network.convs().skip(1).take(2);
        inner.map(|(id, conv)| (1.0 - conv.sparsity()) * (conv.weights.len() * shapes[id].pixels()) as f64).sum()
    };
    let left = work(&pruned) / work(&network());
    assert!((left - 0.5).abs() < 0.03, "{left}: {report}");
}

#[test]
fn without_pictures_it_prunes_and_says_so() {
    let sandbox = sandbox();
    let run = sandbox.run(&["compress", "net.safetensors", "--pattern", "1x8", "-o", "out.safetensors"]).exits(0);
    let run = run.says("not fitted");
    // No more than 30 % of whole blocks: 14 of 48, and 28 of 96.
    assert!(run.text().contains("conv_1") && run.text().matches("29.2%").count() == 2, "{}", run.text());
    let smaller = sandbox.run(&["compress", "net.safetensors", "--pattern", "filters", "-o", "f.safetensors"]).exits(0);
    assert!(smaller.text().contains("filters"));
    let filters = ConvNet::open(&sandbox.path("f.safetensors")).expect("can be read");
    assert!(filters.parameters() < network().parameters());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sandbox = sandbox();
    for (line, code, text) in [
        ("compress net.safetensors -s 30", 2, "0.3"),
        ("compress net.safetensors --pattern 1x3", 2, "1x4"),
        ("compress net.safetensors -o out.tflite", 2, "safetensors"),
        ("compress absent.safetensors", 1, "absent"),
        ("compress net.safetensors --calibration absent", 1, "absent"),
        ("compress net.safetensors -o net.safetensors", 1, "exists"),
        ("compress pictures/0.png", 1, "0.png"),
    ] {
        sandbox.run(&line.split(' ').collect::<Vec<_>>()).exits(code).says(text);
    }
    let before = sandbox.read("net.safetensors");
    sandbox.write("empty/notes.txt", b"no picture");
    sandbox.run(&["compress", "net.safetensors", "--calibration", "empty"]).exits(1).says("no pictures").says("hint: ");
    assert_eq!(sandbox.read("net.safetensors"), before);
}
