//! Products of batches of matrices that lie without gaps.

use crate::gemm::{After, Matrices, Way, gemm};
use crate::{Elements, ElementsMut, Error, Gpu};

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
    let (a, b) = (Matrices::dense(a, [m, k]), Matrices::dense(b, [k, n]));
    gemm(gpu, Way::Best, [batch, m, k, n], a, b, After::NONE, (c, n, m.saturating_mul(n)))
}
