//! `supple plot`: the curves of a training run.

use crate::report::{Exit, show};
use std::path::PathBuf;
use supple::picture::{self, EncodeOptions, PictureFormat};
use supple::train;

const EXAMPLES: &str = "\
Examples:
  supple plot runs/rlfn_s_x2                   write runs/rlfn_s_x2/curves.png
  supple plot runs/rlfn_s_x2 -o curves.png     at any time, also while the run goes on

Exit status: 0 done, 1 something failed, 2 wrong usage.";

/// Draw loss, validation PSNR and learning rate of a training run
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The run's folder, or its metrics.jsonl
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Picture to write, replaced if it exists [default: curves.png in the run's folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let folder = if args.run.is_dir() { Some(&*args.run) } else { args.run.parent() };
    let output = args.output.clone().unwrap_or_else(|| folder.unwrap_or(&args.run).join("curves.png"));
    let picture = train::plot(&args.run)?;
    picture::save(&output, &picture, PictureFormat::Png, &EncodeOptions::default(), true)?;
    show(&format!("{}\n", output.display()))?;
    Ok(Exit::Done)
}
