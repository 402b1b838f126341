//! Operators on NVIDIA GPUs: shapes are checked as on the CPU, kernels and launchers are `supple-cuda`'s.
//!
//! Elements are f32, f16 or bf16; sums are in f32.

mod attention;
pub(crate) mod batches;
mod gates;
mod linear;
pub(crate) mod padded_conv;
pub(crate) mod patch_transformer;
pub(crate) mod pictures;
mod training;

pub(crate) use attention::{attention, rms_norm, rope, silu};
pub(crate) use gates::{attends, channel_attention, channel_attention_backward, gelu_gate, gelu_gate_backward};
pub(crate) use linear::{Linear, linear, linear_backward_input, linear_backward_weight};
pub(crate) use training::*;

use crate::error::refuse;
use crate::ops::{Activation, ConvShape, ResizeMode};
use crate::{ALIGNMENT, DType, Error, Layout, RowLayout, Tensor};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use supple_cuda as cuda;
use supple_cuda::conv::{PackedConv, Packing};
use supple_cuda::elementwise::Binary;
use supple_cuda::{Elements, ElementsMut, Gpu, ImageSize, Memory};
use supple_kernels::pooling::{Pooling, PoolingKind};

/// Element types as the launchers call them.
pub(crate) fn dtype_of(dtype: DType) -> cuda::DType {
    match dtype {
        DType::F32 => cuda::DType::F32,
        DType::F16 => cuda::DType::F16,
        DType::BF16 => cuda::DType::BF16,
        DType::I8 => cuda::DType::I8,
        DType::U8 => cuda::DType::U8,
        DType::I32 => cuda::DType::I32,
        DType::U32 => cuda::DType::U32,
    }
}

fn activation_of(activation: Activation) -> cuda::elementwise::Activation {
    use cuda::elementwise::Activation as To;
    match activation {
        Activation::Identity => To::Identity,
        Activation::Relu => To::Relu,
        Activation::LeakyRelu(slope) => To::LeakyRelu(slope),
        Activation::Sigmoid => To::Sigmoid,
        Activation::Tanh => To::Tanh,
        Activation::Gelu => To::Gelu,
    }
}

/// Refuses tensors that a gradient is wanted for: weights are packed once.
fn without_gradient(op: &'static str, inputs: &[&Tensor]) -> Result<(), Error> {
    crate::autograd::refuse_gradient(op, "ops::conv2d", inputs)
}

/// The elements of a tensor, to read.
fn read(x: &Tensor) -> Result<Elements<'_>, Error> {
    Ok(Elements::new(x.memory()?, x.layout().offset(), dtype_of(x.dtype())))
}

/// The elements of a tensor that was just made, to write.
fn write(y: &Tensor) -> Result<ElementsMut<'_>, Error> {
    Ok(ElementsMut::new(y.memory()?, y.layout().offset(), dtype_of(y.dtype())))
}

/// Copies `from` into the buffer of `to`, laid out as `layout`.
pub(crate) fn copy(gpu: &Gpu, from: &Tensor, to: &Tensor, layout: &Layout) -> Result<(), Error> {
    let target = ElementsMut::new(to.memory()?, layout.offset(), dtype_of(to.dtype()));
    Ok(cuda::copy::strided(gpu, from.shape(), (read(from)?, from.layout().strides()), (target, layout.strides()))?)
}

/// The tensor with elements of another type.
pub(crate) fn convert(gpu: &Gpu, x: &Tensor, dtype: DType) -> Result<Tensor, Error> {
    // Padding is converted along, so that images stay as they are.
    let padded = x.layout().rows().filter(crate::ops::is_padded);
    let x = if padded.is_some() { x.clone() } else { x.contiguous()? };
    let layout = if padded.is_some() { Layout::padded(x.shape())? } else { Layout::contiguous(x.shape())? };
    let to = Tensor::unspecified(x.device(), layout, dtype)?;
    let elements = match padded {
        Some(rows) => rows.extent(),
        None => x.elements(),
    };
    cuda::copy::convert(gpu, elements, read(&x)?, write(&to)?)?;
    Ok(to)
}

/// The tensor as rows of floats, copied if it is not that.
fn rows(op: &'static str, x: &Tensor) -> Result<(Tensor, RowLayout), Error> {
    if !cuda::elementwise::is_float(dtype_of(x.dtype())) {
        return Err(Error::DType { op, wanted: DType::F32, found: x.dtype() });
    }
    if let Some(rows) = x.layout().rows() {
        return Ok((x.clone(), rows));
    }
    let copy = x.copied(Layout::contiguous(x.shape())?)?;
    let rows = copy.layout().rows().expect("contiguous layouts consist of rows");
    Ok((copy, rows))
}

/// The tensor with rows that kernels go through in vectors, copied if they are not, and their distance.
fn image_rows(op: &'static str, x: &Tensor) -> Result<(Tensor, usize), Error> {
    let (x, from) = rows(op, x)?;
    let aligned = |n: usize| n.is_multiple_of(ALIGNMENT);
    if from.rows > 1 && aligned(from.stride) && from.stride >= from.len && aligned(x.layout().offset()) {
        return Ok((x, from.stride));
    }
    Ok((x.copied(Layout::padded(x.shape())?)?, from.len.next_multiple_of(ALIGNMENT)))
}

/// The length of the one row that all are, padding included, if that is little and theirs is the same.
fn together(all: &[(&Tensor, &RowLayout)]) -> Option<usize> {
    let (_, first) = all.first()?;
    let whole = first.rows * first.stride;
    let alike = |(x, rows): &(&Tensor, &RowLayout)| *rows == *first && x.reach() >= whole;
    let is_little = crate::ops::is_padded(first) && first.stride * 3 <= first.len * 4;
    (is_little && all.iter().all(alike)).then_some(whole)
}

/// A new tensor like `x`, padded if the rows are, and its rows.
fn like(x: &Tensor, shape: &[usize], padded: bool) -> Result<(Tensor, RowLayout), Error> {
    let layout = if padded { Layout::padded(shape)? } else { Layout::contiguous(shape)? };
    let rows = layout.rows().expect("new layouts consist of rows");
    Ok((Tensor::unspecified(x.device(), layout, x.dtype())?, rows))
}

/// `how(a, b)` for operands that were repeated to one shape.
pub(crate) fn binary(gpu: &Gpu, op: &'static str, how: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    if a.dtype() != b.dtype() {
        return Err(Error::DType { op, wanted: a.dtype(), found: b.dtype() });
    }
    let ((a, a_rows), (b, b_rows)) = (rows(op, a)?, rows(op, b)?);
    let padded = crate::ops::is_padded(&a_rows) || crate::ops::is_padded(&b_rows);
    let (y, out) = like(&a, a.shape(), padded)?;
    let (mut strides, mut shape) = ([a_rows.stride, b_rows.stride, out.stride], [out.rows, out.len]);
    if let Some(whole) = together(&[(&a, &a_rows), (&b, &b_rows), (&y, &out)]) {
        (strides, shape) = ([whole; 3], [1, whole]);
    }
    let to = (write(&y)?, strides[2]);
    cuda::elementwise::binary(gpu, how, shape, (read(&a)?, strides[0]), (read(&b)?, strides[1]), to)?;
    Ok(y)
}

/// `activation(factor * x)`.
pub(crate) fn unary(
    gpu: &Gpu,
    op: &'static str,
    activation: Activation,
    factor: f32,
    x: &Tensor,
) -> Result<Tensor, Error> {
    let (x, from) = rows(op, x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let (mut strides, mut shape) = ([from.stride, out.stride], [out.rows, out.len]);
    if let Some(whole) = together(&[(&x, &from), (&y, &out)]) {
        (strides, shape) = ([whole; 2], [1, whole]);
    }
    let (how, to) = (activation_of(activation), (write(&y)?, strides[1]));
    cuda::elementwise::unary(gpu, how, factor, shape, (read(&x)?, strides[0]), to)?;
    Ok(y)
}

/// Softmax, or L2 normalisation with the least norm `epsilon`, over the last dimension.
pub(crate) fn normalize(gpu: &Gpu, op: &'static str, l2: Option<f32>, x: &Tensor) -> Result<Tensor, Error> {
    let how =
        l2.map_or(cuda::normalize::Normalization::Softmax, |epsilon| cuda::normalize::Normalization::L2 { epsilon });
    let (x, from) = rows(op, x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let shape = [out.rows, out.len];
    cuda::normalize::normalize(gpu, how, shape, (read(&x)?, from.stride), (write(&y)?, out.stride))?;
    Ok(y)
}

/// Layer norm over the last dimension; weight and bias are f32 or of the type of `x`.
pub(crate) fn layer_norm(gpu: &Gpu, x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let (x, from) = rows("layer_norm", x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let shape = [out.rows, out.len];
    let of = |vector: &Tensor, dtype| vector.contiguous()?.to_dtype(dtype);
    if is_narrow(&x, &from) {
        let (weight, bias) = (of(weight, DType::F32)?, of(bias, DType::F32)?);
        let (operand, to) = ((read(&x)?, from.stride), (write(&y)?, out.stride));
        cuda::layer_norm::forward(gpu, shape, epsilon, operand, [read(&weight)?, read(&bias)?], to)?;
        return Ok(y);
    }
    let (weight, bias) = (of(weight, x.dtype())?, of(bias, x.dtype())?);
    let how = cuda::normalize::Normalization::Layer { weight: read(&weight)?, bias: read(&bias)?, epsilon };
    cuda::normalize::normalize(gpu, how, shape, (read(&x)?, from.stride), (write(&y)?, out.stride))?;
    Ok(y)
}

/// Whether rows are what the layer norm of few channels takes.
fn is_narrow(x: &Tensor, rows: &RowLayout) -> bool {
    crate::ops::is_padded(rows)
        && x.layout().offset().is_multiple_of(ALIGNMENT)
        && cuda::layer_norm::takes(dtype_of(x.dtype()), rows.len, rows.stride)
}

/// `a · b` for operands that were repeated to one batch and lie without gaps.
pub(crate) fn matmul(
    gpu: &Gpu,
    batch: usize,
    sides: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), Error> {
    Ok(cuda::matmul::matmul(gpu, batch, sides, read(a)?, read(b)?, write(y)?)?)
}

/// A tensor of images `[n, h, w, c]`, copied if its pixels are not padded.
pub(crate) struct Image {
    tensor: Tensor,
    pub size: ImageSize,
}

impl Image {
    pub(crate) fn new(op: &'static str, tensor: &Tensor) -> Result<Image, Error> {
        let &[n, height, width, channels] = &**tensor.shape() else {
            return refuse!(op, "wants an image [n, h, w, c], got shape {:?}", tensor.shape());
        };
        if tensor.elements() == 0 {
            return refuse!(op, "the image of shape {:?} is empty", tensor.shape());
        }
        if !cuda::elementwise::is_float(dtype_of(tensor.dtype())) {
            return Err(Error::DType { op, wanted: DType::F32, found: tensor.dtype() });
        }
        let padded = channels.next_multiple_of(ALIGNMENT);
        let fits = |stride: usize| {
            stride.is_multiple_of(ALIGNMENT)
                && stride >= channels
                && tensor.layout().offset().is_multiple_of(ALIGNMENT)
                && tensor.reach() >= n * height * width * stride
        };
        let stride = tensor.layout().rows().map(|rows| if rows.rows == 1 { padded } else { rows.stride });
        let (tensor, stride) = match stride.filter(|&stride| fits(stride)) {
            Some(stride) => (tensor.clone(), stride),
            None => (tensor.copied(Layout::padded(tensor.shape())?)?, padded),
        };
        Ok(Image { tensor, size: ImageSize { n, height, width, channels, stride } })
    }

    pub(crate) fn view(&self) -> Result<cuda::Image<'_>, Error> {
        Ok(cuda::Image { elements: read(&self.tensor)?, size: self.size })
    }
}

/// A new image like `x`, of another size.
fn new_image(x: &Tensor, shape: [usize; 4], dtype: DType) -> Result<Tensor, Error> {
    Tensor::unspecified(x.device(), Layout::padded(&shape)?, dtype)
}

fn image_mut(y: &Tensor) -> Result<cuda::ImageMut<'_>, Error> {
    let &[n, height, width, channels] = &**y.shape() else { unreachable!("made by new_image") };
    let stride = channels.next_multiple_of(ALIGNMENT);
    Ok(cuda::ImageMut { elements: write(y)?, size: ImageSize { n, height, width, channels, stride } })
}

fn pooling_kind(kind: PoolingKind) -> cuda::pooling::PoolingKind {
    match kind {
        PoolingKind::Max => cuda::pooling::PoolingKind::Max,
        PoolingKind::Average => cuda::pooling::PoolingKind::Average,
        PoolingKind::AverageInside => cuda::pooling::PoolingKind::AverageInside,
    }
}

fn resize_mode(mode: ResizeMode) -> cuda::resize::ResizeMode {
    match mode {
        ResizeMode::Nearest => cuda::resize::ResizeMode::Nearest,
        ResizeMode::Bilinear => cuda::resize::ResizeMode::Bilinear,
        ResizeMode::Bicubic => cuda::resize::ResizeMode::Bicubic,
        ResizeMode::Area => cuda::resize::ResizeMode::Area,
    }
}

/// A tensor of images whose pixels lie anyhow far apart, for kernels that take them an element at a time.
fn any_image(op: &'static str, x: &Tensor) -> Result<(Tensor, ImageSize), Error> {
    let &[n, height, width, channels] = &**x.shape() else {
        return refuse!(op, "wants an image [n, h, w, c], got shape {:?}", x.shape());
    };
    let (x, from) = rows(op, x)?;
    let (x, stride) =
        if from.rows > 1 && from.stride < from.len { (x.contiguous()?, from.len) } else { (x, from.stride) };
    Ok((x, ImageSize { n, height, width, channels, stride: stride.max(channels) }))
}

pub(crate) fn pool2d(gpu: &Gpu, op: &'static str, x: &Tensor, pooling: Pooling) -> Result<Tensor, Error> {
    let image = Image::new(op, x)?;
    let ImageSize { n, height, width, channels, .. } = image.size;
    let Some((out_height, out_width)) = pooling.output_size(height, width) else {
        let Pooling { kernel, stride, padding, .. } = pooling;
        return refuse!(op, "kernel {kernel:?}, stride {stride:?}, padding {padding:?} do not fit {:?}", x.shape());
    };
    let y = new_image(x, [n, out_height, out_width, channels], x.dtype())?;
    let kind = pooling_kind(pooling.kind);
    let window = [pooling.kernel, pooling.stride, pooling.padding];
    cuda::pooling::pool(gpu, kind, window, image.view()?, image_mut(&y)?)?;
    Ok(y)
}

pub(crate) fn resize(gpu: &Gpu, x: &Tensor, mode: ResizeMode, [height, width]: [usize; 2]) -> Result<Tensor, Error> {
    let image = Image::new("resize", x)?;
    if height == 0 || width == 0 {
        return refuse!("resize", "cannot resize {:?} to {height}x{width}", x.shape());
    }
    let mode = resize_mode(mode);
    let y = new_image(x, [image.size.n, height, width, image.size.channels], x.dtype())?;
    cuda::resize::resize(gpu, mode, image.view()?, image_mut(&y)?)?;
    Ok(y)
}

pub(crate) fn pixel_shuffle(gpu: &Gpu, x: &Tensor, factor: usize, shape: [usize; 4]) -> Result<Tensor, Error> {
    let image = Image::new("pixel_shuffle", x)?;
    // Without gaps: what follows is a picture of few channels, which padding would make several times as large.
    let y = Tensor::unspecified(x.device(), Layout::contiguous(&shape)?, x.dtype())?;
    let [n, height, width, channels] = shape;
    let size = ImageSize { n, height, width, channels, stride: channels };
    cuda::pooling::pixel_shuffle(gpu, factor, image.view()?, cuda::ImageMut { elements: write(&y)?, size })?;
    Ok(y)
}

/// A convolution's weights on a GPU, packed when first needed for an element type and a kernel.
#[derive(Debug)]
pub(crate) struct Conv {
    gpu: Gpu,
    shape: ConvShape,
    weight: Memory,
    bias: Option<Memory>,
    packed: Mutex<HashMap<(Packing, cuda::DType), PackedConv>>,
}

impl Conv {
    pub(crate) fn new(gpu: &Gpu, shape: ConvShape, weight: &[f32], bias: Option<&[f32]>) -> Result<Conv, Error> {
        let upload = |values: &[f32]| gpu.upload(bytemuck::cast_slice(values));
        let bias = bias.map(upload).transpose()?;
        Ok(Conv { gpu: gpu.clone(), shape, weight: upload(weight)?, bias, packed: Mutex::default() })
    }

    pub(crate) fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Where they are.
    fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The weights packed for a kernel and images of a type.
    pub(crate) fn packed(&self, packing: Packing, dtype: DType) -> Result<PackedConv, Error> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::DType { op: "conv2d", wanted: DType::F32, found: dtype });
        }
        let mut all = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = all.get(&(packing, dtype_of(dtype))) {
            return Ok(packed.clone());
        }
        let ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups } = self.shape;
        let shape = cuda::conv::ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups };
        let floats = |memory| Elements::new(memory, 0, cuda::DType::F32);
        let bias = self.bias.as_ref().map(floats);
        let packed = PackedConv::pack(&self.gpu, packing, dtype_of(dtype), shape, floats(&self.weight), bias)?;
        all.insert((packing, dtype_of(dtype)), packed.clone());
        Ok(packed)
    }

    /// `activation(x * W + b) + residual`; the caller checked that sizes fit.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        [height, width]: [usize; 2],
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        without_gradient("conv2d", &[x])?;
        let image = Image::new("conv2d", x)?;
        let residual = residual.map(|residual| Image::new("conv2d", residual)).transpose()?;
        let y = new_image(x, [image.size.n, height, width, self.shape.out_channels], x.dtype())?;
        let (slope, fused) = (activation.slope().unwrap_or(1.0), activation.slope().is_some());
        let view = residual.as_ref().map(Image::view).transpose()?;
        let epilogue = cuda::conv::Epilogue { slope, residual: view.filter(|_| fused), ..cuda::conv::Epilogue::NONE };
        self.packed(Packing::Alone, x.dtype())?.run(&self.gpu, image.view()?, image_mut(&y)?, &epilogue)?;
        if fused {
            return Ok(y);
        }
        let y = unary(&self.gpu, "conv2d", activation, 1.0, &y)?;
        match residual {
            Some(residual) => binary(&self.gpu, "conv2d", Binary::Add, &y, &residual.tensor),
            None => Ok(y),
        }
    }

    /// As [`forward`](Self::forward) without a residual, with a pixel shuffle and f32 elements whatever `x` has: channel
    /// `(r * factor + q) * c + i` becomes channel `i` of sub-row `r` and sub-column `q`. Without gaps between pixels.
    pub(crate) fn forward_shuffled(&self, x: &Tensor, factor: usize) -> Result<Tensor, Error> {
        let image = Image::new("conv2d", x)?;
        let (n, channels) = (image.size.n, self.shape.out_channels / (factor * factor).max(1));
        let size = self.shape.output_size(image.size.height, image.size.width);
        let Some((height, width)) = size.filter(|_| image.size.channels == self.shape.in_channels) else {
            return refuse!("conv2d", "{:?} does not fit shape {:?}", self.shape, x.shape());
        };
        let shape = [n, height * factor, width * factor, channels];
        let y = Tensor::unspecified(x.device(), Layout::contiguous(&shape)?, DType::F32)?;
        let [n, height, width, channels] = shape;
        let size = ImageSize { n, height, width, channels, stride: channels };
        let out = cuda::ImageMut { elements: write(&y)?, size };
        let epilogue = cuda::conv::Epilogue { shuffle: factor, ..cuda::conv::Epilogue::NONE };
        self.packed(Packing::Shuffled, x.dtype())?.run(&self.gpu, image.view()?, out, &epilogue)?;
        Ok(y)
    }

    /// `(second(y), third(second(y)))` for `y = leaky(x * W + b) + residual`, in one kernel; `None` if these do not chain.
    pub(crate) fn forward_chain(
        &self,
        x: &Tensor,
        slope: f32,
        residual: &Tensor,
        second: &Conv,
        third: &Conv,
    ) -> Result<Option<(Tensor, Tensor)>, Error> {
        without_gradient("conv2d", &[x, residual])?;
        let own = self.packed(Packing::Alone, x.dtype())?;
        let fits =
            (second.shape.in_channels, second.shape.out_channels, third.shape.in_channels, third.shape.out_channels)
                == (self.shape.out_channels, self.shape.out_channels, self.shape.out_channels, 16)
                && [second, third]
                    .iter()
                    .all(|conv| conv.shape == ConvShape::same(conv.shape.in_channels, conv.shape.out_channels, 1));
        if !own.starts_chain() || !fits {
            return Ok(None);
        }
        let (second, third) = (second.packed(Packing::Chained, x.dtype())?, third.packed(Packing::Chained, x.dtype())?);
        let (image, residual) = (Image::new("conv2d", x)?, Image::new("conv2d", residual)?);
        let ImageSize { n, height, width, .. } = image.size;
        let y = new_image(x, [n, height, width, second.shape().out_channels], x.dtype())?;
        let z = new_image(x, [n, height, width, third.shape().out_channels], x.dtype())?;
        let epilogue = cuda::conv::Epilogue { slope, residual: Some(residual.view()?), ..cuda::conv::Epilogue::NONE };
        own.run_chain(&self.gpu, image.view()?, &epilogue, (&second, image_mut(&y)?), (&third, image_mut(&z)?))?;
        Ok(Some((y, z)))
    }
}

/// `x * sigmoid(resize(coarse) + mix(reduced))`.
pub(crate) fn gate(gpu: &Gpu, mix: &Conv, x: &Tensor, reduced: &Tensor, coarse: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "spatial_attention";
    let (image, reduced, coarse) = (Image::new(OP, x)?, Image::new(OP, reduced)?, Image::new(OP, coarse)?);
    let ImageSize { n, height, width, channels, .. } = image.size;
    let y = new_image(x, [n, height, width, channels], x.dtype())?;
    let packed = mix.packed(Packing::Gate, x.dtype())?;
    cuda::spatial_attention::gate(gpu, &packed, image.view()?, reduced.view()?, coarse.view()?, image_mut(&y)?)?;
    Ok(y)
}

/// `wide(pool(half(reduced)))` in one kernel; `None` if the shapes are not those that it takes.
pub(crate) fn coarse_map(gpu: &Gpu, half: &Conv, wide: &Conv, reduced: &Tensor) -> Result<Option<Tensor>, Error> {
    without_gradient("spatial_coarse_map", &[reduced])?;
    let image = Image::new("coarse_map", reduced)?;
    let ImageSize { n, height, width, channels, .. } = image.size;
    let half_shape = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(16, 16, 3) };
    let fits = channels == 16
        && reduced.dtype().size() == 2
        && half.shape == half_shape
        && wide.shape == ConvShape::same(16, wide.shape.out_channels, 3);
    let Some([coarse_height, coarse_width]) = cuda::spatial_attention::coarse_size(height, width).filter(|_| fits)
    else {
        return Ok(None);
    };
    let y = new_image(reduced, [n, coarse_height, coarse_width, wide.shape.out_channels], reduced.dtype())?;
    let [half, wide] = [half, wide].map(|conv| conv.packed(Packing::CoarseMap, reduced.dtype()));
    cuda::spatial_attention::coarse_map(gpu, &half?, &wide?, image.view()?, image_mut(&y)?)?;
    Ok(Some(y))
}
