//! A gated linear unit's activation, `activation(gate) · up`, and its gradients.
//!
//! Both activations are `x · σ(p(x))`, with the sigmoid `σ` and `p(x) = x` (SiLU) or `p(x) = 2 √(2/π) (x + 0.044715 x³)` (GELU by
//! `tanh`). So `dup = dy · x · σ` and `dgate = dy · up · σ · (1 + x · p'(x) · (1 - σ))`.

use super::{Activation, activate, output, same_device};
use crate::autograd::record;
use crate::error::refuse;
use crate::{DType, Error, Tensor};
use supple_kernels::decoder::{self, Gate, for_each_row};

/// `activation(gate) · up`, element by element. (Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.)
///
/// # Errors
/// If shapes or types differ, or elements are not `f32`.
pub fn gated(gate: &Tensor, up: &Tensor, how: Gate) -> Result<Tensor, Error> {
    const OP: &str = "gated";
    same_device(OP, gate.device(), up.device())?;
    if gate.shape() != up.shape() || gate.rank() == 0 {
        return refuse!(OP, "shapes {:?} and {:?} differ", gate.shape(), up.shape());
    }
    let (x, other) = (gate.detach(), up.detach());
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = gate.device() {
        let gelu = how == Gate::GeluTanh;
        let y = crate::cuda::gated(gpu, &x, &other, gelu)?;
        return Ok(record(OP, y, &[gate, up], || {
            let gpu = gpu.clone();
            move |grad, _| Ok(crate::cuda::gated_backward(&gpu, grad, [&x, &other], gelu)?.map(Some).into())
        }));
    }
    let (x, other) = (x.contiguous()?, other.contiguous()?);
    x.expect_dtype(OP, DType::F32)?;
    let (mut y, out) = output(x.device(), x.shape(), false)?;
    let (cpu, rest) = (x.device().kernels(), other.as_slice::<f32>()?);
    y.write::<f32>()[..x.elements()].copy_from_slice(x.as_slice()?);
    if x.elements() > 0 {
        for_each_row(cpu, out.rows, [(y.write(), out.len)], None, &|row, [to]| {
            decoder::gated(cpu.isa, how, to, &rest[row * out.len..][..out.len]);
        });
    }
    Ok(record(OP, y, &[gate, up], move || move |grad, _| backward(grad, &x, &other, how)))
}

/// `2 √(2/π)`.
const STEEP: f32 = 1.595_769;

fn backward(grad: &Tensor, x: &Tensor, up: &Tensor, how: Gate) -> Result<Vec<Option<Tensor>>, Error> {
    let (grad, mut of_gate, mut of_up) =
        (grad.contiguous()?, output(x.device(), x.shape(), false)?.0, output(x.device(), x.shape(), false)?.0);
    let argument = match how {
        Gate::Silu => x.clone(),
        Gate::GeluTanh => {
            let (mut p, _) = output(x.device(), x.shape(), false)?;
            for (p, &x) in p.write::<f32>().iter_mut().zip(x.as_slice::<f32>()?) {
                *p = STEEP * x * (1.0 + 0.044_715 * x * x);
            }
            p
        }
    };
    let open = activate(&argument, Activation::Sigmoid)?;
    let (cpu, len) = (x.device().kernels(), x.shape().last().copied().unwrap_or(1));
    let inputs = (grad.as_slice::<f32>()?, x.as_slice::<f32>()?, up.as_slice::<f32>()?, open.as_slice::<f32>()?);
    if x.elements() == 0 {
        return Ok(vec![Some(of_gate), Some(of_up)]);
    }
    let parts = [(of_gate.write::<f32>(), len), (of_up.write::<f32>(), len)];
    for_each_row(cpu, x.elements() / len, parts, None, &|row, [of_gate, of_up]| {
        let at = row * len..(row + 1) * len;
        let (grad, x, up, open) =
            (&inputs.0[at.clone()], &inputs.1[at.clone()], &inputs.2[at.clone()], &inputs.3[at.clone()]);
        for i in 0..len {
            let slope = match how {
                Gate::Silu => 1.0,
                Gate::GeluTanh => STEEP * (1.0 + 0.134_145 * x[i] * x[i]),
            };
            of_gate[i] = grad[i] * up[i] * open[i] * (1.0 + x[i] * slope * (1.0 - open[i]));
            of_up[i] = grad[i] * x[i] * open[i];
        }
    });
    Ok(vec![Some(of_gate), Some(of_up)])
}
