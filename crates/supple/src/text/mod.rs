//! Language models: text to tokens and back, conversations, generation, and measuring.

pub mod evaluate;
pub mod generate;
pub mod sampling;
mod stop;
pub mod template;
pub mod tokenizer;
