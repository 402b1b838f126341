//! `supple upscale` from end to end: what is read, where results go, and what is never done.

mod common;

use common::{Sandbox, png};
use std::io::Read;
use std::process::Stdio;

#[test]
fn a_picture_is_written_beside_its_input_four_times_as_large() {
    let sandbox = Sandbox::new();
    sandbox.picture("photo.jpg");
    sandbox.run(&["upscale", "photo.jpg"]).exits(0).says("12x9").says("48x36").says("photo_x4.png");
    assert_eq!(sandbox.size("photo_x4.png"), (48, 36));
    assert_eq!(sandbox.files(), ["photo.jpg", "photo_x4.png"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_auto_goes_on_without() {
    let sandbox = Sandbox::new();
    sandbox.picture("photo.jpg");
    sandbox.run(&["upscale", "photo.jpg", "--device", "abacus"]).exits(2).says("auto, cpu, cuda");
    // No machine has a thousand GPUs; one without kernels, driver or GPU says that first.
    let run = sandbox.run(&["upscale", "photo.jpg", "--device", "cuda:1000"]);
    run.exits(1).says("GPU").says("hint: ");
    assert_eq!(sandbox.files(), ["photo.jpg"]);
    sandbox.run(&["upscale", "photo.jpg", "--device", "auto"]).exits(0);
    sandbox.run(&["upscale", "photo.jpg", "--device", "cpu", "--overwrite"]).exits(0);
}

#[test]
fn scale_and_format_decide_the_name() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    sandbox.run(&["upscale", "a.png", "-s", "2.5", "-f", "jpg"]).exits(0);
    assert_eq!(sandbox.size("a_x2.5.jpg"), (30, 23));
    sandbox.run(&["upscale", "a.png", "-s", "2", "-o", "new/folder/"]).exits(0);
    assert_eq!(sandbox.size("new/folder/a_x2.png"), (24, 18));
    sandbox.run(&["upscale", "a.png", "-s", "3", "-o", "b.webp"]).exits(0);
    assert_eq!(&sandbox.read("b.webp")[8..12], b"WEBP");
    sandbox.run(&["upscale", "a.png", "-s2", "--suffix", "", "-f", "tiff", "-o", "new"]).exits(0);
    assert_eq!(sandbox.size("new/a.tif"), (24, 18));
    sandbox.run(&["upscale", "a.png", "-s2", "-o", "c.bmp"]).exits(0);
    assert_eq!(&sandbox.read("c.bmp")[..2], b"BM");
}

#[test]
fn a_folder_keeps_its_tree_and_what_is_no_picture_is_skipped() {
    let sandbox = Sandbox::new();
    for name in ["in/a.png", "in/s/b.jpg", "in/s/t/c.bmp"] {
        sandbox.picture(name);
    }
    for name in ["in/Thumbs.db", "in/.DS_Store", "in/s/._b.jpg", "in/notes.txt"] {
        sandbox.write(name, b"no picture");
    }
    sandbox.run(&["upscale", "in", "-o", "in/out", "-s", "2"]).exits(0).says("3 pictures");
    for name in ["in/out/a_x2.png", "in/out/s/b_x2.png", "in/out/s/t/c_x2.png"] {
        assert_eq!(sandbox.size(name), (24, 18));
    }
    assert_eq!(sandbox.files().len(), 3 + 4 + 3);
    // The second run sees the same three inputs: results are not inputs, and all of them exist.
    sandbox.run(&["upscale", "in", "-o", "in/out", "-s", "2"]).exits(1).says("3 failed").says("--overwrite");
    assert_eq!(sandbox.files().len(), 3 + 4 + 3);
}

#[test]
fn results_beside_their_inputs_are_not_enlarged_again() {
    let sandbox = Sandbox::new();
    sandbox.picture("in/a.png");
    sandbox.picture("in/b.jpg");
    sandbox.run(&["upscale", "in", "-s2"]).exits(0);
    sandbox.run(&["upscale", "in", "-s2", "--overwrite"]).exits(0).says("2 results of earlier runs");
    sandbox.run(&["upscale", "in/*", "-s3"]).exits(0);
    assert_eq!(sandbox.files(), ["in/a.png", "in/a_x2.png", "in/a_x3.png", "in/b.jpg", "in/b_x2.png", "in/b_x3.png"]);
}

#[test]
fn patterns_are_expanded_by_the_command_itself() {
    let sandbox = Sandbox::new();
    for name in ["p/a.jpg", "p/b.png", "p/s/c.jpg"] {
        sandbox.picture(name);
    }
    sandbox.run(&["upscale", "p/**/*.jpg", "-o", "out", "-s2", "-q"]).exits(0);
    assert_eq!(sandbox.size("out/a_x2.png"), (24, 18));
    assert_eq!(sandbox.size("out/s/c_x2.png"), (24, 18));
    assert_eq!(sandbox.files().len(), 5);
    sandbox.run(&["upscale", "p/*.gif"]).exits(1).says("p/*.gif: no picture matches");
}

#[test]
fn results_are_never_overwritten_unless_asked() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    sandbox.write("a_x2.png", b"precious");
    sandbox.run(&["upscale", "a.png", "-s2"]).exits(1).says("error: ").says("hint: use --overwrite");
    assert_eq!(sandbox.read("a_x2.png"), b"precious");
    sandbox.run(&["upscale", "a.png", "-s2", "--overwrite"]).exits(0);
    assert_eq!(sandbox.size("a_x2.png"), (24, 18));
}

#[test]
fn two_inputs_for_one_output_are_refused_before_work_starts() {
    let sandbox = Sandbox::new();
    for name in ["a.jpg", "a.png", "b.png"] {
        sandbox.picture(name);
    }
    sandbox
        .run(&["upscale", "b.png", "a.jpg", "a.png"])
        .exits(2)
        .says("a.jpg and a.png would both be written to a_x4.png");
    sandbox.run(&["upscale", "."]).exits(2).says("would both be written");
    assert_eq!(sandbox.files(), ["a.jpg", "a.png", "b.png"]);
}

#[test]
fn standard_input_becomes_standard_output() {
    let sandbox = Sandbox::new();
    let run = sandbox.pipe(&["upscale", "-", "-s2"], &png(12, 9)).exits(0);
    let picture = image::load_from_memory(&run.stdout).unwrap();
    assert_eq!((picture.width(), picture.height()), (24, 18));
    let run = sandbox.pipe(&["upscale", "-", "-s2", "-f", "jpg"], &png(12, 9)).exits(0);
    assert_eq!(run.stdout[..2], [0xff, 0xd8]);
    sandbox.pipe(&["upscale", "-", "-s2", "-o", "x.png"], &png(12, 9)).exits(0);
    assert_eq!(sandbox.size("x.png"), (24, 18));
    sandbox.picture("a.png");
    let run = sandbox.run(&["upscale", "a.png", "-s2", "-o", "-"]).exits(0);
    assert_eq!(run.stdout, sandbox.read("x.png"));
    sandbox.pipe(&["upscale", "-"], b"").exits(1).says("standard input");
    sandbox.pipe(&["upscale", "-", "a.png"], b"").exits(2);
    sandbox.run(&["upscale", "a.png", "-o", "-", "--json"]).exits(2);
}

#[test]
fn a_closed_pipe_is_an_error_and_no_panic() {
    let sandbox = Sandbox::new();
    sandbox.write("a.png", &png(64, 64));
    let mut command = sandbox.command(&["upscale", "a.png", "-s2", "-o", "-", "-f", "bmp"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && !stderr.contains("panic"), "{stderr}");
}

#[test]
fn json_tells_what_was_done() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    sandbox.write("b.png", b"text");
    let json = sandbox.run(&["upscale", "a.png", "b.png", "-o", "out", "-s2", "--json"]).exits(1).json();
    assert_eq!((&json["written"], &json["failed"], &json["interrupted"]), (&1.into(), &1.into(), &false.into()));
    let files = json["files"].as_array().unwrap();
    assert_eq!((&files[0]["input"], &files[0]["output"]), (&"a.png".into(), &"out/a_x2.png".into()));
    assert_eq!((&files[0]["output_width"], &files[0]["output_height"]), (&24.into(), &18.into()));
    assert!(files[1]["error"].as_str().unwrap().contains("b.png"), "{json}");
}

#[test]
fn a_dry_run_only_tells() {
    let sandbox = Sandbox::new();
    sandbox.picture("in/a.png");
    let run = sandbox.run(&["upscale", "in", "-o", "out", "--dry-run"]).exits(0);
    assert_eq!(run.text(), "in/a.png -> out/a_x4.png\n");
    assert_eq!(sandbox.files(), ["in/a.png"]);
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    let run = sandbox.run(&["upscale", "a.png", "-s2", "-q"]).exits(0);
    assert_eq!((run.text(), run.stderr), (String::new(), String::new()));
}

#[test]
fn memory_tiles_and_threads_do_not_change_the_result() {
    let sandbox = Sandbox::new();
    sandbox.write("a.png", &png(70, 40));
    let f32 = ["upscale", "a.png", "-s2", "--precision", "f32", "-q"];
    let out = |name, more: &[&str]| {
        sandbox.run(&[&f32[..], &["-o", name], more].concat()).exits(0);
        sandbox.read(name)
    };
    let whole = out("whole.png", &[]);
    assert!(whole == out("tiles.png", &["-t", "32"]));
    assert!(whole == out("memory.png", &["--max-memory", "64M", "--threads", "1"]));
}

#[test]
fn one_pixel_is_a_picture_too() {
    let sandbox = Sandbox::new();
    sandbox.write("dot.png", &png(1, 1));
    sandbox.run(&["upscale", "dot.png"]).exits(0);
    assert_eq!(sandbox.size("dot_x4.png"), (4, 4));
    sandbox.run(&["upscale", "dot.png", "-s", "1.1", "--tta", "--wrap"]).exits(0);
    assert_eq!(sandbox.size("dot_x1.1.png"), (1, 1));
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png");
    for scale in ["1", "17", "0", "-2", "nan", "big"] {
        sandbox.run(&["upscale", "a.png", &format!("--scale={scale}")]).exits(2).says("1.1 to 16");
    }
    sandbox.run(&["upscale"]).exits(2);
    sandbox.run(&["upscale", "a.png", "-t", "8"]).exits(2).says("32 pixels");
    sandbox.run(&["upscale", "a.png", "-o", "b.gif"]).exits(2).says("b.gif");
    sandbox.run(&["upscale", "a.png", "-o", "b.png", "-f", "jpg"]).exits(2).says("-f jpg");
    sandbox.run(&["upscale", "missing.png"]).exits(1).says("error: missing.png").says("hint: ");
    assert_eq!(sandbox.files(), ["a.png"]);
}
