//! Gates and attention between channels, forward and backward.

use super::{image_rows, read, rows, write};
use crate::ops::is_padded;
use crate::{DType, Error, Layout, Tensor};
use supple_cuda::Gpu;
use supple_cuda::channel_attention as kernel;

/// Whether there is a kernel for patches of so many pixels and channels.
pub(crate) fn attends(dtype: DType, pixels: usize, channels: usize) -> bool {
    let fits = channels > 0 && channels <= kernel::CHANNELS && channels.is_multiple_of(4);
    fits && pixels == kernel::PIXELS && matches!(dtype, DType::F16 | DType::BF16)
}

/// The result of attention among `channels` channels, `[patches, pixels, channels]`, with padded rows.
pub(crate) fn channel_attention(gpu: &Gpu, x: &Tensor, temperature: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let (x, stride) = image_rows("channel_attention", x)?;
    let &[patches, pixels, all] = &**x.shape() else { unreachable!("checked by the operator") };
    let y = Tensor::unspecified(x.device(), Layout::padded(&[patches, pixels, all / 3])?, x.dtype())?;
    let to = (write(&y)?, y.layout().rows().map_or(all / 3, |rows| rows.stride));
    kernel::forward(gpu, [patches, all / 3], epsilon, (read(&x)?, stride), read(temperature)?, to)?;
    Ok(y)
}

/// The gradients of [`channel_attention`]'s input and temperature, the latter in f32 and of shape `[1]`.
pub(crate) fn channel_attention_backward(
    gpu: &Gpu,
    grad: &Tensor,
    x: &Tensor,
    temperature: &Tensor,
    epsilon: f32,
) -> Result<[Tensor; 2], Error> {
    const OP: &str = "channel_attention_backward";
    let ((x, stride), (grad, grad_stride)) = (image_rows(OP, x)?, image_rows(OP, grad)?);
    let &[patches, _, all] = &**x.shape() else { unreachable!("checked by the operator") };
    let of_x = Tensor::unspecified(x.device(), Layout::padded(x.shape())?, x.dtype())?;
    let of_temperature = Tensor::unspecified(x.device(), Layout::contiguous(&[1])?, DType::F32)?;
    let to = (write(&of_x)?, of_x.layout().rows().map_or(all, |rows| rows.stride));
    let (from, given) = ((read(&x)?, stride), (read(&grad)?, grad_stride));
    let sizes = [patches, all / 3];
    kernel::backward(gpu, sizes, epsilon, from, read(temperature)?, given, to, write(&of_temperature)?)?;
    Ok([of_x, of_temperature])
}

/// `gelu(a) · b`, `a` and `b` being the halves of the last dimension; padded where `x` is.
pub(crate) fn gelu_gate(gpu: &Gpu, x: &Tensor) -> Result<Tensor, Error> {
    let (x, from) = rows("gelu_gate", x)?;
    let mut shape = *x.shape();
    if let Some(last) = shape.last_mut() {
        *last /= 2;
    }
    let (y, out) = super::like(&x, &shape, is_padded(&from))?;
    kernel::gelu_gate(gpu, [from.rows, from.len / 2], (read(&x)?, from.stride), (write(&y)?, out.stride))?;
    Ok(y)
}

/// The gradient of [`gelu_gate`]'s input.
pub(crate) fn gelu_gate_backward(gpu: &Gpu, grad: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "gelu_gate_backward";
    let ((x, from), (grad, given)) = (rows(OP, x)?, rows(OP, grad)?);
    let (of_x, out) = super::like(&x, x.shape(), is_padded(&from))?;
    let operands = ((read(&grad)?, given.stride), (read(&x)?, from.stride), (write(&of_x)?, out.stride));
    kernel::gelu_gate_backward(gpu, [from.rows, from.len / 2], operands.0, operands.1, operands.2)?;
    Ok(of_x)
}
