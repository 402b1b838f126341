//! Classifying pictures: the whole way from samples to names, many at a time, and what is refused.

use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use supple::classifier::{self, ClassRule, Input, measure, prepare, prepare_planar};
use supple::convnet::{
    Activation, Conv, ConvNet, Depthwise, Node, Op, Padding, Pattern, Preprocessing, Shape, Window2d,
};
use supple::convnet::{Plan, reference};
use supple::{Classifier, ClassifierOptions, Error, Picture};

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.into(), op, inputs: inputs.to_vec(), activation: Activation::None }
}

fn labels(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Which of red, green and blue a picture has most of: the mean of each, `gain` times.
fn colours(gain: f32, softmax: bool) -> ConvNet {
    let mut weights = vec![0.0; 9];
    (0..3).for_each(|c| weights[c * 4] = gain);
    let conv = Conv {
        out_channels: 3,
        in_channels: 3,
        window: Window2d::POINT,
        weights,
        bias: vec![0.0; 3],
        pattern: Pattern::Dense,
    };
    let mut nodes = vec![
        node("input", Op::Input(Shape { channels: 3, height: 8, width: 8 }), &[]),
        node("mean", Op::GlobalAveragePool, &[0]),
        node("score", Op::Conv(conv), &[1]),
    ];
    if softmax {
        nodes.push(node("probability", Op::Softmax, &[2]));
    }
    ConvNet {
        name: "colours".into(),
        nodes,
        preprocessing: Preprocessing::default(),
        labels: labels(&["red", "green", "blue"]),
        quantization: None,
    }
}

fn open(network: ConvNet) -> Classifier {
    Classifier::from_network(network, ClassifierOptions { threads: Some(2), ..Default::default() }).unwrap()
}

fn flat(width: usize, height: usize, colour: [u8; 3]) -> Picture {
    Picture::from_rgb8(width, height, colour.repeat(width * height)).unwrap()
}

#[test]
fn the_most_probable_name_comes_first_and_probabilities_make_one() {
    for softmax in [false, true] {
        let mut classifier = open(colours(3.0, softmax));
        let predictions = classifier.classify(&flat(31, 17, [10, 90, 200]), 5).unwrap();
        let names: Vec<_> = predictions.iter().map(|p| p.name().into_owned()).collect();
        assert_eq!(names, ["blue", "green", "red"]);
        assert!((predictions.iter().map(|p| p.probability).sum::<f32>() - 1.0).abs() < 1e-5);
        // exp(3 * 2 * 110 / 255) between neighbours 110 samples apart.
        let ratio = predictions[0].probability / predictions[1].probability;
        assert!((ratio / (660f32 / 255.0).exp() - 1.0).abs() < 1e-3, "softmax {softmax}: {ratio}");
        assert_eq!(classifier.classify(&flat(3, 3, [255, 0, 0]), 1).unwrap().len(), 1);
    }
}

#[test]
fn samples_in_memory_are_classified_as_the_picture() {
    let mut classifier = open(colours(1.0, false));
    let samples: Vec<u8> = (0..40 * 30 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let picture = Picture::from_rgb8(40, 30, samples.clone()).unwrap();
    let wanted = classifier.classify(&picture, 3).unwrap();
    assert_eq!(classifier.classify_rgb(40, 30, &samples, 3).unwrap(), wanted);
    assert!(matches!(classifier.classify_rgb(41, 30, &samples, 3), Err(Error::Samples { .. })));
    assert!(matches!(classifier.classify_prepared(&samples, 3), Err(Error::Samples { .. })));
}

#[test]
fn prepared_numbers_are_what_the_network_sees() {
    let network = colours(1.0, false);
    let picture = Picture::from_rgb8(21, 33, (0..21 * 33 * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap();
    let (bytes, planes) = (prepare(&picture, &network).unwrap(), prepare_planar(&picture, &network).unwrap());
    assert_eq!((bytes.len(), planes.len()), (192, 192));
    let cpu = supple::compute::cpu(Some(1)).unwrap();
    let mut plan = Plan::new(&cpu, &network).unwrap();
    let from_planes = plan.run(&planes).unwrap().to_vec();
    assert_eq!(plan.run_rgb(&bytes).unwrap(), from_planes);
    let truth = reference::run(&network, &planes).unwrap();
    assert!(from_planes.iter().zip(truth).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_picture_gets_names(w in 1usize..50, h in 1usize..50, seed: u8, alpha: bool) {
        let samples: Vec<u8> = (0..w * h * 4).map(|i| (i as u8).wrapping_mul(seed)).collect();
        let picture = match alpha {
            true => Picture::from_rgba8(w, h, samples).unwrap(),
            false => Picture::from_gray8(w, h, samples[..w * h].to_vec()).unwrap(),
        };
        let predictions = open(colours(1.0, true)).classify(&picture, 9).unwrap();
        prop_assert_eq!(predictions.len(), 3);
        prop_assert!(predictions.windows(2).all(|pair| pair[0].probability >= pair[1].probability));
    }
}

#[test]
fn many_pictures_come_in_order_and_errors_cost_one() {
    let mut classifier = open(colours(9.0, false));
    let colours = [[250, 9, 9], [9, 250, 9], [9, 9, 250]];
    let read = |i: usize| -> Result<Picture, Error> {
        // Early ones take longest.
        std::thread::sleep(std::time::Duration::from_millis(if i.is_multiple_of(4) { 8 } else { 0 }));
        if i == 5 { Err(Error::BadOption("the sixth".into())) } else { Ok(flat(12, 9, colours[i % 3])) }
    };
    let mut seen = Vec::new();
    classifier.classify_many(20, 1, &read, &mut |i, result: Result<_, Error>| {
        seen.push((i, result.map(|names| names[0].index).ok()));
        true
    });
    let wanted: Vec<_> = (0..20).map(|i| (i, (i != 5).then_some(i % 3))).collect();
    assert_eq!(seen, wanted);
    // Nothing to do, and stopping early.
    classifier.classify_many(0, 1, &read, &mut |_, _| panic!("there are none"));
    let reads = AtomicUsize::new(0);
    let count = |i: usize| {
        reads.fetch_add(1, Ordering::Relaxed);
        read(i)
    };
    let mut told = 0;
    classifier.classify_many(1000, 1, &count, &mut |_, _| {
        told += 1;
        told < 3
    });
    assert!(told == 3 && reads.load(Ordering::Relaxed) < 20, "{told} {reads:?}");
}

#[test]
fn labels_are_read_from_a_file_and_have_to_fit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("labels.txt");
    let options = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ClassifierOptions { labels: Some(file.clone()), threads: Some(1), ..Default::default() }
    };
    let open = |text| Classifier::from_network(colours(1.0, false), options(text));
    assert_eq!(open("rot\r\ngrün\r\nblau\r\n").unwrap().labels(), ["rot", "grün", "blau"]);
    let error = open("a\nb\n").unwrap_err();
    assert!(matches!(error, Error::Labels { found: 2, outputs: 3 }) && error.hint().unwrap().contains('3'), "{error}");
    assert!(open("").is_err());
    // Nameless classes have a number, here one of two.
    let mut classifier = open("a\n\nc").unwrap();
    let names = classifier.classify(&flat(9, 9, [0, 255, 0]), 2).unwrap();
    assert_eq!((names[0].name().as_ref(), names[0].label.as_ref()), ("class 1", None));
    let missing = ClassifierOptions { labels: Some("no/such/file".into()), ..Default::default() };
    assert!(matches!(Classifier::from_network(colours(1.0, false), missing), Err(Error::Io { .. })));
}

#[test]
fn what_is_no_classifier_is_refused() {
    let refused = |change: &dyn Fn(&mut ConvNet)| {
        let mut network = colours(1.0, false);
        network.labels.clear();
        change(&mut network);
        let error = Classifier::from_network(network, ClassifierOptions::default()).unwrap_err();
        error.to_string()
    };
    let depthwise = |channels| {
        Op::Depthwise(Depthwise {
            channels,
            multiplier: 1,
            window: Window2d::square(2, 2, Padding::Same),
            weights: vec![0.5; channels * 4],
            bias: vec![0.0; channels],
        })
    };
    let grey = Op::Input(Shape { channels: 1, height: 8, width: 8 });
    assert!(refused(&|n| n.nodes[0].op = grey.clone()).contains("its input is 1x8x8"));
    assert!(refused(&|n| n.nodes[1].op = depthwise(3)).contains("its output is 3x4x4"));
    assert!(refused(&|n| n.nodes.clear()).contains("no input"));
    assert!(refused(&|n| n.preprocessing.deviation[1] = 0.0).contains("preprocessing"));
    assert!(refused(&|n| n.preprocessing.crop = f32::NAN).contains("preprocessing"));
    let broken = refused(&|n| match &mut n.nodes[2].op {
        Op::Conv(conv) => conv.weights[4] = f32::NAN,
        _ => unreachable!(),
    });
    assert!(broken.contains("score") && broken.contains("NaN"), "{broken}");
}

#[test]
fn scores_that_overflow_are_an_error_and_not_a_name() {
    let mut network = colours(f32::MAX, false);
    network.preprocessing.deviation = [1e-3; 3];
    let error = open(network).classify(&flat(4, 4, [255, 255, 0]), 1).unwrap_err();
    assert!(matches!(error, Error::NotFiniteScore { .. }), "{error}");
}

#[test]
fn accuracy_counts_what_was_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut classifier = open(colours(9.0, false));
    let save = |name: &str, colour| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        flat(9, 7, colour).save(&path).unwrap();
    };
    // By sorted names: the last one is not blue.
    save("sorted/a.png", [255, 0, 0]);
    save("sorted/b.png", [0, 255, 0]);
    save("sorted/c.png", [0, 255, 0]);
    let examples = classifier::examples(&folder.path().join("sorted"), &ClassRule::Auto, &classifier).unwrap();
    let mut told = 0;
    let accuracy = measure(&mut classifier, &examples, &mut |_| {
        told += 1;
        true
    });
    let accuracy = accuracy.unwrap();
    assert_eq!((accuracy.pictures, accuracy.top1, accuracy.top5, told), (3, 2.0 / 3.0, 1.0, 3));
    assert_eq!((accuracy.outcomes[2].class, accuracy.outcomes[2].predicted), (2, 1));
    assert!(matches!(measure(&mut classifier, &examples, &mut |_| false), Err(Error::Cancelled)));

    // By folders, called by label or number, in another order than the classes.
    save("folders/Green/x.png", [0, 255, 0]);
    save("folders/2/y.png", [0, 0, 255]);
    let classes = |folder: PathBuf, rule: &ClassRule, classifier: &Classifier| {
        let examples = classifier::examples(&folder, rule, classifier);
        examples.map(|examples| examples.iter().map(|example| example.class).collect::<Vec<_>>())
    };
    let at = |name: &str| folder.path().join(name);
    assert_eq!(classes(at("folders"), &ClassRule::Auto, &classifier).unwrap(), [2, 1]);
    save("folders/purple/z.png", [0, 0, 255]);
    assert_eq!(classes(at("folders"), &ClassRule::Auto, &classifier).unwrap(), [0, 1, 2], "as many folders as classes");
    save("folders/yellow/z.png", [0, 0, 255]);
    let error = classes(at("folders"), &ClassRule::Folders, &classifier).unwrap_err();
    assert!(error.to_string().contains("4 folders for 3 classes"), "{error}");

    // By a table.
    let table = at("truth.csv");
    let by_table = |text: &str| {
        std::fs::write(&table, text).unwrap();
        classes(at("sorted"), &ClassRule::Csv(table.clone()), &classifier)
    };
    assert_eq!(by_table("# comment\na.png,0\nb.png, \"green\"\n").unwrap(), [0, 1]);
    for (text, complaint) in [("a.png", "PICTURE,CLASS"), ("a.png,7", "\"7\""), ("a.png,mauve", "line 1")] {
        let error = by_table(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(by_table("").unwrap_err().to_string().contains("no pictures"));
    let error = classes(at("folders/Green"), &ClassRule::Sorted, &classifier).unwrap_err();
    assert!(error.to_string().contains("1 pictures for 3 classes"), "{error}");
}

#[test]
fn a_real_network_knows_real_pictures() {
    let Some(data) = std::env::var_os("SUPPLE_DATA").map(PathBuf::from) else {
        println!("skipped: SUPPLE_DATA names no folder");
        return;
    };
    let at = |name: &str| data.join("vision").join(name);
    let options = ClassifierOptions {
        labels: Some(at("imagenet_labels.txt")),
        head: Some(at("mobilenet_quant_v1_224_head_layers.tflite")),
        ..Default::default()
    };
    let body = at("mobilenet_v1_1.0_224_quant_embedding_extractor.tflite");
    let mut classifier = Classifier::open(&body, options).unwrap();
    assert_eq!((classifier.outputs(), classifier.background()), (1001, 1));
    assert_eq!((classifier.input().width, classifier.parameters()), (224, 3_196_032 + 1_026_025));
    // The owl is taken for another bird: ONNX Runtime gets the same from these weights.
    let expected = [
        ("hot_dog.jpg", "hotdog"),
        ("parrot.jpg", "macaw"),
        ("cat.bmp", "cat"),
        ("sunflower.bmp", "daisy"),
        ("owl.jpg", "prairie chicken"),
    ];
    for (file, name) in expected {
        let best = &classifier.classify(&supple::picture::open(at(file)).unwrap(), 1).unwrap()[0];
        assert!(best.name().contains(name), "{file}: {best:?}");
    }
    let error =
        Classifier::open(&body, ClassifierOptions { labels: Some(at("imagenet_labels.txt")), ..Default::default() });
    assert!(matches!(error, Err(Error::Labels { .. })), "the body alone gives features, not classes");
    let seen = Input::of(&classifier::open_network(&body, None).unwrap()).unwrap();
    assert_eq!(&seen, classifier.input(), "the body brings the preprocessing");
}
