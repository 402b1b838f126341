//! `supple compare`: two pictures and their difference side by side, for people who would rather look.

use crate::report::{Exit, Problem, say, show, show_json};
use serde_json::json;
use std::path::{Path, PathBuf};
use supple::compare::{CompareOptions, Rect, side_by_side};
use supple::picture::{self, EncodeOptions, Limits, PictureFormat};
use supple::{Cpu, Isa};

const EXAMPLES: &str = "\
Examples:
  supple compare photo.jpg photo_x4.png -o side_by_side.png
  supple compare a.png b.png -o eyes.png --crop 400,300,128,128 --zoom 4
  supple compare truth.png result.png                numbers only";

/// Lay two pictures and their difference side by side, and measure it
///
/// The smaller picture is enlarged to the size of the larger one. The third part shows the difference, amplified, around
/// middle grey.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// First picture
    #[arg(value_name = "A")]
    a: PathBuf,

    /// Second picture
    #[arg(value_name = "B")]
    b: PathBuf,

    /// File to write; without it only numbers are printed
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Part to show, in pixels of the larger picture: first column, first row, width, height
    #[arg(long, value_name = "X,Y,W,H", value_parser = parse_crop)]
    crop: Option<Rect>,

    /// Pixels to show for each pixel's side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    zoom: u8,

    /// How much the difference is amplified
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..))]
    amplify: u8,

    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let format = args.output.as_deref().map(format_of).transpose()?;
    if let Some(path) = args.output.as_ref().filter(|path| !args.overwrite && path.symlink_metadata().is_ok()) {
        return Err(supple::Error::Exists { path: path.clone() }.into());
    }
    let a = picture::open_with(&args.a, &Limits::default())?.picture;
    let b = picture::open_with(&args.b, &Limits::default())?.picture;
    let isa = Isa::from_env().map_err(Problem::usage)?;
    let cpu = Cpu::new(isa, crate::machine::threads());
    let options = CompareOptions { crop: args.crop, zoom: args.zoom.into(), amplify: args.amplify.into() };
    let comparison = side_by_side(&a, &b, &options, &cpu)?;
    let mut notes = comparison.notes;
    if let (Some(path), Some(format)) = (&args.output, format) {
        notes.extend(picture::save(path, &comparison.picture, format, &EncodeOptions::default(), args.overwrite)?);
    }
    if args.json {
        show_json(&json!({
            "a": args.a.display().to_string(),
            "b": args.b.display().to_string(),
            "output": args.output.as_ref().map(|path| path.display().to_string()),
            "psnr_rgb": comparison.psnr_rgb,
            "psnr_y": comparison.psnr_y,
            "max_difference": comparison.max_difference,
            "notes": notes,
        }))?;
        return Ok(Exit::Done);
    }
    for note in &notes {
        say(&format!("note: {note}"));
    }
    show(&format!(
        "RGB-PSNR {:.3} dB, Y-PSNR {:.3} dB, largest difference {} of 255\n",
        comparison.psnr_rgb, comparison.psnr_y, comparison.max_difference
    ))?;
    Ok(Exit::Done)
}

fn format_of(path: &Path) -> Result<PictureFormat, Problem> {
    PictureFormat::from_path(path).filter(|format| format.can_write()).ok_or_else(|| {
        let message = format!("cannot tell the format of {} from its name", path.display());
        Problem::usage(message).hint("end it with .png, .jpg, .webp, .bmp or .tif")
    })
}

fn parse_crop(text: &str) -> Result<Rect, String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Rect { x, y, width, height }),
        _ => Err("expected X,Y,W,H in pixels, such as 400,300,128,128".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_four_numbers() {
        assert_eq!(parse_crop("1, 2,3,4"), Ok(Rect { x: 1, y: 2, width: 3, height: 4 }));
        for text in ["", "1,2,3", "1,2,0,4", "1,2,3,4,5", "-1,2,3,4", "a,b,c,d"] {
            assert!(parse_crop(text).is_err(), "{text}");
        }
    }
}
