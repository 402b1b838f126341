//! Rotary positions of heads as projections give them, `[.., tokens, heads, d]`, whole or in part, by angles that are made once.

use super::{concat, output};
use crate::autograd::record;
use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};
use supple_kernels::decoder::{self, for_each_row};

/// Cosines and sines of the angles of tokens, as a device takes them.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[tokens, 2 · angles]`: twice the same side by side.
    cosines: Tensor,
    sines: Tensor,
    /// The sines of the way back.
    back: Tensor,
}

impl Rotation {
    /// Of cosines and sines of `[tokens, angles]`.
    ///
    /// # Errors
    /// If their number does not fit, or the memory is exhausted.
    pub fn new(
        device: &Device,
        [tokens, angles]: [usize; 2],
        cosines: &[f32],
        sines: &[f32],
    ) -> Result<Rotation, Error> {
        if [cosines.len(), sines.len()].iter().any(|&len| Some(len) != tokens.checked_mul(angles)) || angles == 0 {
            return refuse!("rotate", "{} and {} angles for {tokens} tokens", cosines.len(), sines.len());
        }
        let twice = |values: &[f32], sign: f32| {
            let rows = values.chunks_exact(angles).flat_map(|row| row.iter().chain(row)).map(|v| v * sign);
            Tensor::from_slice(device, &rows.collect::<Vec<f32>>(), &[tokens, 2 * angles])
        };
        Ok(Rotation { cosines: twice(cosines, 1.0)?, sines: twice(sines, 1.0)?, back: twice(sines, -1.0)? })
    }

    /// Tokens that there are angles for.
    pub fn tokens(&self) -> usize {
        self.cosines.shape()[0]
    }

    /// Features of a head that are turned.
    pub fn features(&self) -> usize {
        self.cosines.shape()[1]
    }
}

/// Turns features `i` and `i + r` of each head of `x`, `[.., tokens, heads, d]`, by angle `i` of its token, for `r` angles; features
/// from `2 r` on stay. (Source: Su et al., arXiv 2104.09864.)
///
/// # Errors
/// If there are other tokens than the rotation has, or more angles than half a head; of another type than `f32` on the CPU.
pub fn rotate(x: &Tensor, rotation: &Rotation) -> Result<Tensor, Error> {
    const OP: &str = "rotate";
    let (tokens, turned) = (rotation.tokens(), rotation.features());
    let (d, last) = match **x.shape() {
        [.., found, _, d] if found == tokens && turned <= d => (d, x.rank() - 1),
        _ => return refuse!(OP, "{tokens} tokens and {turned} features for shape {:?}", x.shape()),
    };
    super::same_device(OP, x.device(), rotation.cosines.device())?;
    if !matches!(x.device(), Device::Cpu(_)) && turned < d {
        let (first, rest) = (x.narrow(last, 0, turned)?, x.narrow(last, turned, d - turned)?);
        return concat(&[&rotate(&first, rotation)?, &rest], last);
    }
    let y = turn(x, rotation, false)?;
    Ok(record(OP, y, &[x], || {
        let rotation = rotation.clone();
        move |grad, _| Ok(vec![Some(turn(grad, &rotation, true)?)])
    }))
}

/// Forward or back, without gradient.
fn turn(x: &Tensor, rotation: &Rotation, back: bool) -> Result<Tensor, Error> {
    const OP: &str = "rotate";
    let sines = if back { &rotation.back } else { &rotation.sines };
    let x = x.detach().contiguous()?;
    let &[.., heads, d] = &**x.shape() else { return refuse!(OP, "wants heads, got {:?}", x.shape()) };
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = x.device() {
        return crate::cuda::rope(gpu, &x, heads, &rotation.cosines, sines);
    }
    x.expect_dtype(OP, DType::F32)?;
    let (mut y, _) = output(x.device(), x.shape(), false)?;
    let (cpu, (tokens, turned)) = (x.device().kernels(), (rotation.tokens(), rotation.features()));
    let (from, cosines, sines) = (x.as_slice::<f32>()?, rotation.cosines.as_slice::<f32>()?, sines.as_slice::<f32>()?);
    let width = heads * d;
    if x.elements() == 0 {
        return Ok(y);
    }
    for_each_row(cpu, from.len() / width, [(y.write(), width)], None, &|row, [to]| {
        to.copy_from_slice(&from[row * width..][..width]);
        let angles = row % tokens * turned..row % tokens * turned + turned / 2;
        decoder::rotate(cpu.isa, to, d, &cosines[angles.clone()], &sines[angles]);
    });
    Ok(y)
}
