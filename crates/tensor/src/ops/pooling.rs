//! Max and average pooling of images.

use super::image::{Image, image_mut, new_image};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::backward::pooling as backward;
use supple_kernels::pooling::{Pooling, PoolingKind, pool};

/// The largest value under each window, per channel. Pairs are height first; sizes round down; padding does not count.
///
/// # Errors
/// If the tensor is no image, the window does not fit it, or the parameters are not sensible (a zero step, more padding
/// than half the window).
pub fn max_pool2d(x: &Tensor, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Tensor, Error> {
    pool2d("max_pool2d", x, Pooling { kind: PoolingKind::Max, kernel, stride, padding })
}

/// The mean under each window, per channel. Pairs are height first; sizes round down; padding counts as zeros.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Tensor, Error> {
    pool2d("avg_pool2d", x, Pooling { kind: PoolingKind::Average, kernel, stride, padding })
}

fn pool2d(op: &'static str, x: &Tensor, pooling: Pooling) -> Result<Tensor, Error> {
    let y = pooled(op, x, pooling)?;
    Ok(record(op, y, &[x], || {
        let x = x.detach();
        move |grad, _| Ok(vec![Some(pool2d_backward(grad, &x, &pooling)?)])
    }))
}

fn pooled(op: &'static str, x: &Tensor, pooling: Pooling) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::pool2d(gpu, op, x, pooling);
    }
    let image = Image::new(op, x)?;
    let Some((height, width)) = pooling.output_size(image.height, image.width) else {
        let Pooling { kernel, stride, padding, .. } = pooling;
        return refuse!(op, "kernel {kernel:?}, stride {stride:?}, padding {padding:?} do not fit {:?}", x.shape());
    };
    let mut y = new_image(image.device(), [image.n, height, width, image.channels])?;
    for i in 0..image.n {
        let mut out = image_mut(&mut y, i);
        pool(image.device().kernels(), &pooling, image.channels, image.rows(i), image.height, &mut out, 0..height);
    }
    Ok(y)
}

/// The gradient of a pooling's input.
fn pool2d_backward(grad: &Tensor, x: &Tensor, pooling: &Pooling) -> Result<Tensor, Error> {
    const OP: &str = "pool2d_backward";
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = grad.device() {
        return crate::cuda::pool2d_backward(gpu, grad, x, pooling);
    }
    let (image, grad) = (Image::new(OP, x)?, Image::new(OP, grad)?);
    let mut y = new_image(image.device(), [image.n, image.height, image.width, image.channels])?;
    // The result has the narrowest pixels, whatever those of the input are.
    let image =
        if image.images().stride == y.layout().strides()[2] { image } else { Image::new(OP, &x.copied(*y.layout())?)? };
    let (cpu, stride) = (image.device().kernels(), grad.images().stride);
    backward::pool_backward(cpu, pooling, image.images(), image.data(), grad.data(), stride, y.write());
    Ok(y)
}
