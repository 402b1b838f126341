//! A quantised network packed for one CPU, computed in 8-bit integers from the input to the last operator.
//!
//! Where a network has a [`Quantization`], its integers are computed as TensorFlow Lite's reference kernels compute them, bit
//! for bit: on every instruction set, for every number of threads. Only a softmax at the end is computed in `f32`, from the
//! exact integers before it. Tensors are unsigned bytes throughout; a file's signed bytes and their zero points have 128 added.
//!
//! Nodes become steps as in [`Plan`](super::Plan): a depthwise convolution that only a 1×1 convolution reads becomes the
//! feed of that product. Weights that are zero in blocks of four outputs by four inputs cost nothing.
//!
//! Two things that a network does not say are assumed. A convolution whose kernel covers its input and whose weights have one scale
//! is taken for a fully-connected layer, whose scales are multiplied in single precision by TensorFlow Lite; and a global
//! mean between tensors of one scale for `AVERAGE_POOL_2D`, not `MEAN`, which rounds otherwise.

mod build;
mod step;
#[cfg(test)]
mod tests;

use super::{ConvNet, Layer, NodeId, Shape, TensorQuantization};
use crate::Error;
use std::time::{Duration, Instant};
use step::{Step, Work, softmax};
use supple_tensor::Cpu;
use supple_tensor::kernels::sparse_conv_i8::{QuadBuf, Scratch};

#[cfg(doc)]
use super::Quantization;

/// A quantised network that is ready to run.
#[derive(Debug)]
pub struct PlanI8 {
    cpu: Cpu,
    network: String,
    layers: Vec<Layer>,
    steps: Vec<Step>,
    /// Where the tensor of each node lies, if it is kept.
    tensors: Vec<Option<Tensor>>,
    buffers: Vec<Option<QuadBuf>>,
    scratch: Scratch,
    input: Tensor,
    /// The last tensor in integers.
    output: Tensor,
    /// Whether the result is the softmax of that.
    softmax: bool,
    bytes: Vec<u8>,
    result: Vec<f32>,
    /// The byte that each sample becomes, for each colour.
    samples: Vec<[u8; 256]>,
}

/// A tensor in integers.
#[derive(Clone, Copy, Debug)]
struct Tensor {
    shape: Shape,
    buffer: usize,
    quantization: TensorQuantization,
}

/// What turns a tensor's integers into unsigned bytes by addition.
fn offset(quantization: &TensorQuantization) -> i32 {
    -quantization.dtype.range().0
}

impl PlanI8 {
    /// Packs `network` for `cpu`.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] if the network is inconsistent or not quantised throughout, has an operator in a way that integers are not
    /// defined for, or sums that could overflow.
    pub fn new(cpu: &Cpu, network: &ConvNet) -> Result<PlanI8, Error> {
        PlanI8::keeping(cpu, network, &[])
    }

    /// As [`new`](Self::new), and the tensors of the nodes `keep` can be read after a run: these are neither fused away nor
    /// overwritten.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// If a node to be kept does not exist.
    pub fn keeping(cpu: &Cpu, network: &ConvNet, keep: &[NodeId]) -> Result<PlanI8, Error> {
        build::plan(cpu, network, keep)
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Shape {
        self.input.shape
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Shape {
        self.output.shape
    }

    /// The quantisation of the input.
    pub fn input_quantization(&self) -> TensorQuantization {
        self.input.quantization
    }

    /// The quantisation of [`integers`](Self::integers).
    pub fn output_quantization(&self) -> TensorQuantization {
        self.output.quantization
    }

    /// What is computed, step by step. Weights count as zero where the network's are.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What the plan runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Runs the network on a picture of its size, `[height][width][3]`, samples red green blue; gives
    /// `[channels][height][width]` of the last node as real numbers.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the picture has another size, or the network takes no pictures of three colours.
    pub fn run_rgb(&mut self, rgb: &[u8]) -> Result<&[f32], Error> {
        if self.input.shape.channels != 3 || rgb.len() != self.input.shape.len() {
            return Err(self.wrong_input(rgb.len()));
        }
        if let Some(buffer) = &mut self.buffers[self.input.buffer] {
            buffer.fill_interleaved(rgb, &self.samples);
        }
        Ok(self.compute(None))
    }

    /// Runs the network on an input in integers as unsigned bytes (those of a signed type have 128 added),
    /// `[height][width][channels]` as files have it; gives `[channels][height][width]` of the last node as real numbers.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the input has another length than its shape.
    pub fn run_u8(&mut self, input: &[u8]) -> Result<&[f32], Error> {
        if input.len() != self.input.shape.len() {
            return Err(self.wrong_input(input.len()));
        }
        if let Some(buffer) = &mut self.buffers[self.input.buffer] {
            buffer.fill_interleaved(input, &[std::array::from_fn(|byte| byte as u8)]);
        }
        Ok(self.compute(None))
    }

    /// Runs the network on an input in real numbers, `[channels][height][width]` and already normalised, each of which becomes
    /// the nearest integer.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the input has another length than its shape.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        self.set_input(input)?;
        Ok(self.compute(None))
    }

    /// As [`run`](Self::run), and adds the time of each layer to `times`.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the input has another length than its shape.
    ///
    /// # Panics
    /// If `times` has another length than [`layers`](Self::layers).
    pub fn run_timed(&mut self, input: &[f32], times: &mut [Duration]) -> Result<&[f32], Error> {
        assert_eq!(times.len(), self.layers.len(), "one time a layer");
        self.set_input(input)?;
        Ok(self.compute(Some(times)))
    }

    /// The integers of the last run's result as unsigned bytes, `[height][width][channels]`. Where the network ends in softmax,
    /// they are what that was computed from.
    pub fn integers(&self) -> &[u8] {
        &self.bytes
    }

    /// [`integers`](Self::integers) as real numbers, `[channels][height][width]`.
    pub fn real(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes.len()];
        self.dequantise(&mut out);
        out
    }

    /// The integers of a node after a run as unsigned bytes, `[height][width][channels]`; `None` for a node that is not kept.
    pub fn tensor(&self, node: NodeId) -> Option<Vec<u8>> {
        let tensor = self.tensors.get(node)?.as_ref()?;
        let mut values = vec![0; tensor.shape.len()];
        self.buffers[tensor.buffer].as_ref()?.copy_interleaved(&mut values);
        Some(values)
    }

    fn wrong_input(&self, found: usize) -> Error {
        Error::WrongInput { network: self.network.clone(), wanted: self.input.shape, found }
    }

    fn set_input(&mut self, input: &[f32]) -> Result<(), Error> {
        let Tensor { shape, buffer, quantization } = self.input;
        if input.len() != shape.len() {
            return Err(self.wrong_input(input.len()));
        }
        if let Some(buffer) = &mut self.buffers[buffer] {
            for (channel, plane) in input.chunks_exact(shape.pixels()).enumerate() {
                for (pixel, &value) in plane.iter().enumerate() {
                    buffer.set(channel, pixel, to_byte(value, &quantization));
                }
            }
        }
        Ok(())
    }

    fn compute(&mut self, mut times: Option<&mut [Duration]>) -> &[f32] {
        for i in 0..self.steps.len() {
            let began = times.is_some().then(Instant::now);
            self.steps[i].run(&self.cpu, &mut self.buffers, &mut self.scratch);
            if matches!(self.steps[i].work, Work::Nothing) {
                self.finish();
            }
            if let (Some(times), Some(began)) = (&mut times, began) {
                times[i] += began.elapsed();
            }
        }
        if !self.softmax {
            self.finish();
        }
        &self.result
    }

    /// Real numbers from the last integers.
    fn finish(&mut self) {
        let Tensor { shape, buffer, .. } = self.output;
        if let Some(buffer) = &self.buffers[buffer] {
            buffer.copy_interleaved(&mut self.bytes);
        }
        let mut result = std::mem::take(&mut self.result);
        self.dequantise(&mut result);
        if self.softmax {
            softmax(&mut result, shape.pixels());
        }
        self.result = result;
    }

    fn dequantise(&self, out: &mut [f32]) {
        let Tensor { shape, quantization, .. } = self.output;
        let zero = quantization.zero_point + offset(&quantization);
        for (pixel, values) in self.bytes.chunks_exact(shape.channels).enumerate() {
            for (channel, &value) in values.iter().enumerate() {
                out[channel * shape.pixels() + pixel] = quantization.scale * (i32::from(value) - zero) as f32;
            }
        }
    }
}

/// The nearest integer, as an unsigned byte. NaN becomes 0.
fn to_byte(value: f32, quantization: &TensorQuantization) -> u8 {
    let steps = (value / quantization.scale).round() + (quantization.zero_point + offset(quantization)) as f32;
    // A cast saturates.
    steps as u8
}
