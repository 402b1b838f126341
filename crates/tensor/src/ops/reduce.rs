//! Sums and means.

use super::output;
use crate::autograd::record;
use crate::error::refuse;
use crate::{Dims, Error, Tensor};
#[cfg(feature = "cuda")]
use supple_cuda::reduce::Over;
use supple_kernels::backward::reduce as kernel;

/// The sum of all elements, of shape `[]`; added up in `f64`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn sum(x: &Tensor) -> Result<Tensor, Error> {
    let y = total(x, 1.0)?;
    Ok(record("sum", y, &[x], || {
        let shape = *x.shape();
        move |grad, _| Ok(vec![Some(grad.broadcast_to(&shape)?)])
    }))
}

/// `factor` times the sum of all elements.
fn total(x: &Tensor, factor: f32) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::sum(gpu, "sum", Over::All, factor, x, &[]);
    }
    let (from, rows) = x.to_rows("sum")?;
    let total = kernel::sum(rows.rows, rows.len, from.data(), rows.stride) as f32;
    Tensor::from_slice(x.device(), &[total * factor], &[])
}

/// The mean of all elements, of shape `[]`.
///
/// # Errors
/// If there are no elements, or they are not `f32`.
pub fn mean(x: &Tensor) -> Result<Tensor, Error> {
    if x.elements() == 0 {
        return refuse!("mean", "shape {:?} has no elements", x.shape());
    }
    // In one go: in 16 bits the sum might overflow where the mean does not.
    let factor = (1.0 / x.elements() as f64) as f32;
    let y = total(x, factor)?;
    Ok(record("mean", y, &[x], || {
        let shape = *x.shape();
        move |grad, _| Ok(vec![Some(super::scale(grad, factor)?.broadcast_to(&shape)?)])
    }))
}

/// Sums over the dimensions `dims`, which stay, with size 1.
///
/// # Errors
/// If there is no such dimension, or the elements are not `f32`.
pub fn sum_dims(x: &Tensor, dims: &[usize]) -> Result<Tensor, Error> {
    scaled_sum_dims("sum_dims", x, dims, |_| 1.0)
}

/// Sums over the dimensions `dims`, times a factor that is found from the number of results.
fn scaled_sum_dims(
    op: &'static str,
    x: &Tensor,
    dims: &[usize],
    factor: impl FnOnce(usize) -> f32,
) -> Result<Tensor, Error> {
    let mut shape = *x.shape();
    for &dim in dims {
        if dim >= shape.len() {
            return refuse!(op, "no dimension {dim} in shape {:?}", x.shape());
        }
        shape[dim] = 1;
    }
    let factor = factor(shape.iter().product());
    let y = reduce(&x.detach(), &shape, factor)?;
    Ok(record(op, y, &[x], || {
        let shape = *x.shape();
        move |grad, _| {
            let grad = if factor == 1.0 { grad.clone() } else { super::scale(grad, factor)? };
            Ok(vec![Some(grad.broadcast_to(&shape)?)])
        }
    }))
}

/// Means over the dimensions `dims`, which stay, with size 1.
///
/// # Errors
/// As [`sum_dims`], or if there are no elements.
pub fn mean_dims(x: &Tensor, dims: &[usize]) -> Result<Tensor, Error> {
    let elements = x.elements();
    if elements == 0 {
        return refuse!("mean_dims", "shape {:?} has no elements", x.shape());
    }
    scaled_sum_dims("mean_dims", x, dims, |results| results as f32 / elements as f32)
}

/// `x` summed to `shape`, which repeats to that of `x`: what [`Tensor::broadcast_to`] does, backward.
///
/// # Errors
/// If `shape` does not repeat to that of `x`, or the elements are not `f32`.
pub fn sum_to(x: &Tensor, shape: &[usize]) -> Result<Tensor, Error> {
    if x.shape()[..] == *shape {
        return Ok(x.clone());
    }
    let missing = x.rank().checked_sub(shape.len());
    let fits = missing.is_some_and(|missing| {
        shape.iter().zip(&x.shape()[missing..]).all(|(&small, &large)| small == large || small == 1)
    });
    let Some(missing) = missing.filter(|_| fits) else {
        return refuse!("sum_to", "shape {shape:?} does not repeat to {:?}", x.shape());
    };
    let dims: Vec<usize> =
        (0..x.rank()).filter(|&d| d < missing || (shape[d - missing] == 1 && x.shape()[d] != 1)).collect();
    sum_dims(x, &dims)?.reshape(shape)
}

/// Sums over all dimensions but the last: the gradient of a bias.
///
/// # Errors
/// If the elements are not `f32`.
pub fn column_sums(x: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let len = x.shape().last().copied().unwrap_or(1);
        return crate::cuda::sum(gpu, "column_sums", Over::Rows, 1.0, x, &[len]);
    }
    let (from, rows) = x.to_rows("column_sums")?;
    let (mut y, _) = output(x.device(), &[rows.len], false)?;
    let floats = kernel::column_sums_scratch(rows.rows, rows.len);
    let mut scratch = x.device().buffers().take(floats, &Dims::new(&[floats])?)?;
    let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
    let (cpu, data) = (x.device().kernels(), from.data());
    kernel::column_sums(cpu, rows.rows, rows.len, data, rows.stride, y.write(), scratch);
    Ok(y)
}

/// `factor` times the sums to `shape`, which differs from that of `x` by sizes of 1.
fn reduce(x: &Tensor, shape: &Dims, factor: f32) -> Result<Tensor, Error> {
    let reduced: Vec<usize> = (0..x.rank()).filter(|&d| shape[d] != x.shape()[d]).collect();
    if reduced.is_empty() {
        return if factor == 1.0 { Ok(x.clone()) } else { super::scale(x, factor) };
    }
    if reduced.len() == x.rank() {
        return total(x, factor)?.reshape(shape);
    }
    let rows: usize = reduced.iter().map(|&d| x.shape()[d]).product();
    let columns: usize = shape.iter().product();
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        // The last dimensions alone are the rows of a matrix as they lie; the first ones alone its columns.
        let y = if reduced[0] + reduced.len() == x.rank() {
            let x = if reduced.len() == 1 { x.clone() } else { x.reshape(&[columns, rows])? };
            crate::cuda::sum(gpu, "sum_dims", Over::Columns, factor, &x, shape)?
        } else {
            let x = if reduced.len() + 1 == x.rank() && shape[x.rank() - 1] == columns {
                x.clone()
            } else {
                first(x, &reduced)?.reshape(&[rows, columns])?
            };
            crate::cuda::sum(gpu, "sum_dims", Over::Rows, factor, &x, shape)?
        };
        return Ok(y);
    }
    let y = column_sums(&first(x, &reduced)?.reshape(&[rows, columns])?)?.reshape(shape)?;
    if factor == 1.0 { Ok(y) } else { super::scale(&y, factor) }
}

/// The dimensions `dims` first, then the others: what is summed over makes the rows, the rest the columns.
fn first(x: &Tensor, dims: &[usize]) -> Result<Tensor, Error> {
    let kept = (0..x.rank()).filter(|d| !dims.contains(d));
    let order: Vec<usize> = dims.iter().copied().chain(kept).collect();
    x.permute(&order)
}
