//! Convolution as classifiers have it: padding of its own on each side, and a range that the result is clamped to.

use super::{Activation, Conv2d, ConvShape, add};
use crate::autograd::refuse_gradient;
use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};

const OP: &str = "padded_conv2d";

/// A convolution's weights with its padding and range, packed for a device.
///
/// On a GPU in f16 and bf16, depthwise convolutions of 3×3 and 5×5 have a kernel of their own, which pads and clamps; others are
/// padded by a copy where their padding is not the same on both sides.
#[derive(Debug)]
pub struct PaddedConv2d {
    conv: Conv2d,
    /// Rows and columns of zeros: top, bottom, left, right.
    padding: [usize; 4],
    range: (f32, f32),
    #[cfg(feature = "cuda")]
    depthwise: Option<crate::cuda::padded_conv::Depthwise>,
}

impl PaddedConv2d {
    /// Packs `weight` and `bias` as [`Conv2d::new`] takes them. `padding` (top, bottom, left, right) stands in place of the shape's,
    /// and results are clamped to `range`, which begins at 0 or has no beginning.
    ///
    /// # Errors
    /// As [`Conv2d::new`], or if the range is empty or begins elsewhere.
    pub fn new(
        device: &Device,
        shape: ConvShape,
        padding: [usize; 4],
        range: (f32, f32),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<PaddedConv2d, Error> {
        let holds = range.0 <= range.1 && [0.0, f32::NEG_INFINITY].contains(&range.0);
        if !holds {
            return refuse!(OP, "the range {range:?} is empty, or begins at neither 0 nor nothing");
        }
        let [top, bottom, left, right] = padding;
        let own = if (top, left) == (bottom, right) { [top, left] } else { [0; 2] };
        let shape = ConvShape { padding: own, ..shape };
        Ok(PaddedConv2d {
            conv: Conv2d::new(device, shape, weight, bias)?,
            padding,
            range,
            #[cfg(feature = "cuda")]
            depthwise: crate::cuda::padded_conv::Depthwise::new(device, shape, padding, range, weight, bias)?,
        })
    }

    /// `clamp(x * W + b)`, and then `+ residual`, for `x` of `[n, h, w, in_channels]`.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit each other.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor, Error> {
        refuse_gradient(OP, "ops::conv2d", &[x, residual.unwrap_or(x)])?;
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(gpu), Some(depthwise), DType::F16 | DType::BF16) = (x.device(), &self.depthwise, x.dtype())
        {
            let y = depthwise.forward(gpu, x)?;
            return residual.map_or(Ok(y.clone()), |residual| add(&y, residual));
        }
        let [top, bottom, left, right] = self.padding;
        let padded = if (top, left) == (bottom, right) { x.clone() } else { pad(x, self.padding)? };
        let (lowest, highest) = self.range;
        let activation = if lowest == 0.0 { Activation::Relu } else { Activation::Identity };
        if highest == f32::INFINITY {
            return self.conv.forward(&padded, activation, residual);
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(_) = x.device() {
            return crate::cuda::padded_conv::forward(self.conv.on_gpu()?, &padded, self.range, residual);
        }
        let mut y = self.conv.forward(&padded, activation, None)?.contiguous()?;
        // NaN stays.
        y.as_mut_slice::<f32>()?.iter_mut().for_each(|v| *v = v.clamp(lowest, highest));
        residual.map_or(Ok(y.clone()), |residual| add(&y, residual))
    }
}

/// An image with rows and columns of zeros around it: top, bottom, left, right.
///
/// # Errors
/// If `x` is no image `[n, h, w, c]`, or the result does not fit the memory.
pub fn pad(x: &Tensor, [top, bottom, left, right]: [usize; 4]) -> Result<Tensor, Error> {
    refuse_gradient("pad", "a convolution with padding", &[x])?;
    let &[n, height, width, channels] = &**x.shape() else {
        return refuse!("pad", "wants an image [n, h, w, c], got shape {:?}", x.shape());
    };
    let large = [n, height + top + bottom, width + left + right, channels];
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device() {
        return crate::cuda::padded_conv::pad(gpu, x, large, [top, left]);
    }
    let x = x.contiguous()?;
    let (from, mut y) = (x.as_slice::<f32>()?, Tensor::zeros(x.device(), &large, DType::F32)?);
    let to = y.as_mut_slice::<f32>()?;
    for (i, row) in from.chunks_exact((width * channels).max(1)).enumerate() {
        let at = ((i / height * large[1] + i % height + top) * large[2] + left) * channels;
        to[at..at + row.len()].copy_from_slice(row);
    }
    Ok(y)
}
