//! Pooling of planar pictures.

use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// What a pooling window gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The mean of the pixels inside the plane.
    Mean,
    /// The largest of them.
    Max,
}

/// `output[c] = mean(input[c · plane ..][..pixels])` for each `c` of `output`.
///
/// # Panics
/// If the input is too short or there are no pixels.
pub fn global_average(isa: Isa, input: &[f32], plane: usize, pixels: usize, output: &mut [f32]) {
    struct Average<'a>(&'a [f32], usize, usize, &'a mut [f32]);
    impl Kernel for Average<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<V: Simd>(self) {
            let Average(input, plane, pixels, output) = self;
            for (c, out) in output.iter_mut().enumerate() {
                let values = &input[c * plane..][..pixels];
                // SAFETY: loads stay within `values`; `dispatch` saw to the instruction set.
                unsafe {
                    let mut sum = V::splat(0.0);
                    let mut i = 0;
                    while i < pixels {
                        let from = values.as_ptr().add(i);
                        let left = pixels - i;
                        sum = sum.add(if left >= V::LANES { V::load(from) } else { V::load_first(from, left) });
                        i += V::LANES;
                    }
                    *out = sum.sum() / pixels as f32;
                }
            }
        }
    }
    assert!(pixels > 0 && pixels <= plane, "{pixels} pixels in planes of {plane} floats");
    // SAFETY: `Isa` values come from detection; slices are checked as they are cut.
    unsafe { dispatch(isa, Average(input, plane, pixels, output)) }
}

/// Pools one plane.
///
/// `input` is `[height][width]` with the sides `size`, `output` is `[out_height][out_width]` with the sides `out_size`;
/// pixels of the `padding` (top, left) do not count, and a window without any other gives zero.
///
/// # Panics
/// If a slice is too short.
pub fn pool_rows(
    reduce: Reduce,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    (input, size): (&[f32], [usize; 2]),
    (output, out_size): (&mut [f32], [usize; 2]),
) {
    let span = |i: usize, at: usize| {
        let start = at * stride[i];
        start.saturating_sub(padding[i])..(start + kernel[i]).saturating_sub(padding[i]).min(size[i])
    };
    for (y, row) in output.chunks_exact_mut(out_size[1]).take(out_size[0]).enumerate() {
        for (x, out) in row.iter_mut().enumerate() {
            let columns = span(1, x);
            let rows = span(0, y).map(|row| &input[row * size[1]..][columns.clone()]);
            let count = span(0, y).len() * columns.len();
            *out = match reduce {
                _ if count == 0 => 0.0,
                Reduce::Mean => rows.map(|row| row.iter().sum::<f32>()).sum::<f32>() / count as f32,
                Reduce::Max => {
                    rows.flatten().copied().fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
                }
            };
        }
    }
}
