//! A network packed for one CPU, with the memory that it needs: what runs fast.
//!
//! Nodes become steps. A depthwise convolution that only a 1×1 convolution reads becomes the feed of that product, and
//! an addition of a product that nothing else reads becomes its residual. Tensors are planar and share buffers as soon
//! as they are no longer read; running allocates nothing.

mod build;
mod step;
#[cfg(test)]
mod tests;

use super::{ConvNet, NodeId, Op, Preprocessing, Shape};
use crate::Error;
pub(super) use build::describe;
use std::time::{Duration, Instant};
use step::{Step, Tensor};
use supple_tensor::Cpu;
use supple_tensor::kernels::{AlignedBuf, Isa, has_fp16};

/// A network that is ready to run.
#[derive(Debug)]
pub struct Plan {
    cpu: Cpu,
    network: String,
    layers: Vec<Layer>,
    steps: Vec<Step>,
    /// Where the tensor of each node lies, if it is kept.
    tensors: Vec<Option<Tensor>>,
    buffers: Vec<AlignedBuf>,
    scratch: AlignedBuf,
    input: Tensor,
    output: Tensor,
    result: Vec<f32>,
    /// The value of each sample, for each colour.
    samples: Vec<[f32; 256]>,
    /// Whether products are computed in half precision.
    half: bool,
}

/// What products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    F32,
    /// Half precision, where the CPU computes so.
    Half,
}

/// What one step of a plan computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Names of the nodes, joined by `+`.
    pub name: String,
    /// What it is, such as `depthwise 3x3 + conv 1x1`.
    pub kind: String,
    /// What it reads.
    pub input: Shape,
    /// What it makes.
    pub output: Shape,
    /// Multiplications and additions, in pairs, if no weight were zero.
    pub macs: u64,
    /// Those of weights that are not zero.
    pub nonzero_macs: u64,
}

impl Layer {
    /// Share of multiplications that the zeros save.
    pub fn sparsity(&self) -> f64 {
        if self.macs == 0 { 0.0 } else { 1.0 - self.nonzero_macs as f64 / self.macs as f64 }
    }
}

impl Plan {
    /// Packs `network` for `cpu`.
    ///
    /// # Errors
    /// If the network is inconsistent, see [`ConvNet::shapes`].
    pub fn new(cpu: &Cpu, network: &ConvNet) -> Result<Plan, Error> {
        Plan::keeping(cpu, network, &[])
    }

    /// As [`new`](Self::new), and the tensors of the nodes `keep` can be read after a run: these are neither fused away nor
    /// overwritten.
    ///
    /// # Errors
    /// If the network is inconsistent.
    ///
    /// # Panics
    /// If a node to be kept does not exist.
    pub fn keeping(cpu: &Cpu, network: &ConvNet, keep: &[NodeId]) -> Result<Plan, Error> {
        build::plan(cpu, network, keep, Numbers::F32)
    }

    /// As [`new`](Self::new), with products of convolutions in half precision where the CPU computes faster in it: on ARM with
    /// FEAT_FP16. Weights and what they are multiplied by have eleven significant bits then, and reach to ±65504. Elsewhere
    /// this is [`new`](Self::new).
    ///
    /// # Errors
    /// If the network is inconsistent.
    pub fn fast(cpu: &Cpu, network: &ConvNet) -> Result<Plan, Error> {
        if has_fp16() && cpu.isa == Isa::Neon {
            return build::plan(cpu, network, &[], Numbers::Half);
        }
        Plan::new(cpu, network)
    }

    /// Whether products are computed in half precision.
    pub fn is_half(&self) -> bool {
        self.half
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Shape {
        self.input.shape
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Shape {
        self.output.shape
    }

    /// What is computed, step by step.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What the plan runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Runs the network on `input`, `[channels][height][width]` and already normalised; gives `[channels][height][width]`
    /// of the last node.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the input has another length than its shape.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        self.set_input(input)?;
        Ok(self.compute(None))
    }

    /// Runs the network on a picture of its size, `[height][width][3]`, samples red green blue.
    ///
    /// # Errors
    /// [`Error::WrongInput`] if the picture has another size, or the network takes no pictures of three colours.
    pub fn run_rgb(&mut self, rgb: &[u8]) -> Result<&[f32], Error> {
        let Shape { channels, height, width } = self.input.shape;
        if channels != 3 || rgb.len() != 3 * height * width {
            return Err(self.wrong_input(rgb.len()));
        }
        let (plane, buffer) = (self.input.plane, self.input.buffer);
        let (red, rest) = self.buffers[buffer].split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let tables = [&self.samples[0], &self.samples[1], &self.samples[2]];
        for (((pixel, red), green), blue) in rgb.chunks_exact(3).zip(red).zip(green).zip(blue) {
            *red = tables[0][pixel[0] as usize];
            *green = tables[1][pixel[1] as usize];
            *blue = tables[2][pixel[2] as usize];
        }
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

    /// The tensor of a node after a run, as `[channels][height][width]`; `None` for a node that is not kept.
    pub fn tensor(&self, node: NodeId) -> Option<Vec<f32>> {
        let tensor = self.tensors.get(node)?.as_ref()?;
        let mut values = vec![0.0; tensor.shape.len()];
        tensor.gather(&self.buffers[tensor.buffer], &mut values);
        Some(values)
    }

    fn wrong_input(&self, found: usize) -> Error {
        Error::WrongInput { network: self.network.clone(), wanted: self.input.shape, found }
    }

    fn set_input(&mut self, input: &[f32]) -> Result<(), Error> {
        if input.len() != self.input.shape.len() {
            return Err(self.wrong_input(input.len()));
        }
        let Tensor { shape, plane, buffer } = self.input;
        for (from, to) in input.chunks_exact(shape.pixels()).zip(self.buffers[buffer].chunks_exact_mut(plane)) {
            to[..shape.pixels()].copy_from_slice(from);
        }
        Ok(())
    }

    fn compute(&mut self, mut times: Option<&mut [Duration]>) -> &[f32] {
        for (i, step) in self.steps.iter().enumerate() {
            let began = times.is_some().then(Instant::now);
            step.run(&self.cpu, &mut self.buffers, &mut self.scratch);
            if let (Some(times), Some(began)) = (&mut times, began) {
                times[i] += began.elapsed();
            }
        }
        self.output.gather(&self.buffers[self.output.buffer], &mut self.result);
        &self.result
    }
}

/// Tables from samples to input values.
pub(super) fn sample_tables(preprocessing: &Preprocessing) -> Vec<[f32; 256]> {
    let table = |colour: usize| {
        let (mean, deviation) = (preprocessing.mean[colour], preprocessing.deviation[colour]);
        std::array::from_fn(|sample| (sample as f32 / 255.0 - mean) / deviation)
    };
    (0..3).map(table).collect()
}

impl ConvNet {
    /// Values that the classifier's last operator gives are probabilities.
    pub fn ends_in_softmax(&self) -> bool {
        matches!(self.nodes.last().map(|node| &node.op), Some(Op::Softmax))
    }
}
