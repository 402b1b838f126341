//! Resampling: the separable filters for pictures, and MATLAB's bicubic for evaluation.
//!
//! A pixel is a point in the middle of its square, filters widen when a picture shrinks (antialiasing), weights that fall
//! outside are dropped and the rest is normalised. Results do not depend on the number of threads.

pub mod matlab;
mod rows;
mod taps;

pub use rows::RowResampler;
pub use taps::Filter;

use crate::Cpu;
use crate::picture::{Picture, Sample, Samples};

/// A picture resized to `width` × `height` pixels (at least one each). Colours are weighted with alpha, so that what is
/// transparent does not bleed.
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter, cpu: &Cpu) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    let mut samples = Samples::zeroed(picture.depth(), width * height * picture.channels());
    match &mut samples {
        Samples::Eight(v) => resize_into(picture, v, width, height, filter, cpu),
        Samples::Sixteen(v) => resize_into(picture, v, width, height, filter, cpu),
    }
    picture.like(width, height, samples)
}

/// Rows of the result are made in bands, each by one task with a resampler of its own.
fn resize_into<T: Sample>(p: &Picture, out: &mut [T], width: usize, height: usize, filter: Filter, cpu: &Cpu) {
    let channels = p.channels();
    let row_len = width * channels;
    // Bands of at least 32 rows, as neighbours read some rows twice.
    let band = height.div_ceil(cpu.threads() * 4).max(32).min(height);
    cpu.pool.for_each_chunk(out, band * row_len, &|i, chunk| {
        let mut resampler = RowResampler::new((p.width(), p.height()), (width, height), channels, filter);
        let mut row = vec![0f32; row_len];
        for (k, out) in chunk.chunks_exact_mut(row_len).enumerate() {
            resampler.row(i * band + k, &mut |y, input| premultiplied_row(p, y, input), &mut row);
            if p.has_alpha() {
                unpremultiply(&mut row, channels);
            }
            for (o, v) in out.iter_mut().zip(&row) {
                *o = T::from_unit(*v);
            }
        }
    });
}

fn premultiplied_row(p: &Picture, y: usize, row: &mut [f32]) {
    p.unit_row(y, row);
    if p.has_alpha() {
        for pixel in row.chunks_exact_mut(p.channels()) {
            if let Some((alpha, color)) = pixel.split_last_mut() {
                color.iter_mut().for_each(|c| *c *= *alpha);
            }
        }
    }
}

fn unpremultiply(row: &mut [f32], channels: usize) {
    for pixel in row.chunks_exact_mut(channels) {
        if let Some((alpha, color)) = pixel.split_last_mut() {
            let inverse = if *alpha > 1e-6 { 1.0 / *alpha } else { 0.0 };
            color.iter_mut().for_each(|c| *c *= inverse);
        }
    }
}

/// A single plane of floats resized; rows one after the other.
pub fn resize_plane(plane: &[f32], from: (usize, usize), to: (usize, usize), filter: Filter, cpu: &Cpu) -> Vec<f32> {
    let (width, height) = to;
    let mut out = vec![0f32; width * height];
    if plane.len() < from.0 * from.1 || out.is_empty() || from.0 * from.1 == 0 {
        return out;
    }
    let band = height.div_ceil(cpu.threads() * 4).max(32).min(height);
    cpu.pool.for_each_chunk(&mut out, band * width, &|i, chunk| {
        let mut resampler = RowResampler::new(from, to, 1, filter);
        for (k, out) in chunk.chunks_exact_mut(width).enumerate() {
            let mut source = |y: usize, row: &mut [f32]| row.copy_from_slice(&plane[y * from.0..][..from.0]);
            resampler.row(i * band + k, &mut source, out);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::picture::Color;
    use proptest::prelude::*;

    fn cpu(threads: usize) -> Cpu {
        Cpu::new(Isa::Scalar, threads)
    }

    fn noise(width: usize, height: usize, channels: usize) -> Vec<u8> {
        (0..width * height * channels).map(|i| ((i * 2654435761) >> 13) as u8).collect()
    }

    proptest! {
        #[test]
        fn flat_pictures_stay_flat_at_any_size(
            w in 1usize..40, h in 1usize..40, ow in 1usize..90, oh in 1usize..90,
            value: u8, f in 0usize..Filter::ALL.len(),
        ) {
            let p = Picture::from_rgb8(w, h, vec![value; w * h * 3]).unwrap();
            let r = resize(&p, ow, oh, Filter::ALL[f], &cpu(1));
            prop_assert_eq!((r.width(), r.height()), (ow, oh));
            prop_assert!(r.samples8().unwrap().iter().all(|&v| v == value));
        }

        #[test]
        fn threads_do_not_change_the_result(w in 1usize..50, h in 1usize..50, ow in 1usize..120, oh in 1usize..160) {
            let p = Picture::from_rgba8(w, h, noise(w, h, 4)).unwrap();
            prop_assert_eq!(resize(&p, ow, oh, Filter::Lanczos3, &cpu(1)), resize(&p, ow, oh, Filter::Lanczos3, &cpu(3)));
        }

        #[test]
        fn same_size_changes_nothing(w in 1usize..30, h in 1usize..30, f in 0usize..Filter::ALL.len()) {
            let samples = noise(w, h, 3).into_iter().map(|v| u16::from(v) * 251).collect();
            let p = Picture::new(w, h, Color::Rgb, false, Samples::Sixteen(samples)).unwrap();
            prop_assert_eq!(resize(&p, w, h, Filter::ALL[f], &cpu(1)), p);
        }
    }

    #[test]
    fn area_averages_and_nearest_repeats() {
        let p = Picture::from_gray8(4, 2, vec![0, 10, 20, 30, 40, 50, 60, 70]).unwrap();
        assert_eq!(resize(&p, 2, 1, Filter::Area, &cpu(1)).samples8().unwrap(), &[25, 45]);
        let twice = resize(&p, 8, 4, Filter::Nearest, &cpu(1));
        assert_eq!(&twice.samples8().unwrap()[8..16], &[0, 0, 10, 10, 20, 20, 30, 30]);
    }

    #[test]
    fn transparent_colour_does_not_bleed() {
        // White and opaque beside black and transparent: every visible pixel of the result is white.
        let p = Picture::from_rgba8(2, 1, vec![255, 255, 255, 255, 0, 0, 0, 0]).unwrap();
        let r = resize(&p, 16, 1, Filter::Lanczos3, &cpu(1));
        assert!(r.samples8().unwrap().chunks(4).all(|p| p[3] < 4 || p[0] == 255));
    }

    #[test]
    fn planes_resize_as_pictures_do() {
        let samples = noise(17, 9, 1);
        let plane: Vec<f32> = samples.iter().map(|&v| f32::from(v) / 255.0).collect();
        let resized = resize_plane(&plane, (17, 9), (40, 23), Filter::Bicubic, &cpu(2));
        let p = resize(&Picture::from_gray8(17, 9, samples).unwrap(), 40, 23, Filter::Bicubic, &cpu(1));
        assert!(resized.iter().zip(p.samples8().unwrap()).all(|(a, &b)| u8::from_unit(*a) == b));
    }
}
