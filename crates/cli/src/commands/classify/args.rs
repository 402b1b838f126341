//! The arguments of `supple classify`.

use crate::commands::upscale::parse_threads;
use crate::size::parse_pixels;
use std::path::PathBuf;
use supple::classifier::Precision;
use supple::{ClassifierOptions, DeviceChoice};

const EXAMPLES: &str = "\
Examples:
  supple classify photo.jpg -m mobilenet.tflite                       the five most probable names
  supple classify photos/ -m mobilenet.tflite --labels names.txt      a folder with all below it
  supple classify '**/*.jpg' -m net.safetensors --top 1               a pattern (quoted); one line a picture
  supple classify a.png -m body.tflite --head head.tflite             a network that comes in two files
  supple classify photos/ -m mobilenet.tflite --json | jq '.files[] | {input, best: .predictions[0].label}'
  supple classify photo.jpg -m mobilenet_quant.tflite --precision f32 a file in 8-bit integers, in floating point
  cat photo.jpg | supple classify - -m mobilenet.tflite               from standard input

No classifier is bundled. MobileNet, EfficientNet-Lite and similar networks work, as TFLite (float or quantised), as
safetensors written by supple, or as a PyTorch checkpoint.

Exit status: 0 done, 1 something failed (the rest is done), 2 wrong usage, 130 interrupted.";

/// Name what is in pictures
///
/// Reads PNG, JPEG, WebP, BMP, TIFF and GIF (its first frame). EXIF orientation is applied; the centre of the picture
/// is shrunk to what the network takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Pictures, folders (with all below them), quoted patterns such as 'photos/**/*.jpg', or - for standard input
    #[arg(value_name = "IN", required = true)]
    pub inputs: Vec<PathBuf>,

    #[command(flatten)]
    pub network: Network,

    /// How many names a picture gets
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub top: u32,

    /// Refuse pictures with more pixels, such as 400M; guards against hostile files [default: 268M]
    #[arg(long, value_name = "N", value_parser = parse_pixels)]
    pub max_pixels: Option<u64>,

    /// Print one JSON document on standard output instead of lines
    #[arg(long)]
    pub json: bool,

    /// Print results and errors only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which network, and how it is run.
#[derive(Debug, clap::Args)]
pub struct Network {
    /// The network: a .tflite, .safetensors or .pth file
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Its second half, where it comes in two files
    #[arg(long, value_name = "FILE", requires = "model")]
    pub head: Option<PathBuf>,

    /// A file with a name for each class, one a line [default: those in the network's file]
    #[arg(short, long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// Where to run: auto (an NVIDIA GPU if there is one, and the CPU where that cannot), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    pub device: DeviceChoice,

    /// Numbers to compute with
    #[arg(long, value_enum, default_value_t = Numbers::Auto)]
    pub precision: Numbers,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = parse_threads)]
    pub threads: usize,
}

/// [`Precision`] as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// int8 for a file in 8-bit integers, f32 for others; f16 on a GPU
    Auto,
    /// 32-bit floating point
    F32,
    /// As f32, in half precision where the CPU computes faster in it (ARM with fp16)
    Fast,
    /// 8-bit integers, which the file must have
    Int8,
}

impl From<Numbers> for Precision {
    fn from(numbers: Numbers) -> Precision {
        match numbers {
            Numbers::Auto => Precision::Auto,
            Numbers::F32 => Precision::F32,
            Numbers::Fast => Precision::Fast,
            Numbers::Int8 => Precision::Int8,
        }
    }
}

/// A precision as it is called in arguments and results.
pub fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Auto => "auto",
        Precision::F32 => "f32",
        Precision::Fast => "fast",
        Precision::Int8 => "int8",
        Precision::F16 => "f16",
    }
}

impl Network {
    /// As the library wants it.
    pub fn options(&self) -> ClassifierOptions {
        ClassifierOptions {
            labels: self.labels.clone(),
            head: self.head.clone(),
            threads: Some(self.threads).filter(|&n| n > 0),
            precision: self.precision.into(),
            device: self.device,
        }
    }
}
