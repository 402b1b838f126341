//! Gradients of a convolution's weights and bias, and what makes the gradient of its input a convolution again: that is
//! [`PackedConv::pack_reversed`](crate::conv::PackedConv::pack_reversed), with zeros between pixels first ([`spread`]) where the
//! convolution has steps.

use crate::conv::ConvShape;
use crate::depthwise_conv;
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::pooling::check_images;
use crate::{DType, ElementsMut, Error, Gpu, Image, ImageMut};

/// Most parts that the pixels are split into. A multiple of the multiprocessors of no GPU in particular: sums depend on shapes
/// alone.
const PARTS: usize = 256;
/// Most bytes of all parts together.
const BYTES: usize = 1 << 28;
/// Lines that a block for depthwise convolutions goes through at a time.
const SLOTS: usize = 16;
/// Rows and columns of pixels of a tile.
const TILE: [usize; 2] = [8, 32];

/// Sizes as the kernels take them.
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
    g_stride: i64,
}

/// How the sums are laid out, and how many parts there are.
struct Plan {
    kernel: &'static str,
    grid: Grid,
    /// Pixels, or tiles, of a part.
    per_part: usize,
    parts: usize,
    /// Channels in and out, padded.
    rows: usize,
    columns: usize,
}

/// Writes the gradient of a convolution's weights, `[out][in / groups][height][width]`, and of its bias, `[out]`, from that of its
/// output, `grad`, and its input `x`. Both results are of one type: f32, or that of the images. Sums are in f32.
///
/// # Errors
/// If sizes or types do not fit each other, or something does not lie within its memory.
pub fn weight_gradient(
    gpu: &Gpu,
    shape: ConvShape,
    x: Image<'_>,
    grad: Image<'_>,
    weight: ElementsMut<'_>,
    bias: Option<ElementsMut<'_>>,
) -> Result<(), Error> {
    const KERNEL: &str = "weight_gradient";
    let half = x.dtype().size() == 2;
    let round = if half { 8 } else { 1 };
    x.check(KERNEL, "the input", round)?;
    grad.check(KERNEL, "the gradient", round)?;
    let taps = shape.kernel[0] * shape.kernel[1];
    let (inputs, outputs) = (shape.in_channels / shape.groups.max(1), shape.out_channels);
    let to = weight.0.dtype();
    let fits = shape.groups > 0
        && shape.output_size(x.size.height, x.size.width) == Some([grad.size.height, grad.size.width])
        && [x.size.n, x.size.channels, grad.size.channels] == [grad.size.n, shape.in_channels, outputs]
        && x.dtype() == grad.dtype()
        && (to == DType::F32 || to == x.dtype())
        && bias.is_none_or(|bias| bias.0.dtype() == to);
    let aligned = |image: &Image<'_>| image.elements.is_aligned(16) && image.size.stride.is_multiple_of(8);
    if !fits || (half && !(aligned(&x) && aligned(&grad))) {
        return refuse!(KERNEL, "{shape:?}: {:?} to {:?}, or their types, do not fit", x.size, grad.size);
    }
    weight.0.check(KERNEL, "the result", inputs.checked_mul(outputs).and_then(|n| n.checked_mul(taps)))?;
    if let Some(bias) = bias {
        bias.0.check(KERNEL, "the bias", Some(outputs))?;
    }
    let plan = plan(gpu, &shape, &x, &grad)?;
    let parts = gpu.allocate(plan.parts * taps * plan.rows * plan.columns * 4)?;
    let bias_parts = bias.map(|_| gpu.allocate(plan.parts * plan.columns * 4)).transpose()?;
    let pair = |p: [usize; 2]| p.map(|n| n as i32);
    let raw = Raw {
        n: x.size.n as i32,
        height: x.size.height as i32,
        width: x.size.width as i32,
        out_height: grad.size.height as i32,
        out_width: grad.size.width as i32,
        in_channels: shape.in_channels as i32,
        out_channels: outputs as i32,
        kernel: pair(shape.kernel),
        stride: pair(shape.stride),
        padding: pair(shape.padding),
        dilation: pair(shape.dilation),
        groups: shape.groups as i32,
        x_stride: x.size.stride as i64,
        g_stride: grad.size.stride as i64,
    };
    let describe = || format!("{shape:?} on {:?}", x.size);
    let [from, g, to_parts] = [x.elements.pointer(), grad.elements.pointer(), parts.pointer()];
    let to_bias = bias_parts.as_ref().map_or(0, |bias| bias.pointer());
    if plan.kernel.starts_with("weight_tile") {
        let tiles = tiles(&x) as i32;
        let per_part = plan.per_part as i32;
        let arguments = arguments![raw, tiles, per_part, from, g, to_parts, to_bias];
        // SAFETY: the kernel takes these types; images were checked to lie in their memory, parts are as large as the plan says.
        unsafe { gpu.launch(plan.kernel, plan.grid, arguments, &describe)? };
    } else if plan.kernel.starts_with("weight_depthwise") {
        let same = depthwise_conv::Raw {
            n: raw.n,
            height: raw.height,
            width: raw.width,
            channels: raw.out_channels,
            columns: plan.columns as i32,
            x_stride: raw.x_stride,
            y_stride: raw.g_stride,
            residual_stride: 0,
            slope: 1.0,
            highest: f32::INFINITY,
            masked: 0,
        };
        let per_part = plan.per_part as i32;
        let arguments = arguments![same, per_part, from, g, to_parts, to_bias];
        // SAFETY: as above.
        unsafe { gpu.launch(plan.kernel, plan.grid, arguments, &describe)? };
    } else {
        let per_part = plan.per_part as i64;
        let arguments = arguments![raw, per_part, from, g, to_parts, to_bias];
        // SAFETY: as above.
        unsafe { gpu.launch(plan.kernel, plan.grid, arguments, &describe)? };
    }
    let Some(kernel) = variant!(to, "sum_parts") else { return refuse!(KERNEL, "wants floats, got {to:?}") };
    let lines = taps * inputs + usize::from(bias.is_some());
    let grid = Grid { blocks: [lines * outputs.div_ceil(32), 1, 1], threads: 1024, shared: 0 };
    let [count, taps, inputs, outputs, rows, columns] =
        [plan.parts, taps, inputs, outputs, plan.rows, plan.columns].map(|n| n as i32);
    let [to_weight, to_final] = [weight.0.pointer(), bias.map_or(0, |bias| bias.0.pointer())];
    let arguments = arguments![count, taps, inputs, outputs, rows, columns, to_parts, to_bias, to_weight, to_final];
    // SAFETY: the kernel takes these types; results were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments, &describe) }
}

fn tiles(x: &Image<'_>) -> usize {
    x.size.n * x.size.height.div_ceil(TILE[0]) * x.size.width.div_ceil(TILE[1])
}

fn plan(gpu: &Gpu, shape: &ConvShape, x: &Image<'_>, grad: &Image<'_>) -> Result<Plan, Error> {
    const KERNEL: &str = "weight_gradient";
    let taps = shape.kernel[0] * shape.kernel[1];
    let half = x.dtype().size() == 2;
    let pixels = grad.size.pixels().unwrap_or(usize::MAX);
    let same3 = shape.kernel == [3; 2] && shape.padding == [1; 2] && shape.stride == [1; 2] && shape.dilation == [1; 2];
    // Whatever was asked for, all parts fit some memory.
    let most = |wanted: usize, rows: usize, columns: usize| {
        wanted.min(BYTES / taps.saturating_mul(rows).saturating_mul(columns).saturating_mul(4).max(1)).max(1)
    };
    if half && same3 && shape.groups == 1 && shape.in_channels <= 64 && shape.out_channels <= 64 {
        let chunks = [1, 3, 4].into_iter().find(|&c| shape.in_channels <= 16 * c).expect("at most 64");
        let out = [2, 6, 8].into_iter().find(|&t| shape.out_channels <= 8 * t).expect("at most 64");
        let shared = ((TILE[0] + 2) * (TILE[1] + 2) * (chunks * 16 + 8) + TILE[0] * TILE[1] * (out * 8 + 8)) * 2;
        if shared <= gpu.shared_memory() {
            let kernel = tile_kernel(x.dtype() == DType::F16, chunks, out);
            let (tiles, rows, columns) = (tiles(x), chunks * 16, out * 8);
            let per_part = tiles.div_ceil(most(PARTS, rows, columns));
            let parts = tiles.div_ceil(per_part);
            let grid = Grid { blocks: [parts, 1, 1], threads: 288, shared };
            return Ok(Plan { kernel, grid, per_part, parts, rows, columns });
        }
    }
    if shape.groups == 1 {
        let kernel = match x.dtype() {
            DType::F32 => "weight_gather_f32",
            DType::F16 => "weight_gather_f16",
            DType::BF16 => "weight_gather_bf16",
            other => return refuse!(KERNEL, "wants floats, got {other:?}"),
        };
        let (rows, columns) = (shape.in_channels.next_multiple_of(16), shape.out_channels.next_multiple_of(16));
        let blocks = [taps * rows.div_ceil(64), columns.div_ceil(64)];
        let wanted = (4 * PARTS).div_ceil(blocks[0] * blocks[1]).min(2 * PARTS).min(pixels.div_ceil(256)).max(1);
        let per_part = pixels.div_ceil(most(wanted, rows, columns)).next_multiple_of(32);
        let parts = pixels.div_ceil(per_part);
        let grid = Grid { blocks: [blocks[0], blocks[1], parts], threads: 256, shared: 0 };
        return Ok(Plan { kernel, grid, per_part, parts, rows, columns });
    }
    let lines = grad.size.n.saturating_mul(grad.size.height);
    if let Some([_, kernel]) = depthwise_conv::kernels(shape, x.dtype())
        && lines <= i32::MAX as usize
    {
        let columns = shape.out_channels.next_multiple_of(64);
        let rows = shape.kernel[0];
        // Sixteen lines are gone through at a time: at least 32 pixels of each channel by a thread.
        let least = SLOTS * 32usize.div_ceil(grad.size.width);
        let wanted = (8 * PARTS).div_ceil(columns / 64 * rows).min(PARTS).min(lines.div_ceil(least));
        let per_part = lines.div_ceil(most(wanted, 1, columns)).next_multiple_of(SLOTS);
        let parts = lines.div_ceil(per_part);
        let grid = Grid { blocks: [columns / 64, rows, parts], threads: 128, shared: 0 };
        return Ok(Plan { kernel, grid, per_part, parts, rows: 1, columns });
    }
    let Some(kernel) = variant!(x.dtype(), "weight_grouped") else {
        return refuse!(KERNEL, "wants floats, got {:?}", x.dtype());
    };
    let (rows, columns) = (shape.in_channels / shape.groups, shape.out_channels.next_multiple_of(32));
    let blocks = [columns / 32, rows * shape.kernel[0] * shape.kernel[1].div_ceil(8)];
    let wanted = (8 * PARTS).div_ceil(blocks[0] * blocks[1]).min(pixels.div_ceil(256)).max(1);
    let per_part = pixels.div_ceil(most(wanted, rows, columns));
    let parts = pixels.div_ceil(per_part);
    let grid = Grid { blocks: [blocks[0], blocks[1], parts], threads: 256, shared: 0 };
    Ok(Plan { kernel, grid, per_part, parts, rows, columns })
}

fn tile_kernel(is_f16: bool, chunks: usize, out: usize) -> &'static str {
    match (is_f16, chunks, out) {
        (true, 1, 2) => "weight_tile_1_2_f16",
        (true, 1, 6) => "weight_tile_1_6_f16",
        (true, 1, _) => "weight_tile_1_8_f16",
        (true, 3, 2) => "weight_tile_3_2_f16",
        (true, 3, 6) => "weight_tile_3_6_f16",
        (true, 3, _) => "weight_tile_3_8_f16",
        (true, _, 2) => "weight_tile_4_2_f16",
        (true, _, 6) => "weight_tile_4_6_f16",
        (true, _, _) => "weight_tile_4_8_f16",
        (false, 1, 2) => "weight_tile_1_2_bf16",
        (false, 1, 6) => "weight_tile_1_6_bf16",
        (false, 1, _) => "weight_tile_1_8_bf16",
        (false, 3, 2) => "weight_tile_3_2_bf16",
        (false, 3, 6) => "weight_tile_3_6_bf16",
        (false, 3, _) => "weight_tile_3_8_bf16",
        (false, _, 2) => "weight_tile_4_2_bf16",
        (false, _, 6) => "weight_tile_4_6_bf16",
        (false, _, _) => "weight_tile_4_8_bf16",
    }
}

/// `y[i] = grad[(i + skip) / step]` where that is whole and inside, else zero: pixels `step` apart, moved by `skip`.
///
/// # Errors
/// If pictures, channels or types differ, or something does not lie within its memory.
pub fn spread(gpu: &Gpu, step: [usize; 2], skip: [isize; 2], grad: Image<'_>, y: ImageMut<'_>) -> Result<(), Error> {
    let Some(kernel) = variant!(grad.dtype(), "spread") else {
        return refuse!("spread", "wants floats, got {:?}", grad.dtype());
    };
    check_images(kernel, &grad, &y)?;
    let small = step.iter().all(|&n| n > 0 && n < 1 << 15) && skip.iter().all(|n| n.unsigned_abs() < 1 << 15);
    if grad.size.channels != y.size.channels || !small {
        return refuse!(kernel, "{:?} to {:?}, {step:?} apart", grad.size, y.size);
    }
    let to = Image { elements: y.elements.0, size: y.size };
    let four = |image: &Image<'_>| {
        image.size.stride.is_multiple_of(4)
            && image.elements.is_aligned(16)
            && image.check(kernel, "an image", 4).is_ok()
    };
    let wide = four(&grad) && four(&to);
    let per_pixel = y.size.channels.div_ceil(if wide { 4 } else { 1 });
    let threads = y.size.pixels().unwrap_or(0).saturating_mul(per_pixel);
    if threads == 0 {
        return Ok(());
    }
    let pair = |p: [usize; 2]| Pair(p.map(|n| n as i32));
    let sizes = [[grad.size.height, grad.size.width], [y.size.height, y.size.width]].map(pair);
    let [n, channels] = [y.size.n, y.size.channels].map(|n| n as i32);
    let (step, skip) = (pair(step), Pair(skip.map(|n| n as i32)));
    let (wide, strides) = (i32::from(wide), [grad.size.stride as i64, y.size.stride as i64]);
    let pointers = [grad.elements.pointer(), y.elements.0.pointer()];
    let arguments =
        arguments![wide, n, sizes[0], sizes[1], channels, step, skip, strides[0], strides[1], pointers[0], pointers[1]];
    // SAFETY: the kernel takes these types; both images were checked to lie in their memory, rounded up where access is wide.
    unsafe { gpu.launch(kernel, Grid::flat(threads), arguments, &|| format!("{:?} to {:?}", grad.size, y.size)) }
}

/// CUDA's `int2`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Pair([i32; 2]);
