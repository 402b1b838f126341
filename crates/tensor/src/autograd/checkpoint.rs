//! Trading computation for memory, and gradients for functions that have none.

use super::{PAUSED, no_grad, record, record_always, run_backward, with_recording};
use crate::error::refuse;
use crate::{Error, Tensor};

/// `f(inputs)`, of which nothing in between is kept: the backward pass runs `f` again. So a network of `n` such parts needs the
/// memory of one part and of `n` tensors between parts.
///
/// `f` must give the same each time; it may use other tensors that need gradients, such as weights. (Source: Chen et al.,
/// "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.)
///
/// # Errors
/// Those of `f`.
pub fn checkpoint<F>(inputs: &[&Tensor], f: F) -> Result<Tensor, Error>
where
    F: Fn(&[Tensor]) -> Result<Tensor, Error> + Send + Sync + 'static,
{
    let detached: Vec<Tensor> = inputs.iter().map(|x| x.detach()).collect();
    let y = no_grad(|| f(&detached))?;
    if PAUSED.get() {
        return Ok(y);
    }
    // Always: whether `f` holds on to tensors that need gradients cannot be seen from here.
    Ok(record_always(
        "checkpoint",
        y,
        inputs,
        Box::new(move |grad, needed, gradients| {
            let leaves: Vec<Tensor> =
                detached.iter().zip(needed).map(|(x, &needed)| if needed { x.variable() } else { x.clone() }).collect();
            let y = with_recording(true, || f(&leaves))?;
            let Some(node) = y.history() else { return Ok(vec![None; leaves.len()]) };
            let mut inner = run_backward(node, grad.clone())?;
            let of_inputs = leaves.iter().map(|leaf| inner.take(leaf)).collect();
            // What is left belongs to tensors that `f` holds on to.
            gradients.accumulate(inner)?;
            Ok(of_inputs)
        }),
    ))
}

/// The values of `y` with the gradient of `x`: what stands in for the slope of a function that has none or is flat, such as
/// rounding (`y = round(x)`). (Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
/// arXiv 1308.3432.)
///
/// # Errors
/// If the shapes differ.
pub fn straight_through(x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
    if x.shape() != y.shape() {
        return refuse!("straight_through", "shapes {:?} and {:?} differ", x.shape(), y.shape());
    }
    Ok(record("straight_through", y.detach(), &[x], || |grad: &Tensor, _: &[bool]| Ok(vec![Some(grad.clone())])))
}
