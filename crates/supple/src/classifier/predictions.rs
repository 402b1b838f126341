//! From a network's scores to names.

use crate::Error;
use std::borrow::Cow;

/// One thing that a picture may show.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Which output of the network this is, from 0.
    pub index: usize,
    /// Its name, if labels are known.
    pub label: Option<String>,
    /// How sure the network is, 0 to 1; all outputs together make 1.
    pub probability: f32,
}

impl Prediction {
    /// The label, or `class 281` where there is none.
    pub fn name(&self) -> Cow<'_, str> {
        match &self.label {
            Some(label) => label.into(),
            None => format!("class {}", self.index).into(),
        }
    }
}

/// `exp(score) / Σ exp(score)`; sums in `f64`.
pub(super) fn softmax(scores: &[f32]) -> Vec<f32> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

/// The indices of the `count` highest values, highest first; of equal ones the first comes first.
pub(super) fn highest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(count);
    order
}

/// Refuses scores that are no numbers.
pub(super) fn check_finite(scores: &[f32], network: &str) -> Result<(), Error> {
    match scores.iter().position(|score| !score.is_finite()) {
        Some(class) => Err(Error::NotFiniteScore { network: network.into(), class }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_make_one_even_of_huge_scores() {
        let p = softmax(&[1000.0, 1000.0, -1000.0, 998.0]);
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{p:?}");
        assert!((p[3] / p[0] - (-2f32).exp()).abs() < 1e-6 && p[2] == 0.0 && p[0] == p[1]);
    }

    #[test]
    fn the_highest_come_first_and_of_equals_the_first() {
        assert_eq!(highest(&[0.1, 0.5, 0.2, 0.5], 3), [1, 3, 2]);
        assert_eq!(highest(&[0.1], 5), [0]);
        assert_eq!(highest(&[0.1], 0), [0usize; 0]);
    }

    #[test]
    fn what_is_no_number_is_named() {
        let error = check_finite(&[0.0, f32::NAN], "net").unwrap_err();
        assert!(matches!(&error, Error::NotFiniteScore { class: 1, .. }) && error.hint().is_some(), "{error}");
    }

    #[test]
    fn without_a_label_there_is_a_number() {
        let mut prediction = Prediction { index: 281, label: None, probability: 0.5 };
        assert_eq!(prediction.name(), "class 281");
        prediction.label = Some("tabby".into());
        assert_eq!(prediction.name(), "tabby");
    }
}
