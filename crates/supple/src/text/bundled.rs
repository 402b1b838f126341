//! The language model in the binary: little stories, and nothing else.

use supple_weights::gguf::Gguf;

/// What it is called.
pub const NAME: &str = "tiny_stories";

/// The GGUF file, if it was built in: 1.4 million parameters, trained by `recipes/tiny_text.toml` on stories that a grammar of our own
/// makes. It goes on from a text such as `Once upon a time`, and does not answer.
pub fn bytes() -> Option<&'static [u8]> {
    #[cfg(feature = "bundled")]
    return Some(include_bytes!("../../../../models/tiny_stories.gguf"));
    #[cfg(not(feature = "bundled"))]
    None
}

/// How many parameters it has.
pub fn parameters() -> Option<u64> {
    Some(Gguf::from_bytes(NAME, bytes()?).ok()?.parameters())
}
