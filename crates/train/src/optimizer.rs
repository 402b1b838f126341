//! Optimisers: Adam, AdamW, and stochastic gradient descent with momentum, as PyTorch defines them.
//!
//! ```text
//! Adam   m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← w − lr · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)
//! AdamW  w ← w − lr · decay · w first, then as Adam
//! SGD    g ← g + decay · w;  m ← momentum · m + g;  w ← w − lr · m       (the first m is g)
//! ```
//!
//! Weights and moments are kept in `f32` whatever the network computes in: they are the master copies.
//! (Sources: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101.)

use crate::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use supple_models::Parameters;
use supple_tensor::Gradients;

/// Which optimiser, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerRecipe {
    /// Adam.
    Adam {
        /// Decay of the two moments.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Keeps the divisor from zero.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// Adam with weight decay of its own.
    AdamW {
        /// Decay of the two moments.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Keeps the divisor from zero.
        #[serde(default = "epsilon")]
        epsilon: f64,
        /// Share of a weight, times the learning rate, that goes in each step.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
    },
    /// Gradient descent.
    Sgd {
        /// Decay of the moment; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Share of a weight that is added to its gradient.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn epsilon() -> f64 {
    1e-8
}

fn weight_decay() -> f64 {
    0.01
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        OptimizerRecipe::Adam { betas: betas(), epsilon: epsilon() }
    }
}

/// An optimiser and what it remembers.
#[derive(Clone, Debug)]
pub struct Optimizer {
    recipe: OptimizerRecipe,
    /// Steps taken.
    steps: u64,
    /// First and second moments, by name of the parameter; the second is empty for gradient descent.
    moments: BTreeMap<String, [Vec<f32>; 2]>,
}

impl Optimizer {
    /// One that has seen nothing yet.
    pub fn new(recipe: OptimizerRecipe) -> Optimizer {
        Optimizer { recipe, steps: 0, moments: BTreeMap::new() }
    }

    /// One that goes on where another was.
    pub fn resume(recipe: OptimizerRecipe, steps: u64, moments: BTreeMap<String, [Vec<f32>; 2]>) -> Optimizer {
        Optimizer { recipe, steps, moments }
    }

    /// Lengths of the two moments of a parameter of `len` values.
    pub(crate) fn moment_lens(&self, len: usize) -> [usize; 2] {
        [len, if matches!(self.recipe, OptimizerRecipe::Sgd { .. }) { 0 } else { len }]
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moments by name of the parameter.
    pub fn moments(&self) -> &BTreeMap<String, [Vec<f32>; 2]> {
        &self.moments
    }

    /// Moves `parameters` against their gradients, which are multiplied by `factor` first; parameters without gradient stay.
    ///
    /// # Errors
    /// If a parameter or gradient is not `f32`.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        factor: f32,
        learning_rate: f64,
    ) -> Result<(), Error> {
        self.steps += 1;
        for (name, parameter) in parameters.iter_mut() {
            let Some(gradient) = gradients.of(parameter) else { continue };
            let gradient = gradient.contiguous()?;
            let gradient = gradient.as_slice::<f32>()?;
            if !self.moments.contains_key(name) {
                let moments = self.moment_lens(gradient.len()).map(|len| vec![0.0; len]);
                self.moments.insert(name.to_owned(), moments);
            }
            let moments = self.moments.get_mut(name).expect("inserted just now");
            update(
                &self.recipe,
                self.steps,
                parameter.as_mut_slice::<f32>()?,
                gradient,
                factor,
                moments,
                learning_rate,
            );
        }
        Ok(())
    }
}

fn update(
    recipe: &OptimizerRecipe,
    step: u64,
    weights: &mut [f32],
    gradients: &[f32],
    factor: f32,
    [first, second]: &mut [Vec<f32>; 2],
    learning_rate: f64,
) {
    match *recipe {
        OptimizerRecipe::Adam { betas, epsilon } | OptimizerRecipe::AdamW { betas, epsilon, .. } => {
            let correction = betas.map(|beta| 1.0 - beta.powi(step.min(i32::MAX as u64) as i32));
            let (size, root) = ((learning_rate / correction[0]) as f32, correction[1].sqrt() as f32);
            let ([b1, b2], epsilon) = (betas.map(|beta| beta as f32), epsilon as f32);
            // Subtracted in f64: 1 - 0.999 in f32 would be 5e-5 off.
            let [c1, c2] = betas.map(|beta| (1.0 - beta) as f32);
            let keep = match *recipe {
                OptimizerRecipe::AdamW { weight_decay, .. } => (1.0 - learning_rate * weight_decay) as f32,
                _ => 1.0,
            };
            let moments = first.iter_mut().zip(second.iter_mut());
            for ((w, &g), (m, v)) in weights.iter_mut().zip(gradients).zip(moments) {
                let g = g * factor;
                *m = b1 * *m + c1 * g;
                *v = b2 * *v + c2 * g * g;
                *w = *w * keep - size * *m / (v.sqrt() / root + epsilon);
            }
        }
        OptimizerRecipe::Sgd { momentum, weight_decay } => {
            // With a moment of zero, `momentum · m + g` is g, as the first step wants it.
            let [momentum, decay, rate] = [momentum, weight_decay, learning_rate].map(|v| v as f32);
            for ((w, &g), m) in weights.iter_mut().zip(gradients).zip(first) {
                *m = momentum * *m + (g * factor + decay * *w);
                *w -= rate * *m;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_tensor::{Cpu, Device, Isa, Tensor, ops};

    /// Ten steps down `Σ (w - target)²`.
    fn descend(recipe: OptimizerRecipe, rate: f64) -> Vec<f32> {
        let device = Device::cpu(Cpu::new(Isa::detect(), 1)).unwrap();
        let target = Tensor::from_slice(&device, &[1.0f32, -2.0], &[2]).unwrap();
        let mut parameters = Parameters::default();
        parameters.insert("w", Tensor::zeros(&device, &[2], supple_tensor::DType::F32).unwrap().variable());
        let mut optimizer = Optimizer::new(recipe);
        for _ in 0..10 {
            let difference = ops::sub(parameters.get("test", "w").unwrap(), &target).unwrap();
            let gradients = ops::sum(&ops::mul(&difference, &difference).unwrap()).unwrap().backward().unwrap();
            drop(difference);
            optimizer.step(&mut parameters, &gradients, 1.0, rate).unwrap();
        }
        parameters.get("test", "w").unwrap().to_vec::<f32>().unwrap()
    }

    /// The same in `f64` from the formulas at the head.
    fn reference(recipe: OptimizerRecipe, rate: f64) -> Vec<f64> {
        [1.0, -2.0]
            .map(|target| {
                let (mut w, mut m, mut v) = (0.0f64, 0.0, 0.0);
                for t in 1..=10 {
                    let mut g = 2.0 * (w - target);
                    match recipe {
                        OptimizerRecipe::Sgd { momentum, weight_decay } => {
                            g += weight_decay * w;
                            m = if t == 1 { g } else { momentum * m + g };
                            w -= rate * m;
                        }
                        OptimizerRecipe::Adam { betas, epsilon } | OptimizerRecipe::AdamW { betas, epsilon, .. } => {
                            if let OptimizerRecipe::AdamW { weight_decay, .. } = recipe {
                                w -= rate * weight_decay * w;
                            }
                            m = betas[0] * m + (1.0 - betas[0]) * g;
                            v = betas[1] * v + (1.0 - betas[1]) * g * g;
                            let (mh, vh) = (m / (1.0 - betas[0].powi(t)), v / (1.0 - betas[1].powi(t)));
                            w -= rate * mh / (vh.sqrt() + epsilon);
                        }
                    }
                }
                w
            })
            .to_vec()
    }

    #[test]
    fn steps_are_those_of_the_formulas() {
        for recipe in [
            OptimizerRecipe::default(),
            OptimizerRecipe::AdamW { betas: [0.8, 0.95], epsilon: 1e-3, weight_decay: 0.3 },
            OptimizerRecipe::Sgd { momentum: 0.9, weight_decay: 0.1 },
            OptimizerRecipe::Sgd { momentum: 0.0, weight_decay: 0.0 },
        ] {
            for (found, wanted) in descend(recipe, 0.05).iter().zip(reference(recipe, 0.05)) {
                assert!((f64::from(*found) - wanted).abs() < 1e-5, "{recipe:?}: {found} not {wanted}");
            }
        }
    }
}
