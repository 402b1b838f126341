//! A soft cap, `cap · tanh(x / cap)`, and its slope.

use super::{mul, scale, sigmoid, tanh};
use crate::autograd::{no_grad, record};
use crate::{Error, Tensor};

/// `cap · tanh(x / cap)`: `x` where it is small, and never beyond `cap`.
///
/// # Errors
/// If the elements are not `f32`.
pub fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor, Error> {
    let y = no_grad(|| scale(&tanh(&scale(x, 1.0 / cap)?)?, cap))?;
    Ok(record("soft_cap", y, &[x], || {
        let x = x.detach();
        move |grad, _| Ok(vec![Some(mul(grad, &slope(&x, cap)?)?)])
    }))
}

/// `1 - tanh²(x / cap)` as `4 σ(2x / cap) σ(-2x / cap)`, which keeps its digits where the cap is all but reached.
pub(super) fn slope(x: &Tensor, cap: f32) -> Result<Tensor, Error> {
    let [below, above] = [2.0, -2.0].map(|factor| sigmoid(&scale(x, factor / cap)?));
    scale(&mul(&below?, &above?)?, 4.0)
}
