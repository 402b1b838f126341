//! Pixel shuffle: channels become space.
//!
//! `out[y·r + i][x·r + j][c] = in[y][x][c·r² + i·r + j]`, as in PyTorch.
//!
//! | argument | |
//! |---|---|
//! | `input` | pixels of at least `channels · r²` floats |
//! | `out` | rows `r · y` to `r · y + r` for each `y` of `input_rows`; `r` times as wide, pixels of `channels` floats or more, the rest of which become zero |

use crate::parallel::for_image_rows;
use crate::{Cpu, Rows, RowsMut};
use std::ops::Range;

/// Shuffles input rows `input_rows` by the factor `r`; `channels` is that of the output.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn pixel_shuffle(
    cpu: &Cpu,
    r: usize,
    channels: usize,
    input: Rows<'_>,
    out: &mut RowsMut<'_>,
    input_rows: Range<usize>,
) {
    assert!(r > 0 && input.width().checked_mul(r) == Some(out.width()), "pixel_shuffle: widths");
    assert!(out.stride() >= channels, "pixel_shuffle: output pixels are too small");
    assert!(
        channels.checked_mul(r * r).is_some_and(|c| input.stride() >= c),
        "pixel_shuffle: input pixels are too small"
    );
    let (in_stride, out_stride) = (input.stride(), out.stride());
    for_image_rows(cpu, out, input_rows.start * r..input_rows.end * r, &|y, out| {
        let (row, i) = (input.row(y / r), y % r);
        for (from, to) in row.chunks_exact(in_stride).zip(out.chunks_exact_mut(out_stride * r)) {
            for (j, to) in to.chunks_exact_mut(out_stride).enumerate() {
                let (to, padding) = to.split_at_mut(channels);
                for (to, from) in to.iter_mut().zip(from[i * r + j..].iter().step_by(r * r)) {
                    *to = *from;
                }
                padding.fill(0.0);
            }
        }
    });
}

/// The channel of the input that becomes channel `c` of the output's pixel `(i, j)` within an `r × r` block.
pub fn pixel_shuffle_reference(r: usize, c: usize, i: usize, j: usize) -> usize {
    c * r * r + i * r + j
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_channel_goes_to_its_place() {
        let cpu = Cpu::new(Isa::Scalar, 3);
        for (r, channels, height, width) in [(1, 1, 1, 1), (2, 3, 5, 7), (3, 3, 2, 1), (4, 1, 3, 3), (4, 3, 7, 5)] {
            let stride = channels * r * r + 3;
            let x: Vec<f32> = (0..height * width * stride).map(|i| i as f32).collect();
            let mut y = vec![f32::NAN; height * r * width * r * (channels + 2)];
            let mut rows = RowsMut::new(&mut y, height * r, width * r, channels + 2);
            pixel_shuffle(&cpu, r, channels, Rows::new(&x, height, width, stride), &mut rows, 0..height);
            for oy in 0..height * r {
                for ox in 0..width * r {
                    let found = &y[(oy * width * r + ox) * (channels + 2)..][..channels + 2];
                    for (c, &found) in found[..channels].iter().enumerate() {
                        let channel = pixel_shuffle_reference(r, c, oy % r, ox % r);
                        assert_eq!(found, x[((oy / r) * width + ox / r) * stride + channel]);
                    }
                    assert_eq!(found[channels..], [0.0; 2]);
                }
            }
        }
    }
}
