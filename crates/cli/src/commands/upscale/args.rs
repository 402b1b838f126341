//! The arguments of `supple upscale`.

use crate::size::{parse_bytes, parse_pixels};
use clap::{ArgAction, ValueEnum};
use std::path::PathBuf;
use supple::DeviceChoice;
use supple::picture::PictureFormat;

const EXAMPLES: &str = "\
Examples:
  supple upscale photo.jpg                        write photo_x4.png beside it
  supple upscale photo.jpg -s 2 -o big.webp       twice as large, as WebP
  supple upscale photos/ -o large/                a folder with all below it; the tree is kept
  supple upscale 'scans/**/*.tif' -f tiff         a pattern (quoted, so that supple expands it)
  supple upscale - < in.png > out.png             from standard input to standard output
  supple upscale photo.jpg -m my_rlfn.pth         a network of your own, .safetensors or .pth

Exit status: 0 done, 1 something failed (the rest is done), 2 wrong usage, 130 interrupted.";

/// Enlarge pictures
///
/// Reads PNG, JPEG, WebP, BMP, TIFF and GIF (its first frame), 8 or 16 bit, grey, palette or colour, with or without
/// transparency. EXIF orientation is applied; EXIF and ICC data are carried over.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Pictures, folders (with all below them), quoted patterns such as 'photos/**/*.jpg', or - for standard input
    #[arg(value_name = "IN", required = true)]
    pub inputs: Vec<PathBuf>,

    /// File, folder (it exists, or the name ends with /), or - for standard output [default: NAME_x4.png beside IN]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,

    /// How many times larger a side becomes, 1.1 to 16 [default: the scale of the model, or 4]
    #[arg(short, long, value_parser = parse_scale)]
    pub scale: Option<f64>,

    /// Name of a bundled model (see 'supple models') or a .safetensors or .pth file [default: the bundled one nearest
    /// to the scale]
    #[arg(short, long)]
    pub model: Option<String>,

    /// Width of the parts a picture is worked on in, in pixels of the input, 32 or more; 0: as memory allows. The result
    /// does not depend on it
    #[arg(short, long, default_value_t = 0, value_parser = parse_tile, hide_default_value = true)]
    pub tile: usize,

    /// Format to write [default: from the name of OUT, else png]
    #[arg(short, long, value_name = "png|jpg|webp|bmp|tiff", value_parser = parse_format)]
    pub format: Option<PictureFormat>,

    /// Put between name and ending of results [default: _x4, according to the scale]
    #[arg(long, value_name = "TEXT", value_parser = parse_suffix)]
    pub suffix: Option<String>,

    /// Quality of JPEG results, 1 to 100 [default: 95]
    #[arg(long, value_name = "Q", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: Option<u8>,

    /// Drop EXIF and ICC data
    #[arg(long)]
    pub strip: bool,

    /// Replace results that exist
    #[arg(long)]
    pub overwrite: bool,

    /// Only say what would be read and written
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub compute: Compute,

    /// Average over the 8 rotations and reflections of the picture: slightly better, 8 times slower
    #[arg(long)]
    pub tta: bool,

    /// Treat the picture as a repeating tile: left continues at right, top at bottom (textures)
    #[arg(long)]
    pub wrap: bool,

    /// Refuse pictures with more pixels, such as 400M; guards against hostile files [default: 268M]
    #[arg(long, value_name = "N", value_parser = parse_pixels)]
    pub max_pixels: Option<u64>,

    /// Tell where the time of each picture went, and what limits
    #[arg(long)]
    pub timings: bool,

    /// Print one JSON document on standard output instead of lines
    #[arg(long)]
    pub json: bool,

    /// Print errors only
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub quiet: bool,
}

/// How a network is run.
#[derive(Debug, clap::Args)]
pub struct Compute {
    /// Where to run: auto (an NVIDIA GPU if there is one, and the CPU where that cannot), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    pub device: DeviceChoice,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = parse_threads)]
    pub threads: usize,

    /// Arithmetic: f32, or fast (reduced precision within 0.02 dB where the CPU has it); auto takes the fastest
    #[arg(long, value_enum, default_value_t = Precision::Auto, hide_possible_values = true)]
    pub precision: Precision,

    /// Memory to work in, such as 500M or 2G [default: a quarter of the machine's,
    /// at most 1.4G]. The result does not depend on it
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,
}

/// How exact the arithmetic has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// The fastest within 0.02 dB of f32.
    Auto,
    /// 32-bit floating point throughout.
    F32,
    /// Reduced precision where the CPU has it.
    Fast,
}

impl From<Precision> for supple::Precision {
    fn from(precision: Precision) -> supple::Precision {
        match precision {
            Precision::Auto => supple::Precision::Auto,
            Precision::F32 => supple::Precision::F32,
            Precision::Fast => supple::Precision::Fast,
        }
    }
}

/// Parses a scale: `4`, `2.5`, and also `x4` or `4x`.
pub fn parse_scale(text: &str) -> Result<f64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.strip_prefix('x').unwrap_or_else(|| lower.strip_suffix('x').unwrap_or(&lower));
    let error = || "expected a number from 1.1 to 16".to_string();
    let scale: f64 = number.parse().map_err(|_| error())?;
    if (1.1..=16.0).contains(&scale) { Ok(scale) } else { Err(error()) }
}

fn parse_format(text: &str) -> Result<PictureFormat, String> {
    let format = PictureFormat::from_extension(text).filter(|format| format.can_write());
    format.ok_or_else(|| "expected png, jpg, webp, bmp or tiff".into())
}

fn parse_tile(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(tile) if tile == 0 || (32..=1 << 20).contains(&tile) => Ok(tile),
        _ => Err("expected 0 (as memory allows), or 32 pixels or more".into()),
    }
}

/// Parses a number of threads.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n <= 1024)
        .ok_or_else(|| "expected a number of threads up to 1024, or 0 for all".into())
}

fn parse_suffix(text: &str) -> Result<String, String> {
    if text.contains(['/', '\\', '\0']) {
        Err("a suffix is part of a name, not of a path".into())
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_from_1_1_to_16_are_taken_in_any_spelling() {
        for (text, want) in [("4", 4.0), ("x4", 4.0), ("2X", 2.0), ("1.1", 1.1), ("16", 16.0), ("2.5x", 2.5)] {
            assert_eq!(parse_scale(text), Ok(want));
        }
        for text in ["1", "0", "-4", "17", "16.01", "nan", "inf", "", "x", "four"] {
            assert!(parse_scale(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tiles_are_zero_or_at_least_32() {
        assert_eq!((parse_tile("0"), parse_tile("32")), (Ok(0), Ok(32)));
        assert!(parse_tile("31").is_err() && parse_tile("x").is_err());
    }
}
