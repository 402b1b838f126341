//! The gradient of resampling: each tap hands its share back to the pixel that it read.
//!
//! | argument | |
//! |---|---|
//! | `grad` | gradient of the result: `n` images of `[height, width]`, `grad_stride` floats a pixel |
//! | `out` | gradient of the input, `images` |

use super::pooling::Images;
use crate::Cpu;
use crate::resize::{ResizeMode, Taps};

/// Hands the gradient of a resize to `size` back to its input.
///
/// # Panics
/// If a slice is shorter than its shape says.
pub fn resize_backward(
    cpu: &Cpu,
    mode: ResizeMode,
    images: Images,
    size: [usize; 2],
    grad: &[f32],
    grad_stride: usize,
    out: &mut [f32],
) {
    let Images { n, height, width, channels, stride } = images;
    let (len, grad_len) = (images.image_len(), size[0] * size[1] * grad_stride);
    assert!(grad.len() >= n * grad_len && out.len() >= n * len, "resize_backward: sizes");
    cpu.pool.for_each_chunk(&mut out[..n * len], len, &|i, out| {
        out.fill(0.0);
        let grad = &grad[i * grad_len..][..grad_len];
        for y in 0..size[0] {
            let rows = Taps::new(mode, y, height, size[0]);
            for x in 0..size[1] {
                let columns = Taps::new(mode, x, width, size[1]);
                let grad = &grad[(y * size[1] + x) * grad_stride..][..channels];
                for (row, row_weight) in (0..rows.count).map(|j| rows.tap(mode, j)) {
                    for (column, weight) in (0..columns.count).map(|j| columns.tap(mode, j)) {
                        let weight = row_weight * weight;
                        let out = &mut out[(row * width + column) * stride..][..channels];
                        out.iter_mut().zip(grad).for_each(|(out, grad)| *out += grad * weight);
                    }
                }
            }
        }
    });
}
