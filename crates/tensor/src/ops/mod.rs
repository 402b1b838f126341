//! Operators: functions that check shapes and types, then dispatch to the kernels of their device.
//!
//! Operators compute in `f32` and refuse other element types: [`Tensor::to_dtype`](crate::Tensor::to_dtype) converts. On a GPU
//! they take `f16` and `bf16` too, with sums in `f32`.
//! Those on images take `[n, h, w, c]`. Results whose rows were padded in the input stay padded. Weights are packed
//! once, when a [`Conv2d`] or a [`Linear`] is made; where weights change with every step, [`conv2d`] and [`linear`] take them
//! as tensors.
//!
//! Every operator but those two structs has a gradient, which stands beside it: a closure for
//! [`record`](crate::autograd), or, where there is more to it, a function such as [`conv2d_backward_input`] that another
//! device implements as it does the operator itself.

mod activation;
mod attention;
mod concat;
mod conv2d;
mod cross_entropy;
mod elementwise;
mod embedding;
mod gated;
mod gates;
mod image;
mod linear;
mod linear_cross_entropy;
mod matmul;
mod normalize;
mod padded_conv;
pub mod patch_transformer;
mod pixel_shuffle;
mod pooling;
mod reduce;
mod residual;
mod resize;
mod rms_norm;
mod rotate;
mod soft_cap;
mod spatial_attention;

pub use activation::{activate, activation_backward, gelu, leaky_relu, relu, sigmoid, silu, tanh};
pub use attention::{Scores, attention, attention_with, rope, window_mask};
pub use concat::concat;
pub(crate) use concat::widen;
pub use conv2d::{Conv2d, conv2d, conv2d_backward_input, conv2d_backward_weight};
pub use cross_entropy::{IGNORED, cross_entropy, linear_cross_entropy};
pub use elementwise::{abs, add, add_scalar, div, exp, log, mul, scale, sqrt, sub};
pub use embedding::embedding;
pub use gated::gated;
pub use gates::{channel_attention, gelu_gate};
pub use image::{to_channels_first, to_channels_last};
pub use linear::{Linear, linear, linear_backward_input, linear_backward_weight};
pub use linear_cross_entropy::linear_cross_entropy_sum;
pub use matmul::matmul;
pub use normalize::{group_norm, l2_normalize, layer_norm, softmax};
pub use padded_conv::{PaddedConv2d, pad};
pub use pixel_shuffle::{pixel_shuffle, pixel_unshuffle};
pub use pooling::{avg_pool2d, max_pool2d};
pub use reduce::{column_sums, mean, mean_dims, sum, sum_dims, sum_to};
pub use residual::{conv2d_add, residual_convs};
pub use resize::resize;
pub use rms_norm::rms_norm;
pub use rotate::{Rotation, rotate};
pub use soft_cap::soft_cap;
pub use spatial_attention::{conv_chain, sigmoid_gate, spatial_coarse_map, spatial_gate};
pub use supple_kernels::activation::Activation;
pub use supple_kernels::conv::ConvShape;
pub use supple_kernels::decoder::Gate;
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
