//! What each token is, for decoding and for finding special tokens in text.

use std::collections::HashMap;

/// What a token is, by the numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Markup: BOS, roles of a conversation.
    Control,
    /// Text that is always this token, such as `<think>`.
    UserDefined,
    /// Never produced.
    Unused,
    /// One byte.
    Byte,
}

impl Kind {
    pub(super) fn from_code(code: i64) -> Option<Kind> {
        use Kind::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
    }
}

/// The bytes of every token, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    text: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    pub(super) fn push(&mut self, bytes: impl AsRef<[u8]>, kind: Kind) {
        self.text.extend_from_slice(bytes.as_ref());
        self.ends.push(self.text.len());
        self.kinds.push(kind);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of token `id`; none if there is no such token.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = id.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(id).and_then(|&end| self.text.get(start..end)).unwrap_or_default()
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        0..self.len() as u32
    }
}

/// A token's name, and its number.
type Named = (Box<[u8]>, u32);

/// Finds tokens in text by their whole names, the longest of those that begin at a place.
#[derive(Default)]
pub(super) struct Finder {
    /// By first byte; the longest first.
    tokens: HashMap<u8, Vec<Named>>,
}

impl Finder {
    pub(super) fn new(tokens: impl Iterator<Item = (Vec<u8>, u32)>) -> Finder {
        let mut finder = Finder::default();
        for (text, id) in tokens {
            if let Some(&first) = text.first() {
                finder.tokens.entry(first).or_default().push((text.into(), id));
            }
        }
        for tokens in finder.tokens.values_mut() {
            tokens.sort_by_key(|token| std::cmp::Reverse(token.0.len()));
        }
        finder
    }

    /// The first token in `text`: where it begins and ends, and which it is.
    pub(super) fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        (0..bytes.len()).filter(|&at| text.is_char_boundary(at)).find_map(|at| {
            let tokens = self.tokens.get(&bytes[at])?;
            let (name, id) = tokens.iter().find(|(name, _)| bytes[at..].starts_with(name))?;
            // A name that is no UTF-8 could end within a character.
            text.is_char_boundary(at + name.len()).then_some((at, at + name.len(), *id))
        })
    }
}
