//! Activation functions, element by element.

use super::{Activation, is_padded, output};
use crate::{Error, Tensor};
use supple_kernels::activation;

/// Applies an activation to each element.
///
/// # Errors
/// If the elements are not `f32`.
pub fn activate(x: &Tensor, how: Activation) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::unary(gpu, "activation", how, 1.0, x);
    }
    let (x, rows) = x.to_rows("activation")?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    let cpu = x.device().kernels();
    activation::activate(cpu, how, rows.rows, rows.len, x.data(), rows.stride, y.write(), out.stride);
    Ok(y)
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
