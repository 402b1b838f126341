//! Resampling of images.

use super::image::{Image, image_mut, new_image};
use crate::autograd::record;
use crate::error::refuse;
use crate::{ALIGNMENT, Error, Tensor};
use supple_kernels::backward::pooling::Images;
use supple_kernels::backward::resize as backward;
use supple_kernels::resize::{self, ResizeMode};

/// Images resampled to `[height, width]`, as PyTorch's `interpolate` with `align_corners=False` does.
///
/// # Errors
/// If the tensor is no image, or a side of the new size is zero.
pub fn resize(x: &Tensor, mode: ResizeMode, size: [usize; 2]) -> Result<Tensor, Error> {
    let y = resampled(x, mode, size)?;
    let &[n, height, width, channels] = &**x.shape() else { unreachable!("an image, or it was refused") };
    let shape = [n, height, width, channels];
    Ok(record("resize", y, &[x], || move |grad, _| Ok(vec![Some(resize_backward(grad, mode, shape)?)])))
}

fn resampled(x: &Tensor, mode: ResizeMode, [height, width]: [usize; 2]) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = x.device() {
        return crate::cuda::resize(gpu, x, mode, [height, width]);
    }
    let image = Image::new("resize", x)?;
    if height == 0 || width == 0 {
        return refuse!("resize", "cannot resize {:?} to {height}x{width}", x.shape());
    }
    let mut y = new_image(image.device(), [image.n, height, width, image.channels])?;
    for i in 0..image.n {
        let (cpu, mut out) = (image.device().kernels(), image_mut(&mut y, i));
        resize::resize(cpu, mode, image.channels, image.rows(i), image.height, &mut out, height, 0..height);
    }
    Ok(y)
}

/// The gradient of a resize's input, which has shape `[n, height, width, channels]`.
fn resize_backward(grad: &Tensor, mode: ResizeMode, [n, height, width, channels]: [usize; 4]) -> Result<Tensor, Error> {
    #[cfg(feature = "cuda")]
    if let crate::Device::Cuda(gpu) = grad.device() {
        return crate::cuda::resize_backward(gpu, grad, mode, [n, height, width, channels]);
    }
    let grad = Image::new("resize_backward", grad)?;
    let mut y = new_image(grad.device(), [n, height, width, channels])?;
    let images = Images { n, height, width, channels, stride: channels.next_multiple_of(ALIGNMENT) };
    let (size, stride) = ([grad.height, grad.width], grad.images().stride);
    backward::resize_backward(grad.device().kernels(), mode, images, size, grad.data(), stride, y.write());
    Ok(y)
}
