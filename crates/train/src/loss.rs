//! Losses. Those of pictures take two tensors of the same shape, and all give one number, the mean.

use crate::Error;
use serde::{Deserialize, Serialize};
use supple_tensor::ops::{self, Activation, ConvShape, ResizeMode};
use supple_tensor::{Device, Random, Tensor};

pub use supple_tensor::ops::{cross_entropy, linear_cross_entropy};

/// A part of a recipe's loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossRecipe {
    /// `|a − b|`.
    L1 {
        /// Factor.
        #[serde(default = "one")]
        weight: f64,
    },
    /// `(a − b)²`.
    Mse {
        /// Factor.
        #[serde(default = "one")]
        weight: f64,
    },
    /// `√((a − b)² + ε²)`, a smooth `L1`.
    Charbonnier {
        /// Factor.
        #[serde(default = "one")]
        weight: f64,
        /// How smooth.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// See [`Contrastive`].
    Contrastive {
        /// Factor.
        #[serde(default = "one")]
        weight: f64,
    },
}

fn one() -> f64 {
    1.0
}

fn epsilon() -> f64 {
    1e-3
}

/// The mean of `|a − b|`.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn l1(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    Ok(ops::mean(&ops::abs(&ops::sub(a, b)?)?)?)
}

/// The mean of `(a − b)²`.
///
/// # Errors
/// If the shapes do not fit each other.
pub fn mse(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let difference = ops::sub(a, b)?;
    Ok(ops::mean(&ops::mul(&difference, &difference)?)?)
}

/// The mean of `√((a − b)² + ε²)`. (Source: Lai et al., arXiv 1710.01992.)
///
/// # Errors
/// If the shapes do not fit each other.
pub fn charbonnier(a: &Tensor, b: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let difference = ops::sub(a, b)?;
    let square = ops::add_scalar(&ops::mul(&difference, &difference)?, epsilon * epsilon)?;
    Ok(ops::mean(&ops::sqrt(&square)?)?)
}

/// The mean over rows of `Σ p · (log p − log q)` with `p = softmax(teacher / t)` and `q = softmax(student / t)`, times `t²`: what a
/// student has still to learn from a teacher. No gradient goes to the teacher. (Source: Hinton et al., arXiv 1503.02531.)
///
/// # Errors
/// If the shapes do not fit each other.
pub fn kl_divergence(student: &Tensor, teacher: &Tensor, temperature: f32) -> Result<Tensor, Error> {
    let soft = |logits: &Tensor| ops::softmax(&ops::scale(logits, 1.0 / temperature)?);
    // What underflows counts for nothing, and its logarithm must not be infinite.
    let log = |p: &Tensor| ops::log(&ops::add_scalar(p, 1e-30)?);
    let p = soft(&teacher.detach())?;
    let difference = ops::sub(&log(&p)?, &log(&soft(student)?)?)?;
    let classes = student.shape().last().copied().unwrap_or(1);
    Ok(ops::scale(&ops::mean(&ops::mul(&p, &difference)?)?, temperature * temperature * classes as f32)?)
}

/// RLFN's contrastive loss: `‖φ(sr) − φ(hr)‖₁ / ‖φ(sr) − φ(bicubic)‖₁` on features `φ = conv3×3(tanh(conv3×3(x)))` of a frozen network
/// with random weights: away from the blurred picture, towards the sharp one. (Source: Kong et al., arXiv 2205.07514; the
/// form of the ratio is that of Wu et al., arXiv 2104.09367, as the paper's own is not known in detail.)
#[derive(Clone, Debug)]
pub struct Contrastive {
    first: Tensor,
    second: Tensor,
}

/// Features of the extractor.
const FEATURES: usize = 64;

impl Contrastive {
    /// The extractor of a seed.
    ///
    /// # Errors
    /// If it does not fit the memory.
    pub fn new(device: &Device, seed: u64) -> Result<Contrastive, Error> {
        let random = Random::new(seed);
        let weight = |part: u64, inputs: usize| {
            // He's start for tanh keeps features of the size of pictures.
            let values = random.part(part).uniform(FEATURES * inputs * 9, (3.0 / (inputs * 9) as f32).sqrt());
            Tensor::from_slice(device, &values, &[FEATURES, inputs, 3, 3])
        };
        Ok(Contrastive { first: weight(1, 3)?, second: weight(2, FEATURES)? })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor, Error> {
        let x = ops::conv2d(x, &self.first, None, ConvShape::same(3, FEATURES, 3), Activation::Tanh)?;
        Ok(ops::conv2d(&x, &self.second, None, ConvShape::same(FEATURES, FEATURES, 3), Activation::Identity)?)
    }

    /// The loss of `sr` against `hr`, both `[n, h, w, 3]`, away from `low` enlarged.
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    pub fn loss(&self, sr: &Tensor, hr: &Tensor, low: &Tensor) -> Result<Tensor, Error> {
        let blurred = ops::resize(low, ResizeMode::Bicubic, [hr.shape()[1], hr.shape()[2]])?;
        let features = self.features(sr)?;
        let near = l1(&features, &self.features(hr)?)?;
        let far = l1(&features, &self.features(&blurred)?)?;
        Ok(ops::div(&near, &ops::add_scalar(&far, 1e-7)?)?)
    }
}

/// The loss of a stage: a weighted sum.
#[derive(Clone, Debug)]
pub struct Loss {
    parts: Vec<LossRecipe>,
    contrastive: Option<Contrastive>,
}

impl Loss {
    /// The sum of `parts`; `seed` makes the contrastive loss's extractor.
    ///
    /// # Errors
    /// If the extractor does not fit the memory.
    pub fn new(device: &Device, parts: &[LossRecipe], seed: u64) -> Result<Loss, Error> {
        let contrastive = parts.iter().any(|part| matches!(part, LossRecipe::Contrastive { .. }));
        let contrastive = contrastive.then(|| Contrastive::new(device, seed)).transpose()?;
        Ok(Loss { parts: parts.to_vec(), contrastive })
    }

    /// The loss of the network's output `sr` for `low`, where `hr` was wanted.
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    pub fn of(&self, sr: &Tensor, hr: &Tensor, low: &Tensor) -> Result<Tensor, Error> {
        let mut total: Option<Tensor> = None;
        for part in &self.parts {
            let (weight, loss) = match *part {
                LossRecipe::L1 { weight } => (weight, l1(sr, hr)?),
                LossRecipe::Mse { weight } => (weight, mse(sr, hr)?),
                LossRecipe::Charbonnier { weight, epsilon } => (weight, charbonnier(sr, hr, epsilon as f32)?),
                LossRecipe::Contrastive { weight } => {
                    let contrastive = self.contrastive.as_ref().expect("made with the parts");
                    (weight, contrastive.loss(sr, hr, low)?)
                }
            };
            let loss = ops::scale(&loss, weight as f32)?;
            total = Some(match total {
                Some(total) => ops::add(&total, &loss)?,
                None => loss,
            });
        }
        total.map_or_else(|| l1(sr, hr), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_tensor::{Cpu, Isa};

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        let device = Device::cpu(Cpu::new(Isa::detect(), 1)).unwrap();
        Tensor::from_slice(&device, values, shape).unwrap()
    }

    fn value(loss: Result<Tensor, Error>) -> f64 {
        f64::from(loss.unwrap().to_vec::<f32>().unwrap()[0])
    }

    #[test]
    fn losses_are_those_of_their_formulas() {
        let a = tensor(&[1.0, 2.0, -3.0, 0.5], &[2, 2]);
        let device = a.device().clone();
        let b = Tensor::from_slice(&device, &[0.0f32, 2.0, -1.0, 1.0], &[2, 2]).unwrap();
        assert!((value(l1(&a, &b)) - 3.5 / 4.0).abs() < 1e-6);
        assert!((value(mse(&a, &b)) - 5.25 / 4.0).abs() < 1e-6);
        let wanted = [1.0f64, 0.0, 2.0, 0.5].map(|d| (d * d + 0.01).sqrt()).iter().sum::<f64>() / 4.0;
        assert!((value(charbonnier(&a, &b, 0.1)) - wanted).abs() < 1e-6);
        assert!(value(kl_divergence(&a, &a, 2.0)).abs() < 1e-6);
        let soft = |x: [f64; 2], t: f64| {
            let e = x.map(|v| (v / t).exp());
            e.map(|v| v / (e[0] + e[1]))
        };
        let rows = [([1.0, 2.0], [0.0, 2.0]), ([-3.0, 0.5], [-1.0, 1.0])];
        let wanted: f64 = rows
            .iter()
            .map(|&(student, teacher)| {
                let (q, p) = (soft(student, 2.0), soft(teacher, 2.0));
                (0..2).map(|i| p[i] * (p[i] / q[i]).ln()).sum::<f64>()
            })
            .sum::<f64>()
            / 2.0
            * 4.0;
        assert!((value(kl_divergence(&a, &b, 2.0)) - wanted).abs() < 1e-6);
    }

    #[test]
    fn the_contrastive_loss_prefers_the_sharp_picture() {
        let low = tensor(&Random::new(3).uniform(6 * 6 * 3, 0.5), &[1, 6, 6, 3]);
        let device = low.device().clone();
        let hr = Tensor::from_slice(&device, &Random::new(4).uniform(12 * 12 * 3, 0.5), &[1, 12, 12, 3]).unwrap();
        let blurred = ops::resize(&low, ResizeMode::Bicubic, [12, 12]).unwrap();
        let contrastive = Contrastive::new(&device, 1).unwrap();
        assert_eq!(value(contrastive.loss(&hr, &hr, &low)), 0.0);
        let half = ops::scale(&ops::add(&hr, &blurred).unwrap(), 0.5).unwrap();
        let (near, far) = (value(contrastive.loss(&half, &hr, &low)), value(contrastive.loss(&blurred, &hr, &low)));
        assert!(near < 2.0 && far > 100.0, "{near} {far}");
        // A gradient that leads there.
        let sr = half.variable();
        let gradients = contrastive.loss(&sr, &hr, &low).unwrap().backward().unwrap();
        let step = ops::scale(gradients.of(&sr).unwrap(), -0.05).unwrap();
        assert!(value(contrastive.loss(&ops::add(&half, &step).unwrap(), &hr, &low)) < near);
    }
}
