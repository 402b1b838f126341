//! `supple bench cnn`: how fast classifiers run, layer by layer if asked.

use super::median;
use crate::commands::classify::{Numbers, precision_name};
use crate::commands::upscale::parse_threads;
use crate::interrupt;
use crate::report::{Exit, Problem, show, show_json, table};
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use supple::classifier::{Engine, Precision, open_network, sparsify_at_random};
use supple::convnet::ConvNet;
use supple::{Cpu, DeviceChoice, Error, compress, compute, efficientnet_lite, mobilenet, peak};

const EXAMPLES: &str = "\
Examples:
  supple bench cnn                                                MobileNet-v1 with random weights
  supple bench cnn --sparsity 0.3 --pattern 1x4                   dense and 30 % sparse in turns
  supple bench cnn --network mobilenet_v2 --layers                layer by layer
  supple bench cnn dense.tflite sparse.safetensors --threads 1    files in turns
  supple bench cnn --precision int8                               the same network in 8-bit integers
  supple bench cnn --device cuda --batch 32                       on a GPU, 32 pictures at a time
  supple bench cnn --precision int8 --sparsity 0.5                with blocks of 4 inputs by 4 outputs that are zero
  supple bench cnn --network efficientnet_lite0 --json

Speed does not depend on the values of weights, except for zeros: random weights do. X GFLOP/s count two operations for each multiply-accumulate with a weight that is
not zero. Only the network is timed, on numbers in memory.";

/// Measure the speed of classifiers: time, GFLOP/s, share of the machine's peak, gain by sparsity
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Networks: .tflite, .safetensors or .pth files [default: --network with random weights]
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// Architecture to measure with random weights
    #[arg(long, value_enum, default_value_t = Architecture::MobilenetV1, conflicts_with = "models")]
    network: Architecture,

    /// Its channels, as a multiple of those published
    #[arg(long, default_value_t = 1.0, value_parser = parse_width, conflicts_with = "models")]
    width: f64,

    /// Its input, in pixels a side
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(32..=2048), conflicts_with = "models")]
    size: u32,

    /// Measure each network also with this share of zeros in its 1x1 convolutions, 0 to 1
    #[arg(long, value_parser = parse_sparsity)]
    sparsity: Option<f64>,

    /// Neighbouring inputs by outputs that are zero together [default: 1x4, for integers 4x4]
    #[arg(long, value_name = "1x4|1x8|4x4", value_parser = parse_pattern, requires = "sparsity")]
    pattern: Option<[usize; 2]>,

    /// Numbers to compute with; int8 quantises random weights
    #[arg(long, value_enum, default_value_t = Numbers::Auto)]
    precision: Numbers,

    /// Where to run: cpu, auto, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Cpu, hide_default_value = true)]
    device: DeviceChoice,

    /// Pictures that run at a time, on a GPU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_threads)]
    threads: usize,

    /// Rounds that count; three more warm up
    #[arg(long, alias = "rounds", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,

    /// Show each layer: time, GFLOP/s, share of the peak, sparsity
    #[arg(long)]
    layers: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Networks that are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Architecture {
    MobilenetV1,
    MobilenetV2,
    EfficientnetLite0,
}

fn parse_width(text: &str) -> Result<f64, String> {
    let width = text.parse().ok().filter(|width| (0.05..=4.0).contains(width));
    width.ok_or_else(|| "expected a number from 0.05 to 4".into())
}

fn parse_sparsity(text: &str) -> Result<f64, String> {
    let sparsity = text.parse().ok().filter(|sparsity| (0.0..=1.0).contains(sparsity));
    sparsity.ok_or_else(|| "expected a share from 0 to 1, such as 0.3".into())
}

fn parse_pattern(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=64).contains(side));
    let block = text.split_once('x').and_then(|(inputs, outputs)| Some([side(inputs)?, side(outputs)?]));
    block.ok_or_else(|| "expected 1x4, 1x8 or 4x4".into())
}

/// Runs that warm up caches, clocks and threads.
const WARM_UP: u32 = 3;

/// Of random weights and zeros.
const SEED: u64 = 1;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    interrupt::install();
    let cpu = compute::cpu(Some(args.threads).filter(|&n| n > 0))?;
    let precision = Precision::from(args.precision);
    let mut contenders = Vec::new();
    for (name, network) in networks(args)? {
        let network =
            if args.models.is_empty() && precision == Precision::Int8 { integers(&network)? } else { network };
        let dense = Contender::new(&cpu, name.clone(), &network, precision, args)?;
        let in_integers = dense.plan.precision() == Precision::Int8;
        contenders.push(dense);
        if let Some(sparsity) = args.sparsity {
            let [inputs, outputs] = args.pattern.unwrap_or(if in_integers { [4, 4] } else { [1, 4] });
            let mut sparse = network;
            sparsify_at_random(&mut sparse, sparsity, [inputs, outputs], SEED)?;
            let sparse = if in_integers { integers(&sparse)? } else { sparse };
            let name = format!("{name}, {}% {inputs}x{outputs}", sparsity * 100.0);
            contenders.push(Contender::new(&cpu, name, &sparse, precision, args)?);
        }
    }
    // The peak before and after the work: a machine whose clock changes in between is seen.
    let mut peak_gflops = peak::fma_gflops(cpu.isa, &cpu.pool);
    let several = contenders.len() > 1;
    for round in 0..WARM_UP + args.runs {
        for contender in &mut contenders {
            if interrupt::asked() {
                return Err(Error::Cancelled.into());
            }
            if several {
                contender.measure(false, false)?; // finds the caches as another network left them
            }
            contender.measure(args.layers, round >= WARM_UP)?;
        }
    }
    peak_gflops = peak_gflops.max(peak::fma_gflops(cpu.isa, &cpu.pool));
    contenders.iter_mut().for_each(Contender::sort);
    let first = contenders[0].median();
    if args.json {
        let list = contenders.iter().map(|contender| contender.json(peak_gflops, first, args.layers));
        show_json(&json!({
            "isa": cpu.isa.name(),
            "threads": cpu.threads(),
            "runs": args.runs,
            "peak_gflops": peak_gflops,
            "networks": list.collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut text = format!(
        "{} threads, {}, {peak_gflops:.1} GFLOP/s of f32 multiply-adds at most; {} runs in turns\n\n",
        cpu.threads(),
        cpu.isa,
        args.runs
    );
    let mut rows =
        vec![["network", "precision", "median", "fastest", "GFLOP/s", "of peak", "zeros", "gain"].map(String::from)];
    rows.extend(contenders.iter().map(|contender| contender.row(peak_gflops, first)));
    text += &table(&rows);
    if args.layers {
        for contender in &contenders {
            text += &format!("\n{}\n{}", contender.name, table(&contender.layer_rows(peak_gflops)));
        }
    }
    show(&text)?;
    Ok(Exit::Done)
}

/// The networks to measure, with what to call them.
fn networks(args: &Args) -> anyhow::Result<Vec<(String, ConvNet)>> {
    if args.models.is_empty() {
        let network = random(args)?;
        return Ok(vec![(network.name.clone(), network)]);
    }
    let open = |path: &PathBuf| Ok((path.display().to_string(), open_network(path, None)?));
    args.models.iter().map(open).collect()
}

/// The architecture that was asked for, with random weights.
fn random(args: &Args) -> anyhow::Result<ConvNet> {
    let config = mobilenet::Config { width: args.width, resolution: args.size as usize, ..Default::default() };
    let network = match args.network {
        Architecture::MobilenetV1 => mobilenet::v1_random(config, SEED),
        Architecture::MobilenetV2 => mobilenet::v2_random(config, SEED),
        Architecture::EfficientnetLite0 if config != mobilenet::Config::default() => {
            return Err(Problem::usage("efficientnet_lite0 has one width and one size: 1.0 and 224").into());
        }
        Architecture::EfficientnetLite0 => efficientnet_lite::lite0_random(config.classes, SEED),
    };
    Ok(network.map_err(Error::from)?)
}

/// Random weights as 8-bit integers.
fn integers(network: &ConvNet) -> Result<ConvNet, Error> {
    let len = network.input_shape().map_or(0, |shape| shape.len());
    Ok(compress::quantize(network, &[input(len)], Some(1))?.network)
}

/// Something like a picture: no plane is constant, none is subnormal.
fn input(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 255) as f32 / 127.5 - 1.0).collect()
}

/// What is measured.
struct Contender {
    name: String,
    parameters: usize,
    plan: Engine,
    input: Vec<f32>,
    /// Bytes of a batch, for a GPU.
    pictures: Vec<Vec<u8>>,
    /// Of each run.
    seconds: Vec<f64>,
    /// For each layer, of each run.
    layer_seconds: Vec<Vec<f64>>,
}

impl Contender {
    fn new(cpu: &Cpu, name: String, network: &ConvNet, precision: Precision, args: &Args) -> anyhow::Result<Contender> {
        let plan = Engine::on(cpu, network, precision, args.device)?;
        if plan.device().is_none() && args.batch > 1 {
            return Err(Problem::usage("--batch is for GPUs: name one with --device").into());
        }
        if plan.device().is_some() && args.layers {
            return Err(Problem::usage("a GPU does not tell the time of a layer: leave out --layers").into());
        }
        let len = plan.input_shape().len();
        let pictures = (0..usize::from(args.batch)).map(|p| (0..len).map(|i| (i * 7919 % 255 + p) as u8).collect());
        let pictures = if plan.device().is_some() { pictures.collect() } else { Vec::new() };
        let (input, parameters) = (input(len), network.parameters());
        let layer_seconds = vec![Vec::new(); plan.layers().len()];
        Ok(Contender { name, parameters, plan, input, pictures, seconds: Vec::new(), layer_seconds })
    }

    fn measure(&mut self, layers: bool, counts: bool) -> Result<(), Error> {
        let start = Instant::now();
        if self.pictures.is_empty() {
            self.plan.run(&self.input)?;
        } else {
            let pictures: Vec<&[u8]> = self.pictures.iter().map(Vec::as_slice).collect();
            self.plan.run_batch(&pictures)?;
        }
        if counts {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
        // In a run of its own: reading the clock between layers takes time as well.
        if layers && counts {
            let mut times = vec![Duration::ZERO; self.layer_seconds.len()];
            self.plan.run_timed(&self.input, &mut times)?;
            self.layer_seconds.iter_mut().zip(times).for_each(|(all, time)| all.push(time.as_secs_f64()));
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.seconds.sort_by(f64::total_cmp);
        self.layer_seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
    }

    fn median(&self) -> f64 {
        median(&self.seconds)
    }

    /// All multiply-accumulates, and those with weights that are not zero.
    fn macs(&self) -> (u64, u64) {
        let layers = self.plan.layers().iter();
        layers.fold((0, 0), |(all, kept), layer| (all + layer.macs, kept + layer.nonzero_macs))
    }

    fn gflops(&self) -> f64 {
        gflops(self.macs().1 * self.pictures.len().max(1) as u64, self.median())
    }

    fn sparsity(&self) -> f64 {
        let (all, kept) = self.macs();
        1.0 - kept as f64 / all.max(1) as f64
    }

    fn row(&self, peak: f64, first: f64) -> [String; 8] {
        let milliseconds = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        [
            self.name.clone(),
            self.plan.device().unwrap_or_else(|| precision_name(self.plan.precision()).into()),
            milliseconds(self.median()),
            milliseconds(self.seconds[0]),
            format!("{:.1}", self.gflops()),
            percent(self.gflops() / peak),
            percent(self.sparsity()),
            format!("{:.2}x", first / self.median()),
        ]
    }

    fn layer_rows(&self, peak: f64) -> Vec<[String; 8]> {
        let head = ["layer", "kind", "output", "ms", "of time", "GFLOP/s", "of peak", "zeros"];
        let whole: f64 = self.layer_seconds.iter().map(|seconds| median(seconds)).sum();
        let rows = self.plan.layers().iter().zip(&self.layer_seconds).map(|(layer, seconds)| {
            let seconds = median(seconds);
            let gflops = gflops(layer.nonzero_macs, seconds);
            let arithmetic = |text: String| if layer.macs == 0 { String::new() } else { text };
            [
                layer.name.clone(),
                layer.kind.to_string(),
                layer.output.to_string(),
                format!("{:.4}", seconds * 1e3),
                percent(seconds / whole),
                arithmetic(format!("{gflops:.1}")),
                arithmetic(percent(gflops / peak)),
                arithmetic(percent(layer.sparsity())),
            ]
        });
        std::iter::once(head.map(String::from)).chain(rows).collect()
    }

    fn json(&self, peak: f64, first: f64, layers: bool) -> serde_json::Value {
        let (macs, nonzero_macs) = self.macs();
        let mut json = json!({
            "name": self.name,
            "precision": precision_name(self.plan.precision()),
            "device": self.plan.device(),
            "batch": self.pictures.len().max(1),
            "parameters": self.parameters,
            "median_ms": self.median() * 1e3,
            "min_ms": self.seconds[0] * 1e3,
            "macs": macs,
            "nonzero_macs": nonzero_macs,
            "sparsity": self.sparsity(),
            "gflops": self.gflops(),
            "share_of_peak": self.gflops() / peak,
            "gain": first / self.median(),
        });
        if layers {
            let layers = self.plan.layers().iter().zip(&self.layer_seconds).map(|(layer, seconds)| {
                let gflops = gflops(layer.nonzero_macs, median(seconds));
                json!({
                    "name": layer.name,
                    "kind": layer.kind,
                    "input": [layer.input.channels, layer.input.height, layer.input.width],
                    "output": [layer.output.channels, layer.output.height, layer.output.width],
                    "median_ms": median(seconds) * 1e3,
                    "macs": layer.macs,
                    "sparsity": layer.sparsity(),
                    "gflops": gflops,
                    "share_of_peak": gflops / peak,
                })
            });
            json["layers"] = layers.collect();
        }
        json
    }
}

fn gflops(macs: u64, seconds: f64) -> f64 {
    2.0 * macs as f64 / 1e9 / seconds.max(1e-9)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
