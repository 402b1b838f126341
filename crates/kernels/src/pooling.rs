//! Max and average pooling of channels-last images.
//!
//! | argument | |
//! |---|---|
//! | `input` | `input_height` rows; pixels `stride ≥ channels` floats apart, `stride` a multiple of 16 |
//! | `out` | rows `out_rows` of an image of [`Pooling::output_size`], the same way |
//!
//! The height and width of the output round down, as PyTorch's do by default. Channels are taken a vector at a time, so
//! some of the padding is written too. NaN in the input need not reach the output.

use crate::parallel::for_image_rows;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Rows, RowsMut};
use std::ops::Range;

/// What becomes of the pixels under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingKind {
    /// The largest; padding does not count.
    Max,
    /// The mean; padding counts as zeros, as PyTorch's `count_include_pad=True` has it.
    Average,
    /// The mean of the pixels inside the image.
    AverageInside,
}

/// A window that slides over an image; height first in each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// What becomes of the pixels under the window.
    pub kind: PoolingKind,
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub stride: [usize; 2],
    /// Pixels added on each side, at most half the window.
    pub padding: [usize; 2],
}

impl Pooling {
    /// Height and width of the output; `None` if the window does not fit the padded image, or the parameters are not
    /// sensible (a zero stride, more padding than half the window).
    pub fn output_size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let side = |size: usize, i: usize| {
            let (kernel, stride, padding) = (self.kernel[i], self.stride[i], self.padding[i]);
            if size == 0 || kernel == 0 || stride == 0 || padding > kernel / 2 {
                return None;
            }
            Some(size.checked_add(2 * padding)?.checked_sub(kernel)? / stride + 1)
        };
        Some((side(height, 0)?, side(width, 1)?))
    }
}

/// Pools rows `out_rows` of the output.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn pool(
    cpu: &Cpu,
    pooling: &Pooling,
    channels: usize,
    input: Rows<'_>,
    input_height: usize,
    out: &mut RowsMut<'_>,
    out_rows: Range<usize>,
) {
    let size = pooling.output_size(input_height, input.width()).expect("the window fits the image");
    assert!(out.width() == size.1 && out_rows.end <= size.0, "pool: output size");
    check_pixels("pool", channels, &input, out);
    let out_stride = out.stride();
    for_image_rows(cpu, out, out_rows, &|y, out| {
        let row = PoolRow { pooling, channels, input, input_height, y, out, out_stride };
        // SAFETY: the CPU has the instruction set of its `Cpu`; the sizes were checked above.
        unsafe { dispatch(cpu.isa, row) }
    });
}

/// Checks that pixels are whole vectors.
pub(crate) fn check_pixels(op: &str, channels: usize, input: &Rows<'_>, out: &RowsMut<'_>) {
    for stride in [input.stride(), out.stride()] {
        assert!(stride % 16 == 0 && stride >= channels, "{op}: pixels of {channels} channels {stride} floats apart");
    }
}

/// The output pixel `(y, x)` of `channels` values, in `f64`. `pixel(y, x)` is an input pixel inside the image.
pub fn pool_reference<'a>(
    pooling: &Pooling,
    [height, width]: [usize; 2],
    pixel: impl Fn(usize, usize) -> &'a [f32],
    [y, x]: [usize; 2],
) -> Vec<f64> {
    let mut values: Vec<f64> = Vec::new();
    let mut inside = 0;
    for ky in 0..pooling.kernel[0] {
        for kx in 0..pooling.kernel[1] {
            let iy = (y * pooling.stride[0] + ky).wrapping_sub(pooling.padding[0]);
            let ix = (x * pooling.stride[1] + kx).wrapping_sub(pooling.padding[1]);
            if iy >= height || ix >= width {
                continue;
            }
            inside += 1;
            let pixel = pixel(iy, ix);
            let start = if pooling.kind == PoolingKind::Max { f64::NEG_INFINITY } else { 0.0 };
            values.resize(pixel.len(), start);
            for (value, &p) in values.iter_mut().zip(pixel) {
                let p = f64::from(p);
                *value = if pooling.kind == PoolingKind::Max { value.max(p) } else { *value + p };
            }
        }
    }
    let divisor = match pooling.kind {
        PoolingKind::Max => 1,
        PoolingKind::Average => pooling.kernel[0] * pooling.kernel[1],
        PoolingKind::AverageInside => inside,
    };
    values.iter_mut().for_each(|value| *value /= divisor as f64);
    values
}

struct PoolRow<'a> {
    pooling: &'a Pooling,
    channels: usize,
    input: Rows<'a>,
    input_height: usize,
    y: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

/// The part inside `0..size` of the window number `i`.
#[inline(always)]
fn covered(i: usize, stride: usize, padding: usize, kernel: usize, size: usize) -> Range<usize> {
    let start = i * stride;
    start.saturating_sub(padding)..(start + kernel - padding).min(size)
}

impl Kernel for PoolRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let Pooling { kind, kernel, stride, padding } = *self.pooling;
        let (width, in_stride) = (self.input.width(), self.input.stride());
        let rows = covered(self.y, stride[0], padding[0], kernel[0], self.input_height);
        for (x, out) in self.out.chunks_exact_mut(self.out_stride).enumerate() {
            let columns = covered(x, stride[1], padding[1], kernel[1], width);
            let scale = match kind {
                PoolingKind::Max => 1.0,
                // In floats: a huge window over a huge border must not overflow.
                PoolingKind::Average => 1.0 / (kernel[0] as f32 * kernel[1] as f32),
                PoolingKind::AverageInside => 1.0 / (rows.len() as f32 * columns.len() as f32),
            };
            for channel in (0..self.channels).step_by(V::LANES) {
                // SAFETY: pixels are multiples of 16 floats, so a vector that starts inside the channels ends inside the
                // pixel; `columns` are inside the row.
                unsafe {
                    let max = kind == PoolingKind::Max;
                    let mut sum = V::splat(if max { f32::NEG_INFINITY } else { 0.0 });
                    for y in rows.clone() {
                        let row = self.input.row(y).as_ptr().add(channel);
                        for column in columns.clone() {
                            let pixel = V::load(row.add(column * in_stride));
                            sum = if max { sum.max(pixel) } else { sum.add(pixel) };
                        }
                    }
                    if !max {
                        sum = sum.mul(V::splat(scale));
                    }
                    sum.store(out.as_mut_ptr().add(channel));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn every_window_equals_the_reference() {
        let windows =
            [([2, 2], [2, 2], [0, 0]), ([7, 7], [3, 3], [0, 0]), ([3, 2], [1, 2], [1, 1]), ([1, 1], [1, 1], [0, 0])];
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 3);
            for (height, width, channels) in [(1, 1, 1), (7, 7, 3), (13, 11, 17), (8, 29, 48)] {
                let stride = usize::next_multiple_of(channels, 16);
                let x = noise(height * width * stride, 5);
                for (kernel, step, padding) in windows {
                    for kind in [PoolingKind::Max, PoolingKind::Average, PoolingKind::AverageInside] {
                        let pooling = Pooling { kind, kernel, stride: step, padding };
                        let Some((oh, ow)) = pooling.output_size(height, width) else { continue };
                        let mut y = vec![f32::NAN; oh * ow * (stride + 16)];
                        let mut rows = RowsMut::new(&mut y, oh, ow, stride + 16);
                        pool(&cpu, &pooling, channels, Rows::new(&x, height, width, stride), height, &mut rows, 0..oh);
                        for oy in 0..oh {
                            for ox in 0..ow {
                                let pixel = |y: usize, x_: usize| &x[(y * width + x_) * stride..][..channels];
                                let wanted = pool_reference(&pooling, [height, width], pixel, [oy, ox]);
                                let found = &y[(oy * ow + ox) * (stride + 16)..][..channels];
                                for (f, w) in found.iter().zip(wanted) {
                                    assert!(
                                        (f64::from(*f) - w).abs() < 1e-6,
                                        "{isa} {pooling:?} {height}x{width}: {f} {w}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let pooling = |kernel, stride, padding| Pooling { kind: PoolingKind::Max, kernel, stride, padding };
        assert_eq!(pooling([2, 2], [2, 2], [0, 0]).output_size(1, 5), None);
        assert_eq!(pooling([2, 2], [0, 1], [0, 0]).output_size(5, 5), None);
        assert_eq!(pooling([2, 2], [1, 1], [2, 0]).output_size(5, 5), None);
        assert_eq!(pooling([0, 2], [1, 1], [0, 0]).output_size(5, 5), None);
        assert_eq!(pooling([2, 2], [2, 2], [1, 1]).output_size(1, 5), Some((1, 3)));
    }
}
