//! Sums and means.

use super::output;
use crate::autograd::record;
use crate::error::refuse;
use crate::{Dims, Error, Tensor};
use supple_kernels::backward::reduce as kernel;

/// The sum of all elements, of shape `[]`; added up in `f64`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn sum(x: &Tensor) -> Result<Tensor, Error> {
    let (from, rows) = x.to_rows("sum")?;
    let total = kernel::sum(rows.rows, rows.len, from.data(), rows.stride) as f32;
    let y = Tensor::from_slice(x.device(), &[total], &[])?;
    Ok(record("sum", y, &[x], || {
        let shape = *x.shape();
        move |grad, _| Ok(vec![Some(grad.broadcast_to(&shape)?)])
    }))
}

/// The mean of all elements, of shape `[]`.
///
/// # Errors
/// If there are no elements, or they are not `f32`.
pub fn mean(x: &Tensor) -> Result<Tensor, Error> {
    if x.elements() == 0 {
        return refuse!("mean", "shape {:?} has no elements", x.shape());
    }
    super::scale(&sum(x)?, (1.0 / x.elements() as f64) as f32)
}

/// Sums over the dimensions `dims`, which stay, with size 1.
///
/// # Errors
/// If there is no such dimension, or the elements are not `f32`.
pub fn sum_dims(x: &Tensor, dims: &[usize]) -> Result<Tensor, Error> {
    let mut shape = *x.shape();
    for &dim in dims {
        if dim >= shape.len() {
            return refuse!("sum_dims", "no dimension {dim} in shape {:?}", x.shape());
        }
        shape[dim] = 1;
    }
    let y = reduce(&x.detach(), &shape)?;
    Ok(record("sum_dims", y, &[x], || {
        let shape = *x.shape();
        move |grad, _| Ok(vec![Some(grad.broadcast_to(&shape)?)])
    }))
}

/// Means over the dimensions `dims`, which stay, with size 1.
///
/// # Errors
/// As [`sum_dims`], or if there are no elements.
pub fn mean_dims(x: &Tensor, dims: &[usize]) -> Result<Tensor, Error> {
    let y = sum_dims(x, dims)?;
    if x.elements() == 0 {
        return refuse!("mean_dims", "shape {:?} has no elements", x.shape());
    }
    super::scale(&y, y.elements() as f32 / x.elements() as f32)
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
    let (from, rows) = x.to_rows("column_sums")?;
    let (mut y, _) = output(x.device(), &[rows.len], false)?;
    let floats = kernel::column_sums_scratch(rows.rows, rows.len);
    let mut scratch = x.device().buffers().take(floats, &Dims::new(&[floats])?)?;
    let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
    let (cpu, data) = (x.device().kernels(), from.data());
    kernel::column_sums(cpu, rows.rows, rows.len, data, rows.stride, y.write(), scratch);
    Ok(y)
}

/// Sums to `shape`, which differs from that of `x` by sizes of 1.
fn reduce(x: &Tensor, shape: &Dims) -> Result<Tensor, Error> {
    let reduced: Vec<usize> = (0..x.rank()).filter(|&d| shape[d] != x.shape()[d]).collect();
    if reduced.is_empty() {
        return Ok(x.clone());
    }
    // What is summed over comes first, the rest makes the columns.
    let kept = (0..x.rank()).filter(|d| !reduced.contains(d));
    let order: Vec<usize> = reduced.iter().copied().chain(kept).collect();
    let rows: usize = reduced.iter().map(|&d| x.shape()[d]).product();
    let columns: usize = shape.iter().product();
    let y = match reduced.len() {
        len if len == x.rank() => sum(x)?,
        _ => column_sums(&x.permute(&order)?.reshape(&[rows, columns])?)?,
    };
    y.reshape(shape)
}
