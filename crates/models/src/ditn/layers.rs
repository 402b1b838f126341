//! The layers of DITN, on slices of pixels that fit the cache.

use std::ops::Range;
use supple_tensor::kernels::Rows;
use supple_tensor::kernels::attention::{GatedDepthwise, Normalisation, channel_attention, channel_attention_scratch};
use supple_tensor::kernels::conv::depthwise::PackedDepthwise;
use supple_tensor::kernels::gemm::{Epilogue, PackedMatrix, gemm};

/// A product with a matrix, plus a bias: a 1×1 convolution.
#[derive(Debug)]
pub(super) struct Linear {
    pub matrix: PackedMatrix,
    /// As many as the matrix has padded columns, or none.
    pub bias: Vec<f32>,
}

impl Linear {
    /// `out = input · matrix + bias (+ residual)` for `pixels` pixels. `residual` has the stride of `out`, or is empty.
    pub(super) fn run(
        &self,
        pixels: usize,
        input: &[f32],
        input_stride: usize,
        out: &mut [f32],
        out_stride: usize,
        residual: &[f32],
    ) {
        let epilogue = Epilogue { bias: &self.bias, slope: 1.0, residual, residual_stride: out_stride };
        gemm(pixels, input, input_stride, &self.matrix, out, out_stride, &epilogue);
    }
}

/// `project_in`, the gated depthwise convolution and `project_out`.
#[derive(Debug)]
pub(super) struct FeedForward {
    pub input: Linear,
    pub gate: GatedDepthwise,
    pub output: Linear,
}

impl FeedForward {
    /// Floats of a pixel between `project_in` and the gate.
    pub(super) fn hidden_stride(&self) -> usize {
        self.gate.input_channels()
    }

    /// Floats of a pixel between the gate and `project_out`.
    pub(super) fn gated_stride(&self) -> usize {
        self.gate.output_channels()
    }

    /// From the gate on, for pixels `columns` of row `y` of a map of `height` rows. `residual` and `out` are these pixels.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn finish(
        &self,
        hidden: Rows<'_>,
        height: usize,
        y: usize,
        columns: Range<usize>,
        residual: &[f32],
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (count, stride) = (columns.len(), self.gated_stride());
        let gated = &mut scratch[..count * stride];
        self.gate.strip(hidden, height, y, columns, gated, stride);
        self.output.run(count, gated, stride, out, out.len() / count, residual);
    }
}

/// An inner-patch transformer layer (ITL).
#[derive(Debug)]
pub(super) struct InnerPatchLayer {
    /// Query, key and value, each from a multiple of the pixel stride on.
    pub qkv: Linear,
    pub temperature: f32,
    pub project: Linear,
    pub feed_forward: FeedForward,
}

/// A spatial-aware layer (SAL).
#[derive(Debug)]
pub(super) struct SpatialLayer {
    /// The halves of `SDA.proj_first`: what the large kernels see, and what they gate.
    pub first_context: Linear,
    pub first_value: Linear,
    /// `SDA.DConvs.0`, 5×5.
    pub near: PackedDepthwise,
    /// `SDA.DConvs.1`, 7×7 with dilation 3.
    pub far: PackedDepthwise,
    /// `SDA.DConvs.2`.
    pub mix: Linear,
    /// `SDA.proj_last` and `SDA.scale`.
    pub last: Linear,
    pub feed_forward: FeedForward,
}

/// Shape of the features that layers work on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub channels: usize,
    /// Floats of a pixel.
    pub stride: usize,
    /// Side of a patch.
    pub patch: usize,
    pub normalisation: Normalisation,
}

impl Features {
    /// Floats of scratch that [`InnerPatchLayer::run`] needs.
    pub(super) fn patch_scratch(&self, layer: &InnerPatchLayer) -> usize {
        let feed_forward = &layer.feed_forward;
        let pixel = 5 * self.stride + feed_forward.hidden_stride() + feed_forward.gated_stride();
        self.patch * self.patch * pixel + channel_attention_scratch(self.channels, self.stride)
    }

    /// The features before a layer: `out = normalisation(input)`.
    pub(super) fn normalise(&self, like: &Linear, pixels: usize, input: &[f32], out: &mut [f32]) {
        self.normalisation.apply(like.matrix.isa(), pixels, self.channels, input, out, self.stride);
    }
}

impl InnerPatchLayer {
    /// Runs the layer on a patch, in place. Nothing outside the patch is seen: convolutions pad it with zeros.
    pub(super) fn run(&self, features: &Features, patch: &mut [f32], scratch: &mut [f32]) {
        let Features { channels, stride, patch: side, .. } = *features;
        let pixels = side * side;
        let (normal, rest) = scratch.split_at_mut(pixels * stride);
        let (between, rest) = rest.split_at_mut(pixels * stride);
        let (qkv, rest) = rest.split_at_mut(pixels * 3 * stride);
        let attention_scratch = &mut rest[..channel_attention_scratch(channels, stride)];

        features.normalise(&self.qkv, pixels, patch, normal);
        self.qkv.run(pixels, normal, stride, qkv, 3 * stride, &[]);
        let isa = self.qkv.matrix.isa();
        channel_attention(isa, pixels, channels, stride, qkv, self.temperature, normal, attention_scratch);
        self.project.run(pixels, normal, stride, between, stride, patch);

        let FeedForward { input, gate, output } = &self.feed_forward;
        let (hidden_stride, gated_stride) = (self.feed_forward.hidden_stride(), self.feed_forward.gated_stride());
        let (hidden, rest) = rest.split_at_mut(pixels * hidden_stride);
        let gated = &mut rest[..pixels * gated_stride];
        features.normalise(input, pixels, between, normal);
        input.run(pixels, normal, stride, hidden, hidden_stride, &[]);
        let hidden = Rows::new(hidden, side, side, hidden_stride);
        for (y, line) in gated.chunks_exact_mut(side * gated_stride).enumerate() {
            gate.strip(hidden, side, y, 0..side, line, gated_stride);
        }
        output.run(pixels, gated, gated_stride, patch, stride, between);
    }
}

impl SpatialLayer {
    /// Both halves of the first product, of `count` pixels; `scratch` holds as many pixels.
    pub(super) fn first_products(
        &self,
        features: &Features,
        count: usize,
        input: &[f32],
        context: &mut [f32],
        value: &mut [f32],
        scratch: &mut [f32],
    ) {
        let stride = features.stride;
        let normal = &mut scratch[..count * stride];
        features.normalise(&self.first_context, count, input, normal);
        self.first_context.run(count, normal, stride, context, stride, &[]);
        self.first_value.run(count, normal, stride, value, stride, &[]);
    }
}
