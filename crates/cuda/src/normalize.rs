//! Normalisation of rows.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{Elements, ElementsMut, Error, Gpu};

/// How a row is normalised.
#[derive(Clone, Copy, Debug)]
pub enum Normalization<'a> {
    /// `e^x / Σ e^x`.
    Softmax,
    /// `x / max(‖x‖₂, epsilon)`.
    L2 {
        /// Least norm.
        epsilon: f32,
    },
    /// `(x - mean) / √(variance + epsilon) * weight + bias`.
    Layer {
        /// Gain of each element of a row.
        weight: Elements<'a>,
        /// Offset of each element of a row.
        bias: Elements<'a>,
        /// Added to the variance.
        epsilon: f32,
    },
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Layout {
    rows: i64,
    len: i64,
    x_stride: i64,
    y_stride: i64,
}

/// Normalises `rows` rows of `len` elements of a floating-point type; operands come with their strides.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn normalize(
    gpu: &Gpu,
    how: Normalization<'_>,
    [rows, len]: [usize; 2],
    x: (Elements<'_>, usize),
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let dtype = x.0.dtype();
    let Some(kernel) = variant!(dtype, "normalize") else { return refuse!("normalize", "wants floats, got {dtype:?}") };
    x.0.check(kernel, "the input", Rows { rows, len, stride: x.1 }.extent())?;
    y.0.0.check(kernel, "the result", Rows { rows, len, stride: y.1 }.extent())?;
    let (kind, epsilon, weight, bias) = match how {
        Normalization::Softmax => (0, 0.0, None, None),
        Normalization::L2 { epsilon } => (1, epsilon, None, None),
        Normalization::Layer { weight, bias, epsilon } => (2, epsilon, Some(weight), Some(bias)),
    };
    for vector in weight.iter().chain(&bias) {
        vector.check(kernel, "weight or bias", Some(len))?;
    }
    let same = weight.iter().chain(&bias).all(|v| v.dtype() == dtype);
    if !same || y.0.0.dtype() != dtype || (rows > 1 && y.1 < len) {
        return refuse!(kernel, "element types differ, or rows overlap");
    }
    if rows == 0 || len == 0 {
        return Ok(());
    }
    let layout = Layout { rows: rows as i64, len: len as i64, x_stride: x.1 as i64, y_stride: y.1 as i64 };
    let pointer = |e: Option<Elements<'_>>| e.map_or(0, |e| e.pointer());
    let pointers = [x.0.pointer(), pointer(weight), pointer(bias), y.0.0.pointer()];
    let grid = Grid { blocks: [rows.div_ceil(8).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![kind, epsilon, layout, pointers[0], pointers[1], pointers[2], pointers[3]];
    // SAFETY: the kernel takes these types; rows, weight and bias were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("[{rows}, {len}]")) }
}
