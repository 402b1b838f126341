//! What computes: the device, the instruction set and the threads that a caller asks for.

use crate::{Cpu, Error, Isa};
use std::fmt;
use std::str::FromStr;
use supple_models::Placement;

/// The CPU with so many threads; with all that the machine offers if not given.
///
/// # Errors
/// If no thread is asked for, or `SUPPLE_ISA` asks for what this CPU lacks.
pub fn cpu(threads: Option<usize>) -> Result<Cpu, Error> {
    let threads = match threads {
        Some(0) => return Err(Error::BadOption("at least one thread is needed".into())),
        Some(threads) => threads.min(1024),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(Cpu::new(Isa::from_env().map_err(Error::BadOption)?, threads))
}

/// Which device a caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU if there is one, with the CPU standing in where it cannot; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPU of this number, from 0, and nothing else.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(Ok(ordinal))) => Ok(DeviceChoice::Cuda(ordinal)),
            _ => Err("devices are auto, cpu, cuda and cuda:N".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// The first GPU's name, if it can be used; else the reason why not.
///
/// # Errors
/// If there is no GPU, driver or kernel.
pub fn gpu_name() -> Result<String, String> {
    match placement(DeviceChoice::Cuda(0)) {
        Ok(Placement { device: Some(device), .. }) => Ok(device.name()),
        Ok(_) => Err("no GPU".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why a GPU that is there is not used, in a line, where the choice would have taken one.
pub(crate) fn unused_gpu(choice: DeviceChoice) -> Option<String> {
    #[cfg(feature = "cuda")]
    if choice == DeviceChoice::Auto
        && let Err(supple_tensor::Error::Cuda(error)) = gpu(0)
    {
        return reason(&error).map(|reason| format!("the CPU stands in for the GPU: {reason}"));
    }
    let _ = choice;
    None
}

/// What there is to say of a GPU that could not be opened; nothing where there is none, or none is wanted.
#[cfg(feature = "cuda")]
fn reason(error: &supple_tensor::GpuError) -> Option<String> {
    use supple_tensor::GpuError;
    match error {
        GpuError::NoDriver | GpuError::NoDevice { .. } | GpuError::NoKernels => None,
        error => Some(error.to_string()),
    }
}

/// What computes products of matrices on the first GPU: cuBLASLt where it is installed. `None` if there is no GPU that can be used.
pub fn gpu_products() -> Option<String> {
    Some(placement(DeviceChoice::Cuda(0)).ok()?.device?.products())
}

/// The device that a choice means on this machine.
///
/// # Errors
/// If a GPU is asked for and cannot be had.
pub(crate) fn placement(choice: DeviceChoice) -> Result<Placement, Error> {
    let cpu = Placement { device: None, fall_back: true };
    match choice {
        DeviceChoice::Cpu => Ok(cpu),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Auto => Ok(cpu),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(_) => Err(Error::BadOption("this build of supple knows no GPUs".into())),
        #[cfg(feature = "cuda")]
        DeviceChoice::Auto => Ok(gpu(0).map_or(cpu, |device| Placement { device: Some(device), fall_back: true })),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(ordinal) => {
            let device = gpu(ordinal).map_err(supple_models::Error::from)?;
            Ok(Placement { device: Some(device), fall_back: false })
        }
    }
}

/// A GPU, opened once: its kernels take a while to load.
#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<supple_tensor::Device, supple_tensor::Error> {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};
    use supple_tensor::Device;
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::cuda(ordinal)?;
    open.insert(ordinal, device.clone());
    Ok(device)
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::reason;
    use supple_tensor::GpuError;

    #[test]
    fn only_a_gpu_that_is_there_is_spoken_of() {
        for silent in [GpuError::NoDriver, GpuError::NoDevice { ordinal: 0, count: 0 }, GpuError::NoKernels] {
            assert_eq!(reason(&silent), None);
        }
        let old = GpuError::Unsupported { gpu: "Tesla V100".into(), capability: "7.0".into() };
        assert!(reason(&old).unwrap().contains("Tesla V100"));
        let driver = GpuError::OldDriver { found: "12.2".into(), wanted: "13.0".into() };
        assert!(reason(&driver).unwrap().contains("12.2"));
    }
}
