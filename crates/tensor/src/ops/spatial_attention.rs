//! The gate of RLFN's spatial attention, and the convolutions before it, fused where the device can.

use super::{Activation, Conv2d, ResizeMode, activate, add, max_pool2d, mul, resize, same_device, sigmoid};
#[cfg(feature = "cuda")]
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};

/// `x · sigmoid(mask)` for two tensors of one shape: on a GPU in one go, forward and backward.
///
/// # Errors
/// If shapes, types or devices differ.
pub fn sigmoid_gate(x: &Tensor, mask: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "sigmoid_gate";
    same_device(OP, x.device(), mask.device())?;
    if x.shape() != mask.shape() {
        return refuse!(OP, "shapes {:?} and {:?} differ", x.shape(), mask.shape());
    }
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let y = crate::cuda::binary(gpu, OP, supple_cuda::elementwise::Binary::Gate, &x.detach(), &mask.detach())?;
        return Ok(record(OP, y, &[x, mask], || {
            let (gpu, x, mask) = (gpu.clone(), x.detach(), mask.detach());
            move |grad, _| Ok(crate::cuda::gate_backward(&gpu, grad, &x, &mask)?.map(Some).into())
        }));
    }
    mul(x, &sigmoid(mask)?)
}

/// `x · sigmoid(resize(coarse) + mix(reduced))`: the attention's gate, with `coarse` resized bilinearly to the size of `x`.
///
/// `x` is `[n, h, w, c]`, `reduced` `[n, h, w, k]`, `coarse` `[n, h', w', c]`; `mix` is a 1×1 convolution from `k` to `c` channels.
///
/// # Errors
/// If shapes, types or devices do not fit each other.
pub fn spatial_gate(mix: &Conv2d, x: &Tensor, reduced: &Tensor, coarse: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "spatial_gate";
    let (&[n, height, width, channels], &[coarse_n, _, _, coarse_channels]) = (&**x.shape(), &**coarse.shape()) else {
        return refuse!(OP, "wants images, got {:?} and {:?}", x.shape(), coarse.shape());
    };
    for other in [reduced, coarse] {
        same_device(OP, x.device(), other.device())?;
    }
    let shape = mix.shape();
    let fits = (coarse_n, coarse_channels, shape.out_channels) == (n, channels, channels)
        && **reduced.shape() == [n, height, width, shape.in_channels]
        && shape.kernel == [1; 2];
    if !fits {
        return refuse!(OP, "{shape:?}, {:?} and {:?} do not fit {:?}", reduced.shape(), coarse.shape(), x.shape());
    }
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device()
        && shape.in_channels == 16
        && x.dtype().size() == 2
    {
        crate::autograd::refuse_gradient(OP, "ops::conv2d", &[x, reduced, coarse])?;
        return crate::cuda::gate(gpu, mix.on_gpu()?, x, reduced, coarse);
    }
    let wide = resize(coarse, ResizeMode::Bilinear, [height, width])?;
    let sum = add(&mix.forward(reduced, Activation::Identity, None)?, &wide)?;
    mul(x, &activate(&sum, Activation::Sigmoid)?)
}

/// `wide(max_pool(half(reduced)))`, the attention's coarse map; pooling takes the largest of 7×7 at every third pixel. On a GPU in
/// one kernel where the shapes allow it.
///
/// # Errors
/// If shapes, types or devices do not fit each other.
pub fn spatial_coarse_map(half: &Conv2d, wide: &Conv2d, reduced: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = reduced.device()
        && let Some(y) = crate::cuda::coarse_map(gpu, half.on_gpu()?, wide.on_gpu()?, reduced)?
    {
        return Ok(y);
    }
    let pooled = max_pool2d(&half.forward(reduced, Activation::Identity, None)?, [7; 2], [3; 2], [0; 2])?;
    wide.forward(&pooled, Activation::Identity, None)
}

/// `y = second(activation(first(x)) + residual)` and `third(y)`: on a GPU in one kernel where the shapes allow it.
///
/// # Errors
/// If shapes, types or devices do not fit each other.
pub fn conv_chain(
    x: &Tensor,
    first: &Conv2d,
    activation: Activation,
    residual: &Tensor,
    [second, third]: [&Conv2d; 2],
) -> Result<(Tensor, Tensor), Error> {
    #[cfg(feature = "cuda")]
    if let (crate::Device::Cuda(_), Some(slope)) = (x.device(), activation.slope()) {
        let convs = (first.on_gpu()?, second.on_gpu()?, third.on_gpu()?);
        if let Some(pair) = convs.0.forward_chain(x, slope, residual, convs.1, convs.2)? {
            return Ok(pair);
        }
    }
    let y = second.forward(&first.forward(x, activation, Some(residual))?, Activation::Identity, None)?;
    let z = third.forward(&y, Activation::Identity, None)?;
    Ok((y, z))
}
