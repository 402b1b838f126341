//! Language models: from text to tokens and back, and conversations.

pub mod template;
pub mod tokenizer;
