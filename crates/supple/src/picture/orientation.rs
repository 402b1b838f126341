//! Turning pictures the way their EXIF orientation says.

use super::convert::with_samples;
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

impl Picture {
    /// Columns `x..x+width` and rows `y..y+height`, clipped to the picture; at least one pixel.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Picture {
        let (x, y) = (x.min(self.width - 1), y.min(self.height - 1));
        let (width, height) = (width.clamp(1, self.width - x), height.clamp(1, self.height - y));
        let c = self.channels();
        let rows = (y..y + height).map(|row| (row * self.width + x) * c..(row * self.width + x + width) * c);
        let samples = match &self.samples {
            Samples::Eight(v) => Samples::Eight(rows.flat_map(|r| v[r].iter().copied()).collect()),
            Samples::Sixteen(v) => Samples::Sixteen(rows.flat_map(|r| v[r].iter().copied()).collect()),
        };
        self.like(width, height, samples)
    }

    /// Whether every pixel is opaque.
    pub(crate) fn is_opaque(&self) -> bool {
        let c = self.channels();
        !self.alpha || with_samples!(&self.samples, v => v.chunks_exact(c).all(|p| f64::from(p[c - 1]) == max_of(v)))
    }

    /// Drops the alpha channel, in place.
    pub(crate) fn drop_alpha(&mut self) {
        if !self.alpha {
            return;
        }
        let (c, pixels) = (self.channels(), self.width * self.height);
        with_samples!(&mut self.samples, v => {
            for p in 0..pixels {
                v.copy_within(p * c..p * c + c - 1, p * (c - 1));
            }
            v.truncate(pixels * (c - 1));
        });
        self.alpha = false;
    }
}

/// The largest value of a vector's sample type.
fn max_of<T: super::Sample>(_: &[T]) -> f64 {
    f64::from(T::MAX)
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

    #[test]
    fn dropping_alpha_keeps_the_colours() {
        let mut p = Picture::from_rgba8(2, 1, vec![1, 2, 3, 255, 4, 5, 6, 255]).unwrap();
        assert!(p.is_opaque());
        p.drop_alpha();
        assert_eq!(p, Picture::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap());
        assert!(!Picture::from_rgba8(1, 1, vec![1, 2, 3, 254]).unwrap().is_opaque());
    }
}
