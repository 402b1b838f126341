//! One file per command: its arguments, its help, and the one pipeline of the library that it calls. What several
//! commands share: which pictures are meant (`inputs`), and what is seen of the work (`progress`).

pub mod bench;
pub mod classify;
pub mod compare;
pub mod completions;
pub mod compress;
pub mod convert;
pub mod doctor;
pub mod eval;
pub mod inputs;
pub mod inspect;
pub mod models;
pub mod plot;
pub mod progress;
pub mod train;
pub mod upscale;
