//! Processes with a GPU each: gradients are added up by NVIDIA's NCCL, all else over TCP.

use super::{Communicator, Tcp};
use crate::Error;
use supple_tensor::group::{Group, ID_BYTES};
use supple_tensor::{Device, Tensor};

/// A ring of processes whose GPUs add up on their own.
#[derive(Debug)]
pub struct Gpus {
    tcp: Tcp,
    group: Group,
}

impl Gpus {
    /// The GPUs of the processes of `tcp`, of which `device` is this one's. `Err` in the result gives the ring back: NCCL is not
    /// installed where process 0 runs.
    ///
    /// # Errors
    /// [`Error::Lost`] if a process is gone, or if NCCL fails.
    pub fn new(tcp: Tcp, device: &Device) -> Result<Result<Gpus, Tcp>, Error> {
        let mut id = match tcp.rank() {
            0 => Group::id()?.map_or(Vec::new(), Vec::from),
            _ => Vec::new(),
        };
        tcp.broadcast(&mut id)?;
        let Ok(id) = <[u8; ID_BYTES]>::try_from(id) else { return Ok(Err(tcp)) };
        let group = Group::new(device, tcp.rank(), tcp.size(), id)?;
        Ok(Ok(Gpus { tcp, group }))
    }
}

impl Communicator for Gpus {
    fn rank(&self) -> usize {
        self.tcp.rank()
    }

    fn size(&self) -> usize {
        self.tcp.size()
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        self.tcp.sum(values)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.tcp.broadcast(bytes)
    }

    fn sum_on_device(&self, tensor: &Tensor) -> Result<(), Error> {
        Ok(self.group.sum(tensor)?)
    }
}
