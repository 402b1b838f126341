//! `supple eval ppl`: how well a language model predicts a text.

use super::progress;
use crate::commands::language_model::{Compute, Measured};
use crate::interrupt;
use crate::report::{Exit, show, show_json};
use serde_json::json;
use std::path::PathBuf;
use supple::text::evaluate::perplexity;

const EXAMPLES: &str = "\
Examples:
  supple eval ppl model.gguf --text wiki.txt                      windows of 512 tokens side by side
  supple eval ppl model.gguf --text wiki.txt --window 2048 --stride 512
  supple eval ppl model.gguf --text wiki.txt --windows 20 --json

Of windows side by side the second half counts, as with llama.cpp's llama-perplexity, whose numbers these are. With a stride
shorter than the window, of each window the last STRIDE tokens count. The numbers of different windows cannot be compared.";

/// Measure the perplexity of a language model on a text
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name
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
    let generator = args.compute.open(&args.model)?;
    let (tokens, windows) = super::windows(&args.measured, &generator, &text)?;
    interrupt::install();
    let result = perplexity(&generator, &tokens, windows, &mut |done, all, so_far| {
        progress(done, all, &format!("perplexity {so_far:.4}"));
        !interrupt::asked()
    })?;
    if args.json {
        show_json(&json!({
            "model": args.model.display().to_string(),
            "text": args.measured.text.display().to_string(),
            "perplexity": result.perplexity,
            "standard_error": result.error,
            "predictions": result.predictions,
            "windows": result.windows,
            "window": windows.window,
            "stride": windows.stride,
            "skip": windows.skip,
        }))?;
    } else {
        show(&format!(
            "perplexity {:.4} ± {:.4}: {} predictions in {} windows of {}, stride {}, after {} tokens of context\n",
            result.perplexity,
            result.error,
            result.predictions,
            result.windows,
            windows.window,
            windows.stride,
            windows.skip + 1,
        ))?;
    }
    Ok(Exit::Done)
}
