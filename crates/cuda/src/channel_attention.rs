//! Attention between the channels of patches of 64 pixels, and gates of a row's halves, forward and backward.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Pixels of a patch.
pub const PIXELS: usize = 64;

/// Most channels that there are kernels for; they take multiples of four.
pub const CHANNELS: usize = 64;

/// Sizes as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Patches {
    x_stride: i64,
    y_stride: i64,
    of_x_stride: i64,
    channels: i32,
    epsilon: f32,
}

/// Checks operands with their strides: one of `len` elements each, in vectors of `bytes`.
fn check(
    kernel: &'static str,
    what: &str,
    (elements, stride): (Elements<'_>, usize),
    [rows, len]: [usize; 2],
    bytes: usize,
) -> Result<(), Error> {
    elements.check(kernel, what, Rows { rows, len, stride }.extent())?;
    if !elements.is_aligned(bytes) || stride < len || !stride.is_multiple_of(bytes / elements.dtype().size()) {
        return refuse!(kernel, "{what}: rows of {len} elements, {stride} apart, are not aligned to {bytes} bytes");
    }
    Ok(())
}

/// `y = softmax(t · q̂ k̂ᵀ) v` for `patches` patches of 64 pixels; a pixel of `x` has queries, keys and values of `channels` channels,
/// and channels of queries and keys are divided by their lengths within the patch, or by `epsilon` if that is more. Operands come with
/// their strides; `temperature` is one f32.
///
/// # Errors
/// If channels are over 64 or no multiple of 4, types are neither f16 nor bf16, or something does not lie within its memory.
pub fn forward(
    gpu: &Gpu,
    [patches, channels]: [usize; 2],
    epsilon: f32,
    x: (Elements<'_>, usize),
    temperature: Elements<'_>,
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let kernel = match x.0.dtype() {
        DType::F16 => "channel_attention_f16",
        DType::BF16 => "channel_attention_bf16",
        other => return refuse!("channel_attention", "wants f16 or bf16, got {other:?}"),
    };
    let raw = sizes(kernel, channels, epsilon, x.1, y.1, x.1)?;
    check(kernel, "the input", x, [patches * PIXELS, 3 * channels], 8)?;
    check(kernel, "the result", (y.0.0, y.1), [patches * PIXELS, channels], 4)?;
    temperature.check(kernel, "the temperature", Some(1))?;
    if y.0.0.dtype() != x.0.dtype() || temperature.dtype() != DType::F32 {
        return refuse!(kernel, "element types do not fit");
    }
    if patches == 0 {
        return Ok(());
    }
    let grid = Grid { blocks: [patches, 1, 1], threads: 128, shared: 0 };
    let pointers = [x.0.pointer(), temperature.pointer(), y.0.0.pointer()];
    let arguments = arguments![raw, pointers[0], pointers[1], pointers[2]];
    // SAFETY: the kernel takes these types; operands were checked to lie in their memory and to be aligned.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{patches} patches of {channels} channels")) }
}

/// The gradients of [`forward`]'s input and temperature (one f32) from that of its result.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    gpu: &Gpu,
    [patches, channels]: [usize; 2],
    epsilon: f32,
    x: (Elements<'_>, usize),
    temperature: Elements<'_>,
    grad: (Elements<'_>, usize),
    of_x: (ElementsMut<'_>, usize),
    of_temperature: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = match x.0.dtype() {
        DType::F16 => "channel_attention_backward_f16",
        DType::BF16 => "channel_attention_backward_bf16",
        other => return refuse!("channel_attention_backward", "wants f16 or bf16, got {other:?}"),
    };
    let raw = sizes(kernel, channels, epsilon, x.1, grad.1, of_x.1)?;
    check(kernel, "the input", x, [patches * PIXELS, 3 * channels], 8)?;
    check(kernel, "the gradient", grad, [patches * PIXELS, channels], 8)?;
    check(kernel, "the result", (of_x.0.0, of_x.1), [patches * PIXELS, 3 * channels], 4)?;
    temperature.check(kernel, "the temperature", Some(1))?;
    of_temperature.0.check(kernel, "the temperature's gradient", Some(1))?;
    let alike = [grad.0.dtype(), of_x.0.0.dtype()].iter().all(|&dtype| dtype == x.0.dtype());
    if !alike || [temperature.dtype(), of_temperature.0.dtype()] != [DType::F32; 2] {
        return refuse!(kernel, "element types do not fit");
    }
    if patches == 0 {
        return crate::elementwise::fill(gpu, 1, 0.0, of_temperature);
    }
    let parts = gpu.allocate(patches * 4)?;
    let grid = Grid { blocks: [patches, 1, 1], threads: 128, shared: 0 };
    let [from, t, g, to] = [x.0.pointer(), temperature.pointer(), grad.0.pointer(), of_x.0.0.pointer()];
    let to_parts = parts.pointer();
    let describe = || format!("{patches} patches of {channels} channels");
    // SAFETY: the kernel takes these types; operands were checked to lie in their memory and to be aligned, parts are as many as
    // patches.
    unsafe { gpu.launch(kernel, grid, arguments![raw, from, t, g, to, to_parts], &describe)? };
    let (count, results, factor, to) = (patches as i32, 1i64, 1.0f32, of_temperature.0.pointer());
    let grid = Grid { blocks: [1, 1, 1], threads: 256, shared: 0 };
    // SAFETY: as above.
    unsafe { gpu.launch("finish_sums_f32", grid, arguments![count, results, factor, to_parts, to], &describe) }
}

fn sizes(
    kernel: &'static str,
    channels: usize,
    epsilon: f32,
    x_stride: usize,
    y_stride: usize,
    of_x_stride: usize,
) -> Result<Patches, Error> {
    if channels == 0 || channels > CHANNELS || !channels.is_multiple_of(4) {
        return refuse!(kernel, "wants a multiple of 4 channels up to {CHANNELS}, got {channels}");
    }
    let [x_stride, y_stride, of_x_stride] = [x_stride, y_stride, of_x_stride].map(|n| n as i64);
    Ok(Patches { x_stride, y_stride, of_x_stride, channels: channels as i32, epsilon })
}

/// Rows whose halves are gated, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Halves {
    rows: i64,
    len: i64,
    x_stride: i64,
    y_stride: i64,
    of_x_stride: i64,
}

/// `y = gelu(a) · b` for rows of `2 * len` elements of `x`, whose halves are `a` and `b`. Operands come with their strides.
///
/// # Errors
/// If types differ or are no floats, or something does not lie within its memory.
pub fn gelu_gate(
    gpu: &Gpu,
    [rows, len]: [usize; 2],
    x: (Elements<'_>, usize),
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(x.0.dtype(), "gelu_gate") else {
        return refuse!("gelu_gate", "wants floats, got {:?}", x.0.dtype());
    };
    let (raw, wide, grid) = halves(kernel, [rows, len], x, (y.0.0, y.1), (x.0, x.1))?;
    if rows * len == 0 {
        return Ok(());
    }
    let [from, to] = [x.0.pointer(), y.0.0.pointer()];
    // SAFETY: the kernel takes these types; rows were checked to lie in their memory, and access is aligned where it is wide.
    unsafe { gpu.launch(kernel, grid, arguments![wide, raw, from, to], &|| format!("[{rows}, {len}]")) }
}

/// The gradient of [`gelu_gate`]'s input from that of its result.
///
/// # Errors
/// As [`gelu_gate`].
pub fn gelu_gate_backward(
    gpu: &Gpu,
    [rows, len]: [usize; 2],
    grad: (Elements<'_>, usize),
    x: (Elements<'_>, usize),
    of_x: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(x.0.dtype(), "gelu_gate_backward") else {
        return refuse!("gelu_gate_backward", "wants floats, got {:?}", x.0.dtype());
    };
    let (raw, wide, grid) = halves(kernel, [rows, len], x, grad, (of_x.0.0, of_x.1))?;
    if rows * len == 0 {
        return Ok(());
    }
    let [g, from, to] = [grad.0.pointer(), x.0.pointer(), of_x.0.0.pointer()];
    // SAFETY: as above.
    unsafe { gpu.launch(kernel, grid, arguments![wide, raw, g, from, to], &|| format!("[{rows}, {len}]")) }
}

fn halves(
    kernel: &'static str,
    [rows, len]: [usize; 2],
    x: (Elements<'_>, usize),
    y: (Elements<'_>, usize),
    of_x: (Elements<'_>, usize),
) -> Result<(Halves, i32, Grid), Error> {
    let both = len.saturating_mul(2);
    let operands = [("the input", x, both), ("the result", y, len), ("the input's gradient", of_x, both)];
    let dtype = x.0.dtype();
    for (what, (elements, stride), len) in operands {
        elements.check(kernel, what, Rows { rows, len, stride }.extent())?;
        if elements.dtype() != dtype || (rows > 1 && stride < len) || len > u32::MAX as usize {
            return refuse!(kernel, "{what} has other elements, or rows of {len} that overlap");
        }
    }
    let step = 16 / dtype.size();
    let fits = |(elements, stride): (Elements<'_>, usize)| elements.is_aligned(16) && stride.is_multiple_of(step);
    let wide = len.is_multiple_of(step) && [x, y, of_x].into_iter().all(fits);
    let [x_stride, y_stride, of_x_stride] = [x.1, y.1, of_x.1].map(|n| n as i64);
    let raw = Halves { rows: rows as i64, len: len as i64, x_stride, y_stride, of_x_stride };
    Ok((raw, i32::from(wide), Grid::flat(rows * len / if wide { step } else { 1 })))
}
