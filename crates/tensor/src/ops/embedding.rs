//! Rows of a table by number.

use super::{output, same_device};
use crate::autograd::record;
use crate::error::refuse;
use crate::{DType, Error, Tensor};

/// Rows `indices` (`u32`, any shape) of `table` `[rows, width]`; the result is `[.., width]`. On a GPU indices are not waited for:
/// one that is no row gives NaN there.
///
/// # Errors
/// If the table is no matrix of `f32`, indices are not `u32`, or there is no such row.
pub fn embedding(table: &Tensor, indices: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "embedding";
    same_device(OP, table.device(), indices.device())?;
    let &[rows, width] = &**table.shape() else {
        return refuse!(OP, "wants a table [rows, width], got shape {:?}", table.shape());
    };
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = table.device() {
        indices.expect_dtype(OP, DType::U32)?;
        let shape = [&indices.shape()[..], &[width]].concat();
        let y = crate::cuda::embedding(gpu, table, indices, &shape)?;
        return Ok(record(OP, y, &[table], || {
            let (gpu, indices) = (gpu.clone(), indices.detach());
            move |grad, _| Ok(vec![Some(crate::cuda::embedding_backward(&gpu, grad, &indices, [rows, width])?)])
        }));
    }
    let numbers = indices.to_vec::<u32>()?;
    if let Some(bad) = numbers.iter().find(|&&number| number as usize >= rows) {
        return refuse!(OP, "no row {bad} in a table of {rows}");
    }
    let flat = table.detach().contiguous()?;
    let from = flat.as_slice::<f32>()?;
    let shape = [&indices.shape()[..], &[width]].concat();
    let (mut y, _) = output(table.device(), &shape, false)?;
    for (to, &number) in y.write::<f32>().chunks_exact_mut(width.max(1)).zip(&numbers) {
        to.copy_from_slice(&from[number as usize * width..][..width]);
    }
    Ok(record(OP, y, &[table], move || {
        move |grad, _| Ok(vec![Some(embedding_backward(grad, &numbers, [rows, width])?)])
    }))
}

/// The gradient of a table: each row gets the gradients of all places where it was used, in their order.
fn embedding_backward(grad: &Tensor, numbers: &[u32], [rows, width]: [usize; 2]) -> Result<Tensor, Error> {
    let grad = grad.contiguous()?;
    let mut y = Tensor::zeros(grad.device(), &[rows, width], DType::F32)?;
    let to = y.as_mut_slice::<f32>()?;
    for (from, &number) in grad.as_slice::<f32>()?.chunks_exact(width.max(1)).zip(numbers) {
        to[number as usize * width..][..width].iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
    Ok(y)
}
