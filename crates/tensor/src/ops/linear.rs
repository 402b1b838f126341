//! The linear layer: `activation(x · Wᵀ + b)`.

use super::conv2d::expect_parameter;
use super::{Activation, ConvShape, activate, column_sums, output, same_device};
use crate::autograd::{record, refuse_gradient};
use crate::error::refuse;
use crate::{DType, Device, Dims, Error, Tensor};
use supple_kernels::AlignedBuf;
use supple_kernels::activation::activate_in_place;
use supple_kernels::backward::conv::{weight_gradient, weight_gradient_scratch};
use supple_kernels::backward::pooling::Images;
use supple_kernels::gemm::{Epilogue, PackedMatrix, gemm};

/// Rows that a thread takes at a time: a multiple of every tile height of the product.
const ROWS: usize = 168;

/// A linear layer's weights, packed for a device.
#[derive(Clone, Debug)]
pub struct Linear {
    device: Device,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// The bias is padded to whole vectors; empty for none.
    Cpu(PackedMatrix, AlignedBuf),
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<crate::cuda::Linear>),
}

impl Linear {
    /// Packs `weight` (`[outputs, inputs]`) and `bias` (`[outputs]`).
    ///
    /// # Errors
    /// If the slices have other lengths.
    pub fn new(
        device: &Device,
        [outputs, inputs]: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Linear, Error> {
        if outputs.checked_mul(inputs) != Some(weight.len()) || bias.is_some_and(|bias| bias.len() != outputs) {
            let bias = bias.map(<[f32]>::len);
            return refuse!("linear", "{} weights and {bias:?} biases for shape [{outputs}, {inputs}]", weight.len());
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            let packed = Packed::Cuda(crate::cuda::Linear::new(gpu, [outputs, inputs], weight, bias)?.into());
            return Ok(Linear { device: device.clone(), packed });
        }
        let packed = PackedMatrix::pack(device.kernels().isa, inputs, outputs, |k, n| weight[n * inputs + k]);
        let mut padded = AlignedBuf::zeroed(bias.map_or(0, |_| packed.padded_columns()));
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Ok(Linear { device: device.clone(), packed: Packed::Cpu(packed, padded) })
    }

    /// `activation(x · Wᵀ + b)` for `x` of shape `[.., inputs]`; the result `[.., outputs]` has padded rows.
    ///
    /// # Errors
    /// If the last dimension of `x` is another, or its elements are not `f32`.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        refuse_gradient("linear", "ops::linear", &[x])?;
        same_device("linear", &self.device, x.device())?;
        let (inputs, outputs) = match &self.packed {
            Packed::Cpu(packed, _) => (packed.k(), packed.n()),
            #[cfg(feature = "cuda")]
            Packed::Cuda(layer) => {
                let [outputs, inputs] = layer.sizes();
                (inputs, outputs)
            }
        };
        if x.shape().last() != Some(&inputs) {
            return refuse!("linear", "wants [.., {inputs}], got shape {:?}", x.shape());
        }
        let mut shape = *x.shape();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let (packed, bias) = match &self.packed {
            Packed::Cpu(packed, bias) => (packed, bias),
            #[cfg(feature = "cuda")]
            Packed::Cuda(layer) => return layer.forward(x, activation),
        };
        let (x, rows) = x.to_rows("linear")?;
        let (x, rows) = if rows.stride < rows.len { x.padded()?.to_rows("linear")? } else { (x, rows) };
        let (mut y, out) = output(&self.device, &shape, true)?;
        if y.elements() == 0 {
            return Ok(y);
        }
        let (cpu, data) = (self.device.kernels(), x.data::<f32>());
        let stride = packed.n().next_multiple_of(crate::ALIGNMENT);
        let epilogue = Epilogue { bias, slope: activation.slope().unwrap_or(1.0), ..Epilogue::NONE };
        let to = &mut y.write::<f32>()[..out.rows * stride];
        cpu.pool.for_each_chunk(to, ROWS * stride, &|i, to| {
            let from = &data[i * ROWS * rows.stride..];
            gemm(to.len() / stride, from, rows.stride, packed, to, stride, &epilogue);
        });
        if activation.slope().is_none() {
            activate_in_place(cpu, activation, out.rows, out.len, to, stride);
        }
        Ok(y)
    }
}

/// `activation(x · weightᵀ + bias)` for `x` of shape `[.., inputs]`, `weight` of `[outputs, inputs]` and `bias` of `[outputs]`:
/// what [`Linear`] does, with gradients and without weights packed beforehand. On a GPU weight and bias are of the type of `x`,
/// or `f32`.
///
/// # Errors
/// If the shapes or element types do not fit each other.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor, Error> {
    const OP: &str = "linear";
    same_device(OP, x.device(), weight.device())?;
    expect_parameter(x, weight)?;
    let &[outputs, inputs] = &**weight.shape() else {
        return refuse!(OP, "wants weights [outputs, inputs], got shape {:?}", weight.shape());
    };
    if let Some(bias) = bias {
        same_device(OP, x.device(), bias.device())?;
        expect_parameter(x, bias)?;
        if bias.shape()[..] != [outputs] {
            return refuse!(OP, "a bias of shape {:?} for {outputs} outputs", bias.shape());
        }
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device()
        && !crate::autograd::is_recording(&[Some(x), Some(weight), bias].into_iter().flatten().collect::<Vec<_>>())
    {
        return crate::cuda::linear(gpu, x, weight, bias, activation);
    }
    // Weights of another type are converted once for both ways.
    let used = weight.detach().to_dtype(x.dtype())?;
    let y = product(&x.detach(), &used, bias.map(Tensor::detach).as_ref(), [outputs, inputs])?;
    let all = [Some(x), Some(weight), bias];
    let all: Vec<&Tensor> = all.into_iter().flatten().collect();
    let y = record(OP, y, &all, || {
        let (x, dtype) = (x.detach(), weight.dtype());
        move |grad, needed| {
            let of_x = needed[0].then(|| linear_backward_input(grad, &used)).transpose()?;
            let wanted = [needed[1], needed.get(2).copied().unwrap_or(false)];
            let of_parameters = parameter_gradients(grad, &x, dtype, wanted)?;
            Ok([of_x].into_iter().chain(of_parameters).take(needed.len()).collect())
        }
    });
    if activation == Activation::Identity { Ok(y) } else { activate(&y, activation) }
}

fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, [outputs, inputs]: [usize; 2]) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device() {
        return crate::cuda::linear(gpu, x, weight, bias, Activation::Identity);
    }
    let (weight, bias) = (weight.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    let bias = bias.as_ref().map(Tensor::as_slice).transpose()?;
    Linear::new(x.device(), [outputs, inputs], weight.as_slice()?, bias)?.forward(x, Activation::Identity)
}

/// `x` as an image of one row, and the 1×1 convolution that is the layer; `None` if there is nothing to compute.
#[cfg(feature = "cuda")]
fn as_image(x: &Tensor, [outputs, inputs]: [usize; 2]) -> Result<Option<(Tensor, ConvShape)>, Error> {
    if x.elements() == 0 || outputs == 0 {
        return Ok(None);
    }
    let image = x.detach().reshape(&[1, 1, x.elements() / inputs, inputs])?;
    Ok(Some((image, ConvShape::same(inputs, outputs, 1))))
}

/// The gradients of weight and bias, of type `dtype`, as far as they are wanted.
fn parameter_gradients(
    grad: &Tensor,
    x: &Tensor,
    dtype: DType,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2], Error> {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(gpu), Some(&inputs), Some(&outputs)) = (x.device(), x.shape().last(), grad.shape().last())
        && wanted[0]
        && let Some((image, conv)) = as_image(x, [outputs, inputs])?
    {
        if let Some(weight) = crate::cuda::linear_backward_weight(gpu, grad, x)? {
            let of_bias = wanted[1].then(|| column_sums(grad)?.to_dtype(dtype)).transpose()?;
            return Ok([Some(weight.to_dtype(dtype)?), of_bias]);
        }
        let grad = grad.reshape(&[1, 1, grad.elements() / outputs, outputs])?;
        let (weight, bias) = crate::cuda::conv2d_backward_parameters(gpu, &grad, &image, &conv, dtype, wanted[1])?;
        return Ok([Some(weight.reshape(&[outputs, inputs])?), bias]);
    }
    let of_weight = wanted[0].then(|| linear_backward_weight(grad, x)?.to_dtype(dtype)).transpose()?;
    let of_bias = wanted[1].then(|| column_sums(grad)?.to_dtype(dtype)).transpose()?;
    Ok([of_weight, of_bias])
}

/// The gradient of a linear layer's input, `[.., inputs]`: `grad · weight`.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn linear_backward_input(grad: &Tensor, weight: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = grad.device() {
        return crate::cuda::linear_backward_input(gpu, grad, weight);
    }
    let swapped = weight.transpose(0, 1)?.contiguous()?;
    let &[inputs, outputs] = &**swapped.shape() else { return refuse!("linear", "weights are no matrix") };
    Linear::new(grad.device(), [inputs, outputs], swapped.as_slice()?, None)?.forward(grad, Activation::Identity)
}

/// The gradient of a linear layer's weight, `[outputs, inputs]` in f32: `Σ grad · xᵀ` over all but the last dimension.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn linear_backward_weight(grad: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "linear_backward_weight";
    let (&[ref grad_outer @ .., outputs], &[ref outer @ .., inputs]) = (&**grad.shape(), &**x.shape()) else {
        return refuse!(OP, "wants [.., outputs] and [.., inputs], got {:?} and {:?}", grad.shape(), x.shape());
    };
    if grad_outer != outer {
        return refuse!(OP, "{:?} and {:?} have other rows", grad.shape(), x.shape());
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(_) = x.device() {
        return match as_image(x, [outputs, inputs])? {
            Some(_) => Ok(parameter_gradients(grad, x, DType::F32, [true, false])?[0].take().expect("wanted")),
            None => Tensor::zeros(x.device(), &[outputs, inputs], DType::F32),
        };
    }
    let ((x, x_rows), (grad, grad_rows)) = (x.padded()?.to_rows(OP)?, grad.padded()?.to_rows(OP)?);
    let (mut y, _) = output(x.device(), &[outputs, inputs], false)?;
    if x_rows.rows == 0 || y.elements() == 0 {
        y.write::<f32>().fill(0.0);
        return Ok(y);
    }
    // A 1×1 convolution over a picture one pixel wide, of as many rows as there are tokens.
    let stride = |len: usize| len.next_multiple_of(crate::ALIGNMENT);
    let image = |channels: usize| Images { n: 1, height: x_rows.rows, width: 1, channels, stride: stride(channels) };
    debug_assert!(x_rows.rows == 1 || (x_rows.stride == stride(inputs) && grad_rows.stride == stride(outputs)));
    let (cpu, shape) = (x.device().kernels(), ConvShape::same(inputs, outputs, 1));
    let floats = weight_gradient_scratch(cpu.isa, &shape, x_rows.rows);
    let mut scratch = x.device().buffers().take(floats, &Dims::new(&[floats])?)?;
    let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
    let (images, grads) = (image(inputs), image(outputs));
    let len = outputs * inputs;
    weight_gradient(cpu, &shape, images, x.data(), grads, grad.data(), &mut y.write::<f32>()[..len], scratch);
    Ok(y)
}
