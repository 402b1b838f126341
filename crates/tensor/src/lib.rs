//! Tensors and operators.
//!
//! * [`Tensor`] – an n-dimensional array: a shared buffer, a [`Layout`] and a [`DType`];
//! * [`Device`] – where it lives and what computes; it owns the [`BufferPool`] that makes steady state allocation-free;
//! * [`ops`] – operators: functions that check shapes and types, then dispatch to the kernels of the device;
//! * [`autograd`] – reverse-mode differentiation: operators on a [`Tensor::variable`] remember how to go back.
//!
//! Images are `[n, h, w, c]` (channels-last), each pixel padded to a multiple of 16 floats. Operators on images take any
//! layout and return the padded one; [`ops::to_channels_last`] makes it from `[n, c, h, w]`. What lies in the padding is
//! unspecified.

pub mod autograd;
mod buffer;
mod copy;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod dims;
mod dtype;
mod error;
#[cfg(feature = "cuda")]
pub mod group;
#[cfg(feature = "cuda")]
mod images;
mod layout;
#[cfg(feature = "cuda")]
pub mod masters;
pub mod ops;
mod random;
#[cfg(feature = "cuda")]
mod recorded;
pub mod rows;
mod tensor;
#[cfg(feature = "cuda")]
mod token_feed;

pub use autograd::{Gradients, checkpoint, no_grad, straight_through};
pub use buffer::BufferPool;
#[cfg(feature = "cuda")]
pub use cuda::batches::RecordedBatches;
#[cfg(feature = "cuda")]
pub use cuda::pictures::{PictureShape, RecordedPictures, Samples, Stages};
pub use device::{CpuDevice, Device};
pub use dims::{Dims, MAX_RANK};
pub use dtype::{DType, Element};
pub use error::Error;
#[cfg(feature = "cuda")]
pub use images::ImageFeed;
pub use layout::{ALIGNMENT, Layout, RowLayout};
pub use random::Random;
#[cfg(feature = "cuda")]
pub use recorded::{Recorded, Replay};
#[cfg(feature = "cuda")]
pub use supple_cuda as gpu;
#[cfg(feature = "cuda")]
pub use supple_cuda::Error as GpuError;
pub use supple_kernels as kernels;
pub use supple_kernels::{Cpu, Isa};
pub use tensor::Tensor;
#[cfg(feature = "cuda")]
pub use token_feed::TokenFeed;
