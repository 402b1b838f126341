//! Convolution of channels-last images, on weights packed once.

use crate::conv_kernels::{point_kernel, tile_kernel};
use crate::depthwise_conv;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, Error, Gpu, Image, ImageMut, Memory};
use std::sync::Arc;

/// What kind of convolution; pairs are height first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Size of the kernel.
    pub kernel: [usize; 2],
    /// Step.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Distance of kernel taps.
    pub dilation: [usize; 2],
    /// Channels are split into this many groups that do not see each other.
    pub groups: usize,
}

impl ConvShape {
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Height and width of the output; `None` if the kernel does not fit or something overflows.
    pub(crate) fn output_size(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let side = |i: usize, n: usize| {
            let reach = self.dilation[i].checked_mul(self.kernel[i].checked_sub(1)?)?.checked_add(1)?;
            let room = self.padding[i].checked_mul(2)?.checked_add(n)?.checked_sub(reach)?;
            Some(room.checked_div(self.stride[i])? + 1)
        };
        Some([side(0, height)?, side(1, width)?])
    }
}

/// Packed weights of a convolution, with its bias, on a GPU. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PackedConv {
    shape: ConvShape,
    dtype: DType,
    way: Way,
    weights: Arc<Memory>,
    bias: Arc<Memory>,
}

/// For which kernels the weights of a convolution are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// [`PackedConv::run`] without a pixel shuffle, to images of the weights' type.
    Alone,
    /// [`PackedConv::run`].
    Shuffled,
    /// The second and third convolution of [`PackedConv::run_chain`]: 1×1, f16 or bf16.
    Chained,
    /// The mask of [`gate`](crate::spatial_attention::gate): 1×1 from 16 channels, f16 or bf16.
    Gate,
    /// The products of [`patch_transformer`](crate::patch_transformer): 1×1, f16 or bf16.
    Product,
    /// Either of [`coarse_map`](crate::spatial_attention::coarse_map): 3×3 from 16 channels, f16 or bf16.
    CoarseMap,
}

/// How it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Tensor cores on a tile of the picture in shared memory.
    Tile,
    /// 1×1, tensor cores on pixels in shared memory; groups of so many tiles of 8 channels out.
    Point(usize),
    /// Tensor cores on operands gathered while loading.
    Gather,
    /// By kernels of which the convolution is a part.
    Part(Packing),
    /// Depthwise, eight channels a thread.
    Depthwise,
    /// As `Gather`, in f32.
    GatherF32,
    /// One thread an output.
    Direct,
}

/// [`ConvShape`] and sizes as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    n: i32,
    height: i32,
    width: i32,
    out_height: i32,
    out_width: i32,
    in_channels: i32,
    out_channels: i32,
    kernel: [i32; 2],
    stride: [i32; 2],
    padding: [i32; 2],
    dilation: [i32; 2],
    groups: i32,
    x_stride: i64,
    y_stride: i64,
    residual_stride: i64,
    slope: f32,
    shuffle: i32,
    y_is_f32: i32,
    highest: f32,
    masked: i32,
}

/// Two 1×1 convolutions that follow in registers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Chain {
    w2: u64,
    bias2: u64,
    w3: u64,
    bias3: u64,
    y3: u64,
    y3_stride: i64,
}

/// What happens to a result as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Slope of a leaky ReLU: 1 for none, 0 for a ReLU.
    pub slope: f32,
    /// Results are clamped to this.
    pub highest: f32,
    /// Added after the activation; as large as the result.
    pub residual: Option<Image<'a>>,
    /// The residual is not added: it is the output of a leaky ReLU of that slope, and the result the gradient of its input. Where the
    /// residual is not positive, the sum is multiplied by the slope.
    pub is_mask: bool,
    /// Pixel shuffle by this factor, 1 for none: channel `(r * factor + q) * c + i` becomes channel `i` of sub-row `r` and
    /// sub-column `q`.
    pub shuffle: usize,
}

impl Epilogue<'_> {
    /// Nothing.
    pub const NONE: Epilogue<'static> =
        Epilogue { slope: 1.0, highest: f32::INFINITY, residual: None, is_mask: false, shuffle: 1 };
}

/// Rows and columns of pixels that a block of the tiled kernel takes.
const TILE: [usize; 2] = [8, 32];

/// Pixels that a block of the kernel for 1×1 convolutions takes.
const POINTS: usize = 256;
/// Most channels in that it takes: their pixels must fit the shared memory.
const POINT_CHANNELS: usize = 128;

/// Bytes of shared memory that the tiled kernel wants.
fn tile_bytes(in_channels: usize, out_tiles: usize) -> usize {
    let chunks = in_channels.div_ceil(16);
    9 * chunks * (out_tiles / 2) * 512 + (TILE[0] + 2) * (TILE[1] + 2) * (chunks * 16 + 8) * 2
}

impl PackedConv {
    /// Packs `weight` (`[out][in / groups][height][width]`) and `bias` (`[out]`), both f32 or both of type `dtype`, for images of
    /// type `dtype`.
    ///
    /// # Errors
    /// If the shape is not sensible or not what `packing` takes, a slice is shorter than it says, the type is no float, or memory
    /// is exhausted.
    pub fn pack(
        gpu: &Gpu,
        packing: Packing,
        dtype: DType,
        shape: ConvShape,
        weight: Elements<'_>,
        bias: Option<Elements<'_>>,
    ) -> Result<PackedConv, Error> {
        PackedConv::pack_either(gpu, packing, dtype, shape, (weight, false), bias)
    }

    /// Packs the `weight` of the convolution whose gradient `shape` takes back: channels in and out of each group exchanged,
    /// taps reversed. So it is `[in][out / groups][height][width]` in terms of `shape`.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn pack_reversed(gpu: &Gpu, dtype: DType, shape: ConvShape, weight: Elements<'_>) -> Result<PackedConv, Error> {
        PackedConv::pack_either(gpu, Packing::Alone, dtype, shape, (weight, true), None)
    }

    fn pack_either(
        gpu: &Gpu,
        packing: Packing,
        dtype: DType,
        shape: ConvShape,
        (weight, is_reversed): (Elements<'_>, bool),
        bias: Option<Elements<'_>>,
    ) -> Result<PackedConv, Error> {
        const KERNEL: &str = "pack_weights";
        let parts = [shape.kernel, shape.stride, shape.dilation];
        let sensible = parts.iter().flatten().all(|&n| n > 0 && n < 1 << 15)
            && shape.padding.iter().all(|&n| n < 1 << 15)
            && [shape.in_channels, shape.out_channels].iter().all(|&n| n > 0 && n < 1 << 24)
            && shape.groups > 0
            && shape.in_channels.is_multiple_of(shape.groups)
            && shape.out_channels.is_multiple_of(shape.groups);
        let of = weight.dtype();
        if !sensible || (of != DType::F32 && of != dtype) || bias.is_some_and(|bias| bias.dtype() != of) {
            return refuse!(KERNEL, "{shape:?} is not sensible, or weights are neither f32 nor {dtype:?}");
        }
        let fan_in = shape.in_channels / shape.groups * shape.taps();
        weight.check(KERNEL, "the weight", fan_in.checked_mul(shape.out_channels))?;
        if let Some(bias) = bias {
            bias.check(KERNEL, "the bias", Some(shape.out_channels))?;
        }
        let dense = shape.groups == 1;
        let small = matches!(dtype, DType::F16 | DType::BF16);
        let same3 =
            shape.kernel == [3; 2] && shape.padding == [1; 2] && shape.stride == [1; 2] && shape.dilation == [1; 2];
        let fits = tile_bytes(shape.in_channels, out_tiles(shape.out_channels)) <= gpu.shared_memory();
        let point = dense && small && shape.kernel == [1; 2] && shape.padding == [0; 2] && shape.stride == [1; 2];
        let three = dense && small && shape.kernel == [3; 2] && shape.dilation == [1; 2];
        let fits_part = match packing {
            Packing::Alone | Packing::Shuffled => true,
            Packing::Chained | Packing::Product => point,
            Packing::Gate => point && shape.in_channels == 16,
            Packing::CoarseMap => three && shape.in_channels == 16,
        };
        if !fits_part {
            return refuse!(KERNEL, "{shape:?} with {dtype:?} is not what {packing:?} takes");
        }
        let way = match dtype {
            _ if !matches!(packing, Packing::Alone | Packing::Shuffled) => Way::Part(packing),
            _ if dense && small && same3 && shape.in_channels <= 64 && shape.out_channels <= 64 && fits => Way::Tile,
            _ if point && packing == Packing::Alone && shape.in_channels <= POINT_CHANNELS => {
                Way::Point(match shape.out_channels {
                    ..=16 => 2,
                    17..=48 => 6,
                    _ => 8,
                })
            }
            _ if dense && small => Way::Gather,
            _ if packing == Packing::Alone && depthwise_conv::kernels(&shape, dtype).is_some() => Way::Depthwise,
            DType::F32 if dense && shape.out_channels > 4 => Way::GatherF32,
            DType::F32 | DType::F16 | DType::BF16 => Way::Direct,
            _ => return refuse!(KERNEL, "wants floats, got {dtype:?}"),
        };
        let own_bias = gpu.allocate(shape.out_channels.next_multiple_of(64) * 4)?;
        let (taps, describe) = (shape.taps(), || format!("{shape:?}"));
        let [fan, outputs, taps_i] = [shape.in_channels / shape.groups, shape.out_channels, taps].map(|n| n as i32);
        let reversed = if is_reversed { outputs / shape.groups as i32 } else { 0 };
        let (from, bias, to_bias) = (weight.pointer(), bias.map_or(0, |bias| bias.pointer()), own_bias.pointer());
        let weights = match way {
            Way::Tile | Way::Point(_) | Way::Gather | Way::Part(_) => {
                let pairs = match way {
                    Way::Tile => out_tiles(shape.out_channels) / 2,
                    Way::Point(tiles) => shape.out_channels.div_ceil(8 * tiles) * tiles / 2,
                    _ => shape.out_channels.div_ceil(16),
                };
                let elements = taps * shape.in_channels.div_ceil(16) * pairs * 256;
                let packed = gpu.allocate(elements * 2)?;
                let kernel = match (of, dtype) {
                    (DType::F32, DType::F16) => "pack_weights_f32_f16",
                    (DType::F32, _) => "pack_weights_f32_bf16",
                    (DType::F16, _) => "pack_weights_f16_f16",
                    _ => "pack_weights_bf16_bf16",
                };
                // As the kernel's file says.
                let permute = match way {
                    Way::Tile | Way::Point(_) => 1i32,
                    Way::Part(Packing::Chained) => 3,
                    Way::Part(Packing::Gate) => 4,
                    _ => 0,
                };
                let (pairs, to) = (pairs as i32, packed.pointer());
                let arguments = arguments![fan, outputs, taps_i, pairs, permute, reversed, from, bias, to, to_bias];
                // SAFETY: the kernel takes these types, reads weight and bias that were checked and writes `elements` elements and
                // the bias.
                unsafe { gpu.launch(kernel, Grid::flat(elements), arguments, &describe)? };
                packed
            }
            Way::GatherF32 | Way::Depthwise | Way::Direct => {
                let padded = match way {
                    Way::Direct => shape.out_channels,
                    Way::Depthwise => shape.out_channels.next_multiple_of(8),
                    _ => shape.out_channels.next_multiple_of(64),
                };
                let elements = fan as usize * taps * padded;
                let turned = gpu.allocate(elements * 4)?;
                let (padded, to) = (padded as i32, turned.pointer());
                let kernel = match of {
                    DType::F32 => "turn_weights_f32",
                    DType::F16 => "turn_weights_f16",
                    _ => "turn_weights_bf16",
                };
                let arguments = arguments![fan, outputs, padded, taps_i, reversed, from, bias, to, to_bias];
                // SAFETY: as above.
                unsafe { gpu.launch(kernel, Grid::flat(elements), arguments, &describe)? };
                turned
            }
        };
        Ok(PackedConv { shape, dtype, way, weights: Arc::new(weights), bias: Arc::new(own_bias) })
    }

    /// Its channels, kernel, stride and so on.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Type of the images that it takes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `y = leaky(conv(x)) + residual`. `y` is of the weights' type, or f32 whatever that is.
    ///
    /// # Errors
    /// If sizes do not fit each other, or something does not lie within its memory.
    pub fn run(&self, gpu: &Gpu, x: Image<'_>, y: ImageMut<'_>, epilogue: &Epilogue<'_>) -> Result<(), Error> {
        let raw = self.check(&x, &y, epilogue)?;
        let describe = || format!("{:?} on {:?}", self.shape, x.size);
        let residual = epilogue.residual.map_or(0, |image| image.elements.pointer());
        let [from, weights, bias, to] =
            [x.elements.pointer(), self.weights.pointer(), self.bias.pointer(), y.elements.0.pointer()];
        let pixels = raw.n as usize * raw.out_height as usize * raw.out_width as usize;
        if pixels == 0 {
            return Ok(());
        }
        match self.way {
            Way::Tile => {
                let (kernel, grid) = self.tile_grid(&raw, false);
                // SAFETY: the kernel takes these types; images and residual were checked to lie in their memory, weights and bias
                // were packed for this kernel.
                unsafe { gpu.launch(kernel, grid, arguments![raw, from, weights, bias, residual, to], &describe) }
            }
            Way::Point(_) if epilogue.shuffle != 1 || y.dtype() != self.dtype => {
                refuse!("conv_point", "a pixel shuffle, or a result of other elements")
            }
            Way::Point(tiles) => {
                let groups = self.shape.out_channels.div_ceil(8 * tiles);
                let chunks = self.shape.in_channels.div_ceil(16);
                let grid = Grid {
                    blocks: [pixels.div_ceil(POINTS), groups, 1],
                    threads: POINTS as u32,
                    shared: POINTS * (chunks * 16 + 8) * 2,
                };
                let pairs = (groups * tiles / 2) as i32;
                let arguments = arguments![raw, pairs, from, weights, bias, residual, to];
                // SAFETY: as above.
                unsafe { gpu.launch(point_kernel(self.dtype == DType::F16, tiles, chunks), grid, arguments, &describe) }
            }
            Way::Gather => {
                let kernel = if self.dtype == DType::F16 { "conv_gather_f16" } else { "conv_gather_bf16" };
                let pairs = self.shape.out_channels.div_ceil(16);
                let grid = Grid { blocks: [pixels.div_ceil(128), pairs.div_ceil(4), 1], threads: 256, shared: 0 };
                let pairs = pairs as i32;
                // SAFETY: as above.
                unsafe {
                    gpu.launch(kernel, grid, arguments![raw, pairs, from, weights, bias, residual, to], &describe)
                }
            }
            Way::GatherF32 => {
                let padded = self.shape.out_channels.next_multiple_of(64);
                let grid = Grid { blocks: [pixels.div_ceil(64), padded / 64, 1], threads: 256, shared: 0 };
                let padded = padded as i32;
                let arguments = arguments![raw, padded, from, weights, bias, residual, to];
                // SAFETY: as above.
                unsafe { gpu.launch("conv_gather_f32", grid, arguments, &describe) }
            }
            Way::Part(packing) => refuse!("conv", "packed for {packing:?}"),
            Way::Depthwise if epilogue.shuffle != 1 || y.dtype() != self.dtype => {
                refuse!("depthwise_conv", "a pixel shuffle, or a result of other elements")
            }
            Way::Depthwise => {
                let Some([kernel, _]) = depthwise_conv::kernels(&self.shape, self.dtype) else {
                    return refuse!("depthwise_conv", "{:?} has no kernel", self.shape);
                };
                let small = depthwise_conv::Raw {
                    n: raw.n,
                    height: raw.height,
                    width: raw.width,
                    channels: raw.out_channels,
                    columns: self.shape.out_channels.next_multiple_of(8) as i32,
                    x_stride: raw.x_stride,
                    y_stride: raw.y_stride,
                    residual_stride: raw.residual_stride,
                    slope: raw.slope,
                    highest: raw.highest,
                    masked: raw.masked,
                };
                let threads = depthwise_conv::threads(&self.shape, x.size.height, x.size.width);
                if threads > i32::MAX as usize {
                    return refuse!(kernel, "{:?} is too large", x.size);
                }
                let grid = Grid { blocks: [threads.div_ceil(256), x.size.n, 1], threads: 256, shared: 0 };
                // SAFETY: as above.
                unsafe { gpu.launch(kernel, grid, arguments![small, from, weights, bias, residual, to], &describe) }
            }
            Way::Direct => {
                let Some(kernel) = variant!(self.dtype, "conv_direct") else {
                    return refuse!("conv", "wants floats, got {:?}", self.dtype);
                };
                let grid = Grid::flat(pixels.saturating_mul(self.shape.out_channels));
                // SAFETY: as above.
                unsafe { gpu.launch(kernel, grid, arguments![raw, from, weights, bias, residual, to], &describe) }
            }
        }
    }

    /// Whether [`run_chain`](Self::run_chain) can start with this convolution: 3×3 with at most 64 channels.
    pub fn starts_chain(&self) -> bool {
        self.way == Way::Tile
    }

    /// Whether [`run_chain`](Self::run_chain) takes `second` and `third`, packed for it: 1×1 convolutions, the second with as many
    /// outputs as this one, the third with 16.
    pub fn can_chain(&self, second: &PackedConv, third: &PackedConv) -> bool {
        let point = |conv: &PackedConv, out: usize| {
            let shape = conv.shape;
            conv.way == Way::Part(Packing::Chained)
                && conv.dtype == self.dtype
                && (shape.in_channels, shape.out_channels) == (self.shape.out_channels, out)
        };
        self.way == Way::Tile && point(second, self.shape.out_channels) && point(third, 16)
    }

    /// `y = second(leaky(conv(x)) + residual)` and `z = third(y)`, without storing what lies between.
    ///
    /// # Errors
    /// If [`can_chain`](Self::can_chain) says no, sizes do not fit each other, or something does not lie within its memory.
    pub fn run_chain(
        &self,
        gpu: &Gpu,
        x: Image<'_>,
        epilogue: &Epilogue<'_>,
        (second, y): (&PackedConv, ImageMut<'_>),
        (third, z): (&PackedConv, ImageMut<'_>),
    ) -> Result<(), Error> {
        const KERNEL: &str = "conv_chain";
        let raw = self.check(&x, &y, epilogue)?;
        z.check(KERNEL, "the second result", 2)?;
        let same = [z.size.n, z.size.height, z.size.width] == [y.size.n, y.size.height, y.size.width];
        let even = z.size.stride.is_multiple_of(16) && z.elements.0.is_aligned(16);
        let types = z.dtype() == self.dtype && y.dtype() == self.dtype;
        if !self.can_chain(second, third) || !same || !even || !types || z.size.channels != 16 || epilogue.shuffle != 1
        {
            return refuse!(KERNEL, "{:?}, {:?} and {:?} do not chain", self.shape, second.shape, third.shape);
        }
        if y.size.pixels() == Some(0) {
            return Ok(());
        }
        let chain = Chain {
            w2: second.weights.pointer(),
            bias2: second.bias.pointer(),
            w3: third.weights.pointer(),
            bias3: third.bias.pointer(),
            y3: z.elements.0.pointer(),
            y3_stride: z.size.stride as i64,
        };
        let residual = epilogue.residual.map_or(0, |image| image.elements.pointer());
        let [from, weights, bias, to] =
            [x.elements.pointer(), self.weights.pointer(), self.bias.pointer(), y.elements.0.pointer()];
        let (kernel, grid) = self.tile_grid(&raw, true);
        let describe = || format!("{:?} on {:?}", self.shape, x.size);
        // SAFETY: the kernel takes these types; images and residual were checked to lie in their memory, weights and biases were
        // packed for it.
        unsafe { gpu.launch(kernel, grid, arguments![raw, from, weights, bias, residual, to, chain], &describe) }
    }

    fn tile_grid(&self, raw: &Raw, chain: bool) -> (&'static str, Grid) {
        let tiles = out_tiles(self.shape.out_channels);
        let usual = tiles == 6 && self.shape.in_channels.div_ceil(16) == 3;
        let kernel = tile_kernel(self.dtype == DType::F16, chain, tiles, usual);
        let blocks =
            [(raw.out_width as usize).div_ceil(TILE[1]), (raw.out_height as usize).div_ceil(TILE[0]), raw.n as usize];
        (kernel, Grid { blocks, threads: 256, shared: tile_bytes(self.shape.in_channels, tiles) })
    }

    fn check(&self, x: &Image<'_>, y: &ImageMut<'_>, epilogue: &Epilogue<'_>) -> Result<Raw, Error> {
        const KERNEL: &str = "conv";
        let shape = &self.shape;
        let Some([height, width]) = shape.output_size(x.size.height, x.size.width) else {
            return refuse!(KERNEL, "{shape:?} does not fit {:?}", x.size);
        };
        let half = self.dtype.size() == 2;
        // The tensor-core kernels read whole vectors, and write pairs, or all of the padding.
        let plain = epilogue.shuffle == 1 && y.dtype() == self.dtype;
        let (round_x, round_y) = match self.way {
            Way::Tile | Way::Point(_) | Way::Depthwise if plain => (8, 16),
            _ if half && plain => (8, 2),
            _ if half => (8, 1),
            _ => (1, 1),
        };
        let step = if matches!(self.way, Way::Tile | Way::Point(_) | Way::Depthwise) { 16 } else { 2 };
        let whole =
            |image: &Elements<'_>, stride: usize| stride.is_multiple_of(step) && image.is_aligned(2 * step.min(8));
        x.check(KERNEL, "the input", if x.size.stride.is_multiple_of(8) { round_x } else { 1 })?;
        y.check(KERNEL, "the result", round_y)?;
        let factor = epilogue.shuffle;
        let colours = factor.checked_mul(factor).filter(|&s| s > 0 && shape.out_channels.is_multiple_of(s));
        let wanted = colours.and_then(|square| {
            Some([x.size.n, height.checked_mul(factor)?, width.checked_mul(factor)?, shape.out_channels / square])
        });
        let found = [y.size.n, y.size.height, y.size.width, y.size.channels];
        if x.size.channels != shape.in_channels || wanted != Some(found) {
            return refuse!(KERNEL, "{shape:?}, shuffled by {factor}: {:?} to {:?}", x.size, y.size);
        }
        if x.dtype() != self.dtype || (y.dtype() != self.dtype && y.dtype() != DType::F32) {
            return refuse!(KERNEL, "packed for {:?}, got {:?} to {:?}", self.dtype, x.dtype(), y.dtype());
        }
        if let Some(residual) = &epilogue.residual {
            residual.check(KERNEL, "the residual", round_y)?;
            let size = residual.size;
            let even = !half || whole(&residual.elements, size.stride);
            if [size.n, size.height, size.width, size.channels] != [x.size.n, height, width, shape.out_channels]
                || residual.dtype() != self.dtype
                || factor != 1
                || !even
            {
                return refuse!(KERNEL, "the residual {size:?} does not fit {:?}", y.size);
            }
        }
        let aligned = x.elements.is_aligned(16) && x.size.stride.is_multiple_of(8);
        let in_vectors = matches!(self.way, Way::Tile | Way::Point(_) | Way::Gather | Way::Depthwise);
        if in_vectors && !(aligned && (!plain || whole(&y.elements.0, y.size.stride))) {
            return refuse!(KERNEL, "wants pixels at multiples of 16 bytes, got {:?} and {:?}", x.size, y.size);
        }
        if x.size.n > 65535 || height > TILE[0] * 65535 {
            return refuse!(KERNEL, "{:?} is too large", x.size);
        }
        let pair = |p: [usize; 2]| p.map(|n| n as i32);
        Ok(Raw {
            n: x.size.n as i32,
            height: x.size.height as i32,
            width: x.size.width as i32,
            out_height: height as i32,
            out_width: width as i32,
            in_channels: shape.in_channels as i32,
            out_channels: shape.out_channels as i32,
            kernel: pair(shape.kernel),
            stride: pair(shape.stride),
            padding: pair(shape.padding),
            dilation: pair(shape.dilation),
            groups: shape.groups as i32,
            x_stride: x.size.stride as i64,
            y_stride: y.size.stride as i64,
            residual_stride: epilogue.residual.map_or(0, |image| image.size.stride as i64),
            slope: epilogue.slope,
            shuffle: factor as i32,
            y_is_f32: i32::from(y.dtype() == DType::F32),
            highest: epilogue.highest,
            masked: i32::from(epilogue.is_mask && epilogue.residual.is_some()),
        })
    }

    /// Address of the packed weights.
    pub(crate) fn weights(&self) -> u64 {
        self.weights.pointer()
    }

    /// Address of the bias.
    pub(crate) fn bias(&self) -> u64 {
        self.bias.pointer()
    }

    /// Whether the weights are packed for something.
    pub(crate) fn is_packed_for(&self, packing: Packing) -> bool {
        self.way == Way::Part(packing)
    }
}

/// Tiles of 8 output channels, an even number.
fn out_tiles(out_channels: usize) -> usize {
    out_channels.div_ceil(16) * 2
}
