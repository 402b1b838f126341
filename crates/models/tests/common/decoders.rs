//! Golden vectors of small decoders of every family.

use std::path::{Path, PathBuf};

/// Where a file of them is.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama").join(name)
}

/// The decoders.
pub const FAMILIES: [&str; 14] = [
    "llama",
    "llama_tied",
    "llama3",
    "llama_linear",
    "llama_ntk",
    "mistral",
    "qwen2",
    "qwen2_yarn",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3_long",
    "olmo2",
];
