//! Products of packed weights with rows of activations.

use super::{PackedMatrix, WeightFormat, padded};
use crate::blas::{self, Kind};
use crate::error::refuse;
use crate::gemm::Matrices;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu, Memory};

/// Most rows of activations that are few: a row's results do not depend, bit by bit, on how many are beside it.
pub const FEW: usize = 64;

/// How the first half of a feed-forward layer gates the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`.
    GeluTanh,
}

/// What becomes of a product. Rows of outputs lie `row` elements apart.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Stored as f32; with a cap as `cap · tanh(product / cap)`.
    Store {
        /// Where.
        out: ElementsMut<'a>,
        /// Elements from token to token.
        row: usize,
        /// The cap, more than 0. Of few rows only.
        cap: Option<f32>,
    },
    /// Added to f32: the residual stream.
    Add {
        /// To what.
        out: ElementsMut<'a>,
        /// Elements from token to token.
        row: usize,
    },
    /// Of a gated matrix: `gate(g) · u` as the input of the next product, `[tokens, padded(rows / 2)]` of the type of this input.
    /// Columns from `rows / 2` on are the caller's to have set to zero.
    Gated {
        /// Where.
        out: ElementsMut<'a>,
        /// The gate.
        gate: Gate,
    },
}

/// Memory for weights in 16 bits, for products of many rows.
#[derive(Debug)]
pub struct Scratch {
    memory: Memory,
}

impl Scratch {
    /// So many bytes: of 128 rows of a matrix and as many results for each token at least; more is faster.
    ///
    /// # Errors
    /// If memory is exhausted.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Scratch, Error> {
        Ok(Scratch { memory: gpu.allocate(bytes)? })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    weights: u64,
    x: u64,
    out: u64,
    gated: u64,
    rows: i32,
    tiles: i32,
    tokens: i32,
    x_row: i32,
    out_row: i32,
    add: i32,
    gate: i32,
    cap: f32,
}

/// The product of `matrix` with `tokens` rows of activations, `[tokens, padded(k)]` of its format's input type. At most [`FEW`] rows
/// need no scratch memory, and are captured with nothing but these addresses.
///
/// # Errors
/// If types differ, something does not lie within its memory or is not aligned to 16 bytes, the outcome does not fit the
/// matrix, or there is too little scratch memory.
pub fn project(
    gpu: &Gpu,
    scratch: Option<&Scratch>,
    matrix: &PackedMatrix,
    tokens: usize,
    input: Elements<'_>,
    outcome: Outcome<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "packed product";
    let (rows, width, dtype) = (matrix.rows(), padded(matrix.k()), matrix.format().input());
    input.check(KERNEL, "the input", tokens.checked_mul(width))?;
    if input.dtype() != dtype || !input.is_aligned(16) {
        return refuse!(KERNEL, "the input is of {:?}, wants {dtype:?} aligned to 16 bytes", input.dtype());
    }
    let (out, row, wanted, columns) = match outcome {
        Outcome::Store { out, row, .. } | Outcome::Add { out, row } => (out, row, DType::F32, rows),
        Outcome::Gated { out, .. } => (out, padded(rows / 2), dtype, rows / 2),
    };
    let gated = matches!(outcome, Outcome::Gated { .. });
    if gated != matrix.is_gated() || out.0.dtype() != wanted || row < columns || row > i32::MAX as usize {
        return refuse!(KERNEL, "{outcome:?} of {rows} rows, gated: {}", matrix.is_gated());
    }
    let extent = tokens.saturating_sub(1).checked_mul(row).and_then(|before| before.checked_add(columns));
    out.0.check(KERNEL, "the result", extent)?;
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    if tokens > FEW
        && let Some(blas) = gpu.blas()
    {
        let Some(scratch) = scratch else { return refuse!(KERNEL, "{tokens} rows want scratch memory") };
        return many(gpu, blas, scratch, matrix, tokens, input, outcome);
    }
    for first in (0..tokens).step_by(FEW) {
        let count = FEW.min(tokens - first);
        let at = out.0.skip(first * row).pointer();
        let mut raw = Raw {
            weights: matrix.pointer(),
            x: input.skip(first * width).pointer(),
            out: at,
            gated: 0,
            rows: rows as i32,
            tiles: matrix.tiles() as i32,
            tokens: count as i32,
            x_row: width as i32,
            out_row: row as i32,
            add: 0,
            gate: 0,
            cap: 0.0,
        };
        match outcome {
            Outcome::Store { cap, .. } => raw.cap = cap.unwrap_or(0.0),
            Outcome::Add { .. } => raw.add = 1,
            Outcome::Gated { gate, .. } => (raw.gated, raw.gate) = (at, i32::from(gate == Gate::GeluTanh)),
        }
        let size = count.div_ceil(8).next_power_of_two().ilog2() as usize;
        let (kernel, grid) = match wide(gpu, matrix, size)? {
            Some(wide) => wide,
            None => {
                let kernel = matrix.format().kernels().product[size];
                (kernel, Grid { blocks: [rows.div_ceil(16), 1, 1], threads: 256, shared: 0 })
            }
        };
        let describe = || format!("{count} of {rows} x {}", matrix.k());
        // SAFETY: the kernel takes this; input and result were checked to lie in their memory, aligned, and the matrix is whole.
        unsafe { gpu.launch_early(kernel, grid, arguments![raw], &describe) }?;
    }
    Ok(())
}

/// The kernel of Hopper for `8 << size` rows of activations, more than 8, and how it is launched: a cluster of blocks for each eight
/// multiprocessors takes 16 rows of the matrix a warp, round by round.
fn wide(gpu: &Gpu, matrix: &PackedMatrix, size: usize) -> Result<Option<(&'static str, Grid)>, Error> {
    // As in `low_bit_wide.cu`.
    const SLICES: usize = 8;
    const STAGES: usize = 4;
    const COLUMNS: usize = 256;
    if size == 0 || gpu.capability() != (9, 0) {
        return Ok(None);
    }
    let (columns, _) = matrix.format().tile();
    let (kernel, tokens) = (matrix.format().kernels().wide[size - 1], 8 << size);
    // Minima take registers.
    let minima = matches!(matrix.format(), WeightFormat::Q4_1 | WeightFormat::Q4_K);
    let most = if minima && size == 3 { 8 } else { 12 };
    let stages = (matrix.tiles().div_ceil(SLICES) * columns).div_ceil(COLUMNS).min(STAGES);
    let shared = |warps: usize| 128 + tokens * (stages * 2 * (COLUMNS + 32) + 2 * warps * 16 * 4);
    // More than half of what there is, so that a multiprocessor has one block.
    let half = 120 << 10;
    let clusters = gpu.clusters(kernel, [1, SLICES], 32 * most as u32, shared(8).max(half))?;
    if clusters == 0 {
        return Ok(None);
    }
    let groups = matrix.rows().div_ceil(16);
    let rounds = |warps: usize| groups.div_ceil(clusters * warps);
    // A round costs as much as a group more.
    let warps = (4..=most)
        .rev()
        .filter(|&warps| shared(warps) <= gpu.shared_memory())
        .min_by_key(|&warps| rounds(warps) * (warps + 1));
    let Some(warps) = warps else { return Ok(None) };
    let blocks = [groups.div_ceil(warps).min(clusters), SLICES, 1];
    Ok(Some((kernel, Grid { blocks, threads: 32 * warps as u32, shared: shared(warps).max(half) })))
}

/// As [`project`], by way of 16-bit weights.
fn many(
    gpu: &Gpu,
    blas: &blas::Blas,
    scratch: &Scratch,
    matrix: &PackedMatrix,
    tokens: usize,
    input: Elements<'_>,
    outcome: Outcome<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "packed product";
    let (rows, width, dtype) = (matrix.rows(), padded(matrix.k()), matrix.format().input());
    let (gated, dense) = (matrix.is_gated(), matrix.format().is_dense());
    // Weights in 16 bits, and products on their way to the gate.
    let own = if dense { 0 } else { width };
    let bytes_of_row = 2 * (own + if gated { tokens } else { 0 });
    let room = scratch.memory.bytes().checked_div(bytes_of_row).unwrap_or(usize::MAX);
    let step = (room / 128 * 128).min(rows.next_multiple_of(128));
    if step == 0 {
        let bytes = scratch.memory.bytes();
        return refuse!(KERNEL, "{tokens} tokens want {} bytes of scratch memory, not {bytes}", 128 * bytes_of_row);
    }
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let weights = if dense {
            Elements::new(matrix.memory(), first * width, dtype)
        } else {
            let weights = ElementsMut::new(&scratch.memory, 0, dtype);
            matrix.dequantize(gpu, first, count, weights)?;
            weights.0
        };
        let a = Matrices::dense(input, [tokens, width]);
        let b = Matrices::dense(weights, [count, width]).turn();
        let between = Elements::new(&scratch.memory, step * own, dtype);
        let (kind, d, residual) = match outcome {
            Outcome::Gated { .. } => (Kind::Float(dtype), Matrices::dense(between, [tokens, count]), false),
            Outcome::Store { out, row, .. } | Outcome::Add { out, row } => {
                let at = Matrices { elements: out.0.skip(first), row, batch: 0, turned: false };
                (Kind::Wide(dtype), at, matches!(outcome, Outcome::Add { .. }))
            }
        };
        let product = blas::Product {
            kind,
            batch: 1,
            sizes: [tokens, width, count],
            a,
            b,
            bias: None,
            relu: false,
            residual: residual.then_some(d),
            d,
            scales: None,
        };
        if !blas.run(gpu, &product)? {
            return refuse!(KERNEL, "cuBLASLt has no product of {tokens} x {width} x {count}");
        }
        if let Outcome::Gated { out, gate } = outcome {
            let whole = padded(rows / 2);
            let to = out.0.skip(first / 2);
            let to_row = [count / 2, count, whole];
            gated_columns(gpu, gate, tokens, to_row, between, to)?;
        }
    }
    Ok(())
}

/// `out = gate(g) · u` for products of eight columns of each in turn: `width` columns, from rows of `from_row` to rows of `to_row`.
fn gated_columns(
    gpu: &Gpu,
    gate: Gate,
    tokens: usize,
    [width, from_row, to_row]: [usize; 3],
    from: Elements<'_>,
    to: Elements<'_>,
) -> Result<(), Error> {
    let kernel = if to.dtype() == DType::F16 { "decoder_gated_f16" } else { "decoder_gated_bf16" };
    let [width_, from_row, to_row] = [width, from_row, to_row].map(|n| n as i32);
    let gate = i32::from(gate == Gate::GeluTanh);
    let pointers = [from.pointer(), to.pointer()];
    let arguments = arguments![width_, from_row, to_row, gate, pointers[0], pointers[1]];
    let grid = Grid { blocks: [tokens, width.div_ceil(8 * 256), 1], threads: 256, shared: 0 };
    // SAFETY: the kernel takes these types; the caller has checked that both lie in their memory, aligned to 16 bytes.
    unsafe { gpu.launch_early(kernel, grid, arguments, &|| format!("{tokens} x {width}")) }
}
