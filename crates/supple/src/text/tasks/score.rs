//! A language model as a scorer.

use super::{Choice, Likelihood, Scorer};
use crate::Error;
use crate::text::evaluate::by_row;
use crate::text::generate::{PREFILL, TextGenerator, Wanted};
use crate::text::sampling::log_sum;
use supple_models::llama::{Input, Sequence, State};

/// Logits that are held at a time.
const ROWS: usize = 64;
/// More than pages of a sequence and of its copy hold in vain.
const SLACK: usize = 256;

/// Scores with a language model: continuations of all texts together, each text taken in once. What one gets does not depend
/// on the others.
#[derive(Debug)]
pub struct ModelScorer<'a> {
    generator: &'a TextGenerator,
    state: State,
    /// Tokens that there is room for.
    positions: usize,
}

/// A text and its continuation as tokens.
struct Item {
    /// The text, and what of the continuation is only taken in.
    before: Vec<u32>,
    /// Tokens after which predictions count.
    scored: Vec<u32>,
    /// What they should predict.
    wanted: Vec<u32>,
}

impl<'a> ModelScorer<'a> {
    /// A scorer with a cache of its own.
    ///
    /// # Errors
    /// If the device's memory does not hold it.
    pub fn new(generator: &'a TextGenerator) -> Result<ModelScorer<'a>, Error> {
        let positions = match generator.model().cpu() {
            Some(_) => usize::MAX / 2,
            // A GPU's cache does not grow: one text of full length, or many short ones.
            None => generator.context() + SLACK,
        };
        Ok(ModelScorer { generator, state: generator.state(positions)?, positions })
    }

    fn item(&self, choice: &Choice) -> Result<Item, Error> {
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
        let wanted = tokens.split_off(tokens.len() - scored);
        // The last token is predicted, and not taken in.
        let mut scored = wanted[..wanted.len() - 1].to_vec();
        scored.insert(0, tokens.pop().ok_or(Error::EmptyPrompt)?);
        Ok(Item { before: tokens, scored, wanted })
    }

    /// Takes in, for each sequence, the tokens of its text.
    fn take_in(&mut self, sequences: &mut [Sequence], texts: &[&[u32]]) -> Result<(), Error> {
        loop {
            let mut left = PREFILL;
            let mut inputs = Vec::new();
            for (sequence, text) in sequences.iter_mut().zip(texts) {
                let rest = &text[sequence.len()..];
                let tokens = &rest[..rest.len().min(left)];
                if !tokens.is_empty() {
                    left -= tokens.len();
                    inputs.push(Input { sequence, tokens, wanted: Wanted::Nothing });
                }
            }
            if inputs.is_empty() {
                return Ok(());
            }
            self.generator.model().forward(&mut self.state, &mut inputs)?;
        }
    }

    /// The likelihood of each item, given the sequence of its text.
    fn predictions(&mut self, items: &[Item], sequences: &mut [Sequence]) -> Result<Vec<Likelihood>, Error> {
        let generator = self.generator;
        let vocabulary = generator.model().config().vocabulary;
        let mut found = vec![Likelihood { log_prob: 0.0, greedy: true }; items.len()];
        let mut done = vec![0; items.len()];
        loop {
            let mut left = ROWS;
            let (mut inputs, mut rows) = (Vec::new(), Vec::new());
            for (index, (sequence, item)) in sequences.iter_mut().zip(items).enumerate() {
                let count = (item.scored.len() - done[index]).min(left);
                if count > 0 {
                    let part = done[index]..done[index] + count;
                    rows.extend(item.wanted[part.clone()].iter().map(|&token| (index, token)));
                    inputs.push(Input { sequence, tokens: &item.scored[part], wanted: Wanted::All });
                    done[index] += count;
                    left -= count;
                }
            }
            if inputs.is_empty() {
                break;
            }
            let logits = generator.model().forward(&mut self.state, &mut inputs)?;
            let results = by_row(generator, rows.len(), &|row| {
                let logits = &logits[row * vocabulary..][..vocabulary];
                let logit = logits[rows[row].1 as usize];
                (f64::from(logit) - log_sum(logits), logits.iter().all(|&other| other <= logit))
            });
            for ((index, _), (log_prob, greedy)) in rows.into_iter().zip(results) {
                found[index].log_prob += log_prob;
                found[index].greedy &= greedy;
            }
        }
        let sound = found.iter().all(|likelihood| likelihood.log_prob.is_finite());
        if sound { Ok(found) } else { Err(Error::NotFiniteLogits) }
    }
}

impl Scorer for ModelScorer<'_> {
    fn score(&mut self, choices: &[Choice]) -> Result<Vec<Likelihood>, Error> {
        let items = choices.iter().map(|choice| self.item(choice)).collect::<Result<Vec<_>, _>>()?;
        let mut found = Vec::with_capacity(items.len());
        while found.len() < items.len() {
            let rest = &items[found.len()..];
            let mut room = self.positions;
            let fits = rest.iter().take_while(|item| {
                let needed = item.before.len() + item.scored.len() + SLACK;
                let fits = needed <= room;
                room = room.saturating_sub(needed);
                fits
            });
            let count = fits.count().max(1);
            found.extend(self.together(&rest[..count])?);
        }
        Ok(found)
    }
}

impl ModelScorer<'_> {
    /// The likelihoods of items for which there is room.
    fn together(&mut self, items: &[Item]) -> Result<Vec<Likelihood>, Error> {
        // Texts that are alike are taken in once.
        let mut texts: Vec<&[u32]> = Vec::new();
        let mut text_of = Vec::with_capacity(items.len());
        for item in items {
            let known = texts.iter().rposition(|text| *text == item.before);
            text_of.push(known.unwrap_or(texts.len()));
            if known.is_none() {
                texts.push(&item.before);
            }
        }
        let mut bases: Vec<Sequence> = texts.iter().map(|_| Sequence::default()).collect();
        let taken = self.take_in(&mut bases, &texts);
        let mut forks: Vec<Sequence> =
            text_of.iter().map(|&text| self.state.fork(&bases[text], texts[text].len())).collect();
        let found = taken.and_then(|()| self.predictions(items, &mut forks));
        bases.into_iter().chain(forks).for_each(|sequence| self.state.release(sequence));
        found
    }
}
