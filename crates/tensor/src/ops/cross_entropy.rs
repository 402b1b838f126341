//! Cross-entropy, alone and fused with the linear layer before it.

use super::{linear_cross_entropy_sum, scale, softmax};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};

/// Targets of this value do not count, as in PyTorch with `ignore_index = -100` read as `u32`.
pub const IGNORED: u32 = u32::MAX;

/// The mean of `-log softmax(logits)[target]` over rows whose target counts, for `logits` of `[rows, classes]`.
///
/// # Errors
/// If the number of targets is not that of rows, or a target is no class.
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor, Error> {
    const OP: &str = "cross_entropy";
    let &[rows, classes] = &**logits.shape() else {
        return refuse!(OP, "wants logits [rows, classes], got shape {:?}", logits.shape());
    };
    let counted = check(OP, targets, rows, classes)?;
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = logits.device() {
        let targets = Tensor::from_slice(logits.device(), targets, &[targets.len()])?;
        let (y, grad) = crate::cuda::cross_entropy(gpu, &logits.detach(), &targets, 1.0 / counted as f32)?;
        return Ok(record(OP, y, &[logits], move || move |up, _| Ok(vec![Some(times(&grad, up)?)])));
    }
    let (loss, grad) = chunk(&logits.detach(), targets, counted)?;
    let y = Tensor::from_slice(logits.device(), &[loss as f32], &[])?;
    Ok(record(OP, y, &[logits], move || move |up, _| Ok(vec![Some(scale(&grad, up.to_vec::<f32>()?[0])?)])))
}

/// A gradient times that of the loss, a tensor of one element.
#[cfg(feature = "cuda")]
fn times(grad: &Tensor, up: &Tensor) -> Result<Tensor, Error> {
    super::mul(grad, &up.to_dtype(grad.dtype())?)
}

/// [`cross_entropy`] of `x · weightᵀ` for `x` of `[rows, inputs]` and `weight` of `[classes, inputs]`. Logits of a few hundred rows
/// exist at a time and gradients are made on the way, so that memory does not grow with rows times classes. (Source: Hsu et
/// al., "Liger Kernel", arXiv 2410.10989.)
///
/// # Errors
/// As [`cross_entropy`], or if `x` and `weight` do not fit each other.
pub fn linear_cross_entropy(x: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor, Error> {
    const OP: &str = "linear_cross_entropy";
    let (&[rows, _], &[classes, _]) = (&**x.shape(), &**weight.shape()) else {
        return refuse!(OP, "wants [rows, inputs] and [classes, inputs], got {:?} and {:?}", x.shape(), weight.shape());
    };
    let counted = check(OP, targets, rows, classes)?;
    let targets = Tensor::from_slice(x.device(), targets, &[targets.len()])?;
    scale(&linear_cross_entropy_sum(x, weight, &targets, None)?, 1.0 / counted as f32)
}

/// How many targets count.
fn check(op: &'static str, targets: &[u32], rows: usize, classes: usize) -> Result<usize, Error> {
    let bad = targets.iter().find(|&&target| target != IGNORED && target as usize >= classes);
    let counted = targets.iter().filter(|&&target| target != IGNORED).count();
    match bad {
        Some(bad) => refuse!(op, "target {bad} is none of {classes} classes"),
        None if targets.len() != rows => refuse!(op, "{} targets for {rows} rows", targets.len()),
        None if counted == 0 => refuse!(op, "no target counts"),
        None => Ok(counted),
    }
}

/// The loss of some rows, divided by `counted`, and its gradient with respect to their logits.
pub(super) fn chunk(logits: &Tensor, targets: &[u32], counted: usize) -> Result<(f64, Tensor), Error> {
    let classes = logits.shape()[1];
    let mut grad = softmax(logits)?.contiguous()?;
    let scores = logits.to_vec::<f32>()?;
    let (mut loss, factor) = (0.0, 1.0 / counted as f32);
    let rows = grad.as_mut_slice::<f32>()?.chunks_exact_mut(classes).zip(scores.chunks_exact(classes));
    for ((row, scores), &target) in rows.zip(targets) {
        if target == IGNORED {
            row.fill(0.0);
            continue;
        }
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = scores.iter().map(|&s| f64::from(s - largest).exp()).sum();
        loss += sum.ln() - f64::from(scores[target as usize] - largest);
        row[target as usize] -= 1.0;
        row.iter_mut().for_each(|v| *v *= factor);
    }
    Ok((loss / counted as f64, grad))
}
