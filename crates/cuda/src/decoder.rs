//! What a decoder does between its products: normalisation, and the choice of the next token. Numbers that change from step to
//! step are read from device memory, so that a step can be captured.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::low_bit::padded;
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// `y[i] = x[row] / √(mean(x[row]²) + epsilon) · weight` for `tokens` rows of f32 `[_, width]`, as inputs of products,
/// `[tokens, padded(width)]` of f16 or bf16. Row `i` is `rows[i]` (`U32`) where `rows` is given, else `i`; without a weight it is
/// converted only. Numbers of rows are the caller's promise.
///
/// # Errors
/// If types differ, `width` is no multiple of 4, or something does not lie within its memory, aligned to 16 bytes.
pub fn norm(
    gpu: &Gpu,
    [tokens, width]: [usize; 2],
    x: Elements<'_>,
    (weight, epsilon): (Option<Elements<'_>>, f32),
    rows: Option<Elements<'_>>,
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = match y.0.dtype() {
        DType::F16 => "decoder_norm_f16",
        DType::BF16 => "decoder_norm_bf16",
        other => return refuse!("norm", "makes f16 or bf16, not {other:?}"),
    };
    let y_row = padded(width);
    if x.dtype() != DType::F32
        || weight.is_some_and(|weight| weight.dtype() != DType::F32 || !weight.is_aligned(16))
        || rows.is_some_and(|rows| rows.dtype() != DType::U32)
        || !width.is_multiple_of(4)
        || width > i32::MAX as usize / 2
        || !x.is_aligned(16)
        || !y.0.is_aligned(8)
    {
        return refuse!(kernel, "types differ, or rows of {width} are not aligned to 16 bytes");
    }
    x.check(kernel, "the input", if rows.is_some() { Some(0) } else { tokens.checked_mul(width) })?;
    y.0.check(kernel, "the result", tokens.checked_mul(y_row))?;
    if let Some(weight) = weight {
        weight.check(kernel, "the weight", Some(width))?;
    }
    if let Some(rows) = rows {
        rows.check(kernel, "the numbers of rows", Some(tokens))?;
    }
    if tokens == 0 || width == 0 {
        return Ok(());
    }
    let [width, row] = [width, y_row].map(|n| n as i32);
    let [weight, rows] = [weight, rows].map(|elements| elements.map_or(0, |elements| elements.pointer()));
    let pointers = [x.pointer(), y.0.pointer()];
    let grid = Grid { blocks: [tokens, 1, 1], threads: 1024, shared: 0 };
    let arguments = arguments![width, row, epsilon, pointers[0], weight, rows, pointers[1]];
    // SAFETY: the kernel takes these types; all was checked to lie in its memory, numbers of rows are the caller's promise.
    unsafe { gpu.launch_early(kernel, grid, arguments, &|| format!("[{tokens}, {width}]")) }
}

/// `x += y / √(mean(y²) + epsilon) · weight` for f32 `[tokens, width]`: a normalisation behind a part of a layer.
///
/// # Errors
/// If something is not f32, or does not lie within its memory.
pub fn norm_add(
    gpu: &Gpu,
    [tokens, width]: [usize; 2],
    y: Elements<'_>,
    (weight, epsilon): (Elements<'_>, f32),
    x: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = "decoder_norm_add";
    if [y, weight, x.0].iter().any(|elements| elements.dtype() != DType::F32) || width > i32::MAX as usize {
        return refuse!(kernel, "wants f32");
    }
    y.check(kernel, "what is added", tokens.checked_mul(width))?;
    x.0.check(kernel, "the sum", tokens.checked_mul(width))?;
    weight.check(kernel, "the weight", Some(width))?;
    if tokens == 0 || width == 0 {
        return Ok(());
    }
    let count = width as i32;
    let pointers = [y.pointer(), weight.pointer(), x.0.pointer()];
    let grid = Grid { blocks: [tokens, 1, 1], threads: 1024, shared: 0 };
    let arguments = arguments![count, epsilon, pointers[0], pointers[1], pointers[2]];
    // SAFETY: the kernel takes these types; all was checked to lie in its memory.
    unsafe { gpu.launch_early(kernel, grid, arguments, &|| format!("[{tokens}, {width}]")) }
}

/// Bytes of scratch memory that [`argmax`] wants for `tokens` rows.
pub const fn argmax_scratch(tokens: usize) -> usize {
    tokens * ARGMAX_PARTS * 8
}

const ARGMAX_PARTS: usize = 64;

/// `ids[i]` (`U32`) = the number of the largest of row `i` of f32 `[tokens, classes]`, of equal ones the first; NaN counts for
/// nothing. `scratch` has [`argmax_scratch`] bytes, as `U32`.
///
/// # Errors
/// If types differ, or something does not lie within its memory.
pub fn argmax(
    gpu: &Gpu,
    [tokens, classes]: [usize; 2],
    logits: Elements<'_>,
    scratch: ElementsMut<'_>,
    ids: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = "decoder_argmax_parts";
    let types = [logits.dtype(), scratch.0.dtype(), ids.0.dtype()];
    if types != [DType::F32, DType::U32, DType::U32] || classes > i32::MAX as usize || !scratch.0.is_aligned(8) {
        return refuse!(kernel, "logits, scratch and ids are of {types:?}");
    }
    logits.check(kernel, "the logits", tokens.checked_mul(classes))?;
    scratch.0.check(kernel, "the scratch memory", Some(argmax_scratch(tokens) / 4))?;
    ids.0.check(kernel, "the ids", Some(tokens))?;
    if tokens == 0 {
        return Ok(());
    }
    let (count, parts) = (classes as i32, ARGMAX_PARTS as i32);
    let pointers = [logits, scratch.0, ids.0].map(|elements| elements.pointer());
    let describe = || format!("[{tokens}, {classes}]");
    let grid = Grid { blocks: [ARGMAX_PARTS, tokens, 1], threads: 256, shared: 0 };
    // SAFETY: the kernels take these types; all was checked to lie in its memory.
    unsafe {
        gpu.launch_early(kernel, grid, arguments![count, pointers[0], pointers[1]], &describe)?;
        let grid = Grid { blocks: [tokens, 1, 1], threads: 64, shared: 0 };
        gpu.launch_early("decoder_argmax", grid, arguments![parts, pointers[1], pointers[2]], &describe)
    }
}

/// Adds 1 to each of `count` numbers (`U32`): positions and lengths of the next step.
///
/// # Errors
/// If they are not all there, or of another type.
pub fn advance(gpu: &Gpu, count: usize, numbers: ElementsMut<'_>) -> Result<(), Error> {
    let kernel = "decoder_advance";
    numbers.0.check(kernel, "the numbers", Some(count))?;
    if numbers.0.dtype() != DType::U32 || count > i32::MAX as usize {
        return refuse!(kernel, "wants u32");
    }
    if count == 0 {
        return Ok(());
    }
    let (n, pointer) = (count as i32, numbers.0.pointer());
    // SAFETY: the kernel takes these types, and the numbers lie in their memory.
    unsafe { gpu.launch_early(kernel, Grid::flat(count), arguments![n, pointer], &|| format!("{count}")) }
}
