//! `supple compress`: a smaller, faster network from a trained one.

use crate::interrupt;
use crate::report::{Exit, Problem, say, show, show_json};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use supple::compress::{self, Allocation, Options, Progress, Report, Score, Shape, Stage};
use supple::convnet::{ConvNet, Quantized, Storage};
use supple::picture::{self, EncodeOptions, PictureFormat};
use supple::{Picture, classifier};

const EXAMPLES: &str = "\
Examples:
  supple compress mobilenet.tflite --calibration photos/                        30 % sparse, groups of 4
  supple compress net.safetensors --sparsity 0.5 --pattern 1x8 --calibration photos/ -o half.safetensors
  supple compress body.tflite --head head.tflite --calibration photos/ --report report.json --picture masks.png
  supple compress net.tflite --sparsity 0.3                                     without pictures: prune only, no fit
  supple compress net.safetensors --precision int8 --calibration photos/        8-bit integers, nothing pruned

Groups of 4 suit CPUs with 128- and 256-bit vectors, groups of 8 those with 512-bit vectors. Some hundred pictures of the
kind that the network is for are enough; they need no labels.

--sparsity 0.3 leaves 70 % of the inner convolutions' multiplications, taken away where that costs least: mostly in early
layers, which have few weights. --spread even removes 30 % of each layer's weights, for a smaller file and less accuracy.

Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.";

/// Make a classifier smaller and faster
///
/// Prunes weights in small groups that kernels can skip at no cost, reorders the channels of the whole network first so
/// that the groups lose little, and fits the weights that are left to calibration pictures.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The network: a .tflite, .safetensors or .pth file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Its second half, where it comes in two files
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,

    /// How
    #[arg(long, value_enum, default_value_t = Method::SparseByte)]
    method: Method,

    /// Share of the inner convolutions to remove, from 0 to below 1: of their multiplications, or weights with --spread even
    /// [default: 0.3, with --precision int8 none]
    #[arg(short, long, value_name = "SHARE", value_parser = parse_sparsity)]
    sparsity: Option<f64>,

    /// Numbers of the result; int8 rounds to 8-bit integers whose ranges are those seen on the pictures
    #[arg(long, value_enum, default_value_t = Target::F32, requires_if("int8", "calibration"))]
    precision: Target,

    /// Which weights go together: 1xB (those of B output channels at one input), unstructured, or filters (whole output
    /// channels)
    #[arg(long, value_name = "1x4|1x8|unstructured|filters", default_value = "1x4", value_parser = parse_pattern)]
    pattern: Shape,

    /// Folder of pictures to fit the weights with
    #[arg(short, long, value_name = "DIR")]
    calibration: Option<PathBuf>,

    /// How many of them are used at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pictures: u32,

    /// How the share is spread over the layers [default: marginal with pictures, even without]
    #[arg(long, value_enum, value_name = "HOW")]
    spread: Option<Spread>,

    /// Leave the order of channels as it is
    #[arg(long)]
    no_rearrange: bool,

    /// File to write [default: MODEL_sparse30.safetensors beside MODEL, with the sparsity in percent]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write what was done to each layer, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write a picture of the masks, as PNG
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,

    /// Replace results that exist
    #[arg(long)]
    overwrite: bool,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = crate::commands::upscale::parse_threads)]
    threads: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Method {
    /// Groups of weights, rearranged channels, least squares
    SparseByte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// 32-bit floating point
    F32,
    /// 8-bit integers
    Int8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Spread {
    /// Multiplications go where they are worth least; of the weights, fewer go
    Marginal,
    /// The same share of each layer's weights
    Even,
}

impl Args {
    fn sparsity(&self) -> f64 {
        self.sparsity.unwrap_or(if self.precision == Target::Int8 { 0.0 } else { 0.3 })
    }
}

fn parse_sparsity(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        Ok(share) if (1.0..100.0).contains(&share) => {
            Err(format!("a share such as {} is wanted, not percent", share / 100.0))
        }
        _ => Err("a share of at least 0 and below 1 is wanted, such as 0.3".into()),
    }
}

fn parse_pattern(text: &str) -> Result<Shape, String> {
    let block = text.strip_prefix("1x").and_then(|block| block.parse().ok());
    match (text, block) {
        ("filters", _) => Ok(Shape::Filters),
        ("unstructured", _) => Ok(Shape::Block(1)),
        (_, Some(block @ (1 | 2 | 4 | 8 | 16 | 32))) => Ok(Shape::Block(block)),
        _ => Err("known are unstructured, 1x2, 1x4, 1x8, 1x16, 1x32 and filters".into()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let Method::SparseByte = args.method;
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.model, args.sparsity(), args.precision));
    if output.extension().is_none_or(|ending| ending != "safetensors") {
        let problem = Problem::usage(format!("{}: networks are written as .safetensors", output.display()));
        return Err(problem.hint("give -o a name that ends with .safetensors").into());
    }
    let results: Vec<&PathBuf> =
        [Some(&output), args.report.as_ref(), args.picture.as_ref()].into_iter().flatten().collect();
    for file in &results {
        if !args.overwrite && file.symlink_metadata().is_ok() {
            return Err(supple::Error::Exists { path: (*file).clone() }.into());
        }
    }
    let network = classifier::open_network(&args.model, args.head.as_deref())?;
    let mut options = Options { shape: args.pattern, sparsity: args.sparsity(), ..Options::default() };
    if args.no_rearrange {
        options.rearrangement = None;
    }
    options.allocation = match (args.spread, &args.calibration) {
        (Some(Spread::Marginal), _) | (None, Some(_)) => Allocation::Marginal,
        (Some(Spread::Even), _) | (None, None) => Allocation::Uniform,
    };
    let files = match &args.calibration {
        Some(folder) => compress::calibration_pictures(folder, args.pictures as usize)?,
        None => {
            (options.score, options.reconstruction, options.importance) = (Score::Magnitude, None, None);
            Vec::new()
        }
    };
    if let (Some(folder), true) = (&args.calibration, files.is_empty()) {
        let problem = Problem::failed(format!("{}: no pictures in this folder", folder.display()));
        return Err(problem.hint("--calibration names a folder of pictures; without it nothing is fitted").into());
    }
    if args.calibration.is_none() && !args.quiet {
        say("note: without --calibration the weights that are left are not fitted, which costs accuracy");
    }

    interrupt::install();
    let bar = Bar::new(args.quiet);
    let threads = Some(args.threads).filter(|&threads| threads > 0);
    let pictures = compress::calibration(&network, &files, &mut |done| {
        bar.set("reading pictures", done as u64, files.len() as u64);
        !interrupt::asked()
    });
    let done = pictures.and_then(|pictures| {
        let mut pruned = (network, None);
        if args.precision == Target::F32 || options.sparsity > 0.0 {
            let (sparse, report) = compress::sparse_byte(&pruned.0, &options, &pictures, threads, &mut |progress| {
                bar.show(&progress);
                !interrupt::asked()
            })?;
            pruned = (sparse, Some(report));
        }
        let quantized = match args.precision {
            Target::F32 => None,
            Target::Int8 => {
                bar.set("rounding to integers", 0, 1);
                Some(compress::quantize(&pruned.0, &pictures, threads)?)
            }
        };
        Ok((pruned, quantized))
    });
    bar.clear();
    let ((pruned, report), quantized) = done?;
    let pruned: &ConvNet = quantized.as_ref().map_or(&pruned, |quantized| &quantized.network);

    pruned.save(&output, Storage::F32).map_err(supple::Error::from)?;
    let mut json = report.as_ref().map_or(Ok(serde_json::json!({ "network": pruned.name })), serde_json::to_value)?;
    if let Some(Quantized { snr_db, agreement, .. }) = &quantized {
        json["quantized"] = serde_json::json!({ "snr_db": snr_db, "agreement": agreement });
    }
    if let Some(path) = &args.report {
        write_whole(path, &serde_json::to_vec_pretty(&json)?, args.overwrite)?;
    }
    if let Some(path) = &args.picture {
        let (width, height, samples) = compress::masks_picture(pruned);
        let picture = Picture::from_rgb8(width, height, samples)?;
        picture::save(path, &picture, PictureFormat::Png, &EncodeOptions::default(), args.overwrite)?;
    }
    if args.json {
        json["output"] = serde_json::json!(output);
        show_json(&json)?;
    } else if !args.quiet {
        let mut text = report.map_or_else(String::new, |report| table(&report, &output));
        if let Some(Quantized { network, snr_db, agreement }) = &quantized {
            text += &format!(
                "{}: 8-bit integers, {snr_db:.1} dB, the same first name on {:.1} % of the pictures, {}\n",
                network.name,
                agreement * 100.0,
                output.display()
            );
        }
        show(&text)?;
    }
    Ok(Exit::Done)
}

/// `mobilenet.tflite` → `mobilenet_sparse30.safetensors`, `mobilenet_int8.safetensors` or both endings.
fn default_output(model: &Path, sparsity: f64, precision: Target) -> PathBuf {
    let mut stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if precision == Target::F32 || sparsity > 0.0 {
        stem += &format!("_sparse{:.0}", sparsity * 100.0);
    }
    if precision == Target::Int8 {
        stem += "_int8";
    }
    model.with_file_name(stem + ".safetensors")
}

/// Writes a file under a temporary name beside it, then renames it: a failure leaves nothing behind.
fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), supple::Error> {
    let failed = |action| move |source| supple::Error::Io { path: path.into(), action, source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".supple-").suffix(".part").tempfile_in(folder);
    let mut file = file.map_err(failed("create a file beside"))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed("write"))?;
    let renamed = if overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    renamed.map(|_| ()).map_err(|error| failed("rename a file to")(error.error))
}

fn table(report: &Report, output: &Path) -> String {
    let width = report.layers.iter().map(|layer| layer.name.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:width$}  {:>14}  {:>8}  {:>6}  {:>6}  {:>15}\n",
        "layer", "shape", "sparsity", "kept", "before", "error"
    );
    for layer in &report.layers {
        let [outputs, inputs, height, columns] = layer.shape;
        let shape = format!("{outputs}x{inputs}x{height}x{columns}");
        let percent = |share: f64| format!("{:.1}%", share * 100.0);
        let error = match (layer.error_before, layer.error_after) {
            (Some(before), Some(after)) => format!("{} > {}", percent(before), percent(after)),
            _ => "-".into(),
        };
        let (sparsity, kept) = (percent(layer.sparsity), percent(layer.kept));
        let before = percent(layer.kept_before_rearrangement);
        text += &format!("{:width$}  {shape:>14}  {sparsity:>8}  {kept:>6}  {before:>6}  {error:>15}\n", layer.name);
    }
    text += &format!(
        "{}: {}, {:.1} % of these layers' weights gone, {:.1} % of all multiplications, {}\n",
        report.network,
        report.pattern,
        report.sparsity * 100.0,
        report.saved_multiplications * 100.0,
        output.display()
    );
    text
}

/// The progress of three stages, on standard error.
struct Bar(ProgressBar);

impl Bar {
    fn new(quiet: bool) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        if !quiet && std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        let style = ProgressStyle::with_template("{wide_msg} {bar:16} {percent:>3}%  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
        Bar(bar)
    }

    fn show(&self, progress: &Progress<'_>) {
        let what = match progress.stage {
            Stage::Measure => "measuring",
            Stage::Rearrange => "rearranging",
            Stage::Reconstruct => "fitting",
        };
        self.set(&format!("{what} {}", progress.name), progress.done, progress.total);
    }

    fn set(&self, message: &str, done: u64, total: u64) {
        // A new stage has a pace of its own.
        if done < self.0.position() {
            self.0.reset();
        }
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(message.to_owned());
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_shares_read_as_people_write_them() {
        assert_eq!(parse_pattern("1x8"), Ok(Shape::Block(8)));
        assert_eq!(parse_pattern("unstructured"), Ok(Shape::Block(1)));
        assert_eq!(parse_pattern("filters"), Ok(Shape::Filters));
        assert!(["1x3", "4", "x", ""].iter().all(|text| parse_pattern(text).is_err()));
        assert_eq!(parse_sparsity("0.3"), Ok(0.3));
        assert!(parse_sparsity("30").expect_err("is percent").contains("0.3"));
        assert!(["1", "-0.1", "nan", "x"].iter().all(|text| parse_sparsity(text).is_err()));
    }

    #[test]
    fn results_stand_beside_the_network() {
        let name = |sparsity, precision| default_output(Path::new("a/net.tflite"), sparsity, precision);
        assert_eq!(name(0.3, Target::F32), Path::new("a/net_sparse30.safetensors"));
        assert_eq!(name(0.0, Target::Int8), Path::new("a/net_int8.safetensors"));
        assert_eq!(name(0.5, Target::Int8), Path::new("a/net_sparse50_int8.safetensors"));
    }
}
