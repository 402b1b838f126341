//! The npm package and the page, in `web/dist`: the library as WebAssembly in two builds, their JavaScript bindings, and
//! the files of `web/` that need no building.
//!
//! A module with vector instructions loads only where the host knows them, so there is one build for simd128 and one for
//! relaxed SIMD; `web/src/supple.js` picks. Both have the same bindings, which is checked.
//!
//! The bindings are made by the library behind `wasm-bindgen`'s command, so that Cargo.lock fixes its version together
//! with that of the macros: the two must be equal.

use crate::{run, wasm};
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use wasm_bindgen_cli_support::Bindgen;

/// Largest module, in bytes before compression.
const BUDGET: u64 = 600_000;

/// Name of the module's file, and flags for our crates beside those for simd128. Each module has the kernels once, for the
/// best instructions that it may use.
const BUILDS: [(&str, &str); 2] =
    [("simd128", "--cfg=best_isa_only"), ("relaxed-simd", "--cfg=best_isa_only -Ctarget-feature=+relaxed-simd")];

/// Files and folders of the package and the page: where they are, and where they go in `web/dist`.
const COPIED: [(&str, &str); 7] = [
    ("web/src", "."),
    ("web/page", "."),
    ("web/README.md", "README.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("models", "models"),
    ("web/models.json", "models/index.json"),
];

/// Builds everything, with a new `web/dist`.
pub fn build() -> anyhow::Result<()> {
    let root = crate::root();
    let dist = root.join("web/dist");
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    fs::create_dir_all(dist.join("engine"))?;
    for (from, to) in COPIED {
        copy(&root.join(from), &dist.join(to)).with_context(|| format!("cannot copy {from}"))?;
    }
    let template = fs::read_to_string(root.join("web/package.template.json"))?;
    fs::write(dist.join("package.json"), template.replace("VERSION", env!("CARGO_PKG_VERSION")))?;

    let mut bindings: Option<Bindings> = None;
    let mut sizes = Vec::new();
    for (name, flags) in BUILDS {
        let module = compile(name, flags)?;
        let made = Bindings::make(&module, name, &dist.join("engine"))?;
        let same = bindings.as_ref().is_none_or(|first| *first == made);
        ensure!(same, "the builds of the module have different bindings, so that one engine.js does not serve both");
        let size = fs::metadata(dist.join(format!("engine/{name}.wasm")))?.len();
        sizes.push((name, size));
        bindings = Some(made);
    }
    if let Some(Bindings { js, types }) = bindings {
        fs::write(dist.join("engine/engine.js"), js)?;
        fs::write(dist.join("engine/engine.d.ts"), types)?;
    }
    for (name, size) in &sizes {
        println!("web/dist/engine/{name}.wasm: {size} bytes, {BUDGET} are allowed");
    }
    ensure!(sizes.iter().all(|&(_, size)| size <= BUDGET), "a module is larger than {BUDGET} bytes");
    println!("web/dist is ready: `npm pack ./web/dist`, or `python3 -m http.server -d web/dist` for the page");
    Ok(())
}

/// Compiles `supple-wasm`; returns the module's path, where the next build puts its own.
fn compile(name: &str, flags: &str) -> anyhow::Result<PathBuf> {
    // A folder of its own, since another toolchain may use it than the rest of the workspace.
    let target = target_folder().join("web");
    run(&mut wasm::cargo("build --profile web -p supple-wasm --lib", &target, name, flags)?)?;
    let module = target.join(wasm::TARGET).join("web/supple_wasm.wasm");
    ensure!(module.is_file(), "cargo built no {}", module.display());
    Ok(module)
}

/// Where cargo builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::root().join("target"), |folder| crate::root().join(folder))
}

/// What `wasm-bindgen` generates beside the module.
#[derive(PartialEq)]
struct Bindings {
    js: String,
    types: String,
}

impl Bindings {
    /// Writes `NAME.wasm` in `folder`, and returns the rest.
    fn make(module: &Path, name: &str, folder: &Path) -> anyhow::Result<Bindings> {
        let mut generator = Bindgen::new();
        generator.input_path(module).out_name("engine").web(true)?.typescript(true);
        generator.omit_default_module_path(true).remove_name_section(true).remove_producers_section(true);
        let mut output = generator.generate_output()?;
        let bindings = Bindings { js: output.js().into(), types: output.ts().context("no types")?.into() };
        // js-sys brings one for shared memory, which nothing uses here.
        ensure!(!bindings.js.contains("./snippets/"), "the bindings import JavaScript that web/dist does not provide");
        fs::write(folder.join(format!("{name}.wasm")), output.wasm_mut().emit_wasm())?;
        Ok(bindings)
    }
}

/// Copies a file, or what is in a folder.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_file() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
