//! `supple train` and `supple plot`, with runs that end early.
#![cfg(unix)]

mod common;

use common::{Sandbox, finish, png};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use supple::train::language;

/// A run of two stages that takes a few seconds.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("pictures/a.png", &png(90, 70));
    sandbox.write("pictures/b.png", &png(64, 101));
    sandbox.write("validate.png", &png(50, 40));
    let recipe = r#"
        every = { log = 1, checkpoint = 7, validate = 20 }
        [network]
        kind = "rlfn_tiny"
        scale = 2
        [data]
        train = ["pictures"]
        validate = ["validate.png"]
        [[stage]]
        steps = 40
        batch = 4
        patch = 48
        learning_rate = 2e-3
        average = 0.9
        loss = [{ kind = "l1" }]
        [[stage]]
        steps = 60
        batch = 4
        patch = 48
        learning_rate = 1e-3
        loss = [{ kind = "mse" }]
    "#;
    sandbox.write("tiny.toml", recipe.as_bytes());
    sandbox
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Lines of metrics without the time that they took.
fn curve(sandbox: &Sandbox, run: &str) -> Vec<serde_json::Value> {
    let text = String::from_utf8(sandbox.read(&format!("{run}/metrics.jsonl"))).unwrap();
    let line = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["seconds"] = 0.into();
        value
    };
    text.lines().map(line).collect()
}

/// Begins a run and sends it a signal when it has written so many lines.
fn begin_and_signal(sandbox: &Sandbox, arguments: &[&str], lines: usize, name: &str) -> common::Run {
    let mut command = sandbox.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (start, metrics) = (Instant::now(), sandbox.path("runs/tiny/metrics.jsonl"));
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < lines {
        assert!(start.elapsed() < Duration::from_secs(120), "no {lines} lines of metrics");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, name);
    finish(child.wait_with_output().unwrap())
}

#[test]
fn a_killed_run_is_resumed_to_the_same_curve_and_weights() {
    let sandbox = sandbox();
    let whole = sandbox.run(&["train", "tiny.toml", "-o", "whole", "--threads", "2", "--json"]).exits(0).json();
    assert_eq!((&whole["finished"], &whole["steps"]), (&true.into(), &100.into()));
    assert!(whole["psnr"].as_f64().unwrap() > 5.0);
    // Killed twice without warning, then ended by Ctrl-C, on other numbers of threads.
    assert_eq!(begin_and_signal(&sandbox, &["train", "tiny.toml", "--threads", "1"], 10, "-KILL").code, -1);
    assert_eq!(begin_and_signal(&sandbox, &["train", "tiny.toml", "--resume", "--threads", "3"], 25, "-KILL").code, -1);
    let run = begin_and_signal(&sandbox, &["train", "tiny.toml", "--resume"], 45, "-INT").exits(130);
    assert!(run.stderr.contains("--resume goes on"), "{}", run.stderr);
    sandbox.run(&["train", "tiny.toml", "--resume"]).exits(0);
    assert_eq!(curve(&sandbox, "runs/tiny"), curve(&sandbox, "whole"));
    assert!(curve(&sandbox, "whole").len() >= 100);
    for file in ["weights.safetensors", "stage1.safetensors", "checkpoint.safetensors"] {
        assert!(sandbox.read(&format!("runs/tiny/{file}")) == sandbox.read(&format!("whole/{file}")), "{file}");
    }
    // What came out can be looked at and used.
    sandbox.run(&["plot", "runs/tiny"]).exits(0);
    assert_eq!(sandbox.size("runs/tiny/curves.png"), (1000, 780));
    sandbox.run(&["upscale", "validate.png", "-m", "whole/weights.safetensors", "-s", "2"]).exits(0);
    assert_eq!(sandbox.size("validate_x2.png"), (100, 80));
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let sandbox = sandbox();
    sandbox.run(&["train", "absent.toml"]).exits(1).says("absent.toml: cannot read");
    sandbox.run(&["train", "tiny.toml", "--resume"]).exits(1).says("holds no run");
    let recipe = String::from_utf8(sandbox.read("tiny.toml")).unwrap();
    sandbox.write("typo.toml", recipe.replace("learning_rate", "lerning_rate").as_bytes());
    sandbox.run(&["train", "typo.toml"]).exits(1).says("lerning_rate");
    sandbox.write("large.toml", recipe.replace("patch = 48", "patch = 96").as_bytes());
    sandbox.run(&["train", "large.toml"]).exits(1).says("fewer than a patch of 96");
    sandbox.write("empty/notes.txt", b"");
    sandbox.write("nothing.toml", recipe.replace("\"pictures\"", "\"empty\"").as_bytes());
    sandbox.run(&["train", "nothing.toml"]).exits(1).says("no pictures in this folder");
    sandbox.write("gone.toml", recipe.replace("validate.png", "gone.png").as_bytes());
    sandbox.run(&["train", "gone.toml"]).exits(1).says("gone.png: cannot read");
    sandbox.run(&["plot", "empty"]).exits(1).says("no metrics");
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let sandbox = sandbox();
    let recipe = String::from_utf8(sandbox.read("tiny.toml")).unwrap();
    sandbox.write("tiny.toml", recipe.replace("steps = 40", "steps = 2").replace("steps = 60", "steps = 2").as_bytes());
    sandbox.run(&["train", "tiny.toml"]).exits(0);
    let before = sandbox.read("runs/tiny/checkpoint.safetensors");
    sandbox.run(&["train", "tiny.toml"]).exits(1).says("holds a run already").says("--resume");
    assert!(sandbox.read("runs/tiny/checkpoint.safetensors") == before);
}

#[test]
fn every_recipe_of_ours_is_valid() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let recipes: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!recipes.is_empty());
    for path in recipes.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")) {
        if language::is_language(&std::fs::read_to_string(path).unwrap()) {
            language::LanguageRecipe::open(path).unwrap();
        } else {
            supple::train::Recipe::open(path).unwrap();
        }
    }
}
