//! The other commands: what they print is what a script can read.

mod common;

use common::{Sandbox, bundled_model, png};
use std::process::Stdio;

#[test]
fn alone_it_shows_how_to_begin() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&[]).exits(0).text();
    assert!(text.contains("supple upscale photo.jpg") && text.contains("supple doctor"), "{text}");
    let version = sandbox.run(&["--version"]).exits(0).text();
    assert_eq!(version, format!("supple {}\n", env!("CARGO_PKG_VERSION")));
    sandbox.run(&["upscal"]).exits(2).says("upscale");
}

#[test]
fn every_command_has_help_with_examples() {
    let sandbox = Sandbox::new();
    for command in [
        "upscale",
        "classify",
        "chat",
        "generate",
        "compare",
        "models",
        "inspect",
        "convert",
        "doctor",
        "download",
        "eval sr",
        "eval cnn",
        "eval ppl",
        "eval kl",
        "bench sr",
        "bench cnn",
        "bench train",
        "train",
        "launch",
        "bench llm",
        "completions",
    ] {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let text = sandbox.run(&arguments).exits(0).text();
        assert!(text.contains("Examples:") && text.contains(&format!("supple {command}")), "{command}:\n{text}");
    }
}

#[test]
fn models_lists_what_is_bundled_and_what_is_found() {
    let sandbox = Sandbox::new();
    sandbox.write("found/mine.safetensors", &std::fs::read(bundled_model(3)).unwrap());
    let models = |json: &[&str]| {
        let mut command = sandbox.command(&[&["models"], json].concat());
        common::finish(command.env("SUPPLE_MODELS", sandbox.path("found")).output().unwrap()).exits(0)
    };
    let json = models(&["--json"]).json();
    let list = json["models"].as_array().unwrap();
    let names: Vec<_> = list.iter().map(|m| (m["name"].as_str().unwrap(), m["scale"].as_u64())).collect();
    let pictures = [("rlfn_s_x2", 2), ("rlfn_s_x3", 3), ("rlfn_s_x4", 4), ("ditn_real_x4", 4), ("mine", 3)];
    let all = pictures.map(|(name, scale)| (name, Some(scale))).into_iter().chain([("tiny_stories", None)]);
    assert_eq!(names, all.collect::<Vec<_>>());
    assert_eq!(list[5]["parameters"], 1_394_080);
    assert_eq!((&list[4]["bundled"], &list[4]["parameters"]), (&false.into(), &461_115.into()));
    assert!(["mine", "tiny_stories"].iter().all(|name| models(&[]).text().contains(name)));

    sandbox.picture("a.png");
    let mut command = sandbox.command(&["upscale", "a.png", "-m", "mine", "-q"]);
    common::finish(command.env("SUPPLE_MODELS", sandbox.path("found")).output().unwrap()).exits(0);
    assert_eq!(sandbox.size("a_x3.png"), (36, 27));
}

#[test]
fn inspect_shows_tensors_and_the_network() {
    let sandbox = Sandbox::new();
    let file = bundled_model(2);
    let json = sandbox.run(&["inspect", file.to_str().unwrap(), "--json"]).exits(0).json();
    assert_eq!(json["parameters"], 454_620);
    assert_eq!((&json["network"]["scale"], &json["network"]["parameters"]), (&2.into(), &454_620.into()));
    assert_eq!(json["tensors"].as_array().unwrap().len(), 114);
    let text = sandbox.run(&["inspect", file.to_str().unwrap()]).exits(0).text();
    assert!(text.contains("454,620 parameters") && text.contains("x2"), "{text}");
    sandbox.write("text.safetensors", b"not at all");
    sandbox.run(&["inspect", "text.safetensors"]).exits(1).says("error: ").says("text.safetensors");
    sandbox.run(&["inspect", "missing.pth"]).exits(1).says("missing.pth");
}

/// A GGUF file with one matrix and one vector.
fn gguf() -> Vec<u8> {
    use supple::weights::gguf::{Array, BlockType, NewTensor, Value, save};
    let sandbox = Sandbox::new();
    let path = sandbox.path("tiny.gguf");
    let metadata = [
        ("general.architecture".to_string(), Value::from("llama")),
        ("llama.block_count".to_string(), Value::U32(1)),
        ("tokenizer.ggml.tokens".to_string(), Value::Array(Array::from_strings(["a\u{1b}[2J", "b", "c", "d", "e"]))),
    ];
    let tensor =
        |name: &str, shape: &[usize]| NewTensor { name: name.into(), shape: shape.into(), block_type: BlockType::F32 };
    let tensors = [tensor("blk.0.attn_q.weight", &[2, 32]), tensor("output_norm.weight", &[32])];
    save(&path, &metadata, &tensors, |index, output| {
        output.resize(tensors[index].shape.iter().product::<usize>() * 4, 0);
        Ok::<(), supple::weights::Error>(())
    })
    .unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn inspect_shows_language_models() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.gguf", &gguf());
    let json = sandbox.run(&["inspect", "tiny.gguf", "--json"]).exits(0).json();
    assert_eq!((&json["format"], &json["version"], &json["parameters"]), (&"GGUF".into(), &3.into(), &96.into()));
    assert_eq!(json["metadata"]["llama.block_count"], 1);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 5);
    assert_eq!((&json["tensors"][0]["dtype"], &json["tensors"][0]["shape"][1]), (&"F32".into(), &32.into()));
    let text = sandbox.run(&["inspect", "tiny.gguf"]).exits(0).text();
    assert!(
        text.contains("blk.0.attn_q.weight") && text.contains("2 x 32") && text.contains("(5 of string)"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    sandbox.write("cut.gguf", &gguf()[..100]);
    sandbox.run(&["inspect", "cut.gguf"]).exits(1).says("error: cut.gguf: truncated");

    sandbox.write("folder/config.json", br#"{"model_type": "llama"}"#);
    sandbox.run(&["inspect", "folder"]).exits(1).says("without model.safetensors");
    sandbox.write("folder/model.safetensors", &std::fs::read(bundled_model(2)).unwrap());
    let json = sandbox.run(&["inspect", "folder", "--json"]).exits(0).json();
    assert_eq!((&json["parameters"], &json["config"]["model_type"]), (&454_620.into(), &"llama".into()));
}

#[test]
fn convert_stores_matrices_otherwise() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.gguf", &gguf());
    let json = sandbox.run(&["convert", "tiny.gguf", "-o", "q8.gguf", "--type", "q8_0", "--json"]).exits(0).json();
    assert_eq!((&json["converted"], &json["copied"]), (&1.into(), &1.into()));
    let json = sandbox.run(&["inspect", "q8.gguf", "--json"]).exits(0).json();
    assert_eq!((&json["tensors"][0]["dtype"], &json["tensors"][1]["dtype"]), (&"Q8_0".into(), &"F32".into()));
    sandbox.run(&["convert", "tiny.gguf", "-o", "q8.gguf"]).exits(1).says("exists already");
    sandbox.run(&["convert", "tiny.gguf", "-o", "q8.gguf", "--overwrite"]).exits(0);
    assert_eq!(sandbox.run(&["inspect", "q8.gguf", "--json"]).exits(0).json()["tensors"][0]["dtype"], "F32");
    sandbox.run(&["convert", "tiny.gguf", "-o", "x.gguf", "--type", "q2_k"]).exits(2).says("q4_1");
    sandbox.write("text.gguf", b"hello");
    sandbox.run(&["convert", "text.gguf", "-o", "x.gguf"]).exits(1).says("text.gguf").says("found text");
}

#[test]
fn doctor_tells_what_is_in_use() {
    let sandbox = Sandbox::new();
    let json = sandbox.run(&["doctor", "--json"]).exits(0).json();
    assert!(json["threads"].as_u64().unwrap() >= 1);
    assert_eq!(json["selftest"], "ok");
    let with = |isa| common::finish(sandbox.command(&["doctor", "--json"]).env("SUPPLE_ISA", isa).output().unwrap());
    assert_eq!(with("scalar").exits(0).json()["isa"], "scalar");
    assert!(with("mmx").exits(1).json()["isa_error"].as_str().unwrap().contains("mmx"));
    // Either a GPU's name or the reason why there is none, and the same in both forms.
    let gpu = json["gpu"].as_str().xor(json["gpu_error"].as_str()).expect("one of the two");
    assert!(sandbox.run(&["doctor"]).exits(0).text().contains(gpu));
}

#[test]
fn download_takes_what_the_cache_has_and_refuses_nonsense() {
    let sandbox = Sandbox::new();
    let download = |name: &str| {
        let mut command = sandbox.command(&["download", name]);
        // Nobody listens on port 9 of this machine.
        command.env("HF_HUB_CACHE", sandbox.path("cache")).env("HF_ENDPOINT", "http://127.0.0.1:9");
        common::finish(command.output().unwrap())
    };
    download("photo.jpg").exits(2).says("does not name a model").says("hint: hf:owner/name");
    download("hf:owner/name").exits(1).says("hf:owner/name: cannot ask the hub").says("hint: check the connection");
    sandbox.write("cache/models--owner--name/refs/main", b"c0ffee");
    let file = sandbox.write("cache/models--owner--name/snapshots/c0ffee/m-Q4_K_M.gguf", b"GGUF");
    assert_eq!(download("hf:owner/name").exits(0).text(), format!("{}\n", file.display()));
    download("hf:owner/name:Q8_0").exits(1).says("cannot ask the hub");
}

#[test]
fn completions_know_the_commands() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(sandbox.run(&["completions", shell]).exits(0).text().contains("upscale"), "{shell}");
    }
    sandbox.run(&["completions", "cmd"]).exits(2);
}

#[test]
fn eval_measures_models_and_the_baseline() {
    let sandbox = Sandbox::new();
    sandbox.write("hr/a.png", &png(48, 40));
    sandbox.write("hr/b.png", &png(33, 50));
    let eval = |more: &[&str]| sandbox.run(&[&["eval", "sr", "--hr", "hr"], more].concat());
    let bicubic = eval(&["-s", "2", "-m", "bicubic", "--json"]).exits(0).json();
    let model = eval(&["-s", "2", "--json"]).exits(0).json();
    for json in [&bicubic, &model] {
        assert_eq!(json["scale"], 2);
        let of = |score: &serde_json::Value| score["psnr_y"].as_f64().unwrap();
        let images = json["images"].as_array().unwrap();
        assert!((of(&json["mean"]) - (of(&images[0]) + of(&images[1])) / 2.0).abs() < 1e-9);
    }
    assert_ne!(bicubic["mean"]["psnr_y"], model["mean"]["psnr_y"]);
    let text = eval(&["-m", "rlfn_s_x3"]).exits(0).text();
    assert!(text.starts_with("rlfn_s_x3 x3") && text.contains("mean"), "{text}");
    eval(&["-s", "4", "-m", "rlfn_s_x2"]).exits(1).says("by 2, not by 4").says("error: ");
    eval(&["-s", "4", "-m", "no_such"]).exits(1).says("hint: ");
    sandbox.run(&["eval", "sr", "--hr", "missing"]).exits(1).says("missing");
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.run(&["eval", "sr", "--hr", "empty"]).exits(1).says("no pictures");
}

#[test]
fn bench_reports_every_number() {
    let sandbox = Sandbox::new();
    let run =
        sandbox.run(&["bench", "sr", "--width", "24", "--height", "16", "--rounds", "2", "--scale", "2", "--json"]);
    let json = run.exits(0).json();
    for key in ["median_ms", "min_ms", "mpixels_per_s", "gflops", "peak_gflops", "share_of_peak", "peak_memory_mib"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key} in {json:#}");
    }
    let expected = [("width", 24), ("height", 16), ("rounds", 2), ("scale", 2)];
    assert!(expected.iter().all(|&(key, value)| json[key] == value), "{json:#}");
    assert!(["model", "precision", "isa"].iter().all(|&key| json[key].is_string()), "{json:#}");
    assert!(json["min_ms"].as_f64() <= json["median_ms"].as_f64());
}

#[test]
fn the_speed_of_training_is_measured() {
    let sandbox = Sandbox::new();
    let small = ["bench", "train", "--network", "rlfn_tiny", "--batch", "2", "--patch", "32", "--steps", "5"];
    let json = sandbox.run(&[&small[..], &["--device", "cpu", "--json"]].concat()).exits(0).json();
    for key in ["median_ms", "min_ms", "steps_per_s", "examples_per_s", "loader_steps_per_s", "loss"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key} in {json:#}");
    }
    assert_eq!((&json["batch"], &json["graph"]), (&2.into(), &false.into()));
    sandbox.run(&["bench", "train", "--network", "none", "--device", "cpu"]).exits(1).says("rlfn_s");
    assert!(sandbox.files().is_empty(), "nothing is left");
}

#[test]
fn compare_lays_pictures_side_by_side() {
    let sandbox = Sandbox::new();
    sandbox.write("a.png", &png(40, 30));
    sandbox.write("b.png", &png(80, 60));
    let crop = ["compare", "a.png", "b.png", "-o", "both.png", "--crop", "8,4,20,10", "--zoom", "3"];
    sandbox.run(&crop).exits(0).says("resized");
    let (width, height) = sandbox.size("both.png");
    assert!(height == 30 && width > 3 * 60 && width < 3 * 60 + 40, "{width}x{height}");
    sandbox.run(&crop).exits(1).says("--overwrite");
    let json = sandbox.run(&["compare", "a.png", "a.png", "--json"]).exits(0).json();
    assert_eq!((&json["max_difference"], &json["psnr_rgb"]), (&0.into(), &99.0.into()));
    sandbox.run(&["compare", "a.png", "a.png", "--crop", "1,2,3"]).exits(2).says("X,Y,W,H");
    sandbox.run(&["compare", "a.png", "missing.png"]).exits(1).says("missing.png");
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let sandbox = Sandbox::new();
    for arguments in [&["models"][..], &["--help"], &["completions", "bash"]] {
        let mut child = sandbox.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = common::finish(child.wait_with_output().unwrap());
        assert!(!run.stderr.contains("panic") && !run.stderr.contains("internal"), "{arguments:?}: {}", run.stderr);
    }
}
