//! The gate of RLFN's spatial attention.

use crate::conv::PackedConv;
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Error, Gpu, Image, ImageMut};

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
    for (what, image) in [("x", &x), ("the reduced map", &reduced), ("the coarse map", &coarse)] {
        image.check(kernel, what, 2)?;
        let even = image.size.stride.is_multiple_of(2) && image.elements.is_aligned(4);
        if image.dtype() != mix.dtype() || image.size.n != x.size.n || !even {
            return refuse!(kernel, "{what} of {:?} and {:?} does not fit", image.size, image.dtype());
        }
    }
    y.check(kernel, "the result", 2)?;
    let sides = |s: crate::ImageSize| [s.n, s.height, s.width];
    let fits = sides(reduced.size) == sides(x.size)
        && sides(y.size) == sides(x.size)
        && reduced.size.channels == 16
        && [coarse.size.channels, y.size.channels, mix.shape().out_channels].iter().all(|&c| c == x.size.channels)
        && mix.is_pointwise16()
        && y.dtype() == mix.dtype()
        && y.size.stride.is_multiple_of(2)
        && y.elements.0.is_aligned(4)
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
    let warps = x.size.n * x.size.height * x.size.width.div_ceil(16);
    let grid = Grid { blocks: [warps.div_ceil(8).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let [a, b, c, d] = [&x, &reduced, &coarse]
        .map(|image| image.elements.pointer())
        .into_iter()
        .chain([y.elements.0.pointer()])
        .collect::<Vec<_>>()[..]
    else {
        unreachable!("four pointers")
    };
    let (weights, bias) = (mix.weights(), mix.bias());
    // SAFETY: the kernel takes these types; all images were checked to lie in their memory, weights and bias were packed as it
    // reads them.
    unsafe { gpu.launch(kernel, grid, arguments![raw, a, b, c, weights, bias, d], &|| format!("{:?}", x.size)) }
}
