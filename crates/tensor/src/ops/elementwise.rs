//! Sums, products and multiples, element by element.
//!
//! Shapes are matched from the last dimension; dimensions of size 1, or missing ones, repeat. A value per channel
//! (`[c]`, `[1, 1, 1, c]`) and operands of equal shape are taken where they lie; other repetitions are copied out first.

use super::{is_padded, output, same_device};
use crate::error::refuse;
use crate::{Dims, Error, MAX_RANK, Tensor};
use supple_kernels::elementwise::{self, Binary};

/// `a + b`.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    binary("add", Binary::Add, a, b)
}

/// `a * b`, element by element.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    binary("mul", Binary::Mul, a, b)
}

/// `x * factor`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::unary(gpu, "scale", super::Activation::Identity, factor, x);
    }
    let (x, rows) = x.to_rows("scale")?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    elementwise::scale(x.device().kernels(), factor, rows.rows, rows.len, x.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}

fn binary(op: &'static str, how: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    same_device(op, a.device(), b.device())?;
    let shape = common_shape(op, a.shape(), b.shape())?;
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = a.device() {
        let how = match how {
            Binary::Add => supple_cuda::elementwise::Binary::Add,
            Binary::Mul => supple_cuda::elementwise::Binary::Mul,
        };
        return crate::cuda::binary(gpu, op, how, &a.broadcast_to(&shape)?, &b.broadcast_to(&shape)?);
    }
    let (a, a_rows) = a.broadcast_to(&shape)?.to_rows(op)?;
    let (b, b_rows) = b.broadcast_to(&shape)?.to_rows(op)?;
    let (mut y, out) = output(a.device(), &shape, is_padded(&a_rows) || is_padded(&b_rows))?;
    elementwise::binary(
        a.device().kernels(),
        how,
        out.rows,
        out.len,
        a.data(),
        a_rows.stride,
        b.data(),
        b_rows.stride,
        y.write(),
        out.stride,
    );
    Ok(y)
}

/// The shape that both repeat to.
pub(super) fn common_shape(op: &'static str, a: &[usize], b: &[usize]) -> Result<Dims, Error> {
    let rank = a.len().max(b.len());
    let mut shape = [1; MAX_RANK];
    for d in 1..=rank {
        let side = |shape: &[usize]| shape.len().checked_sub(d).map_or(1, |i| shape[i]);
        shape[rank - d] = match (side(a), side(b)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return refuse!(op, "shapes {a:?} and {b:?} do not match"),
        };
    }
    Dims::new(&shape[..rank])
}
