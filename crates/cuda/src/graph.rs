//! Work captured once and replayed: one call of the driver for many kernels.

use crate::gpu::driver;
use crate::memory::Pool;
use crate::{Error, Gpu};
use cudarc::driver::{CudaGraph, sys};
use std::fmt;

/// Captured work. It reads and writes the memory that it was captured with: tensors made before must be kept, and refilled
/// before a replay. Memory that was taken and dropped during the capture belongs to the graph.
pub struct Graph {
    graph: CudaGraph,
    gpu: Gpu,
    /// What the captured work uses in between.
    memory: Pool,
}

// SAFETY: a graph is a handle of the driver that any thread may use; `replay` takes `&mut self`, so one at a time does.
unsafe impl Send for Graph {}
// SAFETY: a shared graph can do nothing: `replay` takes `&mut self`.
unsafe impl Sync for Graph {}

impl Gpu {
    /// Captures the work that `work` queues instead of doing it. Nothing else may use the GPU meanwhile.
    ///
    /// # Errors
    /// If `work` fails or waits for the GPU, or the driver fails.
    pub fn capture<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<(T, Graph), E> {
        let stream = &self.inner().stream;
        let fail = |e| driver("capturing a graph", e);
        self.bind()?;
        // Relaxed: memory may be asked for, which is no part of the stream's work.
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(fail)?;
        let common = std::mem::take(&mut *self.pool());
        let value = work();
        let memory = std::mem::replace(&mut *self.pool(), common);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(fail);
        let value = value?;
        match graph? {
            Some(graph) => Ok((value, Graph { graph, gpu: self.clone(), memory })),
            None => {
                Err(Error::Driver { what: "capturing a graph".into(), message: "nothing was captured".into() }.into())
            }
        }
    }
}

impl Graph {
    /// Queues the captured work.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn replay(&mut self) -> Result<(), Error> {
        self.gpu.bind()?;
        self.graph.launch().map_err(|e| driver("replaying a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A replay may still run; what comes after it on the stream may have the memory.
        self.gpu.pool().absorb(std::mem::take(&mut self.memory));
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}
