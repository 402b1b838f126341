//! Rotary positions.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Which features are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Those of the first half with those of the second.
    Halves,
    /// Neighbours.
    Interleaved,
}

/// Rows of heads, and which token each belongs to: row `i` to token `i / heads % tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// Rows in all.
    pub rows: usize,
    /// Features of a row: an even number.
    pub features: usize,
    /// Adjacent rows of one token.
    pub heads: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    rows: i64,
    x_stride: i64,
    y_stride: i64,
    d: i32,
    heads: i32,
    tokens: i32,
    halves: i32,
}

/// `(a, b)` of each pair of features becomes `(a · cos - b · sin, b · cos + a · sin)`, with cosines and sines (f32, `[tokens,
/// features]`) at the place of each. x and y, of a floating-point type, come with their strides.
///
/// # Errors
/// If the shape is not sensible, types do not fit, or something does not lie within its memory.
pub fn rope(
    gpu: &Gpu,
    pairs: Pairs,
    shape: RopeShape,
    x: (Elements<'_>, usize),
    [cosines, sines]: [Elements<'_>; 2],
    y: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let dtype = x.0.dtype();
    let Some(kernel) = variant!(dtype, "rope") else { return refuse!("rope", "wants floats, got {dtype:?}") };
    let RopeShape { rows, features, heads, tokens } = shape;
    let whole = heads.checked_mul(tokens).filter(|&sequence| sequence > 0 && rows.is_multiple_of(sequence));
    if whole.is_none()
        || !features.is_multiple_of(2)
        || [features, heads, tokens].iter().any(|&n| n > i32::MAX as usize)
    {
        return refuse!(kernel, "{shape:?} is not sensible");
    }
    let types = [cosines.dtype(), sines.dtype()] == [DType::F32; 2] && y.0.0.dtype() == dtype;
    if !types || (rows > 1 && y.1 < features) {
        return refuse!(kernel, "angles are not f32, types differ, or rows overlap");
    }
    x.0.check(kernel, "the input", Rows { rows, len: features, stride: x.1 }.extent())?;
    y.0.0.check(kernel, "the result", Rows { rows, len: features, stride: y.1 }.extent())?;
    for table in [cosines, sines] {
        table.check(kernel, "the angles", tokens.checked_mul(features))?;
    }
    if rows == 0 || features == 0 {
        return Ok(());
    }
    let pack = 16 / dtype.size();
    let fits = |elements: Elements<'_>, stride: usize| elements.is_aligned(16) && stride.is_multiple_of(pack);
    let wide = features.is_multiple_of(2 * pack)
        && fits(x.0, x.1)
        && fits(y.0.0, y.1)
        && cosines.is_aligned(16)
        && sines.is_aligned(16);
    let raw = Raw {
        rows: rows as i64,
        x_stride: x.1 as i64,
        y_stride: y.1 as i64,
        d: features as i32,
        heads: heads as i32,
        tokens: tokens as i32,
        halves: i32::from(pairs == Pairs::Halves),
    };
    let grid = Grid::flat(rows * features / 2 / if wide { pack } else { 1 });
    let pointers = [x.0, cosines, sines, y.0.0].map(|elements| elements.pointer());
    let wide = i32::from(wide);
    let arguments = arguments![wide, raw, pointers[0], pointers[1], pointers[2], pointers[3]];
    // SAFETY: the kernel takes these types; rows and angles were checked to lie in their memory, and access is aligned where it is wide.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{shape:?}")) }
}
