//! `tokenizer.bin` of llama2.c: the longest token (u32), then for each token its score (f32), its length (i32) and its
//! spelling, in which spaces are spaces. Tokens 0, 1 and 2 are unknown, BOS and EOS; 3 to 258 are bytes.

use super::vocabulary::{Kind, Vocabulary};
use super::{Algorithm, Tokenizer};
use crate::Error;

/// Longest token in bytes.
const MAX_TOKEN: usize = 1 << 16;

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.bin`; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the bytes end within a token or are none.
    pub fn from_llama2c(name: &str, bytes: &[u8]) -> Result<Tokenizer, Error> {
        let wrong = |reason: String| Error::Tokenizer { name: name.to_string(), reason };
        let truncated = |index: usize| wrong(format!("truncated at token {index}"));
        let (_, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(|| truncated(0))?;
        let (mut vocabulary, mut scores) = (Vocabulary::default(), Vec::new());
        while !rest.is_empty() {
            let index = scores.len();
            let (score, after) = rest.split_first_chunk::<4>().ok_or_else(|| truncated(index))?;
            let (length, after) = after.split_first_chunk::<4>().ok_or_else(|| truncated(index))?;
            let length = usize::try_from(i32::from_le_bytes(*length)).ok().filter(|&length| length <= MAX_TOKEN);
            let length = length.ok_or_else(|| wrong(format!("token {index}: its length is absurd")))?;
            let (text, after) = after.split_at_checked(length).ok_or_else(|| truncated(index))?;
            let kind = match index {
                0 => Kind::Unknown,
                1 | 2 => Kind::Control,
                3..259 => Kind::Byte,
                _ => Kind::Normal,
            };
            // In the file BOS and EOS have line feeds about their names.
            let text = if kind == Kind::Control { text.trim_ascii() } else { text };
            vocabulary.push(if kind == Kind::Byte { vec![(index - 3) as u8] } else { text.to_vec() }, kind);
            scores.push(f32::from_le_bytes(*score));
            rest = after;
        }
        if scores.len() < 259 {
            return Err(wrong(format!("wanted at least 259 tokens, found {}", scores.len())));
        }
        let spelled = |id: usize| match vocabulary.kind(id as u32) {
            Kind::Normal => Some(vocabulary.bytes(id as u32).to_vec()),
            _ => None,
        };
        let merges = super::gguf::merges(&vocabulary, &scores, &spelled, Some(0));
        Ok(Tokenizer {
            name: name.to_string(),
            algorithm: Algorithm::Spm {
                merges: Box::new(merges),
                prefix: true,
                space: " ",
                finders: Default::default(),
            },
            vocabulary,
            bos: Some(1),
            ends: vec![2],
            add_bos: true,
            add_eos: false,
            strip_first_space: true,
        })
    }
}
