//! Finding out which network a checkpoint holds.

#[cfg(feature = "ditn")]
use crate::ditn::{self, Ditn};
use crate::rlfn::{self, Rlfn};
use crate::{Error, Precision, SuperResolution};
use supple_tensor::Cpu;
use supple_weights::Weights;

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
