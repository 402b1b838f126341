//! `supple classify`, and what `bench`, `eval` and `inspect` do for classifiers, from end to end.

mod common;

use common::{Sandbox, finish, png};
use std::path::Path;
use supple::convnet::{Activation, Conv, ConvNet, Node, Op, Pattern, Preprocessing, Shape, Storage, Window2d};

/// Which of red, green and blue a picture has most of.
fn colours() -> ConvNet {
    let node = |name: &str, op, inputs: &[usize]| Node {
        name: name.into(),
        op,
        inputs: inputs.to_vec(),
        activation: Activation::None,
    };
    let conv = Conv {
        out_channels: 3,
        in_channels: 3,
        window: Window2d::POINT,
        weights: vec![9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0],
        bias: vec![0.0; 3],
        pattern: Pattern::Dense,
    };
    ConvNet {
        name: "colours".into(),
        nodes: vec![
            node("input", Op::Input(Shape { channels: 3, height: 8, width: 8 }), &[]),
            node("mean", Op::GlobalAveragePool, &[0]),
            node("score", Op::Conv(conv), &[1]),
        ],
        preprocessing: Preprocessing::default(),
        labels: ["red", "green", "blue"].map(String::from).to_vec(),
        quantization: None,
    }
}

/// A folder with the network, `net.safetensors`, and one picture of each colour in `in`.
fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    colours().save(&sandbox.path("net.safetensors"), Storage::F32).unwrap();
    for (name, colour) in [("in/a.png", [255, 9, 9]), ("in/deep/b.bmp", [9, 255, 9]), ("in/c.gif", [9, 9, 255])] {
        let path = sandbox.write(name, b"");
        image::RgbImage::from_pixel(20, 14, image::Rgb(colour)).save(path).unwrap();
    }
    sandbox
}

#[test]
fn a_picture_gets_its_names() {
    let sandbox = prepared();
    let run = sandbox.run(&["classify", "in/a.png", "-m", "net.safetensors"]).exits(0);
    let text = run.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (4, "in/a.png", "  100.0 %  red"), "{text}");
    assert!(run.stderr.is_empty(), "{}", run.stderr);
    let one = sandbox.run(&["classify", "in/a.png", "-m", "net.safetensors", "--top", "1", "--threads", "1"]).exits(0);
    assert_eq!(one.text(), "in/a.png  100.0 %  red\n");
    let piped = sandbox.pipe(&["classify", "-", "-m", "net.safetensors", "-n1"], &sandbox.read("in/c.gif")).exits(0);
    assert_eq!(piped.text(), "standard input  100.0 %  blue\n");
}

#[test]
fn folders_and_patterns_are_classified_in_order() {
    let sandbox = prepared();
    let run = sandbox.run(&["classify", "in", "-m", "net.safetensors", "--top=1"]).exits(0).says("3 classified");
    assert_eq!(run.text(), "in/a.png  100.0 %  red\nin/c.gif  100.0 %  blue\nin/deep/b.bmp  100.0 %  green\n");
    let run = sandbox.run(&["classify", "in/*.png", "-m", "net.safetensors", "-n", "1", "-q"]).exits(0);
    assert_eq!((run.text().as_str(), run.stderr.as_str()), ("in/a.png  100.0 %  red\n", ""));
    sandbox.run(&["classify", "in/*.webp", "-m", "net.safetensors"]).exits(1).says("no picture matches");
}

#[test]
fn one_bad_picture_does_not_stop_a_batch() {
    let sandbox = prepared();
    sandbox.write("in/b_text.png", b"Dear diary, this is no picture.");
    sandbox.write("in/b_empty.png", b"");
    let cut = png(40, 40);
    sandbox.write("in/b_cut.png", &cut[..cut.len() / 2]);
    let run = sandbox.run(&["classify", "in", "missing.jpg", "-m", "net.safetensors", "--json"]).exits(1);
    let json = run.json();
    assert_eq!((&json["classified"], &json["failed"], &json["classes"]), (&3.into(), &4.into(), &3.into()), "{json:#}");
    let file = |name: &str| {
        let files = json["files"].as_array().unwrap();
        files.iter().find(|file| file["input"] == name).unwrap_or_else(|| panic!("{name} in {json:#}")).clone()
    };
    let prediction = &file("in/deep/b.bmp")["predictions"][0];
    assert_eq!((&prediction["label"], &prediction["index"]), (&"green".into(), &1.into()));
    assert!(prediction["probability"].as_f64().unwrap() > 0.99);
    for (name, complaint) in [
        ("in/b_text.png", "not a picture"),
        ("in/b_empty.png", "empty"),
        ("in/b_cut.png", "truncated"),
        ("missing.jpg", "cannot read"),
    ] {
        let file = file(name);
        assert!(file["state"] == "failed" && file["error"].as_str().unwrap().contains(complaint), "{file:#}");
    }
    let run = sandbox.run(&["classify", "in", "-m", "net.safetensors"]).exits(1).says("3 classified, 3 failed");
    assert!(run.stderr.contains("error: in/b_cut.png") && run.stderr.contains("hint: "), "{}", run.stderr);
    assert_eq!(run.text().lines().count(), 3 * 4);
    sandbox.run(&["classify", "in/a.png", "-m", "net.safetensors", "--max-pixels", "279"]).exits(1).says("20x14");
}

#[test]
fn without_a_network_it_says_how_to_get_one() {
    let sandbox = prepared();
    let run = sandbox.run(&["classify", "in/a.png"]).exits(2).says("no classifier is bundled").says("--model");
    assert!(run.stderr.contains("hint: ") && run.stdout.is_empty(), "{}", run.stderr);
    sandbox.run(&["eval", "cnn", "--pictures", "in"]).exits(2).says("no classifier is bundled");
    sandbox.run(&["classify", "-m", "net.safetensors"]).exits(2).says("IN");
    sandbox.run(&["classify", "in", "-m", "net.safetensors", "--top", "0"]).exits(2);
    sandbox.run(&["classify", "in", "--head", "net.safetensors"]).exits(2).says("--model");
}

#[test]
fn files_that_are_no_network_are_refused_by_name() {
    let sandbox = prepared();
    let classify =
        |model: &str| sandbox.run(&["classify", "in/a.png", "-m", model]).exits(1).says("error: ").says(model);
    let whole = sandbox.read("net.safetensors");
    sandbox.write("cut.safetensors", &whole[..whole.len() - 5]);
    sandbox.write("empty.tflite", b"");
    sandbox.write("cut.tflite", b"\x1c\0\0\0TFL3\x14\0\x20\0");
    sandbox.write("text.tflite", b"Dear diary, this is no network.");
    for model in ["missing.tflite", "cut.safetensors", "empty.tflite", "cut.tflite", "text.tflite", "in/a.png", "in"] {
        let run = classify(model);
        assert!(run.stdout.is_empty() && run.stderr.lines().count() <= 2, "{model}: {}", run.stderr);
    }
    // A network that enlarges pictures names nothing.
    let upscaler = common::bundled_model(2);
    sandbox.run(&["classify", "in/a.png", "-m", upscaler.to_str().unwrap()]).exits(1).says("error: ");
    // The second half of something else.
    let run = sandbox.run(&["classify", "in/a.png", "-m", "net.safetensors", "--head", "net.safetensors"]).exits(1);
    assert!(run.stderr.contains("3x1x1") && run.stderr.contains("3x8x8"), "{}", run.stderr);
    let mut grey = colours();
    grey.nodes.truncate(1);
    grey.nodes[0].op = Op::Input(Shape { channels: 1, height: 1, width: 1 });
    grey.labels.clear();
    grey.save(&sandbox.path("grey.safetensors"), Storage::F32).unwrap();
    sandbox.run(&["classify", "in", "-m", "grey.safetensors"]).exits(1).says("its input is 1x1x1").says("hint: ");
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let sandbox = prepared();
    let mut bytes = sandbox.read("net.safetensors");
    // All ones is a NaN in every floating-point format, 9 as f32 is in the weights only.
    let nine = 9f32.to_le_bytes();
    let at = bytes.windows(4).rposition(|four| four == nine).expect("a weight of 9");
    bytes[at..at + 4].fill(0xff);
    sandbox.write("nan.safetensors", &bytes);
    sandbox.run(&["classify", "in", "-m", "nan.safetensors"]).exits(1).says("error: ").says("score");
}

#[test]
fn integers_are_computed_where_a_file_has_them() {
    let sandbox = prepared();
    // A quantised file from elsewhere, as it is.
    let quantised = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/tflite/per_channel.tflite");
    sandbox.write("quant.tflite", &std::fs::read(quantised).unwrap());
    let classify =
        |model: &str, more: &[&str]| sandbox.run(&[&["classify", "in/a.png", "-m", model, "-n1"], more].concat());
    for (more, precision) in [(&[][..], "int8"), (&["--precision", "int8"], "int8"), (&["--precision=f32"], "f32")] {
        let json = classify("quant.tflite", &[more, &["--json"]].concat()).exits(0).json();
        assert_eq!((&json["precision"], &json["classified"]), (&precision.into(), &1.into()), "{json:#}");
        assert_eq!(classify("quant.tflite", more).exits(0).text().lines().count(), 1);
    }
    // Real numbers have to be calibrated first.
    classify("net.safetensors", &["--precision", "int8"]).exits(1).says("no 8-bit integers").says("--calibration");
    let compress = ["compress", "net.safetensors", "--precision", "int8"];
    sandbox.run(&compress).exits(2).says("--calibration");
    let run = sandbox.run(&[&compress[..], &["--calibration", "in"]].concat()).exits(0);
    assert!(run.text().contains("8-bit integers") && run.text().contains("100.0 %"), "{}", run.text());
    assert_eq!(classify("net_int8.safetensors", &["--precision", "int8"]).exits(0).text(), "in/a.png  100.0 %  red\n");
    sandbox.write("truth.csv", b"a.png,red\ndeep/b.bmp,green\nc.gif,blue\n");
    let eval = ["eval", "cnn", "-m", "net_int8.safetensors", "--pictures", "in", "--classes", "truth.csv", "--json"];
    let json = sandbox.run(&eval).exits(0).json();
    assert_eq!((&json["top1"], &json["precision"]), (&1.0.into(), &"int8".into()), "{json:#}");
    let small = ["bench", "cnn", "--width", "0.25", "--size", "64", "--runs", "1", "--precision", "int8"];
    let json = sandbox.run(&[&small[..], &["--json"]].concat()).exits(0).json();
    assert_eq!(json["networks"][0]["precision"], "int8", "{json:#}");
    let json = sandbox.run(&[&small[..], &["--sparsity", "0.5", "--json"]].concat()).exits(0).json();
    let [dense, sparse] = &json["networks"].as_array().unwrap()[..] else { panic!("{json:#}") };
    assert_eq!((&dense["precision"], &sparse["precision"]), (&"int8".into(), &"int8".into()), "{json:#}");
    assert!(sparse["name"].as_str().unwrap().ends_with("50% 4x4"), "{json:#}");
    assert!(sparse["sparsity"].as_f64().unwrap() > dense["sparsity"].as_f64().unwrap() + 0.3, "{json:#}");
    sandbox.run(&[&small[..], &["--sparsity", "0.5", "--pattern", "4"]].concat()).exits(2).says("--pattern");
}

#[test]
fn labels_have_to_fit() {
    let sandbox = prepared();
    sandbox.write("rgb.txt", b"rot\ngelb, gruen\nblau\n");
    sandbox.write("two.txt", b"a\nb\n");
    let classify = |labels: &str| sandbox.run(&["classify", "in/a.png", "-m", "net.safetensors", "-n1", "-l", labels]);
    assert!(classify("rgb.txt").exits(0).text().ends_with("rot\n"));
    classify("two.txt").exits(1).says("2 labels do not fit a network of 3 outputs").says("hint: ");
    classify("missing.txt").exits(1).says("missing.txt");
    classify("in/a.png").exits(1).says("UTF-8");
    let mut nameless = colours();
    nameless.labels.clear();
    nameless.save(&sandbox.path("nameless.safetensors"), Storage::F32).unwrap();
    let run = sandbox.run(&["classify", "in/c.gif", "-m", "nameless.safetensors", "-n1"]).exits(0);
    assert_eq!(run.text(), "in/c.gif  100.0 %  class 2\n");
}

#[test]
fn eval_counts_what_is_right() {
    let sandbox = prepared();
    sandbox.write("truth.csv", b"a.png,red\ndeep/b.bmp,2\nc.gif,blue\n");
    let eval = |more: &[&str]| sandbox.run(&[&["eval", "cnn", "-m", "net.safetensors", "--pictures"], more].concat());
    let json = eval(&["in", "--classes", "truth.csv", "--json"]).exits(0).json();
    assert_eq!((&json["pictures"], &json["top5"]), (&3.into(), &1.0.into()), "{json:#}");
    assert!((json["top1"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    let text = eval(&["in", "--classes", "truth.csv"]).exits(0).text();
    assert!(text.contains("66.67 %") && text.contains("100.00 %"), "{text}");
    eval(&["in/deep", "--classes", "sorted"]).exits(1).says("1 pictures for 3 classes");
    eval(&["missing"]).exits(1).says("missing");
    sandbox.write("in/deep/text.png", b"no picture");
    sandbox.write("bad.csv", b"deep/text.png,0\n");
    eval(&["in", "--classes", "bad.csv"]).exits(1).says("text.png");
}

#[test]
fn bench_measures_dense_and_sparse_in_turns() {
    let sandbox = prepared();
    let small = ["bench", "cnn", "--width", "0.25", "--size", "64", "--runs", "2"];
    let run = |more: &[&str]| sandbox.run(&[&small, more].concat());
    let json = run(&["--sparsity", "0.5", "--pattern", "1x8", "--layers", "--json"]).exits(0).json();
    let networks = json["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 2);
    for network in networks {
        for key in ["median_ms", "min_ms", "gflops", "share_of_peak", "gain", "macs"] {
            assert!(network[key].as_f64().unwrap() > 0.0, "{key} in {network:#}");
        }
        let layers = network["layers"].as_array().unwrap();
        assert!(layers.len() > 10 && layers.iter().all(|layer| layer["median_ms"].as_f64().unwrap() > 0.0));
    }
    assert_eq!((&networks[0]["sparsity"], &networks[0]["gain"]), (&0.0.into(), &1.0.into()));
    let sparsity = networks[1]["sparsity"].as_f64().unwrap();
    assert!((0.3..0.5).contains(&sparsity), "{sparsity}");
    assert_eq!(networks[0]["macs"], networks[1]["macs"]);
    let text = run(&["--network", "mobilenet_v2", "--layers"]).exits(0).text();
    assert!(text.contains("mobilenet_v2") && text.contains("of peak") && text.contains("depthwise"), "{text}");
    // A file in place of random weights.
    let text = sandbox.run(&["bench", "cnn", "net.safetensors", "--runs", "1"]).exits(0).text();
    assert!(text.contains("net.safetensors"), "{text}");
    sandbox.run(&["bench", "cnn", "missing.tflite"]).exits(1).says("missing.tflite");
    run(&["--sparsity", "1.5"]).exits(2);
    run(&["--pattern", "1x8"]).exits(2).says("--sparsity");
    run(&["--network", "efficientnet_lite0"]).exits(2).says("one width");
    run(&["--network", "resnet"]).exits(2).says("mobilenet_v1");
}

#[test]
fn inspect_shows_operators() {
    let sandbox = prepared();
    let json = sandbox.run(&["inspect", "net.safetensors", "--json"]).exits(0).json();
    assert_eq!((&json["parameters"], &json["labels"], &json["network"]), (&12.into(), &3.into(), &"colours".into()));
    let operators = json["operators"].as_array().unwrap();
    assert_eq!((operators.len(), &operators[2]["operator"]), (3, &"conv 1x1".into()), "{json:#}");
    assert!((operators[2]["sparsity"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    let text = sandbox.run(&["inspect", "net.safetensors"]).exits(0).text();
    assert!(text.contains("global average pool") && text.contains("3x8x8 -> 3x1x1"), "{text}");
    sandbox.write("cut.tflite", b"\x1c\0\0\0TFL3\x14\0\x20\0");
    sandbox.run(&["inspect", "cut.tflite"]).exits(1).says("cut.tflite");
}

#[test]
fn a_full_standard_output_is_an_error() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full");
        return;
    }
    let sandbox = prepared();
    for more in [&[][..], &["--json"]] {
        let mut command = sandbox.command(&[&["classify", "in", "-m", "net.safetensors"], more].concat());
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let run = finish(command.stdout(full).stderr(std::process::Stdio::piped()).output().unwrap());
        run.exits(1).says("No space left");
    }
}
