//! Resampling of images.

use super::image::{Image, image_mut, new_image};
use crate::error::refuse;
use crate::{Error, Tensor};
use supple_kernels::resize::{self, ResizeMode};

/// Images resampled to `[height, width]`, as PyTorch's `interpolate` with `align_corners=False` does.
///
/// # Errors
/// If the tensor is no image, or a side of the new size is zero.
pub fn resize(x: &Tensor, mode: ResizeMode, [height, width]: [usize; 2]) -> Result<Tensor, Error> {
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
