//! Language models: text to tokens and back, conversations, generation, measuring, and files.

pub mod bundled;
pub mod convert;
pub mod evaluate;
pub mod generate;
pub mod place;
pub mod sampling;
mod stop;
pub mod tasks;
pub mod template;
pub mod tokenizer;
