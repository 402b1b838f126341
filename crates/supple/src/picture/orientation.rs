//! Turning pictures the way their EXIF orientation says.

use super::{Picture, Samples};
use image::metadata::Orientation;

/// The picture turned upright. `orientation` is what the file asked for.
pub(super) fn apply(picture: Picture, orientation: Orientation) -> Picture {
    let code = orientation.to_exif();
    if code <= 1 {
        return picture;
    }
    let (w, h, c) = (picture.width, picture.height, picture.channels());
    let (width, height) = if code >= 5 { (h, w) } else { (w, h) };
    // Where the pixel that ends up at (x, y) comes from.
    let source = |x: usize, y: usize| match code {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    };
    let samples = match &picture.samples {
        Samples::Eight(v) => Samples::Eight(gather(v, width, height, c, w, source)),
        Samples::Sixteen(v) => Samples::Sixteen(gather(v, width, height, c, w, source)),
    };
    Picture { width, height, samples, ..picture }
}

fn gather<T: Copy>(
    samples: &[T],
    width: usize,
    height: usize,
    channels: usize,
    stride: usize,
    source: impl Fn(usize, usize) -> (usize, usize),
) -> Vec<T> {
    let mut out = Vec::with_capacity(samples.len());
    for y in 0..height {
        for x in 0..width {
            let (sx, sy) = source(x, y);
            out.extend_from_slice(&samples[(sy * stride + sx) * channels..][..channels]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formulas of EXIF: where row 0 and column 0 of the stored picture lie.
    #[test]
    fn orientations_agree_with_the_image_crate() {
        let (w, h) = (3, 2);
        let samples: Vec<u8> = (0..w * h * 3).map(|v| v as u8).collect();
        for code in 1..=8 {
            let orientation = Orientation::from_exif(code).unwrap();
            let ours = apply(Picture::from_rgb8(w, h, samples.clone()).unwrap(), orientation);
            let buffer = image::RgbImage::from_raw(w as u32, h as u32, samples.clone()).unwrap();
            let mut theirs = image::DynamicImage::ImageRgb8(buffer);
            theirs.apply_orientation(orientation);
            assert_eq!((ours.width() as u32, ours.height() as u32), (theirs.width(), theirs.height()));
            assert_eq!(ours.samples8().unwrap(), theirs.as_bytes(), "orientation {code}");
        }
    }
}
