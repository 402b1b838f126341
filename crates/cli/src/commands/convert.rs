//! `supple convert`: a language model as a GGUF file, in blocks of choice.

use crate::report::{Exit, Problem, say, show_json};
use crate::size;
use serde_json::json;
use std::path::PathBuf;
use supple::text::convert::{TARGETS, folder, gguf};
use supple::weights::gguf::{BlockType, Gguf};

const EXAMPLES: &str = "\
Examples:
  supple convert SmolLM2-135M-Instruct/ -o smollm2.gguf --type q4_k   a Hugging Face folder, with tokeniser and template
  supple convert model-Q4_K_M.gguf -o model-f16.gguf --type f16      dequantise
  supple convert model-f16.gguf -o model-q8.gguf --type q8_0         quantise
  supple convert model.gguf -o copy.gguf                             check and copy

Vectors stay as they are. Of q4_k, q5_k and q6_k rows are blocks of 256: matrices with other rows become q5_0, q5_1 or q8_0,
and f16 if their rows are no blocks of 32 either; the last product becomes q6_k with q4_k and q5_k. Quantising what is
quantised already loses more than quantising the floats it was made from.";

/// Write a language model as a GGUF file, with its matrices stored in a type of choice
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a GGUF file, or a Hugging Face folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Type of matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k or q6_k; as they are if none is given
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = parse_type)]
    block_type: Option<BlockType>,

    /// Replace a file that exists
    #[arg(long)]
    overwrite: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_type(text: &str) -> Result<BlockType, String> {
    let known = BlockType::from_name(text).filter(|found| TARGETS.iter().any(|row| row.0 == *found));
    known.ok_or_else(|| {
        let names: Vec<String> = TARGETS.iter().map(|row| row.0.name().to_lowercase()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.output.exists() && !args.overwrite {
        let problem = Problem::failed(format!("{}: exists already", args.output.display()));
        return Err(problem.hint("use --overwrite to replace it").into());
    }
    let summary = if args.model.is_dir() {
        folder(&args.model, &args.output, args.block_type, &mut |_, _| ())?
    } else {
        let model = Gguf::open(&args.model).map_err(supple::Error::from)?;
        gguf(&model, &args.output, args.block_type, &mut |_, _| ())?
    };
    let bytes = std::fs::metadata(&args.output)?.len();
    if args.json {
        show_json(&json!({
            "output": args.output.display().to_string(),
            "bytes": bytes,
            "converted": summary.converted,
            "copied": summary.copied,
            "skipped": summary.skipped,
        }))?;
    } else {
        let (converted, copied) = (summary.converted, summary.copied);
        say(&format!(
            "{}: {}, {converted} tensors converted, {copied} copied",
            args.output.display(),
            size::bytes(bytes)
        ));
    }
    Ok(Exit::Done)
}
