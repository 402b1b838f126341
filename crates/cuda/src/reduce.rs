//! Sums over rows, columns and everything. Elements of any floating-point type; sums are in f32, taken in an order that depends
//! on shapes alone.

use crate::elementwise::Rows;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Most parts that are summed on their own.
const PARTS: usize = 1024;

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Each column, to as many values as a row has elements.
    Rows,
    /// Each row, to as many values as there are rows.
    Columns,
    /// Everything, to one value.
    All,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Matrix {
    rows: i64,
    len: i64,
    stride: i64,
}

/// `y = factor · Σ x` for `rows` rows of `len` elements, `stride` apart. An empty sum is zero.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn sum(
    gpu: &Gpu,
    over: Over,
    factor: f32,
    [rows, len]: [usize; 2],
    (x, stride): (Elements<'_>, usize),
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "sum";
    let dtype = x.dtype();
    if y.0.dtype() != dtype || !crate::elementwise::is_float(dtype) {
        return refuse!(KERNEL, "wants floats of one type, got {dtype:?} and {:?}", y.0.dtype());
    }
    x.check(KERNEL, "the input", Rows { rows, len, stride }.extent())?;
    let results = match over {
        Over::Rows => len,
        Over::Columns => rows,
        Over::All => 1,
    };
    y.0.check(KERNEL, "the result", Some(results))?;
    if results == 0 {
        return Ok(());
    }
    if rows == 0 || len == 0 {
        return crate::elementwise::fill(gpu, results, 0.0, y);
    }
    let matrix = Matrix { rows: rows as i64, len: len as i64, stride: stride as i64 };
    let [from, to] = [x.pointer(), y.0.pointer()];
    let describe = || format!("[{rows}, {len}] over {over:?}");
    let warps = |count: usize| Grid { blocks: [count.div_ceil(8).min(1 << 20), 1, 1], threads: 256, shared: 0 };
    let (parts, memory) = match over {
        Over::Columns => {
            let kernel = of(dtype, variant!(dtype, "row_sums"))?;
            // SAFETY: the kernel takes these types; both ends were checked to lie in their memory.
            return unsafe { gpu.launch(kernel, warps(rows), arguments![matrix, factor, from, to], &describe) };
        }
        Over::Rows => {
            let blocks = len.div_ceil(32);
            let parts = (PARTS / blocks).clamp(1, 128).min(rows.div_ceil(64));
            let per_part = rows.div_ceil(parts);
            let parts = rows.div_ceil(per_part);
            let memory = gpu.allocate(parts * len * 4)?;
            let (per_part, to_parts) = (per_part as i64, memory.pointer());
            let grid = Grid { blocks: [blocks, parts, 1], threads: 256, shared: 0 };
            let kernel = of(dtype, variant!(dtype, "column_parts"))?;
            // SAFETY: as above; the parts are as many as were allocated.
            unsafe { gpu.launch(kernel, grid, arguments![matrix, per_part, from, to_parts], &describe)? };
            (parts, memory)
        }
        Over::All => {
            let parts = rows.saturating_mul(len).div_ceil(2048).clamp(1, PARTS);
            let memory = gpu.allocate(parts * 4)?;
            let to_parts = memory.pointer();
            let grid = Grid { blocks: [parts, 1, 1], threads: 256, shared: 0 };
            let kernel = of(dtype, variant!(dtype, "sum_of_all"))?;
            // SAFETY: as above.
            unsafe { gpu.launch(kernel, grid, arguments![matrix, from, to_parts], &describe)? };
            (parts, memory)
        }
    };
    let (parts, results_i, from) = (parts as i32, results as i64, memory.pointer());
    let kernel = of(dtype, variant!(dtype, "finish_sums"))?;
    let arguments = arguments![parts, results_i, factor, from, to];
    // SAFETY: as above.
    unsafe { gpu.launch(kernel, warps(results), arguments, &describe) }
}

fn of(dtype: DType, kernel: Option<&'static str>) -> Result<&'static str, Error> {
    kernel.map_or_else(|| refuse!("sum", "wants floats, got {dtype:?}"), Ok)
}
