//! Work on inputs of one shape, recorded once and replayed.

use crate::{DType, Device, Dims, Error, Tensor};
use std::fmt;
use supple_cuda::{Graph, Pinned};

/// A function of one `f32` tensor that a GPU replays as one graph. The CPU has nothing to gain from it, and refuses.
pub struct Recorded {
    input: Tensor,
    output: Tensor,
    graph: Graph,
    /// Where values of the host wait on their way.
    staging: Pinned,
}

impl Recorded {
    /// Records `work` for inputs like `input`: it is called once to warm up and once more to record.
    ///
    /// # Errors
    /// If `work` fails or asks for values of a tensor, or the input or the result is not `f32`.
    pub fn new<E: From<Error>>(input: &Tensor, work: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Recorded, E> {
        input.expect_dtype("recorded", DType::F32)?;
        let input = input.contiguous()?;
        let Device::Cuda(gpu) = input.device().clone() else {
            return Err(Error::Device { op: "recorded", detail: "only work on a GPU can be recorded" }.into());
        };
        drop(work(&input)?);
        gpu.synchronize().map_err(Error::from)?;
        let captured = gpu.capture(|| Ok::<_, supple_cuda::Error>(work(&input)));
        let (output, graph) = captured.map_err(Error::from)?;
        let output = output?.contiguous()?;
        output.expect_dtype("recorded", DType::F32)?;
        let staging = gpu.pinned(input.elements().max(output.elements()) * 4).map_err(Error::from)?;
        Ok(Recorded { input, output, graph, staging })
    }

    /// Shape of the input.
    pub fn input_shape(&self) -> &Dims {
        self.input.shape()
    }

    /// Calls `fill` with the input's values to write, runs, and gives the result's; both in row-major order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&mut self, fill: impl FnOnce(&mut [f32])) -> Result<&[f32], Error> {
        let gpu = self.input.device().gpu()?;
        let (inputs, outputs) = (self.input.elements() * 4, self.output.elements() * 4);
        fill(bytemuck::cast_slice_mut(&mut self.staging[..inputs]));
        gpu.write(self.input.memory()?, self.input.layout().offset() * 4, &self.staging[..inputs])?;
        self.graph.replay()?;
        gpu.download(self.output.memory()?, self.output.layout().offset() * 4, &mut self.staging[..outputs])?;
        Ok(bytemuck::cast_slice(&self.staging[..outputs]))
    }

    /// Queues the recorded work again on the input that is there, for measurements.
    ///
    /// # Errors
    /// If the device fails.
    pub fn replay(&mut self) -> Result<(), Error> {
        Ok(self.graph.replay()?)
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorded({:?} to {:?})", self.input, self.output)
    }
}

/// Work of any kind that a GPU replays as one graph, on tensors that stay where they are.
pub struct Replay {
    graph: Graph,
    /// What the work made and somebody may still read.
    _kept: Vec<Tensor>,
}

impl Replay {
    /// Records what `work` queues, without doing it. Tensors that it reads must be kept by the caller; those that it returns are
    /// kept along.
    ///
    /// # Errors
    /// If `device` is no GPU, or `work` fails, or waits for the GPU.
    pub fn new<E: From<Error>>(device: &Device, work: impl FnOnce() -> Result<Vec<Tensor>, E>) -> Result<Replay, E> {
        let gpu = device.gpu()?;
        // What recorded work uses is its own: memory that waits would be there twice.
        gpu.trim().map_err(Error::from)?;
        let captured = gpu.capture(|| Ok::<_, supple_cuda::Error>(work()));
        let (kept, graph) = captured.map_err(Error::from)?;
        Ok(Replay { graph, _kept: kept? })
    }

    /// Queues the work again.
    ///
    /// # Errors
    /// If the device fails.
    pub fn replay(&mut self) -> Result<(), Error> {
        Ok(self.graph.replay()?)
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}
