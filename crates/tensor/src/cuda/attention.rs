//! Attention, rotary positions and RMS norm.

use super::{like, read, rows, write};
use crate::autograd::{is_recording, record};
use crate::error::refuse;
use crate::{DType, Error, Layout, RowLayout, Tensor};
use supple_cuda as cuda;
use supple_cuda::attention::{AttentionShape, Steps, Way};
use supple_cuda::{Elements, Gpu};

/// A tensor `[.., heads, tokens, d]` as the kernels see it: without a step between the elements of a row, aligned to 16 bytes.
struct Heads {
    tensor: Tensor,
    /// Batch, heads, tokens, features.
    sizes: [usize; 4],
}

impl Heads {
    /// `None` if the kernels do not take it.
    fn new(x: &Tensor) -> Result<Option<Heads>, Error> {
        let &[ref outer @ .., tokens, d] = &**x.shape() else { return Ok(None) };
        let heads = outer.last().copied().unwrap_or(1);
        let batch = outer.iter().rev().skip(1).product();
        let whole = 16 / x.dtype().size();
        let float = matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16);
        if !float || !(1..=256).contains(&d) || (x.dtype() != DType::F32 && !d.is_multiple_of(whole)) {
            return Ok(None);
        }
        let sizes = [batch, heads, tokens, d];
        let x = x.detach().reshape(&sizes)?;
        let strides = x.layout().strides();
        let mut steps = strides.iter().zip(sizes).filter(|(_, size)| *size > 1).map(|(&step, _)| step);
        let fits = (d == 1 || strides[3] == 1)
            && steps.all(|step| step == 1 || step.is_multiple_of(whole))
            && strides[..3].iter().zip(sizes).all(|(step, size)| size == 1 || step.is_multiple_of(whole))
            && x.layout().offset().is_multiple_of(whole);
        let tensor = if fits { x } else { x.copied(Layout::contiguous(&sizes)?)? };
        Ok(Some(Heads { tensor, sizes }))
    }

    /// Steps of batch, token and head; those that do not matter are 0.
    fn view(&self) -> Result<(Elements<'_>, Steps), Error> {
        let strides = self.tensor.layout().strides();
        let step = |i: usize| if self.sizes[i] > 1 { strides[i] } else { 0 };
        Ok((read(&self.tensor)?, [step(0), step(2), step(1)]))
    }
}

/// A new tensor of these sizes, `[batch, heads, tokens, d]`, that lies as `[batch, tokens, heads, d]`: heads are put together again
/// without a copy.
fn by_tokens(like: &Tensor, [batch, heads, tokens, d]: [usize; 4], dtype: DType) -> Result<Tensor, Error> {
    Tensor::unspecified(like.device(), Layout::contiguous(&[batch, tokens, heads, d])?, dtype)
}

/// `softmax(scale · q · kᵀ) · v`, remembered if gradients are wanted; `None` if there is no kernel for it. Shapes were checked, but for
/// those of v.
pub(crate) fn attention(
    gpu: &Gpu,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f32,
    causal: bool,
) -> Result<Option<Tensor>, Error> {
    let recording = is_recording(&[q, k, v]);
    let same = k.shape() == v.shape() && [k, v].iter().all(|x| x.dtype() == q.dtype() && x.rank() == q.rank());
    // Gradients of f32 are those of the operators that this one is composed of.
    if !same || (recording && q.dtype() == DType::F32) {
        return Ok(None);
    }
    let (Some(queries), Some(keys), Some(values)) = (Heads::new(q)?, Heads::new(k)?, Heads::new(v)?) else {
        return Ok(None);
    };
    let ([batch, q_heads, q_len, head], [k_batch, kv_heads, k_len, k_head]) = (queries.sizes, keys.sizes);
    if (batch, head) != (k_batch, k_head) || kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        return Ok(None);
    }
    let shape = AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, scale, causal };
    let result = by_tokens(q, queries.sizes, q.dtype())?;
    let sums = Tensor::unspecified(q.device(), Layout::contiguous(&[batch, q_heads, q_len])?, DType::F32)?;
    let steps = shape.dense(q_len, q_heads);
    let lse = if recording { Some(write(&sums)?) } else { None };
    let inputs = [queries.view()?, keys.view()?, values.view()?];
    cuda::attention::attention(gpu, Way::Best, &shape, inputs, (write(&result)?, steps), lse)?;
    let y = result.transpose(1, 2)?.reshape(q.shape())?;
    Ok(Some(record("attention", y, &[q, k, v], || {
        let gpu = gpu.clone();
        let shapes = [*q.shape(), *k.shape(), *v.shape()];
        move |grad, needed| {
            // In the order of the result.
            let grad = grad.to_dtype(result.dtype())?.reshape(&[batch, q_heads, q_len, head])?;
            let grad = grad.transpose(1, 2)?.contiguous()?;
            let of = [[batch, q_heads, q_len, head], [batch, kv_heads, k_len, head], [batch, kv_heads, k_len, head]];
            let [of_q, of_k, of_v] = of.map(|sizes| by_tokens(&grad, sizes, DType::F32));
            let gradients = [of_q?, of_k?, of_v?];
            let inputs = [queries.view()?, keys.view()?, values.view()?];
            let outs = [write(&gradients[0])?, write(&gradients[1])?, write(&gradients[2])?];
            let both = [read(&result)?, read(&grad)?];
            cuda::attention::attention_backward(&gpu, Way::Best, &shape, inputs, both, steps, read(&sums)?, outs)?;
            gradients
                .iter()
                .zip(shapes)
                .zip(needed)
                .map(|((grad, shape), &needed)| {
                    let back = || grad.to_dtype(result.dtype())?.transpose(1, 2)?.reshape(&shape);
                    needed.then(back).transpose()
                })
                .collect()
        }
    })))
}

/// Rotary positions in halves for `x` of `[.., tokens, d]`, or `[.., tokens, heads, d]`, and f32 tables of `[tokens, d]`.
pub(crate) fn rope(gpu: &Gpu, x: &Tensor, heads: usize, cosines: &Tensor, sines: &Tensor) -> Result<Tensor, Error> {
    let tables = [cosines, sines].map(|table| table.to_dtype(DType::F32)?.contiguous());
    let [cosines, sines] = tables;
    let (cosines, sines) = (cosines?, sines?);
    let &[tokens, features] = &**cosines.shape() else {
        return refuse!("rope", "wants tables [tokens, d], got {:?}", cosines.shape());
    };
    let (x, from) = rows("rope", x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let shape = cuda::rope::RopeShape { rows: out.rows, features, heads, tokens };
    let angles = [read(&cosines)?, read(&sines)?];
    let pairs = cuda::rope::Pairs::Halves;
    cuda::rope::rope(gpu, pairs, shape, (read(&x)?, from.stride), angles, (write(&y)?, out.stride))?;
    Ok(y)
}

/// RMS norm over the last dimension.
pub(crate) fn rms_norm(gpu: &Gpu, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor, Error> {
    let weight = weight.to_dtype(x.dtype())?.contiguous()?;
    let (x, from): (Tensor, RowLayout) = rows("rms_norm", x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let how = cuda::normalize::Normalization::Rms { weight: read(&weight)?, epsilon };
    let shape = [out.rows, out.len];
    cuda::normalize::normalize(gpu, how, shape, (read(&x)?, from.stride), (write(&y)?, out.stride))?;
    Ok(y)
}

/// `x / (1 + e^-x)`.
pub(crate) fn silu(gpu: &Gpu, x: &Tensor) -> Result<Tensor, Error> {
    let (x, from) = rows("silu", x)?;
    let (y, out) = like(&x, x.shape(), crate::ops::is_padded(&from))?;
    let (how, shape) = (cuda::elementwise::Activation::Silu, [out.rows, out.len]);
    cuda::elementwise::unary(gpu, how, 1.0, shape, (read(&x)?, from.stride), (write(&y)?, out.stride))?;
    Ok(y)
}
