//! Depthwise convolution with stride 1 that keeps the picture's size: one filter a channel.
//!
//! `out[y][x][c] = leaky_relu(bias[c] + Σ in[y + ky·d − p][x + kx·d − p][c] · w[c][ky][kx]) (+ residual[y][x][c])`
//!
//! | argument | shape |
//! |---|---|
//! | weights | `[channels][1][kernel height][kernel width]`, packed to `[vector][kernel height][kernel width][lanes]` |
//! | input | rows of `width` pixels, `channels` rounded up to whole vectors, or more, floats each |
//! | output | the same |
//!
//! Pixels outside the picture count as zero. A tile of up to sixteen pixels of one vector of channels, a dilation apart,
//! stays in registers while the taps pass, so a weight is loaded once for all of them. Pixels whose filter crosses the left or
//! the right edge are done one at a time, several vectors together. Either way a sum starts with the bias and takes its
//! taps in the same order, so results do not depend on the split into tiles.

use super::{ConvShape, Out, pad_bias};
use crate::simd::{Kernel, Simd, dispatch, lanes};
use crate::{AlignedBuf, Cpu, Isa, Rows, RowsMut};
use std::ops::Range;

/// Longest side of a kernel.
pub const MAX_KERNEL: usize = 32;
/// Columns of a parallel task.
const COLUMNS: usize = 48;

/// The weights of a depthwise convolution, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    isa: Isa,
    channels: usize,
    kernel: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 2],
    weights: AlignedBuf,
    bias: AlignedBuf,
}

impl PackedDepthwise {
    /// Whether a convolution of this shape can be computed here.
    pub fn takes(shape: &ConvShape) -> bool {
        let one_a_channel = shape.groups == shape.in_channels && shape.groups == shape.out_channels;
        let keeps_size = (0..2).all(|i| {
            let reach = shape.kernel[i].checked_sub(1).and_then(|k| k.checked_mul(shape.dilation[i]));
            shape.kernel[i] <= MAX_KERNEL && reach.is_some() && reach == shape.padding[i].checked_mul(2)
        });
        one_a_channel && keeps_size && shape.stride == [1; 2]
    }

    /// Packs `weights` (`[channels][1][kernel height][kernel width]`) and `bias` (`[channels]`).
    ///
    /// # Panics
    /// If a slice has another length than the shape says, a side of the kernel is zero or above [`MAX_KERNEL`], or the
    /// padding does not keep the picture's size.
    pub fn pack(
        isa: Isa,
        channels: usize,
        kernel: [usize; 2],
        dilation: [usize; 2],
        padding: [usize; 2],
        weights: &[f32],
        bias: Option<&[f32]>,
    ) -> PackedDepthwise {
        let [height, width] = kernel;
        assert!(channels > 0 && weights.len() == channels * height * width, "depthwise weights");
        assert!(bias.is_none_or(|b| b.len() == channels), "depthwise bias");
        for i in 0..2 {
            assert!((1..=MAX_KERNEL).contains(&kernel[i]) && dilation[i] > 0, "depthwise kernel {kernel:?}");
            assert_eq!(2 * padding[i], dilation[i] * (kernel[i] - 1), "depthwise padding keeps the size");
        }
        let vector = lanes(isa);
        let taps = height * width;
        let mut packed = AlignedBuf::zeroed(channels.next_multiple_of(vector) * taps);
        for (c, filter) in weights.chunks_exact(taps).enumerate() {
            for (tap, &weight) in filter.iter().enumerate() {
                packed[(c / vector * taps + tap) * vector + c % vector] = weight;
            }
        }
        let bias = pad_bias(isa, channels, bias);
        PackedDepthwise { isa, channels, kernel, dilation, padding, weights: packed, bias }
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Channels rounded up to whole vectors: what is read and written of a pixel.
    pub fn padded_channels(&self) -> usize {
        self.channels.next_multiple_of(lanes(self.isa))
    }

    /// Rows above and below an output row that it depends on.
    pub fn reach(&self) -> usize {
        self.padding[0]
    }

    /// Computes rows `rows` of a picture of `height` rows. Input rows that lie in the picture and in reach of `rows` must
    /// be held by `input`. `slope` is that of the leaky ReLU (1 for none); `residual`, of the output's shape, is added after
    /// it.
    ///
    /// # Panics
    /// If widths or pixel strides do not fit, or the output does not hold so many rows.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        cpu: &Cpu,
        input: Rows<'_>,
        height: usize,
        out: &mut RowsMut<'_>,
        rows: Range<usize>,
        slope: f32,
        residual: Option<Rows<'_>>,
    ) {
        let width = input.width();
        let padded = self.padded_channels();
        self.check(&input, height, &rows);
        assert!(out.width() == width && out.stride() >= padded, "depthwise: output shape");
        assert!(rows.len() <= out.capacity(), "depthwise: more rows than the output holds");
        assert!(residual.is_none_or(|r| r.width() == width && r.stride() >= padded), "depthwise: residual shape");
        let out = Out::new(out);
        let chunks = width.div_ceil(COLUMNS);
        cpu.pool.run(rows.len() * chunks, &|task, _| {
            // Down before across: neighbouring rows share most of their input.
            let (y, start) = (rows.start + task % rows.len(), task / rows.len() * COLUMNS);
            let columns = start..(start + COLUMNS).min(width);
            let (residual, residual_stride) = match &residual {
                // In bounds: the row holds `width` pixels.
                Some(r) => (r.row(y)[start * r.stride()..].as_ptr(), r.stride()),
                None => (std::ptr::null(), 0),
            };
            let to = out.pixel(y, start);
            let strip = Strip {
                of: self,
                input,
                height,
                y,
                columns,
                out: to,
                out_stride: out.stride,
                slope,
                residual,
                residual_stride,
            };
            // SAFETY: packed for this instruction set; strips write disjoint pixels of the output; shapes were checked.
            unsafe { dispatch(self.isa, strip) }
        });
    }

    /// Computes pixels `columns` of row `y` on the calling thread, into `out` with `out_stride` floats a pixel: the step
    /// that fused layers are made of.
    ///
    /// # Panics
    /// As [`run`](Self::run), and if `out` is too short.
    pub fn strip(
        &self,
        input: Rows<'_>,
        height: usize,
        y: usize,
        columns: Range<usize>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        self.check(&input, height, &(y..y + 1));
        assert!(columns.end <= input.width(), "depthwise: columns {columns:?} of {}", input.width());
        if columns.is_empty() {
            return;
        }
        let padded = self.padded_channels();
        assert!(out_stride >= padded && out.len() >= (columns.len() - 1) * out_stride + padded, "depthwise: output");
        let (out, residual) = (out.as_mut_ptr(), std::ptr::null());
        let strip =
            Strip { of: self, input, height, y, columns, out, out_stride, slope: 1.0, residual, residual_stride: 0 };
        // SAFETY: packed for this instruction set, and the sizes were checked above.
        unsafe { dispatch(self.isa, strip) }
    }

    fn check(&self, input: &Rows<'_>, height: usize, rows: &Range<usize>) {
        assert!(input.stride() >= self.padded_channels(), "depthwise: input pixel stride {}", input.stride());
        assert!(rows.end <= height, "depthwise: rows {rows:?} of {height}");
    }
}

/// Some pixels of one output row.
struct Strip<'a> {
    of: &'a PackedDepthwise,
    input: Rows<'a>,
    height: usize,
    y: usize,
    columns: Range<usize>,
    /// Where the first of `columns` goes.
    out: *mut f32,
    out_stride: usize,
    slope: f32,
    /// Residual of the first of `columns`, or null.
    residual: *const f32,
    residual_stride: usize,
}

/// The rows that a filter covers within the picture, first to last.
struct Taps {
    rows: [*const f32; MAX_KERNEL],
    /// Kernel row of the first.
    first: usize,
    count: usize,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let mut taps = Taps { rows: [std::ptr::null(); MAX_KERNEL], first: 0, count: 0 };
        for ky in 0..self.of.kernel[0] {
            match (self.y + ky * self.of.dilation[0]).checked_sub(self.of.padding[0]) {
                None => taps.first = ky + 1,
                Some(row) if row < self.height => {
                    taps.rows[taps.count] = self.input.row(row).as_ptr();
                    taps.count += 1;
                }
                Some(_) => break,
            }
        }
        // Compiled with constant distances where they are usual ones: the addresses of a tile are then constants too.
        // SAFETY: the caller's promise.
        unsafe {
            match (self.input.stride(), self.of.dilation[1]) {
                (64, 1) => self.pixels::<V>(&taps, 64, 1),
                (64, 3) => self.pixels::<V>(&taps, 64, 3),
                (stride, dilation) => self.pixels::<V>(&taps, stride, dilation),
            }
        }
    }
}

impl Strip<'_> {
    #[inline(always)]
    unsafe fn pixels<V: Simd>(&self, taps: &Taps, stride: usize, dilation: usize) {
        let Range { start, end } = self.columns;
        let pad = self.of.padding[1];
        // Pixels whose filter lies within the row.
        let inner_end = self.input.width().saturating_sub(pad).clamp(start, end);
        let inner_start = pad.clamp(start, inner_end);
        let vectors = self.of.channels.div_ceil(V::LANES);
        // SAFETY: `inner_start..inner_end` keeps every tap within the rows; `edge` checks each.
        unsafe {
            for x in (start..inner_start).chain(inner_end..end) {
                let mut v = 0;
                while v + 4 <= vectors {
                    self.edge::<V, 4>(taps, stride, x, v);
                    v += 4;
                }
                while v < vectors {
                    self.edge::<V, 1>(taps, stride, x, v);
                    v += 1;
                }
            }
            for v in 0..vectors {
                let mut x = inner_start;
                if V::REGISTERS >= 32 {
                    x = self.tiles::<V, 16>(taps, stride, dilation, x..inner_end, v);
                }
                x = self.tiles::<V, 8>(taps, stride, dilation, x..inner_end, v);
                x = self.tiles::<V, 4>(taps, stride, dilation, x..inner_end, v);
                for x in x..inner_end {
                    self.tile::<V, 1>(taps, stride, dilation, x, v);
                }
            }
        }
    }

    /// Vector `v` of as many of `columns` as fill tiles of `P` pixels; where the rest starts.
    #[inline(always)]
    unsafe fn tiles<V: Simd, const P: usize>(
        &self,
        taps: &Taps,
        stride: usize,
        dilation: usize,
        columns: Range<usize>,
        v: usize,
    ) -> usize {
        let mut x = columns.start;
        while x + P * dilation <= columns.end {
            for phase in 0..dilation {
                // SAFETY: the tile's pixels lie in `columns`.
                unsafe { self.tile::<V, P>(taps, stride, dilation, x + phase, v) };
            }
            x += P * dilation;
        }
        x
    }

    /// `P` pixels from `x` on, a dilation apart so that they share inputs; vector `v`; none near an edge.
    #[inline(always)]
    unsafe fn tile<V: Simd, const P: usize>(&self, taps: &Taps, stride: usize, dilation: usize, x: usize, v: usize) {
        let [height, width] = self.of.kernel;
        let step = dilation * stride;
        // SAFETY: all taps lie within the rows, and weights and bias hold `v`.
        unsafe {
            let mut sums = [V::load(self.of.bias.as_ptr().add(v * V::LANES)); P];
            let mut weight = self.of.weights.as_ptr().add((v * height + taps.first) * width * V::LANES);
            for &row in &taps.rows[..taps.count] {
                let mut from = row.add((x - self.of.padding[1]) * stride + v * V::LANES);
                for _ in 0..width {
                    let w = V::load(weight);
                    weight = weight.add(V::LANES);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(from.add(p * step)).mul_add(w, *sum);
                    }
                    from = from.add(step);
                }
            }
            for (p, &sum) in sums.iter().enumerate() {
                self.store(x + p * dilation, v, sum);
            }
        }
    }

    /// Pixel `x`, `NV` vectors from `v` on, leaving out taps beyond the edges.
    #[inline(always)]
    unsafe fn edge<V: Simd, const NV: usize>(&self, taps: &Taps, stride: usize, x: usize, v: usize) {
        let [height, width] = self.of.kernel;
        let (pad, dilation) = (self.of.padding[1], self.of.dilation[1]);
        let first = pad.saturating_sub(x).div_ceil(dilation).min(width);
        let last = (self.input.width() + pad - x).div_ceil(dilation).min(width);
        // SAFETY: `first..last` keeps the taps within the row.
        unsafe {
            let bias = self.of.bias.as_ptr().add(v * V::LANES);
            let mut sums = [V::splat(0.0); NV];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(bias.add(i * V::LANES));
            }
            for (ky, &row) in taps.rows[..taps.count].iter().enumerate() {
                for kx in first..last {
                    let from = row.add((x + kx * dilation - pad) * stride + v * V::LANES);
                    let tap = (taps.first + ky) * width + kx;
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let weight = ((v + i) * height * width + tap) * V::LANES;
                        let w = V::load(self.of.weights.as_ptr().add(weight));
                        *sum = V::load(from.add(i * V::LANES)).mul_add(w, *sum);
                    }
                }
            }
            for (i, &sum) in sums.iter().enumerate() {
                self.store(x, v + i, sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn store<V: Simd>(&self, x: usize, v: usize, sum: V) {
        let pixel = x - self.columns.start;
        // SAFETY: the pixel is one of `columns`.
        unsafe {
            let mut sum = sum;
            if self.slope != 1.0 {
                sum = sum.max(sum.mul(V::splat(self.slope)));
            }
            if !self.residual.is_null() {
                sum = sum.add(V::load(self.residual.add(pixel * self.residual_stride + v * V::LANES)));
            }
            sum.store(self.out.add(pixel * self.out_stride + v * V::LANES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::conv2d_reference;
    use crate::testing::{close, noise};

    fn check(channels: usize, kernel: [usize; 2], dilation: [usize; 2], height: usize, width: usize) {
        let padding = [dilation[0] * (kernel[0] - 1) / 2, dilation[1] * (kernel[1] - 1) / 2];
        let shape = ConvShape {
            in_channels: channels,
            out_channels: channels,
            kernel,
            stride: [1; 2],
            padding,
            dilation,
            groups: channels,
        };
        let stride = channels.next_multiple_of(16);
        let plain = noise(height * width * channels, 1);
        let weights = noise(channels * kernel[0] * kernel[1], 2);
        let bias = noise(channels, 3);
        let residual = noise(height * width * stride, 4);
        let wanted = conv2d_reference(&shape, &plain, height, width, &weights, Some(&bias));
        let mut input = vec![0.0; height * width * stride];
        for (to, from) in input.chunks_exact_mut(stride).zip(plain.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
        }
        let rows = Rows::new(&input, height, width, stride);
        for isa in Isa::available() {
            let what = format!("{isa} {channels} {kernel:?} {dilation:?} {height}x{width}");
            let packed = PackedDepthwise::pack(isa, channels, kernel, dilation, padding, &weights, Some(&bias));
            let mut out = vec![f32::NAN; height * width * stride];
            let mut to = RowsMut::new(&mut out, height, width, stride);
            let add = Rows::new(&residual, height, width, stride);
            packed.run(&Cpu::new(isa, 2), rows, height, &mut to, 0..height, 1.0, Some(add));
            for (i, pixel) in out.chunks_exact(stride).enumerate() {
                let wanted: Vec<f32> = (0..channels)
                    .map(|c| (wanted[i * channels + c] + f64::from(residual[i * stride + c])) as f32)
                    .collect();
                close(&pixel[..channels], &wanted, 2e-5, &what);
            }

            // Row by row and in strips of any width: equal to the bit.
            let mut whole = vec![f32::NAN; height * width * stride];
            packed.run(
                &Cpu::new(isa, 1),
                rows,
                height,
                &mut RowsMut::new(&mut whole, height, width, stride),
                0..height,
                1.0,
                None,
            );
            for y in 0..height {
                let mut x = 0;
                for len in [3, 1, 7, 16, 2, 9].into_iter().cycle() {
                    let columns = x..(x + len).min(width);
                    let mut strip = vec![f32::NAN; columns.len() * stride];
                    packed.strip(rows, height, y, columns.clone(), &mut strip, stride);
                    for (found, x) in strip.chunks_exact(stride).zip(columns) {
                        assert_eq!(
                            found[..channels],
                            whole[(y * width + x) * stride..][..channels],
                            "{what} at {x}, {y}"
                        );
                    }
                    x += len;
                    if x >= width {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn every_shape_equals_the_reference() {
        for channels in [1, 16, 60, 83] {
            check(channels, [3, 3], [1, 1], 9, 37);
            check(channels, [5, 5], [1, 1], 6, 40);
            check(channels, [7, 7], [3, 3], 21, 50);
        }
        check(20, [1, 5], [1, 2], 3, 5);
        check(20, [3, 1], [4, 1], 5, 3);
        check(60, [7, 7], [3, 3], 2, 3);
        check(60, [3, 3], [1, 1], 1, 1);
    }
}
