//! From a picture to a network's input.
//!
//! The centre of the picture is cropped to the shape of the input, with [`Preprocessing::crop`] of the largest such
//! rectangle kept, shrunk by a triangle filter that widens with the ratio (what PIL calls `BILINEAR`) and rounded to 8
//! bits. For a square input that is `x = (width - s) / 2`, `s = ⌊crop · min(width, height)⌋`.
//!
//! Grey is tripled, transparency is laid over white.

use crate::picture::Picture;
use crate::resample::{Filter, RowResampler};
use crate::{Error, picture::Sample as _};
use supple_models::convnet::{ConvNet, Preprocessing};

/// What a network takes: its size, and how samples become numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Crop, mean and deviation.
    pub preprocessing: Preprocessing,
}

/// The part of a picture that a network sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns, at least one.
    pub width: usize,
    /// Rows, at least one.
    pub height: usize,
}

/// The picture as `network` takes it: `[height][width][3]` bytes, red, green, blue.
///
/// # Errors
/// If the network does not take pictures in colour.
pub fn prepare(picture: &Picture, network: &ConvNet) -> Result<Vec<u8>, Error> {
    Ok(Input::of(network)?.prepare(picture))
}

/// The picture as numbers: planar `[3][height][width]`, each `(sample / 255 − mean) / deviation`.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_planar(picture: &Picture, network: &ConvNet) -> Result<Vec<f32>, Error> {
    let input = Input::of(network)?;
    Ok(input.normalise(&input.prepare(picture)))
}

impl Input {
    /// What `network` takes.
    ///
    /// # Errors
    /// If that is no picture in colour, or the preprocessing makes no sense.
    pub fn of(network: &ConvNet) -> Result<Input, Error> {
        let refused = |found: String| Error::NotAClassifier { network: network.name.clone(), found };
        let Some(shape) = network.input_shape() else {
            return Err(refused("it has no input".into()));
        };
        if shape.channels != 3 || shape.is_empty() {
            return Err(refused(format!("its input is {shape}, not 3 planes of a picture")));
        }
        let preprocessing = network.preprocessing;
        let numbers = preprocessing.mean.iter().chain(&preprocessing.deviation);
        let sound = preprocessing.crop > 0.0 && preprocessing.crop <= 1.0;
        if !sound || !numbers.clone().all(|v| v.is_finite()) || preprocessing.deviation.contains(&0.0) {
            return Err(refused(format!("its preprocessing makes no sense: {preprocessing:?}")));
        }
        Ok(Input { width: shape.width, height: shape.height, preprocessing })
    }

    /// The part of a picture of this size that the network sees.
    pub fn crop(&self, width: usize, height: usize) -> Crop {
        let (w, h) = (self.width as f64, self.height as f64);
        let unit = (width as f64 / w).min(height as f64 / h) * f64::from(self.preprocessing.crop);
        // Room for the rounding of the division above, so that whole results stay whole.
        let side = |side: f64, limit: usize| ((side * unit + 1e-6) as usize).clamp(1, limit);
        let (crop_width, crop_height) = (side(w, width), side(h, height));
        Crop { x: (width - crop_width) / 2, y: (height - crop_height) / 2, width: crop_width, height: crop_height }
    }

    /// The picture cropped and resized: `[height][width][3]` bytes.
    pub fn prepare(&self, picture: &Picture) -> Vec<u8> {
        let (width, height) = (picture.width(), picture.height());
        if let (Some(rgb), 3) = (picture.samples8(), picture.channels())
            && let Some(same) = self.copied(width, height, rgb)
        {
            return same;
        }
        self.resample((picture.width(), picture.height()), &mut |crop, y, row| {
            let columns = crop.x..crop.x + crop.width;
            picture.rgb_row(crop.y + y, columns.clone(), row);
            if picture.has_alpha() {
                for (pixel, x) in row.chunks_exact_mut(3).zip(columns) {
                    let alpha = picture.alpha_at(x, crop.y + y);
                    pixel.iter_mut().for_each(|c| *c = *c * alpha + 1.0 - alpha);
                }
            }
        })
    }

    /// As [`Input::prepare`] for `[height][width][3]` bytes of a picture in memory.
    ///
    /// # Errors
    /// If their number does not fit the size, or there are none.
    pub fn prepare_rgb(&self, width: usize, height: usize, rgb: &[u8]) -> Result<Vec<u8>, Error> {
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(3)).unwrap_or(usize::MAX);
        if wanted == 0 || wanted != rgb.len() {
            return Err(Error::Samples { width, height, channels: 3, wanted, found: rgb.len() });
        }
        Ok(self.copied(width, height, rgb).unwrap_or_else(|| {
            self.resample((width, height), &mut |crop, y, row| {
                let samples = &rgb[((crop.y + y) * width + crop.x) * 3..][..crop.width * 3];
                row.iter_mut().zip(samples).for_each(|(value, sample)| *value = sample.to_unit());
            })
        }))
    }

    /// The crop of `[height][width][3]` bytes, if it is as large as the input: no filter changes it then.
    fn copied(&self, width: usize, height: usize, rgb: &[u8]) -> Option<Vec<u8>> {
        let crop = self.crop(width, height);
        let rows = rgb.chunks_exact(width * 3).skip(crop.y).take(crop.height);
        if (crop.width, crop.height) != (self.width, self.height) {
            return None;
        }
        let mut out = Vec::with_capacity(crop.width * crop.height * 3);
        rows.for_each(|row| out.extend_from_slice(&row[crop.x * 3..][..crop.width * 3]));
        Some(out)
    }

    /// Prepared bytes as planar numbers: `[3][height][width]`.
    ///
    /// # Panics
    /// If `rgb` has another length than [`Input::prepare`] gives.
    pub fn normalise(&self, rgb: &[u8]) -> Vec<f32> {
        assert_eq!(rgb.len(), self.width * self.height * 3, "bytes of the input's size");
        let Preprocessing { mean, deviation, .. } = self.preprocessing;
        let plane = |c: usize| {
            let samples = rgb[c..].iter().step_by(3);
            samples.map(move |&sample| (f32::from(sample) / 255.0 - mean[c]) / deviation[c])
        };
        (0..3).flat_map(plane).collect()
    }

    /// `source(crop, y, row)` fills row `y` of the crop with red, green and blue in 0..1.
    fn resample(&self, size: (usize, usize), source: &mut dyn FnMut(Crop, usize, &mut [f32])) -> Vec<u8> {
        let crop = self.crop(size.0, size.1);
        let from = (crop.width, crop.height);
        let mut resampler = RowResampler::new(from, (self.width, self.height), 3, Filter::Triangle);
        let mut row = vec![0f32; self.width * 3];
        let mut out = Vec::with_capacity(row.len() * self.height);
        for y in 0..self.height {
            resampler.row(y, &mut |y, input| source(crop, y, input), &mut row);
            out.extend(row.iter().map(|&value| u8::from_unit(value)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Color, Samples};
    use proptest::prelude::*;

    fn input(width: usize, height: usize, crop: f32) -> Input {
        Input { width, height, preprocessing: Preprocessing { crop, ..Preprocessing::default() } }
    }

    fn noise(width: usize, height: usize) -> Vec<u8> {
        (0..width * height * 3).map(|i| ((i * 2654435761) >> 13) as u8).collect()
    }

    proptest! {
        #[test]
        fn a_crop_lies_within_the_picture_and_flat_pictures_stay_flat(
            w in 1usize..60, h in 1usize..60, iw in 1usize..20, ih in 1usize..20, crop in 0.01f32..=1.0, value: u8,
        ) {
            let input = input(iw, ih, crop);
            let part = input.crop(w, h);
            prop_assert!(part.width >= 1 && part.height >= 1 && part.x + part.width <= w && part.y + part.height <= h);
            let prepared = input.prepare_rgb(w, h, &vec![value; w * h * 3]).unwrap();
            prop_assert_eq!(prepared, vec![value; iw * ih * 3]);
        }
    }

    #[test]
    fn square_crops_are_what_integer_arithmetic_gives() {
        for (w, h) in [(500, 375), (512, 512), (4000, 3000), (333, 777), (8, 8)] {
            let side = w.min(h) * 7 / 8;
            let wanted = Crop { x: (w - side) / 2, y: (h - side) / 2, width: side, height: side };
            assert_eq!(input(224, 224, 0.875).crop(w, h), wanted);
        }
        assert_eq!(input(20, 10, 1.0).crop(30, 30), Crop { x: 0, y: 7, width: 30, height: 15 });
    }

    #[test]
    fn a_picture_in_memory_and_one_with_all_it_can_have_are_prepared_alike() {
        let (w, h) = (37, 29);
        let (input, rgb) = (input(13, 11, 0.9), noise(w, h));
        let wanted = input.prepare_rgb(w, h, &rgb).unwrap();
        assert_eq!(input.prepare(&Picture::from_rgb8(w, h, rgb.clone()).unwrap()), wanted);
        let opaque = rgb.chunks(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        assert_eq!(input.prepare(&Picture::from_rgba8(w, h, opaque).unwrap()), wanted);
        let deep = Samples::Sixteen(rgb.iter().map(|&v| u16::from(v) * 257).collect());
        assert_eq!(input.prepare(&Picture::new(w, h, Color::Rgb, false, deep).unwrap()), wanted);
    }

    #[test]
    fn a_crop_of_the_right_size_is_copied() {
        let (input, rgb) = (input(14, 14, 0.875), noise(19, 16));
        let wanted: Vec<u8> = (1..15).flat_map(|y| &rgb[(y * 19 + 2) * 3..][..14 * 3]).copied().collect();
        assert_eq!(input.prepare_rgb(19, 16, &rgb).unwrap(), wanted);
        assert_eq!(input.prepare(&Picture::from_rgb8(19, 16, rgb.clone()).unwrap()), wanted);
        // What resamples gives the same.
        let deep = Samples::Sixteen(rgb.iter().map(|&v| u16::from(v) * 257).collect());
        assert_eq!(input.prepare(&Picture::new(19, 16, Color::Rgb, false, deep).unwrap()), wanted);
    }

    #[test]
    fn grey_is_tripled_and_transparency_is_white() {
        let grey = Picture::from_gray8(2, 2, vec![10, 20, 30, 40]).unwrap();
        assert_eq!(input(1, 1, 1.0).prepare(&grey), [25; 3]);
        let clear = Picture::from_rgba8(1, 1, vec![9, 9, 9, 0]).unwrap();
        assert_eq!(input(2, 2, 1.0).prepare(&clear), [255; 12]);
    }

    #[test]
    fn the_filter_is_that_of_pil() {
        // `Image.fromarray(a).resize((3, 3), Image.BILINEAR)` by PIL, which also rounds between its two passes.
        const PIL: [u8; 27] = [
            34, 62, 221, 45, 57, 210, 56, 97, 199, 109, 133, 146, 120, 87, 135, 131, 131, 124, 184, 105, 71, 195, 147,
            60, 206, 102, 49,
        ];
        let rgb: Vec<u8> = (0..49).flat_map(|i| [(i * 5) as u8, (i * i % 256) as u8, (255 - i * 5) as u8]).collect();
        let ours = input(3, 3, 1.0).prepare_rgb(7, 7, &rgb).unwrap();
        assert!(ours.iter().zip(PIL).all(|(a, b)| a.abs_diff(b) <= 1), "{ours:?}");
    }

    #[test]
    fn normalised_planes_follow_the_formula() {
        let mut input = input(2, 1, 1.0);
        input.preprocessing.mean = [0.0, 0.5, 0.25];
        input.preprocessing.deviation = [1.0, 0.5, 2.0];
        let planes = input.normalise(&[0, 0, 0, 255, 255, 255]);
        assert_eq!(planes, [0.0, 1.0, -1.0, 1.0, -0.125, 0.375]);
    }

    #[test]
    fn samples_that_do_not_fit_are_refused() {
        let input = input(2, 2, 1.0);
        assert!(matches!(input.prepare_rgb(2, 2, &[0; 11]), Err(Error::Samples { wanted: 12, found: 11, .. })));
        assert!(input.prepare_rgb(0, 2, &[]).is_err() && input.prepare_rgb(usize::MAX, 2, &[0; 6]).is_err());
    }
}
