//! `supple convert`: a language model in other blocks.

use crate::report::{Exit, Problem, say, show_json};
use crate::size;
use serde_json::json;
use std::path::PathBuf;
use supple::text::convert::{TARGETS, gguf};
use supple::weights::gguf::{BlockType, Gguf};

const EXAMPLES: &str = "\
Examples:
  supple convert model-Q4_K_M.gguf -o model-f16.gguf --type f16      dequantise
  supple convert model-f16.gguf -o model-q8.gguf --type q8_0         quantise
  supple convert model.gguf -o copy.gguf                             check and copy

Vectors stay as they are; matrices whose rows are no whole blocks become f16. Quantising what is quantised already loses
more than quantising the floats it was made from.";

/// Write a GGUF model with its matrices stored in another type
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, a GGUF file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Type of matrices: f32, f16, bf16, q8_0, q4_0 or q4_1; as they are if none is given
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
    let model = Gguf::open(&args.model).map_err(supple::Error::from)?;
    let summary = gguf(&model, &args.output, args.block_type, &mut |_, _| ())?;
    let bytes = std::fs::metadata(&args.output)?.len();
    if args.json {
        show_json(&json!({
            "output": args.output.display().to_string(),
            "bytes": bytes,
            "converted": summary.converted,
            "copied": summary.copied,
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
