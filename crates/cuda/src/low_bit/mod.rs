//! Products with weights of few bits, as decoders of language models want them.
//!
//! * [`PackedMatrix`] – a weight on the GPU, in the order in which tensor cores take it, with the block formats of GGUF files as
//!   they are: nothing is rounded again;
//! * [`project`] – its product with rows of activations: a few rows by kernels that read the weights once, many by way of 16-bit
//!   weights in bounded scratch memory and cuBLASLt;
//! * [`Scratch`] – that memory.
//!
//! Activations are rows of [`padded`] columns of the type that [`WeightFormat::input`] says, with zeros behind the last.

mod format;
mod pack;
mod product;

pub use format::{WeightFormat, padded};
pub use pack::PackedMatrix;
pub use product::{FEW, Gate, Outcome, Scratch, project};
