//! Gradients of normalisations, pooling and resampling, and pixel shuffle undone.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::pooling::{PoolingKind, Window, check_images, launch};
use crate::resize::ResizeMode;
use crate::{DType, Elements, ElementsMut, Error, Gpu, Image, ImageMut};

/// What was normalised, and how.
#[derive(Clone, Copy, Debug)]
pub enum Normalized<'a> {
    /// Softmax; what was saved is its output.
    Softmax,
    /// `x / max(‖x‖₂, epsilon)`; what was saved is its input.
    L2 {
        /// Least norm.
        epsilon: f32,
    },
    /// Layer norm; what was saved is its input.
    Layer {
        /// Gain of each element of a row, f32.
        weight: Elements<'a>,
        /// Added to the variance.
        epsilon: f32,
        /// The gradients of weight and bias, one after the other, f32: twice the length of a row.
        parameters: ElementsMut<'a>,
    },
    /// RMS norm; what was saved is its input.
    Rms {
        /// Gain of each element of a row, f32.
        weight: Elements<'a>,
        /// Added to the mean of squares.
        epsilon: f32,
        /// The gradient of the weight, and as much room behind it, f32: twice the length of a row.
        parameters: ElementsMut<'a>,
    },
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Layout {
    rows: i64,
    len: i64,
    g_stride: i64,
    saved_stride: i64,
    out_stride: i64,
}

/// The gradient of a normalisation's input, for `rows` rows of `len` elements of a floating-point type; operands come with their
/// strides.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn normalize(
    gpu: &Gpu,
    how: Normalized<'_>,
    [rows, len]: [usize; 2],
    grad: (Elements<'_>, usize),
    saved: (Elements<'_>, usize),
    out: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let dtype = grad.0.dtype();
    let (Some(kernel), Some(second)) = (variant!(dtype, "normalize_backward"), variant!(dtype, "layer_norm_parts"))
    else {
        return refuse!("normalize_backward", "wants floats, got {dtype:?}");
    };
    for (what, elements, stride) in
        [("the gradient", grad.0, grad.1), ("what was saved", saved.0, saved.1), ("the result", out.0.0, out.1)]
    {
        elements.check(kernel, what, Rows { rows, len, stride }.extent())?;
        if elements.dtype() != dtype || (rows > 1 && stride < len) {
            return refuse!(kernel, "{what} has other elements, or rows that overlap");
        }
    }
    let (kind, epsilon, layer) = match how {
        Normalized::Softmax => (0i32, 0.0, None),
        Normalized::L2 { epsilon } => (1, epsilon, None),
        Normalized::Layer { weight, epsilon, parameters } => (2, epsilon, Some((weight, parameters))),
        Normalized::Rms { weight, epsilon, parameters } => (3, epsilon, Some((weight, parameters))),
    };
    if let Some((weight, parameters)) = layer {
        weight.check(kernel, "the weight", Some(len))?;
        parameters.0.check(kernel, "the parameters' gradients", Some(2 * len))?;
        if weight.dtype() != DType::F32 || parameters.0.dtype() != DType::F32 {
            return refuse!(kernel, "weights are not f32");
        }
        if rows == 0 {
            return crate::elementwise::fill(gpu, 2 * len, 0.0, parameters);
        }
    }
    if rows == 0 || len == 0 {
        return Ok(());
    }
    let layout = Layout {
        rows: rows as i64,
        len: len as i64,
        g_stride: grad.1 as i64,
        saved_stride: saved.1 as i64,
        out_stride: out.1 as i64,
    };
    let statistics = layer.map(|_| gpu.allocate(rows * 8)).transpose()?;
    let to_statistics = statistics.as_ref().map_or(0, |memory| memory.pointer());
    let pointers = [grad.0.pointer(), saved.0.pointer(), out.0.0.pointer()];
    let weight = layer.map_or(0, |(weight, _)| weight.pointer());
    let describe = || format!("[{rows}, {len}]");
    let grid = Grid { blocks: [rows.div_ceil(8).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![kind, epsilon, layout, pointers[0], pointers[1], weight, pointers[2], to_statistics];
    // SAFETY: the kernel takes these types; rows and weight were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments, &describe)? };
    let Some((_, parameters)) = layer else { return Ok(()) };
    let blocks = len.div_ceil(32);
    let parts = (1024 / blocks).clamp(1, 128).min(rows.div_ceil(64));
    let per_part = rows.div_ceil(parts);
    let parts = rows.div_ceil(per_part);
    let memory = gpu.allocate(parts * 2 * len * 4)?;
    let (per_part, to_parts) = (per_part as i64, memory.pointer());
    let grid = Grid { blocks: [blocks, parts, 1], threads: 256, shared: 0 };
    let arguments = arguments![layout, per_part, pointers[0], pointers[1], to_statistics, to_parts];
    // SAFETY: as above; the parts are as many as were allocated.
    unsafe { gpu.launch(second, grid, arguments, &describe)? };
    let (parts, results, factor, to) = (parts as i32, 2 * len as i64, 1.0f32, parameters.0.pointer());
    let grid = Grid { blocks: [(2 * len).div_ceil(8), 1, 1], threads: 256, shared: 0 };
    // SAFETY: as above.
    unsafe { gpu.launch("finish_sums_f32", grid, arguments![parts, results, factor, to_parts, to], &describe) }
}

/// The gradient of [`pool`](crate::pooling::pool)'s input `x` from that of its result.
///
/// # Errors
/// If sizes do not fit each other, or something does not lie within its memory.
pub fn pool(
    gpu: &Gpu,
    kind: PoolingKind,
    window: [[usize; 2]; 3],
    x: Image<'_>,
    grad: Image<'_>,
    out: ImageMut<'_>,
) -> Result<(), Error> {
    let (Some(first), Some(second)) = (variant!(x.dtype(), "pool_where"), variant!(x.dtype(), "pool_backward")) else {
        return refuse!("pool_backward", "wants floats, got {:?}", x.dtype());
    };
    check_images(second, &grad, &out)?;
    x.check(second, "the input", 1)?;
    let size = |s: crate::ImageSize| [s.n, s.height, s.width, s.channels];
    let raw = Window::new(second, kind, window, x.size, grad.size)?;
    let pixels = x.size.height.checked_mul(x.size.width).is_some_and(|n| n <= i32::MAX as usize);
    if size(x.size) != size(out.size) || x.dtype() != grad.dtype() || !pixels {
        return refuse!(second, "{:?} and {:?}, or their element types, differ", x.size, out.size);
    }
    let windows = grad.size.pixels().unwrap_or(0).saturating_mul(grad.size.channels);
    let elements = out.size.pixels().unwrap_or(0).saturating_mul(out.size.channels);
    if elements == 0 {
        return Ok(());
    }
    let (from, pooled, to) = (x.size.raw(), grad.size.raw(), out.size.raw());
    let pointers = [x.elements.pointer(), grad.elements.pointer(), out.elements.0.pointer()];
    let describe = || format!("{:?} from {:?}", x.size, grad.size);
    let places = (kind == PoolingKind::Max).then(|| gpu.allocate(windows * 4)).transpose()?;
    let at = places.as_ref().map_or(0, |memory| memory.pointer());
    if at != 0 {
        // SAFETY: the kernel takes these types; images were checked to lie in their memory, there is a place for each window.
        unsafe { gpu.launch(first, Grid::flat(windows), arguments![raw, from, pointers[0], pooled, at], &describe)? };
    }
    let arguments = arguments![raw, pooled, pointers[1], at, to, pointers[2]];
    // SAFETY: as above.
    unsafe { gpu.launch(second, Grid::flat(elements), arguments, &describe) }
}

/// The gradient of [`resize`](crate::resize::resize)'s input from that of its result.
///
/// # Errors
/// If pictures, channels or types differ, or something does not lie within its memory.
pub fn resize(gpu: &Gpu, mode: ResizeMode, grad: Image<'_>, out: ImageMut<'_>) -> Result<(), Error> {
    let (Some(rows), Some(columns)) =
        (variant!(grad.dtype(), "resize_backward_rows"), variant!(grad.dtype(), "resize_backward_columns"))
    else {
        return refuse!("resize_backward", "wants floats, got {:?}", grad.dtype());
    };
    check_images(rows, &grad, &out)?;
    let (from, to) = (grad.size, out.size);
    if from.channels != to.channels {
        return refuse!(rows, "{from:?} to {to:?}");
    }
    let elements = to.pixels().unwrap_or(0).saturating_mul(to.channels);
    if elements == 0 {
        return Ok(());
    }
    // Four channels a thread where pixels and memory allow it; channels are rounded up then.
    let rounded = to.channels.next_multiple_of(4);
    let four = |size: crate::ImageSize, elements: Elements<'_>| {
        size.stride.is_multiple_of(4)
            && size.stride >= rounded
            && elements.is_aligned(16)
            && size.check(rows, "an image", elements, 4).is_ok()
    };
    let wide = four(from, grad.elements) && four(to, out.elements.0);
    let (channels, step) = if wide { (rounded, 4) } else { (to.channels, 1) };
    let between = [from.n, to.height, from.width, channels]
        .into_iter()
        .try_fold(1usize, |all, side| all.checked_mul(side))
        .filter(|all| *all <= isize::MAX as usize / 4);
    let Some(between) = between else { return refuse!(rows, "{from:?} to {to:?} is too large") };
    let memory = gpu.allocate(between * 4)?;
    let (mode, middle, wide) = (mode as i32, memory.pointer(), i32::from(wide));
    let pointers = [grad.elements.pointer(), out.elements.0.pointer()];
    let describe = || format!("{from:?} to {to:?}");
    let (channels_i, tight) = (channels as i32, channels as i64);
    let (before, input, output, line) = (from.n as i64, to.height as i32, from.height as i32, from.width as i64);
    let stride = from.stride as i64;
    let arguments = arguments![mode, wide, before, input, output, line, channels_i, stride, tight, pointers[0], middle];
    // SAFETY: the kernel takes these types; images were checked to lie in their memory, what lies between was allocated.
    unsafe { gpu.launch(rows, Grid::flat(between / step), arguments, &describe)? };
    let (before, input, output, line) = ((from.n * to.height) as i64, to.width as i32, from.width as i32, 1i64);
    let stride = to.stride as i64;
    let arguments = arguments![mode, wide, before, input, output, line, channels_i, tight, stride, middle, pointers[1]];
    // SAFETY: as above.
    unsafe { gpu.launch(columns, Grid::flat(elements.div_ceil(step)), arguments, &describe) }
}

/// [`pixel_shuffle`](crate::pooling::pixel_shuffle), undone.
///
/// # Errors
/// If sizes do not fit each other, or something does not lie within its memory.
pub fn pixel_unshuffle(gpu: &Gpu, factor: usize, x: Image<'_>, y: ImageMut<'_>) -> Result<(), Error> {
    let Some(name) = variant!(x.dtype(), "pixel_unshuffle") else {
        return refuse!("pixel_unshuffle", "wants floats, got {:?}", x.dtype());
    };
    check_images(name, &x, &y)?;
    let product = |a: usize, b: usize| a.checked_mul(b);
    let fits = product(y.size.height, factor) == Some(x.size.height)
        && product(y.size.width, factor) == Some(x.size.width)
        && product(factor, factor).and_then(|square| product(x.size.channels, square)) == Some(y.size.channels);
    if !fits || factor > 1 << 15 {
        return refuse!(name, "by {factor}: {:?} to {:?}", x.size, y.size);
    }
    launch(gpu, name, factor as i32, x, y)
}
