//! RMS norm, `y = x · r · w` with `r = 1 / √(mean(x²) + ε)` for each row of the last dimension, and its gradients:
//!
//! ```text
//! dw = Σ over rows of dy · x · r
//! dx = r · (dy · w - x · r² · mean(dy · w · x))
//! ```

use super::{add_scalar, column_sums, div, is_padded, mean_dims, mul, output, same_device, sqrt, sub};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::decoder::{self, for_each_row};

/// `x / √(mean(x²) + epsilon) * weight` over the last dimension. On a GPU the weight is of the type of `x`, or `f32`. (Source:
/// Zhang and Sennrich, arXiv 1910.07467.)
///
/// # Errors
/// If the weight does not fit the last dimension, or elements are not `f32`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    const OP: &str = "rms_norm";
    let Some(last) = x.rank().checked_sub(1).filter(|&last| weight.shape()[..] == x.shape()[last..]) else {
        return refuse!(OP, "weight {:?} does not fit {:?}", weight.shape(), x.shape());
    };
    same_device(OP, x.device(), weight.device())?;
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        crate::cuda::expect_parameter(OP, weight, x.dtype())?;
        let y = crate::cuda::rms_norm(gpu, &x.detach(), &weight.detach(), epsilon)?;
        return Ok(record(OP, y, &[x, weight], || {
            let (gpu, x, weight) = (gpu.clone(), x.detach(), weight.detach());
            move |grad, _| {
                let [of_x, of_weight] =
                    crate::cuda::rms_norm_backward(&gpu, grad, &x, &weight, epsilon, weight.dtype())?;
                Ok(vec![Some(of_x), Some(of_weight)])
            }
        }));
    }
    let (from, gain) = (x.detach(), weight.detach().contiguous()?);
    let y = forward(&from, &gain, epsilon)?;
    Ok(record(OP, y, &[x, weight], move || {
        move |grad, needed| {
            let mean_square = mean_dims(&mul(&from, &from)?, &[last])?;
            let root = sqrt(&add_scalar(&mean_square, epsilon)?)?;
            let standard = div(&from, &root)?;
            let of_x = || {
                let scaled = mul(grad, &gain)?;
                let along = mean_dims(&mul(&scaled, &standard)?, &[last])?;
                div(&sub(&scaled, &mul(&standard, &along)?)?, &root)
            };
            let of_weight = || column_sums(&mul(grad, &standard)?);
            Ok(vec![needed[0].then(of_x).transpose()?, needed[1].then(of_weight).transpose()?])
        }
    }))
}

/// On the CPU, without gradient.
fn forward(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    const OP: &str = "rms_norm";
    weight.expect_dtype(OP, crate::DType::F32)?;
    let (x, rows) = x.to_rows(OP)?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    let (cpu, len) = (x.device().kernels(), out.len);
    if y.elements() == 0 {
        return Ok(y);
    }
    let (from, gain) = (x.data::<f32>(), weight.as_slice::<f32>()?);
    // The last row need not have a whole stride behind it.
    let (to, whole) = (y.write::<f32>(), out.rows - 1);
    let (body, tail) = to.split_at_mut(whole * out.stride);
    let row = |i: usize, to: &mut [f32]| {
        decoder::rms_norm(cpu.isa, &from[i * rows.stride..][..len], gain, epsilon, &mut to[..len]);
    };
    for_each_row(cpu, whole, [(body, out.stride)], None, &|i, [to]| row(i, to));
    row(whole, tail);
    Ok(y)
}
