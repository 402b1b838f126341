//! Where tensors live and operators run.

use crate::{BufferPool, Error};
use std::sync::Arc;
use supple_kernels::{Cpu, Isa};

/// Where tensors live and operators run. Cheap to clone.
///
/// Operators dispatch on the device of their first argument; those that a device lacks are [`Error::Device`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu(Arc<CpuDevice>),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(supple_cuda::Gpu),
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

    /// NVIDIA GPU number `ordinal`, from 0.
    ///
    /// # Errors
    /// If there is no driver, no such GPU, or no kernel for it.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Device, Error> {
        Ok(Device::Cuda(supple_cuda::Gpu::new(ordinal)?))
    }

    /// What it is called: a GPU's name, or the CPU's instruction set.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu(device) => device.cpu.isa.to_string(),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.name().into(),
        }
    }

    /// What computes products of matrices there: kernels of our own, or on a GPU cuBLASLt where it is installed, with its version.
    pub fn products(&self) -> String {
        match self {
            Device::Cpu(_) => "own kernels".into(),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => match gpu.blas_version() {
                Some(version) => format!("cuBLASLt {version}"),
                None => "own kernels, as cuBLASLt of CUDA 12 or newer is not installed".into(),
            },
        }
    }

    /// Whether both are the same device, not only alike.
    pub fn is_same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu(a), Device::Cpu(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            (Device::Cuda(a), Device::Cuda(b)) => a.is_same(b),
            #[cfg(feature = "cuda")]
            _ => false,
        }
    }

    /// The GPU, if it is one.
    #[cfg(feature = "cuda")]
    pub(crate) fn gpu(&self) -> Result<&supple_cuda::Gpu, Error> {
        match self {
            Device::Cuda(gpu) => Ok(gpu),
            Device::Cpu(_) => Err(Error::Device { op: "gpu", detail: "the tensor lies on the CPU" }),
        }
    }

    /// The processor, if it is that; operators that a GPU lacks ask for it.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is nothing but the CPU"))]
    pub(crate) fn cpu_device(&self, op: &'static str) -> Result<&CpuDevice, Error> {
        match self {
            Device::Cpu(device) => Ok(device),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                Err(Error::Device { op, detail: "not available on the GPU; move the tensor to the CPU" })
            }
        }
    }

    /// What kernels take. For operators that have checked where their tensors live, by [`Tensor::to_rows`](crate::Tensor) or
    /// otherwise.
    pub(crate) fn kernels(&self) -> &Cpu {
        &self.cpu_device("kernels").expect("checked by the operator").cpu
    }

    /// The memory that its tensors come from, as for [`kernels`](Self::kernels).
    pub(crate) fn buffers(&self) -> &BufferPool {
        &self.cpu_device("buffers").expect("checked by the operator").buffers
    }
}

impl CpuDevice {
    /// What kernels take.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The memory that tensors come from.
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }
}
