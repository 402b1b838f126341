//! The scalar truth that products are compared with.

use super::Epilogue;

/// `C = epilogue(A · B)`, summed in `f64`. `B` is row-major `k × n`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_reference(
    m: usize,
    k: usize,
    n: usize,
    a: &[f32],
    lda: usize,
    b: &[f32],
    c: &mut [f32],
    ldc: usize,
    epilogue: &Epilogue<'_>,
) {
    for row in 0..m {
        for column in 0..n {
            let sum: f64 = (0..k).map(|i| f64::from(a[row * lda + i]) * f64::from(b[i * n + column])).sum();
            let mut y = sum + epilogue.bias.get(column).copied().map_or(0.0, f64::from);
            if y < 0.0 {
                y *= f64::from(epilogue.slope);
            }
            if !epilogue.residual.is_empty() {
                y += f64::from(epilogue.residual[row * epilogue.residual_stride + column]);
            }
            c[row * ldc + column] = y as f32;
        }
    }
}
