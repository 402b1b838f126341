//! The cross-entropy of a linear layer's results, which never exist all at once.

use super::cross_entropy::{IGNORED, chunk};
use super::soft_cap::slope;
use super::{Activation, add, concat, linear, linear_backward_input, linear_backward_weight, mul, scale};
use crate::autograd::{is_recording, no_grad, record};
use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};

/// The sum of `-log softmax(cap(x · weightᵀ))[target]` over rows, for `x` of `[rows, inputs]`, `weight` of `[classes, inputs]` and
/// `targets` of `[rows]` (`u32`), of which those that are [`IGNORED`] do not count; `cap(l)` is
/// `soft_cap · tanh(l / soft_cap)`, or `l` if there is none. In f32.
///
/// Logits of some rows exist at a time and gradients are made on the way, so that memory does not grow with rows times classes,
/// and nothing waits for a GPU. (Source: Hsu et al., "Liger Kernel", arXiv 2410.10989.)
///
/// # Errors
/// If shapes or types do not fit each other, or a target is no class. A GPU does not wait to see that: the sum is NaN.
pub fn linear_cross_entropy_sum(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    soft_cap: Option<f32>,
) -> Result<Tensor, Error> {
    const OP: &str = "linear_cross_entropy";
    let (&[rows, _], &[classes, _]) = (&**x.shape(), &**weight.shape()) else {
        return refuse!(OP, "wants [rows, inputs] and [classes, inputs], got {:?} and {:?}", x.shape(), weight.shape());
    };
    targets.expect_dtype(OP, DType::U32)?;
    super::same_device(OP, x.device(), targets.device())?;
    if targets.shape()[..] != [rows] || rows == 0 {
        return refuse!(OP, "targets of shape {:?} for {rows} rows", targets.shape());
    }
    if soft_cap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
        return refuse!(OP, "logits capped at {soft_cap:?}");
    }
    let wanted = [is_recording(&[x]), is_recording(&[weight])];
    let parts = no_grad(|| parts(x, weight, targets, soft_cap, classes, wanted))?;
    let (of_x, of_weight) = (parts.of_x, parts.of_weight);
    Ok(record(OP, parts.loss, &[x, weight], || {
        let dtype = weight.gradient_dtype();
        move |up, _| {
            let of_x = of_x.as_ref().map(|grad| times(grad, up)).transpose()?;
            let of_weight = of_weight.as_ref().map(|grad| times(grad, up)?.to_dtype(dtype)).transpose()?;
            Ok(vec![of_x, of_weight])
        }
    }))
}

/// A gradient times that of the loss.
fn times(grad: &Tensor, up: &Tensor) -> Result<Tensor, Error> {
    match grad.device() {
        Device::Cpu(_) => scale(grad, up.to_vec::<f32>()?[0]),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => mul(grad, &up.to_dtype(grad.dtype())?),
    }
}

struct Parts {
    loss: Tensor,
    of_x: Option<Tensor>,
    of_weight: Option<Tensor>,
}

fn parts(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    soft_cap: Option<f32>,
    classes: usize,
    wanted: [bool; 2],
) -> Result<Parts, Error> {
    // Some more rows of logits keep a GPU busy.
    let step = if matches!(x.device(), Device::Cpu(_)) { 256 } else { 2048 };
    let (x, weight, rows) = (x.detach(), weight.detach(), x.shape()[0]);
    let (mut loss, mut of_weight, mut of_x): (Option<Tensor>, Option<Tensor>, Vec<Tensor>) = (None, None, Vec::new());
    let plus = |sum: Option<Tensor>, part: Tensor| match sum {
        Some(sum) => add(&sum, &part),
        None => Ok(part),
    };
    for first in (0..rows).step_by(step) {
        let len = step.min(rows - first);
        let (part, targets) = (x.narrow(0, first, len)?, targets.narrow(0, first, len)?);
        let raw = linear(&part, &weight, None, Activation::Identity)?;
        let logits = soft_cap.map_or_else(|| Ok(raw.clone()), |cap| super::soft_cap(&raw, cap))?;
        let (part_loss, mut grad) = of_logits(&logits, &targets, classes)?;
        loss = Some(plus(loss, part_loss)?);
        if wanted == [false; 2] {
            continue;
        }
        if let Some(cap) = soft_cap {
            grad = mul(&grad, &slope(&raw, cap)?)?;
        }
        if wanted[0] {
            of_x.push(linear_backward_input(&grad, &weight)?);
        }
        if wanted[1] {
            of_weight = Some(plus(of_weight, linear_backward_weight(&grad, &part)?)?);
        }
    }
    let Some(loss) = loss else { return refuse!("linear_cross_entropy", "no rows") };
    let of_x = (!of_x.is_empty()).then(|| concat(&of_x.iter().collect::<Vec<_>>(), 0)).transpose()?;
    Ok(Parts { loss, of_x, of_weight })
}

/// The summed loss of some rows, and its gradient with respect to their logits.
fn of_logits(logits: &Tensor, targets: &Tensor, classes: usize) -> Result<(Tensor, Tensor), Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = logits.device() {
        return crate::cuda::cross_entropy(gpu, logits, targets, 1.0);
    }
    let targets = targets.to_vec::<u32>()?;
    if let Some(bad) = targets.iter().find(|&&target| target != IGNORED && target as usize >= classes) {
        return refuse!("linear_cross_entropy", "target {bad} is none of {classes} classes");
    }
    let (loss, grad) = chunk(logits, &targets, 1)?;
    Ok((Tensor::from_slice(logits.device(), &[loss as f32], &[])?, grad))
}
