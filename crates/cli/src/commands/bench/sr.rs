//! `supple bench sr`: how fast a model runs on this machine.

use crate::commands::upscale::{Compute, Timings};
use crate::interrupt;
use crate::report::{Exit, show, show_json};
use crate::size;
use serde_json::json;
use std::time::{Duration, Instant};
use supple::{Picture, memory, models, peak};

const EXAMPLES: &str = "\
Examples:
  supple bench sr                                          the bundled x4 model on 256x256 pixels
  supple bench sr --width 1280 --height 720 --scale 2
  supple bench sr --threads 1 --precision f32 --json

A made-up picture in memory is enlarged in each round; reading and writing files are not counted. GFLOP/s count two
operations for each multiply-accumulate of the network as published, however it is computed.";

/// Measure the speed of super-resolution: time, Mpixel/s, GFLOP/s, share of the machine's peak, peak memory
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a bundled model, or a .safetensors or .pth file [default: the bundled one of the scale]
    #[arg(short, long)]
    model: Option<String>,

    /// Scale of the bundled model [default: 4]
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(2..=16), conflicts_with = "model")]
    scale: Option<u8>,

    /// Width of the picture
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    width: u32,

    /// Height of the picture
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    height: u32,

    /// Rounds that count; one more warms up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    #[command(flatten)]
    compute: Compute,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    interrupt::install();
    let name = args.model.clone().unwrap_or_else(|| format!("rlfn_s_x{}", args.scale.unwrap_or(4)));
    let upscaler = models::load(&models::resolve(&name)?, args.compute.options())?;
    let (width, height) = (args.width as usize, args.height as usize);
    let picture = made_up(width, height)?;

    let (mut times, mut stages) = (Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        let before = upscaler.network().stages();
        let start = Instant::now();
        upscaler.upscale_with(&picture, &mut |_| !interrupt::asked())?;
        if round > 0 {
            let time = start.elapsed();
            times.push(time.as_secs_f64());
            stages.push(Timings::new(Duration::ZERO, time, before, upscaler.network().stages()));
        }
    }
    let of = |stage: fn(&Timings) -> f64| {
        let mut all: Vec<f64> = stages.iter().map(stage).collect();
        all.sort_by(f64::total_cmp);
        super::median(&all) * 1e3
    };
    times.sort_by(f64::total_cmp);
    let median = super::median(&times);

    let (cpu, device) = (upscaler.cpu(), upscaler.network().device());
    let mpixels_per_s = (width * height) as f64 / 1e6 / median;
    let gflops = 2.0 * upscaler.network().macs(width, height) as f64 / 1e9 / median;
    let peak_gflops = peak::fma_gflops(cpu.isa, &cpu.pool);
    let share = gflops / peak_gflops;
    let peak_memory_mib = memory::peak().map(|bytes| bytes as f64 / (1 << 20) as f64);
    let precision = format!("{:?}", args.compute.precision).to_lowercase();
    if args.json {
        show_json(&json!({
            "model": name,
            "network": upscaler.name(),
            "scale": upscaler.scale(),
            "width": width,
            "height": height,
            "threads": cpu.threads(),
            "precision": precision,
            "isa": cpu.isa.name(),
            "device": device,
            "rounds": args.rounds,
            "median_ms": median * 1e3,
            "min_ms": times[0] * 1e3,
            "mpixels_per_s": mpixels_per_s,
            "gflops": gflops,
            "peak_gflops": peak_gflops,
            "share_of_peak": share,
            "peak_memory_mib": peak_memory_mib,
            "upload_ms": of(|t| t.upload),
            "run_ms": of(|t| t.run),
            "download_ms": of(|t| t.download),
            "other_ms": of(|t| t.other),
        }))?;
        return Ok(Exit::Done);
    }
    if let Some(device) = device {
        let lines = [
            ("model", format!("{name} ({} x{})", upscaler.name(), upscaler.scale())),
            ("picture", format!("{width}x{height}, {} rounds", args.rounds)),
            ("device", format!("{device}; times include the way there and back, and the samples made of the result")),
            ("time", format!("{:.2} ms median, {:.2} ms fastest", median * 1e3, times[0] * 1e3)),
            (
                "stages",
                format!(
                    "upload {:.2} ms, run {:.2} ms, download {:.2} ms, other {:.2} ms (medians)",
                    of(|t| t.upload),
                    of(|t| t.run),
                    of(|t| t.download),
                    of(|t| t.other)
                ),
            ),
            ("speed", format!("{mpixels_per_s:.3} Mpixel/s of input, {gflops:.0} GFLOP/s")),
        ];
        show(&lines.map(|(name, value)| format!("{name:<12} {value}\n")).concat())?;
        return Ok(Exit::Done);
    }
    let of_peak = format!("{:.0} % of the {peak_gflops:.0} measured for f32 multiply-adds", share * 100.0);
    let lines = [
        ("model", format!("{name} ({} x{})", upscaler.name(), upscaler.scale())),
        ("picture", format!("{width}x{height}, {} rounds", args.rounds)),
        ("machine", format!("{} threads, {}, precision {precision}", cpu.threads(), cpu.isa)),
        ("time", format!("{:.2} ms median, {:.2} ms fastest", median * 1e3, times[0] * 1e3)),
        ("speed", format!("{mpixels_per_s:.3} Mpixel/s of input")),
        ("arithmetic", format!("{gflops:.1} GFLOP/s, {of_peak}")),
        ("peak memory", memory::peak().map_or_else(|| "unknown".into(), size::bytes)),
    ];
    show(&lines.map(|(name, value)| format!("{name:<12} {value}\n")).concat())?;
    Ok(Exit::Done)
}

/// A picture with smooth parts, edges and texture, always the same.
fn made_up(width: usize, height: usize) -> Result<Picture, supple::Error> {
    let mut samples = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let edge = if (x / 16 + y / 16) % 2 == 0 { 60 } else { 0 };
            let texture = (x * 7 + y * 13 + x * y) % 31;
            samples.extend([
                (edge + texture + x * 128 / width) as u8,
                (edge + texture + y * 128 / height) as u8,
                (edge + 2 * texture) as u8,
            ]);
        }
    }
    Picture::from_rgb8(width, height, samples)
}
