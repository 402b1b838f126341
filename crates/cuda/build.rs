//! Compiles `kernels/*.cu` into fat binaries that the crate embeds.
//!
//! nvcc is `SUPPLE_NVCC`, or that of `CUDA_HOME`, or the one on `PATH`, or the one that `cargo xtask cuda-toolchain` installed.
//! With none the crate has no kernels, and says so when a GPU is asked for. `SUPPLE_CUDA_ARCHS` lists the architectures to
//! compile for (`80 89 90a`, and PTX for what is newer, if not given): fewer are quicker to build.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Architectures compiled for unless `SUPPLE_CUDA_ARCHS` says otherwise.
const ARCHS: &str = "80 89 90a";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(cuda_kernels)");
    for name in ["SUPPLE_NVCC", "SUPPLE_CUDA_ARCHS", "CUDA_HOME", "PATH", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=kernels");
    let Some(nvcc) = find_nvcc() else { return };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let archs = env::var("SUPPLE_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.into());
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder of kernels is part of the crate")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    let mut table = String::from("pub(crate) static MODULES: &[(&str, &[u8])] = &[\n");
    for source in &sources {
        let name = source.file_stem().expect("a file").to_string_lossy().into_owned();
        let image = out.join(format!("{name}.fatbin"));
        compile(&nvcc, &archs, source, &image);
        table.push_str(&format!("    ({name:?}, include_bytes!({:?})),\n", image.display().to_string()));
    }
    table.push_str("];\n");
    fs::write(out.join("modules.rs"), table).expect("the build folder can be written");
    println!("cargo::rustc-cfg=cuda_kernels");
}

/// Compiles a source, unless its image is newer than it and what it includes and was made in the same way.
fn compile(nvcc: &Path, archs: &str, source: &Path, image: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size", "-Werror", "all-warnings"]);
    for arch in archs.split([' ', ',']).filter(|arch| !arch.is_empty()) {
        command.arg("-gencode").arg(format!("arch=compute_{arch},code=sm_{arch}"));
    }
    if archs == ARCHS {
        command.args(["-gencode", "arch=compute_89,code=compute_89"]);
    }
    command.arg("-o").arg(image).arg(source);
    let (way, stamp) = (format!("{command:?}"), image.with_extension("way"));
    let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let is_older = |path: &PathBuf| age(path).is_some_and(|age_of| age(image).is_some_and(|made| age_of < made));
    let mut sources = vec![source.to_path_buf()];
    let mut at = 0;
    while let Some(text) = sources.get(at).map(|path| fs::read_to_string(path).unwrap_or_default()) {
        let names = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
        let headers: Vec<PathBuf> = names.map(|name| Path::new("kernels").join(name)).collect();
        sources.extend(headers.into_iter().filter(|header| header.is_file()));
        at += 1;
    }
    if sources.iter().all(is_older) && fs::read_to_string(&stamp).is_ok_and(|was| was == way) {
        return;
    }
    let _ = fs::remove_file(&stamp);
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("cannot start {}: {error}", nvcc.display()));
    assert!(status.success(), "{} failed on {}", nvcc.display(), source.display());
    fs::write(stamp, way).expect("the build folder can be written");
}

/// The compiler, if there is one.
fn find_nvcc() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("SUPPLE_NVCC") {
        if path == "none" {
            return None;
        }
        let path = PathBuf::from(path);
        assert!(path.is_file(), "SUPPLE_NVCC is {}, which is no file", path.display());
        return Some(path);
    }
    let home = set("CUDA_HOME").map(|folder| PathBuf::from(folder).join("bin/nvcc"));
    let on_path: Vec<PathBuf> =
        set("PATH").iter().flat_map(env::split_paths).map(|folder: PathBuf| folder.join("nvcc")).collect();
    let cache: Option<OsString> =
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache").into()));
    let own = cache.map(|folder| PathBuf::from(folder).join("supple/cuda-13.0/nvidia/cu13/bin/nvcc"));
    home.into_iter().chain(on_path).chain(own).find(|path| path.is_file())
}
