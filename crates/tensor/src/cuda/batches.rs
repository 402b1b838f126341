//! A classifier over batches of pictures of one size, recorded once and replayed.

use super::{image_mut, new_image, read};
use crate::{DType, Device, Error, Tensor};
use std::fmt;
use supple_cuda::samples::from_pixels;
use supple_cuda::{Gpu, Graph, Memory, Pinned};

/// A network over `n` pictures of one size at a time, which a GPU replays as one graph.
pub struct RecordedBatches {
    gpu: Gpu,
    /// Pictures, height and width.
    size: [usize; 3],
    from: Memory,
    /// Read by the graph.
    _tensors: [Tensor; 2],
    result: Tensor,
    graph: Graph,
    staging: Pinned,
    staging_back: Pinned,
}

impl RecordedBatches {
    /// Records `work` for `[n, h, w, 3]` of type `dtype`, made of samples by `table`, the values of each colour's 256 samples; the
    /// result of `work` is f32.
    ///
    /// # Errors
    /// If `work` fails or gives something else, or the device fails.
    pub fn new<E: From<Error>>(
        device: &Device,
        size @ [n, height, width]: [usize; 3],
        dtype: DType,
        table: &[[f32; 256]; 3],
        work: &dyn Fn(&Tensor) -> Result<Tensor, E>,
    ) -> Result<RecordedBatches, E> {
        let gpu = device.gpu()?.clone();
        let fail = |error: supple_cuda::Error| Error::from(error);
        let table = Tensor::from_slice(device, table.as_flattened(), &[3, 256])?;
        let x = new_image(&table, [n, height, width, 3], dtype)?;
        let bytes = n * height * width * 3;
        let from = gpu.allocate(bytes).map_err(fail)?;
        gpu.clear(&from, 0, bytes).map_err(fail)?;
        let all = || -> Result<Tensor, E> {
            from_pixels(&gpu, &from, read(&table)?, image_mut(&x)?).map_err(fail)?;
            let y = work(&x)?.contiguous()?;
            y.expect_dtype("recorded", DType::F32)?;
            Ok(y)
        };
        // The first time takes what memory there is to take, and packs weights.
        drop(all()?);
        // What that took goes back: the graph has memory of its own.
        gpu.trim().map_err(fail)?;
        let mut result = None;
        let captured = gpu.capture(|| {
            result = Some(all());
            Ok::<_, supple_cuda::Error>(())
        });
        // What went wrong with the work says more than that nothing could be captured.
        let result = result.transpose()?;
        let (_, graph) = captured.map_err(fail)?;
        let result = result.expect("the work was captured");
        let staging = gpu.pinned(bytes).map_err(fail)?;
        let staging_back = gpu.pinned(result.elements() * 4).map_err(fail)?;
        Ok(RecordedBatches { size, from, _tensors: [x, table], result, graph, staging, staging_back, gpu })
    }

    /// Pictures of a batch, their height and width.
    pub fn size(&self) -> [usize; 3] {
        self.size
    }

    /// Runs up to a batch of pictures, `[height][width][3]` bytes each; gives the whole batch's results.
    ///
    /// # Errors
    /// If there are too many or one has another size, or the device fails.
    pub fn run(&mut self, pictures: &[&[u8]]) -> Result<&[f32], Error> {
        let [n, height, width] = self.size;
        let one = height * width * 3;
        if pictures.len() > n || pictures.iter().any(|picture| picture.len() != one) {
            return crate::error::refuse!("batches", "{} pictures, takes {n} of {one} bytes", pictures.len());
        }
        for (to, picture) in self.staging.chunks_exact_mut(one).zip(pictures) {
            to.copy_from_slice(picture);
        }
        self.gpu.write(&self.from, 0, &self.staging[..pictures.len() * one])?;
        self.graph.replay()?;
        let at = self.result.layout().offset() * 4;
        self.gpu.download(self.result.memory()?, at, &mut self.staging_back)?;
        Ok(bytemuck::cast_slice(&self.staging_back))
    }

    /// Queues the recorded work again on the pictures that are there, for measurements.
    ///
    /// # Errors
    /// If the device fails.
    pub fn replay(&mut self) -> Result<(), Error> {
        Ok(self.graph.replay()?)
    }
}

impl fmt::Debug for RecordedBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordedBatches({:?})", self.size)
    }
}
