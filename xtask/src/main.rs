//! Build chores of the workspace: `cargo xtask <command>`.

mod cross;
mod cuda;
mod drawings;
mod licences;
mod sr_data;
#[cfg(feature = "web")]
mod wasm;
#[cfg(feature = "web")]
mod web;

use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask <command>
  licences   check the licence and the source of every crate in Cargo.lock
  cross      check that the library compiles for ARM and WebAssembly, and test the kernels on ARM under qemu and as
             WebAssembly in Node; run .ci/setup-cross as root first
  cuda-toolchain
             install NVIDIA's compiler into the cache folder, for machines without one; builds then have CUDA kernels
  cuda       compile every CUDA kernel for one architecture, and check the Rust around them; needs no GPU
  sr-data    gather pictures to train super-resolution on: photographs from Debian's wallpaper packages (200 MB), and
             drawings of what they lack (text, grids, facades), in pictures/train or the folder given
  web        build the npm package and the page in web/dist";

fn main() -> anyhow::Result<()> {
    #[cfg(feature = "web")]
    wasm::compile_for_cargo()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["licences"] => licences::check(),
        ["cross"] => cross::check(),
        ["cuda-toolchain"] => cuda::toolchain().map(|_| ()),
        ["cuda"] => cuda::check(),
        ["sr-data"] => sr_data::gather("pictures/train"),
        ["sr-data", folder] => sr_data::gather(folder),
        #[cfg(feature = "web")]
        ["web"] => web::build(),
        // What makes the bindings takes a minute to compile, so that only this chore brings it in.
        #[cfg(not(feature = "web"))]
        ["web"] => run(&mut command(env!("CARGO"), "run --release --locked --package xtask --features web -- web")),
        _ => bail!("{USAGE}"),
    }
}

/// A command that will run in the root of the workspace.
fn command(program: &str, arguments: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    command.current_dir(root());
    command
}

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// What a command prints; an error if it fails.
fn output(program: &str, arguments: &str) -> anyhow::Result<String> {
    let output = command(program, arguments).output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` to its end; another exit status than success is an error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let words: Vec<&OsStr> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let line = words.join(OsStr::new(" ")).display().to_string();
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start {line}"))?;
    if !status.success() {
        bail!("{status}: {line}");
    }
    Ok(())
}
