//! Ctrl-C in the middle of a batch.
#![cfg(unix)]

mod common;

use common::{Sandbox, finish, png};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn finished_pictures_stay_the_one_in_work_is_dropped() {
    let sandbox = Sandbox::new();
    sandbox.write("in/1.png", &png(4, 4));
    // Large enough to last much longer than the signal takes to arrive.
    for name in ["in/2.png", "in/3.png", "in/4.png"] {
        sandbox.write(name, &png(900, 900));
    }
    let mut command = sandbox.command(&["upscale", "in", "-o", "out", "--threads", "1", "--precision", "f32"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !sandbox.path("out/1_x4.png").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the first picture is never finished");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    interrupt(&child);
    let run = finish(child.wait_with_output().unwrap()).exits(130);
    assert!(run.stderr.contains("interrupted: 1 written"), "{}", run.stderr);
    let results: Vec<_> = sandbox.files().into_iter().filter(|f| f.starts_with("out")).collect();
    assert_eq!(results, ["out/1_x4.png"]);
    assert_eq!(sandbox.size("out/1_x4.png"), (16, 16));
}
