//! Resampling of channels-last images.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::pooling::check_images;
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
    // Four channels a thread where pixels and memory allow it.
    let four = |image: &Image<'_>| {
        image.size.stride.is_multiple_of(4) && image.elements.is_aligned(16) && image.check(name, "an image", 4).is_ok()
    };
    let wide = four(&x) && four(&Image { elements: y.elements.0, size: y.size });
    let per_pixel = y.size.channels.div_ceil(if wide { 4 } else { 1 });
    let threads = y.size.pixels().unwrap_or(0).saturating_mul(per_pixel);
    if threads == 0 {
        return Ok(());
    }
    let (mode, wide, from, to) = (mode as i32, i32::from(wide), x.size.raw(), y.size.raw());
    let pointers = [x.elements.pointer(), y.elements.0.pointer()];
    let arguments = arguments![mode, wide, from, pointers[0], to, pointers[1]];
    // SAFETY: the kernel takes these types; both images were checked to lie in their memory, rounded up where access is wide.
    unsafe { gpu.launch(name, Grid::flat(threads), arguments, &|| format!("{:?} to {:?}", x.size, y.size)) }
}
