//! Operators: functions that check shapes and types, then dispatch to the kernels of their device.
//!
//! Operators compute in `f32` and refuse other element types: [`Tensor::to_dtype`](crate::Tensor::to_dtype) converts. On a GPU
//! they take `f16` and `bf16` too, with sums in `f32`.
//! Those on images take `[n, h, w, c]`. Results whose rows were padded in the input stay padded. Weights are packed
//! once, when a [`Conv2d`] or a [`Linear`] is made.

mod activation;
mod concat;
mod conv2d;
mod elementwise;
mod image;
mod linear;
mod matmul;
mod normalize;
mod pixel_shuffle;
mod pooling;
mod resize;
mod spatial_attention;

pub use activation::{activate, gelu, leaky_relu, relu, sigmoid, tanh};
pub use concat::concat;
pub use conv2d::Conv2d;
pub use elementwise::{add, mul, scale};
pub use image::{to_channels_first, to_channels_last};
pub use linear::Linear;
pub use matmul::matmul;
pub use normalize::{l2_normalize, layer_norm, softmax};
pub use pixel_shuffle::pixel_shuffle;
pub use pooling::{avg_pool2d, max_pool2d};
pub use resize::resize;
pub use spatial_attention::{conv_chain, spatial_coarse_map, spatial_gate};
pub use supple_kernels::activation::Activation;
pub use supple_kernels::conv::ConvShape;
pub use supple_kernels::resize::ResizeMode;

use crate::error::refuse;
use crate::{ALIGNMENT, DType, Device, Error, Layout, RowLayout, Tensor};

/// Checks that two operands live on the same device.
fn same_device(op: &'static str, a: &Device, b: &Device) -> Result<(), Error> {
    if a.is_same(b) { Ok(()) } else { refuse!(op, "operands live on different devices") }
}

/// Whether rows are padded as those of images are.
pub(crate) fn is_padded(rows: &RowLayout) -> bool {
    rows.rows > 1 && rows.stride == rows.len.next_multiple_of(ALIGNMENT)
}

/// A new tensor of `shape` with unspecified contents, and its rows; padded or without gaps.
fn output(device: &Device, shape: &[usize], padded: bool) -> Result<(Tensor, RowLayout), Error> {
    let layout = if padded { Layout::padded(shape)? } else { Layout::contiguous(shape)? };
    let rows = layout.rows().expect("new layouts consist of rows");
    Ok((Tensor::unspecified(device, layout, DType::F32)?, rows))
}
