//! Networks from files of other programs.

mod join;
pub(crate) mod layers;
mod names;
mod open;
mod tflite;
mod tflite_weights;
