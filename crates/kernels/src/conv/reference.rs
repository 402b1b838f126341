//! The scalar truth that convolutions are compared with.

use super::ConvShape;

/// The whole convolution of a picture `[height][width][in_channels]` (no padding between pixels), summed in `f64`; gives
/// `[out height][out width][out_channels]`, without activation and residual.
///
/// # Panics
/// If the kernel does not fit the picture.
pub fn conv2d_reference(
    shape: &ConvShape,
    input: &[f32],
    height: usize,
    width: usize,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let s = shape;
    let (out_height, out_width) = s.output_size(height, width).expect("kernel fits");
    let (cin, cout) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let mut out = Vec::with_capacity(out_height * out_width * s.out_channels);
    for y in 0..out_height {
        for x in 0..out_width {
            for o in 0..s.out_channels {
                let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
                for ky in 0..s.kernel[0] {
                    for kx in 0..s.kernel[1] {
                        let row = (y * s.stride[0] + ky * s.dilation[0]).checked_sub(s.padding[0]);
                        let column = (x * s.stride[1] + kx * s.dilation[1]).checked_sub(s.padding[1]);
                        let (Some(row), Some(column)) = (row, column) else { continue };
                        if row >= height || column >= width {
                            continue;
                        }
                        for c in 0..cin {
                            let value = input[(row * width + column) * s.in_channels + o / cout * cin + c];
                            let weight = weights[((o * cin + c) * s.kernel[0] + ky) * s.kernel[1] + kx];
                            sum += f64::from(value) * f64::from(weight);
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}
