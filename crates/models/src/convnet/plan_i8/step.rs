//! The steps of a plan in integers.

use super::Tensor;
use supple_tensor::Cpu;
use supple_tensor::kernels::sparse_conv_i8::{
    AddLayer, ConvLayer, Geometry, PackedDepthwise, PoolKind, QuadBuf, Scratch, copy_channels, depthwise_scratch_bytes,
    pool, rescaled_mean, run_depthwise,
};

/// A step: what it computes, from where, to where.
#[derive(Debug)]
pub(super) struct Step {
    pub work: Work,
    pub inputs: Vec<Tensor>,
    pub output: Tensor,
}

/// What a step computes.
#[derive(Debug)]
pub(super) enum Work {
    Conv(Box<ConvLayer>),
    Depthwise(Box<PackedDepthwise>),
    Add(AddLayer),
    /// Each input on the scale of the output.
    Concat(Vec<[u8; 256]>),
    Pool {
        kind: PoolKind,
        geometry: Geometry,
        range: [i32; 2],
    },
    /// The mean of each plane on another scale: the quotient of the scales and the range.
    Mean(f64, [i32; 2]),
    /// Softmax at the end, which the plan does when it makes the result.
    Nothing,
}

impl Step {
    /// Bytes of scratch for each thread.
    pub fn scratch_bytes(&self) -> usize {
        match &self.work {
            Work::Conv(layer) => layer.scratch_bytes(),
            Work::Depthwise(layer) => depthwise_scratch_bytes(layer),
            _ => 0,
        }
    }

    /// Runs the step on the buffers of the plan.
    pub fn run(&self, cpu: &Cpu, buffers: &mut [Option<QuadBuf>], scratch: &mut Scratch) {
        if matches!(self.work, Work::Nothing) {
            return;
        }
        let Some(mut output) = buffers[self.output.buffer].take() else { unreachable!("steps hand buffers back") };
        let shape = self.output.shape;
        output.reshape(shape.channels, shape.height, shape.width);
        self.compute(cpu, buffers, &mut output, scratch);
        buffers[self.output.buffer] = Some(output);
    }

    fn compute(&self, cpu: &Cpu, buffers: &[Option<QuadBuf>], output: &mut QuadBuf, scratch: &mut Scratch) {
        let input = |i: usize| buffers[self.inputs[i].buffer].as_ref().expect("no step writes what it reads");
        let zero = |tensor: &Tensor| tensor.quantization.zero_point + super::offset(&tensor.quantization);
        match &self.work {
            Work::Conv(layer) => layer.run(&cpu.pool, input(0), output, scratch),
            Work::Depthwise(layer) => run_depthwise(&cpu.pool, layer, input(0), output, scratch),
            Work::Add(layer) => layer.run(input(0), input(1), output),
            Work::Concat(maps) => {
                let mut first = 0;
                for (i, map) in maps.iter().enumerate() {
                    copy_channels(input(i), map, output, first);
                    first += self.inputs[i].shape.channels;
                }
            }
            Work::Pool { kind, geometry, range } => pool(input(0), *kind, geometry, *range, output),
            Work::Mean(factor, range) => {
                rescaled_mean(input(0), zero(&self.inputs[0]), *factor, zero(&self.output), *range, output);
            }
            Work::Nothing => {}
        }
    }
}

/// `exp(x) / Σ exp(x)` over the planes of `values`, each of `pixels` numbers.
pub(super) fn softmax(values: &mut [f32], pixels: usize) {
    for pixel in 0..pixels {
        let of = values.iter().skip(pixel).step_by(pixels);
        let highest = of.copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for value in values.iter_mut().skip(pixel).step_by(pixels) {
            *value = (*value - highest).exp();
            sum += *value;
        }
        values.iter_mut().skip(pixel).step_by(pixels).for_each(|value| *value /= sum);
    }
}
