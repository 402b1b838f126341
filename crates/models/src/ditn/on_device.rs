//! DITN on a device that holds whole pictures: the same layers as the pass, in tensor operators.

use super::checkpoint::Checkpoint;
use crate::Error;
use supple_tensor::ops::patch_transformer::{Affine, PatchTransformer};
use supple_tensor::ops::{Activation, Conv2d, ConvShape};
use supple_tensor::{DType, Device, Tensor};
use supple_weights::Weights;

/// A DITN's layers on a device.
#[derive(Debug)]
pub struct DitnLayers {
    scale: usize,
    dtype: DType,
    head: Conv2d,
    units: Vec<PatchTransformer>,
    body: Conv2d,
    tail: Conv2d,
}

impl DitnLayers {
    /// The network in `weights` on a device, with activations of type `dtype`.
    ///
    /// # Errors
    /// If a tensor is missing, or the device fails.
    pub fn load(device: &Device, dtype: DType, weights: &Weights) -> Result<DitnLayers, Error> {
        DitnLayers::pack(&Checkpoint::read(weights)?, device, dtype)
    }

    fn pack(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<DitnLayers, Error> {
        let conv = |a: &Affine, inputs: usize, outputs: usize| {
            Conv2d::new(device, ConvShape::same(inputs, outputs, 3), &a.weight, Some(&a.bias))
        };
        let (c, scale) = (checkpoint.channels, checkpoint.scale);
        let units = checkpoint.units.iter().map(|unit| PatchTransformer::new(device, unit));
        Ok(DitnLayers {
            scale,
            dtype,
            head: conv(&checkpoint.head, 3, c)?,
            units: units.collect::<Result<_, _>>()?,
            body: conv(&checkpoint.body, c, c)?,
            tail: conv(&checkpoint.tail, c, 3 * scale * scale)?,
        })
    }

    /// Pictures `[n, h, w, 3]` in 0..1, sides multiples of 8, as `[n, h * scale, w * scale, 3]`, f32, not clamped.
    ///
    /// # Errors
    /// If a side is no multiple of 8, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let x = x.to_dtype(self.dtype)?;
        let head = self.head.forward(&x, Activation::Identity, None)?;
        let mut y = head.clone();
        for unit in &self.units {
            y = unit.forward(&y)?;
        }
        let body = self.body.forward(&y, Activation::Identity, Some(&head))?;
        Ok(self.tail.forward_shuffled(&body, self.scale)?)
    }
}
