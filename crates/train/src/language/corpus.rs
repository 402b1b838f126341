//! Tokens to learn from, and the examples that are drawn of them.
//!
//! Examples are rows of one length: a GPU replays one step for all. A text gives windows of it. A conversation has a row of its
//! own, filled up behind its end with targets that do not count: attention looks back only, so that what stands behind the end
//! is seen by nobody, and no mask is needed.

use crate::Error;
use supple_tensor::{Random, ops::IGNORED};

/// A conversation, or another text that is seen from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether telling each of them counts; as many as tokens.
    pub counts: Vec<bool>,
}

/// What examples are drawn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Corpus {
    /// One long text, all of which counts.
    Text(Vec<u32>),
    /// Conversations.
    Documents(Vec<Document>),
}

/// A row: tokens, and what should come after each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What the model sees.
    pub inputs: Vec<u32>,
    /// What it should tell; [`IGNORED`] where that does not count.
    pub targets: Vec<u32>,
}

impl Corpus {
    /// Checks that rows of `length` tokens can be drawn, of a vocabulary of `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Examples`] if the text is too short, no token counts, or one is not in the vocabulary.
    pub fn check(&self, length: usize, vocabulary: usize) -> Result<(), Error> {
        let wrong = |problem: String| Err(Error::Examples(problem.into()));
        let mut tokens: Box<dyn Iterator<Item = &u32>> = match self {
            Corpus::Text(tokens) => Box::new(tokens.iter()),
            Corpus::Documents(documents) => Box::new(documents.iter().flat_map(|document| &document.tokens)),
        };
        if let Some(token) = tokens.find(|token| **token as usize >= vocabulary) {
            return wrong(format!(
                "token {token} is none of the model's {vocabulary}: the tokeniser is another model's"
            ));
        }
        match self {
            Corpus::Text(tokens) if tokens.len() <= length => {
                wrong(format!("the text has {} tokens, a row wants {}", tokens.len(), length + 1))
            }
            Corpus::Documents(documents) if documents.is_empty() => wrong("there are no conversations".into()),
            Corpus::Documents(documents) => {
                let none = documents.iter().position(|document| document.row(length).counted() == 0);
                none.map_or(Ok(()), |at| {
                    wrong(format!("nothing of conversation {} counts in its first {length} tokens", at + 1))
                })
            }
            Corpus::Text(_) => Ok(()),
        }
    }

    /// A random example. All choices are drawn from `random`.
    pub fn example(&self, length: usize, random: &mut Random) -> Example {
        match self {
            Corpus::Text(tokens) => window(tokens, random.below(tokens.len().saturating_sub(length).max(1)), length),
            Corpus::Documents(documents) => documents[random.below(documents.len().max(1))].row(length),
        }
    }

    /// Everything once, in rows: what a loss is measured on. The end of a text that fills no row is filled up.
    pub fn rows(&self, length: usize) -> Vec<Example> {
        match self {
            Corpus::Text(tokens) => {
                (0..tokens.len().saturating_sub(1)).step_by(length).map(|at| window(tokens, at, length)).collect()
            }
            Corpus::Documents(documents) => documents.iter().map(|document| document.row(length)).collect(),
        }
    }
}

fn window(tokens: &[u32], at: usize, length: usize) -> Example {
    let part = |start: usize, fill: u32| {
        let all = tokens[start.min(tokens.len())..].iter().copied().chain(std::iter::repeat(fill));
        all.take(length).collect()
    };
    Example { inputs: part(at, 0), targets: part(at + 1, IGNORED) }
}

impl Document {
    fn row(&self, length: usize) -> Example {
        let mut example = window(&self.tokens, 0, length);
        let counts = self.counts.iter().skip(1).copied().chain(std::iter::repeat(false));
        for (target, counts) in example.targets.iter_mut().zip(counts) {
            if !counts {
                *target = IGNORED;
            }
        }
        example
    }
}

impl Example {
    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_cover_a_text_once() {
        let corpus = Corpus::Text((0..11).collect());
        let rows = corpus.rows(4);
        let all: Vec<u32> = rows.iter().flat_map(|row| row.targets.clone()).filter(|t| *t != IGNORED).collect();
        assert_eq!(all, (1..11).collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row.inputs.len() == 4 && row.targets.len() == 4));
        let mut starts = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let row = corpus.example(4, &mut Random::new(seed));
            assert_eq!(row.targets, row.inputs.iter().map(|t| t + 1).collect::<Vec<_>>());
            starts.insert(row.inputs[0]);
        }
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn answers_alone_count() {
        let document = Document { tokens: vec![5, 6, 7, 8], counts: vec![false, false, true, true] };
        let row = Corpus::Documents(vec![document.clone()]).example(6, &mut Random::new(1));
        assert_eq!(row.inputs, [5, 6, 7, 8, 0, 0]);
        assert_eq!(row.targets, [IGNORED, 7, 8, IGNORED, IGNORED, IGNORED]);
        assert_eq!(document.row(2).targets, [IGNORED, 7]);
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        assert!(Corpus::Text(vec![1; 4]).check(4, 10).is_err() && Corpus::Text(vec![1; 5]).check(4, 10).is_ok());
        assert!(Corpus::Text(vec![10; 5]).check(4, 10).is_err() && Corpus::Documents(vec![]).check(4, 10).is_err());
        let late = Document { tokens: vec![1; 9], counts: [[false; 8].as_slice(), &[true]].concat() };
        assert!(Corpus::Documents(vec![late.clone()]).check(4, 10).is_err());
        assert!(Corpus::Documents(vec![late]).check(8, 10).is_ok());
    }
}
