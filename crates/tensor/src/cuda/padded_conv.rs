//! Convolutions with padding of their own on each side, clamped to a range.

use super::{Conv, Image, image_mut, new_image, read};
use crate::error::refuse;
use crate::ops::ConvShape;
use crate::{Device, Error, Layout, Tensor};
use supple_cuda::Gpu;
use supple_cuda::conv::{Epilogue, Packing};
use supple_cuda::depthwise::Depthwise as Kernel;

/// A depthwise convolution with a kernel of its own.
#[derive(Debug)]
pub(crate) struct Depthwise {
    kernel: Kernel,
    channels: usize,
    padding: [usize; 4],
    /// `[taps][channels rounded up to 8]`, and a bias as wide.
    taps: Tensor,
    bias: Tensor,
}

impl Depthwise {
    /// None on the CPU, and for convolutions without such a kernel.
    pub(crate) fn new(
        device: &Device,
        shape: ConvShape,
        padding: [usize; 4],
        range: (f32, f32),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Option<Depthwise>, Error> {
        let ConvShape { in_channels, out_channels, kernel: [side, _], stride: [step, _], groups, .. } = shape;
        let kernel = Kernel { kernel: side, stride: step, before: [padding[0], padding[2]], range };
        let fits = groups == in_channels
            && out_channels == in_channels
            && (shape.kernel, shape.stride, shape.dilation) == ([side; 2], [step; 2], [1; 2])
            && kernel.is_supported(supple_cuda::DType::F16)
            && padding.iter().all(|&n| n < side);
        if !matches!(device, Device::Cuda(_)) || !fits {
            return Ok(None);
        }
        let (count, padded) = (side * side, out_channels.next_multiple_of(8));
        let tap = |at: usize| {
            let (tap, channel) = (at / padded, at % padded);
            if channel < out_channels { weight[channel * count + tap] } else { 0.0 }
        };
        let taps: Vec<f32> = (0..count * padded).map(tap).collect();
        let mut wide = vec![0.0; padded];
        if let Some(bias) = bias {
            wide[..out_channels].copy_from_slice(bias);
        }
        Ok(Some(Depthwise {
            kernel,
            channels: out_channels,
            padding,
            taps: Tensor::from_slice(device, &taps, &[count, padded])?,
            bias: Tensor::from_slice(device, &wide, &[padded])?,
        }))
    }

    pub(crate) fn forward(&self, gpu: &Gpu, x: &Tensor) -> Result<Tensor, Error> {
        const OP: &str = "depthwise";
        let image = Image::new(OP, x)?;
        let [top, bottom, left, right] = self.padding;
        let side = |n: usize, around: usize| {
            (n + around).checked_sub(self.kernel.kernel).map(|room| room / self.kernel.stride + 1)
        };
        let sides = (side(image.size.height, top + bottom), side(image.size.width, left + right));
        let (Some(height), Some(width)) = sides else { return refuse!(OP, "{:?} does not fit {:?}", self, x.shape()) };
        if image.size.channels != self.channels {
            return refuse!(OP, "{} channels for shape {:?}", self.channels, x.shape());
        }
        let y = new_image(x, [image.size.n, height, width, self.channels], x.dtype())?;
        self.kernel.run(gpu, image.view()?, read(&self.taps)?, read(&self.bias)?, image_mut(&y)?)?;
        Ok(y)
    }
}

/// `clamp(x * W + b) + residual`.
pub(crate) fn forward(
    conv: &Conv,
    x: &Tensor,
    (lowest, highest): (f32, f32),
    residual: Option<&Tensor>,
) -> Result<Tensor, Error> {
    const OP: &str = "padded_conv2d";
    let image = Image::new(OP, x)?;
    let size = conv.shape().output_size(image.size.height, image.size.width);
    let Some((height, width)) = size.filter(|_| image.size.channels == conv.shape().in_channels) else {
        return refuse!(OP, "{:?} does not fit shape {:?}", conv.shape(), x.shape());
    };
    let residual = residual.map(|residual| Image::new(OP, residual)).transpose()?;
    let y = new_image(x, [image.size.n, height, width, conv.shape().out_channels], x.dtype())?;
    let residual = residual.as_ref().map(Image::view).transpose()?;
    let slope = if lowest == 0.0 { 0.0 } else { 1.0 };
    let epilogue = Epilogue { slope, residual, highest, ..Epilogue::NONE };
    conv.packed(Packing::Alone, x.dtype())?.run(conv.gpu(), image.view()?, image_mut(&y)?, &epilogue)?;
    Ok(y)
}

/// `x` in the middle of zeros, from row and column `at` on.
pub(crate) fn pad(gpu: &Gpu, x: &Tensor, shape: [usize; 4], at: [usize; 2]) -> Result<Tensor, Error> {
    let y = Tensor::unspecified(x.device(), Layout::padded(&shape)?, x.dtype())?;
    let memory = y.memory()?;
    gpu.clear(memory, 0, memory.bytes())?;
    let inner = y.layout().narrow(1, at[0], x.shape()[1])?.narrow(2, at[1], x.shape()[2])?;
    super::copy(gpu, x, &y, &inner)?;
    Ok(y)
}
