//! Products with matrices that stay in the packed blocks of GGUF files.
//!
//! * [`Format`] – what the bytes of a file mean; [`dequantise`] is the scalar truth;
//! * [`Matrix`] – a matrix `[rows, k]`, rearranged at load for one instruction set: rows interleaved, so that a lane is a
//!   row and no sum crosses lanes;
//! * [`Activations`] – right-hand columns, each in 8-bit integers with a scale for 32 values;
//! * [`multiply`] – `out[t][r] = Σ_k matrix[r][k] · x[t][k]`, for several matrices in one parallel region.
//!
//! The integer part is exact: the 8-bit products of a sub-block are summed in 32 bits. The floats around it are added in the
//! order of `k`, one fused multiply-add a sub-block (and one for its minimum), whatever the number of columns: a column's
//! result does not depend on its neighbours, nor on threads.
//!
//! [`DenseMatrix`] is the same for `F32`, `F16` and `BF16`, with floats for activations. [`iq`] reads the rest of GGUF's formats,
//! [`quantise`] and [`quantise_k`] write some.

mod activations;
mod dense;
mod formats;
pub mod iq;
mod iq_grids;
mod layout;
mod matrix;
mod pack;
mod product;
pub mod quantise;
pub mod quantise_k;
#[cfg(test)]
mod tests;
mod tile;
mod vector;

pub use activations::Activations;
pub use dense::{DenseJob, DenseMatrix, multiply_dense};
pub use formats::{Block, Format, IQ4_VALUES, dequantise, f16_to_f32, f32_to_f16};
pub use matrix::Matrix;
pub use product::{Job, MAX_JOBS, Scratch, multiply};
pub(crate) use vector::{Brain, Half, Kernel, Quads, Single, Stored, dispatch};
