//! The sum of two 8-bit pictures, and a picture on another scale.
//!
//! As TensorFlow Lite's reference kernels do it: both inputs are shifted 20 bits to the left, scaled to twice the larger of
//! their scales, added, and scaled to the output.

use super::requantise::Factor;
use super::vector::{Kernel, Level, Vector, dispatch};
use super::{PackError, QuadBuf};

/// Bits by which inputs are shifted, so that rounding their scaled values loses nothing that matters.
const SHIFT: i32 = 20;

/// The sum of two pictures.
#[derive(Clone, Copy, Debug)]
pub struct AddLayer {
    level: Level,
    inputs: [Factor; 2],
    zeros: [i32; 2],
    output: Factor,
    zero: i32,
    range: [i32; 2],
}

impl AddLayer {
    /// Takes the scale and the zero point (as an unsigned byte) of both inputs and of the output, and the range of the
    /// output, as unsigned bytes.
    ///
    /// # Errors
    /// If a scale or a range is impossible.
    ///
    /// # Panics
    /// If this CPU does not offer `level`.
    pub fn new(
        level: Level,
        inputs: [(f32, i32); 2],
        output: (f32, i32),
        range: [i32; 2],
    ) -> Result<AddLayer, PackError> {
        assert!(level.is_available(), "this CPU does not offer {level}");
        let scales = [inputs[0].0, inputs[1].0, output.0].map(f64::from);
        let zeros = [inputs[0].1, inputs[1].1, output.1];
        let bytes = zeros.into_iter().chain(range).all(|value| (0..=255).contains(&value)) && range[0] <= range[1];
        if !bytes || !scales.into_iter().all(|scale| scale.is_finite() && scale > 0.0) {
            return Err(PackError::Factor);
        }
        let twice = 2.0 * scales[0].max(scales[1]);
        let output = Factor::new(twice / (f64::from(1 << SHIFT) * scales[2]));
        let inputs = [Factor::new(scales[0] / twice), Factor::new(scales[1] / twice)];
        // A factor of 1 and more would mean an output scale of a millionth of the inputs'.
        if output.shift > 0 {
            return Err(PackError::Factor);
        }
        Ok(AddLayer { level, inputs, zeros: [zeros[0], zeros[1]], output, zero: zeros[2], range })
    }

    /// The sum of two bytes, in plain code.
    pub fn apply(&self, a: u8, b: u8) -> u8 {
        let scaled = |i: usize, value: u8| self.inputs[i].apply((i32::from(value) - self.zeros[i]) << SHIFT);
        let sum = self.output.apply(scaled(0, a) + scaled(1, b)) + self.zero;
        sum.clamp(self.range[0], self.range[1]) as u8
    }

    /// `output = a + b`.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn run(&self, a: &QuadBuf, b: &QuadBuf, output: &mut QuadBuf) {
        let size = |picture: &QuadBuf| [picture.channels(), picture.height(), picture.width()];
        assert!(size(a) == size(b) && size(a) == size(output), "pictures of one size");
        let bytes = a.quads() * a.plane_bytes();
        let sum = Sum {
            layer: self,
            inputs: [a.bytes().as_ptr(), b.bytes().as_ptr()],
            output: output.bytes_mut().as_mut_ptr(),
            bytes,
        };
        // SAFETY: the level was checked; all three have so many bytes and room for a vector behind them.
        unsafe { dispatch(self.level, sum) }
    }
}

struct Sum<'a> {
    layer: &'a AddLayer,
    inputs: [*const u8; 2],
    output: *mut u8,
    bytes: usize,
}

/// A vector times a factor that shifts to the right.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn scale<V: Vector>(value: V, factor: Factor) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let right = -factor.shift;
        let high = value.high_mul(V::splat(factor.multiplier));
        let half = ((1i64 << right) >> 1) as i32;
        let rounding = high.sign().and(V::splat(-i32::from(right > 0))).add(V::splat(half));
        high.add(rounding).shift_right_all(right)
    }
}

impl Kernel for Sum<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let layer = self.layer;
        for i in (0..self.bytes).step_by(V::LANES) {
            // SAFETY: the caller vouches for the bytes.
            unsafe {
                let input = |which: usize| (self.inputs[which].add(i), layer.zeros[which], layer.inputs[which]);
                let ((a, a_zero, a_factor), (b, b_zero, b_factor)) = (input(0), input(1));
                let a = V::load_bytes(a).add(V::splat(-a_zero)).shift_left(V::splat(SHIFT));
                let b = V::load_bytes(b).add(V::splat(-b_zero)).shift_left(V::splat(SHIFT));
                let sum = scale(scale(a, a_factor).add(scale(b, b_factor)), layer.output);
                let range = layer.range.map(|value| value as u8);
                sum.add(V::splat(layer.zero)).store_bytes(range, self.output.add(i));
            }
        }
    }
}

/// Copies the channels of `input` to those of `output` from `first` on, each byte `b` as `map[b]`: a picture on another scale, or
/// a part of several pictures one after another.
///
/// # Panics
/// If the channels or the sizes do not fit.
pub fn copy_channels(input: &QuadBuf, map: &[u8; 256], output: &mut QuadBuf, first: usize) {
    let fits = [input.height(), input.width()] == [output.height(), output.width()];
    assert!(fits && first + input.channels() <= output.channels(), "pictures of one size");
    let (from_plane, to_plane, len) = (input.plane_bytes(), output.plane_bytes(), input.pixels() * 4);
    for channel in 0..input.channels() {
        let to = first + channel;
        let from = input.bytes()[channel / 4 * from_plane..][..len].chunks_exact(4);
        let out = output.bytes_mut()[to / 4 * to_plane..][..len].chunks_exact_mut(4);
        for (out, from) in out.zip(from) {
            out[to % 4] = map[usize::from(from[channel % 4])];
        }
    }
}
