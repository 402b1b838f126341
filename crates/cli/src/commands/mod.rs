//! One file per command: its arguments, its help, and the one pipeline of the library that it calls. What several
//! commands share: which pictures are meant (`inputs`), options of language models (`language_model`), and what is seen of the work (`progress`).

pub mod bench;
pub mod chat;
pub mod classify;
pub mod compare;
pub mod completions;
pub mod compress;
pub mod convert;
pub mod doctor;
pub mod download;
pub mod eval;
pub mod generate;
mod history;
pub mod inputs;
pub mod inspect;
pub mod language_model;
pub mod launch;
pub mod models;
pub mod plot;
pub mod progress;
pub mod train;
mod train_language;
pub mod upscale;
