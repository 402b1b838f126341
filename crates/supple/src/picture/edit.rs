//! Cropping, and what concerns the alpha channel as a whole.

use super::convert::with_samples;
use super::{Picture, Samples};

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
    #[cfg(feature = "files")]
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

    #[test]
    #[cfg(feature = "files")]
    fn dropping_alpha_keeps_the_colours() {
        let mut p = Picture::from_rgba8(2, 1, vec![1, 2, 3, 255, 4, 5, 6, 255]).unwrap();
        assert!(p.is_opaque());
        p.drop_alpha();
        assert_eq!(p, Picture::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap());
        assert!(!Picture::from_rgba8(1, 1, vec![1, 2, 3, 254]).unwrap().is_opaque());
    }
}
