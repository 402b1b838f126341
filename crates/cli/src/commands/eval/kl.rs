//! `supple eval kl`: how far one language model's predictions are from another's.

use super::progress;
use crate::commands::language_model::{Compute, Measured};
use crate::interrupt;
use crate::report::{Exit, show, show_json};
use serde_json::json;
use std::path::PathBuf;
use supple::text::evaluate::divergence;

const EXAMPLES: &str = "\
Examples:
  supple eval kl model-f16.gguf model-q4.gguf --text wiki.txt
  supple eval kl model/ model-q4.gguf --text wiki.txt --windows 20 --json

Windows as for supple eval ppl. The divergence is the mean of sum(p ln(p / q)) in nats, p being the reference's probabilities.";

/// Measure how far a language model's predictions are from those of a reference
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The reference: GGUF file or Hugging Face folder
    reference: PathBuf,

    /// The model to compare with it
    model: PathBuf,

    #[command(flatten)]
    measured: Measured,

    #[command(flatten)]
    compute: Compute,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let text = super::text(&args.measured)?;
    let (reference, model) = (args.compute.open(&args.reference)?, args.compute.open(&args.model)?);
    let (tokens, windows) = super::windows(&args.measured, &reference, &text)?;
    interrupt::install();
    let result = divergence(&reference, &model, &tokens, windows, &mut |done, all, so_far| {
        progress(done, all, &format!("divergence {so_far:.5}"));
        !interrupt::asked()
    })?;
    if args.json {
        show_json(&json!({
            "reference": args.reference.display().to_string(),
            "model": args.model.display().to_string(),
            "text": args.measured.text.display().to_string(),
            "kl_divergence": result.mean,
            "standard_error": result.error,
            "kl_99": result.percentile_99,
            "kl_max": result.max,
            "top_1_agreement": result.agreement,
            "predictions": result.predictions,
            "window": windows.window,
            "stride": windows.stride,
            "skip": windows.skip,
        }))?;
    } else {
        show(&format!(
            "divergence {:.5} ± {:.5} nats (99 % below {:.4}, largest {:.4}); the likeliest token is the same in {:.2} % of {} \
             predictions; windows of {}, stride {}\n",
            result.mean,
            result.error,
            result.percentile_99,
            result.max,
            result.agreement * 100.0,
            result.predictions,
            windows.window,
            windows.stride,
        ))?;
    }
    Ok(Exit::Done)
}
