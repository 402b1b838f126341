//! The linear layer and its gradients, as products of matrices.

use super::{activation_of, dtype_of, read, rows, write};
use crate::error::refuse;
use crate::ops::Activation;
use crate::{DType, Dims, Error, Layout, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use supple_cuda as cuda;
use supple_cuda::gemm::{After, Matrices, Way, gemm, gemm_wide};
use supple_cuda::{Elements, ElementsMut, Gpu, Memory};

/// A linear layer's weights on a GPU, converted when first needed for an element type.
#[derive(Debug)]
pub(crate) struct Linear {
    gpu: Gpu,
    outputs: usize,
    inputs: usize,
    /// Of `[outputs, inputs]`, and of `[outputs]` if there is a bias, in f32.
    weights: Weights,
    converted: Mutex<HashMap<DType, Arc<Weights>>>,
}

#[derive(Debug)]
struct Weights(Memory, Option<Memory>);

impl Linear {
    pub(crate) fn new(
        gpu: &Gpu,
        [outputs, inputs]: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Linear, Error> {
        let upload = |values: &[f32]| gpu.upload(bytemuck::cast_slice(values));
        let weights = Weights(upload(weight)?, bias.map(upload).transpose()?);
        Ok(Linear { gpu: gpu.clone(), outputs, inputs, weights, converted: Mutex::default() })
    }

    /// Outputs and inputs.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    fn converted(&self, dtype: DType) -> Result<Arc<Weights>, Error> {
        let mut all = self.converted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(weights) = all.get(&dtype) {
            return Ok(weights.clone());
        }
        let convert = |from: &Memory, elements: usize| -> Result<Memory, Error> {
            let to = self.gpu.allocate(elements * dtype.size())?;
            let wide = Elements::new(from, 0, cuda::DType::F32);
            cuda::copy::convert(&self.gpu, elements, wide, ElementsMut::new(&to, 0, dtype_of(dtype)))?;
            Ok(to)
        };
        let Weights(weight, bias) = &self.weights;
        let bias = bias.as_ref().map(|bias| convert(bias, self.outputs)).transpose()?;
        let weights = Arc::new(Weights(convert(weight, self.outputs * self.inputs)?, bias));
        all.insert(dtype, weights.clone());
        Ok(weights)
    }

    /// `activation(x · Wᵀ + b)`, with padded rows; the caller checked the last dimension.
    pub(crate) fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        let weights = match x.dtype() {
            DType::F32 => None,
            dtype => Some(self.converted(dtype)?),
        };
        let Weights(weight, bias) = weights.as_deref().unwrap_or(&self.weights);
        let elements = |memory| Elements::new(memory, 0, dtype_of(x.dtype()));
        let matrix = Matrices::dense(elements(weight), [self.outputs, self.inputs]);
        product(&self.gpu, x, matrix, bias.as_ref().map(elements), activation, self.outputs, true)
    }
}

/// `activation(x · Wᵀ + b)` for `W` with `outputs` rows.
fn product(
    gpu: &Gpu,
    x: &Tensor,
    weight: Matrices<'_>,
    bias: Option<Elements<'_>>,
    activation: Activation,
    outputs: usize,
    padded: bool,
) -> Result<Tensor, Error> {
    let (x, from) = rows("linear", x)?;
    let mut shape: Dims = *x.shape();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let layout = if padded { Layout::padded(&shape)? } else { Layout::contiguous(&shape)? };
    let y = Tensor::unspecified(x.device(), layout, x.dtype())?;
    let out = layout.rows().expect("new layouts consist of rows");
    // A row that repeats is copied: operands of a product do not overlap.
    let (x, stride) = match from.rows > 1 && from.stride < from.len {
        true => (x.copied(Layout::contiguous(x.shape())?)?, from.len),
        false => (x, from.stride),
    };
    let a = Matrices { elements: read(&x)?, row: stride, batch: 0, turned: false };
    let after = After { bias, activation: activation_of(activation), residual: None };
    let sizes = [1, from.rows, from.len, outputs];
    gemm(gpu, Way::Best, sizes, a, weight.turn(), after, (write(&y)?, out.stride, out.rows * out.stride))?;
    Ok(y)
}

/// The tensor as a matrix of `columns`, in the type `dtype`, without gaps.
fn matrix(x: &Tensor, columns: usize, dtype: DType) -> Result<Tensor, Error> {
    let rows = x.elements() / columns.max(1);
    x.detach().to_dtype(dtype)?.contiguous()?.reshape(&[rows, columns])
}

/// As [`Linear::forward`], for weights (`[outputs, inputs]`) and a bias that are tensors, of the type of `x` or f32. Without gaps.
pub(crate) fn linear(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor, Error> {
    let &[outputs, inputs] = &**weight.shape() else { return refuse!("linear", "weights are no matrix") };
    if x.shape().last() != Some(&inputs) || bias.is_some_and(|bias| bias.shape()[..] != [outputs]) {
        let bias = bias.map(Tensor::shape);
        return refuse!("linear", "{:?} and bias {bias:?} do not fit {:?}", weight.shape(), x.shape());
    }
    let weight = matrix(weight, inputs, x.dtype())?;
    let bias = bias.map(|bias| bias.detach().to_dtype(x.dtype())?.contiguous()).transpose()?;
    let bias = bias.as_ref().map(read).transpose()?;
    product(gpu, &x.detach(), Matrices::dense(read(&weight)?, [outputs, inputs]), bias, activation, outputs, false)
}

/// `grad · weight`, of the type of `grad`.
pub(crate) fn linear_backward_input(gpu: &Gpu, grad: &Tensor, weight: &Tensor) -> Result<Tensor, Error> {
    let &[outputs, inputs] = &**weight.shape() else { return refuse!("linear", "weights are no matrix") };
    if grad.shape().last() != Some(&outputs) {
        return refuse!("linear", "wants gradients [.., {outputs}], got shape {:?}", grad.shape());
    }
    let weight = matrix(weight, inputs, grad.dtype())?;
    let weight = Matrices::dense(read(&weight)?, [outputs, inputs]).turn();
    product(gpu, &grad.detach(), weight, None, Activation::Identity, inputs, false)
}

/// Weights from which on their gradient is a product of the library's.
const LARGE: usize = 1 << 14;

/// `gradᵀ · x` in f32, of 16-bit `[.., outputs]` and `[.., inputs]`, where the library has it and the matrix is so large that it is
/// faster than sums of parts.
pub(crate) fn linear_backward_weight(gpu: &Gpu, grad: &Tensor, x: &Tensor) -> Result<Option<Tensor>, Error> {
    let (&[.., outputs], &[.., inputs]) = (&**grad.shape(), &**x.shape()) else { return Ok(None) };
    let half = matches!(x.dtype(), DType::F16 | DType::BF16) && grad.dtype() == x.dtype();
    if !half || outputs * inputs < LARGE || x.elements() == 0 {
        return Ok(None);
    }
    let (grad, of_grad) = rows("linear", grad)?;
    let (x, of_x) = rows("linear", x)?;
    // A row that repeats would be read as a matrix with overlapping rows.
    if of_grad.rows > 1 && (of_grad.stride < outputs || of_x.stride < inputs) {
        return Ok(None);
    }
    let matrix = |elements, row| Matrices { elements, row, batch: 0, turned: false };
    let (a, b) = (matrix(read(&grad)?, of_grad.stride).turn(), matrix(read(&x)?, of_x.stride));
    let y = Tensor::unspecified(x.device(), Layout::contiguous(&[outputs, inputs])?, DType::F32)?;
    let done = gemm_wide(gpu, [outputs, of_grad.rows, inputs], a, b, write(&y)?)?;
    Ok(done.then_some(y))
}
