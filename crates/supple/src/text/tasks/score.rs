//! A language model as a scorer.

use super::{Choice, Likelihood, Scorer};
use crate::Error;
use crate::text::generate::{PREFILL, Session, TextGenerator, Wanted};
use crate::text::sampling::log_sum;

/// Scores with a language model. What a text has in common with the one before is not taken in again.
#[derive(Debug)]
pub struct ModelScorer<'a> {
    generator: &'a TextGenerator,
    session: Session<'a>,
}

impl<'a> ModelScorer<'a> {
    /// A scorer with a cache of its own.
    pub fn new(generator: &'a TextGenerator) -> ModelScorer<'a> {
        ModelScorer { generator, session: generator.session() }
    }

    fn likelihood(&mut self, choice: &Choice) -> Result<Likelihood, Error> {
        let context = self.generator.encode(&choice.context)?;
        let mut tokens = self.generator.encode(&format!("{}{}", choice.context, choice.continuation))?;
        // Where the tokens of the two together are others at the seam, the continuation has what is left.
        let first = context.len().min(tokens.len().saturating_sub(1));
        let mut scored = tokens.len() - first;
        if first == 0 {
            // Without a text before it, and without a token that begins one, the first token cannot be predicted.
            scored = scored.saturating_sub(1);
        }
        if scored == 0 {
            return Err(Error::EmptyPrompt);
        }
        // Of a text that is too long, the end counts.
        let most = self.generator.context();
        if scored >= most {
            return Err(Error::PromptTooLong { tokens: scored, context: most });
        }
        tokens.drain(..tokens.len().saturating_sub(most));
        let (inputs, wanted) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - scored..]);
        let (before, scored) = inputs.split_at(inputs.len() - scored);
        let common = self.session.rewind(before);
        for part in before[common..].chunks(PREFILL) {
            self.session.take_in(part, Wanted::Nothing)?;
        }
        let vocabulary = self.generator.model().config().vocabulary;
        let mut likelihood = Likelihood { log_prob: 0.0, greedy: true };
        for (part, wanted) in scored.chunks(PREFILL).zip(wanted.chunks(PREFILL)) {
            let logits = self.session.take_in(part, Wanted::All)?;
            for (row, &token) in logits.chunks_exact(vocabulary).zip(wanted) {
                let logit = row[token as usize];
                likelihood.log_prob += f64::from(logit) - log_sum(row);
                likelihood.greedy &= row.iter().all(|&other| other <= logit);
            }
        }
        if likelihood.log_prob.is_finite() { Ok(likelihood) } else { Err(Error::NotFiniteLogits) }
    }
}

impl Scorer for ModelScorer<'_> {
    fn score(&mut self, choices: &[Choice]) -> Result<Vec<Likelihood>, Error> {
        choices.iter().map(|choice| self.likelihood(choice)).collect()
    }
}
