//! Attention and rotary positions, composed of other operators: every part knows its own gradient.

use super::{add, concat, matmul, mul, scale, softmax};
use crate::error::refuse;
use crate::{Error, Tensor};

/// `softmax(q · kᵀ / √d) · v` for `[.., queries, d]`, `[.., keys, d]` and `[.., keys, width]`. If `causal`, query `i` sees keys up to
/// `keys - queries + i` only, so that the last query sees all.
///
/// # Errors
/// If the shapes do not fit each other, or there are fewer keys than queries of a causal attention.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor, Error> {
    let (&[.., queries, d], &[.., keys, _]) = (&**q.shape(), &**k.shape()) else {
        return refuse!("attention", "wants [.., tokens, d], got {:?} and {:?}", q.shape(), k.shape());
    };
    let mut scores = scale(&matmul(q, &k.transpose(k.rank() - 2, k.rank() - 1)?)?, 1.0 / (d.max(1) as f32).sqrt())?;
    if causal {
        let Some(before) = keys.checked_sub(queries) else {
            return refuse!("attention", "{queries} causal queries and {keys} keys");
        };
        // Far below any score, and yet no infinity that could become NaN.
        let hidden = |at: usize| if at % keys > at / keys + before { -1e30 } else { 0.0f32 };
        let mask: Vec<f32> = (0..queries * keys).map(hidden).collect();
        scores = add(&scores, &Tensor::from_slice(q.device(), &mask, &[queries, keys])?.to_dtype(q.dtype())?)?;
    }
    matmul(&softmax(&scores)?, v)
}

/// Rotary position embedding in halves, as Llama has it: `x · cos + rotate(x) · sin`, where `rotate` takes `(a, b)` to `(-b, a)`,
/// for `x` of `[.., tokens, d]`, `cos` and `sin` of `[tokens, d]`. (Source: Su et al., arXiv 2104.09864.)
///
/// # Errors
/// If `d` is odd or the shapes do not fit each other.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, Error> {
    let Some((last, d)) = x.rank().checked_sub(1).map(|last| (last, x.shape()[last])).filter(|(_, d)| d % 2 == 0)
    else {
        return refuse!("rope", "wants an even number of features, got shape {:?}", x.shape());
    };
    let (a, b) = (x.narrow(last, 0, d / 2)?, x.narrow(last, d / 2, d / 2)?);
    let rotated = concat(&[&scale(&b, -1.0)?, &a], last)?;
    add(&mul(x, cos)?, &mul(&rotated, sin)?)
}
