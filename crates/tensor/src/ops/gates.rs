//! Gates and attention between channels, as restoration transformers have them: on a GPU each is one kernel forward and one
//! backward.

use super::{gelu, l2_normalize, matmul, mul, same_device, softmax};
#[cfg(feature = "cuda")]
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};

/// `gelu(a) · b` for `x` of shape `[.., 2c]`, whose first `c` are `a` and whose last `c` are `b`.
///
/// # Errors
/// If the last dimension is odd, or elements are no floats.
pub fn gelu_gate(x: &Tensor) -> Result<Tensor, Error> {
    let last = x.rank().checked_sub(1).filter(|&last| x.shape()[last].is_multiple_of(2));
    let Some(last) = last else {
        return refuse!("gelu_gate", "wants an even last dimension, got shape {:?}", x.shape());
    };
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let y = crate::cuda::gelu_gate(gpu, &x.detach())?;
        return Ok(record("gelu_gate", y, &[x], || {
            let (gpu, x) = (gpu.clone(), x.detach());
            move |grad, _| Ok(vec![Some(crate::cuda::gelu_gate_backward(&gpu, grad, &x)?)])
        }));
    }
    let half = x.shape()[last] / 2;
    mul(&gelu(&x.narrow(last, 0, half)?)?, &x.narrow(last, half, half)?)
}

/// Attention between the channels of patches: `softmax(t · q̂ᵀ k̂) vᵀ` for `x` of shape `[patches, pixels, 3c]`, whose last dimension
/// holds queries, keys and values of `c` channels. Over a patch's pixels each channel of queries and keys is divided by its length,
/// or by `epsilon` if that is more. `temperature` is one number, of the type of `x` or `f32`; the result is `[patches, pixels, c]`.
/// (Source: Liu et al., arXiv 2308.02794; per patch what Zamir et al., arXiv 2111.09881, do with whole images.)
///
/// # Errors
/// If shapes or element types do not fit each other.
pub fn channel_attention(x: &Tensor, temperature: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    const OP: &str = "channel_attention";
    same_device(OP, x.device(), temperature.device())?;
    let &[_, pixels, all] = &**x.shape() else {
        return refuse!(OP, "wants [patches, pixels, 3c], got shape {:?}", x.shape());
    };
    if !all.is_multiple_of(3) || temperature.elements() != 1 {
        return refuse!(OP, "{:?} and a temperature of shape {:?}", x.shape(), temperature.shape());
    }
    let c = all / 3;
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        crate::cuda::expect_parameter(OP, temperature, x.dtype())?;
        if crate::cuda::attends(x.dtype(), pixels, c) {
            let factor = temperature.detach().to_dtype(crate::DType::F32)?.contiguous()?;
            let y = crate::cuda::channel_attention(gpu, &x.detach(), &factor, epsilon)?;
            return Ok(record(OP, y, &[x, temperature], || {
                let (gpu, x, dtype, shape) = (gpu.clone(), x.detach(), temperature.dtype(), *temperature.shape());
                move |grad, _| {
                    let [of_x, of_factor] = crate::cuda::channel_attention_backward(&gpu, grad, &x, &factor, epsilon)?;
                    Ok(vec![Some(of_x), Some(of_factor.to_dtype(dtype)?.reshape(&shape)?)])
                }
            }));
        }
    }
    let _ = pixels;
    let part = |i: usize| x.narrow(2, i * c, c)?.transpose(1, 2)?.contiguous();
    let [q, k] = [l2_normalize(&part(0)?, epsilon)?, l2_normalize(&part(1)?, epsilon)?];
    let temperature = temperature.to_dtype(x.dtype())?.reshape(&[1, 1, 1])?;
    let scores = mul(&matmul(&q, &k.transpose(1, 2)?)?, &temperature)?;
    matmul(&softmax(&scores)?, &part(2)?)?.transpose(1, 2)
}
