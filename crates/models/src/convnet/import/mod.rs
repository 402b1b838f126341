//! Networks from files of other programs.

mod join;
mod names;
mod open;
mod tflite;
mod tflite_weights;
