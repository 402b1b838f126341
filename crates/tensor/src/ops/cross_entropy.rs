//! Cross-entropy, alone and fused with the linear layer before it.

use super::{linear, scale, softmax};
use crate::autograd::{is_recording, no_grad, record};
use crate::error::refuse;
use crate::ops::{Activation, add, linear_backward_input, linear_backward_weight};
use crate::{Error, Tensor};

/// Rows of logits that exist at a time.
const ROWS: usize = 256;

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
        let (y, grad) = crate::cuda::cross_entropy(gpu, &logits.detach(), targets, 1.0 / counted as f32)?;
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
    let wanted = is_recording(&[x, weight]);
    let (flat_x, flat_weight) = (x.detach(), weight.detach());
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return on_gpu(gpu, x, weight, targets, counted);
    }
    let (mut loss, mut of_weight, mut of_x) = (0.0, None, Vec::new());
    no_grad(|| {
        for (i, targets) in targets.chunks(ROWS).enumerate() {
            let part = flat_x.narrow(0, i * ROWS, targets.len())?;
            let (part_loss, grad) = chunk(&linear(&part, &flat_weight, None, Activation::Identity)?, targets, counted)?;
            loss += part_loss;
            if wanted {
                of_x.push(linear_backward_input(&grad, &flat_weight)?);
                let grad = linear_backward_weight(&grad, &part)?;
                of_weight = Some(match of_weight.take() {
                    Some(sum) => add(&sum, &grad)?,
                    None => grad,
                });
            }
        }
        Ok::<(), Error>(())
    })?;
    let y = Tensor::from_slice(x.device(), &[loss as f32], &[])?;
    if !wanted {
        return Ok(y);
    }
    let of_x = super::concat(&of_x.iter().collect::<Vec<_>>(), 0)?;
    Ok(record(OP, y, &[x, weight], move || {
        move |up, _| {
            let up = up.to_vec::<f32>()?[0];
            let of_weight = of_weight.as_ref().map(|grad| scale(grad, up)).transpose()?;
            Ok(vec![Some(scale(&of_x, up)?), of_weight])
        }
    }))
}

/// [`linear_cross_entropy`] on a GPU, where nothing waits for a value. Some more rows of logits keep it busy.
#[cfg(feature = "cuda")]
fn on_gpu(
    gpu: &supple_cuda::Gpu,
    x: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    counted: usize,
) -> Result<Tensor, Error> {
    const OP: &str = "linear_cross_entropy";
    const ROWS: usize = 2048;
    let wanted = is_recording(&[x, weight]);
    let (flat_x, flat_weight) = (x.detach(), weight.detach());
    let (mut loss, mut of_weight, mut of_x): (Option<Tensor>, Option<Tensor>, Vec<Tensor>) = (None, None, Vec::new());
    let plus = |sum: Option<Tensor>, part: Tensor| match sum {
        Some(sum) => add(&sum, &part),
        None => Ok(part),
    };
    for (i, targets) in targets.chunks(ROWS).enumerate() {
        let part = flat_x.narrow(0, i * ROWS, targets.len())?;
        let logits = linear(&part, &flat_weight, None, Activation::Identity)?;
        let (part_loss, grad) = crate::cuda::cross_entropy(gpu, &logits, targets, 1.0 / counted as f32)?;
        loss = Some(plus(loss, part_loss)?);
        if wanted {
            of_x.push(linear_backward_input(&grad, &flat_weight)?);
            of_weight = Some(plus(of_weight, linear_backward_weight(&grad, &part)?)?);
        }
    }
    let (Some(y), Some(of_weight)) = (loss.clone(), of_weight) else {
        return loss.map_or_else(|| refuse!(OP, "no rows"), Ok);
    };
    let of_x = super::concat(&of_x.iter().collect::<Vec<_>>(), 0)?;
    Ok(record(OP, y, &[x, weight], || {
        let dtype = weight.dtype();
        move |up, _| Ok(vec![Some(times(&of_x, up)?), Some(times(&of_weight, up)?.to_dtype(dtype)?)])
    }))
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
fn chunk(logits: &Tensor, targets: &[u32], counted: usize) -> Result<(f64, Tensor), Error> {
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
