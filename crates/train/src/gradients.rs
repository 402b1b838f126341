//! What is done to gradients before a step: their norm, clipping, and the scale that keeps those of 16-bit floats in range.

use crate::Error;
use supple_models::Parameters;
use supple_tensor::{DType, Gradients};

/// The Euclidean norm of all gradients of `parameters` together, in `f64`; not finite if one of them is not.
///
/// # Errors
/// If a gradient is not `f32`.
pub fn norm(parameters: &Parameters, gradients: &Gradients) -> Result<f64, Error> {
    let mut sum = 0.0;
    for (_, parameter) in parameters.iter() {
        if let Some(gradient) = gradients.of(parameter) {
            let gradient = gradient.contiguous()?;
            sum += gradient.as_slice::<f32>()?.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        }
    }
    Ok(sum.sqrt())
}

/// The factor that takes gradients of norm `norm` to norm `limit` at most. (Source: Pascanu et al., arXiv 1211.5063.)
pub fn clip(norm: f64, limit: Option<f64>) -> f32 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0) as f32)
}

/// The factor on the loss that keeps gradients computed in `f16` from underflow. It halves when a gradient overflows, whose
/// step is then left out, and doubles after many steps without. Of other types it stays 1: `bf16` has the range of `f32`.
/// (Source: Micikevicius et al., arXiv 1710.03740.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    factor: f32,
    good: u32,
    active: bool,
}

/// Good steps before the scale doubles.
const PATIENCE: u32 = 2000;

impl LossScale {
    /// The scale for a network that computes in `dtype`.
    pub fn new(dtype: DType) -> LossScale {
        let active = dtype == DType::F16;
        LossScale { factor: if active { 65536.0 } else { 1.0 }, good: 0, active }
    }

    /// The scale that another had come to.
    pub fn resume(dtype: DType, factor: f32, good: u32) -> LossScale {
        let valid = factor.is_finite() && factor >= 1.0;
        if valid { LossScale { factor, good: good % PATIENCE, ..LossScale::new(dtype) } } else { LossScale::new(dtype) }
    }

    /// Steps without overflow since the factor changed.
    pub fn good(&self) -> u32 {
        self.good
    }

    /// What the loss is multiplied by, and gradients divided by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Hears the norm of gradients; says whether the step may be taken.
    pub fn accept(&mut self, norm: f64) -> bool {
        if !self.active {
            return true;
        }
        if !norm.is_finite() {
            (self.factor, self.good) = ((self.factor / 2.0).max(1.0), 0);
            return false;
        }
        self.good += 1;
        if self.good == PATIENCE {
            (self.factor, self.good) = ((self.factor * 2.0).min(f32::MAX / 4.0), 0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_shortens_and_never_lengthens() {
        assert!((clip(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
        assert_eq!((clip(0.5, Some(1.0)), clip(9.0, None)), (1.0, 1.0));
    }

    #[test]
    fn the_scale_halves_on_overflow_and_doubles_with_patience() {
        let mut scale = LossScale::new(DType::F16);
        assert!(!scale.accept(f64::INFINITY) && scale.factor() == 32768.0);
        assert!((0..PATIENCE).all(|_| scale.accept(1.0)) && scale.factor() == 65536.0);
        assert!(!scale.accept(f64::NAN) && scale.factor() == 32768.0);
        let mut none = LossScale::new(DType::BF16);
        assert!(none.accept(f64::NAN) && none.factor() == 1.0);
    }
}
