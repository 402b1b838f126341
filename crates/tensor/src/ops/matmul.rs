//! Products of matrices that are both computed at run time.

use super::elementwise::common_shape;
use super::sum_to;
use super::{output, same_device};
use crate::autograd::record;
use crate::error::refuse;
use crate::{DType, Device, Dims, Error, MAX_RANK, Tensor};
use supple_kernels::matmul as kernel;

/// `a · b` for `a` of shape `[.., m, k]` and `b` of shape `[.., k, n]`; leading dimensions of size 1, or missing ones,
/// repeat. For a matrix that stays the same, [`Linear`](super::Linear) is faster.
///
/// # Errors
/// If the shapes do not fit each other or the elements are not `f32`.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    const OP: &str = "matmul";
    same_device(OP, a.device(), b.device())?;
    let dtype = match a.device() {
        Device::Cpu(_) => DType::F32,
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => a.dtype(),
    };
    a.expect_dtype(OP, dtype)?;
    b.expect_dtype(OP, dtype)?;
    let (&[ref a_batch @ .., m, k], &[ref b_batch @ .., b_k, n]) = (&**a.shape(), &**b.shape()) else {
        return refuse!(OP, "wants [.., m, k] and [.., k, n], got {:?} and {:?}", a.shape(), b.shape());
    };
    if k != b_k {
        return refuse!(OP, "{:?} and {:?} have no common inner dimension", a.shape(), b.shape());
    }
    let batch = common_shape(OP, a_batch, b_batch)?;
    let with = |rows: usize, columns: usize| {
        let mut shape = [0; MAX_RANK];
        shape[..batch.len()].copy_from_slice(&batch);
        shape[batch.len()..][..2].copy_from_slice(&[rows, columns]);
        Dims::new(&shape[..batch.len() + 2])
    };
    let (left, right) = (a.detach(), b.detach());
    let left = left.broadcast_to(&with(m, k)?)?.contiguous()?;
    let right = right.broadcast_to(&with(k, n)?)?.contiguous()?;
    let y = product(batch.iter().product(), [m, k, n], &with(m, n)?, &left, &right)?;
    Ok(record(OP, y, &[a, b], || {
        let (a, b) = (a.detach(), b.detach());
        move |grad, needed| {
            let swapped = |x: &Tensor| x.transpose(x.rank() - 2, x.rank() - 1);
            let of_a = || sum_to(&matmul(grad, &swapped(&b)?)?, a.shape());
            let of_b = || sum_to(&matmul(&swapped(&a)?, grad)?, b.shape());
            Ok(vec![needed[0].then(of_a).transpose()?, needed[1].then(of_b).transpose()?])
        }
    }))
}

/// The products of `batch` pairs of matrices without gaps, of `shape`.
fn product(batch: usize, sides: [usize; 3], shape: &[usize], left: &Tensor, right: &Tensor) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = left.device() {
        let y = Tensor::unspecified(left.device(), crate::Layout::contiguous(shape)?, left.dtype())?;
        crate::cuda::matmul(gpu, batch, sides, left, right, &y)?;
        return Ok(y);
    }
    let (mut y, _) = output(left.device(), shape, false)?;
    if y.elements() > 0 {
        kernel::matmul(left.device().kernels(), batch, sides, left.data(), right.data(), y.write());
    }
    Ok(y)
}
