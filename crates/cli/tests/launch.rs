//! `supple launch`: two processes that train one network, over TCP on this machine.
#![cfg(unix)]

mod common;

use common::{Sandbox, finish, png};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use supple::weights::Weights;

fn sandbox(steps: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("pictures/a.png", &png(90, 70));
    sandbox.write("validate.png", &png(50, 40));
    let recipe = format!(
        r#"
        every = {{ log = 1, checkpoint = 7, validate = 0 }}
        [network]
        kind = "rlfn_tiny"
        scale = 2
        [data]
        train = ["pictures"]
        validate = ["validate.png"]
        [[stage]]
        steps = {steps}
        batch = 8
        accumulate = 2
        patch = 32
        learning_rate = 5e-2
        clip = 1.0
        average = 0.9
        optimizer = {{ kind = "sgd", momentum = 0.9 }}
        loss = [{{ kind = "l1" }}]
        [[stage]]
        steps = 4
        batch = 4
        patch = 32
        learning_rate = 1e-3
        loss = [{{ kind = "mse" }}]
    "#
    );
    sandbox.write("tiny.toml", recipe.as_bytes());
    sandbox
}

/// Largest difference of two files of weights.
fn difference(sandbox: &Sandbox, a: &str, b: &str) -> f32 {
    let [a, b] = [a, b].map(|name| Weights::open(&sandbox.path(name)).unwrap());
    let names: Vec<String> = a.names().map(str::to_owned).collect();
    assert!(!names.is_empty() && names.iter().map(String::as_str).eq(b.names()));
    let of = |name: &String| {
        let [a, b] = [&a, &b].map(|weights| weights.tensor_any_shape(name).unwrap().1);
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    names.iter().map(of).fold(0.0, f32::max)
}

fn lines(sandbox: &Sandbox, path: &str) -> usize {
    std::fs::read_to_string(sandbox.path(path)).unwrap_or_default().lines().count()
}

/// Waits for lines of metrics.
fn wait_for(sandbox: &Sandbox, path: &str, wanted: usize) {
    let start = Instant::now();
    while lines(sandbox, path) < wanted {
        assert!(start.elapsed() < Duration::from_secs(120), "no {wanted} lines in {path}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(id: u32, name: &str) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

#[test]
fn two_processes_train_what_one_does() {
    let sandbox = sandbox(12);
    sandbox.run(&["train", "tiny.toml", "-o", "one", "--device", "cpu", "--threads", "1"]).exits(0);
    let arguments =
        ["launch", "-n", "2", "train", "tiny.toml", "-o", "two", "--device", "cpu", "--threads", "1", "--json"];
    let run = sandbox.run(&arguments).exits(0);
    assert_eq!((&run.json()["finished"], &run.json()["steps"]), (&true.into(), &16.into()), "one of them speaks");
    for file in ["weights.safetensors", "stage1.safetensors", "checkpoint.safetensors"] {
        let (found, moved) = (
            difference(&sandbox, &format!("one/{file}"), &format!("two/{file}")),
            difference(&sandbox, "one/stage1.safetensors", "one/weights.safetensors"),
        );
        assert!(found < 2e-5, "{file} differs by {found}");
        assert!(moved > 1e-3, "the second stage went somewhere: {moved}");
    }
    assert_eq!(lines(&sandbox, "one/metrics.jsonl"), lines(&sandbox, "two/metrics.jsonl"), "one of them writes");
    // What several have begun one can go on with, and the other way round.
    sandbox.run(&["train", "tiny.toml", "-o", "two", "--resume", "--device", "cpu"]).exits(0);
}

#[test]
fn ctrl_c_saves_and_ends_all() {
    let sandbox = sandbox(5000);
    let mut command =
        sandbox.command(&["launch", "-n", "2", "train", "tiny.toml", "--device", "cpu", "--threads", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&sandbox, "runs/tiny/metrics.jsonl", 10);
    signal(child.id(), "-INT");
    let run = finish(child.wait_with_output().unwrap()).exits(130);
    assert!(run.stderr.contains("--resume goes on"), "{}", run.stderr);
    let saved = Weights::open(&sandbox.path("runs/tiny/checkpoint.safetensors")).unwrap();
    assert_eq!(saved.metadata()["step"], (lines(&sandbox, "runs/tiny/metrics.jsonl")).to_string());
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_is_killed_ends_all_with_a_word_and_no_wait() {
    let sandbox = sandbox(5000);
    let mut command =
        sandbox.command(&["launch", "-n", "2", "train", "tiny.toml", "--device", "cpu", "--threads", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&sandbox, "runs/tiny/metrics.jsonl", 3);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let last = children.split_whitespace().last().expect("two processes").parse().unwrap();
    signal(last, "-KILL");
    let began = Instant::now();
    let run = finish(child.wait_with_output().unwrap()).exits(1);
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(run.stderr.contains("all processes were ended") && run.stderr.contains("--resume"), "{}", run.stderr);
    let resumed = ["train", "tiny.toml", "--resume", "--device", "cpu", "--quiet"];
    let mut command = sandbox.command(&resumed);
    let before = lines(&sandbox, "runs/tiny/metrics.jsonl");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&sandbox, "runs/tiny/metrics.jsonl", before + 2);
    signal(child.id(), "-KILL");
    child.wait_with_output().unwrap();
}

#[test]
fn mistakes_are_named() {
    let sandbox = sandbox(3);
    sandbox.run(&["launch", "-n", "2", "upscale", "x.png"]).exits(2).says("does not work in several processes");
    sandbox.run(&["launch", "-n", "2", "train", "absent.toml"]).exits(1).says("absent.toml: cannot read");
    let run = sandbox.run(&["launch", "-n", "3", "train", "tiny.toml", "--device", "cpu", "--threads", "1"]).exits(1);
    run.says("4 examples cannot be shared by 3 processes");
    let mut alone = sandbox.command(&["train", "tiny.toml", "--device", "cpu"]);
    alone.env("RANK", "1").env("WORLD_SIZE", "2");
    finish(alone.output().unwrap()).exits(1).says("MASTER_ADDR is not set");
}
