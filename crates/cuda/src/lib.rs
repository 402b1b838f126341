//! What an NVIDIA GPU can do: kernels written in CUDA C++ (`kernels/*.cu`), and launchers that run them on device memory.
//!
//! * [`Gpu`] – a device with its stream, its kernels and its memory;
//! * [`Memory`] – device memory that goes back to the GPU's pool when dropped; [`Elements`] – a typed place in it;
//! * one module a family of kernels ([`elementwise`], [`conv`], [`pooling`], ...): functions that check every shape against
//!   the memory it is said to lie in, and launch.
//!
//! Work is queued on one stream in the order of the calls; only [`Gpu::download`] and [`Gpu::synchronize`] wait. The driver is
//! opened at run time: a program with this crate in it starts on machines without one.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("CUDA needs a 64-bit host");

pub mod attention;
pub mod backward;
mod blas;
pub mod channel_attention;
pub mod conv;
pub mod conv_backward;
mod conv_kernels;
pub mod copy;
pub mod decoder;
pub mod depthwise;
mod depthwise_conv;
pub mod elementwise;
mod error;
pub mod examples;
mod feed;
pub mod gemm;
pub mod gemm_8bit;
mod gpu;
mod graph;
mod image;
mod launch;
pub mod layer_norm;
pub mod low_bit;
pub mod matmul;
mod memory;
pub mod nccl;
pub mod normalize;
pub mod optimizer;
pub mod paged_attention;
pub mod patch_transformer;
pub mod pooling;
pub mod random;
pub mod reduce;
pub mod resize;
pub mod rope;
pub mod samples;
pub mod spatial_attention;
mod tensor_map;
pub mod tokens;
pub mod words;

pub use error::Error;
pub use feed::{Feed, Readback};
pub use gpu::Gpu;
pub use graph::Graph;
pub use image::{Image, ImageMut, ImageSize};
pub use memory::{DType, Elements, ElementsMut, Memory, Pinned};
