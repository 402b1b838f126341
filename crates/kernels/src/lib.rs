//! What a CPU can do: slices in, slices out.
//!
//! Nothing here knows of tensors or models and nothing allocates while it runs: callers bring inputs, outputs and
//! scratch. Three nouns come first:
//!
//! * [`Isa`] – the instruction set in use, found once at run time (`SUPPLE_ISA` overrides it for tests);
//! * [`ThreadPool`] – a low-latency fork-join pool, owned by the caller;
//! * [`Cpu`] – the two together; every kernel takes one.
//!
//! Images are channels-last. A pixel occupies `stride` floats of which the first `channels` count; [`Rows`] and
//! [`RowsMut`] view whole images and rolling windows of rows alike, so that one kernel serves both.

pub mod activation;
pub mod aligned;
pub mod attention;
pub mod backward;
pub mod conv;
pub mod cpu;
pub mod decoder;
pub mod elementwise;
pub mod gemm;
pub mod isa;
pub mod low_bit;
pub mod math;
pub mod matmul;
pub mod normalize;
pub mod paged_attention;
mod parallel;
mod partial;
pub mod peak;
pub mod pixel_shuffle;
pub mod pool;
pub mod pooling;
pub mod resize;
pub mod rows;
pub mod samples;
pub mod simd;
pub mod sparse_conv;
pub mod sparse_conv_i8;
pub mod spatial_attention;
mod system;
#[doc(hidden)]
pub mod testing;
pub mod unary;

pub use aligned::AlignedBuf;
pub use cpu::Cpu;
pub use isa::{Isa, has_fp16};
pub use pool::ThreadPool;
pub use rows::{Rows, RowsMut};
