//! Normalisation over the last dimension.

use super::{is_padded, output, same_device};
use crate::error::refuse;
use crate::{DType, Error, Tensor};
use supple_kernels::normalize::{Normalization, normalize};

/// `e^x / Σ e^x` over the last dimension, computed so that large values do not overflow.
///
/// # Errors
/// If the elements are not `f32`.
pub fn softmax(x: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::normalize(gpu, "softmax", None, x);
    }
    over_rows("softmax", x, Normalization::Softmax)
}

/// `x / max(‖x‖₂, epsilon)` over the last dimension. PyTorch's `normalize` has an epsilon of 1e-12.
///
/// # Errors
/// If the elements are not `f32`.
pub fn l2_normalize(x: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::normalize(gpu, "l2_normalize", Some(epsilon), x);
    }
    over_rows("l2_normalize", x, Normalization::L2 { epsilon })
}

/// `(x - mean) / √(variance + epsilon) * weight + bias` over the last dimension, with the biased variance. PyTorch's
/// `LayerNorm` has an epsilon of 1e-5.
///
/// # Errors
/// If weight or bias are not vectors of the length of the last dimension, or elements are not `f32`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    const OP: &str = "layer_norm";
    for vector in [weight, bias] {
        same_device(OP, x.device(), vector.device())?;
        if vector.rank() != 1 || x.shape().last() != vector.shape().last() {
            return refuse!(OP, "weight {:?} and bias {:?} do not fit {:?}", weight.shape(), bias.shape(), x.shape());
        }
    }
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::layer_norm(gpu, x, weight, bias, epsilon);
    }
    for vector in [weight, bias] {
        vector.expect_dtype(OP, DType::F32)?;
    }
    let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
    over_rows(OP, x, Normalization::Layer { weight: weight.as_slice()?, bias: bias.as_slice()?, epsilon })
}

fn over_rows(op: &'static str, x: &Tensor, how: Normalization<'_>) -> Result<Tensor, Error> {
    let (x, rows) = x.to_rows(op)?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    normalize(x.device().kernels(), how, rows.rows, rows.len, x.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}
