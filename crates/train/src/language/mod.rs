//! Training language models: a decoder learns to tell the next token of texts, or of the answers in conversations.
//!
//! * [`LanguageRecipe`] – a TOML file with `task = "language"`: which model, on which text, how long;
//! * [`Corpus`] – tokens, of which examples are drawn that all have one length;
//! * [`train_language`] – the loop; it keeps a run's folder as [`train`](crate::train()) does, and a run that was killed ends as
//!   one that was not.

mod corpus;
#[cfg(feature = "cuda")]
mod gpu;
mod recipe;
mod run;
mod state;
mod step;

pub use corpus::{Corpus, Document, Example as TokenExample};
pub use recipe::{
    AdapterRecipe, LanguageData, LanguageRecipe, ModelRecipe, NewModel, SaveAdapter, Training, is_language,
};
pub use run::{LanguageObserver, LanguageOutcome, LanguageTask, train_language};
