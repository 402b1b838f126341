//! Pixel shuffle: channels become space.

use super::image::{Image, image_mut, new_image};
use crate::autograd::record;
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::pixel_shuffle as kernel;

/// Images `[n, h, w, c * factor²]` as `[n, h * factor, w * factor, c]`; channels are ordered as in PyTorch. On a GPU the result has
/// no gaps between pixels.
///
/// # Errors
/// If the tensor is no image or its channels are no multiple of `factor²`.
pub fn pixel_shuffle(x: &Tensor, factor: usize) -> Result<Tensor, Error> {
    const OP: &str = "pixel_shuffle";
    let &[n, height, width, channels] = &**x.shape() else {
        return refuse!(OP, "wants an image [n, h, w, c], got shape {:?}", x.shape());
    };
    let square = factor.checked_mul(factor).filter(|&square| square > 0 && channels % square == 0);
    let (Some(square), Some(height), Some(width)) = (square, height.checked_mul(factor), width.checked_mul(factor))
    else {
        return refuse!(OP, "the channels of {:?} are no multiple of {factor} squared", x.shape());
    };
    let channels = channels / square;
    let y = shuffled(x, factor, [n, height, width, channels])?;
    Ok(record(OP, y, &[x], || move |grad, _| Ok(vec![Some(pixel_unshuffle(grad, factor)?)])))
}

fn shuffled(x: &Tensor, factor: usize, shape: [usize; 4]) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::pixel_shuffle(gpu, x, factor, shape);
    }
    let image = Image::new("pixel_shuffle", x)?;
    let mut y = new_image(image.device(), shape)?;
    for i in 0..image.n {
        let (cpu, mut out) = (image.device().kernels(), image_mut(&mut y, i));
        kernel::pixel_shuffle(cpu, factor, shape[3], image.rows(i), &mut out, 0..image.height);
    }
    Ok(y)
}

/// Images `[n, h * factor, w * factor, c]` as `[n, h, w, c * factor²]`: [`pixel_shuffle`], undone.
///
/// # Errors
/// If the tensor is no image or its sides are no multiples of `factor`.
pub fn pixel_unshuffle(x: &Tensor, factor: usize) -> Result<Tensor, Error> {
    let &[n, height, width, channels] = &**x.shape() else {
        return refuse!("pixel_unshuffle", "wants an image [n, h, w, c], got shape {:?}", x.shape());
    };
    if factor == 0 || !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
        return refuse!("pixel_unshuffle", "the sides of {:?} are no multiples of {factor}", x.shape());
    }
    let (h, w) = (height / factor, width / factor);
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        let Some(wide) = factor.checked_mul(factor).and_then(|square| channels.checked_mul(square)) else {
            return refuse!("pixel_unshuffle", "{:?} by {factor} is too large", x.shape());
        };
        let y = crate::cuda::pixel_unshuffle(gpu, x, factor, [n, h, w, wide])?;
        return Ok(record("pixel_unshuffle", y, &[x], || move |grad, _| Ok(vec![Some(pixel_shuffle(grad, factor)?)])));
    }
    let parts = x.reshape(&[n, h, factor, w, factor, channels])?;
    parts.permute(&[0, 1, 3, 5, 2, 4])?.reshape(&[n, h, w, channels * factor * factor])?.padded()
}
