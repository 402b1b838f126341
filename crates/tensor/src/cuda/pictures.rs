//! A network over pictures of one size, from samples to samples, recorded once and replayed.

use super::{image_mut, new_image, read};
use crate::{DType, Device, Error, Tensor};
use std::fmt;
use std::time::{Duration, Instant};
use supple_cuda::samples::{from_samples, to_samples};
use supple_cuda::{Gpu, Graph, Memory, Pinned};

pub use supple_cuda::samples::Samples;

/// What pictures have in common, and how a network takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureShape {
    /// Height and width.
    pub size: [usize; 2],
    /// Type of the samples.
    pub samples: Samples,
    /// The network sees sides rounded up to a multiple of this, mirrored.
    pub multiple: usize,
    /// Output pixels along a side of an input pixel.
    pub scale: usize,
    /// Type of the activations.
    pub dtype: DType,
}

impl PictureShape {
    fn bytes(&self, scale: usize) -> usize {
        self.size[0] * self.size[1] * scale * scale * 3 * self.samples.size()
    }
}

/// Where the time of a picture went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// From the host to the device.
    pub upload: Duration,
    /// On the device.
    pub run: Duration,
    /// And back.
    pub download: Duration,
}

/// A network over pictures of one shape, which a GPU replays as one graph.
pub struct RecordedPictures {
    gpu: Gpu,
    shape: PictureShape,
    from: Memory,
    to: Memory,
    bad_row: Memory,
    /// Read and written by the graph.
    _tensors: [Tensor; 2],
    graph: Graph,
    staging: Pinned,
    staging_back: Pinned,
}

impl RecordedPictures {
    /// Records `work`, which takes `[1, h, w, 3]` in 0..1 and gives `[1, h * scale, w * scale, 3]` in f32.
    ///
    /// # Errors
    /// If `work` fails or gives something else, or the device fails.
    pub fn new<E: From<Error>>(
        device: &Device,
        shape: PictureShape,
        work: &dyn Fn(&Tensor) -> Result<Tensor, E>,
    ) -> Result<RecordedPictures, E> {
        let gpu = device.gpu()?.clone();
        let fail = |error: supple_cuda::Error| Error::from(error);
        let padded = shape.size.map(|side| side.next_multiple_of(shape.multiple.max(1)));
        let like = Tensor::zeros(device, &[1], shape.dtype)?;
        let x = new_image(&like, [1, padded[0], padded[1], 3], shape.dtype)?;
        let from = gpu.allocate(shape.bytes(1)).map_err(fail)?;
        let to = gpu.allocate(shape.bytes(shape.scale)).map_err(fail)?;
        let bad_row = gpu.allocate(4).map_err(fail)?;
        let large = padded.map(|side| side * shape.scale);
        let all = || -> Result<Tensor, E> {
            from_samples(&gpu, shape.samples, shape.size, &from, image_mut(&x)?, &bad_row).map_err(fail)?;
            let y = work(&x)?.contiguous()?;
            y.expect_dtype("recorded", DType::F32)?;
            if **y.shape() != [1, large[0], large[1], 3] {
                return Err(wrong_result(&y, large).into());
            }
            let size = shape.size.map(|side| side * shape.scale);
            to_samples(&gpu, shape.samples, size, (read(&y)?, large), &to, &bad_row).map_err(fail)?;
            Ok(y)
        };
        // The first time takes what memory there is to take, and packs weights.
        drop(all()?);
        // What that took goes back: the graph has memory of its own.
        gpu.trim().map_err(fail)?;
        let mut y = None;
        let captured = gpu.capture(|| {
            y = Some(all());
            Ok::<_, supple_cuda::Error>(())
        });
        // What went wrong with the work says more than that nothing could be captured.
        let y = y.transpose()?;
        let (_, graph) = captured.map_err(fail)?;
        let y = y.expect("the work was captured");
        let staging = gpu.pinned(shape.bytes(1)).map_err(fail)?;
        let staging_back = gpu.pinned(shape.bytes(shape.scale)).map_err(fail)?;
        Ok(RecordedPictures { shape, from, to, bad_row, _tensors: [x, y], graph, staging, staging_back, gpu })
    }

    /// What pictures it takes.
    pub fn shape(&self) -> &PictureShape {
        &self.shape
    }

    /// The picture `from`, row by row without gaps, enlarged to `to`; also the first row with a value that is no finite number.
    ///
    /// # Errors
    /// If slices have other lengths, or the device fails.
    pub fn run(&mut self, from: &[u8], to: &mut [u8]) -> Result<(Stages, Option<usize>), Error> {
        if from.len() != self.staging.len() || to.len() != self.staging_back.len() {
            let wanted = (self.staging.len(), self.staging_back.len());
            return crate::error::refuse!("pictures", "{} to {} bytes, wants {wanted:?}", from.len(), to.len());
        }
        let start = Instant::now();
        self.staging.copy_from_slice(from);
        self.gpu.write(&self.from, 0, &self.staging)?;
        let uploaded = Instant::now();
        self.graph.replay()?;
        let mut bad = [0; 4];
        self.gpu.download(&self.bad_row, 0, &mut bad)?;
        let done = Instant::now();
        self.gpu.download(&self.to, 0, &mut self.staging_back)?;
        copy_by_threads(&self.staging_back, to);
        let stages = Stages { upload: uploaded - start, run: done - uploaded, download: done.elapsed() };
        let bad = i32::from_ne_bytes(bad);
        Ok((stages, (bad != i32::MAX).then_some(bad.max(0) as usize)))
    }
}

/// A copy as wide as memory is: one thread reaches a part of its bandwidth, and the first touch of fresh pages costs more than the copy.
fn copy_by_threads(from: &[u8], to: &mut [u8]) {
    const PART: usize = 8 << 20;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8).min(to.len().div_ceil(PART));
    if threads < 2 {
        return to.copy_from_slice(from);
    }
    let part = to.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

fn wrong_result(y: &Tensor, large: [usize; 2]) -> Error {
    let detail = format!("a result of {:?}, wants [1, {}, {}, 3]", y.shape(), large[0], large[1]);
    Error::Shape { op: "pictures", detail }
}

impl fmt::Debug for RecordedPictures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordedPictures({:?})", self.shape)
    }
}
