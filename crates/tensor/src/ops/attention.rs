//! Attention and rotary positions, composed of other operators: every part knows its own gradient.

use super::{add, concat, matmul, mul, scale, soft_cap, softmax};
use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};

/// What becomes of scores before their softmax, beside their order in time.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// They are multiplied by this, which is more than 0.
    pub scale: f32,
    /// Then softly capped: `cap · tanh(score / cap)`. (Source: Gemma 2, arXiv 2408.00118.)
    pub soft_cap: Option<f32>,
    /// Then this is added, `[queries, keys]`: what [`window_mask`] makes, or one of the caller's own.
    pub mask: Option<&'a Tensor>,
}

/// `softmax(q · kᵀ / √d) · v` for `[.., queries, d]`, `[.., keys, d]` and `[.., keys, width]`. If `causal`, query `i` sees keys up to
/// `keys - queries + i` only, so that the last query sees all. Of `[.., heads, tokens, d]`, each head of k and v may serve several
/// heads of q. On a GPU scores are not stored.
///
/// # Errors
/// If the shapes do not fit each other, or there are fewer keys than queries of a causal attention.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor, Error> {
    let d = q.shape().last().copied().unwrap_or(1).max(1);
    attention_with(q, k, v, causal, Scores { scale: 1.0 / (d as f32).sqrt(), soft_cap: None, mask: None })
}

/// [`attention`] with scores of one's own. A GPU stores scores that are capped or masked, and those of f32 whose gradients are
/// wanted.
///
/// # Errors
/// As [`attention`], or if the scale is not above 0 or the mask does not fit.
pub fn attention_with(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool, how: Scores<'_>) -> Result<Tensor, Error> {
    const OP: &str = "attention";
    let (&[.., queries, _], &[.., keys, _]) = (&**q.shape(), &**k.shape()) else {
        return refuse!(OP, "wants [.., tokens, d], got {:?} and {:?}", q.shape(), k.shape());
    };
    if causal && keys < queries {
        return refuse!(OP, "{queries} causal queries and {keys} keys");
    }
    let bad_cap = how.soft_cap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0));
    if bad_cap || !(how.scale.is_finite() && how.scale > 0.0) {
        return refuse!(OP, "scores are multiplied by {} and capped at {:?}", how.scale, how.soft_cap);
    }
    if let Some(mask) = how.mask {
        super::same_device(OP, q.device(), mask.device())?;
        if mask.shape()[..] != [queries, keys] {
            return refuse!(OP, "a mask of {:?} for {queries} queries and {keys} keys", mask.shape());
        }
    }
    #[cfg(feature = "cuda")]
    if let (crate::Device::Cuda(gpu), None, None) = (q.device(), how.mask, how.soft_cap) {
        super::same_device(OP, q.device(), k.device())?;
        super::same_device(OP, q.device(), v.device())?;
        if let Some(y) = crate::cuda::attention(gpu, q, k, v, how.scale, causal)? {
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
        let y = attention_with(&split(q, [kv_heads, q_heads / kv_heads])?, &k?, &v?, causal, how)?;
        let width = y.shape()[y.rank() - 1];
        return y.reshape(&[outer, &[q_heads, queries, width]].concat());
    }
    let mut scores = scale(&matmul(q, &k.transpose(k.rank() - 2, k.rank() - 1)?)?, how.scale)?;
    if let Some(cap) = how.soft_cap {
        scores = soft_cap(&scores, cap)?;
    }
    if causal {
        scores = add(&scores, &window_mask(q.device(), q.dtype(), [queries, keys], None)?)?;
    }
    if let Some(mask) = how.mask {
        scores = add(&scores, &mask.to_dtype(q.dtype())?)?;
    }
    matmul(&softmax(&scores)?, v)
}

/// What hides from query `i` the keys after `keys - queries + i`, and with a window of `n` also those before the last `n` of the
/// rest: zeros, and numbers far below any score; `[queries, keys]` of type `dtype`.
///
/// # Errors
/// If there are fewer keys than queries, or it does not fit the memory.
pub fn window_mask(
    device: &Device,
    dtype: DType,
    [queries, keys]: [usize; 2],
    window: Option<usize>,
) -> Result<Tensor, Error> {
    let Some(before) = keys.checked_sub(queries) else {
        return refuse!("window_mask", "{queries} causal queries and {keys} keys");
    };
    let hides =
        |query: usize, key: usize| key > query + before || window.is_some_and(|window| key + window <= query + before);
    // Far below any score, and yet no infinity that could become NaN.
    let hidden = |at: usize| if hides(at / keys, at % keys) { -1e30 } else { 0.0f32 };
    let mask: Vec<f32> = (0..queries * keys).map(hidden).collect();
    Tensor::from_slice(device, &mask, &[queries, keys])?.to_dtype(dtype)
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
    if let Device::Cuda(gpu) = x.device()
        && !crate::autograd::is_recording(&[cos, sin])
        && [cos, sin].iter().all(|table| table.rank() == 2 && x.shape().ends_with(table.shape()))
    {
        super::same_device("rope", x.device(), cos.device())?;
        super::same_device("rope", x.device(), sin.device())?;
        let y = crate::cuda::rope(gpu, &x.detach(), 1, cos, sin)?;
        return Ok(crate::autograd::record("rope", y, &[x], || {
            let (gpu, cos, sin) = (gpu.clone(), cos.detach(), sin.detach());
            move |grad, _| {
                // Turned back: what came to each half with the sine of the other goes there with that sine.
                let back = concat(&[&sin.narrow(1, d / 2, d / 2)?, &sin.narrow(1, 0, d / 2)?], 1)?;
                Ok(vec![Some(crate::cuda::rope(&gpu, grad, 1, &cos, &scale(&back, -1.0)?)?)])
            }
        }));
    }
    let (a, b) = (x.narrow(last, 0, d / 2)?, x.narrow(last, d / 2, d / 2)?);
    let rotated = concat(&[&scale(&b, -1.0)?, &a], last)?;
    add(&mul(x, cos)?, &mul(&rotated, sin)?)
}
