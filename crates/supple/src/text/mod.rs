//! Language models: from text to tokens and back, conversations, files.

pub mod convert;
pub mod template;
pub mod tokenizer;
