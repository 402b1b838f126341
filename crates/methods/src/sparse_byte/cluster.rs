//! Balanced clusters: an order of channels in which blocks of neighbours keep as much as possible.
//!
//! With `S[g][j]` the score of unit (block `g`, column `j`) and `K` units to keep, what a mask keeps is the sum of the `K`
//! largest `S`. For a fixed threshold `τ` that sum is, up to a constant, `Σ max(S[g][j] − τ, 0)`; `τ` is the `K`-th largest.
//! This separates into blocks, so that what a swap of two channels gains needs two rows of `S` and no sorting:
//!
//! ```text
//! repeat:  τ ← K-th largest S
//!          for each channel p: among all q in other blocks, the one whose swap gains most; swap if it gains
//! until a sweep gains almost nothing; the best order seen, by the sum itself, is the result
//! ```
//!
//! It starts from the better of two orders: as the channels are, and sorted by score (as 1×N pruning does, arXiv 2105.14713).
//! Channels that several convolutions write are clustered for all of them, each counted by the share that it keeps.

use super::prune::unit_scores;
use supple_tensor::Cpu;

/// Sweeps end when one gains less than this share of what is kept.
const WORTHWHILE: f64 = 2e-5;

/// A convolution whose output channels are to be ordered.
#[derive(Clone, Debug)]
pub struct Producer {
    /// What its weights are worth: `[rows][columns]`, taps that go together already summed.
    pub scores: Vec<f32>,
    /// Number of columns.
    pub columns: usize,
    /// Output channels of a block.
    pub block: usize,
    /// Share of units to remove.
    pub sparsity: f64,
    /// Row of the first channel to be ordered; rows before it and after the last stay.
    pub first: usize,
}

impl Producer {
    fn rows(&self) -> usize {
        self.scores.len() / self.columns
    }

    /// Row of the original matrix in each place, when channels are in this order.
    fn order(&self, channels: &[usize]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows()).collect();
        for (place, &channel) in channels.iter().enumerate() {
            order[self.first + place] = self.first + channel;
        }
        order
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.scores[row * self.columns..][..self.columns]
    }

    /// Unit scores when channels are in this order.
    fn units(&self, channels: &[usize]) -> Vec<f32> {
        let ordered: Vec<f32> =
            self.order(channels).into_iter().flat_map(|row| self.row(row).iter().copied()).collect();
        unit_scores(&ordered, self.columns, self.block, 1)
    }

    /// The mean score a weight of the last unit that is kept, and the share of all scores that is kept.
    fn threshold(&self, units: &[f32]) -> (f32, f64) {
        let rows = self.rows();
        let height = |i: usize| self.block.min(rows - i / self.columns * self.block) as f32;
        let mut means: Vec<(f32, f32)> = units.iter().enumerate().map(|(i, &unit)| (unit / height(i), unit)).collect();
        let keep = ((1.0 - self.sparsity) * means.len() as f64).round() as usize;
        let total: f64 = units.iter().map(|&unit| f64::from(unit)).sum();
        if keep == 0 || total <= 0.0 {
            return (f32::MAX, 0.0);
        }
        let (more, last, _) = means.select_nth_unstable_by(keep - 1, |a, b| b.0.total_cmp(&a.0));
        let kept = more.iter().map(|&(_, unit)| f64::from(unit)).sum::<f64>() + f64::from(last.1);
        (last.0, kept / total)
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Clustering {
    /// The channel in each place.
    pub order: Vec<usize>,
    /// What each producer keeps of its scores in the order in which channels came.
    pub before: Vec<f64>,
    /// What it keeps in the new order.
    pub after: Vec<f64>,
}

/// A producer in the current order.
struct State<'a> {
    producer: &'a Producer,
    order: Vec<usize>,
    /// Unit scores less `τ · height`, `[blocks][columns]`.
    excess: Vec<f32>,
    /// Gains are multiplied by this, so that producers count alike.
    weight: f64,
}

impl State<'_> {
    fn block_of(&self, place: usize) -> usize {
        (self.producer.first + place) / self.producer.block
    }

    fn excess(&self, block: usize) -> &[f32] {
        &self.excess[block * self.producer.columns..][..self.producer.columns]
    }

    /// The scores of the channel in `place`.
    fn row(&self, place: usize) -> &[f32] {
        self.producer.row(self.order[self.producer.first + place])
    }
}

/// `Σ_j max(without[j] + b[j], 0) + max(other[j] + a[j] − b[j], 0)`: what two blocks keep once channels `a` and `b` have
/// changed places, `without` being the first block's excess without `a`.
fn kept_after(without: &[f32], a: &[f32], other: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let n = without.len();
    let (w16, a16) = (without.chunks_exact(16), a.chunks_exact(16));
    let (o16, b16) = (other.chunks_exact(16), b.chunks_exact(16));
    for (((w, a), o), b) in w16.zip(a16).zip(o16).zip(b16) {
        for k in 0..16 {
            sums[k] += (w[k] + b[k]).max(0.0) + (o[k] + (a[k] - b[k])).max(0.0);
        }
    }
    let tail = (n / 16 * 16..n).map(|j| (without[j] + b[j]).max(0.0) + (other[j] + (a[j] - b[j])).max(0.0));
    sums.iter().sum::<f32>() + tail.sum::<f32>()
}

fn kept(excess: &[f32]) -> f32 {
    excess.iter().map(|value| value.max(0.0)).sum()
}

/// Orders `channels` channels. `progress` hears the number of sweeps done; if it returns `false`, the best order so far is
/// the result.
///
/// # Panics
/// If a producer has fewer rows than `first + channels`.
pub fn cluster(
    cpu: &Cpu,
    producers: &[Producer],
    channels: usize,
    sweeps: usize,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Clustering {
    let shares = |order: &[usize]| -> Vec<f64> { producers.iter().map(|p| p.threshold(&p.units(order)).1).collect() };
    let identity: Vec<usize> = (0..channels).collect();
    let before = shares(&identity);
    let mut best = (identity.clone(), before.clone());
    let mut offer = |order: &[usize]| {
        let found = shares(order);
        let better = found.iter().sum::<f64>() - best.1.iter().sum::<f64>();
        if better > 0.0 {
            best = (order.to_vec(), found);
        }
        (better, best.0.clone())
    };
    let (_, mut order) = offer(&sorted(producers, &identity));
    let useful = producers.iter().any(|p| p.block > 1 && p.sparsity > 0.0);
    for sweep in 0..if useful { sweeps } else { 0 } {
        if !progress(sweep) {
            break;
        }
        improve(cpu, producers, &mut order);
        if offer(&order).0 < WORTHWHILE * producers.len() as f64 {
            break;
        }
    }
    let (order, after) = best;
    Clustering { order, before, after }
}

/// Channels by falling score.
fn sorted(producers: &[Producer], identity: &[usize]) -> Vec<usize> {
    let mut scores = vec![0.0; identity.len()];
    for producer in producers {
        let total: f64 = producer.scores.iter().map(|&score| f64::from(score)).sum();
        for (channel, score) in scores.iter_mut().enumerate() {
            let sum: f64 = producer.row(producer.first + channel).iter().map(|&score| f64::from(score)).sum();
            *score += sum / total.max(f64::MIN_POSITIVE);
        }
    }
    let mut order = identity.to_vec();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// One sweep of swaps.
fn improve(cpu: &Cpu, producers: &[Producer], channels: &mut [usize]) {
    let mut states: Vec<State<'_>> = producers
        .iter()
        .map(|producer| {
            let mut excess = producer.units(channels);
            let (threshold, _) = producer.threshold(&excess);
            let rows = producer.rows();
            for (block, row) in excess.chunks_exact_mut(producer.columns).enumerate() {
                let height = producer.block.min(rows - block * producer.block) as f32;
                row.iter_mut().for_each(|value| *value -= threshold * height);
            }
            let total: f64 = producer.scores.iter().map(|&score| f64::from(score)).sum();
            let weight = if total > 0.0 { 1.0 / total } else { 0.0 };
            State { producer, order: producer.order(channels), excess, weight }
        })
        .collect();
    let mut gains = vec![0.0f64; channels.len()];
    for p in 0..channels.len() {
        let without: Vec<Vec<f32>> = states
            .iter()
            .map(|state| state.excess(state.block_of(p)).iter().zip(state.row(p)).map(|(e, a)| e - a).collect())
            .collect();
        let kept_p: Vec<f32> = states.iter().map(|state| kept(state.excess(state.block_of(p)))).collect();
        // Each task takes a run of places, so that the other block's sum is found once a block.
        cpu.pool.for_each_chunk(&mut gains, 64, &|chunk, gains| {
            gains.fill(0.0);
            for (k, state) in states.iter().enumerate() {
                let (mut known, mut kept_q) = (usize::MAX, 0.0);
                for (i, gain) in gains.iter_mut().enumerate() {
                    let q = chunk * 64 + i;
                    let block = state.block_of(q);
                    if block == state.block_of(p) {
                        continue;
                    }
                    if block != known {
                        (known, kept_q) = (block, kept(state.excess(block)));
                    }
                    let after = kept_after(&without[k], state.row(p), state.excess(block), state.row(q));
                    *gain += state.weight * f64::from(after - kept_p[k] - kept_q);
                }
            }
        });
        let Some(q) = (0..gains.len()).max_by(|&i, &j| gains[i].total_cmp(&gains[j])) else { return };
        // Gains below what f32 sums can tell are noise.
        let noise: f64 = states.iter().zip(&kept_p).map(|(state, &kept)| state.weight * f64::from(kept) * 1e-5).sum();
        if gains[q] > noise {
            channels.swap(p, q);
            states.iter_mut().for_each(|state| swap(state, p, q));
        }
    }
}

fn swap(state: &mut State<'_>, p: usize, q: usize) {
    let (n, first) = (state.producer.columns, state.producer.first);
    let blocks = (state.block_of(p), state.block_of(q));
    if blocks.0 != blocks.1 {
        let (a, b) = (state.order[first + p], state.order[first + q]);
        for j in 0..n {
            let change = state.producer.scores[b * n + j] - state.producer.scores[a * n + j];
            state.excess[blocks.0 * n + j] += change;
            state.excess[blocks.1 * n + j] -= change;
        }
    }
    state.order.swap(first + p, first + q);
}

#[cfg(test)]
mod tests {
    use super::super::moments::Random;
    use super::*;
    use supple_tensor::Isa;

    /// Rows of `groups` kinds, shuffled: those of one kind need the same columns.
    fn kinds(rows: usize, columns: usize, groups: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        let needs: Vec<bool> = (0..groups * columns).map(|_| random.below(2) == 0).collect();
        let order = super::super::testing::shuffled(rows, seed);
        (0..rows * columns)
            .map(|i| {
                let kind = order[i / columns] * groups / rows;
                let size = if needs[kind * columns + i % columns] { 1.0 } else { 0.05 };
                size * (1.0 + 0.2 * random.normal()).abs()
            })
            .collect()
    }

    fn is_permutation(order: &[usize]) -> bool {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        sorted.iter().enumerate().all(|(i, &c)| i == c)
    }

    #[test]
    fn hidden_clusters_are_found() {
        let cpu = Cpu::new(Isa::detect(), 2);
        let producer = Producer { scores: kinds(64, 48, 16, 3), columns: 48, block: 4, sparsity: 0.5, first: 0 };
        let found = cluster(&cpu, &[producer], 64, 20, &mut |_| true);
        assert!(is_permutation(&found.order));
        // In blocks of one kind half of the columns hold 0.95 of the scores.
        assert!(found.before[0] < 0.75 && found.after[0] > 0.92, "{found:?}");
    }

    #[test]
    fn it_never_keeps_less() {
        let cpu = Cpu::new(Isa::detect(), 1);
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let rows = 5 + random.below(30);
            let columns = 1 + random.below(40);
            let scores = (0..rows * columns).map(|_| random.normal().abs()).collect();
            let sparsity = random.below(10) as f64 / 10.0;
            let producer = Producer { scores, columns, block: 1 + random.below(9), sparsity, first: 0 };
            let found = cluster(&cpu, std::slice::from_ref(&producer), rows, 5, &mut |_| true);
            assert!(is_permutation(&found.order));
            assert!(found.after[0] >= found.before[0], "{found:?}");
            let again = producer.threshold(&producer.units(&found.order)).1;
            assert!((again - found.after[0]).abs() < 1e-9);
        }
    }

    #[test]
    fn producers_that_share_channels_are_served_together() {
        let cpu = Cpu::new(Isa::detect(), 2);
        // The second has five more rows before and three after those that move.
        let first = Producer { scores: kinds(32, 24, 8, 1), columns: 24, block: 4, sparsity: 0.5, first: 0 };
        let mut padded: Vec<f32> = vec![0.3; 5 * 20];
        padded.extend(kinds(32, 20, 8, 1));
        padded.extend(vec![0.3; 3 * 20]);
        let second = Producer { scores: padded, columns: 20, block: 8, sparsity: 0.4, first: 5 };
        let found = cluster(&cpu, &[first, second], 32, 20, &mut |_| true);
        assert!(is_permutation(&found.order));
        assert!(found.after.iter().sum::<f64>() > found.before.iter().sum::<f64>() + 0.1, "{found:?}");
    }

    #[test]
    fn a_gain_is_what_a_swap_gains() {
        let mut random = Random::new(8);
        let mut vector = || (0..37).map(|_| random.normal()).collect::<Vec<f32>>();
        let (a, b, x, y) = (vector(), vector(), vector(), vector());
        let without: Vec<f32> = x.iter().zip(&a).map(|(x, a)| x - a).collect();
        let first: Vec<f32> = without.iter().zip(&b).map(|(w, b)| w + b).collect();
        let second: Vec<f32> = y.iter().zip(&b).zip(&a).map(|((y, b), a)| y - b + a).collect();
        let wanted = kept(&first) + kept(&second);
        assert!((kept_after(&without, &a, &y, &b) - wanted).abs() < 1e-4);
    }
}
