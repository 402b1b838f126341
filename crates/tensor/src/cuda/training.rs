//! What training needs on a GPU beyond the forward pass: convolutions with weights as tensors, gradients, sums.
//!
//! Gradients have the element type of what they belong to: those of activations that of the activations, those of
//! parameters that of the parameters, which may be f32 where activations are f16 or bf16. Sums are in f32 and rounded once.

use super::{Image, activation_of, dtype_of, image_mut, like, new_image, read, rows, write};
use crate::error::refuse;
use crate::ops::{Activation, ConvShape, ResizeMode, is_padded};
use crate::{DType, Error, Layout, Tensor};
use supple_cuda as cuda;
use supple_cuda::conv::{Epilogue, PackedConv, Packing};
use supple_cuda::conv_backward;
use supple_cuda::elementwise::Function;
use supple_cuda::reduce::Over;
use supple_cuda::{Gpu, ImageSize};
use supple_kernels::backward::conv as geometry;
use supple_kernels::pooling::Pooling;

fn conv_shape(shape: &ConvShape) -> cuda::conv::ConvShape {
    let ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups } = *shape;
    cuda::conv::ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups }
}

/// Checks that parameters may go with activations: f32, or the activations' type.
pub(crate) fn expect_parameter(op: &'static str, parameter: &Tensor, activations: DType) -> Result<(), Error> {
    if parameter.dtype() == DType::F32 { Ok(()) } else { parameter.expect_dtype(op, activations) }
}

/// `leaky(x * weight + bias) + residual`; the caller checked that weight and bias fit the shape.
pub(crate) fn conv2d(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: &ConvShape,
    slope: f32,
    residual: Option<&Tensor>,
) -> Result<Tensor, Error> {
    const OP: &str = "conv2d";
    let image = Image::new(OP, x)?;
    let size = shape.output_size(image.size.height, image.size.width);
    let Some((height, width)) = size.filter(|_| image.size.channels == shape.in_channels) else {
        return refuse!(OP, "{shape:?} does not fit shape {:?}", x.shape());
    };
    let weight = weight.contiguous()?;
    let bias = bias.map(|bias| bias.contiguous()?.to_dtype(weight.dtype())).transpose()?;
    let (shape, from) = (conv_shape(shape), bias.as_ref().map(read).transpose()?);
    let packed = PackedConv::pack(gpu, Packing::Alone, dtype_of(x.dtype()), shape, read(&weight)?, from)?;
    let y = new_image(x, [image.size.n, height, width, shape.out_channels], x.dtype())?;
    let residual = residual.map(|residual| Image::new(OP, residual)).transpose()?;
    let residual = residual.as_ref().map(Image::view).transpose()?;
    packed.run(gpu, image.view()?, image_mut(&y)?, &Epilogue { slope, residual, ..Epilogue::NONE })?;
    Ok(y)
}

/// What becomes of the gradient of a convolution's input as it is stored.
#[derive(Clone, Copy)]
pub(crate) enum After<'a> {
    Nothing,
    /// A tensor is added.
    Add(&'a Tensor),
    /// It goes through a leaky ReLU of this slope, whose output the tensor is.
    Leaky(&'a Tensor, f32),
}

/// The gradient of a convolution's input of height and width `size`.
pub(crate) fn conv2d_backward_input(
    gpu: &Gpu,
    grad: &Tensor,
    weight: &Tensor,
    shape: &ConvShape,
    size: [usize; 2],
    after: After<'_>,
) -> Result<Tensor, Error> {
    const OP: &str = "conv2d_backward_input";
    let mut image = Image::new(OP, grad)?;
    let ImageSize { n, height, width, channels, .. } = image.size;
    if shape.output_size(size[0], size[1]) != Some((height, width)) || channels != shape.out_channels {
        return refuse!(OP, "{shape:?} of {size:?} does not give {:?}", grad.shape());
    }
    let mut reversed = geometry::reversed_shape(shape);
    let (mut spread_size, skip) = geometry::spread_size(shape, size);
    let mut skip = skip.map(|n| n as isize);
    if spread_size != [height, width] || shape.stride != [1, 1] || skip != [0, 0] {
        // Padding that is spread too makes any 3×3 convolution the one that has the fastest kernel.
        if shape.kernel == [3; 2] && shape.dilation == [1; 2] && !reversed.padding.contains(&0) {
            (0..2).for_each(|i| skip[i] += 1 - reversed.padding[i] as isize);
            (spread_size, reversed.padding) = (size, [1; 2]);
        }
        let spread = new_image(grad, [n, spread_size[0], spread_size[1], channels], grad.dtype())?;
        conv_backward::spread(gpu, shape.stride, skip, image.view()?, image_mut(&spread)?)?;
        image = Image::new(OP, &spread)?;
    }
    let weight = weight.contiguous()?;
    let packed = PackedConv::pack_reversed(gpu, dtype_of(grad.dtype()), conv_shape(&reversed), read(&weight)?)?;
    let y = new_image(grad, [n, size[0], size[1], shape.in_channels], grad.dtype())?;
    let (other, slope, is_mask) = match after {
        After::Nothing => (None, 1.0, false),
        After::Add(other) => (Some(other), 1.0, false),
        After::Leaky(output, slope) => (Some(output), slope, true),
    };
    let other = other.map(|other| Image::new(OP, other)).transpose()?;
    let residual = other.as_ref().map(Image::view).transpose()?;
    let epilogue = Epilogue { slope, residual, is_mask, ..Epilogue::NONE };
    packed.run(gpu, image.view()?, image_mut(&y)?, &epilogue)?;
    Ok(y)
}

/// The gradients of a convolution's weights and, if wanted, its bias, of type `dtype`.
pub(crate) fn conv2d_backward_parameters(
    gpu: &Gpu,
    grad: &Tensor,
    x: &Tensor,
    shape: &ConvShape,
    dtype: DType,
    with_bias: bool,
) -> Result<(Tensor, Option<Tensor>), Error> {
    const OP: &str = "conv2d_backward_weight";
    let (image, grad) = (Image::new(OP, x)?, Image::new(OP, grad)?);
    let new = |shape: &[usize]| Tensor::unspecified(x.device(), Layout::contiguous(shape)?, dtype);
    let inputs = shape.in_channels / shape.groups.max(1);
    let weight = new(&[shape.out_channels, inputs, shape.kernel[0], shape.kernel[1]])?;
    let bias = with_bias.then(|| new(&[shape.out_channels])).transpose()?;
    let to_bias = bias.as_ref().map(write).transpose()?;
    conv_backward::weight_gradient(gpu, conv_shape(shape), image.view()?, grad.view()?, write(&weight)?, to_bias)?;
    Ok((weight, bias))
}

/// The gradient of an activation's input.
pub(crate) fn activation_backward(gpu: &Gpu, grad: &Tensor, saved: &Tensor, how: Activation) -> Result<Tensor, Error> {
    const OP: &str = "activation_backward";
    saved.expect_dtype(OP, grad.dtype())?;
    let ((grad, grad_rows), (saved, saved_rows)) = (rows(OP, grad)?, rows(OP, saved)?);
    let (y, out) = like(&grad, grad.shape(), is_padded(&grad_rows) || is_padded(&saved_rows))?;
    let (mut strides, mut shape) = ([grad_rows.stride, saved_rows.stride, out.stride], [out.rows, out.len]);
    if let Some(whole) = super::together(&[(&grad, &grad_rows), (&saved, &saved_rows), (&y, &out)]) {
        (strides, shape) = ([whole; 3], [1, whole]);
    }
    let (a, b, to) = ((read(&grad)?, strides[0]), (read(&saved)?, strides[1]), (write(&y)?, strides[2]));
    cuda::elementwise::activation_backward(gpu, activation_of(how), shape, a, b, to)?;
    Ok(y)
}

/// The gradients of `x * sigmoid(mask)`, of both.
pub(crate) fn gate_backward(gpu: &Gpu, grad: &Tensor, x: &Tensor, mask: &Tensor) -> Result<[Tensor; 2], Error> {
    const OP: &str = "sigmoid_gate";
    let all = [rows(OP, grad)?, rows(OP, x)?, rows(OP, mask)?];
    // Padding is gone through as well, so that rows are one.
    let (padded, alike) = (is_padded(&all[0].1), all.iter().all(|(_, rows)| *rows == all[0].1));
    let padded = padded && alike;
    let all = if alike && (padded || all[0].0.layout().is_contiguous()) {
        all.map(|(x, _)| x)
    } else {
        [grad.contiguous()?, x.contiguous()?, mask.contiguous()?]
    };
    let (of_x, out) = like(&all[0], grad.shape(), padded)?;
    let (of_mask, _) = like(&all[0], grad.shape(), padded)?;
    let (from, to) = ([read(&all[1])?, read(&all[2])?], [write(&of_x)?, write(&of_mask)?]);
    cuda::elementwise::gate_backward(gpu, out.extent(), read(&all[0])?, from, to)?;
    Ok([of_x, of_mask])
}

/// A function of each element.
pub(crate) fn function(gpu: &Gpu, op: &'static str, how: Function, x: &Tensor) -> Result<Tensor, Error> {
    let (x, from) = rows(op, x)?;
    let (y, out) = like(&x, x.shape(), is_padded(&from))?;
    let to = (write(&y)?, out.stride);
    cuda::elementwise::function(gpu, how, [out.rows, out.len], (read(&x)?, from.stride), to)?;
    Ok(y)
}

/// Writes `value` to every element of a tensor that was just made.
pub(crate) fn fill(gpu: &Gpu, to: &Tensor, value: f32) -> Result<(), Error> {
    Ok(cuda::elementwise::fill(gpu, to.elements(), value, write(to)?)?)
}

/// `factor · Σ x` over the rows, the columns, or all of `x` as a matrix of its last dimension; of `shape`.
pub(crate) fn sum(
    gpu: &Gpu,
    op: &'static str,
    over: Over,
    factor: f32,
    x: &Tensor,
    shape: &[usize],
) -> Result<Tensor, Error> {
    let (x, from) = rows(op, x)?;
    let y = Tensor::unspecified(x.device(), Layout::contiguous(shape)?, x.dtype())?;
    cuda::reduce::sum(gpu, over, factor, [from.rows, from.len], (read(&x)?, from.stride), write(&y)?)?;
    Ok(y)
}

/// The gradient of the input of a softmax, of which the output was saved, or of an L2 normalisation with the least norm
/// `epsilon`, of which the input was.
pub(crate) fn normalize_backward(
    gpu: &Gpu,
    op: &'static str,
    l2: Option<f32>,
    grad: &Tensor,
    saved: &Tensor,
) -> Result<Tensor, Error> {
    let how = l2.map_or(cuda::backward::Normalized::Softmax, |epsilon| cuda::backward::Normalized::L2 { epsilon });
    normalized(gpu, op, how, grad, saved)
}

fn normalized(
    gpu: &Gpu,
    op: &'static str,
    how: cuda::backward::Normalized<'_>,
    grad: &Tensor,
    saved: &Tensor,
) -> Result<Tensor, Error> {
    let ((grad, grad_rows), (saved, saved_rows)) = (rows(op, grad)?, rows(op, saved)?);
    let grad = if grad_rows.rows > 1 && grad_rows.stride < grad_rows.len { grad.contiguous()? } else { grad };
    let grad_rows = grad.layout().rows().unwrap_or(grad_rows);
    let (y, out) = like(&grad, grad.shape(), is_padded(&grad_rows) || is_padded(&saved_rows))?;
    let (from, kept) = ((read(&grad)?, grad_rows.stride), (read(&saved)?, saved_rows.stride));
    cuda::backward::normalize(gpu, how, [out.rows, out.len], from, kept, (write(&y)?, out.stride))?;
    Ok(y)
}

/// Gradients of a layer norm's input, weight and bias, the last two of type `dtype`.
pub(crate) fn layer_norm_backward(
    gpu: &Gpu,
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    dtypes: [DType; 2],
) -> Result<[Tensor; 3], Error> {
    const OP: &str = "layer_norm_backward";
    let weight = weight.contiguous()?.to_dtype(DType::F32)?;
    let len = weight.elements();
    let both = Tensor::unspecified(x.device(), Layout::contiguous(&[2, len])?, DType::F32)?;
    let ((given, grad_rows), (from, x_rows)) = (rows(OP, grad)?, rows(OP, x)?);
    let of_x = if super::is_narrow(&given, &grad_rows) && super::is_narrow(&from, &x_rows) {
        let (y, out) = like(&from, from.shape(), true)?;
        let operands = ((read(&given)?, grad_rows.stride), (read(&from)?, x_rows.stride));
        let (shape, to) = ([out.rows, out.len], (write(&y)?, out.stride));
        cuda::layer_norm::backward(gpu, shape, epsilon, operands, read(&weight)?, to, write(&both)?)?;
        y
    } else {
        let how = cuda::backward::Normalized::Layer { weight: read(&weight)?, epsilon, parameters: write(&both)? };
        normalized(gpu, OP, how, grad, x)?
    };
    let part = |i: usize| both.narrow(0, i, 1)?.reshape(&[len])?.to_dtype(dtypes[i]);
    Ok([of_x, part(0)?, part(1)?])
}

/// Gradients of an RMS norm's input and weight, the latter of type `dtype`.
pub(crate) fn rms_norm_backward(
    gpu: &Gpu,
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    dtype: DType,
) -> Result<[Tensor; 2], Error> {
    let weight = weight.contiguous()?.to_dtype(DType::F32)?;
    let len = weight.elements();
    let both = Tensor::unspecified(x.device(), Layout::contiguous(&[2, len])?, DType::F32)?;
    let how = cuda::backward::Normalized::Rms { weight: read(&weight)?, epsilon, parameters: write(&both)? };
    let of_x = normalized(gpu, "rms_norm_backward", how, grad, x)?;
    Ok([of_x, both.narrow(0, 0, 1)?.reshape(&[len])?.to_dtype(dtype)?])
}

/// `activation(gate) * up`, for a SiLU, or a GELU by `tanh`; shapes were checked.
pub(crate) fn gated(gpu: &Gpu, gate: &Tensor, up: &Tensor, gelu: bool) -> Result<Tensor, Error> {
    use super::Binary;
    super::binary(gpu, "gated", if gelu { Binary::GeluTanhMul } else { Binary::SiluMul }, gate, up)
}

/// The gradients of [`gated`], of both operands.
pub(crate) fn gated_backward(
    gpu: &Gpu,
    grad: &Tensor,
    [gate, up]: [&Tensor; 2],
    gelu: bool,
) -> Result<[Tensor; 2], Error> {
    let all = [grad.contiguous()?, gate.contiguous()?, up.contiguous()?];
    let new = || Tensor::unspecified(grad.device(), Layout::contiguous(grad.shape())?, grad.dtype());
    let results = [new()?, new()?];
    let (from, to) = ([read(&all[1])?, read(&all[2])?], [write(&results[0])?, write(&results[1])?]);
    cuda::elementwise::gated_backward(gpu, gelu, grad.elements(), read(&all[0])?, from, to)?;
    Ok(results)
}

/// The gradient of a SiLU's input, which was saved.
pub(crate) fn silu_backward(gpu: &Gpu, grad: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "silu_backward";
    let ((grad, grad_rows), (x, x_rows)) = (rows(OP, grad)?, rows(OP, x)?);
    let (y, out) = like(&grad, grad.shape(), is_padded(&grad_rows) || is_padded(&x_rows))?;
    let (a, b) = ((read(&grad)?, grad_rows.stride), (read(&x)?, x_rows.stride));
    let (how, to) = (cuda::elementwise::Activation::Silu, (write(&y)?, out.stride));
    cuda::elementwise::activation_backward(gpu, how, [out.rows, out.len], a, b, to)?;
    Ok(y)
}

/// The gradient of a pooling's input.
pub(crate) fn pool2d_backward(gpu: &Gpu, grad: &Tensor, x: &Tensor, pooling: &Pooling) -> Result<Tensor, Error> {
    const OP: &str = "pool2d_backward";
    let (image, grad) = (Image::new(OP, x)?, Image::new(OP, grad)?);
    let ImageSize { n, height, width, channels, .. } = image.size;
    let y = new_image(x, [n, height, width, channels], x.dtype())?;
    let window = [pooling.kernel, pooling.stride, pooling.padding];
    let kind = super::pooling_kind(pooling.kind);
    cuda::backward::pool(gpu, kind, window, image.view()?, grad.view()?, image_mut(&y)?)?;
    Ok(y)
}

/// The gradient of a resize's input, of `shape`.
pub(crate) fn resize_backward(gpu: &Gpu, grad: &Tensor, mode: ResizeMode, shape: [usize; 4]) -> Result<Tensor, Error> {
    let image = Image::new("resize_backward", grad)?;
    let y = new_image(grad, shape, grad.dtype())?;
    cuda::backward::resize(gpu, super::resize_mode(mode), image.view()?, image_mut(&y)?)?;
    Ok(y)
}

/// A pixel shuffle to an image of `shape`, undone.
pub(crate) fn pixel_unshuffle(gpu: &Gpu, x: &Tensor, factor: usize, shape: [usize; 4]) -> Result<Tensor, Error> {
    const OP: &str = "pixel_unshuffle";
    let y = new_image(x, shape, x.dtype())?;
    if y.elements() > 0 {
        let (x, size) = super::any_image(OP, x)?;
        cuda::backward::pixel_unshuffle(gpu, factor, cuda::Image { elements: read(&x)?, size }, image_mut(&y)?)?;
    }
    Ok(y)
}

/// Rows `numbers` of `table`; the result has `shape`.
pub(crate) fn embedding(gpu: &Gpu, table: &Tensor, numbers: &Tensor, shape: &[usize]) -> Result<Tensor, Error> {
    let (table, numbers) = (table.contiguous()?, numbers.contiguous()?);
    let y = Tensor::unspecified(table.device(), Layout::contiguous(shape)?, table.dtype())?;
    let sizes = [table.shape()[0], table.shape()[1], numbers.elements()];
    cuda::tokens::embedding(gpu, sizes, read(&table)?, read(&numbers)?, write(&y)?)?;
    Ok(y)
}

/// The gradient of an embedding's table of `[rows, width]`.
pub(crate) fn embedding_backward(
    gpu: &Gpu,
    grad: &Tensor,
    numbers: &Tensor,
    [rows, width]: [usize; 2],
) -> Result<Tensor, Error> {
    let (grad, numbers) = (grad.contiguous()?, numbers.contiguous()?);
    let y = Tensor::unspecified(grad.device(), Layout::contiguous(&[rows, width])?, grad.dtype())?;
    let sizes = [rows, width, numbers.elements()];
    cuda::tokens::embedding_backward(gpu, sizes, read(&grad)?, read(&numbers)?, write(&y)?)?;
    Ok(y)
}

/// The sum of the cross-entropies of rows, in f32, and its gradient, both times `factor`. Targets (`u32`) that are no class
/// give NaN, but for those that do not count.
pub(crate) fn cross_entropy(
    gpu: &Gpu,
    logits: &Tensor,
    targets: &Tensor,
    factor: f32,
) -> Result<(Tensor, Tensor), Error> {
    const OP: &str = "cross_entropy";
    let targets = targets.contiguous()?;
    let (logits, from) = rows(OP, logits)?;
    let new = |shape: &[usize], dtype| Tensor::unspecified(logits.device(), Layout::contiguous(shape)?, dtype);
    let (losses, grad) = (new(&[from.rows], DType::F32)?, new(logits.shape(), logits.dtype())?);
    let (shape, scores) = ([from.rows, from.len], (read(&logits)?, from.stride));
    cuda::tokens::cross_entropy(gpu, shape, factor, scores, read(&targets)?, write(&losses)?, write(&grad)?)?;
    Ok((sum(gpu, OP, Over::All, factor, &losses, &[])?, grad))
}
