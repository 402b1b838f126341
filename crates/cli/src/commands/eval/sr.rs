//! `supple eval sr`: how close a model comes to the truth, measured as papers measure it.

use crate::commands::upscale::Compute;
use crate::interrupt;
use crate::report::{Exit, Problem, show, show_json};
use std::path::PathBuf;
use supple::evaluate::{self, Candidate, Score};
use supple::models;

const EXAMPLES: &str = "\
Examples:
  supple eval sr --hr Set5/HR -s 4                       the bundled x4 model
  supple eval sr --hr Set5/HR -s 4 -m bicubic            the baseline
  supple eval sr --hr Set5/HR -m my_rlfn_x2.pth --json   a network of your own

A picture is cropped to a multiple of the scale, shrunk by MATLAB's bicubic (bit-exact) on 8 bits, and enlarged again.
PSNR and SSIM of luma (BT.601) and PSNR of RGB leave out a border as wide as the scale.";

/// Measure super-resolution: Y-PSNR, SSIM and RGB-PSNR per picture and in the mean
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of high-resolution pictures, or one picture
    #[arg(long, value_name = "DIR")]
    hr: PathBuf,

    /// Scale [default: that of the model, or 4]
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(2..=16))]
    scale: Option<u8>,

    /// Name of a bundled model, a .safetensors or .pth file, or bicubic [default: the bundled one of the scale]
    #[arg(short, long)]
    model: Option<String>,

    #[command(flatten)]
    compute: Compute,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let asked = args.scale.map(usize::from);
    let model = args.model.clone().unwrap_or_else(|| format!("rlfn_s_x{}", asked.unwrap_or(4)));
    let upscaler = match model.as_str() {
        "bicubic" => None,
        name => Some(models::load(&models::resolve(name)?, args.compute.options())?),
    };
    let scale = asked.unwrap_or_else(|| upscaler.as_ref().map_or(4, |upscaler| upscaler.scale()));
    let candidate = upscaler.as_ref().map_or(Candidate::Bicubic, Candidate::Network);
    let files = if args.hr.is_file() { vec![args.hr.clone()] } else { evaluate::pictures_in(&args.hr)? };
    if files.is_empty() {
        let problem = Problem::failed(format!("{}: no pictures in this folder", args.hr.display()));
        return Err(problem.hint("--hr names a folder of high-resolution pictures").into());
    }

    interrupt::install();
    let widths = files.iter().filter_map(|file| file.file_name()).map(|name| name.to_string_lossy().chars().count());
    let width = widths.max().unwrap_or(0).max(8);
    let line = |score: &Score| {
        let size = if score.width > 0 { format!("{}x{}", score.width, score.height) } else { String::new() };
        let (y, ssim, rgb) = (score.psnr_y, score.ssim_y, score.psnr_rgb);
        format!("{:width$}  {size:>11}  {y:>8.3}  {ssim:>7.4}  {rgb:>8.3}\n", score.name)
    };
    if !args.json {
        show(&format!(
            "{model} x{scale}\n{:width$}  {:>11}  {:>8}  {:>7}  {:>8}\n",
            "picture", "size", "Y-PSNR", "SSIM", "RGB-PSNR"
        ))?;
    }
    let mut shown = Ok(());
    let evaluation = evaluate::sr(&files, scale, candidate, &mut |score| {
        if !args.json && shown.is_ok() {
            shown = show(&line(score));
        }
        !interrupt::asked() && shown.is_ok()
    });
    shown?;
    let evaluation = evaluation?;
    if args.json {
        let mut json = serde_json::to_value(&evaluation)?;
        json["model"] = model.into();
        show_json(&json)?;
    } else {
        show(&line(&evaluation.mean))?;
    }
    Ok(Exit::Done)
}
