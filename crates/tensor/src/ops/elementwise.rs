//! Sums, products, quotients, multiples and simple functions, element by element.
//!
//! Shapes are matched from the last dimension; dimensions of size 1, or missing ones, repeat. A value per channel
//! (`[c]`, `[1, 1, 1, c]`) and operands of equal shape are taken where they lie; other repetitions are copied out first.

use super::sum_to;
use super::{is_padded, output, same_device};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Dims, Error, MAX_RANK, Tensor};
use supple_kernels::elementwise::{self, Binary};
use supple_kernels::unary::{self as kernel, Unary};

/// `a + b`.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let y = binary("add", Binary::Add, a, b)?;
    Ok(record("add", y, &[a, b], || {
        let shapes = [*a.shape(), *b.shape()];
        move |grad, needed| each([0, 1], needed, |i| sum_to(grad, &shapes[i]))
    }))
}

/// `a - b`.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn sub(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let y = binary("sub", Binary::Sub, a, b)?;
    Ok(record("sub", y, &[a, b], || {
        let shapes = [*a.shape(), *b.shape()];
        move |grad, needed| {
            each([0, 1], needed, |i| {
                let grad = sum_to(grad, &shapes[i])?;
                if i == 0 { Ok(grad) } else { scale(&grad, -1.0) }
            })
        }
    }))
}

/// `a * b`, element by element.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let y = binary("mul", Binary::Mul, a, b)?;
    Ok(record("mul", y, &[a, b], || {
        let factors = [b.detach(), a.detach()];
        move |grad, needed| each([0, 1], needed, |i| sum_to(&mul(grad, &factors[i])?, factors[1 - i].shape()))
    }))
}

/// `a / b`, element by element.
///
/// # Errors
/// If the shapes do not repeat to each other or the elements are not `f32`.
pub fn div(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let y = binary("div", Binary::Div, a, b)?;
    let quotient = y.detach();
    Ok(record("div", y, &[a, b], move || {
        let (a_shape, b) = (*a.shape(), b.detach());
        move |grad, needed| {
            let of_a = div(grad, &b)?;
            each([0, 1], needed, |i| match i {
                0 => sum_to(&of_a, &a_shape),
                _ => scale(&sum_to(&mul(&of_a, &quotient)?, b.shape())?, -1.0),
            })
        }
    }))
}

/// Gradients of those inputs that need one.
fn each(
    inputs: [usize; 2],
    needed: &[bool],
    gradient: impl Fn(usize) -> Result<Tensor, Error>,
) -> Result<Vec<Option<Tensor>>, Error> {
    inputs.into_iter().map(|i| needed[i].then(|| gradient(i)).transpose()).collect()
}

/// `x * factor`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor, Error> {
    let y = multiple(x, factor)?;
    Ok(record("scale", y, &[x], || move |grad, _| Ok(vec![Some(scale(grad, factor)?)])))
}

fn multiple(x: &Tensor, factor: f32) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::unary(gpu, "scale", super::Activation::Identity, factor, x);
    }
    let (from, rows) = x.to_rows("scale")?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    let cpu = x.device().kernels();
    elementwise::scale(cpu, factor, rows.rows, rows.len, from.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}

/// `x + term`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn add_scalar(x: &Tensor, term: f32) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let y = crate::cuda::function(gpu, "add_scalar", supple_cuda::elementwise::Function::Add(term), x)?;
        return Ok(record("add_scalar", y, &[x], || |grad: &Tensor, _: &[bool]| Ok(vec![Some(grad.clone())])));
    }
    add(x, &Tensor::from_slice(x.device(), &[term], &[1])?)
}

/// `|x|`; at zero the gradient is zero.
///
/// # Errors
/// If the elements are not `f32`.
pub fn abs(x: &Tensor) -> Result<Tensor, Error> {
    let y = unary("abs", Unary::Abs, x)?;
    Ok(record("abs", y, &[x], || {
        let x = x.detach();
        move |grad, _| Ok(vec![Some(mul(grad, &unary("abs", Unary::Sign, &x)?)?)])
    }))
}

/// `√x`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn sqrt(x: &Tensor) -> Result<Tensor, Error> {
    let y = unary("sqrt", Unary::Sqrt, x)?;
    let root = y.detach();
    Ok(record("sqrt", y, &[x], move || move |grad, _| Ok(vec![Some(scale(&div(grad, &root)?, 0.5)?)])))
}

/// `e^x`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn exp(x: &Tensor) -> Result<Tensor, Error> {
    let y = unary("exp", Unary::Exp, x)?;
    let saved = y.detach();
    Ok(record("exp", y, &[x], move || move |grad, _| Ok(vec![Some(mul(grad, &saved)?)])))
}

/// The natural logarithm.
///
/// # Errors
/// If the elements are not `f32`.
pub fn log(x: &Tensor) -> Result<Tensor, Error> {
    let y = unary("log", Unary::Log, x)?;
    Ok(record("log", y, &[x], || {
        let x = x.detach();
        move |grad, _| Ok(vec![Some(div(grad, &x)?)])
    }))
}

/// A function of one element, without gradient.
fn unary(op: &'static str, how: Unary, x: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        use supple_cuda::elementwise::Function;
        let how = match how {
            Unary::Abs => Function::Abs,
            Unary::Sign => Function::Sign,
            Unary::Sqrt => Function::Sqrt,
            Unary::Exp => Function::Exp,
            Unary::Log => Function::Log,
        };
        return crate::cuda::function(gpu, op, how, x);
    }
    let (x, rows) = x.to_rows(op)?;
    let (mut y, out) = output(x.device(), x.shape(), is_padded(&rows))?;
    let cpu = x.device().kernels();
    kernel::unary(cpu, how, rows.rows, rows.len, x.data(), rows.stride, y.write(), out.stride);
    Ok(y)
}

fn binary(op: &'static str, how: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    same_device(op, a.device(), b.device())?;
    let shape = common_shape(op, a.shape(), b.shape())?;
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = a.device() {
        let how = match how {
            Binary::Add => supple_cuda::elementwise::Binary::Add,
            Binary::Sub => supple_cuda::elementwise::Binary::Sub,
            Binary::Mul => supple_cuda::elementwise::Binary::Mul,
            Binary::Div => supple_cuda::elementwise::Binary::Div,
        };
        return crate::cuda::binary(gpu, op, how, &a.detach().broadcast_to(&shape)?, &b.detach().broadcast_to(&shape)?);
    }
    let (a, a_rows) = a.broadcast_to(&shape)?.to_rows(op)?;
    let (b, b_rows) = b.broadcast_to(&shape)?.to_rows(op)?;
    let (mut y, out) = output(a.device(), &shape, is_padded(&a_rows) || is_padded(&b_rows))?;
    elementwise::binary(
        a.device().kernels(),
        how,
        out.rows,
        out.len,
        a.data(),
        a_rows.stride,
        b.data(),
        b_rows.stride,
        y.write(),
        out.stride,
    );
    Ok(y)
}

/// The shape that both repeat to.
pub(super) fn common_shape(op: &'static str, a: &[usize], b: &[usize]) -> Result<Dims, Error> {
    let rank = a.len().max(b.len());
    let mut shape = [1; MAX_RANK];
    for d in 1..=rank {
        let side = |shape: &[usize]| shape.len().checked_sub(d).map_or(1, |i| shape[i]);
        shape[rank - d] = match (side(a), side(b)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return refuse!(op, "shapes {a:?} and {b:?} do not match"),
        };
    }
    Dims::new(&shape[..rank])
}
