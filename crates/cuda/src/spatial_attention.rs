//! RLFN's spatial attention: its coarse map and its gate, in f16 or bf16.

use crate::conv::{PackedConv, Packing};
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Error, Gpu, Image, ImageMut};

#[repr(C)]
#[derive(Clone, Copy)]
struct RawCoarse {
    n: i32,
    height: i32,
    width: i32,
    half_height: i32,
    half_width: i32,
    coarse_height: i32,
    coarse_width: i32,
    channels: i32,
    reduced_stride: i64,
    coarse_stride: i64,
}

/// Rows and columns that a block of the coarse map makes.
const COARSE_BLOCK: [usize; 2] = [2, 8];

/// The size of the coarse map for a picture of `height` × `width`; `None` if that is below 15 pixels a side.
pub fn coarse_size(height: usize, width: usize) -> Option<[usize; 2]> {
    let half = |side: usize| side.checked_sub(3).map(|room| room / 2 + 1);
    let coarse = |side: usize| half(side)?.checked_sub(7).map(|room| room / 3 + 1);
    Some([coarse(height)?, coarse(width)?])
}

/// `coarse = wide(pool(half(reduced)))`: `half` is a 3×3 convolution with stride 2 and no padding from 16 to 16 channels, the
/// pooling takes the largest of 7×7 at every third pixel, `wide` is a 3×3 convolution with padding 1 from 16 channels.
///
/// # Errors
/// If sizes or types do not fit each other, or something does not lie within its memory.
pub fn coarse_map(
    gpu: &Gpu,
    half: &PackedConv,
    wide: &PackedConv,
    reduced: Image<'_>,
    coarse: ImageMut<'_>,
) -> Result<(), Error> {
    let kernel = match half.dtype() {
        DType::F16 => "coarse_map_f16",
        DType::BF16 => "coarse_map_bf16",
        other => return refuse!("coarse_map", "wants f16 or bf16, got {other:?}"),
    };
    reduced.check(kernel, "the reduced map", 2)?;
    coarse.check(kernel, "the coarse map", 2)?;
    let (from, to) = (reduced.size, coarse.size);
    let fits = half.is_packed_for(Packing::CoarseMap)
        && wide.is_packed_for(Packing::CoarseMap)
        && (half.shape().out_channels, half.shape().stride, half.shape().padding) == (16, [2; 2], [0; 2])
        && (wide.shape().out_channels, wide.shape().stride, wide.shape().padding) == (to.channels, [1; 2], [1; 2])
        && (from.channels, from.n) == (16, to.n)
        && coarse_size(from.height, from.width) == Some([to.height, to.width])
        && [reduced.dtype(), coarse.dtype(), wide.dtype()].iter().all(|&dtype| dtype == half.dtype())
        && [from.stride, to.stride].iter().all(|stride| stride.is_multiple_of(2))
        && reduced.elements.is_aligned(4)
        && coarse.elements.0.is_aligned(4);
    if !fits {
        return refuse!(kernel, "{:?} and {:?}: {from:?} to {to:?}", half.shape(), wide.shape());
    }
    let raw = RawCoarse {
        n: from.n as i32,
        height: from.height as i32,
        width: from.width as i32,
        half_height: ((from.height - 3) / 2 + 1) as i32,
        half_width: ((from.width - 3) / 2 + 1) as i32,
        coarse_height: to.height as i32,
        coarse_width: to.width as i32,
        channels: to.channels as i32,
        reduced_stride: from.stride as i64,
        coarse_stride: to.stride as i64,
    };
    let blocks = [to.width.div_ceil(COARSE_BLOCK[1]), to.height.div_ceil(COARSE_BLOCK[0]), from.n];
    let grid = Grid { blocks, threads: 256, shared: 0 };
    let (x, w1, b1) = (reduced.elements.pointer(), half.weights(), half.bias());
    let (w2, b2, y) = (wide.weights(), wide.bias(), coarse.elements.0.pointer());
    // SAFETY: the kernel takes these types; both images were checked to lie in their memory, weights and biases were packed as it
    // reads them.
    unsafe { gpu.launch(kernel, grid, arguments![raw, x, w1, b1, w2, b2, y], &|| format!("{from:?}")) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    n: i32,
    height: i32,
    width: i32,
    channels: i32,
    coarse_height: i32,
    coarse_width: i32,
    x_stride: i64,
    reduced_stride: i64,
    coarse_stride: i64,
    y_stride: i64,
}

/// Pixels of a row that a block of the gate takes.
const SEGMENT: usize = 64;

/// `y = x * sigmoid(resize(coarse) + mix(reduced))` in f16 or bf16: `mix` is a 1×1 convolution from the 16 channels of `reduced` to
/// those of `x`, and `coarse` is resized bilinearly to the size of `x`.
///
/// # Errors
/// If sizes or types do not fit each other, or something does not lie within its memory.
pub fn gate(
    gpu: &Gpu,
    mix: &PackedConv,
    x: Image<'_>,
    reduced: Image<'_>,
    coarse: Image<'_>,
    y: ImageMut<'_>,
) -> Result<(), Error> {
    let kernel = match mix.dtype() {
        DType::F16 => "gate_f16",
        DType::BF16 => "gate_bf16",
        other => return refuse!("gate", "wants f16 or bf16, got {other:?}"),
    };
    for (what, image, step) in [("x", &x, 4), ("the reduced map", &reduced, 2), ("the coarse map", &coarse, 2)] {
        image.check(kernel, what, step)?;
        let even = image.size.stride.is_multiple_of(step) && image.elements.is_aligned(2 * step);
        if image.dtype() != mix.dtype() || image.size.n != x.size.n || !even {
            return refuse!(kernel, "{what} of {:?} and {:?} does not fit", image.size, image.dtype());
        }
    }
    y.check(kernel, "the result", 4)?;
    let sides = |s: crate::ImageSize| [s.n, s.height, s.width];
    let fits = sides(reduced.size) == sides(x.size)
        && sides(y.size) == sides(x.size)
        && reduced.size.channels == 16
        && [coarse.size.channels, y.size.channels, mix.shape().out_channels].iter().all(|&c| c == x.size.channels)
        && mix.is_packed_for(Packing::Gate)
        && y.dtype() == mix.dtype()
        && y.size.stride.is_multiple_of(4)
        && y.elements.0.is_aligned(8)
        && (coarse.size.pixels() > Some(0) || x.size.pixels() == Some(0));
    if !fits {
        return refuse!(kernel, "{:?}, {:?} and {:?} do not fit {:?}", x.size, reduced.size, coarse.size, y.size);
    }
    if x.size.pixels() == Some(0) {
        return Ok(());
    }
    let raw = Raw {
        n: x.size.n as i32,
        height: x.size.height as i32,
        width: x.size.width as i32,
        channels: x.size.channels as i32,
        coarse_height: coarse.size.height as i32,
        coarse_width: coarse.size.width as i32,
        x_stride: x.size.stride as i64,
        reduced_stride: reduced.size.stride as i64,
        coarse_stride: coarse.size.stride as i64,
        y_stride: y.size.stride as i64,
    };
    // Columns of the coarse map that a segment touches, with some to spare for rounding.
    let columns = (SEGMENT * coarse.size.width).div_ceil(x.size.width) + 4;
    let shared = columns * (x.size.channels.next_multiple_of(16) + 2) * 4;
    if shared > gpu.shared_memory() {
        return refuse!(kernel, "a coarse map of {:?} is too wide for {:?}", coarse.size, x.size);
    }
    let grid = Grid { blocks: [x.size.width.div_ceil(SEGMENT), x.size.height, x.size.n], threads: 128, shared };
    let [a, b, c] = [&x, &reduced, &coarse].map(|image| image.elements.pointer());
    let d = y.elements.0.pointer();
    let (weights, bias) = (mix.weights(), mix.bias());
    // SAFETY: the kernel takes these types; all images were checked to lie in their memory, weights and bias were packed as it
    // reads them.
    unsafe { gpu.launch(kernel, grid, arguments![raw, a, b, c, weights, bias, d], &|| format!("{:?}", x.size)) }
}
