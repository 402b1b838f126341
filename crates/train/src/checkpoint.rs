//! Checkpoints: everything that a run needs to go on, in one safetensors file that is written whole or not at all.
//!
//! | tensor | |
//! |---|---|
//! | `weights/NAME` | the weights |
//! | `average/NAME` | their moving average, if the stage keeps one |
//! | `first/NAME`, `second/NAME` | the optimiser's moments |
//!
//! Metadata: `recipe` (TOML), `stage`, `step` (finished in this stage), `optimizer_steps`; in `f16` also `loss_scale` and
//! `loss_scale_steps`, those since it changed. Nothing tells the device: a run begun on one goes on on another.

use crate::learner::Snapshot;
use crate::{Average, Error, LossScale, Optimizer, Recipe};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use supple_models::{Network, Parameters};
use supple_tensor::Device;
use supple_weights::{DType, Weights};

/// A run at a moment between two steps.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The stage, from 0.
    pub stage: usize,
    /// Steps finished in this stage.
    pub step: usize,
    /// The weights.
    pub parameters: Parameters,
    /// Their moving average.
    pub average: Option<Parameters>,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// What the loss is multiplied by, if the stage computes in `f16`.
    pub scale: Option<LossScale>,
}

impl Checkpoint {
    /// Writes a checkpoint; what was there stays until the new one is whole.
    ///
    /// # Errors
    /// If a weight is not finite or the file cannot be written.
    pub(crate) fn save(
        path: &Path,
        recipe: &Recipe,
        [stage, step]: [usize; 2],
        state: &Snapshot<'_>,
    ) -> Result<(), Error> {
        let Snapshot { parameters, average, optimizer, scale } = state;
        let average = average.as_ref().map(|average| average.parameters());
        let mut tensors = Vec::new();
        for (folder, parameters) in [("weights", Some(&**parameters)), ("average", average)] {
            for (name, tensor) in parameters.iter().flat_map(|parameters| parameters.iter()) {
                let values = tensor.to_vec::<f32>()?;
                tensors.push((format!("{folder}/{name}"), DType::F32, tensor.shape().to_vec(), values));
            }
        }
        for (name, moments) in optimizer.moments() {
            for (folder, values) in ["first", "second"].into_iter().zip(moments).filter(|(_, v)| !v.is_empty()) {
                tensors.push((format!("{folder}/{name}"), DType::F32, vec![values.len()], values.clone()));
            }
        }
        let mut metadata = vec![
            ("recipe", recipe.to_toml()?),
            ("stage", stage.to_string()),
            ("step", step.to_string()),
            ("optimizer_steps", optimizer.steps().to_string()),
        ];
        if let Some(scale) = scale {
            metadata.push(("loss_scale", scale.factor().to_string()));
            metadata.push(("loss_scale_steps", scale.good().to_string()));
        }
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(supple_weights::save_safetensors(path, &tensors, &metadata)?)
    }

    /// Whether parameters, average and moments are those of `network`.
    pub(crate) fn fits(&self, network: &dyn Network) -> bool {
        let shapes = network.shapes();
        let same = |parameters: &Parameters| {
            let of = |name: &str| parameters.get("checkpoint", name).ok().map(|tensor| tensor.shape().to_vec());
            parameters.len() == shapes.len() && shapes.iter().all(|(name, shape)| of(name).as_ref() == Some(shape))
        };
        let moments = self.optimizer.moments();
        let fitting = shapes.iter().filter(|(name, shape)| {
            let wanted = self.optimizer.moment_lens(shape.iter().product());
            moments.get(name).is_some_and(|moments| [moments[0].len(), moments[1].len()] == wanted)
        });
        same(&self.parameters) && self.average.as_ref().is_none_or(same) && fitting.count() == moments.len()
    }

    /// Reads a checkpoint of `recipe`.
    ///
    /// # Errors
    /// If the file cannot be read or is that of another recipe.
    pub fn open(path: &Path, recipe: &Recipe, device: &Device) -> Result<Checkpoint, Error> {
        Checkpoint::read(path, &Weights::open(path)?, recipe, device)
    }

    /// As [`open`](Self::open), from a file that was read already; `path` is what errors call it.
    pub(crate) fn read(path: &Path, weights: &Weights, recipe: &Recipe, device: &Device) -> Result<Checkpoint, Error> {
        let problem = |problem: &str| Error::Checkpoint { path: path.into(), problem: problem.to_owned() };
        let text = weights.metadata().get("recipe").ok_or_else(|| problem("not a checkpoint of a training run"))?;
        if !Recipe::parse("checkpoint", text)?.continues(recipe) {
            return Err(problem("this run was begun with another recipe"));
        }
        let number = |key: &str| weights.metadata().get(key).and_then(|value| value.parse::<u64>().ok());
        let [Some(stage), Some(step), Some(steps)] = ["stage", "step", "optimizer_steps"].map(number) else {
            return Err(problem("the step is missing"));
        };
        let stage = stage as usize;
        let Some(running) = recipe.stages.get(stage) else { return Err(problem("the recipe has no such stage")) };
        let (mut parameters, mut average) = (Parameters::default(), Parameters::default());
        let mut moments: BTreeMap<String, [Vec<f32>; 2]> = BTreeMap::new();
        for tensor in weights.names() {
            let (shape, values) = weights.tensor_any_shape(tensor)?;
            let new = || supple_tensor::Tensor::from_slice(device, &values, &shape);
            match tensor.split_once('/') {
                Some(("weights", name)) => parameters.insert(name, new()?),
                Some(("average", name)) => average.insert(name, new()?),
                Some(("first", name)) => moments.entry(name.to_owned()).or_default()[0] = values,
                Some(("second", name)) => moments.entry(name.to_owned()).or_default()[1] = values,
                _ => return Err(problem("it holds a tensor that is none of a checkpoint")),
            }
        }
        let optimizer = Optimizer::resume(running.optimizer, steps, moments);
        let average = (!average.is_empty()).then_some(average);
        let factor = weights.metadata().get("loss_scale").and_then(|value| value.parse::<f32>().ok());
        let good = number("loss_scale_steps").unwrap_or(0).min(u64::from(u32::MAX)) as u32;
        let scale = factor.map(|factor| LossScale::resume(supple_tensor::DType::F16, factor, good));
        Ok(Checkpoint { stage, step: step as usize, parameters, average, optimizer, scale })
    }

    /// The state to go on from; the average's decay is the stage's.
    ///
    /// # Errors
    /// If a copy does not fit the memory.
    pub(crate) fn into_snapshot(self, decay: Option<f64>) -> Result<Snapshot<'static>, Error> {
        let average = match (decay, self.average) {
            (Some(decay), Some(average)) => Some(Cow::Owned(Average::new(&average, decay)?)),
            _ => None,
        };
        let (parameters, optimizer) = (Cow::Owned(self.parameters), Cow::Owned(self.optimizer));
        Ok(Snapshot { parameters, average, optimizer, scale: self.scale })
    }
}
