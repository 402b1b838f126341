//! Learning rates over time.

use serde::{Deserialize, Serialize};

/// How the learning rate goes down in the course of a stage; the warm-up before it goes up in a straight line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// Half a cosine from the learning rate down to `end`. (Source: Loshchilov and Hutter, arXiv 1608.03983.)
    Cosine {
        /// The last learning rate.
        #[serde(default)]
        end: f64,
    },
    /// Times `factor` after every `every` steps.
    Step {
        /// Steps between changes.
        every: usize,
        /// What the learning rate is multiplied by.
        factor: f64,
    },
}

impl Schedule {
    /// The learning rate of step `step`, from 0, of `steps`; the first `warm_up` of them lead up to `peak`.
    pub fn learning_rate(&self, peak: f64, warm_up: usize, step: usize, steps: usize) -> f64 {
        if step < warm_up {
            return peak * (step + 1) as f64 / warm_up as f64;
        }
        let (at, steps) = (step - warm_up, steps.saturating_sub(warm_up).max(1));
        match *self {
            Schedule::Constant => peak,
            Schedule::Cosine { end } => {
                let phase = std::f64::consts::PI * (at as f64 / steps as f64).min(1.0);
                end + (peak - end) * 0.5 * (1.0 + phase.cos())
            }
            Schedule::Step { every, factor } => peak * factor.powi((at / every.max(1)).min(10_000) as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_go_where_they_should() {
        let cosine = Schedule::Cosine { end: 1e-6 };
        let rate = |step| cosine.learning_rate(1e-3, 10, step, 110);
        assert!((rate(0) - 1e-4).abs() < 1e-12 && (rate(9) - 1e-3).abs() < 1e-12 && (rate(10) - 1e-3).abs() < 1e-12);
        assert!((rate(60) - (1e-6 + (1e-3 - 1e-6) / 2.0)).abs() < 1e-12);
        assert!(rate(109) < 2e-6 && (1..100).all(|i| rate(10 + i) < rate(9 + i)));
        let halves = Schedule::Step { every: 200, factor: 0.5 };
        assert_eq!([0, 199, 200, 400].map(|s| halves.learning_rate(8.0, 0, s, 1000)), [8.0, 8.0, 4.0, 2.0]);
        assert_eq!(Schedule::Constant.learning_rate(0.1, 0, 5, 5), 0.1);
    }
}
