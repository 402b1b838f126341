//! Gradients of a convolution.
//!
//! With `y[q][o] = Σ x[q·s + k·d − p][i] · w[o][i][k]`:
//!
//! * the gradient of `w` is `Σ_q x[q·s + k·d − p][i] · grad[q][o]`, a transposed product for each tap `k`;
//! * the gradient of `x` is a convolution of `grad` with stride 1, whose weights are `w` with inputs and outputs exchanged
//!   and taps reversed ([`reversed_weights`], [`reversed_shape`]). Where `s > 1`, zeros come between the pixels of `grad`
//!   first ([`spread`]).

use super::pooling::Images;
use super::product::{Segment, TransposedProduct, padded_columns};
use crate::conv::ConvShape;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Isa};

/// Most parts that rows are split into; each has sums of its own.
const PARTS: usize = 32;
/// Rows that are gone through for one tap before the next.
const BATCH: usize = 32;

/// Floats of scratch that [`weight_gradient`] needs for `rows` rows of output in all images together.
pub fn weight_gradient_scratch(isa: Isa, shape: &ConvShape, rows: usize) -> usize {
    parts(rows) * part_len(isa, shape)
}

fn parts(rows: usize) -> usize {
    rows.div_ceil(8).clamp(1, PARTS)
}

/// Floats of the sums of one part: `[tap][input channel of a group][output channel]`.
fn part_len(isa: Isa, shape: &ConvShape) -> usize {
    shape.kernel[0] * shape.kernel[1] * (shape.in_channels / shape.groups) * padded_columns(isa, shape.out_channels)
}

/// Writes the gradient of the weights, `[out][in / groups][height][width]`. `input` and `grad` are images of padded
/// pixels; those of `grad` have the size of the convolution's output.
///
/// # Panics
/// If sizes do not fit each other, or a slice is shorter than they say.
#[allow(clippy::too_many_arguments)]
pub fn weight_gradient(
    cpu: &Cpu,
    shape: &ConvShape,
    images: Images,
    input: &[f32],
    grads: Images,
    grad: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let size = shape.output_size(images.height, images.width);
    assert!(size == Some((grads.height, grads.width)) && images.n == grads.n, "weight_gradient: sizes");
    assert!(input.len() >= images.n * images.image_len() && grad.len() >= grads.n * grads.image_len());
    assert_eq!(Some(out.len()), shape.weight_len(), "weight_gradient: output");
    let rows = grads.n * grads.height;
    let (parts, len) = (parts(rows), part_len(cpu.isa, shape));
    let per_part = rows.div_ceil(parts);
    let scratch = &mut scratch[..parts * len];
    let job = Job { shape, images, input, grads, grad };
    cpu.pool.for_each_chunk(scratch, len, &|part, sums| {
        sums.fill(0.0);
        let mut row = part * per_part;
        let end = rows.min(row + per_part);
        while row < end {
            let next = end.min(row + BATCH);
            job.add(cpu.isa, row, next, sums);
            row = next;
        }
    });
    let (first, rest) = scratch.split_at_mut(len);
    for part in rest.chunks_exact(len) {
        first.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let columns = padded_columns(cpu.isa, shape.out_channels);
    let (inputs, taps) = (shape.in_channels / shape.groups, shape.kernel[0] * shape.kernel[1]);
    for (o, out) in out.chunks_exact_mut(inputs * taps).enumerate() {
        for (at, out) in out.iter_mut().enumerate() {
            *out = first[(at % taps * inputs + at / taps) * columns + o];
        }
    }
}

struct Job<'a> {
    shape: &'a ConvShape,
    images: Images,
    input: &'a [f32],
    grads: Images,
    grad: &'a [f32],
}

impl Job<'_> {
    /// Adds what rows `from..to` of the output, counted through all images, give to each tap.
    fn add(&self, isa: Isa, from: usize, to: usize, sums: &mut [f32]) {
        let Job { shape, images, input, grads, grad } = *self;
        let mut segments = [Segment::default(); BATCH];
        let inputs = shape.in_channels / shape.groups;
        let len = inputs * padded_columns(isa, shape.out_channels);
        for (tap, c) in sums.chunks_exact_mut(len).enumerate() {
            let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
            let columns = inside(shape, 1, kx, images.width, grads.width);
            if columns.is_empty() {
                continue;
            }
            let rows = inside(shape, 0, ky, images.height, grads.height);
            let mut count = 0;
            for row in from..to {
                let (image, y) = (row / grads.height, row % grads.height);
                if !rows.contains(&y) {
                    continue;
                }
                let source_y = y * shape.stride[0] + ky * shape.dilation[0] - shape.padding[0];
                let source_x = columns.start * shape.stride[1] + kx * shape.dilation[1] - shape.padding[1];
                segments[count] = Segment {
                    a: ((image * images.height + source_y) * images.width + source_x) * images.stride,
                    b: (row * grads.width + columns.start) * grads.stride,
                    count: columns.len(),
                };
                count += 1;
            }
            let segments = &segments[..count];
            let (a_step, b_step) = (shape.stride[1] * images.stride, grads.stride);
            let (k, n) = (inputs, shape.out_channels);
            // SAFETY: the CPU has the instruction set of its `Cpu`; the kernels check their slices themselves.
            unsafe {
                if shape.groups == 1 {
                    dispatch(isa, TransposedProduct { k, n, a: input, a_step, b: grad, b_step, segments, c });
                } else {
                    dispatch(isa, Grouped { shape, a: input, a_step, b: grad, b_step, segments, c });
                }
            }
        }
    }
}

/// The outputs of an axis whose tap `k` falls inside the input.
fn inside(shape: &ConvShape, axis: usize, k: usize, input: usize, output: usize) -> std::ops::Range<usize> {
    let (stride, offset, padding) = (shape.stride[axis], k * shape.dilation[axis], shape.padding[axis]);
    let start = padding.saturating_sub(offset).div_ceil(stride);
    let end = (input + padding).saturating_sub(offset).div_ceil(stride).min(output);
    start..end.max(start)
}

/// Products of channels of the same group, for one tap.
struct Grouped<'a> {
    shape: &'a ConvShape,
    a: &'a [f32],
    a_step: usize,
    b: &'a [f32],
    b_step: usize,
    segments: &'a [Segment],
    c: &'a mut [f32],
}

impl Kernel for Grouped<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let ConvShape { in_channels, out_channels, groups, .. } = *self.shape;
        let (inputs, outputs) = (in_channels / groups, out_channels / groups);
        let columns = self.c.len() / inputs;
        for segment in self.segments {
            for p in 0..segment.count {
                let a = &self.a[segment.a + p * self.a_step..][..in_channels];
                let b = &self.b[segment.b + p * self.b_step..][..out_channels];
                if inputs == 1 && outputs == 1 {
                    for ((c, a), b) in self.c[..out_channels].iter_mut().zip(a).zip(b) {
                        *c += a * b;
                    }
                    continue;
                }
                for g in 0..groups {
                    for (i, a) in a[g * inputs..][..inputs].iter().enumerate() {
                        let c = &mut self.c[i * columns + g * outputs..][..outputs];
                        c.iter_mut().zip(&b[g * outputs..][..outputs]).for_each(|(c, b)| *c += a * b);
                    }
                }
            }
        }
    }
}

/// The convolution that takes a gradient, spread by [`spread`] to `spread_size`, back to the input.
pub fn reversed_shape(shape: &ConvShape) -> ConvShape {
    let reach = |i: usize| shape.dilation[i] * (shape.kernel[i] - 1);
    ConvShape {
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        stride: [1; 2],
        padding: [0, 1].map(|i| reach(i).saturating_sub(shape.padding[i])),
        ..*shape
    }
}

/// Height and width of the spread gradient, for an input of `size`; and how many of its first rows and columns are left
/// out, which is more than none where the padding exceeds the reach of the kernel.
pub fn spread_size(shape: &ConvShape, size: [usize; 2]) -> ([usize; 2], [usize; 2]) {
    let reversed = reversed_shape(shape);
    let reach = |i: usize| shape.dilation[i] * (shape.kernel[i] - 1);
    (
        [0, 1].map(|i| size[i] + reach(i) - 2 * reversed.padding[i]),
        [0, 1].map(|i| shape.padding[i].saturating_sub(reach(i))),
    )
}

/// Writes the weights of [`reversed_shape`]: inputs and outputs of each group exchanged, taps reversed.
///
/// # Panics
/// If a slice is shorter than the shape says.
pub fn reversed_weights(shape: &ConvShape, weights: &[f32], out: &mut [f32]) {
    let (inputs, outputs) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    let taps = shape.kernel[0] * shape.kernel[1];
    for g in 0..shape.groups {
        for o in 0..outputs {
            for i in 0..inputs {
                let from = &weights[((g * outputs + o) * inputs + i) * taps..][..taps];
                let to = &mut out[((g * inputs + i) * outputs + o) * taps..][..taps];
                to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Pixel `(y, x)` of `from` goes to `(y · stride − skip)` of `out`, an image of `size`; zeros lie between.
///
/// # Panics
/// If a slice is shorter than its shape says.
pub fn spread(
    cpu: &Cpu,
    from: Images,
    data: &[f32],
    stride: [usize; 2],
    skip: [usize; 2],
    size: [usize; 2],
    out: &mut [f32],
) {
    let row_len = size[1] * from.stride;
    let out = &mut out[..from.n * size[0] * row_len];
    cpu.pool.for_each_chunk(out, row_len, &|row, out| {
        out.fill(0.0);
        let (image, y) = (row / size[0], row % size[0] + skip[0]);
        if !y.is_multiple_of(stride[0]) || y / stride[0] >= from.height {
            return;
        }
        let data = &data[(image * from.height + y / stride[0]) * from.width * from.stride..];
        for x in 0..from.width {
            if let Some(to) = (x * stride[1]).checked_sub(skip[1]).filter(|&to| to < size[1]) {
                out[to * from.stride..][..from.stride].copy_from_slice(&data[x * from.stride..][..from.stride]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn weight_gradients_equal_the_reference_on_any_number_of_threads() {
        let same = ConvShape::same;
        for (shape, [n, h, w]) in [
            (same(3, 48, 3), [2, 9, 11]),
            (same(48, 48, 3), [3, 13, 17]),
            (same(17, 20, 1), [1, 7, 5]),
            (ConvShape { stride: [2; 2], padding: [0; 2], ..same(16, 16, 3) }, [2, 12, 13]),
            (ConvShape { dilation: [3, 2], padding: [9, 0], ..same(5, 7, 3) }, [1, 9, 11]),
            (ConvShape { groups: 60, ..same(60, 60, 5) }, [2, 9, 8]),
            (ConvShape { groups: 4, stride: [1, 3], ..same(12, 20, 3) }, [1, 40, 8]),
        ] {
            let (oh, ow) = shape.output_size(h, w).unwrap();
            let image = |h, w, c: usize| Images { n, height: h, width: w, channels: c, stride: c.next_multiple_of(16) };
            let (images, grads) = (image(h, w, shape.in_channels), image(oh, ow, shape.out_channels));
            let (x, g) = (noise(n * images.image_len(), 1), noise(n * grads.image_len(), 2));
            let mut wanted = vec![0.0f64; shape.weight_len().unwrap()];
            let (inputs, outputs) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
            for (at, wanted) in wanted.iter_mut().enumerate() {
                let (kx, ky) = (at % shape.kernel[1], at / shape.kernel[1] % shape.kernel[0]);
                let (i, o) =
                    (at / shape.kernel[1] / shape.kernel[0] % inputs, at / shape.kernel[1] / shape.kernel[0] / inputs);
                for q in 0..n * oh * ow {
                    let (image, y, x_) = (q / ow / oh, q / ow % oh, q % ow);
                    let sy = (y * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.padding[0]);
                    let sx = (x_ * shape.stride[1] + kx * shape.dilation[1]).wrapping_sub(shape.padding[1]);
                    if sy < h && sx < w {
                        let pixel = (image * h + sy) * w + sx;
                        *wanted += f64::from(x[pixel * images.stride + o / outputs * inputs + i])
                            * f64::from(g[q * grads.stride + o]);
                    }
                }
            }
            for isa in Isa::available() {
                let run = |threads| {
                    let mut out = vec![f32::NAN; wanted.len()];
                    let mut scratch = vec![f32::NAN; weight_gradient_scratch(isa, &shape, n * oh)];
                    let cpu = Cpu::new(isa, threads);
                    weight_gradient(&cpu, &shape, images, &x, grads, &g, &mut out, &mut scratch);
                    out
                };
                let found = run(1);
                assert_eq!(found, run(3), "{isa} {shape:?}");
                for (found, wanted) in found.iter().zip(&wanted) {
                    assert!((f64::from(*found) - wanted).abs() < 5e-5, "{isa} {shape:?}: {found} {wanted}");
                }
            }
        }
    }
}
