//! Compiling for WebAssembly: with Debian's toolchain, which builds the standard library from source, for size; or, where
//! there is none, with rustup's library for the target, which is larger.
//!
//! Builds that differ in instructions share the standard library and all crates that are not ours: what takes longest is
//! built once, for the fewest features. To that end cargo calls this program instead of `rustc` for our crates, and it
//! calls `rustc` with more flags.

use crate::{command, output};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells this program to compile in place of `rustc`, with these flags more.
const ADDED: &str = "SUPPLE_ADDED_RUSTFLAGS";

/// The target.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// What every host must have.
const FEATURES: &str = "+simd128";

/// A cargo command for the target that builds in `folder`, with `added` flags for our crates, such as
/// `-Ctarget-feature=+relaxed-simd`; `name` tells builds with different flags apart.
pub fn cargo(arguments: &str, folder: &Path, name: &str, added: &str) -> anyhow::Result<Command> {
    let sysroot = output("rustc", "--print sysroot")?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let mut flags = vec![format!("-Ctarget-feature={FEATURES}")];
    // No names of this machine's folders in what is published.
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))) {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    let mut cargo = if builds_library()? {
        // Debian's compiler has no linker for WebAssembly; rustup's serves both.
        let host = output("rustc", "-vV")?;
        let host = host.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc -vV names no host")?;
        let linker = libraries.join(host).join("bin/rust-lld");
        flags.push("-Clinker-flavor=wasm-ld".into());
        let library = "-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size";
        let mut cargo = debian_cargo(&format!("{arguments} --target {TARGET} {library}"));
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        cargo
    } else if libraries.join(TARGET).is_dir() {
        command(env!("CARGO"), &format!("{arguments} --locked --target {TARGET}"))
    } else {
        bail!("no compiler for WebAssembly: run .ci/setup-cross as root, or `rustup target add {TARGET}`");
    };
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags.join(" "));
    // Cargo keeps results of compilers with different names apart.
    fs::create_dir_all(folder)?;
    let compiler = folder.join(format!("rustc-{name}"));
    fs::copy(std::env::current_exe()?, &compiler)?;
    cargo.env("RUSTC_WORKSPACE_WRAPPER", compiler).env(ADDED, added);
    cargo.arg("--target-dir").arg(folder);
    Ok(cargo)
}

/// Whether the standard library is built from source, for size.
fn builds_library() -> anyhow::Result<bool> {
    Ok(output("rustup", "toolchain list")?.lines().any(|line| line.starts_with("debian")))
}

/// Compiles in place of `rustc`, if cargo has started this program for that: the arguments are the compiler and its own.
pub fn compile_for_cargo() -> anyhow::Result<()> {
    let Ok(added) = std::env::var(ADDED) else { return Ok(()) };
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (rustc, arguments) = arguments.split_first().context("no compiler is named")?;
    let mut command = Command::new(rustc);
    // Cargo asks for the compiler's version in the same way.
    if command.args(arguments).get_args().any(|argument| argument == TARGET) {
        command.args(added.split_whitespace());
    }
    std::process::exit(command.status()?.code().unwrap_or(1))
}

/// Debian's cargo, which RUSTC_BOOTSTRAP lets build the standard library.
fn debian_cargo(arguments: &str) -> Command {
    let mut cargo = command("rustup", &format!("run debian cargo {arguments} --locked"));
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // Set by the cargo that runs this program, and meant for its toolchain.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
        cargo.env_remove(name);
    }
    cargo
}
