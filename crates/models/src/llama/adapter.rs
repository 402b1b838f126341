//! Low-rank adapters: `y = W x + alpha / rank · B A x` with a frozen `W`. (Source: Hu et al., "LoRA", arXiv 2106.09685.)

use super::definition::Definition;
use crate::{Error, Network, Parameters};
use supple_tensor::{Device, Random, Tensor, no_grad, ops};

/// What is trained in place of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// What is added is multiplied by `alpha / rank`.
    pub alpha: f32,
    /// Which projections, such as `q_proj`.
    pub targets: Vec<String>,
}

impl Adapter {
    /// Whether it belongs to a projection, such as `self_attn.q_proj`.
    pub fn adapts(&self, projection: &str) -> bool {
        let last = projection.rsplit('.').next().unwrap_or(projection);
        self.targets.iter().any(|target| target == last)
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank.max(1) as f32
    }
}

impl Definition {
    /// Fresh matrices of the adapter: `A` uniform as PyTorch starts linear layers, `B` zero, so that nothing is added at first.
    ///
    /// # Errors
    /// [`Error::BadConfig`] for an adapter without rank, or with a target that is none; or if memory is exhausted.
    pub fn initialise_adapter(&self, device: &Device, seed: u64) -> Result<Parameters, Error> {
        let mut parameters = Parameters::default();
        let Some(adapter) = &self.adapter else { return Ok(parameters) };
        let known = self.projections().map(|(name, _)| name.rsplit('.').next().unwrap_or(name));
        let wrong = adapter.targets.iter().find(|target| !known.contains(&target.as_str()));
        if adapter.rank == 0 || adapter.targets.is_empty() || wrong.is_some() || !adapter.alpha.is_finite() {
            let found = wrong.map_or_else(|| format!("rank {}", adapter.rank), |target| format!("target {target:?}"));
            let problem = format!("an adapter of {found}; wants a rank above 0 and targets among {}", known.join(", "));
            return Err(Error::BadConfig { file: "adapter".into(), problem });
        }
        let random = Random::new(seed);
        for (i, (name, shape)) in self.adapter_shapes().into_iter().enumerate() {
            let count = shape.iter().product();
            let values = match name.contains(".lora_A.") {
                true => random.part(i as u64).uniform(count, 1.0 / (shape[1].max(1) as f32).sqrt()),
                false => vec![0.0; count],
            };
            parameters.insert(&name, Tensor::from_slice(device, &values, &shape)?);
        }
        Ok(parameters)
    }

    /// Weights with what the adapter adds to them, without the adapter. `parameters` lie on the CPU, in `f32`.
    ///
    /// # Errors
    /// If one is missing.
    pub fn merged(&self, parameters: &Parameters) -> Result<Parameters, Error> {
        let Some(adapter) = &self.adapter else { return Ok(parameters.clone()) };
        let mut merged = Parameters::default();
        for (name, _) in self.shapes() {
            let weight = parameters.get(&self.name(), &name)?;
            let prefix = name.strip_suffix(".weight").filter(|prefix| adapter.adapts(prefix));
            let Some(prefix) = prefix else {
                merged.insert(&name, weight.detach());
                continue;
            };
            let part = |ending: &str| parameters.get(&self.name(), &format!("{prefix}.{ending}.weight"));
            let (down, up) = (part("lora_A")?, part("lora_B")?);
            let sum = no_grad(|| ops::add(weight, &ops::scale(&ops::matmul(up, down)?, adapter.scale())?))?;
            merged.insert(&name, sum);
        }
        Ok(merged)
    }
}
