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
    /// `x / √(mean(x²) + epsilon) * weight`.
    Rms {
        /// Gain of each element of a row.
        weight: Elements<'a>,
        /// Added to the mean.
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

/// Rows with what is added to them first, and where the sums go: both with the stride of `x`.
pub type Residual<'a> = (Elements<'a>, ElementsMut<'a>);

/// Normalises `rows` rows of `len` elements of a floating-point type; operands come with their strides.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn normalize(
    gpu: &Gpu,
    how: Normalization<'_>,
    shape: [usize; 2],
    x: (Elements<'_>, usize),
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    normalize_sum(gpu, how, shape, x, None, y)
}

/// As [`normalize`], of `x` plus a residual if there is one; the sum, rounded to the type, is stored too, and may lie where `x` does.
///
/// # Errors
/// As [`normalize`].
pub fn normalize_sum(
    gpu: &Gpu,
    how: Normalization<'_>,
    [rows, len]: [usize; 2],
    x: (Elements<'_>, usize),
    residual: Option<Residual<'_>>,
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let dtype = x.0.dtype();
    let Some(kernel) = variant!(dtype, "normalize") else { return refuse!("normalize", "wants floats, got {dtype:?}") };
    let extent = |stride| Rows { rows, len, stride }.extent();
    x.0.check(kernel, "the input", extent(x.1))?;
    y.0.0.check(kernel, "the result", extent(y.1))?;
    let (kind, epsilon, weight, bias) = match how {
        Normalization::Softmax => (0, 0.0, None, None),
        Normalization::L2 { epsilon } => (1, epsilon, None, None),
        Normalization::Layer { weight, bias, epsilon } => (2, epsilon, Some(weight), Some(bias)),
        Normalization::Rms { weight, epsilon } => (3, epsilon, Some(weight), None),
    };
    for vector in weight.iter().chain(&bias) {
        vector.check(kernel, "weight or bias", Some(len))?;
    }
    let (add, sum) = (residual.map(|r| r.0), residual.map(|r| r.1.0));
    for rows in add.iter().chain(&sum) {
        rows.check(kernel, "the residual or the sum", extent(x.1))?;
    }
    let others = || weight.iter().chain(&bias).chain(&add).chain(&sum);
    let overlap = rows > 1 && (y.1 < len || (sum.is_some() && x.1 < len));
    if !others().all(|v| v.dtype() == dtype) || y.0.0.dtype() != dtype || overlap {
        return refuse!(kernel, "element types differ, or rows overlap");
    }
    if rows == 0 || len == 0 {
        return Ok(());
    }
    let layout = Layout { rows: rows as i64, len: len as i64, x_stride: x.1 as i64, y_stride: y.1 as i64 };
    let pack = 16 / dtype.size();
    let even = |stride: usize| rows == 1 || stride.is_multiple_of(pack);
    let wide = len.is_multiple_of(pack)
        && even(x.1)
        && even(y.1)
        && x.0.is_aligned(16)
        && y.0.0.is_aligned(16)
        && others().all(|v| v.is_aligned(16));
    // Rows of a block, and the kernel whose threads hold a row in registers.
    let (per_block, kernel) = match len / pack {
        ..=32 if wide => (8, variant!(dtype, "normalize_warp1")),
        ..=128 if wide => (8, variant!(dtype, "normalize_warp4")),
        ..=256 if wide => (8, variant!(dtype, "normalize_warp8")),
        ..=512 if wide => (1, variant!(dtype, "normalize_block2")),
        ..=1024 if wide => (1, variant!(dtype, "normalize_block4")),
        ..=2048 if wide => (1, variant!(dtype, "normalize_block8")),
        ..=4096 if wide => (1, variant!(dtype, "normalize_block16")),
        _ => (8, Some(kernel)),
    };
    let Some(kernel) = kernel else { return refuse!("normalize", "wants floats, got {dtype:?}") };
    let pointer = |e: Option<Elements<'_>>| e.map_or(0, |e| e.pointer());
    let [from, gain, shift, to] = [x.0.pointer(), pointer(weight), pointer(bias), y.0.0.pointer()];
    let (add, sum) = (pointer(add), pointer(sum));
    let grid = Grid { blocks: [rows.div_ceil(per_block).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![kind, epsilon, layout, from, gain, shift, to, add, sum];
    // SAFETY: the kernel takes these types; rows, weight and bias were checked to lie in their memory, aligned where access is wide.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("[{rows}, {len}]")) }
}
