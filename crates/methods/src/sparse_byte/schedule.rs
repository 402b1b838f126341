//! Pruning spread over the steps of a training: the sparsity rises along a cubic ramp, and masks are chosen anew at intervals
//! until it has arrived; from then on they stay and the weights that are left are tuned.
//!
//! The ramp is that of Zhu and Gupta (arXiv 1710.01878).

use super::prune::{Mask, scores, taps};
use supple_models::convnet::{Conv, Pattern};

/// `1 − (1 − t)³`, for `t` clamped to 0..1.
pub fn cubic(t: f64) -> f64 {
    1.0 - (1.0 - t.clamp(0.0, 1.0)).powi(3)
}

/// When how much is pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Sparsity up to the first step of the ramp.
    pub from: f64,
    /// Sparsity from its last step on.
    pub to: f64,
    /// First step.
    pub start: u64,
    /// Steps from there to the final sparsity.
    pub length: u64,
    /// Steps between new masks.
    pub refresh: u64,
}

impl Ramp {
    /// Sparsity at a step.
    pub fn sparsity_at(&self, step: u64) -> f64 {
        let t = step.saturating_sub(self.start) as f64 / self.length.max(1) as f64;
        self.from + (self.to - self.from) * cubic(t)
    }

    /// Whether masks are chosen anew at a step: at intervals from the start, and once when the ramp ends.
    pub fn refreshes_at(&self, step: u64) -> bool {
        let end = self.start.saturating_add(self.length);
        step == end || ((self.start..end).contains(&step) && (step - self.start).is_multiple_of(self.refresh.max(1)))
    }
}

/// A layer's mask during training. Between new masks a training step applies the last one to the weights after it has
/// changed them; where masks grow anew, weights that were zero may come back.
#[derive(Clone, Debug)]
pub struct GradualMask {
    ramp: Ramp,
    pattern: Pattern,
    mask: Option<Mask>,
}

impl GradualMask {
    /// No mask yet.
    pub fn new(ramp: Ramp, pattern: Pattern) -> GradualMask {
        GradualMask { ramp, pattern, mask: None }
    }

    /// The mask at a step, chosen anew from the weights if it is time to; `None` before the ramp starts. Steps may be
    /// skipped, as when a training is resumed: the first call behind the start chooses a mask.
    pub fn mask_at(&mut self, step: u64, conv: &Conv) -> Option<&Mask> {
        let late = self.mask.is_none() && step >= self.ramp.start;
        if late || self.ramp.refreshes_at(step) {
            let scores = scores(&conv.weights, conv.columns(), None, None);
            let sparsity = self.ramp.sparsity_at(step);
            self.mask = Some(Mask::choose(&scores, conv.columns(), taps(conv), self.pattern, sparsity));
        }
        self.mask.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::mobile;
    use super::*;

    const RAMP: Ramp = Ramp { from: 0.0, to: 0.6, start: 100, length: 1000, refresh: 250 };

    #[test]
    fn the_ramp_is_cubic() {
        assert_eq!(RAMP.sparsity_at(0), 0.0);
        assert_eq!(RAMP.sparsity_at(100), 0.0);
        assert!((RAMP.sparsity_at(600) - 0.6 * 0.875).abs() < 1e-12);
        assert_eq!(RAMP.sparsity_at(1100), 0.6);
        assert_eq!(RAMP.sparsity_at(u64::MAX), 0.6);
        assert!((0..2000).all(|step| RAMP.sparsity_at(step) <= RAMP.sparsity_at(step + 1)));
    }

    #[test]
    fn masks_change_at_intervals_and_then_stay() {
        let steps: Vec<u64> = (0..3000).filter(|&step| RAMP.refreshes_at(step)).collect();
        assert_eq!(steps, [100, 350, 600, 850, 1100]);
    }

    #[test]
    fn a_mask_follows_the_weights_until_the_ramp_ends() {
        let network = mobile();
        let mut conv = network.convs().nth(2).expect("has three").1.clone();
        let mut gradual = GradualMask::new(RAMP, Pattern::Block(4));
        assert!(gradual.mask_at(99, &conv).is_none());
        assert_eq!(gradual.mask_at(100, &conv).expect("started").sparsity(), 0.0);
        let half = gradual.mask_at(600, &conv).expect("started").clone();
        assert!((half.sparsity() - 0.525).abs() < 0.02);
        conv.weights.reverse();
        assert_eq!(gradual.mask_at(601, &conv), Some(&half));
        let last = gradual.mask_at(1100, &conv).expect("started").clone();
        assert!((last.sparsity() - 0.6).abs() < 0.02 && last != half);
        conv.weights.reverse();
        assert_eq!(gradual.mask_at(5000, &conv), Some(&last));
        let resumed = GradualMask::new(RAMP, Pattern::Block(4)).mask_at(2000, &conv).expect("started").sparsity();
        assert!((resumed - 0.6).abs() < 0.02);
    }
}
