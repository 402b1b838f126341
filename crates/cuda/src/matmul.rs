//! Products of batches of matrices.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// `c[i] = a[i] · b[i]` for `batch` pairs of row-major matrices without gaps, `m × k` and `k × n`, of a floating-point type; sums
/// are in f32.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn matmul(
    gpu: &Gpu,
    batch: usize,
    [m, k, n]: [usize; 3],
    a: Elements<'_>,
    b: Elements<'_>,
    c: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(a.dtype(), "matmul") else {
        return refuse!("matmul", "wants floats, got {:?}", a.dtype());
    };
    if b.dtype() != a.dtype() || c.0.dtype() != a.dtype() {
        return refuse!(kernel, "operands of different element types");
    }
    let size = |x: usize, y: usize| batch.checked_mul(x)?.checked_mul(y);
    a.check(kernel, "the left operand", size(m, k))?;
    b.check(kernel, "the right operand", size(k, n))?;
    c.0.check(kernel, "the result", size(m, n))?;
    if [m, k, n].iter().any(|&side| side > i32::MAX as usize) {
        return refuse!(kernel, "{m} x {k} x {n} is too large");
    }
    if size(m, n) == Some(0) {
        return Ok(());
    }
    let pointers = [a.pointer(), b.pointer(), c.0.pointer()];
    let raw = [m as i32, k as i32, n as i32];
    let types = a.dtype().size() as u64;
    let on_tensor_cores = match a.dtype() {
        DType::F16 => Some("matmul_half_f16"),
        DType::BF16 => Some("matmul_half_bf16"),
        _ => None,
    };
    // Batches beyond the grid's limit go in parts.
    for first in (0..batch).step_by(65535) {
        let count = (batch - first).min(65535);
        let grid = Grid { blocks: [m.div_ceil(64), n.div_ceil(64), count], threads: 256, shared: 0 };
        let at = |i: usize, x: usize, y: usize| pointers[i] + (first * x * y) as u64 * types;
        let (a, b, c) = (at(0, m, k), at(1, k, n), at(2, m, n));
        if let Some(kernel) = on_tensor_cores {
            let [wide_a, wide_b] = [(a, k), (b, n)].map(|(at, len)| i32::from(at % 16 == 0 && len % 8 == 0));
            let grid = Grid { threads: 128, ..grid };
            let arguments = arguments![raw[0], raw[1], raw[2], wide_a, wide_b, a, b, c];
            // SAFETY: as below; access is aligned where it is wide.
            unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{batch} x {m} x {k} x {n}"))? };
            continue;
        }
        // SAFETY: the kernel takes these types; all three were checked to lie in their memory.
        unsafe {
            gpu.launch(kernel, grid, arguments![raw[0], raw[1], raw[2], a, b, c], &|| {
                format!("{batch} x {m} x {k} x {n}")
            })?;
        }
    }
    Ok(())
}
