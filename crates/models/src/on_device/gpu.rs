//! An NVIDIA GPU as a device that enlarges pictures.
//!
//! A picture goes up once and comes back once, as samples; what lies between stays on the device. When pictures of one size follow
//! each other, as the frames of a film do, the GPU replays the work as one graph.

use super::{DeviceError, Enlarged, PictureDevice, Rgb, RgbMut, Stages};
use crate::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use supple_tensor::{DType, Device, GpuError, PictureShape, RecordedPictures, Samples, Tensor};

/// A network as a function of `[1, h, w, 3]` in 0..1.
type Forward = Box<dyn Fn(&Tensor) -> Result<Tensor, Error> + Send + Sync>;

/// A network on a GPU.
pub(crate) struct Gpu {
    device: Device,
    dtype: DType,
    scale: usize,
    /// Sides of what the network sees are multiples of this.
    multiple: usize,
    forward: Forward,
    recorded: Mutex<Option<RecordedPictures>>,
}

impl Gpu {
    /// A network that `forward` is, with activations of type `dtype`.
    pub(crate) fn new(device: &Device, dtype: DType, scale: usize, multiple: usize, forward: Forward) -> Gpu {
        Gpu { device: device.clone(), dtype, scale, multiple, forward, recorded: Mutex::default() }
    }

    fn run(&self, size: [usize; 2], samples: Samples, from: &[u8], to: &mut [u8]) -> Result<Enlarged, Error> {
        let mut slot = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let shape = PictureShape { size, samples, multiple: self.multiple, scale: self.scale, dtype: self.dtype };
        if slot.as_ref().is_none_or(|recorded| *recorded.shape() != shape) {
            // What it held may be wanted for the new one.
            *slot = None;
            *slot = Some(RecordedPictures::new(&self.device, shape, &self.forward)?);
        }
        let (stages, bad_row) = slot.as_mut().expect("set above").run(from, to)?;
        let supple_tensor::Stages { upload, run, download } = stages;
        Ok(Enlarged { stages: Stages { upload, run, download }, bad_row })
    }
}

impl PictureDevice for Gpu {
    fn name(&self) -> String {
        format!("{}, {}", self.device.name(), self.dtype)
    }

    fn enlarge(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Result<Enlarged, DeviceError> {
        let result = match (from, to) {
            (Rgb::Eight(from), RgbMut::Eight(to)) => self.run(size, Samples::Eight, from, to),
            (Rgb::Sixteen(from), RgbMut::Sixteen(to)) => self.run(size, Samples::Sixteen, bytes(from), bytes_mut(to)),
            (Rgb::Floats(from), RgbMut::Floats(to)) => self.run(size, Samples::Floats, bytes(from), bytes_mut(to)),
            _ => unreachable!("the caller matched them"),
        };
        result.map_err(|error| match error {
            Error::Tensor(supple_tensor::Error::Cuda(GpuError::OutOfMemory { .. })) => DeviceError::Exhausted(error),
            error => DeviceError::Failed(error),
        })
    }
}

fn bytes<T: bytemuck::Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn bytes_mut<T: bytemuck::Pod>(values: &mut [T]) -> &mut [u8] {
    bytemuck::cast_slice_mut(values)
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}
