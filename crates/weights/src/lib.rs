//! Model weights from files: safetensors and PyTorch checkpoints, read without running anything they contain.
//!
//! Three nouns:
//!
//! * [`Weights`] is an opened file (memory-mapped) or an embedded byte buffer. It knows the name, element type and shape
//!   of every tensor, and converts one to `f32` when it is asked for.
//! * [`DType`] is how an element is stored in the file; in memory it is always `f32`.
//! * [`Error`] says which file, which tensor, what was wanted and what was found.
//!
//! [`save_safetensors`] writes the format that we publish in; [`checkpoint`] finds the weights of a language model in whatever they came;
//! [`gguf`] holds them in packed blocks;
//! [`tflite`] reads networks that come as a list of operators.
//!
//! ```
//! use std::collections::BTreeMap;
//! use supple_weights::{DType, Weights, save_safetensors};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.safetensors");
//! let bias = ("conv.bias".to_string(), DType::F16, vec![2], vec![0.5, -1.0]);
//! save_safetensors(&path, &[bias], &BTreeMap::new())?;
//!
//! let weights = Weights::open(&path)?;
//! assert_eq!(weights.tensor("conv.bias", &[2])?, [0.5, -1.0]);
//!
//! let error = weights.tensor("conv.bais", &[2]).unwrap_err();
//! assert!(error.to_string().contains("did you mean \"conv.bias\"?"));
//! # Ok(())
//! # }
//! ```
//!
//! **Bytes are hostile until checked.** No sequence of bytes makes this crate panic or run code, and every length in a
//! header is compared with the file before memory is taken for it; what a file may legitimately expand to (compressed
//! zip entries, repeated views) has a limit. The folder `tests/hostile/` holds one small file for each way of lying that
//! we know of, and `fuzz/` looks for more.

mod bytes;
pub mod checkpoint;
mod detect;
mod dtype;
mod error;
pub mod gguf;
mod nearest;
#[cfg(feature = "pytorch")]
mod pytorch;
#[cfg(not(feature = "pytorch"))]
#[path = "without_pytorch.rs"]
mod pytorch;
mod safetensors;
mod save;
pub mod tflite;
mod weights;

pub use dtype::DType;
pub use error::Error;
pub use save::save_safetensors;
pub use weights::{Format, TensorInfo, Weights};
