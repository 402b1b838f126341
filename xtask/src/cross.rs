//! The library on other CPUs than x86-64: compiled for ARM and WebAssembly, its kernels tested on ARM under qemu.
//!
//! Debian's Rust toolchain does it (`.ci/setup-cross` installs it and names it `debian`), since rustup's has no standard
//! library for these targets. It is another version than ours: the code has to compile on both.

use crate::{command, run};
use anyhow::{Context, bail};
use std::process::Command;

const ARM: &str = "aarch64-unknown-linux-gnu";
const WASM: &str = "wasm32-unknown-unknown";

/// Runs every check.
pub fn check() -> anyhow::Result<()> {
    let found = command("rustup", "toolchain list").output().context("cannot start rustup")?;
    if !String::from_utf8_lossy(&found.stdout).lines().any(|line| line.starts_with("debian")) {
        bail!("the cross toolchain is missing: run .ci/setup-cross as root first");
    }
    run(&mut cargo(&format!("check --target {ARM} -p supple")))?;
    run(&mut cargo(&format!("check --target {WASM} -p supple -Zbuild-std=std,panic_abort")))?;
    run(&mut cargo(&format!("test --target {ARM} -p supple-kernels")))
}

/// Debian's cargo. The release profile is used because it does not optimise procedural macros; RUSTC_BOOTSTRAP lets a
/// stable cargo build the standard library from source (for WebAssembly), and is set for all commands so that what they
/// share is built once.
fn cargo(arguments: &str) -> Command {
    let mut command = command("rustup", &format!("run debian cargo {arguments} --release --locked"));
    command.env("RUSTC_BOOTSTRAP", "1");
    // Set by the cargo that runs this program, and meant for its toolchain.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command
}
