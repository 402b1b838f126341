//! `supple doctor`: what this machine offers, what of it is used, and whether it works.

use crate::report::{Exit, show, show_json};
use crate::{machine, size};
use serde_json::json;
use supple::{Isa, Picture, Upscaler, memory};

const EXAMPLES: &str = "\
Examples:
  supple doctor
  supple doctor --json
  SUPPLE_ISA=avx2 supple doctor      use less than the CPU offers (on x86-64: scalar, avx2, avx512, amx)";

/// Show CPU, instruction sets, threads and memory, and test that a bundled model works here
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let offered: Vec<&str> = Isa::available().map(Isa::name).collect();
    let in_use = Isa::from_env();
    let selftest = selftest();
    let exit = if in_use.is_ok() && selftest.is_ok() { Exit::Done } else { Exit::Failed };
    let brand = machine::cpu_brand().unwrap_or_else(|| std::env::consts::ARCH.into());
    let (cores, threads) = (machine::cores(), machine::threads());
    let (total, available) = (memory::total(), machine::available_memory());
    let features = machine::cpu_features();
    let gpu = supple::compute::gpu_name();
    let gpu_products = supple::compute::gpu_products();

    if args.json {
        show_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            "cpu": brand,
            "cores": cores,
            "threads": threads,
            "isa_available": offered,
            "isa": in_use.as_ref().ok().map(|isa| isa.name()),
            "isa_error": in_use.as_ref().err(),
            "classification": in_use.as_ref().ok().map(|&isa| classification(isa)),
            "cpu_features": features,
            "memory_bytes": total,
            "memory_available_bytes": available,
            "gpu": gpu.as_ref().ok(),
            "gpu_error": gpu.as_ref().err(),
            "gpu_products": gpu_products,
            "selftest": selftest.as_ref().map_or_else(|e| e.as_str(), |()| "ok"),
        }))?;
        return Ok(exit);
    }
    let cores = cores.map(|n| format!("{n} cores, ")).unwrap_or_default();
    let available = available.map(|bytes| format!(", {} available", size::bytes(bytes))).unwrap_or_default();
    let classifiers = in_use.as_ref().map_or_else(|_| "unknown".into(), |&isa| classification(isa));
    let in_use = in_use.map_or_else(|error| format!("error: {error}"), |isa| isa.to_string());
    let lines = [
        ("supple", format!("{} ({}-{})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS)),
        ("CPU", brand),
        ("threads", format!("{cores}{threads} threads in use unless --threads says otherwise")),
        ("instructions", format!("{in_use} in use; {} offered (SUPPLE_ISA chooses)", offered.join(", "))),
        ("CPU features", features.join(" ")),
        ("classifiers", classifiers),
        ("memory", format!("{}{available}", size::bytes(total))),
        ("GPU", gpu.unwrap_or_else(|reason| reason)),
        ("GPU products", gpu_products.unwrap_or_else(|| "none".into())),
        ("self-test", selftest.as_ref().map_or_else(|error| format!("failed: {error}"), |()| "ok".into())),
    ];
    show(&lines.map(|(name, value)| format!("{name:<13} {value}\n")).concat())?;
    Ok(exit)
}

/// Which kernels classifiers run on.
fn classification(isa: Isa) -> String {
    let block = supple::classifier::dense_block(isa);
    format!("planar convolutions on {}, {block} channels at a time, zeros in blocks left out", isa.name())
}

/// Enlarges a small grey picture: what comes out must be about as grey.
fn selftest() -> Result<(), String> {
    let text = |error: supple::Error| error.to_string();
    let grey = Picture::from_rgb8(16, 16, vec![128; 16 * 16 * 3]).map_err(text)?;
    let enlarged = Upscaler::bundled(4).map_err(text)?.upscale(&grey).map_err(text)?;
    let samples = enlarged.samples8().unwrap_or_default();
    match samples.iter().find(|&&sample| sample.abs_diff(128) > 16) {
        _ if samples.is_empty() => Err("no picture came out".into()),
        Some(sample) => Err(format!("a grey of 128 became {sample}")),
        None => Ok(()),
    }
}
