//! Depthwise convolution in 8 bits: each output channel from one input channel.
//!
//! `out[c][y][x] = requantise(bias[c] + Σ w[c][ky][kx] · (in[c / multiplier][y·s + ky − top][x·s + kx − left] − zero))`
//!
//! Neighbouring bytes of a quad are different channels, whose products must not be added. So windows of four neighbouring
//! quads in a row are transposed: then four neighbouring bytes are four columns of one channel, and one instruction does up
//! to four taps of a row for the four channels of several pixels. The rows that a quad of channels needs are first copied
//! into scratch, with the zero point around them.

use super::packed::{Block, IntegerWeights, push_block};
use super::quads::{ByteBuf, QuadBuf};
use super::requantise::PackedFactors;
use super::vector::{Kernel, Level, MAX_VECTOR, Vector, dispatch};
use super::{Geometry, PackError, Requantisation};
use std::ops::Range;

/// Columns of a window that one instruction takes.
const TAPS: usize = 4;

/// A depthwise convolution, packed for one level of instructions and one size of picture.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    level: Level,
    geometry: Geometry,
    channels: usize,
    multiplier: usize,
    /// `[⌈channels / 4⌉ + 1]`, the first block of each quad of channels.
    starts: Vec<u32>,
    /// `[blocks]`, bytes from the first row and column of a window to the taps of the block.
    offsets: Vec<u32>,
    /// `[blocks]` of `[4 channels][4 taps]`.
    values: ByteBuf,
    factors: PackedFactors,
    zero: u8,
}

impl PackedDepthwise {
    /// Packs `weights` (`[channels][1][kernel height · kernel width]`); output channel `c` reads input channel
    /// `c / multiplier`.
    ///
    /// # Errors
    /// As [`PackedConv::new`](super::PackedConv::new).
    ///
    /// # Panics
    /// If lengths do not fit, or this CPU does not offer `level`.
    pub fn new(
        level: Level,
        weights: &IntegerWeights<'_>,
        requantisation: &Requantisation,
        multiplier: usize,
        geometry: Geometry,
    ) -> Result<PackedDepthwise, PackError> {
        assert!(level.is_available(), "this CPU does not offer {level}");
        assert!(weights.inputs == 1 && weights.area == geometry.area(), "depthwise weights");
        let channels = weights.bias.len();
        assert!(multiplier > 0 && channels.is_multiple_of(multiplier), "{channels} channels by {multiplier}");
        let form = level.form();
        let factors = weights.factors(form, requantisation)?;
        let [height, width] = geometry.kernel;
        let (mut starts, mut offsets, mut values) = (vec![0], Vec::new(), Vec::new());
        for quad in 0..channels.div_ceil(4) {
            for ky in 0..height {
                for kx in (0..width).step_by(TAPS) {
                    let mut block: Block = [[0; 4]; 4];
                    for (c, row) in block.iter_mut().enumerate().take(channels - quad * 4) {
                        for (tap, weight) in row.iter_mut().enumerate().take(width - kx) {
                            *weight = weights.weights[((quad * 4 + c) * height + ky) * width + kx + tap];
                        }
                    }
                    let offset = ky * row_bytes(&geometry) + kx * 4;
                    let count = push_block(block, form, &mut values);
                    offsets.extend(std::iter::repeat_n(offset as u32, count));
                }
            }
            starts.push(offsets.len() as u32);
        }
        let mut buffer = ByteBuf::new(values.len());
        buffer.as_mut_slice()[..values.len()].copy_from_slice(&values);
        let zero = weights.input_zero as u8;
        Ok(PackedDepthwise { level, geometry, channels, multiplier, starts, offsets, values: buffer, factors, zero })
    }

    /// Output channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Where its windows stand.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of scratch for a band of `rows` output rows.
    pub(super) fn scratch_bytes(&self, rows: usize) -> usize {
        let input_rows = (rows.max(1) - 1) * self.geometry.stride[0] + self.geometry.kernel[0];
        // The last vector of a row begins before its end and has up to four windows.
        input_rows * row_bytes(&self.geometry) + 4 * self.geometry.stride[1] * 4 + 2 * MAX_VECTOR
    }

    /// Computes `rows` of quad `quad` of the output, the first to `output`.
    ///
    /// # Safety
    /// `scratch` has room for [`scratch_bytes`](Self::scratch_bytes), `output` for the rows; nothing else is written.
    ///
    /// # Panics
    /// If the input does not fit.
    pub(super) unsafe fn rows(
        &self,
        input: &QuadBuf,
        quad: usize,
        rows: Range<usize>,
        scratch: *mut u8,
        output: *mut u8,
    ) {
        let size = [input.height(), input.width()];
        let fits = size == self.geometry.input && input.channels() * self.multiplier == self.channels;
        assert!(fits && rows.end <= self.geometry.output[0], "depthwise input");
        let input_rows = (rows.len().max(1) - 1) * self.geometry.stride[0] + self.geometry.kernel[0];
        // SAFETY: the caller gives room for so much.
        let padded = unsafe { std::slice::from_raw_parts_mut(scratch, input_rows * row_bytes(&self.geometry)) };
        self.pad(input, quad, rows.start, padded);
        let band = Band { depthwise: self, scratch, output, rows: rows.len(), quad };
        // SAFETY: the level was checked on packing; the caller gives room.
        unsafe { dispatch(self.level, band) }
    }

    /// Copies the rows under output rows from `first` on to `padded`, with the zero point around them.
    fn pad(&self, input: &QuadBuf, quad: usize, first: usize, padded: &mut [u8]) {
        let g = &self.geometry;
        let plane = input.plane_bytes();
        let columns = g.input[1].min(g.reach().saturating_sub(g.before[1]));
        let left = (g.before[1] * 4).min(row_bytes(g));
        for (r, row) in padded.chunks_exact_mut(row_bytes(g)).enumerate() {
            let Some(y) = g.input_row(first, r) else {
                row.fill(self.zero);
                continue;
            };
            let (start, rest) = row.split_at_mut(left);
            let (inner, end) = rest.split_at_mut((columns * 4).min(rest.len()));
            start.fill(self.zero);
            end.fill(self.zero);
            if self.multiplier == 1 {
                inner.copy_from_slice(&input.bytes()[quad * plane + y * g.input[1] * 4..][..inner.len()]);
                continue;
            }
            for (lane, channel) in (quad * 4..self.channels.min(quad * 4 + 4)).enumerate() {
                let source = channel / self.multiplier;
                let from = &input.bytes()[source / 4 * plane + y * g.input[1] * 4..];
                for (to, from) in inner.chunks_exact_mut(4).zip(from.chunks_exact(4)) {
                    to[lane] = from[source % 4];
                }
            }
        }
    }
}

/// Bytes of a row in scratch.
fn row_bytes(geometry: &Geometry) -> usize {
    geometry.reach() * 4
}

/// Rows of one quad of channels.
struct Band<'a> {
    depthwise: &'a PackedDepthwise,
    scratch: *const u8,
    output: *mut u8,
    rows: usize,
    quad: usize,
}

impl Kernel for Band<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let d = self.depthwise;
        let blocks = d.starts[self.quad] as usize..d.starts[self.quad + 1] as usize;
        // SAFETY: the caller's promise.
        unsafe {
            match blocks.len() {
                // Kernels of three rows and up to four columns, whose weights stay in registers.
                3 => self.blocks::<V, 3>(blocks.start),
                _ => self.blocks::<V, 0>(blocks.start),
            }
        }
    }
}

impl Band<'_> {
    /// All rows, with the quad's blocks from `first` on: `N` of them, or as many as there are for `N` = 0.
    ///
    /// # Safety
    /// As [`Vector`]; scratch holds the rows, and the output has room.
    #[inline(always)]
    unsafe fn blocks<V: Vector, const N: usize>(&self, first: usize) {
        let d = self.depthwise;
        let g = &d.geometry;
        let count = if N > 0 { N } else { d.starts[self.quad + 1] as usize - first };
        let (row_step, step, width) = (g.stride[0] * row_bytes(g), g.stride[1] * 4, g.output[1]);
        let range = d.factors.range();
        // SAFETY: offsets stay within the rows copied, and what vectors read behind them is scratch too. A vector that is
        // stored over the end of a row is overwritten by the next rows; nothing is stored behind the last.
        unsafe {
            let lanes = d.factors.of_quad::<V>(self.quad * 4);
            let offsets = d.offsets.as_ptr().add(first);
            let weights = d.values.as_slice().as_ptr().add(first * V::FORM.block_bytes());
            for y in 0..self.rows {
                for x in (0..width).step_by(V::LANES / 4) {
                    let window = self.scratch.add(y * row_step + x * step);
                    let mut sums = V::zero_sums();
                    for block in 0..count {
                        let quads = V::windows(window.add(*offsets.add(block) as usize), step);
                        sums = V::dot_each(sums, quads, V::load_block(weights.add(block * V::FORM.block_bytes())));
                    }
                    let values = lanes.finish::<false>(sums);
                    let pixel = y * width + x;
                    let output = self.output.add(pixel * 4);
                    if pixel + V::LANES / 4 <= self.rows * width {
                        values.store_bytes(range, output);
                    } else {
                        let mut whole = [0; MAX_VECTOR];
                        values.store_bytes(range, whole.as_mut_ptr());
                        std::ptr::copy_nonoverlapping(whole.as_ptr(), output, (width - x) * 4);
                    }
                }
            }
        }
    }
}
