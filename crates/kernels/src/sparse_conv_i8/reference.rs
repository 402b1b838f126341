//! Convolutions in plain code: what the packed kernels are compared with, bit for bit.

use super::{Geometry, IntegerWeights, QuadBuf, Requantisation};

/// A convolution over all channels, one pixel and one output after another.
pub fn conv(
    weights: &IntegerWeights<'_>,
    requantisation: &Requantisation,
    geometry: &Geometry,
    input: &QuadBuf,
    output: &mut QuadBuf,
) {
    each(geometry, |pixel, taps| {
        for (o, &bias) in weights.bias.iter().enumerate() {
            let mut sum = bias;
            for i in 0..weights.inputs {
                for &(tap, at) in taps {
                    let weight = weights.weights[(o * weights.inputs + i) * weights.area + tap];
                    sum += i32::from(weight) * (i32::from(input.get(i, at)) - weights.input_zero);
                }
            }
            output.set(o, pixel, requantisation.apply(o, sum));
        }
    });
}

/// A depthwise convolution; output channel `c` reads input channel `c / multiplier`.
pub fn depthwise(
    weights: &IntegerWeights<'_>,
    requantisation: &Requantisation,
    multiplier: usize,
    geometry: &Geometry,
    input: &QuadBuf,
    output: &mut QuadBuf,
) {
    each(geometry, |pixel, taps| {
        for (c, &bias) in weights.bias.iter().enumerate() {
            let mut sum = bias;
            for &(tap, at) in taps {
                let value = i32::from(input.get(c / multiplier, at)) - weights.input_zero;
                sum += i32::from(weights.weights[c * weights.area + tap]) * value;
            }
            output.set(c, pixel, requantisation.apply(c, sum));
        }
    });
}

/// Calls `visit(output pixel, taps)` for each output pixel; a tap is (position in the kernel, input pixel).
fn each(geometry: &Geometry, mut visit: impl FnMut(usize, &[(usize, usize)])) {
    let mut taps = Vec::new();
    for y in 0..geometry.output[0] {
        for x in 0..geometry.output[1] {
            taps.clear();
            for ky in geometry.inside(0, y) {
                for kx in geometry.inside(1, x) {
                    let row = y * geometry.stride[0] + ky - geometry.before[0];
                    let column = x * geometry.stride[1] + kx - geometry.before[1];
                    taps.push((ky * geometry.kernel[1] + kx, row * geometry.input[1] + column));
                }
            }
            visit(y * geometry.output[1] + x, &taps);
        }
    }
}
