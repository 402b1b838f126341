//! Two pictures side by side, and what differs between them.

use crate::picture::Picture;
use crate::resample::{Filter, resize};
use crate::{Cpu, Error, metrics};

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

/// How to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The part to show, in pixels of the larger picture; all if not given.
    pub crop: Option<Rect>,
    /// Pixels to show of each pixel's side.
    pub zoom: usize,
    /// How much to amplify differences.
    pub amplify: f32,
}

impl Default for CompareOptions {
    /// The whole pictures, pixel for pixel, differences eightfold.
    fn default() -> CompareOptions {
        CompareOptions { crop: None, zoom: 1, amplify: 8.0 }
    }
}

/// Two pictures side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// First picture, second picture, and their amplified difference around middle grey.
    pub picture: Picture,
    /// PSNR of red, green and blue over the part shown, in dB; 99 if there is no difference.
    pub psnr_rgb: f64,
    /// PSNR of luma over the part shown, in dB.
    pub psnr_y: f64,
    /// Largest difference of a sample, in levels of 255.
    pub max_difference: u8,
    /// What was done to make the pictures fit, such as `a was enlarged to 800x600`.
    pub notes: Vec<String>,
}

/// Pixels between panels.
const GAP: usize = 8;

/// Lays `a` and `b` and their difference side by side. The smaller picture is enlarged by Lanczos to the larger one's
/// size; transparent parts are laid over white.
///
/// # Errors
/// If neither picture contains the other's size, if the crop lies outside, or if the result were absurdly large.
pub fn side_by_side(a: &Picture, b: &Picture, options: &CompareOptions, cpu: &Cpu) -> Result<Comparison, Error> {
    let size = |p: &Picture| (p.width(), p.height());
    let sizes = || Error::Sizes { a: format!("{:?} pixels", size(a)), b: format!("{:?} pixels", size(b)) };
    let mut notes = Vec::new();
    let (mut resized_a, mut resized_b) = (None, None);
    let (w, h) = if a.width() * a.height() >= b.width() * b.height() { size(a) } else { size(b) };
    // Pictures of different shape do not show the same thing.
    let (across, down) = (a.width() as f64 * b.height() as f64, b.width() as f64 * a.height() as f64);
    if (across / down).ln().abs() > 0.1 {
        return Err(sizes());
    }
    for (name, p, slot) in [("a", a, &mut resized_a), ("b", b, &mut resized_b)] {
        if size(p) != (w, h) {
            notes.push(format!("{name} was resized from {}x{} to {w}x{h}", p.width(), p.height()));
            *slot = Some(resize(p, w, h, Filter::Lanczos3, cpu));
        }
    }
    let (a, b) = (resized_a.as_ref().unwrap_or(a), resized_b.as_ref().unwrap_or(b));

    let crop = options.crop.unwrap_or(Rect { x: 0, y: 0, width: w, height: h });
    if crop.width == 0 || crop.height == 0 || crop.x >= w || crop.y >= h {
        return Err(Error::BadOption(format!(
            "the crop {}x{}+{}+{} lies outside of the {w}x{h} pictures",
            crop.width, crop.height, crop.x, crop.y
        )));
    }
    let cut = |p: &Picture| p.crop(crop.x, crop.y, crop.width, crop.height);
    let (a, b) = (cut(a), cut(b));
    let (w, h) = size(&a);
    let zoom = options.zoom.max(1);
    let pixels = (w.saturating_mul(zoom).saturating_mul(3) + 2 * GAP).saturating_mul(h.saturating_mul(zoom));
    if pixels > 1 << 28 {
        return Err(Error::BadOption(format!("a zoom of {zoom} makes {pixels} pixels; crop or zoom less")));
    }
    let (a, b) = (a.to_rgb8(), b.to_rgb8());
    let difference: Vec<u8> = a
        .iter()
        .zip(&b)
        .map(|(&a, &b)| ((f32::from(b) - f32::from(a)) * options.amplify + 128.0).round() as u8)
        .collect();

    let (panel, width) = (w * zoom, 3 * w * zoom + 2 * GAP);
    let mut out = vec![255u8; width * h * zoom * 3];
    for (y, row) in out.chunks_exact_mut(width * 3).enumerate() {
        for (i, source) in [&a, &b, &difference].into_iter().enumerate() {
            let source = &source[y / zoom * w * 3..][..w * 3];
            let row = &mut row[i * (panel + GAP) * 3..][..panel * 3];
            for (pixels, color) in row.chunks_exact_mut(3 * zoom).zip(source.chunks_exact(3)) {
                pixels.chunks_exact_mut(3).for_each(|p| p.copy_from_slice(color));
            }
        }
    }
    Ok(Comparison {
        picture: Picture::from_rgb8(width, h * zoom, out)?,
        psnr_rgb: metrics::psnr_rgb(&a, &b, w, 0),
        psnr_y: metrics::psnr(&metrics::luma(&a), &metrics::luma(&b), w, 0),
        max_difference: a.iter().zip(&b).map(|(&a, &b)| a.abs_diff(b)).max().unwrap_or(0),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn equal_pictures_differ_nowhere_and_sizes_are_matched() {
        let cpu = Cpu::new(Isa::Scalar, 1);
        let a = Picture::from_rgb8(20, 10, vec![100; 600]).unwrap();
        let c = side_by_side(&a, &a, &CompareOptions::default(), &cpu).unwrap();
        assert_eq!((c.psnr_rgb, c.max_difference, c.notes.len()), (99.0, 0, 0));
        assert_eq!((c.picture.width(), c.picture.height()), (60 + 2 * GAP, 10));

        let b = Picture::from_gray8(10, 5, vec![101; 50]).unwrap();
        let crop = Some(Rect { x: 15, y: 5, width: 100, height: 2 });
        let c = side_by_side(&a, &b, &CompareOptions { crop, zoom: 3, amplify: 10.0 }, &cpu).unwrap();
        assert_eq!((c.max_difference, c.notes.len()), (1, 1));
        assert_eq!((c.picture.width(), c.picture.height()), (3 * 15 + 2 * GAP, 6));
        let last = c.picture.samples8().unwrap().last().copied();
        assert_eq!(last, Some(138));
    }

    #[test]
    fn other_shapes_and_crops_outside_are_refused() {
        let cpu = Cpu::new(Isa::Scalar, 1);
        let a = Picture::from_rgb8(90, 30, vec![1; 8100]).unwrap();
        let b = Picture::from_rgb8(30, 90, vec![1; 8100]).unwrap();
        assert!(side_by_side(&a, &b, &CompareOptions::default(), &cpu).is_err());
        let crop = Some(Rect { x: 90, y: 0, width: 1, height: 1 });
        let options = CompareOptions { crop, ..CompareOptions::default() };
        assert!(side_by_side(&a, &a, &options, &cpu).is_err());
        let options = CompareOptions { zoom: 1 << 40, ..CompareOptions::default() };
        assert!(side_by_side(&a, &a, &options, &cpu).is_err());
    }
}
