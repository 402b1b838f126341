//! Attention and rotary positions, composed of other operators: every part knows its own gradient.

use super::{add, concat, matmul, mul, scale, softmax};
use crate::error::refuse;
use crate::{Error, Tensor};

/// `softmax(q · kᵀ / √d) · v` for `[.., queries, d]`, `[.., keys, d]` and `[.., keys, width]`. If `causal`, query `i` sees keys up to
/// `keys - queries + i` only, so that the last query sees all. Of `[.., heads, tokens, d]`, each head of k and v may serve several
/// heads of q. On a GPU scores are not stored.
///
/// # Errors
/// If the shapes do not fit each other, or there are fewer keys than queries of a causal attention.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor, Error> {
    let (&[.., queries, d], &[.., keys, _]) = (&**q.shape(), &**k.shape()) else {
        return refuse!("attention", "wants [.., tokens, d], got {:?} and {:?}", q.shape(), k.shape());
    };
    if causal && keys < queries {
        return refuse!("attention", "{queries} causal queries and {keys} keys");
    }
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = q.device() {
        super::same_device("attention", q.device(), k.device())?;
        super::same_device("attention", q.device(), v.device())?;
        if let Some(y) = crate::cuda::attention(gpu, q, k, v, causal)? {
            return Ok(y);
        }
    }
    if let (&[ref outer @ .., q_heads, _, _], &[.., kv_heads, _, _]) = (&**q.shape(), &**k.shape())
        && q_heads != kv_heads
        && kv_heads > 1
        && q_heads.is_multiple_of(kv_heads)
        && k.rank() == q.rank()
        && v.rank() == q.rank()
    {
        // Heads that share keys make a dimension of their own.
        let split = |x: &Tensor, heads: [usize; 2]| x.reshape(&[outer, &heads, &x.shape()[x.rank() - 2..]].concat());
        let [k, v] = [k, v].map(|x| split(x, [kv_heads, 1]));
        let y = attention(&split(q, [kv_heads, q_heads / kv_heads])?, &k?, &v?, causal)?;
        let width = y.shape()[y.rank() - 1];
        return y.reshape(&[outer, &[q_heads, queries, width]].concat());
    }
    let mut scores = scale(&matmul(q, &k.transpose(k.rank() - 2, k.rank() - 1)?)?, 1.0 / (d.max(1) as f32).sqrt())?;
    if causal {
        let before = keys - queries;
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
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device()
        && !crate::autograd::is_recording(&[x, cos, sin])
        && [cos, sin].iter().all(|table| table.rank() == 2 && x.shape().ends_with(table.shape()))
    {
        super::same_device("rope", x.device(), cos.device())?;
        super::same_device("rope", x.device(), sin.device())?;
        return crate::cuda::rope(gpu, x, cos, sin);
    }
    let (a, b) = (x.narrow(last, 0, d / 2)?, x.narrow(last, d / 2, d / 2)?);
    let rotated = concat(&[&scale(&b, -1.0)?, &a], last)?;
    add(&mul(x, cos)?, &mul(&rotated, sin)?)
}
