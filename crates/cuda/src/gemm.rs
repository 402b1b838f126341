//! Products of matrices: cuBLASLt where it is, kernels of our own elsewhere.
//!
//! Everything is row-major. Sums are in f32; f32 products are that, and not TF32. Which of cuBLASLt's algorithms is taken depends on
//! shapes and alignment alone, so that results are the same from run to run.

use crate::blas::{Kind, Product};
use crate::elementwise::{Activation, Binary, is_float};
use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::tensor_map::TensorMap;
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// A batch of matrices with rows of adjacent elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrices<'a> {
    /// Their elements.
    pub elements: Elements<'a>,
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one matrix to the next; 0 repeats one.
    pub batch: usize,
    /// Whether the product takes each turned: columns for rows.
    pub turned: bool,
}

impl<'a> Matrices<'a> {
    /// Matrices of `rows × columns` that lie without gaps.
    pub fn dense(elements: Elements<'a>, [rows, columns]: [usize; 2]) -> Matrices<'a> {
        Matrices { elements, row: columns, batch: rows.saturating_mul(columns), turned: false }
    }

    /// As they are, each turned in the product.
    pub fn turn(self) -> Matrices<'a> {
        Matrices { turned: !self.turned, ..self }
    }

    /// Elements from the first to the last of `batch` matrices that are `rows × columns` in the product; `None` on overflow.
    fn extent(&self, batch: usize, [rows, columns]: [usize; 2]) -> Option<usize> {
        let [rows, columns] = if self.turned { [columns, rows] } else { [rows, columns] };
        if batch == 0 || rows == 0 || columns == 0 {
            return Some(0);
        }
        let matrix = (rows - 1).checked_mul(self.row)?.checked_add(columns)?;
        (batch - 1).checked_mul(self.batch)?.checked_add(matrix)
    }

    fn check(&self, what: &str, batch: usize, shape: [usize; 2]) -> Result<(), Error> {
        self.elements.check(KERNEL, what, self.extent(batch, shape))?;
        let [rows, columns] = if self.turned { [shape[1], shape[0]] } else { shape };
        if rows > 1 && self.row < columns {
            return refuse!(KERNEL, "rows of {what} overlap: {columns} elements, {} apart", self.row);
        }
        Ok(())
    }
}

const KERNEL: &str = "gemm";

/// What happens to a product before it is stored: `activation(product + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct After<'a> {
    /// As many as columns, of the matrices' type.
    pub bias: Option<Elements<'a>>,
    /// Applied to the sum.
    pub activation: Activation,
    /// As large as the result, and not turned; the result itself may be it where there is no activation.
    pub residual: Option<Matrices<'a>>,
}

impl After<'_> {
    /// Nothing.
    pub const NONE: After<'static> = After { bias: None, activation: Activation::Identity, residual: None };
}

/// Which kernels compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The fastest that there is.
    Best,
    /// cuBLASLt's; an error where that is not there.
    Library,
    /// Our own on Hopper's tensor cores; an error elsewhere, for f32, and where not all rows are aligned to 16 bytes.
    Hopper,
    /// Our own on tensor cores; an error for f32 and for rows of operands that are not aligned to 16 bytes.
    TensorCores,
    /// Our own without tensor cores.
    Plain,
}

/// [`Matrices`] and sizes as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    m: i32,
    k: i32,
    n: i32,
    slope: f32,
    a_turned: i32,
    b_turned: i32,
    a_row: i64,
    b_row: i64,
    d_row: i64,
    residual_row: i64,
    a_batch: i64,
    b_batch: i64,
    d_batch: i64,
    residual_batch: i64,
}

/// `d[i] = activation(a[i] · b[i] + bias) + residual[i]` for `batch` pairs of matrices, `m × k` and `k × n` in the product, of one
/// floating-point type. `d` is not turned.
///
/// # Errors
/// If types differ or are no floats, something does not lie within its memory, or `way` cannot.
pub fn gemm(
    gpu: &Gpu,
    way: Way,
    [batch, m, k, n]: [usize; 4],
    a: Matrices<'_>,
    b: Matrices<'_>,
    after: After<'_>,
    d: (ElementsMut<'_>, usize, usize),
) -> Result<(), Error> {
    let dtype = a.elements.dtype();
    let (out, d_row, d_batch) = d;
    let target = Matrices { elements: out.0, row: d_row, batch: d_batch, turned: false };
    let same = |elements: &Elements<'_>| elements.dtype() == dtype;
    let residual = after.residual;
    if !is_float(dtype)
        || !same(&b.elements)
        || !same(&out.0)
        || after.bias.is_some_and(|bias| !same(&bias))
        || residual.is_some_and(|r| !same(&r.elements) || r.turned)
    {
        return refuse!(KERNEL, "wants operands of one floating-point type, and a residual that is not turned");
    }
    a.check("the left operand", batch, [m, k])?;
    b.check("the right operand", batch, [k, n])?;
    target.check("the result", batch, [m, n])?;
    if batch > 1 && target.extent(1, [m, n]).is_some_and(|matrix| d_batch < matrix) {
        return refuse!(KERNEL, "matrices of the result overlap");
    }
    if let Some(bias) = after.bias {
        bias.check(KERNEL, "the bias", Some(n))?;
    }
    if let Some(residual) = residual {
        residual.check("the residual", batch, [m, n])?;
    }
    if after.activation != Activation::Identity && residual.is_some_and(|r| r.elements.pointer() == out.0.pointer()) {
        return refuse!(KERNEL, "the residual is the result, which an activation comes before");
    }
    if [m, k, n].iter().any(|&side| side > i32::MAX as usize / 2) {
        return refuse!(KERNEL, "{m} x {k} x {n} is too large");
    }
    if batch == 0 || m == 0 || n == 0 {
        return Ok(());
    }
    let aligned = |matrix: &Matrices<'_>| {
        let whole = 16 / dtype.size();
        matrix.elements.is_aligned(16) && matrix.row.is_multiple_of(whole) && matrix.batch.is_multiple_of(whole)
    };
    let tensor_cores = dtype != DType::F32 && aligned(&a) && aligned(&b);
    let hopper = gpu.capability() == (9, 0) && tensor_cores && aligned(&target) && k > 0;
    let library = match way {
        Way::Best if k > 0 => gpu.blas(),
        Way::Library => match gpu.blas() {
            Some(blas) => Some(blas),
            None => return refuse!(KERNEL, "cuBLASLt could not be opened"),
        },
        Way::TensorCores if !tensor_cores => {
            return refuse!(KERNEL, "{dtype:?}, or rows that are not aligned to 16 bytes");
        }
        Way::Hopper if !hopper => {
            return refuse!(KERNEL, "another GPU than Hopper, {dtype:?}, or rows that are not aligned to 16 bytes");
        }
        _ => None,
    };
    if let Some(blas) = library {
        // cuBLASLt's GELU is the approximation by tanh, which ours is not, and its residual comes before the activation.
        let fused = matches!(after.activation, Activation::Identity | Activation::Relu);
        let late = residual.filter(|_| after.activation != Activation::Identity);
        let product = Product {
            kind: Kind::Float(dtype),
            batch,
            sizes: [m, k, n],
            a,
            b,
            bias: after.bias,
            relu: after.activation == Activation::Relu,
            residual: residual.filter(|_| late.is_none()),
            d: target,
            scales: None,
        };
        if blas.run(gpu, &product)? {
            if !fused {
                activate(gpu, after.activation, batch, [m, n], &target)?;
            }
            return match late {
                Some(residual) => add(gpu, batch, [m, n], &target, &residual),
                None => Ok(()),
            };
        }
        if way == Way::Library {
            return refuse!(KERNEL, "cuBLASLt has no algorithm for {batch} x {m} x {k} x {n} of {dtype:?}");
        }
    }
    // What kernels do as they store: activations that are a slope, and then the residual.
    let slope = match after.activation {
        Activation::Identity => Some(1.0),
        Activation::Relu => Some(0.0),
        Activation::LeakyRelu(slope) => Some(slope),
        _ => None,
    };
    let Some(slope) = slope else {
        let plain = After { activation: Activation::Identity, residual: None, ..after };
        gemm(gpu, way, [batch, m, k, n], a, b, plain, d)?;
        activate(gpu, after.activation, batch, [m, n], &target)?;
        return residual.map_or(Ok(()), |residual| add(gpu, batch, [m, n], &target, &residual));
    };
    let raw = Raw {
        m: m as i32,
        k: k as i32,
        n: n as i32,
        slope,
        a_turned: i32::from(a.turned),
        b_turned: i32::from(b.turned),
        a_row: a.row as i64,
        b_row: b.row as i64,
        d_row: d_row as i64,
        residual_row: residual.map_or(0, |r| r.row as i64),
        a_batch: a.batch as i64,
        b_batch: b.batch as i64,
        d_batch: d_batch as i64,
        residual_batch: residual.map_or(0, |r| r.batch as i64),
    };
    let large = m >= 128 && n >= 128;
    let pick = |names: [&'static str; 8]| {
        names[4 * usize::from(dtype == DType::BF16) + 2 * usize::from(a.turned) + usize::from(b.turned)]
    };
    if way == Way::Hopper || (way == Way::Best && hopper && large) {
        let kernel = pick([
            "gemm_hopper_nn_f16",
            "gemm_hopper_nt_f16",
            "gemm_hopper_tn_f16",
            "gemm_hopper_tt_f16",
            "gemm_hopper_nn_bf16",
            "gemm_hopper_nt_bf16",
            "gemm_hopper_tn_bf16",
            "gemm_hopper_tt_bf16",
        ]);
        return on_hopper(gpu, kernel, [batch, m, k, n], raw, [a, b], after, out);
    }
    let (kernel, grid) = if tensor_cores && way != Way::Plain {
        let name = pick([
            "gemm_nn_f16",
            "gemm_nt_f16",
            "gemm_tn_f16",
            "gemm_tt_f16",
            "gemm_nn_bf16",
            "gemm_nt_bf16",
            "gemm_tn_bf16",
            "gemm_tt_bf16",
        ]);
        (name, Grid { blocks: [m.div_ceil(128) * n.div_ceil(128), 1, 1], threads: 128, shared: 4 * 2 * 128 * 32 * 2 })
    } else if dtype == DType::F32 && large {
        ("matmul_large_f32", Grid { blocks: [m.div_ceil(128), n.div_ceil(128), 1], threads: 256, shared: 0 })
    } else {
        let Some(kernel) = variant!(dtype, "matmul") else { return refuse!(KERNEL, "wants floats, got {dtype:?}") };
        (kernel, Grid { blocks: [m.div_ceil(64), n.div_ceil(64), 1], threads: 256, shared: 0 })
    };
    let pointer = |elements: Option<Elements<'_>>| elements.map_or(0, |elements| elements.pointer());
    let from = [a.elements, b.elements].map(|elements| elements.pointer());
    let [bias, rest] = [pointer(after.bias), pointer(residual.map(|r| r.elements))];
    let size = dtype.size() as u64;
    // Batches beyond the grid's limit go in parts.
    for first in (0..batch).step_by(65535) {
        let grid = Grid { blocks: [grid.blocks[0], grid.blocks[1], (batch - first).min(65535)], ..grid };
        let skip = |steps: usize| (first * steps) as u64 * size;
        let rest = if rest == 0 { 0 } else { rest + skip(residual.map_or(0, |r| r.batch)) };
        let (a, b, d) = (from[0] + skip(a.batch), from[1] + skip(b.batch), out.0.pointer() + skip(d_batch));
        // SAFETY: the kernel takes these types; all operands were checked to lie in their memory, and are aligned where it matters.
        unsafe {
            gpu.launch(kernel, grid, arguments![raw, a, b, bias, rest, d], &|| format!("{batch} x {m} x {k} x {n}"))?;
        }
    }
    Ok(())
}

/// `d = a · b` with sums and results in f32, for 16-bit operands `m × k` and `k × n` in the product and `d` without gaps, by
/// cuBLASLt; `false`, and nothing done, where that is not there or has no algorithm for it.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn gemm_wide(
    gpu: &Gpu,
    [m, k, n]: [usize; 3],
    a: Matrices<'_>,
    b: Matrices<'_>,
    d: ElementsMut<'_>,
) -> Result<bool, Error> {
    const KERNEL: &str = "gemm_wide";
    let dtype = a.elements.dtype();
    if !matches!(dtype, DType::F16 | DType::BF16) || b.elements.dtype() != dtype || d.0.dtype() != DType::F32 {
        return refuse!(KERNEL, "wants two matrices of one 16-bit type, and f32");
    }
    let target = Matrices::dense(d.0, [m, n]);
    a.check("the left operand", 1, [m, k])?;
    b.check("the right operand", 1, [k, n])?;
    target.check("the result", 1, [m, n])?;
    if m == 0 || n == 0 || k == 0 {
        return Ok(false);
    }
    let Some(blas) = gpu.blas() else { return Ok(false) };
    let (kind, sizes) = (Kind::Wide(dtype), [m, k, n]);
    let product =
        Product { kind, batch: 1, sizes, a, b, bias: None, relu: false, residual: None, d: target, scales: None };
    blas.run(gpu, &product)
}

/// Rows and columns that a block of Hopper's kernels makes, what it takes of k at a time, and how many tiles wait.
const HOPPER_ROWS: usize = 128;
const HOPPER_COLUMNS: usize = 256;
const HOPPER_DEPTH: usize = 64;
const HOPPER_STAGES: usize = 4;

/// [`gemm`] with kernels of Hopper's; the caller checked everything.
fn on_hopper(
    gpu: &Gpu,
    kernel: &'static str,
    [batch, m, k, n]: [usize; 4],
    raw: Raw,
    operands: [Matrices<'_>; 2],
    after: After<'_>,
    d: ElementsMut<'_>,
) -> Result<(), Error> {
    let residual = after.residual;
    let pointer = |elements: Option<Elements<'_>>| elements.map_or(0, |elements| elements.pointer());
    let (bias, size) = (pointer(after.bias), d.0.dtype().size() as u64);
    let shared = 1024 + HOPPER_STAGES * ((HOPPER_ROWS + HOPPER_COLUMNS) * HOPPER_DEPTH * 2 + 16);
    // Batches beyond the grid's limit go in parts.
    for first in (0..batch).step_by(65535) {
        let count = (batch - first).min(65535);
        let map = |i: usize| {
            let matrix = &operands[i];
            // The side that is not k, and how much of it a box has.
            let (side, rows) = if i == 0 { (m, HOPPER_ROWS) } else { (n, HOPPER_COLUMNS) };
            let along_k = matrix.turned == (i == 1);
            let (inner, outer) = if along_k { (k, side) } else { (side, k) };
            let planes = if matrix.batch == 0 { 1 } else { count };
            let rows = if along_k { rows } else { HOPPER_DEPTH };
            let elements = matrix.elements.skip(first * matrix.batch);
            TensorMap::new(KERNEL, elements, [inner, outer, planes, 1], [matrix.row, matrix.batch, 0], (1, rows))
        };
        let maps = [map(0)?, map(1)?];
        let at = |elements: Elements<'_>, step: usize| elements.pointer() + (first * step) as u64 * size;
        let rest = residual.map_or(0, |r| at(r.elements, r.batch));
        let to = at(d.0, raw.d_batch as usize);
        let blocks = [m.div_ceil(HOPPER_ROWS) * n.div_ceil(HOPPER_COLUMNS), 1, count];
        let grid = Grid { blocks, threads: 384, shared };
        // SAFETY: the kernel takes these types; all operands were checked to lie in their memory, aligned to 16 bytes.
        unsafe {
            gpu.launch(kernel, grid, arguments![raw, maps[0], maps[1], bias, rest, to], &|| {
                format!("{batch} x {m} x {k} x {n}")
            })?;
        }
    }
    Ok(())
}

/// Applies an activation to matrices where they lie.
fn activate(
    gpu: &Gpu,
    activation: Activation,
    batch: usize,
    [m, n]: [usize; 2],
    d: &Matrices<'_>,
) -> Result<(), Error> {
    each_plane(batch, [m, n], d, &mut |shape, at| {
        let part = d.elements.skip(at * d.batch);
        crate::elementwise::unary(gpu, activation, 1.0, shape, (part, d.row), (ElementsMut(part), d.row))
    })
}

/// Adds a residual to matrices where they lie.
fn add(gpu: &Gpu, batch: usize, [m, n]: [usize; 2], d: &Matrices<'_>, residual: &Matrices<'_>) -> Result<(), Error> {
    let mut plane = |shape, at: usize| {
        let (part, rest) = (d.elements.skip(at * d.batch), residual.elements.skip(at * residual.batch));
        let to = (ElementsMut(part), d.row);
        crate::elementwise::binary(gpu, Binary::Add, shape, (part, d.row), (rest, residual.row), to)
    };
    if residual.batch == m * residual.row {
        return each_plane(batch, [m, n], d, &mut plane);
    }
    (0..batch).try_for_each(|at| plane([m, n], at))
}

/// Calls `work` with shapes and numbers of first matrices: once for all where matrices follow each other, else for each.
fn each_plane(
    batch: usize,
    [m, n]: [usize; 2],
    d: &Matrices<'_>,
    work: &mut dyn FnMut([usize; 2], usize) -> Result<(), Error>,
) -> Result<(), Error> {
    if batch == 1 || d.batch == m * d.row {
        return work([batch * m, n], 0);
    }
    (0..batch).try_for_each(|at| work([m, n], at))
}
