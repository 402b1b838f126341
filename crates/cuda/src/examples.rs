//! Samples of pictures as the host sends them, made into images.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, Error, Gpu, ImageMut};

/// Queues writing `from`, bytes that mean `v / 255` or floats, without gaps, to an image; its padding becomes 0.
///
/// # Errors
/// If samples are missing or of another type, the image does not fit its memory, or the driver fails.
pub fn unpack(gpu: &Gpu, from: Elements<'_>, to: ImageMut<'_>) -> Result<(), Error> {
    const KERNEL: &str = "unpack_examples";
    let bytes = match from.dtype() {
        DType::U8 => 1i32,
        DType::F32 => 0,
        other => return refuse!(KERNEL, "samples as {other:?}"),
    };
    let Some(kernel) = variant!(to.elements.0.dtype(), "unpack_examples") else {
        return refuse!(KERNEL, "an image of {:?}", to.elements.0.dtype());
    };
    let size = to.size;
    let pixels = size.pixels();
    from.check(KERNEL, "samples", pixels.and_then(|pixels| pixels.checked_mul(size.channels)))?;
    to.elements.0.check(KERNEL, "the image", pixels.and_then(|pixels| pixels.checked_mul(size.stride)))?;
    let pixels = pixels.unwrap_or(0);
    if pixels == 0 || size.channels == 0 || size.channels > size.stride || size.stride > 1 << 16 {
        return refuse!(KERNEL, "an image of {size:?}");
    }
    let (count, channels, stride) = (pixels as i64, size.channels as i32, size.stride as i32);
    let pointers = [from.pointer(), to.elements.0.pointer()];
    let arguments = arguments![bytes, count, channels, stride, pointers[0], pointers[1]];
    // SAFETY: the kernel takes these types; samples and the image with its padding were checked to be there.
    unsafe { gpu.launch(kernel, Grid::flat(pixels * size.stride), arguments, &|| format!("{size:?}")) }
}
