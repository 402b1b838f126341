//! Where networks come from.

use crate::{Cpu, DeviceChoice, Error, compute, models};
use std::path::PathBuf;
use supple_models::{Precision, SuperResolution};
use supple_weights::Weights;

/// Where an upscaler's weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the binary, of this name.
    Bundled(&'static str),
    /// In a file.
    File(PathBuf),
    /// Nowhere: the network was given.
    Given,
}

/// Reads weights and builds the network.
pub(super) fn load(
    cpu: &Cpu,
    origin: &Origin,
    precision: Precision,
    device: DeviceChoice,
) -> Result<Box<dyn SuperResolution>, Error> {
    let weights = match origin {
        Origin::Bundled(name) => {
            let bytes = models::bundled_named(name).ok_or_else(|| Error::UnknownModel {
                name: (*name).to_owned(),
                known: models::catalogue().into_iter().map(|entry| entry.name).collect(),
            })?;
            Weights::from_bytes(*name, bytes)
        }
        Origin::File(path) => Weights::open(path),
        Origin::Given => return Err(Error::BadOption("a network that was given cannot be loaded again".into())),
    };
    let weights = weights.map_err(supple_models::Error::from)?;
    Ok(supple_models::load_on(cpu, &compute::placement(device)?, &weights, precision)?)
}
