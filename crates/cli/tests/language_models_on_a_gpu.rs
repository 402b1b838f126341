//! Language models and GPUs on the command line, as far as a machine without one shows it.

mod common;

use common::Sandbox;

const SHAPE: [&str; 9] = ["bench", "llm", "--shape", "smollm2-135m", "-p", "2", "-n", "2", "-r"];

#[test]
fn a_gpu_that_is_not_there_is_said_in_one_line() {
    let sandbox = Sandbox::new();
    // No machine has so many, whether or not it has a driver.
    let run = sandbox.run(&[&SHAPE[..], &["1", "--device", "cuda:1000"]].concat());
    let run = run.exits(1).says("error: ").says("GPU").says("hint: ").says("--device");
    assert_eq!(run.stderr.lines().count(), 2, "an error and a hint: {}", run.stderr);
    sandbox.run(&[&SHAPE[..], &["1", "--device", "abacus"]].concat()).exits(2).says("auto, cpu, cuda");
}

#[test]
fn made_up_weights_are_measured_and_said_to_be_that() {
    let sandbox = Sandbox::new();
    let all = [&SHAPE[..], &["1", "--format", "q4_0", "--device", "cpu", "--threads", "1"]].concat();
    let run = sandbox.run(&all).exits(0);
    let text = run.text();
    assert!(text.contains("smollm2-135m, random Q4_0: llama, 134.5 M weights"), "{text}");
    assert!(text.contains("pp2") && text.contains("tg2"), "{text}");
    sandbox.run(&["bench", "llm"]).exits(2).says("<MODEL>");
    sandbox.run(&["bench", "llm", "--shape", "llama-9b"]).exits(2).says("llama-3.1-8b");
    sandbox.run(&["bench", "llm", "--shape", "llama-3.1-8b", "--format", "q9"]).exits(2).says("q4_k");
}
