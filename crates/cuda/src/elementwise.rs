//! Sums, products and activations, element by element, over rows.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Rows of adjacent elements: how many, how long, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub len: usize,
    /// Elements from one row to the next; 0 repeats one row (of what is read).
    pub stride: usize,
}

impl Rows {
    /// Elements from the first to the last, gaps included; `None` if that overflows.
    pub(crate) fn extent(&self) -> Option<usize> {
        if self.rows == 0 || self.len == 0 {
            return Some(0);
        }
        (self.rows - 1).checked_mul(self.stride)?.checked_add(self.len)
    }
}

/// How two elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// `a / (1 + e^-a) * b`: a gated linear unit's.
    SiluMul,
    /// `a / (1 + e^-b)`.
    Gate,
    /// `gelu(a) * b`, with the approximation of GELU by `tanh`.
    GeluTanhMul,
}

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `|x|`.
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// `√x`.
    Sqrt,
    /// `e^x`.
    Exp,
    /// The natural logarithm.
    Log,
    /// `x` plus a number.
    Add(f32),
}

/// What is applied to an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, else `slope * x`.
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x * Φ(x)`, with the error function.
    Gelu,
    /// `x / (1 + e^-x)`.
    Silu,
}

impl Activation {
    pub(crate) fn code(self) -> (i32, f32) {
        match self {
            Activation::Identity => (0, 0.0),
            Activation::Relu => (1, 0.0),
            Activation::LeakyRelu(slope) => (2, slope),
            Activation::Sigmoid => (3, 0.0),
            Activation::Tanh => (4, 0.0),
            Activation::Gelu => (5, 0.0),
            Activation::Silu => (6, 0.0),
        }
    }
}

/// `rows`, `len` and the strides of two operands and the result, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Layout {
    rows: i64,
    len: i64,
    a_stride: i64,
    b_stride: i64,
    out_stride: i64,
}

/// `out = how(a, b)`, or `factor` and an activation of `a` if there is no `b`: what both launchers share.
fn layout(
    kernel: &'static str,
    [rows, len]: [usize; 2],
    a: (Elements<'_>, usize),
    b: Option<(Elements<'_>, usize)>,
    out: (ElementsMut<'_>, usize),
) -> Result<(Layout, bool, Grid), Error> {
    let dtype = a.0.dtype();
    if out.0.0.dtype() != dtype || b.is_some_and(|b| b.0.dtype() != dtype) {
        return refuse!(kernel, "operands of different element types");
    }
    let extent = |stride| Rows { rows, len, stride }.extent();
    a.0.check(kernel, "the first operand", extent(a.1))?;
    if let Some(b) = b {
        b.0.check(kernel, "the second operand", extent(b.1))?;
    }
    out.0.0.check(kernel, "the result", extent(out.1))?;
    if rows > 1 && out.1 < len {
        return refuse!(kernel, "rows of {len} elements, {} apart, overlap", out.1);
    }
    let (b_stride, mut shape) = (b.map_or(a.1, |b| b.1), (rows, len));
    // Rows without gaps are one long row.
    if a.1 == len && b_stride == len && out.1 == len && rows > 0 {
        shape = (1, rows * len);
    }
    let per_access = 16 / dtype.size();
    let fits = |elements: Elements<'_>, stride: usize| {
        elements.is_aligned(16) && (shape.0 <= 1 || stride.is_multiple_of(per_access))
    };
    let wide = shape.1.is_multiple_of(per_access)
        && fits(a.0, a.1)
        && b.is_none_or(|b| fits(b.0, b.1))
        && fits(out.0.0, out.1);
    let layout = Layout {
        rows: shape.0 as i64,
        len: shape.1 as i64,
        a_stride: a.1 as i64,
        b_stride: b_stride as i64,
        out_stride: out.1 as i64,
    };
    Ok((layout, wide, Grid::flat(rows * len / if wide { per_access } else { 1 })))
}

/// `out = how(a, b)` for `rows` rows of `len` elements of one floating-point type. Each operand comes with its stride; one of
/// 0 repeats its first row.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn binary(
    gpu: &Gpu,
    how: Binary,
    shape: [usize; 2],
    a: (Elements<'_>, usize),
    b: (Elements<'_>, usize),
    out: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(a.0.dtype(), "binary") else {
        return refuse!("binary", "wants floats, got {:?}", a.0.dtype());
    };
    let (layout, wide, grid) = layout(kernel, shape, a, Some(b), out)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let (how, wide) = (how as i32, i32::from(wide));
    let pointers = [a.0.pointer(), b.0.pointer(), out.0.0.pointer()];
    let describe = || format!("{shape:?}");
    // SAFETY: the kernel takes these types; the rows were checked to lie in their memory, and access is aligned where it is wide.
    unsafe { gpu.launch(kernel, grid, arguments![how, wide, layout, pointers[0], pointers[1], pointers[2]], &describe) }
}

/// `out = activation(factor * x)` for `rows` rows of `len` elements of a floating-point type; operands come with their strides.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn unary(
    gpu: &Gpu,
    activation: Activation,
    factor: f32,
    shape: [usize; 2],
    x: (Elements<'_>, usize),
    out: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(x.0.dtype(), "unary") else {
        return refuse!("unary", "wants floats, got {:?}", x.0.dtype());
    };
    let (layout, wide, grid) = layout(kernel, shape, x, None, out)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let ((code, slope), wide) = (activation.code(), i32::from(wide));
    let pointers = [x.0.pointer(), out.0.0.pointer()];
    let describe = || format!("{activation:?} of {shape:?}");
    // SAFETY: the kernel takes these types; the rows were checked to lie in their memory, and access is aligned where it is wide.
    unsafe {
        gpu.launch(kernel, grid, arguments![code, slope, factor, wide, layout, pointers[0], pointers[1]], &describe)
    }
}

/// `out = function(x)` for `rows` rows of `len` elements of a floating-point type; operands come with their strides.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn function(
    gpu: &Gpu,
    function: Function,
    shape: [usize; 2],
    x: (Elements<'_>, usize),
    out: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(x.0.dtype(), "function") else {
        return refuse!("function", "wants floats, got {:?}", x.0.dtype());
    };
    let (layout, wide, grid) = layout(kernel, shape, x, None, out)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let (kind, value) = match function {
        Function::Abs => (0i32, 0.0f32),
        Function::Sign => (1, 0.0),
        Function::Sqrt => (2, 0.0),
        Function::Exp => (3, 0.0),
        Function::Log => (4, 0.0),
        Function::Add(value) => (5, value),
    };
    let (wide, pointers) = (i32::from(wide), [x.0.pointer(), out.0.0.pointer()]);
    let describe = || format!("{function:?} of {shape:?}");
    // SAFETY: the kernel takes these types; the rows were checked to lie in their memory, and access is aligned where it is wide.
    unsafe { gpu.launch(kernel, grid, arguments![kind, value, wide, layout, pointers[0], pointers[1]], &describe) }
}

/// `out = grad · activation'`, over rows as [`binary`]. `saved` is the activation's output; its input for a GELU, and for a leaky
/// ReLU whose slope is not positive.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn activation_backward(
    gpu: &Gpu,
    activation: Activation,
    shape: [usize; 2],
    grad: (Elements<'_>, usize),
    saved: (Elements<'_>, usize),
    out: (ElementsMut<'_>, usize),
) -> Result<(), Error> {
    let Some(kernel) = variant!(grad.0.dtype(), "activation_backward") else {
        return refuse!("activation_backward", "wants floats, got {:?}", grad.0.dtype());
    };
    let (layout, wide, grid) = layout(kernel, shape, grad, Some(saved), out)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let ((code, slope), wide) = (activation.code(), i32::from(wide));
    let pointers = [grad.0.pointer(), saved.0.pointer(), out.0.0.pointer()];
    let arguments = arguments![code, slope, wide, layout, pointers[0], pointers[1], pointers[2]];
    // SAFETY: as for `function`.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{activation:?} of {shape:?}")) }
}

/// Whether kernels take 16 bytes at a time of operands without gaps, which have one type and hold `elements` elements each, and the
/// grid for that; none if there is nothing to do.
fn alike(kernel: &'static str, elements: usize, operands: &[Elements<'_>]) -> Result<Option<(bool, Grid)>, Error> {
    let dtype = operands[0].dtype();
    for operand in operands {
        operand.check(kernel, "an operand", Some(elements))?;
        if operand.dtype() != dtype {
            return refuse!(kernel, "operands of different element types");
        }
    }
    if elements == 0 {
        return Ok(None);
    }
    let per_access = 16 / dtype.size();
    let wide = elements.is_multiple_of(per_access) && operands.iter().all(|operand| operand.is_aligned(16));
    Ok(Some((wide, Grid::flat(elements / if wide { per_access } else { 1 }))))
}

/// The gradients of [`Binary::Gate`]'s two operands, `x` and `mask`, for `elements` elements without gaps of a floating-point type.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn gate_backward(
    gpu: &Gpu,
    elements: usize,
    grad: Elements<'_>,
    [x, mask]: [Elements<'_>; 2],
    [of_x, of_mask]: [ElementsMut<'_>; 2],
) -> Result<(), Error> {
    let Some(kernel) = variant!(grad.dtype(), "gate_backward") else {
        return refuse!("gate_backward", "wants floats, got {:?}", grad.dtype());
    };
    let all = [grad, x, mask, of_x.0, of_mask.0];
    let Some((wide, grid)) = alike(kernel, elements, &all)? else { return Ok(()) };
    let (wide, count, pointers) = (i32::from(wide), elements as i64, all.map(|operand| operand.pointer()));
    let arguments = arguments![wide, count, pointers[0], pointers[1], pointers[2], pointers[3], pointers[4]];
    // SAFETY: the kernel takes these types; all operands were checked to hold so many elements.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{elements} elements")) }
}

/// The gradients of [`Binary::SiluMul`], or with `gelu` of [`Binary::GeluTanhMul`], of both operands, for `elements` elements
/// without gaps of a floating-point type.
///
/// # Errors
/// If the types differ or are no floats, or something does not lie within its memory.
pub fn gated_backward(
    gpu: &Gpu,
    gelu: bool,
    elements: usize,
    grad: Elements<'_>,
    [a, b]: [Elements<'_>; 2],
    [of_a, of_b]: [ElementsMut<'_>; 2],
) -> Result<(), Error> {
    let Some(kernel) = variant!(grad.dtype(), "gated_backward") else {
        return refuse!("gated_backward", "wants floats, got {:?}", grad.dtype());
    };
    let all = [grad, a, b, of_a.0, of_b.0];
    let Some((wide, grid)) = alike(kernel, elements, &all)? else { return Ok(()) };
    let (gelu, wide, count, to) = (i32::from(gelu), i32::from(wide), elements as i64, all.map(|o| o.pointer()));
    let arguments = arguments![gelu, wide, count, to[0], to[1], to[2], to[3], to[4]];
    // SAFETY: the kernel takes these types; all operands were checked to hold so many elements.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{elements} elements")) }
}

/// Writes `value` to the first `elements` elements.
///
/// # Errors
/// If they are not all there, or of a type that is no float.
pub fn fill(gpu: &Gpu, elements: usize, value: f32, to: ElementsMut<'_>) -> Result<(), Error> {
    let Some(kernel) = variant!(to.0.dtype(), "fill") else {
        return refuse!("fill", "wants floats, got {:?}", to.0.dtype());
    };
    to.0.check(kernel, "the result", Some(elements))?;
    if elements == 0 {
        return Ok(());
    }
    let (count, pointer) = (elements as i64, to.0.pointer());
    let arguments = arguments![count, value, pointer];
    // SAFETY: the kernel takes these types; the elements were checked to be there.
    unsafe { gpu.launch(kernel, Grid::flat(elements), arguments, &|| format!("{elements} elements")) }
}

/// Whether kernels compute with this type.
pub fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}
