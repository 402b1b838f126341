//! Rows of a table by number, and cross-entropy.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

fn check(
    kernel: &'static str,
    [rows, width, count]: [usize; 3],
    table: Elements<'_>,
    numbers: Elements<'_>,
    places: Elements<'_>,
) -> Result<(), Error> {
    if numbers.dtype() != DType::U32 || table.dtype() != places.dtype() {
        return refuse!(
            kernel,
            "numbers of {:?}, rows of {:?} and {:?}",
            numbers.dtype(),
            table.dtype(),
            places.dtype()
        );
    }
    table.check(kernel, "the table", rows.checked_mul(width))?;
    numbers.check(kernel, "the numbers", Some(count))?;
    places.check(kernel, "the rows", count.checked_mul(width))
}

/// `y[i] = table[numbers[i]]` for `count` numbers (`U32`) and a table of `rows` rows of `width` elements of a floating-point type,
/// without gaps. Numbers that are no row give NaN.
///
/// # Errors
/// If types differ, or something does not lie within its memory.
pub fn embedding(
    gpu: &Gpu,
    [rows, width, count]: [usize; 3],
    table: Elements<'_>,
    numbers: Elements<'_>,
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(table.dtype(), "embedding") else {
        return refuse!("embedding", "wants floats, got {:?}", table.dtype());
    };
    check(kernel, [rows, width, count], table, numbers, y.0)?;
    if width == 0 || count == 0 {
        return Ok(());
    }
    let raw = [rows, width, count].map(|n| n as i64);
    let pointers = [table.pointer(), numbers.pointer(), y.0.pointer()];
    let arguments = arguments![raw[0], raw[1], raw[2], pointers[0], pointers[1], pointers[2]];
    // SAFETY: the kernel takes these types and checks the numbers; all three were checked to lie in their memory.
    unsafe { gpu.launch(kernel, Grid::flat(count * width), arguments, &|| format!("{count} of {rows} x {width}")) }
}

/// The gradient of [`embedding`]'s table, zeros where no number points.
///
/// # Errors
/// As [`embedding`].
pub fn embedding_backward(
    gpu: &Gpu,
    [rows, width, count]: [usize; 3],
    grad: Elements<'_>,
    numbers: Elements<'_>,
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(grad.dtype(), "embedding_backward") else {
        return refuse!("embedding_backward", "wants floats, got {:?}", grad.dtype());
    };
    check(kernel, [rows, width, count], y.0, numbers, grad)?;
    crate::elementwise::fill(gpu, rows * width, 0.0, y)?;
    if width == 0 || count == 0 {
        return Ok(());
    }
    let raw = [rows, width, count].map(|n| n as i64);
    let pointers = [grad.pointer(), numbers.pointer(), y.0.pointer()];
    let grid = Grid { blocks: [count, 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![raw[0], raw[1], raw[2], pointers[0], pointers[1], pointers[2]];
    // SAFETY: as above.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{count} of {rows} x {width}")) }
}

/// The target that does not count.
pub const IGNORED: u32 = u32::MAX;

/// Of `rows` rows of `classes` logits, `stride` apart, and a target (`U32`) each: `losses[row] = -log softmax(logits)[target]` in f32,
/// zero where the target is [`IGNORED`], NaN where it is another that is no class; and its gradient times `factor`, `rows` rows
/// without gaps, of the logits' type.
///
/// # Errors
/// If types differ, or something does not lie within its memory.
pub fn cross_entropy(
    gpu: &Gpu,
    [rows, classes]: [usize; 2],
    factor: f32,
    (logits, stride): (Elements<'_>, usize),
    targets: Elements<'_>,
    losses: ElementsMut<'_>,
    grad: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(logits.dtype(), "cross_entropy") else {
        return refuse!("cross_entropy", "wants floats, got {:?}", logits.dtype());
    };
    logits.check(kernel, "the logits", crate::elementwise::Rows { rows, len: classes, stride }.extent())?;
    targets.check(kernel, "the targets", Some(rows))?;
    losses.0.check(kernel, "the losses", Some(rows))?;
    grad.0.check(kernel, "the gradient", rows.checked_mul(classes))?;
    if targets.dtype() != DType::U32 || losses.0.dtype() != DType::F32 || grad.0.dtype() != logits.dtype() {
        return refuse!(kernel, "targets of {:?}, losses of {:?}", targets.dtype(), losses.0.dtype());
    }
    if rows == 0 || classes == 0 {
        return Ok(());
    }
    let (count, step) = (classes as i64, stride as i64);
    let pointers = [logits.pointer(), targets.pointer(), losses.0.pointer(), grad.0.pointer()];
    let grid = Grid { blocks: [rows, 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![count, step, factor, pointers[0], pointers[1], pointers[2], pointers[3]];
    // SAFETY: the kernel takes these types; all were checked to lie in their memory; the kernel checks targets.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("[{rows}, {classes}]")) }
}
