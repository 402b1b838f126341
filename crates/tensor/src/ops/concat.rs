//! Concatenation.

use super::{is_padded, output, same_device};
use crate::autograd::record;
use crate::copy::copy_strided;
use crate::error::refuse;
use crate::{DType, Device, Error, Layout, Tensor};

/// Tensors one after the other along dimension `dim`.
///
/// # Errors
/// If there is none, their shapes differ in another dimension, or the elements are not `f32`.
pub fn concat(tensors: &[&Tensor], dim: usize) -> Result<Tensor, Error> {
    const OP: &str = "concat";
    let Some((first, rest)) = tensors.split_first() else {
        return refuse!(OP, "no tensors given");
    };
    let mut shape = *first.shape();
    if dim >= shape.len() {
        return refuse!(OP, "no dimension {dim} in shape {shape:?}");
    }
    let dtype = match first.device() {
        Device::Cpu(_) => DType::F32,
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => first.dtype(),
    };
    first.expect_dtype(OP, dtype)?;
    for tensor in rest {
        same_device(OP, first.device(), tensor.device())?;
        tensor.expect_dtype(OP, dtype)?;
        let fits = tensor.rank() == shape.len() && (0..shape.len()).all(|d| d == dim || tensor.shape()[d] == shape[d]);
        let total = shape[dim].checked_add(tensor.shape().get(dim).copied().unwrap_or(0));
        let (true, Some(total)) = (fits, total) else {
            return refuse!(OP, "shapes {:?} and {:?} differ beside dimension {dim}", first.shape(), tensor.shape());
        };
        shape[dim] = total;
    }
    let padded = first.layout().rows().is_some_and(|rows| is_padded(&rows));
    let y = joined(tensors, dim, &shape, padded)?;
    Ok(record(OP, y, tensors, || {
        let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.shape()[dim]).collect();
        move |grad, needed| {
            let mut start = 0;
            let part = |(&len, &needed): (&usize, &bool)| {
                start += len;
                needed.then(|| grad.narrow(dim, start - len, len)).transpose()
            };
            sizes.iter().zip(needed).map(part).collect()
        }
    }))
}

/// The tensors one after the other in a new one of `shape`.
fn joined(tensors: &[&Tensor], dim: usize, shape: &[usize], padded: bool) -> Result<Tensor, Error> {
    let device = tensors[0].device();
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        let layout = if padded { Layout::padded(shape)? } else { Layout::contiguous(shape)? };
        let y = Tensor::unspecified(device, layout, tensors[0].dtype())?;
        for (tensor, place) in tensors.iter().zip(places(tensors, dim, layout)) {
            crate::cuda::copy(gpu, tensor, &y, &place?)?;
        }
        return Ok(y);
    }
    let (mut y, _) = output(device, shape, padded)?;
    let whole = *y.layout();
    for (tensor, place) in tensors.iter().zip(places(tensors, dim, whole)) {
        copy_strided(tensor.data::<f32>(), tensor.layout(), y.write::<f32>(), &place?);
    }
    Ok(y)
}

/// Where each tensor lies in the whole.
fn places<'a>(
    tensors: &'a [&Tensor],
    dim: usize,
    whole: Layout,
) -> impl Iterator<Item = Result<Layout, Error>> + use<'a> {
    let mut start = 0;
    tensors.iter().map(move |tensor| {
        let len = tensor.shape()[dim];
        start += len;
        whole.narrow(dim, start - len, len)
    })
}

/// Zeros of `shape` with `part` at indices `start..` of dimension `dim`: what [`Tensor::narrow`] does, backward.
pub(crate) fn widen(
    device: &Device,
    shape: &[usize],
    dim: usize,
    start: usize,
    part: &Tensor,
) -> Result<Tensor, Error> {
    let padded = part.layout().rows().is_some_and(|rows| is_padded(&rows));
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        let layout = if padded { Layout::padded(shape)? } else { Layout::contiguous(shape)? };
        let y = Tensor::unspecified(device, layout, part.dtype())?;
        gpu.clear(y.memory()?, 0, y.memory()?.bytes())?;
        crate::cuda::copy(gpu, part, &y, &layout.narrow(dim, start, part.shape()[dim])?)?;
        return Ok(y);
    }
    part.expect_dtype("narrow", DType::F32)?;
    let (mut y, _) = output(device, shape, padded)?;
    let to = y.layout().narrow(dim, start, part.shape()[dim])?;
    y.write::<f32>().fill(0.0);
    copy_strided(part.data::<f32>(), part.layout(), y.write::<f32>(), &to);
    Ok(y)
}
