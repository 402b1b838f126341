//! Sequences that come and go, decoded together ("continuous batching").
//!
//! Each [`step`](Batch::step) takes in the last token of every sequence that is decoding, and of prompts as much as fits a
//! limit. A prompt that begins like one that is still held shares its pages.

use super::{Forward, Input, Sequence, State, Wanted};
use crate::Error;

/// Names a sequence of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A sequence that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub ticket: Ticket,
    /// Its tokens, those of the prompt included.
    pub tokens: Vec<u32>,
}

/// Chooses the next token of a sequence by its tokens and the logits after them; none if it is done.
pub type Choose<'a> = dyn FnMut(Ticket, &[u32], &[f32]) -> Option<u32> + 'a;

/// Sequences that are decoded together.
#[derive(Debug)]
pub struct Batch {
    state: State,
    slots: Vec<Slot>,
    next: u64,
    /// Most tokens of a pass.
    limit: usize,
}

#[derive(Debug)]
struct Slot {
    ticket: Ticket,
    sequence: Sequence,
    /// All tokens; those from `sequence.len()` on are not in the cache yet.
    tokens: Vec<u32>,
}

impl Batch {
    /// None yet, in a [`Cache`](super::Cache) of the CPU's or the [`State`] of any decoder. A pass takes at most `limit` tokens, but
    /// one of each decoding sequence in any case.
    pub fn new(state: impl Into<State>, limit: usize) -> Batch {
        Batch { state: state.into(), slots: Vec::new(), next: 0, limit: limit.max(1) }
    }

    /// Adds a sequence that begins with `prompt`. The pages of the longest beginning that it has in common with one that is
    /// held are shared.
    ///
    /// # Errors
    /// [`Error::NoTokens`] for an empty prompt.
    pub fn add(&mut self, prompt: Vec<u32>) -> Result<Ticket, Error> {
        // The last token is always taken in: its logits are wanted.
        let Some(most) = prompt.len().checked_sub(1) else { return Err(Error::NoTokens) };
        let common = |slot: &Slot| {
            let held = &slot.tokens[..slot.sequence.len()];
            held.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count()
        };
        let best = self.slots.iter().map(|slot| (common(slot), slot)).max_by_key(|(len, _)| *len);
        let sequence = match best {
            Some((len, slot)) if len > 0 => self.state.fork(&slot.sequence, len),
            _ => Sequence::default(),
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.slots.push(Slot { ticket, sequence, tokens: prompt });
        Ok(ticket)
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The cache, to see what is in use.
    pub fn cache(&self) -> &State {
        &self.state
    }

    /// One pass. `choose(ticket, tokens, logits)` is asked for the next token of each sequence whose tokens are all in; a
    /// sequence for which it gives none is done and leaves.
    ///
    /// # Errors
    /// As [`Forward::forward`]. Sequences are then as they were.
    pub fn step(&mut self, model: &impl Forward, choose: &mut Choose<'_>) -> Result<Vec<Finished>, Error> {
        if self.slots.is_empty() {
            return Ok(Vec::new());
        }
        let decoding = self.slots.iter().filter(|slot| slot.tokens.len() == slot.sequence.len() + 1).count();
        let mut left = self.limit.saturating_sub(decoding).max(usize::from(decoding == 0));
        let mut inputs = Vec::with_capacity(self.slots.len());
        let mut complete = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let start = slot.sequence.len();
            let pending = slot.tokens.len() - start;
            let count = if pending == 1 { 1 } else { pending.min(left) };
            if pending > 1 {
                left -= count;
            }
            if count == 0 {
                continue;
            }
            let wanted = if count == pending { Wanted::Last } else { Wanted::Nothing };
            if count == pending {
                complete.push(index);
            }
            inputs.push(Input { sequence: &mut slot.sequence, tokens: &slot.tokens[start..start + count], wanted });
        }
        let logits = Forward::forward(model, &mut self.state, &mut inputs)?;
        let mut done = Vec::new();
        for (&index, logits) in complete.iter().zip(logits.chunks_exact(model.config().vocabulary)) {
            let slot = &mut self.slots[index];
            match choose(slot.ticket, &slot.tokens, logits) {
                Some(token) => slot.tokens.push(token),
                None => done.push(index),
            }
        }
        let mut finished = Vec::with_capacity(done.len());
        for index in done.into_iter().rev() {
            let Slot { ticket, sequence, tokens } = self.slots.remove(index);
            self.state.release(sequence);
            finished.push(Finished { ticket, tokens });
        }
        finished.reverse();
        Ok(finished)
    }
}
