//! Samples as floats in 0..1 and back.

use super::{Color, Depth, Picture, Samples};
use std::ops::Range;
use supple_tensor::kernels::samples;

/// A sample type.
pub(crate) trait Sample: Copy + Default + Send + Sync {
    /// The largest value.
    const MAX: f32;
    /// The sample in 0..1.
    fn to_unit(self) -> f32;
    /// The sample nearest to `value`, halves rounded up; values outside 0..1 are clipped.
    fn from_unit(value: f32) -> Self;
    /// [`from_unit`](Self::from_unit) for as many values as there are samples.
    fn from_units(values: &[f32], out: &mut [Self]);
}

impl Sample for u8 {
    const MAX: f32 = 255.0;
    #[inline]
    fn to_unit(self) -> f32 {
        f32::from(self) * (1.0 / 255.0)
    }
    #[inline]
    fn from_unit(value: f32) -> u8 {
        (value * 255.0 + 0.5) as u8
    }
    fn from_units(values: &[f32], out: &mut [u8]) {
        samples::to_u8(values, out);
    }
}

impl Sample for u16 {
    const MAX: f32 = 65535.0;
    #[inline]
    fn to_unit(self) -> f32 {
        f32::from(self) * (1.0 / 65535.0)
    }
    #[inline]
    fn from_unit(value: f32) -> u16 {
        (value * 65535.0 + 0.5) as u16
    }
    fn from_units(values: &[f32], out: &mut [u16]) {
        samples::to_u16(values, out);
    }
}

/// Runs an expression with `$v` bound to the vector of samples, whatever their type.
macro_rules! with_samples {
    ($samples:expr, $v:ident => $body:expr) => {
        match $samples {
            $crate::picture::Samples::Eight($v) => $body,
            $crate::picture::Samples::Sixteen($v) => $body,
        }
    };
}
pub(crate) use with_samples;

impl Picture {
    /// Row `y` as floats in 0..1, channels interleaved as in the picture.
    pub(crate) fn unit_row(&self, y: usize, out: &mut [f32]) {
        let len = self.width * self.channels();
        with_samples!(&self.samples, v => to_unit(&v[y * len..][..len], out));
    }

    /// Red, green and blue of some columns of row `y` in 0..1, without alpha.
    pub(crate) fn rgb_row(&self, y: usize, columns: Range<usize>, out: &mut [f32]) {
        let channels = self.channels();
        let at = (y * self.width + columns.start) * channels..(y * self.width + columns.end) * channels;
        with_samples!(&self.samples, v => match self.color {
            Color::Rgb if channels == 3 => to_unit(&v[at], out),
            color => {
                for (out, pixel) in out.chunks_exact_mut(3).zip(v[at].chunks_exact(channels)) {
                    match color {
                        Color::Gray => out.fill(pixel[0].to_unit()),
                        Color::Rgb => to_unit(&pixel[..3], out),
                    }
                }
            }
        });
    }

    /// Red, green and blue of a pixel in 0..1, without alpha.
    pub(crate) fn rgb_at(&self, x: usize, y: usize) -> [f32; 3] {
        let i = (y * self.width + x) * self.channels();
        with_samples!(&self.samples, v => match self.color {
            Color::Gray => [v[i].to_unit(); 3],
            Color::Rgb => [v[i].to_unit(), v[i + 1].to_unit(), v[i + 2].to_unit()],
        })
    }

    /// Alpha of a pixel in 0..1.
    pub(crate) fn alpha_at(&self, x: usize, y: usize) -> f32 {
        if !self.alpha {
            return 1.0;
        }
        let i = (y * self.width + x + 1) * self.channels() - 1;
        with_samples!(&self.samples, v => v[i].to_unit())
    }

    /// An 8-bit RGB copy: grey is tripled, 16 bits are rounded, alpha is laid over white.
    pub fn to_rgb8(&self) -> Vec<u8> {
        if let (Samples::Eight(v), Color::Rgb, false) = (&self.samples, self.color, self.alpha) {
            return v.clone();
        }
        let mut out = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            for x in 0..self.width {
                out.extend(self.rgb8_over_white(x, y));
            }
        }
        out
    }

    /// A pixel as 8-bit RGB over white.
    pub(crate) fn rgb8_over_white(&self, x: usize, y: usize) -> [u8; 3] {
        let i = (y * self.width + x) * self.channels();
        if let (Samples::Eight(v), Color::Rgb, false) = (&self.samples, self.color, self.alpha) {
            return [v[i], v[i + 1], v[i + 2]];
        }
        let alpha = self.alpha_at(x, y);
        self.rgb_at(x, y).map(|c| u8::from_unit(c * alpha + 1.0 - alpha))
    }

    /// The picture with `depth` bits; the samples move if they have them already.
    pub fn into_depth(mut self, depth: Depth) -> Picture {
        self.samples = match (self.samples, depth) {
            (Samples::Sixteen(v), Depth::Eight) => Samples::Eight(v.into_iter().map(to_eight).collect()),
            (Samples::Eight(v), Depth::Sixteen) => {
                Samples::Sixteen(v.into_iter().map(|s| u16::from(s) * 257).collect())
            }
            (samples, _) => samples,
        };
        self
    }
}

/// 16 bits rounded to 8.
pub(crate) fn to_eight(sample: u16) -> u8 {
    ((u32::from(sample) * 255 + 32767) / 65535) as u8
}

/// Samples as floats in 0..1.
pub(crate) fn to_unit<T: Sample>(samples: &[T], out: &mut [f32]) {
    for (o, s) in out.iter_mut().zip(samples) {
        *o = s.to_unit();
    }
}

/// The mean of red, green and blue, as a sample.
#[inline]
pub(crate) fn luma_to_depth<T: Sample>(rgb: &[f32]) -> T {
    T::from_unit((rgb[0] + rgb[1] + rgb[2]) * (1.0 / 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_survives_the_way_through_floats() {
        assert!((0..=255u8).all(|v| u8::from_unit(v.to_unit()) == v));
        assert!((0..=65535u16).all(|v| u16::from_unit(v.to_unit()) == v));
        assert!((0..=255u8).all(|v| to_eight(u16::from(v) * 257) == v));
    }

    #[test]
    fn values_outside_are_clipped() {
        assert_eq!(u8::from_unit(-0.3), 0);
        assert_eq!(u8::from_unit(1.3), 255);
        assert_eq!(u16::from_unit(f32::INFINITY), 65535);
    }
}
