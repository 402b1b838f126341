//! The library on other CPUs than x86-64: compiled for ARM and WebAssembly, its kernels tested on ARM under qemu and as
//! WebAssembly in Node.
//!
//! Debian's Rust toolchain does it (`.ci/setup-cross` installs it and names it `debian`), since rustup's has no standard
//! library for these targets. It is another version than ours: the code has to compile on both.

use crate::{command, output, root, run};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const ARM: &str = "aarch64-unknown-linux-gnu";
const WASM: &str = "wasm32-unknown-unknown";
/// WebAssembly with system calls: what tests need.
const WASI: &str = "wasm32-wasip1";
/// Where Debian's wasi-libc lies.
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi";

/// The CPUs that tests run on, as qemu names them: from plain NEON to all extensions.
const CPUS: [&str; 4] = ["cortex-a53", "cortex-a76", "neoverse-n1", "max"];
/// What has no path of its own on any CPU, and takes most of the time: run on the first of [`CPUS`] alone.
const SAME_ON_ALL: &str = "--skip winograd_equals_the_reference --skip tuning_ends_with_any_clock";

/// Runs every check.
pub fn check() -> anyhow::Result<()> {
    if !is_installed()? {
        bail!("the cross toolchain is missing: run .ci/setup-cross as root first");
    }
    run(&mut cargo(&format!("check --release --target {ARM} -p supple")))?;
    let features = "--no-default-features --features files,bundled,ditn,pytorch"; // all but GPUs
    run(cargo(&format!("check --release --target {WASM} -p supple {features} -Zbuild-std=std,panic_abort"))
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C target-feature=+simd128"))?;
    arm()?;
    webassembly()
}

/// One build, run on each CPU.
fn arm() -> anyhow::Result<()> {
    let test = format!("test --release --target {ARM} -p supple-kernels");
    for cpu in CPUS {
        let skip = if cpu == CPUS[0] { "" } else { SAME_ON_ALL };
        run(cargo_test(&test, &format!("--quiet {skip}")).env("QEMU_CPU", cpu))?;
    }
    Ok(())
}

/// A build for each module that is shipped; a Node too old for relaxed-simd runs the first alone.
fn webassembly() -> anyhow::Result<()> {
    let runner = root().join("xtask/wasi-run.mjs");
    for (feature, flags) in [("simd128", "+simd128"), ("relaxed-simd", "+simd128,+relaxed-simd")] {
        let mut probe = command("node", "--no-warnings");
        probe.arg(&runner).args(["--probe", feature]);
        if !probe.status().context("cannot start node")?.success() {
            println!("skipped: this Node does not know {feature}");
            continue;
        }
        let flags = [
            "-C linker-flavor=wasm-ld -C link-self-contained=no",
            &format!("-L {WASI_LIBC} -C link-arg={WASI_LIBC}/crt1-command.o -C link-arg=-lc"),
            // Threads, which Debian's library lacks; nothing here starts one.
            "-C link-arg=--unresolved-symbols=ignore-all",
            &format!("-C target-feature={flags}"),
        ];
        let test = format!("test --release --target {WASI} -p supple-kernels -Zbuild-std=std,panic_abort,test");
        run(cargo_test(&test, "--quiet")
            .env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker()?)
            .env("CARGO_TARGET_WASM32_WASIP1_RUNNER", format!("node --no-warnings {}", runner.display()))
            .env("CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS", flags.join(" ")))?;
    }
    Ok(())
}

/// Whether Debian's toolchain is there.
pub fn is_installed() -> anyhow::Result<bool> {
    Ok(output("rustup", "toolchain list")?.lines().any(|line| line.starts_with("debian")))
}

/// The linker of rustup's toolchain, which serves WebAssembly too; Debian's compiler brings none for it.
fn linker() -> anyhow::Result<PathBuf> {
    let about = output("rustc", "-vV")?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(Path::new(output("rustc", "--print sysroot")?.trim()).join("lib/rustlib").join(host).join("bin/rust-lld"))
}

/// [`cargo`] with arguments for the test program.
fn cargo_test(arguments: &str, program: &str) -> Command {
    let mut command = cargo(arguments);
    command.arg("--").args(program.split_whitespace());
    command
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
