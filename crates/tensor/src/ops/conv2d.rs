//! Two-dimensional convolution with bias, activation and residual in one.

use super::image::{Image, image_mut, new_image};
use super::{Activation, ConvShape, add, same_device};
use crate::error::refuse;
use crate::{Device, Dims, Error, Tensor};
use supple_kernels::activation::activate_in_place;
use supple_kernels::conv::PackedConv;

const OP: &str = "conv2d";

/// A convolution's weights, packed for a device.
#[derive(Clone, Debug)]
pub struct Conv2d {
    device: Device,
    packed: PackedConv,
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
        let packed = PackedConv::pack(device.kernels().isa, &shape, weight, bias);
        Ok(Conv2d { device: device.clone(), packed })
    }

    /// Its channels, kernel, stride and so on.
    pub fn shape(&self) -> &ConvShape {
        self.packed.shape()
    }

    /// `activation(x * W + b) + residual` for `x` of shape `[n, h, w, in_channels]`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// If `x` is no image of that many channels or smaller than the kernel, or the residual has another shape.
    pub fn forward(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor, Error> {
        same_device(OP, &self.device, x.device())?;
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
        let cpu = self.device.kernels();
        let mut y = new_image(&self.device, shape)?;
        let floats = self.packed.scratch_len(cpu);
        let mut scratch = self.device.buffers().take(floats, &Dims::new(&[floats])?)?;
        let scratch = scratch.as_mut_slice().expect("a new buffer is not shared");
        let fused = activation.slope();
        for i in 0..image.n {
            let slope = fused.unwrap_or(1.0);
            let residual = residual.as_ref().filter(|_| fused.is_some()).map(|(_, image)| image.rows(i));
            let (rows, mut out) = (image.rows(i), image_mut(&mut y, i));
            self.packed.run(cpu, rows, image.height, &mut out, 0..height, slope, residual, scratch);
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
