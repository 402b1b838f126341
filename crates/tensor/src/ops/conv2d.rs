//! Two-dimensional convolution with bias, activation and residual in one.

use super::image::{Image, image_mut, new_image};
use super::{Activation, ConvShape, activate, activation_backward, add, column_sums, output, same_device};
use crate::autograd::{record, refuse_gradient};
use crate::error::refuse;
use crate::{DType, Device, Dims, Error, Tensor};
use supple_kernels::activation::activate_in_place;
use supple_kernels::backward::activation::saves_output;
use supple_kernels::backward::conv as backward;
use supple_kernels::backward::pooling::Images;
use supple_kernels::conv::PackedConv;

const OP: &str = "conv2d";

/// A convolution's weights, packed for a device.
#[derive(Clone, Debug)]
pub struct Conv2d {
    device: Device,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    Cpu(std::sync::Arc<PackedConv>),
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<crate::cuda::Conv>),
}

impl Conv2d {
    /// Packs `weight` (`[out_channels, in_channels / groups, height, width]`) and `bias` (`[out_channels]`).
    ///
    /// # Errors
    /// If the shape is not sensible (a zero, channels that do not divide into the groups) or a slice has another length.
    pub fn new(device: &Device, shape: ConvShape, weight: &[f32], bias: Option<&[f32]>) -> Result<Conv2d, Error> {
        if !shape.is_valid() {
            return refuse!(OP, "{shape:?} is not sensible");
        }
        if shape.weight_len() != Some(weight.len()) || bias.is_some_and(|bias| bias.len() != shape.out_channels) {
            let bias = bias.map(<[f32]>::len);
            return refuse!(OP, "{} weights and {bias:?} biases for {shape:?}", weight.len());
        }
        let packed = match device {
            Device::Cpu(device) => Packed::Cpu(PackedConv::pack(device.cpu().isa, &shape, weight, bias).into()),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Packed::Cuda(crate::cuda::Conv::new(gpu, shape, weight, bias)?.into()),
        };
        Ok(Conv2d { device: device.clone(), packed })
    }

    /// Its channels, kernel, stride and so on.
    pub fn shape(&self) -> &ConvShape {
        match &self.packed {
            Packed::Cpu(packed) => packed.shape(),
            #[cfg(feature = "cuda")]
            Packed::Cuda(conv) => conv.shape(),
        }
    }

    /// The weights on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_gpu(&self) -> Result<&crate::cuda::Conv, Error> {
        match &self.packed {
            Packed::Cuda(conv) => Ok(conv),
            Packed::Cpu(_) => refuse!(OP, "operands live on different devices"),
        }
    }

    /// `x * W + b` in f32, whatever elements `x` has, with a pixel shuffle by `factor`: channel `(r * factor + q) * c + i` becomes
    /// channel `i` of sub-row `r` and sub-column `q`. (PyTorch's order is `(i * factor + r) * factor + q`.) The result,
    /// `[n, h * factor, w * factor, c]`, has no gaps.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if the channels are no multiple of `factor²`.
    pub fn forward_shuffled(&self, x: &Tensor, factor: usize) -> Result<Tensor, Error> {
        let square = factor.checked_mul(factor).filter(|&s| s > 0 && self.shape().out_channels.is_multiple_of(s));
        let Some(square) = square else {
            return refuse!(OP, "the channels of {:?} are no multiple of {factor} squared", self.shape());
        };
        same_device(OP, &self.device, x.device())?;
        #[cfg(feature = "cuda")]
        if let Packed::Cuda(conv) = &self.packed {
            return conv.forward_shuffled(x, factor);
        }
        let y = self.forward(x, Activation::Identity, None)?;
        let &[n, height, width, channels] = &**y.shape() else { unreachable!("a convolution's result") };
        let c = channels / square;
        let split = y.contiguous()?.reshape(&[n, height, width, factor, factor, c])?;
        split.transpose(2, 3)?.contiguous()?.reshape(&[n, height * factor, width * factor, c])
    }

    /// `activation(x * W + b) + residual` for `x` of shape `[n, h, w, in_channels]`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// If `x` is no image of that many channels or smaller than the kernel, or the residual has another shape.
    pub fn forward(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor, Error> {
        refuse_gradient(OP, "ops::conv2d", &[x, residual.unwrap_or(x)])?;
        same_device(OP, &self.device, x.device())?;
        #[cfg(feature = "cuda")]
        if let Packed::Cuda(conv) = &self.packed {
            let image = crate::cuda::Image::new(OP, x)?.size;
            let size = conv.shape().output_size(image.height, image.width);
            let Some((height, width)) = size.filter(|_| image.channels == conv.shape().in_channels) else {
                return refuse!(OP, "{:?} does not fit shape {:?}", conv.shape(), x.shape());
            };
            let shape = [image.n, height, width, conv.shape().out_channels];
            if let Some(residual) = residual {
                same_device(OP, &self.device, residual.device())?;
                if **residual.shape() != shape {
                    return refuse!(OP, "residual of shape {:?}, wants {shape:?}", residual.shape());
                }
                residual.expect_dtype(OP, x.dtype())?;
            }
            return conv.forward(x, [height, width], activation, residual);
        }
        let (conv, image) = (self.shape(), Image::new(OP, x)?);
        let size = conv.output_size(image.height, image.width).filter(|_| image.channels == conv.in_channels);
        let Some((height, width)) = size else {
            return refuse!(OP, "{conv:?} does not fit shape {:?}", x.shape());
        };
        let shape = [image.n, height, width, conv.out_channels];
        let residual = match residual {
            None => None,
            Some(residual) if **residual.shape() == shape => {
                same_device(OP, &self.device, residual.device())?;
                Some((residual, Image::new(OP, residual)?))
            }
            Some(residual) => return refuse!(OP, "residual of shape {:?}, wants {shape:?}", residual.shape()),
        };
        #[allow(irrefutable_let_patterns, reason = "there are GPUs with the feature `cuda`")]
        let Packed::Cpu(packed) = &self.packed else { return refuse!(OP, "operands live on different devices") };
        let cpu = self.device.kernels();
        let mut y = new_image(&self.device, shape)?;
        let floats = packed.scratch_len(cpu);
        let mut scratch = self.device.buffers().take(floats, &Dims::new(&[floats])?)?;
        let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
        let fused = activation.slope();
        for i in 0..image.n {
            let slope = fused.unwrap_or(1.0);
            let residual = residual.as_ref().filter(|_| fused.is_some()).map(|(_, image)| image.rows(i));
            let (rows, mut out) = (image.rows(i), image_mut(&mut y, i));
            packed.run(cpu, rows, image.height, &mut out, 0..height, slope, residual, scratch);
        }
        if fused.is_some() {
            return Ok(y);
        }
        let pixels = image.n * height * width;
        let stride = conv.out_channels.next_multiple_of(crate::ALIGNMENT);
        activate_in_place(cpu, activation, pixels, conv.out_channels, y.write(), stride);
        match residual {
            Some((residual, _)) => add(&y, residual),
            None => Ok(y),
        }
    }
}

/// `activation(x * weight + bias)` for `x` of shape `[n, h, w, in_channels]`, `weight` as [`Conv2d::new`] takes it, of shape
/// `[out_channels, in_channels / groups, height, width]`, and `bias` of `[out_channels]`: what [`Conv2d`] does, with gradients
/// and without weights packed beforehand. On a GPU weight and bias are of the type of `x`, or `f32`.
///
/// # Errors
/// If the shapes or element types do not fit each other.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: ConvShape,
    activation: Activation,
) -> Result<Tensor, Error> {
    check_parameters(x, weight, bias, &shape)?;
    // What cannot be undone from the output is not fused.
    let fused = if saves_output(activation) { activation } else { Activation::Identity };
    let y = convolved(&x.detach(), &weight.detach(), bias.map(Tensor::detach).as_ref(), shape, fused)?;
    let saved = y.detach();
    let all = [Some(x), Some(weight), bias];
    let all: Vec<&Tensor> = all.into_iter().flatten().collect();
    let y = record(OP, y, &all, move || {
        let (x, weight) = (x.detach(), weight.detach());
        move |grad, needed| {
            let before = match fused {
                Activation::Identity => grad.clone(),
                fused => activation_backward(grad, &saved, fused)?,
            };
            let size = [x.shape()[1], x.shape()[2]];
            let of_x = needed[0].then(|| conv2d_backward_input(&before, &weight, &shape, size)).transpose()?;
            let wanted = [needed[1], needed.get(2).copied().unwrap_or(false)];
            let of_parameters = parameter_gradients(&before, &x, &shape, weight.dtype(), wanted)?;
            Ok([of_x].into_iter().chain(of_parameters).take(needed.len()).collect())
        }
    });
    if fused == activation { Ok(y) } else { activate(&y, activation) }
}

fn convolved(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: ConvShape,
    activation: Activation,
) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device() {
        let y = crate::cuda::conv2d(gpu, x, weight, bias, &shape, activation.slope().unwrap_or(1.0), None)?;
        return if activation.slope().is_some() { Ok(y) } else { activate(&y, activation) };
    }
    let (weight, bias) = (weight.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    let bias = bias.as_ref().map(Tensor::as_slice).transpose()?;
    Conv2d::new(x.device(), shape, weight.as_slice()?, bias)?.forward(x, activation, None)
}

/// The gradients of weight and bias, of type `dtype`, as far as they are wanted.
pub(super) fn parameter_gradients(
    grad: &Tensor,
    x: &Tensor,
    shape: &ConvShape,
    dtype: DType,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2], Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device()
        && wanted[0]
    {
        let (weight, bias) = crate::cuda::conv2d_backward_parameters(gpu, grad, x, shape, dtype, wanted[1])?;
        return Ok([Some(weight), bias]);
    }
    let of_weight = wanted[0].then(|| conv2d_backward_weight(grad, x, shape)).transpose()?;
    let of_bias = wanted[1].then(|| column_sums(grad)?.to_dtype(dtype)).transpose()?;
    Ok([of_weight, of_bias])
}

/// Parameters are f32, or, on a GPU, of the type of the activations `x`.
pub(super) fn expect_parameter(x: &Tensor, parameter: &Tensor) -> Result<(), Error> {
    match x.device() {
        Device::Cpu(_) => parameter.expect_dtype(OP, DType::F32),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => crate::cuda::expect_parameter(OP, parameter, x.dtype()),
    }
}

/// Checks that weight and bias fit the shape and what they are used on.
pub(super) fn check_parameters(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: &ConvShape,
) -> Result<(), Error> {
    check_weight(x, weight, shape)?;
    let Some(bias) = bias else { return Ok(()) };
    same_device(OP, x.device(), bias.device())?;
    expect_parameter(x, bias)?;
    if bias.shape()[..] != [shape.out_channels] {
        return refuse!(OP, "a bias of shape {:?} for {shape:?}", bias.shape());
    }
    Ok(())
}

fn check_weight(x: &Tensor, weight: &Tensor, shape: &ConvShape) -> Result<(), Error> {
    same_device(OP, x.device(), weight.device())?;
    expect_parameter(x, weight)?;
    let [height, width] = shape.kernel;
    let wanted = [shape.out_channels, shape.in_channels / shape.groups.max(1), height, width];
    if !shape.is_valid() || weight.shape()[..] != wanted {
        return refuse!(OP, "weights of shape {:?} for {shape:?}", weight.shape());
    }
    Ok(())
}

/// The gradient of a convolution's input, an image of height and width `size`, from that of its output.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn conv2d_backward_input(
    grad: &Tensor,
    weight: &Tensor,
    shape: &ConvShape,
    size: [usize; 2],
) -> Result<Tensor, Error> {
    check_weight(grad, weight, shape)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = grad.device() {
        return crate::cuda::conv2d_backward_input(gpu, grad, weight, shape, size, crate::cuda::After::Nothing);
    }
    let image = Image::new("conv2d_backward_input", grad)?;
    if shape.output_size(size[0], size[1]) != Some((image.height, image.width)) {
        return refuse!("conv2d_backward_input", "{shape:?} of {size:?} does not give {:?}", grad.shape());
    }
    let weight = weight.contiguous()?;
    let mut reversed = vec![0.0; weight.elements()];
    backward::reversed_weights(shape, weight.as_slice()?, &mut reversed);
    let conv = Conv2d::new(grad.device(), backward::reversed_shape(shape), &reversed, None)?;
    let (spread_size, skip) = backward::spread_size(shape, size);
    if spread_size == [image.height, image.width] && shape.stride == [1, 1] && skip == [0, 0] {
        return conv.forward(grad, Activation::Identity, None);
    }
    let grad = Image::new("conv2d_backward_input", &grad.padded()?)?;
    let [height, width] = spread_size;
    let mut spread = new_image(grad.device(), [grad.n, height, width, grad.channels])?;
    let cpu = grad.device().kernels();
    backward::spread(cpu, grad.images(), grad.data(), shape.stride, skip, spread_size, spread.write());
    conv.forward(&spread, Activation::Identity, None)
}

/// The gradient of a convolution's weights, `[out_channels, in_channels / groups, height, width]`, in `f32`.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn conv2d_backward_weight(grad: &Tensor, x: &Tensor, shape: &ConvShape) -> Result<Tensor, Error> {
    const OP: &str = "conv2d_backward_weight";
    same_device(OP, grad.device(), x.device())?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device() {
        return Ok(crate::cuda::conv2d_backward_parameters(gpu, grad, x, shape, DType::F32, false)?.0);
    }
    let (image, grad) = (Image::new(OP, x)?, Image::new(OP, grad)?);
    let Images { n, height, width, channels, .. } = grad.images();
    let fits = shape.output_size(image.height, image.width) == Some((height, width));
    if !fits || image.n != n || image.channels != shape.in_channels || channels != shape.out_channels {
        return refuse!(OP, "{shape:?} does not take {:?} to {height}x{width} of {channels} channels", x.shape());
    }
    let device = image.device();
    let cpu = device.kernels();
    let floats = backward::weight_gradient_scratch(cpu.isa, shape, n * height);
    let mut scratch = device.buffers().take(floats, &Dims::new(&[floats])?)?;
    let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
    let inputs = shape.in_channels / shape.groups;
    let (mut y, _) = output(device, &[shape.out_channels, inputs, shape.kernel[0], shape.kernel[1]], false)?;
    let len = y.elements();
    let to = &mut y.write::<f32>()[..len];
    backward::weight_gradient(cpu, shape, image.images(), image.data(), grad.images(), grad.data(), to, scratch);
    Ok(y)
}
