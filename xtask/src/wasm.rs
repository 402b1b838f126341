//! Compiling for WebAssembly: with rustup's standard library for the target where it is installed, else with Debian's
//! toolchain, which builds it from source.

use crate::{cross, output};
use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// The target.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A cargo command for the target with `features` of the target, such as `+simd128`.
pub fn cargo(arguments: &str, features: &str) -> anyhow::Result<Command> {
    let sysroot = output("rustc", "--print sysroot")?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let mut flags = vec![format!("-Ctarget-feature={features}")];
    let mut command = if libraries.join(TARGET).is_dir() {
        crate::command(env!("CARGO"), &format!("{arguments} --locked --target {TARGET}"))
    } else if cross::is_installed()? {
        // Debian's compiler has no linker for WebAssembly; rustup's serves both.
        let host = output("rustc", "-vV")?;
        let host = host.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc -vV names no host")?;
        let linker = libraries.join(host).join("bin/rust-lld");
        flags.push("-Clinker-flavor=wasm-ld".into());
        let mut command = cross::cargo(&format!("{arguments} --target {TARGET} -Zbuild-std=std,panic_abort"));
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        command
    } else {
        bail!("no compiler for WebAssembly: `rustup target add {TARGET}`, or run .ci/setup-cross as root");
    };
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags.join(" "));
    Ok(command)
}
