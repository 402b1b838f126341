//! Layer norms over at most 64 channels in f16 or bf16, forward and backward.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Most channels of a row.
pub const CHANNELS: usize = 64;

/// Rows of a block at a time, and most blocks of the gradient: sums depend on shapes alone.
const ROWS: usize = 32;
const PARTS: usize = 512;

/// Sizes as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    rows: i64,
    x_stride: i64,
    g_stride: i64,
    out_stride: i64,
    len: i32,
    epsilon: f32,
}

/// Whether [`forward`] and [`backward`] take rows of `len` elements, `stride` apart.
pub fn takes(dtype: DType, len: usize, stride: usize) -> bool {
    let fits = len > 0 && len <= CHANNELS && stride.is_multiple_of(8) && stride >= len.next_multiple_of(8);
    fits && matches!(dtype, DType::F16 | DType::BF16)
}

fn check(
    kernel: &'static str,
    what: &str,
    (elements, stride): (Elements<'_>, usize),
    [rows, len]: [usize; 2],
    dtype: DType,
) -> Result<(), Error> {
    elements.check(kernel, what, Rows { rows, len: len.next_multiple_of(8), stride }.extent())?;
    if elements.dtype() != dtype || !elements.is_aligned(16) || !takes(dtype, len, stride) {
        return refuse!(kernel, "{what}: rows of {len} elements of {:?}, {stride} apart", elements.dtype());
    }
    Ok(())
}

fn check_vector(kernel: &'static str, what: &str, vector: Elements<'_>, len: usize) -> Result<(), Error> {
    vector.check(kernel, what, Some(len))?;
    if vector.dtype() != DType::F32 { refuse!(kernel, "{what} is not f32") } else { Ok(()) }
}

/// `y = (x - mean) / √(variance + epsilon) · weight + bias` for `rows` rows of `len` elements, which come with their strides. Weight
/// and bias are f32.
///
/// # Errors
/// If [`takes`] says no, types do not fit, or something does not lie within its memory.
pub fn forward(
    gpu: &Gpu,
    [rows, len]: [usize; 2],
    epsilon: f32,
    x: (Elements<'_>, usize),
    [weight, bias]: [Elements<'_>; 2],
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let dtype = x.0.dtype();
    let kernel = if dtype == DType::F16 { "layer_norm_64_f16" } else { "layer_norm_64_bf16" };
    check(kernel, "the input", x, [rows, len], dtype)?;
    check(kernel, "the result", (y.0.0, y.1), [rows, len], dtype)?;
    check_vector(kernel, "the weight", weight, len)?;
    check_vector(kernel, "the bias", bias, len)?;
    if rows == 0 {
        return Ok(());
    }
    let [x_stride, out_stride] = [x.1, y.1].map(|n| n as i64);
    let raw = Raw { rows: rows as i64, x_stride, g_stride: 0, out_stride, len: len as i32, epsilon };
    let grid = Grid { blocks: [rows.div_ceil(ROWS).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let pointers = [x.0.pointer(), weight.pointer(), bias.pointer(), y.0.0.pointer()];
    let arguments = arguments![raw, pointers[0], pointers[1], pointers[2], pointers[3]];
    // SAFETY: the kernel takes these types; rows, weight and bias were checked to lie in their memory and to be aligned.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("[{rows}, {len}]")) }
}

/// The gradients of [`forward`]'s input, and of weight and bias, f32 `[2][len]`, from that of its result.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    gpu: &Gpu,
    [rows, len]: [usize; 2],
    epsilon: f32,
    (grad, x): ((Elements<'_>, usize), (Elements<'_>, usize)),
    weight: Elements<'_>,
    out: (ElementsMut<'_>, usize),
    parameters: ElementsMut<'_>,
) -> Result<(), Error> {
    let dtype = x.0.dtype();
    let kernel = if dtype == DType::F16 { "layer_norm_64_backward_f16" } else { "layer_norm_64_backward_bf16" };
    check(kernel, "the gradient", grad, [rows, len], dtype)?;
    check(kernel, "the input", x, [rows, len], dtype)?;
    check(kernel, "the result", (out.0.0, out.1), [rows, len], dtype)?;
    check_vector(kernel, "the weight", weight, len)?;
    check_vector(kernel, "the parameters' gradients", parameters.0, 2 * len)?;
    if rows == 0 {
        return crate::elementwise::fill(gpu, 2 * len, 0.0, parameters);
    }
    let parts = rows.div_ceil(ROWS).min(PARTS);
    let memory = gpu.allocate(parts * 2 * len * 4)?;
    let [x_stride, g_stride, out_stride] = [x.1, grad.1, out.1].map(|n| n as i64);
    let raw = Raw { rows: rows as i64, x_stride, g_stride, out_stride, len: len as i32, epsilon };
    let grid = Grid { blocks: [parts, 1, 1], threads: 256, shared: 0 };
    let [g, from, w, to] = [grad.0.pointer(), x.0.pointer(), weight.pointer(), out.0.0.pointer()];
    let (to_parts, describe) = (memory.pointer(), || format!("[{rows}, {len}]"));
    // SAFETY: the kernel takes these types; rows and vectors were checked to lie in their memory and to be aligned, parts are as many
    // as blocks.
    unsafe { gpu.launch(kernel, grid, arguments![raw, g, from, w, to, to_parts], &describe)? };
    let (parts, results, factor, to) = (parts as i32, 2 * len as i64, 1.0f32, parameters.0.pointer());
    let grid = Grid { blocks: [(2 * len).div_ceil(8), 1, 1], threads: 256, shared: 0 };
    // SAFETY: as above.
    unsafe { gpu.launch("finish_sums_f32", grid, arguments![parts, results, factor, to_parts, to], &describe) }
}
