//! Evaluation as super-resolution papers do it.
//!
//! A high-resolution picture is cropped to a multiple of the scale, shrunk by MATLAB's bicubic on 8 bits, enlarged again and
//! compared: PSNR and SSIM of luma, PSNR of red, green and blue, each without a border of `scale` pixels.

use crate::picture::{self, Limits, Picture, PictureFormat};
use crate::resample::matlab::imresize;
use crate::{Error, Upscaler, metrics};
use std::path::{Path, PathBuf};

/// What is evaluated.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    /// MATLAB's bicubic: the baseline.
    Bicubic,
    /// A network.
    Network(&'a Upscaler),
}

/// How well one picture came back.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// Name of the file.
    pub name: String,
    /// Width of the high-resolution picture, cropped.
    pub width: usize,
    /// Height of the high-resolution picture, cropped.
    pub height: usize,
    /// PSNR of luma, in dB.
    pub psnr_y: f64,
    /// SSIM of luma.
    pub ssim_y: f64,
    /// PSNR of red, green and blue, in dB.
    pub psnr_rgb: f64,
}

/// Scores of a set of pictures.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Scale.
    pub scale: usize,
    /// One score for each picture.
    pub images: Vec<Score>,
    /// Mean of the scores; its name is `mean`, its size 0×0.
    pub mean: Score,
}

/// Evaluates a candidate on files of high-resolution pictures; `each` is told every score as it comes, and `false` from it
/// cancels.
///
/// # Errors
/// If there are no files, a file cannot be read or is too small, the network has another scale, or `each` cancels.
pub fn sr(
    files: &[PathBuf],
    scale: usize,
    candidate: Candidate<'_>,
    each: &mut dyn FnMut(&Score) -> bool,
) -> Result<Evaluation, Error> {
    if files.is_empty() {
        return Err(Error::BadOption("no pictures to evaluate with".into()));
    }
    let mut images = Vec::with_capacity(files.len());
    for file in files {
        let high = picture::open_with(file, &Limits::default())?.picture;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let score = sr_picture(&high, &name, scale, candidate)?;
        let go_on = each(&score);
        images.push(score);
        if !go_on {
            return Err(Error::Cancelled);
        }
    }
    let mean = |f: &dyn Fn(&Score) -> f64| images.iter().map(f).sum::<f64>() / images.len() as f64;
    let mean = Score {
        name: "mean".into(),
        width: 0,
        height: 0,
        psnr_y: mean(&|s| s.psnr_y),
        ssim_y: mean(&|s| s.ssim_y),
        psnr_rgb: mean(&|s| s.psnr_rgb),
    };
    Ok(Evaluation { scale, images, mean })
}

/// Evaluates a candidate on one picture.
///
/// # Errors
/// If the picture is too small for the scale, or the network fails or has another scale.
pub fn sr_picture(high: &Picture, name: &str, scale: usize, candidate: Candidate<'_>) -> Result<Score, Error> {
    if !(2..=16).contains(&scale) {
        return Err(Error::BadScale { scale: scale as f64 });
    }
    // SSIM's window must fit between the borders.
    let (width, height) = (high.width() / scale * scale, high.height() / scale * scale);
    if width.min(height) < 2 * scale + 11 {
        return Err(Error::BadOption(format!(
            "{name}: {}x{} pixels are too few to evaluate x{scale} with",
            high.width(),
            high.height()
        )));
    }
    let truth = high.crop(0, 0, width, height).to_rgb8();
    let (low, low_width, low_height) = imresize(&truth, width, height, 3, 1.0 / scale as f64);
    let result = match candidate {
        Candidate::Bicubic => imresize(&low, low_width, low_height, 3, scale as f64).0,
        Candidate::Network(upscaler) if upscaler.scale() == scale => {
            upscaler.upscale(&Picture::from_rgb8(low_width, low_height, low)?)?.to_rgb8()
        }
        Candidate::Network(upscaler) => {
            return Err(Error::BadOption(format!(
                "{} enlarges by {}, not by {scale}",
                upscaler.name(),
                upscaler.scale()
            )));
        }
    };
    let (a, b) = (metrics::luma(&truth), metrics::luma(&result));
    Ok(Score {
        name: name.into(),
        width,
        height,
        psnr_y: metrics::psnr(&a, &b, width, scale),
        ssim_y: metrics::ssim(&a, &b, width, scale),
        psnr_rgb: metrics::psnr_rgb(&truth, &result, width, scale),
    })
}

/// The pictures in a folder, by name; files with other extensions are left out.
///
/// # Errors
/// If the folder cannot be read.
pub fn pictures_in(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
    let folder = folder.as_ref();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))? {
        let path = entry.map_err(Error::io(folder, "read the folder"))?.path();
        if PictureFormat::from_path(&path).is_some() && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
