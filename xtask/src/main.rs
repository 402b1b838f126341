//! Build chores of the workspace: `cargo xtask <command>`.

mod cross;
mod licences;

use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask <command>
  licences   check the licence and the source of every crate in Cargo.lock
  cross      check that the library compiles for ARM and WebAssembly, and test the kernels on ARM under qemu;
             run .ci/setup-cross as root first";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["licences"] => licences::check(),
        ["cross"] => cross::check(),
        _ => bail!("{USAGE}"),
    }
}

/// A command that will run in the root of the workspace.
fn command(program: &str, arguments: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace"));
    command
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
