//! Normalisation over the last dimension.

use super::{add, add_scalar, column_sums, div, is_padded, mean_dims, mul, output, same_device, sqrt, sub};
use crate::autograd::record;
use crate::error::refuse;
use crate::{DType, Error, Tensor};
use supple_kernels::backward::normalize::normalize_backward;
use supple_kernels::normalize::{Normalization, normalize};

/// `e^x / Σ e^x` over the last dimension, computed so that large values do not overflow.
///
/// # Errors
/// If the elements are not `f32`.
pub fn softmax(x: &Tensor) -> Result<Tensor, Error> {
    let y = over_rows("softmax", x, Normalization::Softmax)?;
    let saved = y.detach();
    Ok(record("softmax", y, &[x], move || {
        move |grad, _| Ok(vec![Some(backward("softmax_backward", grad, &saved, Normalization::Softmax)?)])
    }))
}

/// `x / max(‖x‖₂, epsilon)` over the last dimension. PyTorch's `normalize` has an epsilon of 1e-12.
///
/// # Errors
/// If the elements are not `f32`.
pub fn l2_normalize(x: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let y = over_rows("l2_normalize", x, Normalization::L2 { epsilon })?;
    Ok(record("l2_normalize", y, &[x], || {
        let x = x.detach();
        move |grad, _| Ok(vec![Some(backward("l2_normalize_backward", grad, &x, Normalization::L2 { epsilon })?)])
    }))
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
        for vector in [weight, bias] {
            crate::cuda::expect_parameter(OP, vector, x.dtype())?;
        }
        let y = crate::cuda::layer_norm(gpu, &x.detach(), &weight.detach(), &bias.detach(), epsilon)?;
        return Ok(record(OP, y, &[x, weight, bias], || {
            let (gpu, x, weight, dtypes) = (gpu.clone(), x.detach(), weight.detach(), [weight.dtype(), bias.dtype()]);
            move |grad, _| {
                let grads = crate::cuda::layer_norm_backward(&gpu, grad, &x, &weight, epsilon, dtypes)?;
                Ok(grads.map(Some).into())
            }
        }));
    }
    for vector in [weight, bias] {
        vector.expect_dtype(OP, DType::F32)?;
    }
    let (gain, shift) = (weight.detach().contiguous()?, bias.detach().contiguous()?);
    let y = over_rows(OP, x, Normalization::Layer { weight: gain.as_slice()?, bias: shift.as_slice()?, epsilon })?;
    Ok(record(OP, y, &[x, weight, bias], || {
        let x = x.detach();
        move |grad, needed| layer_norm_backward(grad, &x, &gain, epsilon, needed)
    }))
}

/// Gradients of a layer norm's input, weight and bias.
fn layer_norm_backward(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    needed: &[bool],
) -> Result<Vec<Option<Tensor>>, Error> {
    const OP: &str = "layer_norm_backward";
    let of_x = || {
        let weight = weight.as_slice()?;
        backward(OP, grad, x, Normalization::Layer { weight, bias: weight, epsilon })
    };
    let of_weight = || {
        let len = weight.elements();
        let (ones, zeros) = (vec![1.0; len], vec![0.0; len]);
        let standard = over_rows(OP, x, Normalization::Layer { weight: &ones, bias: &zeros, epsilon })?;
        column_sums(&mul(grad, &standard)?)
    };
    Ok(vec![
        needed[0].then(of_x).transpose()?,
        needed[1].then(of_weight).transpose()?,
        needed[2].then(|| column_sums(grad)).transpose()?,
    ])
}

/// Images `[n, h, w, c]` normalised to mean 0 and variance 1 in each of `groups` groups of channels, then times `weight` plus
/// `bias`, `[c]` each. (Source: Wu and He, arXiv 1803.08494.)
///
/// # Errors
/// If the channels do not divide into the groups, weight or bias do not fit, or elements are not `f32`.
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let &[n, h, w, c] = &**x.shape() else {
        return refuse!("group_norm", "wants an image [n, h, w, c], got shape {:?}", x.shape());
    };
    if groups == 0 || !c.is_multiple_of(groups) || weight.shape()[..] != [c] || bias.shape()[..] != [c] {
        let (weight, bias) = (weight.shape(), bias.shape());
        return refuse!("group_norm", "{groups} groups, weight {weight:?}, bias {bias:?} do not fit {:?}", x.shape());
    }
    let parts = x.reshape(&[n, h * w, groups, c / groups])?;
    let centred = sub(&parts, &mean_dims(&parts, &[1, 3])?)?;
    let variance = mean_dims(&mul(&centred, &centred)?, &[1, 3])?;
    let standard = div(&centred, &sqrt(&add_scalar(&variance, epsilon)?)?)?;
    add(&mul(&standard.reshape(&[n, h, w, c])?, weight)?, bias)
}

/// The gradient of a normalisation's input.
fn backward(op: &'static str, grad: &Tensor, saved: &Tensor, how: Normalization<'_>) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = grad.device() {
        return crate::cuda::normalize_backward(gpu, op, least_norm(how), grad, saved);
    }
    let ((grad, rows), (saved, saved_rows)) = (grad.to_rows(op)?, saved.to_rows(op)?);
    let (mut y, out) = output(grad.device(), grad.shape(), is_padded(&rows) || is_padded(&saved_rows))?;
    let (cpu, from, saved) = (grad.device().kernels(), grad.data(), saved.data());
    let to = y.write();
    normalize_backward(cpu, how, out.rows, out.len, from, rows.stride, saved, saved_rows.stride, to, out.stride);
    Ok(y)
}

fn over_rows(op: &'static str, x: &Tensor, how: Normalization<'_>) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::normalize(gpu, op, least_norm(how), x);
    }
    let (x, rows) = x.to_rows(op)?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    normalize(x.device().kernels(), how, rows.rows, rows.len, x.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}

/// The least norm of an L2 normalisation.
#[cfg(feature = "cuda")]
fn least_norm(how: Normalization<'_>) -> Option<f32> {
    match how {
        Normalization::L2 { epsilon } => Some(epsilon),
        _ => None,
    }
}
