//! `supple inspect`: what a model's file holds, as tensors (`weights`), as a list of operators (`operators`), or as a language
//! model (`language`).

mod language;
mod operators;
mod weights;

use crate::report::Exit;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use supple::Upscaler;
use supple::classifier::open_network;
use supple::weights::{Weights, tflite};

const EXAMPLES: &str = "\
Examples:
  supple inspect model.safetensors
  supple inspect checkpoint.pth
  supple inspect mobilenet.tflite                                      operators, shapes, zeros
  supple inspect SmolLM2-135M.gguf                                     metadata, tensors and their blocks
  supple inspect Qwen2.5-0.5B/                                         a folder: config.json and its shards
  supple inspect model.safetensors --json | jq '.tensors[].name'
  supple inspect mobilenet.tflite --json | jq '.operators[].name'

Nothing in the file is run: of a PyTorch checkpoint only tensors are read.";

/// Show what is in a model's file: tensors and metadata, or the operators of a classifier
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The file: .safetensors, .pth, .tflite or .gguf; or the folder of a language model
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if language::is_gguf(&args.file) {
        return language::gguf(args);
    }
    // A folder without any weights is an error of the kind that a file would be.
    if args.file.is_dir() {
        return language::checkpoint(args);
    }
    let is_operators = is_tflite(&args.file);
    // The names of the tensors of a classifier say less than its operators do.
    if is_operators || Upscaler::open(&args.file).is_err() {
        match open_network(&args.file, None) {
            Ok(network) => return operators::run(args, &network),
            Err(error) if is_operators || is_convnet(&args.file) => return Err(error.into()),
            Err(_) => {}
        }
    }
    weights::run(args)
}

fn is_tflite(path: &Path) -> bool {
    tflite::recognises(&head(path))
}

/// The first bytes of a file; none of what is no file: opening a pipe would wait for its other end.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    let read = path.is_file() && File::open(path).and_then(|file| file.take(64).read_to_end(&mut head)).is_ok();
    if read { head } else { Vec::new() }
}

/// Whether the file says of itself that it is a list of operators, be it damaged or not.
fn is_convnet(path: &Path) -> bool {
    Weights::open(path).is_ok_and(|weights| weights.metadata().contains_key("supple_convnet"))
}
