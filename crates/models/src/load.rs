//! Finding out which network a checkpoint holds.

#[cfg(feature = "cuda")]
use crate::OnDevice;
#[cfg(feature = "ditn")]
use crate::ditn::{self, Ditn};
use crate::rlfn::{self, Rlfn};
use crate::{Error, Precision, SuperResolution};
use supple_tensor::{Cpu, Device};
use supple_weights::Weights;

/// Where a super-resolution network runs.
#[derive(Clone, Debug)]
pub struct Placement {
    /// A device that holds whole pictures; none for the CPU alone.
    pub device: Option<Device>,
    /// Whether the CPU stands in where the device cannot: for networks that it does not run, pictures beyond its memory, or
    /// when it fails.
    pub fall_back: bool,
}

/// Loads the super-resolution network in `weights` for a device, with activations in f16 unless `precision` is
/// [`Precision::F32`].
///
/// # Errors
/// As [`load`], if the device fails, or if the network does not run on it and the CPU may not stand in.
pub fn load_on(
    cpu: &Cpu,
    placement: &Placement,
    weights: &Weights,
    precision: Precision,
) -> Result<Box<dyn SuperResolution>, Error> {
    match &placement.device {
        #[cfg(feature = "cuda")]
        Some(device @ Device::Cuda(_)) => load_on_gpu(cpu, device, placement.fall_back, weights, precision),
        _ => load(cpu, weights, precision),
    }
}

#[cfg(feature = "cuda")]
fn load_on_gpu(
    cpu: &Cpu,
    device: &Device,
    fall_back: bool,
    weights: &Weights,
    precision: Precision,
) -> Result<Box<dyn SuperResolution>, Error> {
    use crate::on_device::{Gpu, StandsIn};
    use supple_tensor::DType;
    let dtype = if precision == Precision::F32 { DType::F32 } else { DType::F16 };
    let network = load(cpu, weights, precision)?;
    let scale = network.scale();
    let layers = || -> Result<(Gpu, bool), Error> {
        #[cfg(feature = "ditn")]
        if ditn::recognises(weights) {
            let layers = ditn::DitnLayers::load(device, dtype, weights)?;
            return Ok((Gpu::new(device, dtype, scale, ditn::PATCH, Box::new(move |x| layers.forward(x))), true));
        }
        // The attention's grid spans the whole picture.
        let layers = rlfn::RlfnLayers::load(device, dtype, weights)?;
        Ok((Gpu::new(device, dtype, scale, 1, Box::new(move |x| layers.forward(x))), false))
    };
    match layers() {
        Ok((gpu, bands)) => Ok(Box::new(OnDevice::new(network, Box::new(gpu), fall_back, bands))),
        Err(error) if !fall_back => Err(error),
        Err(error) => Ok(Box::new(StandsIn::new(network, format!("the CPU stands in for the GPU: {error}")))),
    }
}

/// Loads the super-resolution network in `weights`, packed for `cpu`.
///
/// # Errors
/// If the tensors' names are those of no network known here, or the network refuses them.
pub fn load(cpu: &Cpu, weights: &Weights, precision: Precision) -> Result<Box<dyn SuperResolution>, Error> {
    if rlfn::recognises(weights) {
        return Ok(Box::new(Rlfn::load(cpu, weights, precision)?));
    }
    #[cfg(feature = "ditn")]
    if ditn::recognises(weights) {
        return Ok(Box::new(Ditn::load(cpu, weights)?));
    }
    let names: Vec<&str> = weights.names().take(3).collect();
    let found =
        if names.is_empty() { "no tensors".to_owned() } else { format!("tensors such as {}", names.join(", ")) };
    Err(Error::UnknownNetwork { file: weights.source().into(), found })
}
