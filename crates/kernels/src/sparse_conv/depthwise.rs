//! Depthwise convolution of planar pictures: each output channel from one input channel.
//!
//! `out[c][y][x] = clamp(bias[c] + Σ w[c][ky][kx] · in[c / multiplier][y·s + ky − top][x·s + kx − left])`
//!
//! | argument | shape |
//! |---|---|
//! | weights | `[channels][kernel height][kernel width]` |
//! | input | `[channels / multiplier][input_plane]`, each plane `[height][width]`, and [`PADDING`] floats after the last |
//! | output | `[channels][output_plane]`, of which the rows asked for are written, the first at the beginning |
//!
//! Most 3×3 kernels run straight from the planes (`direct.rs`, `direct_rows.rs`). For the others the rows that a channel
//! needs go through zero-padded [`Phases`] in scratch memory, which the L1 cache holds; then two output rows at a time share
//! the rows they both read.

use super::direct::{self, Direct};
use super::direct_rows;
use super::{PADDING, Phases};
use crate::pool::SendPtr;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{AlignedBuf, Isa, ThreadPool};
use std::ops::Range;

/// The weights of a depthwise convolution.
#[derive(Clone, Debug)]
pub struct PlanarDepthwise {
    isa: Isa,
    channels: usize,
    multiplier: usize,
    phases: Phases,
    weights: AlignedBuf,
    bias: AlignedBuf,
}

impl PlanarDepthwise {
    /// Takes `weights` (`[channels][kernel height][kernel width]`) and `bias` (`[channels]`) for planes and a kernel that
    /// `phases` describes.
    ///
    /// # Panics
    /// If the lengths do not fit or `multiplier` does not divide the channels.
    pub fn new(isa: Isa, weights: &[f32], bias: &[f32], multiplier: usize, phases: Phases) -> PlanarDepthwise {
        let channels = bias.len();
        let area = phases.kernel()[0] * phases.kernel()[1];
        assert!(multiplier > 0 && channels.is_multiple_of(multiplier), "{channels} channels by {multiplier}");
        assert_eq!(weights.len(), channels * area, "depthwise weights");
        let (weights, bias) = (AlignedBuf::from_slice(weights), AlignedBuf::from_slice(bias));
        PlanarDepthwise { isa, channels, multiplier, phases, weights, bias }
    }

    /// Output channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The layout of its input rows.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Floats of scratch for `rows` output rows.
    pub fn scratch_len(&self, rows: usize) -> usize {
        self.phases.scratch_len(rows) + PADDING
    }

    /// Computes output rows `rows` of output channels `channels`; `range` is the lowest and the highest result.
    ///
    /// `output` begins at the first of these rows of the first of these channels; rows follow each other without a gap.
    ///
    /// # Panics
    /// If a buffer is too short or the channels do not exist.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        input: &[f32],
        input_plane: usize,
        channels: Range<usize>,
        rows: Range<usize>,
        output: &mut [f32],
        output_plane: usize,
        range: (f32, f32),
        scratch: &mut [f32],
    ) {
        let written = match channels.len() {
            0 => 0,
            n => (n - 1) * output_plane + rows.len() * self.phases.out_width(),
        };
        assert!(output.len() >= written, "the convolution writes {written} floats of {}", output.len());
        // SAFETY: the output is as long as it has to be, and this is the only reference to it.
        unsafe { self.run_at(input, input_plane, channels, rows, output.as_mut_ptr(), output_plane, range, scratch) }
    }

    /// All channels and the `height` output rows, on all threads; `scratch` has [`scratch_len`](Self::scratch_len) floats
    /// for each of them.
    ///
    /// # Panics
    /// If a buffer is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn run_planes(
        &self,
        pool: &ThreadPool,
        input: &[f32],
        input_plane: usize,
        output: &mut [f32],
        output_plane: usize,
        height: usize,
        range: (f32, f32),
        scratch: &mut [f32],
    ) {
        let share = self.scratch_len(height);
        assert!(scratch.len() >= pool.threads() * share, "depthwise scratch for all threads");
        let scratch = SendPtr(scratch.as_mut_ptr());
        let group = self.channels.div_ceil(4 * pool.threads());
        pool.for_each_chunk_worker(
            &mut output[..self.channels * output_plane],
            group * output_plane,
            &|i, worker, out| {
                // SAFETY: each worker has a share of its own, within what was checked.
                let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * share), share) };
                let channels = i * group..((i + 1) * group).min(self.channels);
                self.run(input, input_plane, channels, 0..height, out, output_plane, range, scratch);
            },
        );
    }

    /// [`run`](Self::run) into memory that others may write elsewhere in at the same time.
    ///
    /// # Safety
    /// These rows of these channels must be writable, and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// If the input or the scratch is too short or the channels do not exist.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn run_at(
        &self,
        input: &[f32],
        input_plane: usize,
        channels: Range<usize>,
        rows: Range<usize>,
        output: *mut f32,
        output_plane: usize,
        range: (f32, f32),
        scratch: &mut [f32],
    ) {
        assert!(channels.end <= self.channels && scratch.len() >= self.scratch_len(rows.len()), "depthwise scratch");
        if channels.is_empty() || rows.is_empty() {
            return;
        }
        let read = (channels.end - 1) / self.multiplier * input_plane + self.phases.read_len();
        assert!(input.len() >= read, "the convolution reads {read} floats of {}", input.len());
        let kernel =
            Depthwise { layer: self, input, input_plane, channels, rows, output, output_plane, range, scratch };
        // SAFETY: `Isa` values come from detection; lengths were checked just now, and the caller vouches for the output.
        unsafe { dispatch(self.isa, kernel) }
    }
}

struct Depthwise<'a> {
    layer: &'a PlanarDepthwise,
    input: &'a [f32],
    input_plane: usize,
    channels: Range<usize>,
    rows: Range<usize>,
    output: *mut f32,
    output_plane: usize,
    range: (f32, f32),
    scratch: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the checks of `PlanarDepthwise::run` hold for every way on.
        unsafe {
            let half = <V::Half as Simd>::LANES;
            if half < V::LANES && self.layer.phases.out_width() <= half {
                self.by_kernel::<V::Half>();
            } else {
                self.by_kernel::<V>();
            }
        }
    }
}

impl Depthwise<'_> {
    #[inline(always)]
    unsafe fn by_kernel<V: Simd>(self) {
        // SAFETY: as in `run`.
        unsafe {
            if direct::takes(&self.layer.phases) {
                return self.directly::<V>();
            }
            match (self.layer.phases.kernel(), self.layer.phases.stride()[0]) {
                ([3, 3], 1) => self.all::<V, 3, 1>(),
                ([3, 3], 2) => self.all::<V, 3, 2>(),
                ([5, 5], 1) => self.all::<V, 5, 1>(),
                ([5, 5], 2) => self.all::<V, 5, 2>(),
                _ => self.all::<V, 0, 0>(),
            }
        }
    }

    /// 3×3 with the usual padding.
    #[inline(always)]
    unsafe fn directly<V: Simd>(self) {
        let layer = self.layer;
        let by_rows = direct_rows::takes::<V>(&layer.phases, &self.rows);
        if by_rows {
            self.scratch[..layer.phases.row() + PADDING].fill(0.0);
        }
        for (i, channel) in self.channels.enumerate() {
            // SAFETY: the channel's plane, weights and output are there, as was checked.
            unsafe {
                let filter = layer.weights.as_ptr().add(channel * 9);
                let mut weights = [[V::splat(0.0); 3]; 3];
                for (ky, weights) in weights.iter_mut().enumerate() {
                    for (kx, weight) in weights.iter_mut().enumerate() {
                        *weight = V::splat(*filter.add(ky * 3 + kx));
                    }
                }
                let direct = Direct {
                    weights,
                    bias: V::splat(layer.bias[channel]),
                    low: V::splat(self.range.0),
                    high: V::splat(self.range.1),
                    from: self.input.as_ptr().add(channel / layer.multiplier * self.input_plane),
                    to: self.output.add(i * self.output_plane),
                };
                if by_rows {
                    direct.run_by_rows(&layer.phases, self.rows.clone(), self.scratch.as_ptr());
                } else {
                    direct.run(&layer.phases, self.rows.clone());
                }
            }
        }
    }

    /// A square kernel of side `K` and rows `S` apart, or where these are zero, any.
    #[inline(always)]
    unsafe fn all<V: Simd, const K: usize, const S: usize>(self) {
        let layer = self.layer;
        let phases = layer.phases;
        let area = phases.kernel()[0] * phases.kernel()[1];
        let count = self.rows.len();
        let mut columns = [0; K];
        for (kx, column) in columns.iter_mut().enumerate() {
            *column = phases.offset(0, kx);
        }
        let mut filled = None;
        for (i, channel) in self.channels.enumerate() {
            let source = channel / layer.multiplier;
            // SAFETY: scratch, weights and output have the lengths that were checked; vectors read into the padding.
            unsafe {
                if filled != Some(source) {
                    let plane = self.input.as_ptr().add(source * self.input_plane);
                    phases.fill::<V>(plane, self.rows.clone(), self.scratch.as_mut_ptr());
                    filled = Some(source);
                }
                let filter = layer.weights.as_ptr().add(channel * area);
                let mut weights = [[V::splat(0.0); K]; K];
                for (ky, weights) in weights.iter_mut().enumerate() {
                    for (kx, weight) in weights.iter_mut().enumerate() {
                        *weight = V::splat(*filter.add(ky * K + kx));
                    }
                }
                let plane = Plane {
                    bias: V::splat(layer.bias[channel]),
                    low: V::splat(self.range.0),
                    high: V::splat(self.range.1),
                    from: self.scratch.as_ptr(),
                    row: phases.row(),
                    to: self.output.add(i * self.output_plane),
                    width: phases.out_width(),
                };
                if K == 0 {
                    (0..count).for_each(|y| plane.any_kernel(y, &phases, filter));
                    continue;
                }
                let mut y = 0;
                while y + 1 < count {
                    plane.rows::<K, S, 2>(y, &weights, &columns);
                    y += 2;
                }
                if y < count {
                    plane.rows::<K, S, 1>(y, &weights, &columns);
                }
            }
        }
    }
}

/// One channel: its rows in scratch, and where its output goes.
#[derive(Clone, Copy)]
struct Plane<V> {
    bias: V,
    low: V,
    high: V,
    from: *const f32,
    /// Floats from a row of scratch to the next.
    row: usize,
    to: *mut f32,
    width: usize,
}

impl<V: Simd> Plane<V> {
    /// `R` output rows from row `y` on; `columns` is where each tap of a row of the kernel begins.
    #[inline(always)]
    unsafe fn rows<const K: usize, const S: usize, const R: usize>(
        &self,
        y: usize,
        weights: &[[V; K]; K],
        columns: &[usize; K],
    ) {
        // SAFETY: the rows are in scratch; the last vector may read into the padding, and stores what the row has left.
        unsafe {
            let from = self.from.add(y * S * self.row);
            let mut x = 0;
            while x < self.width {
                let mut sums = [self.bias; R];
                for r in 0..K + (R - 1) * S {
                    for kx in 0..K {
                        let pixels = V::load(from.add(r * self.row + columns[kx] + x));
                        for o in 0..R {
                            if r >= o * S && r - o * S < K {
                                sums[o] = pixels.mul_add(weights[r - o * S][kx], sums[o]);
                            }
                        }
                    }
                }
                for (o, &sum) in sums.iter().enumerate() {
                    self.store(sum, y + o, x);
                }
                x += V::LANES;
            }
        }
    }

    /// Output row `y` for a kernel of any shape, with weights at `filter`.
    #[inline(always)]
    unsafe fn any_kernel(&self, y: usize, phases: &Phases, filter: *const f32) {
        let [height, width] = phases.kernel();
        // SAFETY: as in `rows`.
        unsafe {
            let from = self.from.add(y * phases.output_row());
            let mut x = 0;
            while x < self.width {
                let mut sum = self.bias;
                for ky in 0..height {
                    for kx in 0..width {
                        let weight = V::splat(*filter.add(ky * width + kx));
                        sum = V::load(from.add(phases.offset(ky, kx) + x)).mul_add(weight, sum);
                    }
                }
                self.store(sum, y, x);
                x += V::LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn store(&self, sum: V, y: usize, x: usize) {
        // SAFETY: `x` is in the row, and no more than what the row has left is stored.
        unsafe {
            // In this order NaN passes.
            let value = self.high.min(self.low.max(sum));
            let to = self.to.add(y * self.width + x);
            let left = self.width - x;
            if left >= V::LANES { value.store(to) } else { value.store_first(to, left) }
        }
    }
}
