//! RLFN on a device that holds whole pictures: the same fused graph as the pass, in tensor operators.
//!
//! A picture goes up once and comes back once; what lies between stays on the device. When pictures of one size follow each
//! other, as the frames of a film do, a GPU replays the work as one graph.

use super::Rlfn;
use super::load::{Layer, layer, outputs, product, reorder_tail};
use crate::{Error, Sink, Source, SuperResolution, Window};
use std::sync::{Mutex, PoisonError};
use supple_tensor::ops::{self, Activation, Conv2d, ConvShape};
use supple_tensor::{Cpu, DType, Device, Recorded, Tensor};
use supple_weights::Weights;

const LEAKY: Activation = Activation::LeakyRelu(0.05);

/// A loaded RLFN on a device. What the device cannot take, windows of a picture or one that exceeds its memory, runs on the
/// CPU where that is wanted.
#[derive(Debug)]
pub struct RlfnOnDevice {
    cpu: Rlfn,
    device: Device,
    dtype: DType,
    /// Whether the CPU stands in when the device fails.
    fall_back: bool,
    head: Conv2d,
    blocks: Vec<Block>,
    body: Conv2d,
    tail: Conv2d,
    recorded: Mutex<Option<Recorded>>,
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

impl RlfnOnDevice {
    /// The network of `cpu`, loaded from the same `weights`, on a device, with activations of type `dtype`. If `fall_back`, the
    /// CPU stands in for a device that fails.
    ///
    /// # Errors
    /// If a tensor is missing, or the device fails.
    pub fn load(
        cpu: Rlfn,
        device: &Device,
        dtype: DType,
        weights: &Weights,
        fall_back: bool,
    ) -> Result<RlfnOnDevice, Error> {
        let [c, mid, f, s] = [cpu.channels, cpu.mid_channels, cpu.attention_channels, cpu.scale];
        let unit_range = weights.metadata().get("range").is_some_and(|range| range == "0..1");
        let range = if unit_range { 1.0 } else { 255.0 };
        let conv = |shape: ConvShape, l: &Layer| Conv2d::new(device, shape, &l.weight, Some(&l.bias));
        let read = |name: &str, shape: ConvShape| -> Result<Conv2d, Error> {
            let side = shape.kernel[0];
            let l = layer(weights, name, [shape.out_channels, shape.in_channels, side, side])?;
            Ok(conv(shape, &l)?)
        };
        let mut head = layer(weights, "conv_1", [c, 3, 3, 3])?;
        head.weight.iter_mut().for_each(|w| *w *= range);
        let blocks = (1..=cpu.blocks.len()).map(|i| {
            let name = |part: &str| format!("block_{i}.{part}");
            let conv3 = layer(weights, &name("esa.conv3"), [f, f, 3, 3])?;
            let conv4 = layer(weights, &name("esa.conv4"), [c, f, 1, 1])?;
            let conv_f = layer(weights, &name("esa.conv_f"), [f, f, 1, 1])?;
            let coarse = Layer {
                weight: product(&conv4.weight, &conv3.weight, c, f, f * 9),
                bias: product(&conv4.weight, &conv3.bias, c, f, 1),
            };
            let mut gate = Layer {
                weight: product(&conv4.weight, &conv_f.weight, c, f, f),
                bias: product(&conv4.weight, &conv_f.bias, c, f, 1),
            };
            gate.bias.iter_mut().zip(&conv4.bias).for_each(|(to, own)| *to += own);
            let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(f, f, 3) };
            Ok(Block {
                first: read(&name("c1_r"), ConvShape::same(c, mid, 3))?,
                second: read(&name("c2_r"), ConvShape::same(mid, mid, 3))?,
                third: read(&name("c3_r"), ConvShape::same(mid, c, 3))?,
                mix: read(&name("c5"), ConvShape::same(c, c, 1))?,
                reduce: read(&name("esa.conv1"), ConvShape::same(c, f, 1))?,
                half: read(&name("esa.conv2"), half)?,
                coarse: conv(ConvShape::same(f, c, 3), &coarse)?,
                gate: conv(ConvShape::same(f, c, 1), &gate)?,
            })
        });
        let out = outputs(weights, "upsampler.0");
        let tail = reorder_tail(&layer(weights, "upsampler.0", [out, c, 3, 3])?, s, range);
        Ok(RlfnOnDevice {
            device: device.clone(),
            dtype,
            fall_back,
            head: conv(ConvShape::same(3, c, 3), &head)?,
            blocks: blocks.collect::<Result<_, Error>>()?,
            body: read("conv_2", ConvShape::same(c, c, 3))?,
            tail: conv(ConvShape::same(c, out, 3), &tail)?,
            recorded: Mutex::default(),
            cpu,
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
        Ok(self.tail.forward_shuffled(&body, self.cpu.scale)?)
    }

    /// Work recorded for pictures of a size, in `slot` if it is there.
    fn record<'a>(
        &self,
        slot: &'a mut Option<Recorded>,
        [height, width]: [usize; 2],
    ) -> Result<&'a mut Recorded, Error> {
        let (recorded, shape) = (slot, [1, height, width, 3]);
        if recorded.as_ref().is_none_or(|recorded| **recorded.input_shape() != shape) {
            *recorded = None;
            let x = Tensor::zeros(&self.device, &shape, DType::F32)?;
            *recorded = Some(Recorded::new(&x, |x| self.forward(x))?);
        }
        Ok(recorded.as_mut().expect("set above"))
    }
}

impl SuperResolution for RlfnOnDevice {
    fn name(&self) -> &str {
        self.cpu.name()
    }

    fn device(&self) -> Option<String> {
        Some(format!("{}, {}", self.device.name(), self.dtype))
    }

    fn holds_whole_pictures(&self) -> bool {
        true
    }

    fn scale(&self) -> usize {
        self.cpu.scale()
    }

    fn parameters(&self) -> (usize, usize) {
        self.cpu.parameters()
    }

    fn macs(&self, width: usize, height: usize) -> u64 {
        self.cpu.macs(width, height)
    }

    fn min_side(&self) -> usize {
        self.cpu.min_side()
    }

    fn halo(&self) -> usize {
        self.cpu.halo()
    }

    fn alignment(&self) -> usize {
        self.cpu.alignment()
    }

    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize {
        self.cpu.working_memory(cpu, window)
    }

    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        window.check(self)?;
        if window.columns_len() < window.width {
            return self.cpu.run(cpu, window, source, sink);
        }
        let (row, scale) = (window.width * 3, self.cpu.scale);
        let mut slot = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        // The source hands out each row once, so the picture is kept for the CPU.
        let mut values = vec![0.0; window.height * row];
        values.chunks_exact_mut(row).enumerate().for_each(|(y, row)| source(y, row));
        let recorded = self.record(&mut slot, [window.height, window.width]);
        let result = match recorded.and_then(|recorded| Ok(recorded.run(|to| to.copy_from_slice(&values))?)) {
            Ok(result) => result,
            Err(_) if self.fall_back => {
                let mut source = |y: usize, to: &mut [f32]| to.copy_from_slice(&values[y * row..][..row]);
                return self.cpu.run(cpu, window, &mut source, sink);
            }
            Err(error) => return Err(error),
        };
        for (y, row) in result.chunks_exact(row * scale).enumerate() {
            if !sink(y, row) {
                break;
            }
        }
        Ok(())
    }
}
