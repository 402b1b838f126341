//! Layers of a patch transformer in f16 or bf16: within patches of 8×8 pixels, and over the whole map by large depthwise kernels.
//!
//! All maps are pixels of 64 channels, padding included, with sides that are multiples of 8. What lies in the padding of a result
//! is zero.

use crate::conv::{PackedConv, Packing};
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, Error, Gpu, Image, ImageMut, ImageSize};
use std::ops::RangeInclusive;

/// Channels that a map may have.
pub const CHANNELS: RangeInclusive<usize> = 49..=64;
/// Channels that may lie behind a feed-forward layer's gate.
pub const HIDDEN: RangeInclusive<usize> = 113..=128;
/// Columns of taps of a feed-forward layer: [`HIDDEN`] with padding.
pub const HIDDEN_PADDED: usize = 128;
/// Elements from pixel to pixel of a map.
pub const PIXEL: usize = 64;
/// Side of a patch, in pixels.
pub const PATCH: usize = 8;
/// Layers that one call of [`patch_layers`] takes.
pub const MOST_LAYERS: usize = 8;

/// What stands before each product of features, without gain and shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normal {
    /// A hyperbolic tangent.
    Tanh,
    /// A layer norm over channels.
    Layer {
        /// Added to the variance.
        epsilon: f32,
    },
}

/// `output · (gelu(depthwise(gate · x)) ⊙ depthwise(pass · x))`. Products are packed with [`Packing::Product`].
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<'a> {
    /// To the channels that are gated.
    pub gate: &'a PackedConv,
    /// To those that they multiply.
    pub pass: &'a PackedConv,
    /// Back.
    pub output: &'a PackedConv,
    /// 3×3 taps of the first, f32 `[9][128]`, zero beyond the channels.
    pub gate_taps: Elements<'a>,
    /// Of the second.
    pub pass_taps: Elements<'a>,
}

/// A layer within patches: attention between channels, and a feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub struct PatchLayer<'a> {
    /// Queries, keys and values.
    pub attention: [&'a PackedConv; 3],
    /// After the attention.
    pub project: &'a PackedConv,
    /// Factor of the scores.
    pub temperature: f32,
    /// The second half.
    pub feed_forward: FeedForward<'a>,
}

/// The products of each pixel alone with which the next layer begins, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct FirstProducts<'a> {
    /// Two products of as many channels as the map has.
    pub products: [&'a PackedConv; 2],
    /// Their results.
    pub to: [ImageMut<'a>; 2],
}

/// `last · (value ⊙ mix · far(near))`.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a> {
    /// Depthwise 7×7 with dilation 3: taps, f32 `[49][64]`.
    pub far: Elements<'a>,
    /// Its bias, f32 `[64]`.
    pub far_bias: Elements<'a>,
    /// After it.
    pub mix: &'a PackedConv,
    /// After the multiplication.
    pub last: &'a PackedConv,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawMap {
    n: i32,
    height: i32,
    width: i32,
    channels: i32,
    layer_norm: i32,
    epsilon: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawLayer {
    attention: [u64; 3],
    attention_bias: [u64; 3],
    project: u64,
    gate: u64,
    pass: u64,
    output: u64,
    project_bias: u64,
    gate_bias: u64,
    pass_bias: u64,
    output_bias: u64,
    gate_taps: u64,
    pass_taps: u64,
    temperature: f32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawNext {
    weights: [u64; 2],
    bias: [u64; 2],
    to: [u64; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawFeedForward {
    gate: u64,
    pass: u64,
    output: u64,
    gate_bias: u64,
    pass_bias: u64,
    output_bias: u64,
    gate_taps: u64,
    pass_taps: u64,
    hidden: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawMix {
    far: u64,
    far_bias: u64,
    mix: u64,
    last: u64,
    mix_bias: u64,
    last_bias: u64,
}

/// What all maps of a call have in common.
struct Maps {
    kernel: &'static str,
    size: ImageSize,
    dtype: DType,
}

impl Maps {
    fn new(kernels: [&'static str; 2], y: &ImageMut<'_>) -> Result<Maps, Error> {
        let (size, dtype) = (y.size, y.dtype());
        let kernel = match dtype {
            DType::F16 => kernels[0],
            DType::BF16 => kernels[1],
            other => return refuse!(kernels[0], "wants f16 or bf16, got {other:?}"),
        };
        let whole = size.height.is_multiple_of(PATCH) && size.width.is_multiple_of(PATCH);
        if !CHANNELS.contains(&size.channels) || !whole || size.n > 65535 || size.height / PATCH > 65535 {
            return refuse!(kernel, "maps of {size:?}");
        }
        let maps = Maps { kernel, size, dtype };
        maps.check(y.elements.0, size, "the result")?;
        Ok(maps)
    }

    fn check(&self, elements: Elements<'_>, size: ImageSize, what: &str) -> Result<(), Error> {
        size.check(self.kernel, what, elements, PIXEL)?;
        if size != self.size || size.stride != PIXEL || elements.dtype() != self.dtype || !elements.is_aligned(16) {
            return refuse!(self.kernel, "{what} of {size:?} and {:?} beside {:?}", elements.dtype(), self.size);
        }
        Ok(())
    }

    fn product(&self, conv: &PackedConv, [inputs, outputs]: [usize; 2]) -> Result<(u64, u64), Error> {
        let shape = conv.shape();
        let fits = conv.is_packed_for(Packing::Product)
            && conv.dtype() == self.dtype
            && (shape.in_channels, shape.out_channels) == (inputs, outputs);
        if fits {
            Ok((conv.weights(), conv.bias()))
        } else {
            refuse!(self.kernel, "{shape:?} is no product of {inputs} by {outputs}")
        }
    }

    fn floats(&self, elements: Elements<'_>, wanted: usize, what: &str) -> Result<u64, Error> {
        elements.check(self.kernel, what, Some(wanted))?;
        if elements.dtype() == DType::F32 && elements.is_aligned(16) {
            Ok(elements.pointer())
        } else {
            refuse!(self.kernel, "{what} must be aligned and f32")
        }
    }

    fn feed_forward(&self, layer: &FeedForward<'_>) -> Result<RawFeedForward, Error> {
        let (c, hidden) = (self.size.channels, layer.gate.shape().out_channels);
        if !HIDDEN.contains(&hidden) {
            return refuse!(self.kernel, "{hidden} channels behind the gate");
        }
        let (gate, gate_bias) = self.product(layer.gate, [c, hidden])?;
        let (pass, pass_bias) = self.product(layer.pass, [c, hidden])?;
        let (output, output_bias) = self.product(layer.output, [hidden, c])?;
        let gate_taps = self.floats(layer.gate_taps, 9 * HIDDEN_PADDED, "the gate's taps")?;
        let pass_taps = self.floats(layer.pass_taps, 9 * HIDDEN_PADDED, "the taps")?;
        let hidden = hidden as i32;
        Ok(RawFeedForward { gate, pass, output, gate_bias, pass_bias, output_bias, gate_taps, pass_taps, hidden })
    }

    fn next(&self, next: Option<&FirstProducts<'_>>) -> Result<RawNext, Error> {
        let mut raw = RawNext::default();
        let Some(next) = next else { return Ok(raw) };
        let c = self.size.channels;
        for i in 0..2 {
            (raw.weights[i], raw.bias[i]) = self.product(next.products[i], [c, c])?;
            self.check(next.to[i].elements.0, next.to[i].size, "a first product")?;
            raw.to[i] = next.to[i].elements.0.pointer();
        }
        Ok(raw)
    }

    fn raw(&self, normal: Normal) -> RawMap {
        let ImageSize { n, height, width, channels, .. } = self.size;
        let [n, height, width, channels] = [n, height, width, channels].map(|side| side as i32);
        let (layer_norm, epsilon) = match normal {
            Normal::Tanh => (0, 0.0),
            Normal::Layer { epsilon } => (1, epsilon),
        };
        RawMap { n, height, width, channels, layer_norm, epsilon }
    }

    fn patches(&self) -> [usize; 3] {
        [self.size.width / PATCH, self.size.height / PATCH, self.size.n]
    }
}

/// Runs up to [`MOST_LAYERS`] layers on each patch of `x`, and the first products of the layer after them.
///
/// # Errors
/// If sizes or types do not fit each other, there are too many layers, or something does not lie within its memory.
pub fn patch_layers(
    gpu: &Gpu,
    normal: Normal,
    layers: &[PatchLayer<'_>],
    x: Image<'_>,
    y: ImageMut<'_>,
    next: Option<&FirstProducts<'_>>,
) -> Result<(), Error> {
    let maps = Maps::new(["patch_layers_f16", "patch_layers_bf16"], &y)?;
    maps.check(x.elements, x.size, "the input")?;
    if layers.len() > MOST_LAYERS {
        return refuse!(maps.kernel, "{} layers, takes {MOST_LAYERS}", layers.len());
    }
    let (mut raw, mut hidden) = ([RawLayer::default(); MOST_LAYERS], None);
    let c = maps.size.channels;
    for (to, layer) in raw.iter_mut().zip(layers) {
        let part = maps.feed_forward(&layer.feed_forward)?;
        if *hidden.get_or_insert(part.hidden) != part.hidden {
            return refuse!(maps.kernel, "layers of different widths");
        }
        for i in 0..3 {
            (to.attention[i], to.attention_bias[i]) = maps.product(layer.attention[i], [c, c])?;
        }
        (to.project, to.project_bias) = maps.product(layer.project, [c, c])?;
        (to.gate, to.gate_bias) = (part.gate, part.gate_bias);
        (to.pass, to.pass_bias) = (part.pass, part.pass_bias);
        (to.output, to.output_bias) = (part.output, part.output_bias);
        (to.gate_taps, to.pass_taps) = (part.gate_taps, part.pass_taps);
        to.temperature = layer.temperature;
    }
    let next = maps.next(next)?;
    if maps.size.pixels() == Some(0) {
        return Ok(());
    }
    let (map, hidden, count) = (maps.raw(normal), hidden.unwrap_or(0), layers.len() as i32);
    let grid = Grid { blocks: maps.patches(), threads: 128, shared: 0 };
    let (from, to) = (x.elements.pointer(), y.elements.0.pointer());
    let arguments = arguments![map, hidden, count, raw, from, to, next];
    // SAFETY: the kernel takes these types; maps and taps were checked to lie in their memory, products were packed as it reads
    // them.
    unsafe { gpu.launch(maps.kernel, grid, arguments, &|| format!("{:?}", maps.size)) }
}

/// Rows and columns that a block of the mix makes.
const MIX_BLOCK: [usize; 2] = [8, 12];

/// `y = x + mix(near, value)`.
///
/// # Errors
/// As [`patch_layers`].
pub fn spatial_mix(gpu: &Gpu, layer: &Mix<'_>, [near, value, x]: [Image<'_>; 3], y: ImageMut<'_>) -> Result<(), Error> {
    let maps = Maps::new(["spatial_mix_f16", "spatial_mix_bf16"], &y)?;
    for (what, image) in [("what is near", near), ("the value", value), ("the input", x)] {
        maps.check(image.elements, image.size, what)?;
    }
    let c = maps.size.channels;
    let far = maps.floats(layer.far, 49 * PIXEL, "the taps")?;
    let far_bias = maps.floats(layer.far_bias, PIXEL, "the bias")?;
    let (mix, mix_bias) = maps.product(layer.mix, [c, c])?;
    let (last, last_bias) = maps.product(layer.last, [c, c])?;
    if maps.size.pixels() == Some(0) {
        return Ok(());
    }
    let raw = RawMix { far, far_bias, mix, last, mix_bias, last_bias };
    let map = maps.raw(Normal::Tanh);
    let blocks = [maps.size.width.div_ceil(MIX_BLOCK[1]), maps.size.height / MIX_BLOCK[0], maps.size.n];
    let grid = Grid { blocks, threads: 192, shared: 0 };
    let [near, value, x] = [near, value, x].map(|image| image.elements.pointer());
    let to = y.elements.0.pointer();
    // SAFETY: as for `patch_layers`.
    unsafe { gpu.launch(maps.kernel, grid, arguments![map, raw, near, value, x, to], &|| format!("{:?}", maps.size)) }
}

/// Bytes of shared memory of a feed-forward layer's block.
const FEED_FORWARD_BYTES: usize = (2 * 112 * (PIXEL + 8) + 64 * (HIDDEN_PADDED + 8)) * 2;

/// `y = x + feed_forward(normal(x))` over the whole map, and the first products of the layer after it.
///
/// # Errors
/// As [`patch_layers`].
pub fn feed_forward(
    gpu: &Gpu,
    normal: Normal,
    layer: &FeedForward<'_>,
    x: Image<'_>,
    y: ImageMut<'_>,
    next: Option<&FirstProducts<'_>>,
) -> Result<(), Error> {
    let maps = Maps::new(["feed_forward_f16", "feed_forward_bf16"], &y)?;
    maps.check(x.elements, x.size, "the input")?;
    let raw = maps.feed_forward(layer)?;
    let next = maps.next(next)?;
    if maps.size.pixels() == Some(0) {
        return Ok(());
    }
    let map = maps.raw(normal);
    let grid = Grid { blocks: maps.patches(), threads: 128, shared: FEED_FORWARD_BYTES };
    let (from, to) = (x.elements.pointer(), y.elements.0.pointer());
    // SAFETY: as for `patch_layers`.
    unsafe { gpu.launch(maps.kernel, grid, arguments![map, raw, from, to, next], &|| format!("{:?}", maps.size)) }
}
