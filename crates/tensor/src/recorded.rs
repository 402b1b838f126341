//! Work on inputs of one shape, recorded once and replayed.

use crate::{DType, Device, Dims, Error, Tensor};
use std::fmt;

/// A function of one `f32` tensor that a GPU replays as one graph. The CPU has nothing to gain from it, and refuses.
pub struct Recorded {
    input: Tensor,
    output: Tensor,
    #[cfg(feature = "cuda")]
    graph: Option<(supple_cuda::Graph, supple_cuda::Pinned)>,
}

impl Recorded {
    /// Records `work` for inputs like `input`: it is called once to warm up and once more to record.
    ///
    /// # Errors
    /// If `work` fails, or asks for values of a tensor, or the input is not `f32` without gaps.
    pub fn new<E: From<Error>>(input: &Tensor, work: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Recorded, E> {
        input.expect_dtype("recorded", DType::F32)?;
        let input = input.contiguous()?;
        let output = work(&input)?;
        match input.device() {
            Device::Cpu(_) => {
                Err(Error::Device { op: "recorded", detail: "only work on a GPU can be recorded" }.into())
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                drop(output);
                gpu.synchronize().map_err(Error::from)?;
                let captured = gpu.capture(|| Ok::<_, supple_cuda::Error>(work(&input)));
                let (output, graph) = captured.map_err(Error::from)?;
                let output = output?.contiguous()?;
                output.expect_dtype("recorded", DType::F32)?;
                let staging = gpu.pinned(input.elements().max(output.elements()) * 4).map_err(Error::from)?;
                Ok(Recorded { input, output, graph: Some((graph, staging)) })
            }
        }
    }

    /// Shape of the input.
    pub fn input_shape(&self) -> &Dims {
        self.input.shape()
    }

    /// Calls `fill` with the input's values to write, runs, and gives the result's; both in row-major order.
    ///
    /// # Errors
    /// If the device fails.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "nothing can be recorded"))]
    pub fn run(&mut self, fill: impl FnOnce(&mut [f32])) -> Result<&[f32], Error> {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(gpu), Some((graph, staging))) = (self.input.device().clone(), &mut self.graph) {
            let (inputs, outputs) = (self.input.elements() * 4, self.output.elements() * 4);
            fill(bytemuck::cast_slice_mut(&mut staging[..inputs]));
            gpu.write(self.input.memory()?, self.input.layout().offset() * 4, &staging[..inputs])?;
            graph.replay()?;
            gpu.download(self.output.memory()?, self.output.layout().offset() * 4, &mut staging[..outputs])?;
            return Ok(bytemuck::cast_slice(&staging[..outputs]));
        }
        Err(Error::Device { op: "recorded", detail: "only work on a GPU can be recorded" })
    }

    /// Queues the recorded work again on the input that is there, for measurements.
    ///
    /// # Errors
    /// If the device fails.
    pub fn replay(&mut self) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some((graph, _)) = &mut self.graph {
            graph.replay()?;
        }
        Ok(())
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorded({:?} to {:?})", self.input, self.output)
    }
}
