//! Several GPUs, one a process, that add up tensors between them.

use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};
use supple_cuda::ElementsMut;
pub use supple_cuda::nccl::ID_BYTES;
use supple_cuda::nccl::Nccl;

/// One GPU of several.
#[derive(Debug)]
pub struct Group {
    nccl: Nccl,
}

impl Group {
    /// What processes meet by: made by one of them, and given to all. `None` if NVIDIA's NCCL is not installed.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn id() -> Result<Option<[u8; ID_BYTES]>, Error> {
        if Nccl::is_present() { Ok(Some(Nccl::id()?)) } else { Ok(None) }
    }

    /// The GPU of process `rank` of `size`; waits for the others.
    ///
    /// # Errors
    /// If `device` is no GPU, or NCCL is not installed or fails.
    pub fn new(device: &Device, rank: usize, size: usize, id: [u8; ID_BYTES]) -> Result<Group, Error> {
        Ok(Group { nccl: Nccl::new(device.gpu()?, rank, size, id)? })
    }

    /// Queues replacing a tensor, where it lies, by the sum over all GPUs.
    ///
    /// # Errors
    /// If it is not `f32`, has gaps, or NCCL fails.
    pub fn sum(&self, tensor: &Tensor) -> Result<(), Error> {
        tensor.expect_dtype("sum over GPUs", DType::F32)?;
        if !tensor.layout().is_contiguous() {
            return refuse!("sum over GPUs", "{:?} has gaps", tensor.layout());
        }
        let elements = ElementsMut::new(tensor.memory()?, tensor.layout().offset(), supple_cuda::DType::F32);
        Ok(self.nccl.sum(elements, tensor.elements())?)
    }
}
