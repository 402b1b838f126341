//! The steps of a plan.

use crate::convnet::{Shape, Window2d};
use supple_tensor::Cpu;
use supple_tensor::kernels::AlignedBuf;
use supple_tensor::kernels::sparse_conv::{
    Epilogue, PADDING, PlanarDepthwise, Reduce, SparseLayer, global_average, plane_len, pool_rows,
};

/// Where a tensor lies: `[channels][plane]` at the beginning of a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub shape: Shape,
    pub plane: usize,
    pub buffer: usize,
}

impl Tensor {
    /// Floats from a plane of this shape to the next. Single pixels lie side by side.
    pub fn plane(shape: Shape) -> usize {
        if shape.pixels() == 1 { 1 } else { plane_len(shape.pixels()) }
    }

    /// Floats of a buffer for it.
    pub fn buffer_len(shape: Shape) -> usize {
        shape.channels * Tensor::plane(shape) + PADDING
    }

    /// Copies the planes to `[channels][height][width]`.
    pub fn gather(&self, buffer: &[f32], to: &mut [f32]) {
        let pixels = self.shape.pixels();
        for (from, to) in buffer.chunks_exact(self.plane).zip(to.chunks_exact_mut(pixels)) {
            to.copy_from_slice(&from[..pixels]);
        }
    }
}

/// A step: what it computes, from where, to where.
#[derive(Debug)]
pub(super) struct Step {
    pub work: Work,
    pub inputs: Vec<Tensor>,
    pub output: Tensor,
    /// Lowest and highest result.
    pub range: (f32, f32),
}

/// What a step computes.
#[derive(Debug)]
pub(super) enum Work {
    /// A convolution over all channels. With a residual the second input is added, and the range of the product before
    /// that is this one.
    Conv {
        layer: Box<SparseLayer>,
        residual: Option<(f32, f32)>,
    },
    Depthwise(PlanarDepthwise),
    Add,
    Concat,
    GlobalAverage,
    Pool(Reduce, Window2d),
    Softmax,
}

impl Step {
    /// Floats of scratch on `threads` threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        match &self.work {
            Work::Conv { layer, .. } => layer.scratch_len(),
            Work::Depthwise(layer) => threads * layer.scratch_len(self.output.shape.height),
            _ => 0,
        }
    }

    /// Runs the step on the buffers of the plan.
    pub fn run(&self, cpu: &Cpu, buffers: &mut [AlignedBuf], scratch: &mut [f32]) {
        let mut output = std::mem::replace(&mut buffers[self.output.buffer], AlignedBuf::zeroed(0));
        self.compute(cpu, buffers, &mut output, scratch);
        buffers[self.output.buffer] = output;
    }

    fn compute(&self, cpu: &Cpu, buffers: &[AlignedBuf], output: &mut [f32], scratch: &mut [f32]) {
        let first = self.inputs[0];
        let input = &buffers[first.buffer][..];
        let (to, pixels) = (self.output, self.output.shape.pixels());
        match &self.work {
            Work::Conv { layer, residual } => {
                let epilogue = match residual {
                    None => Epilogue { range: self.range, residual: None },
                    Some(before) => {
                        let other = &buffers[self.inputs[1].buffer][..];
                        Epilogue { range: *before, residual: Some((other, self.range)) }
                    }
                };
                layer.run(&cpu.pool, input, output, epilogue, scratch);
                return;
            }
            Work::Depthwise(layer) => {
                layer.run_planes(&cpu.pool, input, first.plane, output, to.plane, to.shape.height, self.range, scratch);
                return;
            }
            Work::GlobalAverage => {
                global_average(cpu.isa, input, first.plane, first.shape.pixels(), &mut output[..to.shape.channels]);
            }
            Work::Pool(reduce, window) => {
                let size = [first.shape.height, first.shape.width];
                let [top, _, left, _] = window.padding_at(size[0], size[1]);
                for (from, out) in input.chunks_exact(first.plane).zip(planes(output, to)) {
                    let out = (out, [to.shape.height, to.shape.width]);
                    pool_rows(*reduce, window.kernel, window.stride, [top, left], (from, size), out);
                }
            }
            Work::Add => {
                let other = buffers[self.inputs[1].buffer].chunks_exact(first.plane);
                for ((a, b), out) in input.chunks_exact(first.plane).zip(other).zip(planes(output, to)) {
                    for ((a, b), out) in a.iter().zip(b).zip(&mut out[..pixels]) {
                        *out = a + b;
                    }
                }
            }
            Work::Concat => {
                let parts = self.inputs.iter().flat_map(|tensor| {
                    let channels = tensor.shape.channels;
                    buffers[tensor.buffer].chunks_exact(tensor.plane).take(channels)
                });
                for (from, out) in parts.zip(planes(output, to)) {
                    out[..pixels].copy_from_slice(&from[..pixels]);
                }
            }
            Work::Softmax => softmax(input, output, to),
        }
        let (lowest, highest) = self.range;
        if (lowest, highest) != (f32::NEG_INFINITY, f32::INFINITY) {
            for out in planes(output, to) {
                // `f32::max` would lose NaN.
                out[..pixels].iter_mut().for_each(|v| *v = v.clamp(lowest, highest));
            }
        }
    }
}

/// The planes of a tensor.
fn planes(buffer: &mut [f32], tensor: Tensor) -> impl Iterator<Item = &mut [f32]> {
    buffer.chunks_exact_mut(tensor.plane).take(tensor.shape.channels)
}

fn softmax(input: &[f32], output: &mut [f32], tensor: Tensor) {
    for pixel in 0..tensor.shape.pixels() {
        let at = |c: usize| c * tensor.plane + pixel;
        let channels = 0..tensor.shape.channels;
        let highest = channels.clone().map(|c| input[at(c)]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for c in channels.clone() {
            let value = (input[at(c)] - highest).exp();
            output[at(c)] = value;
            sum += value;
        }
        channels.for_each(|c| output[at(c)] /= sum);
    }
}
