//! RLFN on a device that holds whole pictures: the same fused graph as the pass, in tensor operators.

use super::checkpoint::{Checkpoint, Layer};
use crate::Error;
use supple_tensor::ops::{self, Activation, Conv2d};
use supple_tensor::{DType, Device, Tensor};
use supple_weights::Weights;

const LEAKY: Activation = Activation::LeakyRelu(0.05);

/// An RLFN's layers on a device.
#[derive(Debug)]
pub struct RlfnLayers {
    scale: usize,
    dtype: DType,
    head: Conv2d,
    blocks: Vec<Block>,
    body: Conv2d,
    tail: Conv2d,
}

#[derive(Debug)]
struct Block {
    first: Conv2d,
    second: Conv2d,
    third: Conv2d,
    mix: Conv2d,
    reduce: Conv2d,
    half: Conv2d,
    coarse: Conv2d,
    gate: Conv2d,
}

impl RlfnLayers {
    /// The network in `weights` on a device, with activations of type `dtype`.
    ///
    /// # Errors
    /// If a tensor is missing, or the device fails.
    pub fn load(device: &Device, dtype: DType, weights: &Weights) -> Result<RlfnLayers, Error> {
        let checkpoint = Checkpoint::read(weights)?;
        let conv = |layer: &Layer| Conv2d::new(device, layer.shape, &layer.weight, Some(&layer.bias));
        let blocks = checkpoint.blocks.iter().map(|block| {
            Ok(Block {
                first: conv(&block.first)?,
                second: conv(&block.second)?,
                third: conv(&block.third)?,
                mix: conv(&block.mix)?,
                reduce: conv(&block.reduce)?,
                half: conv(&block.half)?,
                coarse: conv(&block.coarse)?,
                gate: conv(&block.gate)?,
            })
        });
        Ok(RlfnLayers {
            scale: checkpoint.scale,
            dtype,
            head: conv(&checkpoint.head)?,
            blocks: blocks.collect::<Result<_, Error>>()?,
            body: conv(&checkpoint.body)?,
            tail: conv(&checkpoint.tail)?,
        })
    }

    /// Pictures `[n, h, w, 3]` in 0..1 as `[n, h * scale, w * scale, 3]`, f32, not clamped.
    ///
    /// # Errors
    /// If a side is below the least, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let x = x.to_dtype(self.dtype)?;
        let head = self.head.forward(&x, Activation::Identity, None)?;
        let mut y = head.clone();
        for block in &self.blocks {
            let inner = block.second.forward(&block.first.forward(&y, LEAKY, None)?, LEAKY, None)?;
            let (mixed, reduced) = ops::conv_chain(&inner, &block.third, LEAKY, &y, [&block.mix, &block.reduce])?;
            let coarse = ops::spatial_coarse_map(&block.half, &block.coarse, &reduced)?;
            y = ops::spatial_gate(&block.gate, &mixed, &reduced, &coarse)?;
        }
        let body = self.body.forward(&y, Activation::Identity, Some(&head))?;
        Ok(self.tail.forward_shuffled(&body, self.scale)?)
    }
}
