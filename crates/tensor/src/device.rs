//! Where tensors live and operators run.

use crate::{BufferPool, Error};
use std::sync::Arc;
use supple_kernels::{Cpu, Isa};

/// Where tensors live and operators run. Cheap to clone.
///
/// There is one kind today. CUDA GPUs will be a second variant, on `supple-cuda`: operators already dispatch on the
/// device of their first argument, so each gains a branch and keeps its signature and its shape checks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu(Arc<CpuDevice>),
}

/// The processor: an instruction set, threads, and the memory that tensors come from.
#[derive(Debug)]
pub struct CpuDevice {
    cpu: Cpu,
    buffers: BufferPool,
}

impl Device {
    /// The processor, with the instruction set and the threads of `cpu`.
    ///
    /// # Errors
    /// [`Error::Isa`] if this CPU lacks the instruction set.
    pub fn cpu(cpu: Cpu) -> Result<Device, Error> {
        let offered = Isa::detect();
        if !cpu.isa.is_available() {
            return Err(Error::Isa { wanted: cpu.isa, offered });
        }
        Ok(Device::Cpu(Arc::new(CpuDevice { cpu, buffers: BufferPool::new() })))
    }

    /// Whether both are the same device, not only alike.
    pub fn is_same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu(a), Device::Cpu(b)) => Arc::ptr_eq(a, b),
        }
    }

    /// What kernels take.
    pub(crate) fn kernels(&self) -> &Cpu {
        match self {
            Device::Cpu(device) => &device.cpu,
        }
    }

    /// The memory that its tensors come from.
    pub fn buffers(&self) -> &BufferPool {
        match self {
            Device::Cpu(device) => &device.buffers,
        }
    }
}

impl CpuDevice {
    /// What kernels take.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}
