//! Pooling of 8-bit pictures.
//!
//! Means are rounded to the nearest, ties away from zero, as TensorFlow Lite's reference kernels do it: of unsigned bytes as
//! they are, and of signed ones as they are, although both are kept as unsigned bytes here.

use super::requantise::Factor;
use super::{Geometry, QuadBuf};

/// How a window is reduced to a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// The mean of those positions that lie inside the picture. `offset` is what was added to the file's bytes to make them
    /// unsigned: 0, or 128.
    Average {
        /// 0 or 128.
        offset: i32,
    },
    /// The largest.
    Max,
}

impl PoolKind {
    fn mean(offset: i32, sum: i32, count: i32) -> i32 {
        let sum = sum - offset * count;
        let rounded = if sum > 0 { (sum + count / 2) / count } else { (sum - count / 2) / count };
        rounded + offset
    }
}

/// Each output pixel from a window of the input, cut to `range` (unsigned bytes).
///
/// # Panics
/// If sizes do not fit, or a window lies outside the input.
pub fn pool(input: &QuadBuf, kind: PoolKind, geometry: &Geometry, range: [i32; 2], output: &mut QuadBuf) {
    let fits =
        [input.height(), input.width()] == geometry.input && [output.height(), output.width()] == geometry.output;
    assert!(fits && input.channels() == output.channels(), "sizes of a pooling");
    let (from_plane, to_plane) = (input.plane_bytes(), output.plane_bytes());
    for quad in 0..input.quads() {
        let plane = &input.bytes()[quad * from_plane..][..from_plane];
        let out = &mut output.bytes_mut()[quad * to_plane..][..to_plane];
        for y in 0..geometry.output[0] {
            let rows = geometry.inside(0, y);
            for x in 0..geometry.output[1] {
                let columns = geometry.inside(1, x);
                assert!(!rows.is_empty() && !columns.is_empty(), "a window in the padding");
                let first = x * geometry.stride[1] + columns.start - geometry.before[1];
                let (mut sums, mut highest) = ([0i32; 4], [0u8; 4]);
                for ky in rows.clone() {
                    let row = y * geometry.stride[0] + ky - geometry.before[0];
                    let window = &plane[(row * geometry.input[1] + first) * 4..][..columns.len() * 4];
                    for quad in window.chunks_exact(4) {
                        for lane in 0..4 {
                            sums[lane] += i32::from(quad[lane]);
                            highest[lane] = highest[lane].max(quad[lane]);
                        }
                    }
                }
                let count = (rows.len() * columns.len()) as i32;
                for lane in 0..4 {
                    let value = match kind {
                        PoolKind::Average { offset } => PoolKind::mean(offset, sums[lane], count),
                        PoolKind::Max => i32::from(highest[lane]),
                    };
                    out[(y * geometry.output[1] + x) * 4 + lane] = value.clamp(range[0], range[1]) as u8;
                }
            }
        }
    }
}

/// The mean of each plane on another scale: `zero + round((Σ − count · input zero) · factor / count)`, the division being part of
/// the factor, as TensorFlow Lite's `Mean` does it. Zero points are of unsigned bytes.
///
/// # Panics
/// If sizes do not fit.
pub fn rescaled_mean(
    input: &QuadBuf,
    input_zero: i32,
    factor: f64,
    output_zero: i32,
    range: [i32; 2],
    output: &mut QuadBuf,
) {
    assert!(output.pixels() == 1 && input.channels() == output.channels(), "sizes of a mean");
    let count = input.pixels();
    let Factor { multiplier, shift } = Factor::new(factor);
    // The division goes into the multiplier, with as many bits as fit.
    let bits = (63 - (count as u64).leading_zeros() as i32).min(32).min(31 + shift).max(0);
    let multiplier = ((i64::from(multiplier) << bits) / count as i64) as i32;
    let factor = Factor { multiplier, shift: shift - bits };
    let (from_plane, to_plane) = (input.plane_bytes(), output.plane_bytes());
    for quad in 0..input.quads() {
        let mut sums = [0i64; 4];
        for pixel in input.bytes()[quad * from_plane..][..count * 4].chunks_exact(4) {
            for (sum, &byte) in sums.iter_mut().zip(pixel) {
                *sum += i64::from(byte);
            }
        }
        for (lane, sum) in sums.into_iter().enumerate() {
            let sum = sum - count as i64 * i64::from(input_zero);
            let mean = factor.apply(sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32);
            output.bytes_mut()[quad * to_plane + lane] = (mean + output_zero).clamp(range[0], range[1]) as u8;
        }
    }
}
