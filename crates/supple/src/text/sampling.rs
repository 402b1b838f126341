//! [`Sampler`]: choosing a token by its logits.
//!
//! Penalties come first, then the candidates are cut (`top_k`, `top_p`, `min_p`, in this order), then one is drawn at a
//! temperature. The same seed gives the same tokens.

use crate::Error;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only the so many likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only those at least this times as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by it, negative ones multiplied; 1 for no penalty.
    pub repetition_penalty: f32,
    /// Subtracted from a recent token's logit for each time it occurs.
    pub frequency_penalty: f32,
    /// Subtracted from a recent token's logit.
    pub presence_penalty: f32,
    /// Tokens that count as recent.
    pub penalty_window: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Refuses numbers that make no sense.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn check(&self) -> Result<(), Error> {
        let bad = |what: &str, value: f32, wanted: &str| Error::BadOption(format!("{what} is {value}, not {wanted}"));
        let inside = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        match self {
            s if !inside(s.temperature, 0.0, 100.0) => Err(bad("temperature", s.temperature, "between 0 and 100")),
            s if !inside(s.top_p, 1e-6, 1.0) => Err(bad("top-p", s.top_p, "above 0 and at most 1")),
            s if !inside(s.min_p, 0.0, 1.0) => Err(bad("min-p", s.min_p, "between 0 and 1")),
            s if !inside(s.repetition_penalty, 0.01, 100.0) => {
                Err(bad("repetition penalty", s.repetition_penalty, "between 0.01 and 100"))
            }
            s if !inside(s.frequency_penalty, -100.0, 100.0) => {
                Err(bad("frequency penalty", s.frequency_penalty, "between -100 and 100"))
            }
            s if !inside(s.presence_penalty, -100.0, 100.0) => {
                Err(bad("presence penalty", s.presence_penalty, "between -100 and 100"))
            }
            _ => Ok(()),
        }
    }

    fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// A candidate: its logit, after penalties, and its number.
type Candidate = (f32, u32);

/// Chooses tokens. Keeps its memory and the state of its draws.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    candidates: Vec<Candidate>,
    recent: Vec<u32>,
}

/// Likelier first; of two alike the one with the smaller number.
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Sampler {
    /// A sampler at the start of its draws.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Sampler, Error> {
        sampling.check()?;
        let state = sampling.seed ^ 0x9e37_79b9_7f4a_7c15;
        Ok(Sampler { sampling, state, candidates: Vec::new(), recent: Vec::new() })
    }

    /// Whether it takes the likeliest token whatever came before.
    pub(super) fn takes_likeliest(&self) -> bool {
        self.sampling.temperature == 0.0 && !self.sampling.has_penalties()
    }

    /// A token, given the logits of all and the tokens before.
    ///
    /// # Errors
    /// [`Error::NotFiniteLogits`] if there is no largest logit.
    pub fn sample(&mut self, logits: &[f32], before: &[u32]) -> Result<u32, Error> {
        let sampling = &self.sampling;
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| (logit, id)));
        if candidates.iter().any(|c| c.0.is_nan()) {
            return Err(Error::NotFiniteLogits);
        }
        if sampling.has_penalties() {
            let recent = &mut self.recent;
            recent.clear();
            recent.extend(&before[before.len().saturating_sub(sampling.penalty_window)..]);
            recent.sort_unstable();
            for run in recent.chunk_by(|a, b| a == b) {
                let Some(candidate) = candidates.get_mut(run[0] as usize) else { continue };
                let logit = &mut candidate.0;
                if *logit > 0.0 {
                    *logit /= sampling.repetition_penalty
                } else {
                    *logit *= sampling.repetition_penalty
                }
                *logit -= sampling.frequency_penalty * run.len() as f32 + sampling.presence_penalty;
            }
        }
        let best = candidates.iter().min_by(|a, b| order(a, b)).copied();
        let Some(best) = best.filter(|best| best.0.is_finite()) else { return Err(Error::NotFiniteLogits) };
        if sampling.temperature == 0.0 {
            return Ok(best.1);
        }
        let keep = if sampling.top_k == 0 { candidates.len() } else { sampling.top_k.min(candidates.len()) };
        if keep < candidates.len() {
            candidates.select_nth_unstable_by(keep - 1, order);
            candidates.truncate(keep);
        }
        // In probabilities relative to the likeliest, 0.05 is a logit 3 below.
        let least = best.0 + sampling.min_p.ln();
        candidates.sort_unstable_by(order);
        if sampling.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| f64::from(c.0 - best.0).exp()).sum();
            let mut sum = 0.0;
            let mut end = 0;
            for candidate in candidates.iter() {
                end += 1;
                sum += f64::from(candidate.0 - best.0).exp();
                if sum >= f64::from(sampling.top_p) * total {
                    break;
                }
            }
            candidates.truncate(end);
        }
        candidates.retain(|candidate| candidate.0 >= least);
        let weight = |c: &Candidate| (f64::from(c.0 - best.0) / f64::from(sampling.temperature)).exp();
        let total: f64 = candidates.iter().map(weight).sum();
        // Splitmix64, 53 bits of it.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut point = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 * total;
        for candidate in candidates.iter() {
            point -= weight(candidate);
            if point < 0.0 {
                return Ok(candidate.1);
            }
        }
        Ok(candidates.last().map_or(best.1, |last| last.1))
    }
}

/// The natural logarithm of the sum of all exponentials: `logit - log_sum` is the logarithm of a probability.
pub fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.chunks(256).map(|part| f64::from(part.iter().map(|&l| (l - max).exp()).sum::<f32>())).sum();
    f64::from(max) + sum.ln()
}

/// The `count` likeliest tokens with the logarithms of their probabilities, likeliest first.
pub fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<Candidate> = logits.iter().zip(0..).map(|(&logit, id)| (logit, id)).collect();
    let count = count.min(all.len());
    if count == 0 {
        return Vec::new();
    }
    all.select_nth_unstable_by(count - 1, order);
    all.truncate(count);
    all.sort_unstable_by(order);
    let total = log_sum(logits);
    all.into_iter().map(|(logit, id)| (id, (f64::from(logit) - total) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits, &[]).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    const ALL: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        penalty_window: 64,
        seed: 3,
    };

    /// Logits of probabilities 0.5, 0.3, 0.15, 0.05.
    fn logits() -> Vec<f32> {
        [0.5f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec()
    }

    fn near(found: &[f64], wanted: &[f64]) {
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 0.015, "{found:?}, wanted {wanted:?}");
        }
    }

    #[test]
    fn draws_follow_the_probabilities_that_are_left() {
        near(&frequencies(ALL, &logits()), &[0.5, 0.3, 0.15, 0.05]);
        near(&frequencies(Sampling { top_k: 2, ..ALL }, &logits()), &[0.625, 0.375, 0.0, 0.0]);
        near(&frequencies(Sampling { top_p: 0.81, ..ALL }, &logits()), &[0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]);
        near(&frequencies(Sampling { top_p: 0.79, ..ALL }, &logits()), &[0.625, 0.375, 0.0, 0.0]);
        near(&frequencies(Sampling { min_p: 0.4, ..ALL }, &logits()), &[0.625, 0.375, 0.0, 0.0]);
        let squares = [0.25, 0.09, 0.0225, 0.0025].map(|p| p / 0.365);
        near(&frequencies(Sampling { temperature: 0.5, ..ALL }, &logits()), &squares);
        near(&frequencies(Sampling { temperature: 0.0, ..ALL }, &logits()), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn penalties_are_for_recent_tokens() {
        let greedy = |sampling: Sampling, before: &[u32]| {
            Sampler::new(Sampling { temperature: 0.0, ..sampling }).unwrap().sample(&[2.0, 1.5, -1.0], before).unwrap()
        };
        assert_eq!(greedy(ALL, &[0]), 0);
        assert_eq!(greedy(Sampling { repetition_penalty: 1.5, ..ALL }, &[0]), 1);
        assert_eq!(greedy(Sampling { presence_penalty: 0.6, ..ALL }, &[0]), 1);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.3, ..ALL }, &[0]), 0);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.3, ..ALL }, &[0, 0]), 1);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.3, penalty_window: 1, ..ALL }, &[0, 0]), 0);
        assert_eq!(greedy(Sampling { presence_penalty: 9.0, ..ALL }, &[0, 1, 7_000]), 2);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..ALL }).unwrap();
            (0..30).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for sampling in [
            Sampling { temperature: -1.0, ..ALL },
            Sampling { temperature: f32::NAN, ..ALL },
            Sampling { top_p: 0.0, ..ALL },
            Sampling { min_p: 1.5, ..ALL },
            Sampling { repetition_penalty: 0.0, ..ALL },
        ] {
            assert!(matches!(Sampler::new(sampling), Err(Error::BadOption(_))));
        }
        let mut sampler = Sampler::new(ALL).unwrap();
        for logits in [&[f32::NAN, 1.0][..], &[f32::NEG_INFINITY; 3], &[]] {
            assert!(matches!(sampler.sample(logits, &[]), Err(Error::NotFiniteLogits)));
        }
    }

    #[test]
    fn logarithms_of_probabilities_sum_to_one() {
        let found = likeliest(&logits(), 3);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((found[0].1 - 0.5f32.ln()).abs() < 1e-6);
        assert!(likeliest(&logits(), 0).is_empty());
    }
}
