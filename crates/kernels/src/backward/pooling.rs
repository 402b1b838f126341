//! Gradients of max and average pooling.
//!
//! | argument | |
//! |---|---|
//! | `input` | the images that were pooled: `n` of `height` × `width` pixels, `stride` floats each |
//! | `grad` | gradient of the result: `n` images of [`Pooling::output_size`], `grad_stride` floats a pixel |
//! | `out` | gradient of the input, of the input's shape and stride |
//!
//! The gradient of a maximum goes to the first pixel, row by row, that has it.

use crate::Cpu;
use crate::pooling::{Pooling, PoolingKind};
use std::ops::Range;

/// Images in memory: how many, their size, and floats of a pixel.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// Number of images.
    pub n: usize,
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels that count.
    pub channels: usize,
    /// Floats from one pixel to the next.
    pub stride: usize,
}

impl Images {
    /// Floats of one image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.stride
    }
}

/// The part inside `0..size` of the window number `i`.
fn covered(i: usize, stride: usize, padding: usize, kernel: usize, size: usize) -> Range<usize> {
    let start = i * stride;
    start.saturating_sub(padding)..(start + kernel - padding).min(size)
}

/// Hands the gradient of a pooling back to its input.
///
/// # Panics
/// If the window does not fit, or a slice is shorter than its shape says.
pub fn pool_backward(
    cpu: &Cpu,
    pooling: &Pooling,
    images: Images,
    input: &[f32],
    grad: &[f32],
    grad_stride: usize,
    out: &mut [f32],
) {
    let Images { n, height, width, channels, stride } = images;
    let (out_height, out_width) = pooling.output_size(height, width).expect("the window fits the image");
    let (len, grad_len) = (images.image_len(), out_height * out_width * grad_stride);
    assert!(input.len() >= n * len && grad.len() >= n * grad_len && out.len() >= n * len, "pool_backward: sizes");
    let Pooling { kind, kernel, stride: step, padding } = *pooling;
    cpu.pool.for_each_chunk(&mut out[..n * len], len, &|i, out| {
        out.fill(0.0);
        let (input, grad) = (&input[i * len..][..len], &grad[i * grad_len..][..grad_len]);
        for y in 0..out_height {
            let rows = covered(y, step[0], padding[0], kernel[0], height);
            for x in 0..out_width {
                let columns = covered(x, step[1], padding[1], kernel[1], width);
                let grad = &grad[(y * out_width + x) * grad_stride..][..channels];
                let divisor = match kind {
                    PoolingKind::Max => {
                        for (c, &grad) in grad.iter().enumerate() {
                            let pixels =
                                rows.clone().flat_map(|y| columns.clone().map(move |x| (y * width + x) * stride + c));
                            let mut best: Option<usize> = None;
                            for at in pixels {
                                if best.is_none_or(|best| input[at] > input[best]) {
                                    best = Some(at);
                                }
                            }
                            if let Some(best) = best {
                                out[best] += grad;
                            }
                        }
                        continue;
                    }
                    PoolingKind::Average => kernel[0] * kernel[1],
                    PoolingKind::AverageInside => rows.len() * columns.len(),
                };
                let scale = 1.0 / divisor as f32;
                for y in rows.clone() {
                    for x in columns.clone() {
                        let out = &mut out[(y * width + x) * stride..][..channels];
                        out.iter_mut().zip(grad).for_each(|(out, grad)| *out += grad * scale);
                    }
                }
            }
        }
    });
}
