//! The CUDA compiler, for those who have none: NVIDIA's own wheels, installed with pip into the user's cache, where
//! `crates/cuda/build.rs` finds it. And the check that every kernel compiles.

use crate::{command, root, run};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::{env, fs};

const WHEELS: &str = "nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
                      nvidia-cuda-cccl==13.0.85";

/// Where the compiler lies in the folder of the wheels.
const NVCC: &str = "nvidia/cu13/bin/nvcc";

/// The folder that the wheels go to, as `crates/cuda/build.rs` knows it.
fn folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("supple/cuda-13.0"))
}

/// Installs the compiler unless it is there.
pub fn toolchain() -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let nvcc = folder.join(NVCC);
    if nvcc.is_file() {
        println!("{} is there", nvcc.display());
        return Ok(nvcc);
    }
    let parent = folder.parent().expect("made of two names");
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Under another name until it is whole.
    let partial = parent.join(format!("cuda-13.0.{}.part", std::process::id()));
    let mut pip = command("python3", "-m pip install --quiet --no-deps --disable-pip-version-check --target");
    let installed = run(pip.arg(&partial).args(WHEELS.split_whitespace()));
    if let Err(error) = installed {
        let _ = fs::remove_dir_all(&partial);
        return Err(error.context("cannot install NVIDIA's wheels (about 270 MB, unpacked) with pip"));
    }
    fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !nvcc.is_file() {
        bail!("the wheels hold no {NVCC}");
    }
    println!("installed {}", nvcc.display());
    Ok(nvcc)
}

/// Compiles every kernel for one architecture, with warnings as errors, and checks the Rust around them.
pub fn check() -> anyhow::Result<()> {
    let nvcc = toolchain()?;
    let target = root().join("target/cuda");
    let mut cargo = command(env!("CARGO"), "clippy --release --locked -p supple-tensor --features cuda --all-targets");
    run(cargo
        .args(["--", "-D", "warnings"])
        .env("SUPPLE_NVCC", nvcc)
        .env("SUPPLE_CUDA_ARCHS", env::var_os("SUPPLE_CUDA_ARCHS").unwrap_or_else(|| "90a".into()))
        .env("CARGO_TARGET_DIR", target))
}
