//! Depthwise convolutions whose results are as large as their input: which have kernels of their own, and their sizes.

use crate::DType;
use crate::conv::ConvShape;

/// Sizes and what happens to a result, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Raw {
    pub n: i32,
    pub height: i32,
    pub width: i32,
    pub channels: i32,
    /// Channels, rounded up to what the kernel says.
    pub columns: i32,
    pub x_stride: i64,
    /// Of the result, or of its gradient.
    pub y_stride: i64,
    pub residual_stride: i64,
    pub slope: f32,
    pub highest: f32,
    pub masked: i32,
}

/// The kernels of the convolution and of the gradient of its weights, if there are any.
pub(crate) fn kernels(shape: &ConvShape, dtype: DType) -> Option<[&'static str; 2]> {
    let &ConvShape { in_channels, out_channels, kernel: [side, _], dilation: [step, _], groups, .. } = shape;
    let same = groups == in_channels
        && groups == out_channels
        && groups > 1
        && (shape.kernel, shape.dilation, shape.stride) == ([side; 2], [step; 2], [1; 2])
        && shape.padding == [step * (side / 2); 2];
    match (side, step, dtype) {
        _ if !same => None,
        (3, 1, DType::F16) => Some(["depthwise_conv_3_1_f16", "weight_depthwise_3_1_f16"]),
        (5, 1, DType::F16) => Some(["depthwise_conv_5_1_f16", "weight_depthwise_5_1_f16"]),
        (7, 3, DType::F16) => Some(["depthwise_conv_7_3_f16", "weight_depthwise_7_3_f16"]),
        (3, 1, DType::BF16) => Some(["depthwise_conv_3_1_bf16", "weight_depthwise_3_1_bf16"]),
        (5, 1, DType::BF16) => Some(["depthwise_conv_5_1_bf16", "weight_depthwise_5_1_bf16"]),
        (7, 3, DType::BF16) => Some(["depthwise_conv_7_3_bf16", "weight_depthwise_7_3_bf16"]),
        _ => None,
    }
}

/// Threads of a picture: each takes eight channels of four pixels of a line, the taps' distance apart.
pub(crate) fn threads(shape: &ConvShape, height: usize, width: usize) -> usize {
    let step = shape.dilation[1];
    height * width.div_ceil(4 * step) * step * shape.out_channels.div_ceil(8)
}
