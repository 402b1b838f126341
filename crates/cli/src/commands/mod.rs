//! One file per command: its arguments, its help, and the one pipeline of the library that it calls.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod doctor;
pub mod eval;
pub mod inspect;
pub mod models;
pub mod upscale;
