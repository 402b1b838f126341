//! Language models: from text to tokens and back.

pub mod tokenizer;
