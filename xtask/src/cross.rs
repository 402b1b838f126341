//! The library on other CPUs than x86-64: compiled for ARM and WebAssembly, its kernels tested on ARM under qemu.
//!
//! Debian's Rust toolchain does it (`.ci/setup-cross` installs it and names it `debian`), since rustup's has no standard
//! library for these targets. It is another version than ours: the code has to compile on both.

use crate::{command, output, run};
use anyhow::bail;
use std::process::Command;

const ARM: &str = "aarch64-unknown-linux-gnu";
const WASM: &str = "wasm32-unknown-unknown";

/// Runs every check.
pub fn check() -> anyhow::Result<()> {
    if !is_installed()? {
        bail!("the cross toolchain is missing: run .ci/setup-cross as root first");
    }
    run(&mut cargo(&format!("check --release --target {ARM} -p supple")))?;
    run(&mut cargo(&format!("check --release --target {WASM} -p supple -Zbuild-std=std,panic_abort")))?;
    run(&mut cargo(&format!("test --release --target {ARM} -p supple-kernels")))
}

/// Whether Debian's toolchain is there.
pub fn is_installed() -> anyhow::Result<bool> {
    Ok(output("rustup", "toolchain list")?.lines().any(|line| line.starts_with("debian")))
}

/// Debian's cargo. The checks use the release profile because it does not optimise procedural macros; RUSTC_BOOTSTRAP lets a
/// stable cargo build the standard library from source (for WebAssembly), and is set for all commands so that what they
/// share is built once.
pub fn cargo(arguments: &str) -> Command {
    let mut command = command("rustup", &format!("run debian cargo {arguments} --locked"));
    command.env("RUSTC_BOOTSTRAP", "1");
    // Set by the cargo that runs this program, and meant for its toolchain.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command
}
