//! Convolutions in a row with a way around them.
//!
//! ```text
//! y = x + leaky(conv_n(.. leaky(conv_1(x))))
//! ```
//!
//! On a GPU this is one node of the graph: each gradient goes through the leaky ReLU before it as the convolution that makes it
//! stores it, and that of the way around is added by the last one.

use super::{Activation, ConvShape, add, conv2d};
#[cfg(feature = "cuda")]
use crate::autograd::{no_grad, record};
use crate::error::refuse;
use crate::{Error, Tensor};

/// `x` plus what becomes of it in some convolutions in a row, each followed by the same leaky ReLU. A layer is its weight, its
/// bias and its shape; see [`conv2d`].
///
/// # Errors
/// If shapes, element types or devices do not fit each other.
pub fn residual_convs(x: &Tensor, layers: &[(&Tensor, &Tensor, ConvShape)], slope: f32) -> Result<Tensor, Error> {
    let how = Activation::LeakyRelu(slope);
    let run =
        |x: &Tensor, &(weight, bias, shape): &(&Tensor, &Tensor, ConvShape)| conv2d(x, weight, Some(bias), shape, how);
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device()
        && slope > 0.0
        && !layers.is_empty()
    {
        // What goes into each layer, and the last one's output.
        let mut steps = vec![x.detach()];
        no_grad(|| {
            for layer in layers {
                let y = run(steps.last().expect("begun with x"), layer)?;
                steps.push(y);
            }
            Ok::<(), Error>(())
        })?;
        let last = steps.last().expect("begun with x");
        if last.shape() != x.shape() {
            return refuse!("residual_convs", "{:?} becomes {:?}", x.shape(), last.shape());
        }
        let y = no_grad(|| add(last, &x.detach()))?;
        let inputs: Vec<&Tensor> = [x].into_iter().chain(layers.iter().flat_map(|l| [l.0, l.1])).collect();
        return Ok(record("residual_convs", y, &inputs, || {
            let layers: Vec<(Tensor, ConvShape)> = layers.iter().map(|l| (l.0.detach(), l.2)).collect();
            let gpu = gpu.clone();
            move |grad, needed| backward(&gpu, grad, &steps, &layers, slope, needed)
        }));
    }
    let mut y = x.clone();
    for layer in layers {
        y = run(&y, layer)?;
    }
    if y.shape() != x.shape() {
        return refuse!("residual_convs", "{:?} becomes {:?}", x.shape(), y.shape());
    }
    add(&y, x)
}

/// `x * weight + bias + other`: a [`conv2d`] with what goes around it. On a GPU the sum is taken as the convolution's result is stored.
///
/// # Errors
/// If shapes, element types or devices do not fit each other.
pub fn conv2d_add(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: ConvShape,
    other: &Tensor,
) -> Result<Tensor, Error> {
    const OP: &str = "conv2d_add";
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        super::conv2d::check_parameters(x, weight, bias, &shape)?;
        super::same_device(OP, x.device(), other.device())?;
        let plain = bias.map(Tensor::detach);
        let (from, of) = (x.detach(), weight.detach());
        let y = crate::cuda::conv2d(gpu, &from, &of, plain.as_ref(), &shape, 1.0, Some(&other.detach()))?;
        let all: Vec<&Tensor> = [Some(x), Some(weight), Some(other), bias].into_iter().flatten().collect();
        return Ok(record(OP, y, &all, || {
            let gpu = gpu.clone();
            move |grad: &Tensor, needed: &[bool]| {
                let size = [from.shape()[1], from.shape()[2]];
                let after = crate::cuda::After::Nothing;
                let of_x = needed[0]
                    .then(|| crate::cuda::conv2d_backward_input(&gpu, grad, &of, &shape, size, after))
                    .transpose()?;
                let wanted = [needed[1], needed.get(3).copied().unwrap_or(false)];
                let [of_weight, of_bias] = super::conv2d::parameter_gradients(grad, &from, &shape, of.dtype(), wanted)?;
                let given = [of_x, of_weight, needed[2].then(|| grad.clone()), of_bias];
                Ok(given.into_iter().take(needed.len()).collect())
            }
        }));
    }
    let y = conv2d(x, weight, bias, shape, Activation::Identity)?;
    if y.shape() != other.shape() {
        return refuse!(OP, "{:?} and {:?} differ", y.shape(), other.shape());
    }
    add(&y, other)
}

#[cfg(feature = "cuda")]
fn backward(
    gpu: &supple_cuda::Gpu,
    grad: &Tensor,
    steps: &[Tensor],
    layers: &[(Tensor, ConvShape)],
    slope: f32,
    needed: &[bool],
) -> Result<Vec<Option<Tensor>>, Error> {
    use crate::cuda::{After, conv2d_backward_input, conv2d_backward_parameters};
    let how = Activation::LeakyRelu(slope);
    let mut before = super::activation_backward(grad, &steps[layers.len()], how)?;
    let mut given = vec![None; needed.len()];
    for (i, (weight, shape)) in layers.iter().enumerate().rev() {
        let x = &steps[i];
        if needed[1 + 2 * i] || needed[2 + 2 * i] {
            let (of_weight, of_bias) =
                conv2d_backward_parameters(gpu, &before, x, shape, weight.dtype(), needed[2 + 2 * i])?;
            (given[1 + 2 * i], given[2 + 2 * i]) = (Some(of_weight), of_bias);
        }
        if i == 0 && !needed[0] {
            break;
        }
        let after = if i == 0 { After::Add(grad) } else { After::Leaky(x, slope) };
        before = conv2d_backward_input(gpu, &before, weight, shape, [x.shape()[1], x.shape()[2]], after)?;
    }
    given[0] = needed[0].then_some(before);
    Ok(given)
}
