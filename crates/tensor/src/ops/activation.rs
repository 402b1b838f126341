//! Activation functions, element by element.

use super::{Activation, is_padded, mul, output, same_device};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::activation;
use supple_kernels::backward::activation::{self as backward, saves_output};

/// Applies an activation to each element.
///
/// # Errors
/// If the elements are not `f32`.
pub fn activate(x: &Tensor, how: Activation) -> Result<Tensor, Error> {
    let y = values(x, how)?;
    let saved = if saves_output(how) { &y } else { x }.detach();
    Ok(record("activation", y, &[x], move || move |grad, _| Ok(vec![Some(activation_backward(grad, &saved, how)?)])))
}

fn values(x: &Tensor, how: Activation) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::unary(gpu, "activation", how, 1.0, x);
    }
    let (from, rows) = x.to_rows("activation")?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    let cpu = x.device().kernels();
    activation::activate(cpu, how, rows.rows, rows.len, from.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}

/// The gradient of an activation's input from that of its output. `saved` is the output where
/// [`saves_output`] says so, else the input.
///
/// # Errors
/// If the shapes differ or the elements are not `f32`.
pub fn activation_backward(grad: &Tensor, saved: &Tensor, how: Activation) -> Result<Tensor, Error> {
    const OP: &str = "activation_backward";
    same_device(OP, grad.device(), saved.device())?;
    if grad.shape() != saved.shape() {
        return refuse!(OP, "shapes {:?} and {:?} differ", grad.shape(), saved.shape());
    }
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = grad.device() {
        return crate::cuda::activation_backward(gpu, grad, saved, how);
    }
    let ((grad, grad_rows), (saved, saved_rows)) = (grad.to_rows(OP)?, saved.to_rows(OP)?);
    let (mut y, out) = output(grad.device(), grad.shape(), is_padded(&grad_rows) || is_padded(&saved_rows))?;
    let cpu = grad.device().kernels();
    let (from, saved) = (grad.data(), saved.data());
    backward::activation_backward(
        cpu,
        how,
        out.rows,
        out.len,
        from,
        grad_rows.stride,
        saved,
        saved_rows.stride,
        y.write(),
        out.stride,
    );
    Ok(y)
}

/// `x / (1 + e^-x)`, also called swish.
///
/// # Errors
/// If the elements are not `f32`.
pub fn silu(x: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let y = crate::cuda::silu(gpu, &x.detach())?;
        return Ok(record("silu", y, &[x], || {
            let (gpu, x) = (gpu.clone(), x.detach());
            move |grad, _| Ok(vec![Some(crate::cuda::silu_backward(&gpu, grad, &x)?)])
        }));
    }
    mul(x, &sigmoid(x)?)
}

/// `max(x, 0)`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn relu(x: &Tensor) -> Result<Tensor, Error> {
    activate(x, Activation::Relu)
}

/// `x` where positive, else `slope * x`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn leaky_relu(x: &Tensor, slope: f32) -> Result<Tensor, Error> {
    activate(x, Activation::LeakyRelu(slope))
}

/// `1 / (1 + e^-x)`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn sigmoid(x: &Tensor) -> Result<Tensor, Error> {
    activate(x, Activation::Sigmoid)
}

/// The hyperbolic tangent.
///
/// # Errors
/// If the elements are not `f32`.
pub fn tanh(x: &Tensor) -> Result<Tensor, Error> {
    activate(x, Activation::Tanh)
}

/// `x * Φ(x)`, exact (by the error function).
///
/// # Errors
/// If the elements are not `f32`.
pub fn gelu(x: &Tensor) -> Result<Tensor, Error> {
    activate(x, Activation::Gelu)
}
