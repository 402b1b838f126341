//! The networks that recipes name, and what stages do to them.

use crate::Error;
use crate::recipe::{Recipe, Stage};
use supple_models::{Network, Parameters, ditn, rlfn};
use supple_tensor::Device;
use supple_weights::Weights;

/// A network that can be trained, with its size.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// RLFN.
    Rlfn(rlfn::Definition),
    /// DITN.
    Ditn(ditn::Definition),
}

impl Architecture {
    /// The network that a recipe begins with.
    ///
    /// # Errors
    /// If its kind is not known.
    pub fn of(recipe: &Recipe) -> Result<Architecture, Error> {
        let scale = recipe.network.scale;
        Ok(match recipe.network.kind.as_str() {
            "rlfn_s" => Architecture::Rlfn(rlfn::Definition::small(scale)),
            "rlfn" => Architecture::Rlfn(rlfn::Definition::base(scale)),
            "rlfn_challenge" => Architecture::Rlfn(rlfn::Definition::challenge(scale)),
            "rlfn_tiny" => Architecture::Rlfn(rlfn::Definition::tiny(scale)),
            "ditn" => Architecture::Ditn(ditn::Definition::base(scale)),
            "ditn_tiny" => Architecture::Ditn(ditn::Definition::tiny(scale)),
            "ditn_real" => Architecture::Ditn(ditn::Definition::real(scale)),
            other => {
                let known = "rlfn_s, rlfn, rlfn_challenge, rlfn_tiny, ditn, ditn_tiny, ditn_real";
                let problem = format!("no network {other:?}; known are {known}");
                return Err(Error::Recipe { recipe: "network.kind".into(), problem });
            }
        })
    }

    /// The network as a function.
    pub fn network(&self) -> &dyn Network {
        match self {
            Architecture::Rlfn(network) => network,
            Architecture::Ditn(network) => network,
        }
    }

    /// The parameters that a recipe begins with: those of its file, or fresh ones.
    ///
    /// # Errors
    /// If the file cannot be read or holds another network.
    pub fn start(&self, recipe: &Recipe, device: &Device) -> Result<Parameters, Error> {
        let Some(path) = &recipe.network.start else { return Ok(self.network().initialise(device, recipe.seed)?) };
        let weights = Weights::open(path)?;
        // A file of another scale differs in its tail alone.
        let tail = match self {
            Architecture::Rlfn(_) => "upsampler.0",
            Architecture::Ditn(_) => "upsample.0",
        };
        let outputs = weights.info(&format!("{tail}.weight")).and_then(|info| info.shape.first().copied());
        let scale = (1..=8).find(|s| Some(3 * s * s) == outputs).unwrap_or(recipe.network.scale);
        let of_file = self.with_scale(scale);
        let mut parameters = of_file.read(device, &weights)?;
        if scale != recipe.network.scale {
            let fresh = self.network().initialise(device, recipe.seed)?;
            for name in [format!("{tail}.weight"), format!("{tail}.bias")] {
                parameters.insert(&name, fresh.get("start", &name)?.clone());
            }
        }
        Ok(parameters)
    }

    fn with_scale(&self, scale: usize) -> Architecture {
        match self {
            Architecture::Rlfn(network) => Architecture::Rlfn(rlfn::Definition { scale, ..*network }),
            Architecture::Ditn(network) => Architecture::Ditn(ditn::Definition { scale, ..*network }),
        }
    }

    fn read(&self, device: &Device, weights: &Weights) -> Result<Parameters, Error> {
        Ok(match self {
            Architecture::Rlfn(network) => network.read(device, weights)?,
            Architecture::Ditn(network) => Parameters::read(device, weights, &network.shapes())?,
        })
    }

    /// The network and its parameters as a stage wants them.
    ///
    /// # Errors
    /// If the network cannot be changed so.
    pub fn enter(&self, stage: &Stage, parameters: &Parameters) -> Result<(Architecture, Parameters), Error> {
        match (self, stage.prune_channels, stage.substitute_tanh) {
            (Architecture::Rlfn(network), Some(channels), false) => {
                let (network, parameters) = rlfn::prune_channels(network, parameters, channels)?;
                Ok((Architecture::Rlfn(network), parameters))
            }
            (Architecture::Ditn(network), None, true) => {
                let (network, parameters) = ditn::substitute_tanh(network, parameters)?;
                Ok((Architecture::Ditn(network), parameters))
            }
            (_, None, false) => Ok((self.clone(), parameters.clone())),
            _ => {
                let problem = "prune_channels is for RLFN, substitute_tanh for DITN".to_owned();
                Err(Error::Recipe { recipe: "stage".into(), problem })
            }
        }
    }

    /// The network of a stage, from that before the first one: what [`enter`](Self::enter) has made of it.
    pub fn at(&self, stages: &[Stage]) -> Architecture {
        let mut network = self.clone();
        for stage in stages {
            match (&mut network, stage.prune_channels) {
                (Architecture::Rlfn(network), Some(channels)) => network.channels = channels,
                (Architecture::Ditn(network), _) if stage.substitute_tanh => network.norm = ditn::Norm::Tanh,
                _ => {}
            }
        }
        network
    }
}
