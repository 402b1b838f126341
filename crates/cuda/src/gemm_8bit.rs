//! Products of 8-bit matrices, by cuBLASLt.

use crate::blas::{Kind, Product};
use crate::elementwise::is_float;
use crate::error::refuse;
use crate::gemm::Matrices;
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// `d = a · bᵀ` for `a` of `m × k` and `b` of `n × k`, both i8 without gaps, and `d` of `m × n`, i32 without gaps; exact. k is a
/// multiple of 16, n of 4.
///
/// # Errors
/// If types or sizes do not fit, something does not lie within its memory, or cuBLASLt is not there.
pub fn gemm_i8(
    gpu: &Gpu,
    sizes: [usize; 3],
    a: Elements<'_>,
    b: Elements<'_>,
    d: ElementsMut<'_>,
) -> Result<(), Error> {
    let types = [a.dtype(), b.dtype(), d.0.dtype()];
    if types != [DType::I8, DType::I8, DType::I32] {
        return refuse!("gemm_i8", "wants i8, i8 and i32, got {types:?}");
    }
    run(gpu, "gemm_i8", Kind::I8, sizes, a, b, None, d)
}

/// `d = scale_a · scale_b · a · bᵀ` as [`gemm_i8`], for 8-bit floats with 4 bits of exponent and 3 of fraction (`U8`) and scales of one
/// f32 each; `d` is of a floating-point type, sums are in f32. n is a multiple of 16. GPUs from compute capability 8.9 on.
///
/// # Errors
/// As [`gemm_i8`].
pub fn gemm_e4m3(
    gpu: &Gpu,
    sizes: [usize; 3],
    (a, scale_a): (Elements<'_>, Elements<'_>),
    (b, scale_b): (Elements<'_>, Elements<'_>),
    d: ElementsMut<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "gemm_e4m3";
    let types = [a.dtype(), b.dtype(), scale_a.dtype(), scale_b.dtype(), d.0.dtype()];
    if types[..4] != [DType::U8, DType::U8, DType::F32, DType::F32] || !is_float(types[4]) {
        return refuse!(KERNEL, "wants two of u8, two scales of f32 and a float, got {types:?}");
    }
    if !sizes[2].is_multiple_of(16) {
        return refuse!(KERNEL, "wants columns in multiples of 16, got {}", sizes[2]);
    }
    for scale in [scale_a, scale_b] {
        scale.check(KERNEL, "a scale", Some(1))?;
    }
    run(gpu, KERNEL, Kind::E4m3(types[4]), sizes, a, b, Some([scale_a, scale_b]), d)
}

#[expect(clippy::too_many_arguments, reason = "what both have in common")]
fn run(
    gpu: &Gpu,
    kernel: &'static str,
    kind: Kind,
    [m, k, n]: [usize; 3],
    a: Elements<'_>,
    b: Elements<'_>,
    scales: Option<[Elements<'_>; 2]>,
    d: ElementsMut<'_>,
) -> Result<(), Error> {
    if k == 0 || !k.is_multiple_of(16) || !n.is_multiple_of(4) || !a.is_aligned(16) || !b.is_aligned(16) {
        return refuse!(kernel, "wants k in multiples of 16 and n of 4, aligned to 16 bytes, got {m} x {k} x {n}");
    }
    a.check(kernel, "the left operand", m.checked_mul(k))?;
    b.check(kernel, "the right operand", n.checked_mul(k))?;
    d.0.check(kernel, "the result", m.checked_mul(n))?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let Some(blas) = gpu.blas() else { return refuse!(kernel, "cuBLASLt could not be opened") };
    let product = Product {
        kind,
        batch: 1,
        sizes: [m, k, n],
        a: Matrices::dense(a, [m, k]),
        b: Matrices::dense(b, [n, k]).turn(),
        bias: None,
        relu: false,
        residual: None,
        d: Matrices::dense(d.0, [m, n]),
        scales,
    };
    if blas.run(gpu, &product)? { Ok(()) } else { refuse!(kernel, "cuBLASLt has no algorithm for {m} x {k} x {n}") }
}
