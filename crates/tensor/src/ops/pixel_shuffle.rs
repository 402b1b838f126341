//! Pixel shuffle: channels become space.

use super::image::{Image, image_mut, new_image};
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::pixel_shuffle as kernel;

/// Images `[n, h, w, c * factor²]` as `[n, h * factor, w * factor, c]`; channels are ordered as in PyTorch.
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
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::pixel_shuffle(gpu, x, factor, [n, height, width, channels]);
    }
    let image = Image::new(OP, x)?;
    let mut y = new_image(image.device(), [n, height, width, channels])?;
    for i in 0..image.n {
        let (cpu, mut out) = (image.device().kernels(), image_mut(&mut y, i));
        kernel::pixel_shuffle(cpu, factor, channels, image.rows(i), &mut out, 0..image.height);
    }
    Ok(y)
}
