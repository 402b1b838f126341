//! Resampling of channels-last images.

use crate::error::refuse;
use crate::launch::variant;
use crate::pooling::{check_images, launch};
use crate::{Error, Gpu, Image, ImageMut};

/// How pixels between pixels are made; PyTorch's `interpolate` with `align_corners=False`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// The pixel `⌊i · in / out⌋`.
    Nearest,
    /// Linear between two pixels, in each direction.
    Bilinear,
    /// Cubic convolution over four pixels with a = -0.75, in each direction.
    Bicubic,
    /// The mean of the pixels from `⌊i · in / out⌋` to `⌈(i + 1) · in / out⌉`.
    Area,
}

/// Resamples `x` to the size of `y`.
///
/// # Errors
/// If channels, pictures or types differ, or something does not lie within its memory.
pub fn resize(gpu: &Gpu, mode: ResizeMode, x: Image<'_>, y: ImageMut<'_>) -> Result<(), Error> {
    let Some(name) = variant!(x.dtype(), "resize") else {
        return refuse!("resize", "wants floats, got {:?}", x.dtype());
    };
    check_images(name, &x, &y)?;
    if x.size.channels != y.size.channels {
        return refuse!(name, "{:?} to {:?}", x.size, y.size);
    }
    launch(gpu, name, mode as i32, x, y)
}
