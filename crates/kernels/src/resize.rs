//! Resampling of channels-last images, by PyTorch's `interpolate(align_corners=False)` conventions: no antialiasing,
//! pixel centres at half-integers, edges repeated.
//!
//! | argument | |
//! |---|---|
//! | `input` | `input_height` rows; pixels `stride ≥ channels` floats apart, `stride` a multiple of 16 |
//! | `out` | rows `out_rows` of an image of `out_height` rows, the same way |
//!
//! Channels are taken a vector at a time, so some of the padding is written too.

use crate::parallel::for_image_rows;
use crate::pooling::check_pixels;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Rows, RowsMut};
use std::ops::Range;

/// How pixels between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResizeMode {
    /// The pixel `⌊i · in / out⌋` (computed in integers, where PyTorch's floats may err by one).
    Nearest,
    /// Linear between two pixels, in each direction.
    Bilinear,
    /// Cubic convolution over four pixels with a = -0.75, in each direction.
    Bicubic,
    /// The mean of the pixels from `⌊i · in / out⌋` to `⌈(i + 1) · in / out⌉`: adaptive average pooling.
    Area,
}

/// Taps of an output position along one axis: up to four pixels with weights, or a range for [`ResizeMode::Area`].
#[derive(Clone, Copy)]
pub(crate) struct Taps {
    first: usize,
    pub(crate) count: usize,
    /// Pixels and weights of all modes but `Area`, whose pixels follow each other and weigh the same.
    at: [usize; 4],
    weight: [f64; 4],
}

impl Taps {
    #[inline(always)]
    pub(crate) fn new(mode: ResizeMode, i: usize, input: usize, output: usize) -> Taps {
        let mut taps = Taps { first: 0, count: 1, at: [0; 4], weight: [1.0, 0.0, 0.0, 0.0] };
        // Products are taken in 128 bits: sizes are anything that fits the address space.
        let scaled = |i: usize| i as u128 * input as u128;
        let source = (i as f64 + 0.5) * (input as f64 / output as f64) - 0.5;
        match mode {
            ResizeMode::Nearest => taps.at[0] = (scaled(i) / output as u128) as usize,
            ResizeMode::Bilinear => {
                let source = source.max(0.0);
                let first = (source as usize).min(input - 1);
                let fraction = (source - first as f64).min(1.0);
                taps.count = 2;
                taps.at = [first, (first + 1).min(input - 1), 0, 0];
                taps.weight = [1.0 - fraction, fraction, 0.0, 0.0];
            }
            ResizeMode::Bicubic => {
                let floor = source.floor();
                let fraction = source - floor;
                taps.count = 4;
                for k in 0..4 {
                    taps.at[k] = (floor + k as f64 - 1.0).clamp(0.0, (input - 1) as f64) as usize;
                    taps.weight[k] = cubic((fraction + 1.0 - k as f64).abs());
                }
            }
            ResizeMode::Area => {
                let first = (scaled(i) / output as u128) as usize;
                taps.first = first;
                taps.count = scaled(i + 1).div_ceil(output as u128) as usize - first;
            }
        }
        taps
    }

    /// The pixel and the weight of tap `k`.
    #[inline(always)]
    pub(crate) fn tap(&self, mode: ResizeMode, k: usize) -> (usize, f32) {
        if mode == ResizeMode::Area {
            (self.first + k, 1.0 / self.count as f32)
        } else {
            (self.at[k], self.weight[k] as f32)
        }
    }
}

/// The cubic convolution kernel at distance `d`, a = -0.75 (Keys 1981).
#[inline(always)]
fn cubic(d: f64) -> f64 {
    const A: f64 = -0.75;
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    } else {
        0.0
    }
}

/// Resamples rows `out_rows` of the output.
///
/// # Panics
/// If a size is zero or a row lies outside the output.
#[allow(clippy::too_many_arguments)]
pub fn resize(
    cpu: &Cpu,
    mode: ResizeMode,
    channels: usize,
    input: Rows<'_>,
    input_height: usize,
    out: &mut RowsMut<'_>,
    out_height: usize,
    out_rows: Range<usize>,
) {
    assert!(input_height > 0 && input.width() > 0 && out_rows.end <= out_height, "resize: sizes");
    check_pixels("resize", channels, &input, out);
    let (out_width, out_stride) = (out.width(), out.stride());
    for_image_rows(cpu, out, out_rows, &|y, out| {
        let taps = Taps::new(mode, y, input_height, out_height);
        let row = ResizeRow { mode, channels, input, taps, out, out_width, out_stride };
        // SAFETY: the CPU has the instruction set of its `Cpu`; taps lie inside the image.
        unsafe { dispatch(cpu.isa, row) }
    });
}

struct ResizeRow<'a> {
    mode: ResizeMode,
    channels: usize,
    input: Rows<'a>,
    /// In the vertical direction.
    taps: Taps,
    out: &'a mut [f32],
    out_width: usize,
    out_stride: usize,
}

impl Kernel for ResizeRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let (width, stride) = (self.input.width(), self.input.stride());
        for (x, out) in self.out.chunks_exact_mut(self.out_stride).enumerate() {
            let columns = Taps::new(self.mode, x, width, self.out_width);
            for channel in (0..self.channels).step_by(V::LANES) {
                // SAFETY: pixels are multiples of 16 floats, so a vector that starts inside the channels ends inside the
                // pixel; taps lie inside the image.
                unsafe {
                    let mut sum = V::splat(0.0);
                    for j in 0..self.taps.count {
                        let (row, weight) = self.taps.tap(self.mode, j);
                        let row = self.input.row(row).as_ptr().add(channel);
                        let mut line = V::splat(0.0);
                        for i in 0..columns.count {
                            let (column, weight) = columns.tap(self.mode, i);
                            line = V::load(row.add(column * stride)).mul_add(V::splat(weight), line);
                        }
                        sum = line.mul_add(V::splat(weight), sum);
                    }
                    sum.store(out.as_mut_ptr().add(channel));
                }
            }
        }
    }
}

/// The output pixel `(y, x)` of `channels` values, in `f64`. `pixel(y, x)` is an input pixel.
pub fn resize_reference<'a>(
    mode: ResizeMode,
    [height, width]: [usize; 2],
    [out_height, out_width]: [usize; 2],
    pixel: impl Fn(usize, usize) -> &'a [f32],
    [y, x]: [usize; 2],
) -> Vec<f64> {
    let rows = weights(mode, y, height, out_height);
    let columns = weights(mode, x, width, out_width);
    let mut values = vec![0.0; pixel(0, 0).len()];
    for &(iy, wy) in &rows {
        for &(ix, wx) in &columns {
            for (value, &p) in values.iter_mut().zip(pixel(iy, ix)) {
                *value += wy * wx * f64::from(p);
            }
        }
    }
    values
}

/// Positions and weights, written from the definitions and independently of `Taps`.
fn weights(mode: ResizeMode, i: usize, input: usize, output: usize) -> Vec<(usize, f64)> {
    let last = input as i64 - 1;
    let center = (i as f64 + 0.5) * input as f64 / output as f64 - 0.5;
    let sample = |radius: i64, kernel: &dyn Fn(f64) -> f64| {
        let base = center.floor() as i64;
        (base - radius + 1..=base + radius).map(|p| (p.clamp(0, last) as usize, kernel(center - p as f64))).collect()
    };
    match mode {
        ResizeMode::Nearest => vec![(i * input / output, 1.0)],
        ResizeMode::Bilinear => sample(1, &|d| (1.0 - d.abs()).max(0.0)),
        ResizeMode::Bicubic => sample(2, &|d| {
            let (d, a) = (d.abs(), -0.75);
            if d <= 1.0 {
                (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0
            } else {
                a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a
            }
        }),
        ResizeMode::Area => {
            let (first, end) = (i * input / output, ((i + 1) * input).div_ceil(output));
            (first..end).map(|p| (p, 1.0 / (end - first) as f64)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    const MODES: [ResizeMode; 4] = [ResizeMode::Nearest, ResizeMode::Bilinear, ResizeMode::Bicubic, ResizeMode::Area];

    #[test]
    fn every_size_equals_the_reference() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 3);
            for (h, w, oh, ow, channels) in [
                (1, 1, 1, 1, 1),
                (1, 1, 5, 3, 3),
                (7, 5, 13, 11, 17),
                (13, 11, 7, 5, 48),
                (4, 6, 8, 12, 16),
                (9, 9, 1, 2, 3),
            ] {
                let stride = usize::next_multiple_of(channels, 16);
                let x = noise(h * w * stride, 5);
                for mode in MODES {
                    let mut y = vec![f32::NAN; oh * ow * stride];
                    let mut rows = RowsMut::new(&mut y, oh, ow, stride);
                    resize(&cpu, mode, channels, Rows::new(&x, h, w, stride), h, &mut rows, oh, 0..oh);
                    for oy in 0..oh {
                        for ox in 0..ow {
                            let pixel = |y: usize, x_: usize| &x[(y * w + x_) * stride..][..channels];
                            let wanted = resize_reference(mode, [h, w], [oh, ow], pixel, [oy, ox]);
                            for (f, w) in y[(oy * ow + ox) * stride..][..channels].iter().zip(wanted) {
                                assert!((f64::from(*f) - w).abs() < 2e-6, "{isa} {mode:?} {h}x{w}: {f} {w}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pytorch_gives_these_values() {
        // torch.nn.functional.interpolate(torch.tensor([[[[0., 1., 4., 9.]]]]), size=(1, n), mode=...), n = 6 and 3
        let x = [0.0, 1.0, 4.0, 9.0];
        let mut image = vec![0.0; 4 * 16];
        x.iter().enumerate().for_each(|(i, &v)| image[i * 16] = v);
        let cases: [(ResizeMode, [f32; 6], [f32; 3]); 4] = [
            (ResizeMode::Nearest, [0.0, 0.0, 1.0, 4.0, 4.0, 9.0], [0.0, 1.0, 4.0]),
            (ResizeMode::Bilinear, [0.0, 0.5, 1.5, 3.5, 6.5, 9.0], [0.166_666_69, 2.5, 8.166_668]),
            (
                ResizeMode::Bicubic,
                [-0.086_805_58, 0.218_75, 1.430_555, 3.152_777_7, 6.781_25, 9.434_029],
                [0.091_435_015, 2.125, 8.334_492],
            ),
            (ResizeMode::Area, [0.0, 0.5, 1.0, 4.0, 6.5, 9.0], [0.5, 2.5, 6.5]),
        ];
        let cpu = Cpu::new(Isa::detect(), 1);
        for (mode, six, three) in cases {
            for wanted in [&six[..], &three] {
                let mut out = vec![0.0; wanted.len() * 16];
                let mut rows = RowsMut::new(&mut out, 1, wanted.len(), 16);
                resize(&cpu, mode, 1, Rows::new(&image, 1, 4, 16), 1, &mut rows, 1, 0..1);
                let found: Vec<f32> = out.chunks(16).map(|p| p[0]).collect();
                crate::testing::close(&found, wanted, 1e-5, &format!("{mode:?}"));
            }
        }
    }
}
