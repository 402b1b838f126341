//! [`Tokenizer`]: from text to the numbers that a model reads, and back.
//!
//! ```no_run
//! use supple::text::tokenizer::{EncodeOptions, Tokenizer};
//!
//! # fn main() -> Result<(), supple::Error> {
//! let tokenizer = Tokenizer::open("SmolLM2-135M-Instruct.gguf".as_ref())?;
//! let prompt = tokenizer.encode("The capital of France is", EncodeOptions::default())?;
//! assert_eq!(tokenizer.decode(&prompt), "The capital of France is");
//! # Ok(())
//! # }
//! ```
//!
//! Tokens are bytes: [`Tokenizer::token`] gives them, and text that is encoded and decoded comes back byte for byte
//! (unless the model's own file asks for normalisation). A [`Stream`] shows generated text as it grows.
//!
//! **What a user writes is text.** The names of special tokens in it are only taken for such if
//! [`EncodeOptions::parse_special`] says so, as it must for the output of a chat template.

mod byte_level;
mod gguf;
mod json;
mod llama2c;
mod pre;
mod spm;
mod stream;
mod vocabulary;

use crate::Error;
pub(super) use pre::name as words;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{OnceLock, PoisonError, RwLock};
pub use stream::Stream;
use supple_weights::gguf::Gguf;
use vocabulary::{Finder, Kind, Vocabulary};

/// Names of tokens that end a turn or a text, in families whose files name one end only.
const ENDS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "</s>",
    "<|end▁of▁sentence|>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
];

/// What to do beside cutting text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the model expects at the start and the end of a text (BOS, EOS).
    pub add_special: bool,
    /// Take the names of special tokens in the text for the tokens.
    pub parse_special: bool,
}

/// A vocabulary, and how to cut text into it. It is `Send` and `Sync`.
pub struct Tokenizer {
    name: String,
    algorithm: Algorithm,
    vocabulary: Vocabulary,
    bos: Option<u32>,
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    strip_first_space: bool,
}

enum Algorithm {
    HuggingFace(Box<HuggingFace>),
    /// `space` is how the vocabulary spells one, `prefix` whether text begins with one; `finders` find tokens that are
    /// not merged: those in any text, and special ones as well.
    Spm {
        merges: Box<spm::Merges>,
        prefix: bool,
        space: &'static str,
        finders: [OnceLock<Finder>; 2],
    },
}

/// The `tokenizers` crate's. Taking special names for tokens is a property of the whole, which is changed when a text wants
/// the other: a second one would be as large again.
struct HuggingFace {
    inner: RwLock<tokenizers::Tokenizer>,
    /// Whether its own post-processor adds BOS and EOS.
    adds_special: bool,
}

impl HuggingFace {
    fn new(inner: tokenizers::Tokenizer, adds_special: bool) -> HuggingFace {
        HuggingFace { inner: RwLock::new(inner), adds_special }
    }

    fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> tokenizers::Result<Vec<u32>> {
        let ids = |inner: &tokenizers::Tokenizer| Ok(inner.encode_fast(text, add_special)?.get_ids().to_vec());
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if inner.get_encode_special_tokens() != parse_special {
            return ids(&inner);
        }
        drop(inner);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.set_encode_special_tokens(!parse_special);
        ids(&inner)
    }
}

impl Tokenizer {
    /// The tokeniser at `path`: a GGUF file, a folder with `tokenizer.json`, that file, or llama2.c's `tokenizer.bin`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; otherwise as the function for its format.
    pub fn open(path: &Path) -> Result<Tokenizer, Error> {
        if path.is_dir() {
            return Tokenizer::from_folder(path);
        }
        let name = path.display().to_string();
        let failed = |source| Error::Io { path: path.to_path_buf(), action: "read", source };
        let mut head = Vec::new();
        File::open(path).and_then(|file| file.take(4).read_to_end(&mut head)).map_err(failed)?;
        if head == b"GGUF" {
            return Tokenizer::from_gguf(&Gguf::open(path)?);
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        if bytes.trim_ascii_start().starts_with(b"{") {
            return match path.parent().filter(|_| path.file_name().is_some_and(|name| name == "tokenizer.json")) {
                Some(folder) if folder != "" => Tokenizer::from_folder(folder),
                _ => Tokenizer::from_json(&name, &bytes, &[]),
            };
        }
        Tokenizer::from_llama2c(&name, &bytes)
    }

    /// The tokens of `text`. An empty text has none but those that [`EncodeOptions::add_special`] asks for.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the vocabulary's own rules fail on the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        let mut tokens = Vec::new();
        if options.add_special && self.add_bos {
            tokens.extend(self.bos);
        }
        match &self.algorithm {
            Algorithm::HuggingFace(inner) => {
                let add = options.add_special && inner.adds_special;
                let ids = inner.encode(text, add, options.parse_special);
                tokens.extend(
                    ids.map_err(|error| Error::Tokenizer { name: self.name.clone(), reason: error.to_string() })?,
                );
            }
            Algorithm::Spm { merges, prefix, space, finders } => {
                let markup = options.parse_special;
                let finder = finders[usize::from(markup)].get_or_init(|| gguf::finder(&self.vocabulary, markup));
                let piece = |piece: &str, tokens: &mut Vec<u32>| {
                    if !piece.is_empty() {
                        let spaced = if *prefix { format!(" {piece}") } else { piece.to_string() };
                        merges.encode(&spaced.replace(' ', space), tokens);
                    }
                };
                let mut rest = text;
                while let Some((start, end, id)) = finder.find(rest) {
                    piece(&rest[..start], &mut tokens);
                    tokens.push(id);
                    rest = &rest[end..];
                }
                piece(rest, &mut tokens);
            }
        }
        if options.add_special && self.add_eos {
            tokens.extend(self.ends.first());
        }
        Ok(tokens)
    }

    /// The text of `tokens` without special ones. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(tokens)).into_owned()
    }

    /// The bytes of `tokens` without special ones.
    pub fn decode_bytes(&self, tokens: &[u32]) -> Vec<u8> {
        let text = tokens.iter().filter(|&&id| !self.is_special(id));
        let mut bytes: Vec<u8> = text.flat_map(|&id| self.token(id)).copied().collect();
        // The space that encoding put before the text.
        if self.strip_first_space && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// Text as tokens arrive, to follow on other text: a space at the start stays.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The bytes of token `id`, which need not be whole characters; of a special token its name. None for a number beyond
    /// the vocabulary.
    pub fn token(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// The token of this name or spelling in bytes.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.vocabulary.ids().find(|&id| self.vocabulary.bytes(id) == name.as_bytes())
    }

    /// Whether token `id` is markup, not text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Kind::Control | Kind::Unknown)
    }

    /// Tokens in the vocabulary. A model may have more rows, for padding.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether there is no token, which no constructor allows.
    pub fn is_empty(&self) -> bool {
        self.vocabulary.len() == 0
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if there is one; see [`Tokenizer::ends`].
    pub fn eos(&self) -> Option<u32> {
        self.ends.first().copied()
    }

    /// All tokens after which nothing is to be generated: the end of a text, of a turn.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether [`EncodeOptions::add_special`] puts BOS first.
    pub fn adds_bos(&self) -> bool {
        match (&self.algorithm, self.bos) {
            (Algorithm::HuggingFace(inner), Some(bos)) if inner.adds_special => {
                inner.encode("", true, true).is_ok_and(|ids| ids.first() == Some(&bos))
            }
            _ => self.add_bos && self.bos.is_some(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tokenizer").field("name", &self.name).field("tokens", &self.len()).finish()
    }
}

/// `found`, then the special tokens that end a turn by their names; each once.
fn ends(vocabulary: &Vocabulary, found: Vec<u32>) -> Vec<u32> {
    let named = |id: &u32| {
        let special = matches!(vocabulary.kind(*id), Kind::Control | Kind::UserDefined);
        special && ENDS.iter().any(|name| name.as_bytes() == vocabulary.bytes(*id))
    };
    let mut ends: Vec<u32> = Vec::new();
    for id in found.into_iter().chain(vocabulary.ids().filter(named)) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}
