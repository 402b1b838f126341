//! What a transformer layer does to its input first, pixel by pixel, and the product of two maps.

use crate::Isa;
use crate::math::tanh;
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// Longest vector.
const MAX_LANES: usize = 16;

/// How a layer bounds its input. Gain and shift belong to the linear operator that follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalisation {
    /// The hyperbolic tangent of every value.
    Tanh,
    /// `(x − mean) / sqrt(variance + epsilon)` over the channels of a pixel, the variance biased: a layer norm.
    Standardise {
        /// Added to the variance.
        epsilon: f32,
    },
}

impl Normalisation {
    /// Applies it to `pixels` pixels of `channels` channels, on the calling thread. Both slices have `stride` floats a
    /// pixel; padding up to whole vectors must be finite, and gets unspecified finite values.
    ///
    /// # Panics
    /// If a slice is too short or `stride` is below `channels` in whole vectors.
    pub fn apply(self, isa: Isa, pixels: usize, channels: usize, input: &[f32], out: &mut [f32], stride: usize) {
        assert!(isa <= Isa::detect(), "normalisation: this CPU lacks {isa}");
        assert!(channels > 0 && stride >= channels.next_multiple_of(lanes(isa)), "normalisation: stride {stride}");
        assert!(input.len().min(out.len()) >= pixels * stride, "normalisation: too few floats");
        let (input, out) = (input.as_ptr(), out.as_mut_ptr());
        let work = Work { kind: self, pixels, channels, input, out, stride };
        // SAFETY: the CPU has the instruction set, and the sizes were checked just now.
        unsafe { dispatch(isa, work) }
    }
}

struct Work {
    kind: Normalisation,
    pixels: usize,
    channels: usize,
    input: *const f32,
    out: *mut f32,
    stride: usize,
}

impl Kernel for Work {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: pixels are `stride` floats apart and their vectors lie within.
        unsafe {
            for pixel in 0..self.pixels {
                let (from, to) = (self.input.add(pixel * self.stride), self.out.add(pixel * self.stride));
                match self.kind {
                    Normalisation::Tanh => {
                        for i in 0..self.channels.div_ceil(V::LANES) {
                            tanh(V::load(from.add(i * V::LANES))).store(to.add(i * V::LANES));
                        }
                    }
                    Normalisation::Standardise { epsilon } => self.standardise::<V>(from, to, epsilon),
                }
            }
        }
    }
}

impl Work {
    #[inline(always)]
    unsafe fn standardise<V: Simd>(&self, from: *const f32, to: *mut f32, epsilon: f32) {
        let vectors = self.channels.div_ceil(V::LANES);
        let mut ones = [0.0f32; MAX_LANES];
        ones[..self.channels - (vectors - 1) * V::LANES].fill(1.0);
        // SAFETY: as in `run`; `ones` holds a vector.
        unsafe {
            // 1 in lanes of the last vector that hold channels, 0 in padding.
            let last = V::load(ones.as_ptr());
            let count = 1.0 / self.channels as f32;
            let mut sum = V::splat(0.0);
            for i in 0..vectors - 1 {
                sum = sum.add(V::load(from.add(i * V::LANES)));
            }
            sum = V::load(from.add((vectors - 1) * V::LANES)).mul_add(last, sum);
            let mean = V::splat(sum.sum() * count);
            let mut squares = V::splat(0.0);
            for i in 0..vectors {
                let mut d = V::load(from.add(i * V::LANES)).sub(mean);
                if i + 1 == vectors {
                    d = d.mul(last);
                }
                d.store(to.add(i * V::LANES));
                squares = d.mul_add(d, squares);
            }
            let scale = V::splat(1.0 / (squares.sum() * count + epsilon).sqrt());
            for i in 0..vectors {
                let at = to.add(i * V::LANES);
                V::load(at).mul(scale).store(at);
            }
        }
    }
}

/// `values[i] *= factors[i]`, on the calling thread.
///
/// # Panics
/// If the lengths differ or are no multiple of the vector length.
pub fn multiply(isa: Isa, values: &mut [f32], factors: &[f32]) {
    assert!(isa <= Isa::detect(), "product: this CPU lacks {isa}");
    assert!(values.len() == factors.len() && values.len().is_multiple_of(lanes(isa)), "product: lengths");
    // SAFETY: the CPU has the instruction set, and the lengths were checked just now.
    unsafe { dispatch(isa, Multiply { values, factors }) }
}

struct Multiply<'a> {
    values: &'a mut [f32],
    factors: &'a [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        for (v, f) in self.values.chunks_exact_mut(V::LANES).zip(self.factors.chunks_exact(V::LANES)) {
            // SAFETY: both chunks are a vector long.
            unsafe { V::load(v.as_ptr()).mul(V::load(f.as_ptr())).store(v.as_mut_ptr()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, noise};

    #[test]
    fn every_channel_count_equals_the_reference() {
        for isa in Isa::available() {
            for channels in [1usize, 15, 16, 17, 60, 64, 100] {
                let (pixels, stride) = (5, channels.next_multiple_of(16) + 16);
                let input: Vec<f32> = noise(pixels * stride, 3).iter().map(|v| v * 4.0 + 1.0).collect();
                for kind in [Normalisation::Tanh, Normalisation::Standardise { epsilon: 1e-5 }] {
                    let mut out = vec![f32::NAN; pixels * stride];
                    kind.apply(isa, pixels, channels, &input, &mut out, stride);
                    for (found, x) in out.chunks_exact(stride).zip(input.chunks_exact(stride)) {
                        let x: Vec<f64> = x[..channels].iter().map(|&v| f64::from(v)).collect();
                        let mean = x.iter().sum::<f64>() / channels as f64;
                        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
                        let wanted: Vec<f32> = x
                            .iter()
                            .map(|v| match kind {
                                Normalisation::Tanh => v.tanh() as f32,
                                Normalisation::Standardise { epsilon } => {
                                    ((v - mean) / (variance + f64::from(epsilon)).sqrt()) as f32
                                }
                            })
                            .collect();
                        close(&found[..channels], &wanted, 2e-6, &format!("{isa} {kind:?} {channels}"));
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_is_that_of_each_pair() {
        for isa in Isa::available() {
            let (a, b) = (noise(64, 1), noise(64, 2));
            let mut c = a.clone();
            multiply(isa, &mut c, &b);
            assert!(c.iter().zip(a.iter().zip(&b)).all(|(c, (a, b))| *c == a * b));
        }
    }
}
