//! Masks: which weights of a convolution are zero together, and which of those groups are worth least.
//!
//! A convolution's weights are a matrix `[out_channels][columns]`, a column being an (input channel, tap). A *unit* is what
//! is removed at once: `block` neighbouring rows at one column, or at all taps of one input channel. Where `block` does
//! not divide the rows, the last block is smaller; units are therefore compared by their mean score a weight.

use supple_models::convnet::{Conv, Pattern};

/// Which units of a convolution are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    rows: usize,
    columns: usize,
    block: usize,
    taps: usize,
    /// `[blocks][units]`.
    keep: Vec<bool>,
}

/// Rows and neighbouring columns of a unit, for a convolution with `taps` taps.
fn unit_of(pattern: Pattern, taps: usize) -> (usize, usize) {
    match pattern {
        Pattern::Dense => (1, 1),
        Pattern::Block(block) => (block.max(1), 1),
        Pattern::Kernel(block) => (block.max(1), taps),
    }
}

/// The sum of each unit's scores, `[blocks][units]`, from those of the weights, `[rows][columns]`.
pub fn unit_scores(scores: &[f32], columns: usize, block: usize, taps: usize) -> Vec<f32> {
    let units = columns / taps;
    let mut sums = vec![0.0; (scores.len() / columns).div_ceil(block) * units];
    for (row, scores) in scores.chunks_exact(columns).enumerate() {
        let sums = &mut sums[row / block * units..][..units];
        for (sum, scores) in sums.iter_mut().zip(scores.chunks_exact(taps)) {
            *sum += scores.iter().sum::<f32>();
        }
    }
    sums
}

impl Mask {
    /// Keeps the units of highest score, so many that `1 − sparsity` of the weights stay. `scores` is `[rows][columns]`;
    /// of equal ones the first stay.
    ///
    /// # Panics
    /// If `columns` does not divide the scores, or `taps` the columns.
    pub fn choose(scores: &[f32], columns: usize, taps: usize, pattern: Pattern, sparsity: f64) -> Mask {
        let (block, taps) = unit_of(pattern, taps);
        assert!(scores.len().is_multiple_of(columns) && columns.is_multiple_of(taps), "scores are a matrix");
        let (rows, units) = (scores.len() / columns, columns / taps);
        let sums = unit_scores(scores, columns, block, taps);
        let height = |unit: usize| block.min(rows - unit / units * block);
        let means: Vec<f32> = sums.iter().enumerate().map(|(i, sum)| sum / height(i) as f32).collect();
        let mut order: Vec<u32> = (0..means.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| means[b as usize].total_cmp(&means[a as usize]).then(a.cmp(&b)));
        let wanted = ((1.0 - sparsity) * scores.len() as f64).round() as usize;
        let mut keep = vec![false; means.len()];
        let mut kept = 0;
        for unit in order {
            if kept >= wanted {
                break;
            }
            keep[unit as usize] = true;
            kept += height(unit as usize) * taps;
        }
        Mask { rows, columns, block, taps, keep }
    }

    /// Whether the weight in this row and column is kept.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        self.keep[row / self.block * (self.columns / self.taps) + column / self.taps]
    }

    /// [`keeps`](Self::keeps) for all weights, `[rows][columns]`.
    pub fn expand(&self) -> Vec<bool> {
        let at = |i: usize| self.keeps(i / self.columns, i % self.columns);
        (0..self.rows * self.columns).map(at).collect()
    }

    /// Makes weights that are not kept zero.
    pub fn apply(&self, weights: &mut [f32]) {
        for (i, weight) in weights.iter_mut().enumerate() {
            if !self.keeps(i / self.columns, i % self.columns) {
                *weight = 0.0;
            }
        }
    }

    /// Share of weights that are not kept.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.kept_share(&vec![1.0; self.rows * self.columns])
    }

    /// Share of the scores (`[rows][columns]`) that is kept.
    pub fn kept_share(&self, scores: &[f32]) -> f64 {
        let sums = unit_scores(scores, self.columns, self.block, self.taps);
        let total: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
        let kept: f64 = sums.iter().zip(&self.keep).map(|(&sum, &keep)| if keep { f64::from(sum) } else { 0.0 }).sum();
        if total > 0.0 { kept / total } else { 1.0 }
    }
}

/// What each weight is worth: `w² · worth[column]`, or `|w|` where no worth of the columns is known; times `importance[row]`,
/// if that is.
pub fn scores(weights: &[f32], columns: usize, worth: Option<&[f32]>, importance: Option<&[f32]>) -> Vec<f32> {
    let mut scores: Vec<f32> = match worth {
        None => weights.iter().map(|w| w.abs()).collect(),
        Some(worth) => {
            weights.chunks_exact(columns).flat_map(|row| row.iter().zip(worth).map(|(w, v)| w * w * v)).collect()
        }
    };
    for (row, factor) in scores.chunks_exact_mut(columns).zip(importance.into_iter().flatten()) {
        row.iter_mut().for_each(|score| *score *= factor);
    }
    scores
}

/// Taps of a convolution's kernel.
pub fn taps(conv: &Conv) -> usize {
    conv.window.kernel[0] * conv.window.kernel[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse_byte::moments::Random;

    fn noise(len: usize) -> Vec<f32> {
        let mut random = Random::new(2);
        (0..len).map(|_| random.normal().abs()).collect()
    }

    #[test]
    fn blocks_share_their_zeros_and_the_sparsity_is_what_was_asked() {
        for (rows, columns) in [(16, 12), (19, 12), (3, 40)] {
            let scores = noise(rows * columns);
            for block in [1, 2, 4, 8, 32] {
                let mask = Mask::choose(&scores, columns, 1, Pattern::Block(block), 0.4);
                let unit = block.min(rows) as f64 / (rows * columns) as f64;
                assert!((mask.sparsity() - 0.4).abs() <= unit, "{rows}x{columns} by {block}: {}", mask.sparsity());
                for row in 0..rows {
                    for column in 0..columns {
                        assert_eq!(mask.keeps(row, column), mask.keeps(row / block * block, column));
                    }
                }
                let mut weights = vec![1.0; rows * columns];
                mask.apply(&mut weights);
                assert_eq!(mask.expand(), weights.iter().map(|&w| w == 1.0).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn whole_kernels_go_together() {
        let mask = Mask::choose(&noise(8 * 45), 45, 9, Pattern::Kernel(4), 0.5);
        assert!(
            (0..8).all(|row| (0..45).all(|column| mask.keeps(row, column) == mask.keeps(row / 4 * 4, column / 9 * 9)))
        );
        assert!((mask.sparsity() - 0.5).abs() <= 36.0 / 360.0);
    }

    #[test]
    fn what_is_kept_scores_highest() {
        let scores = noise(12 * 10);
        let mask = Mask::choose(&scores, 10, 1, Pattern::Block(4), 0.3);
        let sums = unit_scores(&scores, 10, 4, 1);
        let of = |kept: bool| sums.iter().zip(&mask.keep).filter(move |(_, keep)| **keep == kept).map(|(sum, _)| *sum);
        assert!(of(true).fold(f32::MAX, f32::min) >= of(false).fold(0.0, f32::max));
        let wanted = of(true).sum::<f32>() / sums.iter().sum::<f32>();
        assert!((mask.kept_share(&scores) - f64::from(wanted)).abs() < 1e-6);
    }

    #[test]
    fn a_small_last_block_is_judged_by_its_mean() {
        // Five rows in blocks of four: the last row alone scores more a weight than the others.
        let scores: Vec<f32> = (0..5).flat_map(|row| [if row == 4 { 2.0 } else { 1.0 }; 6]).collect();
        let mask = Mask::choose(&scores, 6, 1, Pattern::Block(4), 0.4);
        assert!((0..6).all(|column| mask.keeps(4, column)));
    }

    #[test]
    fn nothing_is_removed_at_zero_and_little_left_near_one() {
        let scores = noise(64);
        assert_eq!(Mask::choose(&scores, 8, 1, Pattern::Block(4), 0.0).sparsity(), 0.0);
        assert!(Mask::choose(&scores, 8, 1, Pattern::Block(4), 0.999).sparsity() > 0.9);
    }
}
