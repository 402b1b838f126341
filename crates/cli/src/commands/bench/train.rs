//! `supple bench train`: how fast a network is trained on this machine.

use crate::interrupt;
use crate::report::{Exit, say, show, show_json};
use serde_json::json;
use supple::train::{Options, TrainingPrecision, Trial, speed};
use supple::{DeviceChoice, memory};

const EXAMPLES: &str = "\
Examples:
  supple bench train                                       RLFN_S x2, 64 patches of 128 a step
  supple bench train --device cuda --precision bf16 --json
  supple bench train --network ditn_tiny --batch 16 --patch 96 --device cpu

The loop of 'supple train' is run on made-up pictures, with all that it does for each step: batches cut and turned by threads
and sent to the device, forward and backward pass, clipping, Adam and the moving average.";

/// Measure the speed of training: time of a step, steps and examples a second, and batches a second of the loader alone
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Network, as recipes call it
    #[arg(long, default_value = "rlfn_s")]
    network: String,

    /// Output pixels along a side of an input pixel
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    scale: u8,

    /// Examples in a step
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,

    /// Side of an example in high-resolution pixels
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=4096))]
    patch: u32,

    /// Parts that a batch is split into
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    accumulate: u32,

    /// Steps that count; ten more warm up
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(5..=1_000_000))]
    steps: u32,

    /// Where to train: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    device: DeviceChoice,

    /// What the network computes in on a GPU: f32, bf16 or f16
    #[arg(long, value_name = "TYPE", default_value_t = TrainingPrecision::F32)]
    precision: TrainingPrecision,

    /// Tell the GPU every step kernel by kernel, and not once for all
    #[arg(long)]
    no_graph: bool,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = crate::commands::upscale::parse_threads)]
    threads: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    interrupt::install();
    let [scale, batch, patch, accumulate, steps] =
        [u32::from(args.scale), args.batch, args.patch, args.accumulate, args.steps].map(|n| n as usize);
    let trial = Trial { network: args.network.clone(), scale, batch, patch, accumulate, steps };
    let options = Options {
        resume: false,
        threads: Some(args.threads).filter(|&threads| threads > 0),
        device: args.device,
        precision: Some(args.precision),
        without_graph: args.no_graph,
    };
    let found = speed(&trial, options, &mut || !interrupt::asked())?;
    let steps_per_s = 1e3 / found.median_ms;
    let peak_memory_mib = memory::peak().map(|bytes| bytes as f64 / (1 << 20) as f64);
    if args.json {
        show_json(&json!({
            "network": args.network,
            "scale": scale,
            "batch": batch,
            "patch": patch,
            "accumulate": accumulate,
            "device": found.device,
            "graph": found.graph,
            "steps": steps,
            "median_ms": found.median_ms,
            "min_ms": found.min_ms,
            "steps_per_s": steps_per_s,
            "examples_per_s": steps_per_s * batch as f64,
            "loader_steps_per_s": found.loader_per_s,
            "loss": Some(found.loss).filter(|loss| loss.is_finite()),
            "peak_memory_mib": peak_memory_mib,
            "notes": found.notes,
        }))?;
        return Ok(Exit::Done);
    }
    found.notes.iter().for_each(|note| say(note));
    let lines = [
        ("network", format!("{} x{scale}, {batch} patches of {patch} in {accumulate} parts", args.network)),
        ("device", found.device.clone()),
        ("step", format!("{:.2} ms median, {:.2} ms fastest", found.median_ms, found.min_ms)),
        ("speed", format!("{steps_per_s:.1} steps/s, {:.0} examples/s", steps_per_s * batch as f64)),
        ("loader", format!("{:.1} batches/s alone", found.loader_per_s)),
    ];
    show(&lines.map(|(name, value)| format!("{name:<12} {value}\n")).concat())?;
    Ok(Exit::Done)
}
