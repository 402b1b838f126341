//! What a run goes on from, and the file that it is kept in: a safetensors file, written whole or not at all, with `weights/NAME`
//! of what is trained, the moments `first/NAME` and `second/NAME`, and in its metadata the recipe and the step.

use super::LanguageRecipe;
use crate::{Error, LossScale, Optimizer};
use std::collections::BTreeMap;
use std::path::Path;
use supple_models::Parameters;
use supple_tensor::{DType, Device, Tensor};
use supple_weights::Weights;

/// A run between two steps, on the host.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Steps that are done.
    pub step: usize,
    /// What is trained.
    pub parameters: Parameters,
    pub optimizer: Optimizer,
    /// Of a run in `f16`.
    pub scale: Option<LossScale>,
}

impl State {
    pub fn save(&self, path: &Path, recipe: &LanguageRecipe) -> Result<(), Error> {
        let f32 = supple_weights::DType::F32;
        let mut tensors = Vec::new();
        for (name, tensor) in self.parameters.iter() {
            tensors.push((format!("weights/{name}"), f32, tensor.shape().to_vec(), tensor.to_vec::<f32>()?));
        }
        for (name, moments) in self.optimizer.moments() {
            for (folder, values) in ["first", "second"].into_iter().zip(moments).filter(|(_, v)| !v.is_empty()) {
                tensors.push((format!("{folder}/{name}"), f32, vec![values.len()], values.clone()));
            }
        }
        let mut metadata = BTreeMap::from([
            ("recipe".to_owned(), recipe.essence()?),
            ("step".to_owned(), self.step.to_string()),
            ("optimizer_steps".to_owned(), self.optimizer.steps().to_string()),
        ]);
        if let Some(scale) = &self.scale {
            metadata.insert("loss_scale".into(), scale.factor().to_string());
            metadata.insert("loss_scale_steps".into(), scale.good().to_string());
        }
        Ok(supple_weights::save_safetensors(path, &tensors, &metadata)?)
    }

    /// Reads what [`save`](Self::save) wrote, for parameters like those of `start`.
    pub fn open(path: &Path, recipe: &LanguageRecipe, start: &Parameters, host: &Device) -> Result<State, Error> {
        let problem = |problem: &str| Error::Checkpoint { path: path.into(), problem: problem.into() };
        let file = Weights::open(path)?;
        let metadata = file.metadata();
        if metadata.get("recipe") != Some(&recipe.essence()?) {
            return Err(problem("this run was begun with another recipe"));
        }
        let number = |key: &str| metadata.get(key).and_then(|value| value.parse::<u64>().ok());
        let (Some(step), Some(steps)) = (number("step"), number("optimizer_steps")) else {
            return Err(problem("the step is missing"));
        };
        if step > recipe.training.steps as u64 {
            return Err(problem("it is further than the recipe goes"));
        }
        let (mut parameters, mut moments) = (Parameters::default(), BTreeMap::new());
        for (name, tensor) in start.iter() {
            let values = file.tensor(&format!("weights/{name}"), tensor.shape())?;
            parameters.insert(name, Tensor::from_slice(host, &values, tensor.shape())?);
            let moment = |folder: &str| {
                let name = format!("{folder}/{name}");
                if file.contains(&name) { file.tensor(&name, &[values.len()]) } else { Ok(Vec::new()) }
            };
            if steps > 0 {
                moments.insert(name.to_owned(), [moment("first")?, moment("second")?]);
            }
        }
        let optimizer = Optimizer::resume(recipe.training.optimizer, steps, moments);
        let factor = metadata.get("loss_scale").and_then(|value| value.parse::<f32>().ok());
        let good = number("loss_scale_steps").unwrap_or(0).min(u64::from(u32::MAX)) as u32;
        let scale = factor.map(|factor| LossScale::resume(DType::F16, factor, good));
        Ok(State { step: step as usize, parameters, optimizer, scale })
    }
}
