//! The middle of a gated feed-forward layer: `out = gelu(dw(a)) · dw(b)`, `dw` a depthwise 3×3 convolution without bias
//! (Restormer's gated-dconv layer, arXiv 2111.09881).
//!
//! `a` and `b` lie in one image, vector by vector in turn (`a` 0, `b` 0, `a` 1, `b` 1, ...), so that a tile of both stays
//! in registers until they meet. [`GatedDepthwise::column`] says where a channel of `[a, b]` goes; the product that makes
//! the image packs its columns accordingly.
//!
//! | argument | shape |
//! |---|---|
//! | weights | `[2 · hidden][1][3][3]`: first of `a`, then of `b` |
//! | input | rows of pixels of [`GatedDepthwise::input_channels`] floats or more |
//! | output | pixels of `hidden` channels, rounded up to whole vectors |
//!
//! Pixels outside the image count as zero; the image may be a whole picture or a patch.

use crate::math::gelu;
use crate::simd::{Kernel, Simd, dispatch, lanes};
use crate::{AlignedBuf, Isa, Rows};
use std::ops::Range;

const TAPS: usize = 9;

/// The weights of a gated depthwise convolution, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct GatedDepthwise {
    isa: Isa,
    hidden: usize,
    /// `[pair][tap][a lanes, b lanes]`.
    weights: AlignedBuf,
}

impl GatedDepthwise {
    /// Packs `weights` (`[2 · hidden][1][3][3]`).
    ///
    /// # Panics
    /// If the slice has another length.
    pub fn pack(isa: Isa, hidden: usize, weights: &[f32]) -> GatedDepthwise {
        assert!(hidden > 0 && weights.len() == 2 * hidden * TAPS, "gated depthwise weights");
        let vector = lanes(isa);
        let mut packed = AlignedBuf::zeroed(hidden.div_ceil(vector) * TAPS * 2 * vector);
        for (c, filter) in weights.chunks_exact(TAPS).enumerate() {
            let (half, c) = (c / hidden, c % hidden);
            for (tap, &weight) in filter.iter().enumerate() {
                packed[((c / vector * TAPS + tap) * 2 + half) * vector + c % vector] = weight;
            }
        }
        GatedDepthwise { isa, hidden, weights: packed }
    }

    /// Where channel `c` of `[a, b]` lies in the input.
    pub fn column(&self, c: usize) -> usize {
        let vector = lanes(self.isa);
        let (half, c) = (c / self.hidden, c % self.hidden);
        (c / vector * 2 + half) * vector + c % vector
    }

    /// Floats of a pixel of the input.
    pub fn input_channels(&self) -> usize {
        2 * self.output_channels()
    }

    /// Floats of a pixel of the output: hidden channels in whole vectors.
    pub fn output_channels(&self) -> usize {
        self.hidden.next_multiple_of(lanes(self.isa))
    }

    /// Computes pixels `columns` of row `y` of an image of `height` rows, on the calling thread, into `out` with
    /// `out_stride` floats a pixel. Input rows next to `y` that lie in the image must be held by `input`.
    ///
    /// # Panics
    /// If shapes do not fit.
    pub fn strip(
        &self,
        input: Rows<'_>,
        height: usize,
        y: usize,
        columns: Range<usize>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        assert!(y < height && columns.end <= input.width(), "gate: row {y} of {height}, columns {columns:?}");
        assert!(input.stride() >= self.input_channels(), "gate: input pixel stride {}", input.stride());
        if columns.is_empty() {
            return;
        }
        let channels = self.output_channels();
        assert!(out_stride >= channels && out.len() >= (columns.len() - 1) * out_stride + channels, "gate: output");
        let strip = Strip { of: self, input, height, y, columns, out: out.as_mut_ptr(), out_stride };
        // SAFETY: packed for this instruction set, and the sizes were checked above.
        unsafe { dispatch(self.isa, strip) }
    }
}

struct Strip<'a> {
    of: &'a GatedDepthwise,
    input: Rows<'a>,
    height: usize,
    y: usize,
    columns: Range<usize>,
    out: *mut f32,
    out_stride: usize,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let above = (self.y > 0).then(|| self.input.row(self.y - 1).as_ptr());
        let below = (self.y + 1 < self.height).then(|| self.input.row(self.y + 1).as_ptr());
        let rows = [above, Some(self.input.row(self.y).as_ptr()), below];
        let stride = self.input.stride();
        // SAFETY: the caller's promise.
        unsafe {
            for pair in 0..self.of.hidden.div_ceil(V::LANES) {
                let mut x = self.columns.start;
                while V::REGISTERS >= 32 && x + 8 <= self.columns.end {
                    self.tile::<V, 8>(&rows, stride, x, pair);
                    x += 8;
                }
                while x + 4 <= self.columns.end {
                    self.tile::<V, 4>(&rows, stride, x, pair);
                    x += 4;
                }
                while x < self.columns.end {
                    self.tile::<V, 1>(&rows, stride, x, pair);
                    x += 1;
                }
            }
        }
    }
}

impl Strip<'_> {
    #[inline(always)]
    unsafe fn tile<V: Simd, const P: usize>(
        &self,
        rows: &[Option<*const f32>; 3],
        stride: usize,
        x: usize,
        pair: usize,
    ) {
        let from = x * stride + pair * 2 * V::LANES;
        let weights = pair * TAPS * 2 * V::LANES;
        // SAFETY: the pixels exist; the weights hold `pair`.
        unsafe {
            let a = self.sums::<V, P>(rows, stride, from, x, weights);
            let b = self.sums::<V, P>(rows, stride, from + V::LANES, x, weights + V::LANES);
            let out = self.out.add((x - self.columns.start) * self.out_stride + pair * V::LANES);
            for p in 0..P {
                gelu(a[p]).mul(b[p]).store(out.add(p * self.out_stride));
            }
        }
    }

    /// The convolution of `P` pixels from `x` on, of one vector of channels, which starts at `from` in each row. Every
    /// input is loaded once and meets the three weights of its row.
    #[inline(always)]
    unsafe fn sums<V: Simd, const P: usize>(
        &self,
        rows: &[Option<*const f32>; 3],
        stride: usize,
        from: usize,
        x: usize,
        weights: usize,
    ) -> [V; P] {
        let (left, right) = (x > 0, x + P < self.input.width());
        // SAFETY: inputs left of the first and right of the last pixel are read only where there are pixels.
        unsafe {
            let mut sums = [V::splat(0.0); P];
            for (ky, row) in rows.iter().enumerate() {
                let Some(row) = row else { continue };
                let from = row.add(from);
                let weights = self.of.weights.as_ptr().add(weights + ky * 6 * V::LANES);
                let w = [V::load(weights), V::load(weights.add(2 * V::LANES)), V::load(weights.add(4 * V::LANES))];
                if left {
                    sums[0] = V::load(from.sub(stride)).mul_add(w[0], sums[0]);
                }
                for p in 0..P {
                    let value = V::load(from.add(p * stride));
                    if p > 0 {
                        sums[p - 1] = value.mul_add(w[2], sums[p - 1]);
                    }
                    sums[p] = value.mul_add(w[1], sums[p]);
                    if p + 1 < P {
                        sums[p + 1] = value.mul_add(w[0], sums[p + 1]);
                    }
                }
                if right {
                    sums[P - 1] = V::load(from.add(P * stride)).mul_add(w[2], sums[P - 1]);
                }
            }
            sums
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{ConvShape, conv2d_reference};
    use crate::testing::{close, noise};

    #[test]
    fn patches_and_rows_equal_the_reference() {
        for (hidden, height, width) in [(120, 8, 8), (7, 3, 21), (16, 1, 1), (33, 2, 12)] {
            let channels = 2 * hidden;
            let shape = ConvShape { groups: channels, ..ConvShape::same(channels, channels, 3) };
            let plain = noise(height * width * channels, 1);
            let weights = noise(channels * TAPS, 2);
            let both = conv2d_reference(&shape, &plain, height, width, &weights, None);
            for isa in Isa::available() {
                let gate = GatedDepthwise::pack(isa, hidden, &weights);
                let stride = gate.input_channels();
                let mut input = vec![0.0; height * width * stride];
                for (to, from) in input.chunks_exact_mut(stride).zip(plain.chunks_exact(channels)) {
                    from.iter().enumerate().for_each(|(c, &v)| to[gate.column(c)] = v);
                }
                let rows = Rows::new(&input, height, width, stride);
                let out_stride = gate.output_channels();
                for y in 0..height {
                    let mut out = vec![f32::NAN; width * out_stride];
                    gate.strip(rows, height, y, 0..width, &mut out, out_stride);
                    for (x, found) in out.chunks_exact(out_stride).enumerate() {
                        let sums = &both[(y * width + x) * channels..][..channels];
                        // GELU by its definition, in `f64`.
                        let wanted: Vec<f32> =
                            (0..hidden).map(|c| (gelu_f64(sums[c]) * sums[hidden + c]) as f32).collect();
                        close(&found[..hidden], &wanted, 5e-6, &format!("{isa} {hidden} {height}x{width}"));
                    }
                    let mut part = vec![f32::NAN; width * out_stride];
                    let split = width / 3;
                    gate.strip(rows, height, y, 0..split, &mut part, out_stride);
                    gate.strip(rows, height, y, split..width, &mut part[split * out_stride..], out_stride);
                    assert_eq!(part, out, "{isa} {hidden} {height}x{width}: strips differ");
                }
            }
        }
    }

    /// `x · Φ(x)`, the normal distribution function by its series.
    fn gelu_f64(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-17 * sum.abs() {
            term *= x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }
}
