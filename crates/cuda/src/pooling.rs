//! Pooling and pixel shuffle of channels-last images.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{Error, Gpu, Image, ImageMut, ImageSize};

/// What becomes of the pixels under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingKind {
    /// The largest; padding does not count.
    Max,
    /// The mean; padding counts as zeros.
    Average,
    /// The mean of the pixels inside the image.
    AverageInside,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Window {
    kind: i32,
    kernel: [i32; 2],
    stride: [i32; 2],
    padding: [i32; 2],
}

impl Window {
    /// Windows of `kernel` pixels that move by `stride` from `padding` pixels outside on, if they take `x` to `y`.
    pub(crate) fn new(
        name: &'static str,
        kind: PoolingKind,
        [kernel, stride, padding]: [[usize; 2]; 3],
        x: ImageSize,
        y: ImageSize,
    ) -> Result<Window, Error> {
        let small = [kernel, stride, padding].iter().flatten().all(|&n| n < 1 << 15) && !stride.contains(&0);
        let side =
            |i: usize, n: usize| (n + 2 * padding[i]).checked_sub(kernel[i]).map(|room| room / stride[i].max(1) + 1);
        let wanted = (side(0, x.height), side(1, x.width));
        if !small || wanted != (Some(y.height), Some(y.width)) || x.channels != y.channels {
            return refuse!(name, "windows of {kernel:?}, {stride:?} apart, padding {padding:?}: {x:?} to {y:?}");
        }
        let pair = |p: [usize; 2]| p.map(|n| n as i32);
        Ok(Window { kind: kind as i32, kernel: pair(kernel), stride: pair(stride), padding: pair(padding) })
    }
}

/// Checks what operators on images share: equal types and pictures, and that both lie in their memory.
pub(crate) fn check_images(kernel: &'static str, x: &Image<'_>, y: &ImageMut<'_>) -> Result<(), Error> {
    x.check(kernel, "the input", 1)?;
    y.check(kernel, "the result", 1)?;
    if x.dtype() != y.dtype() || x.size.n != y.size.n {
        return refuse!(kernel, "{:?} and {:?}, or their element types, differ", x.size, y.size);
    }
    if [x.size.height, x.size.width].contains(&0) && y.size.pixels() != Some(0) {
        return refuse!(kernel, "an empty input");
    }
    Ok(())
}

/// Pools `x` into `y`; windows of some pixels move by a step, from some pixels outside on: `window` is size, step and padding,
/// height first.
///
/// # Errors
/// If sizes do not fit each other, or something does not lie within its memory.
pub fn pool(gpu: &Gpu, kind: PoolingKind, window: [[usize; 2]; 3], x: Image<'_>, y: ImageMut<'_>) -> Result<(), Error> {
    let Some(name) = variant!(x.dtype(), "pool") else { return refuse!("pool", "wants floats, got {:?}", x.dtype()) };
    check_images(name, &x, &y)?;
    let window = Window::new(name, kind, window, x.size, y.size)?;
    launch(gpu, name, window, x, y)
}

/// Images with channels `c * factor²` to images `factor` times as wide and high with `c` channels, ordered as in PyTorch.
///
/// # Errors
/// If sizes do not fit each other, or something does not lie within its memory.
pub fn pixel_shuffle(gpu: &Gpu, factor: usize, x: Image<'_>, y: ImageMut<'_>) -> Result<(), Error> {
    let Some(name) = variant!(x.dtype(), "pixel_shuffle") else {
        return refuse!("pixel_shuffle", "wants floats, got {:?}", x.dtype());
    };
    check_images(name, &x, &y)?;
    let product = |a: usize, b: usize| a.checked_mul(b);
    let fits = product(x.size.height, factor) == Some(y.size.height)
        && product(x.size.width, factor) == Some(y.size.width)
        && product(factor, factor).and_then(|square| product(y.size.channels, square)) == Some(x.size.channels);
    if !fits || factor > 1 << 15 {
        return refuse!(name, "by {factor}: {:?} to {:?}", x.size, y.size);
    }
    launch(gpu, name, factor as i32, x, y)
}

/// Launches a kernel with one thread an element of `y`; `first` is its first argument.
pub(crate) fn launch<T: Copy>(
    gpu: &Gpu,
    kernel: &'static str,
    first: T,
    x: Image<'_>,
    y: ImageMut<'_>,
) -> Result<(), Error> {
    let elements = y.size.pixels().unwrap_or(0).saturating_mul(y.size.channels);
    if elements == 0 {
        return Ok(());
    }
    let (from, to) = (x.size.raw(), y.size.raw());
    let pointers = [x.elements.pointer(), y.elements.0.pointer()];
    // SAFETY: the kernel takes these types (`first` is its own); the callers checked that both images lie in their memory and
    // that windows and factors map the result to the input.
    unsafe {
        gpu.launch(kernel, Grid::flat(elements), arguments![first, from, pointers[0], to, pointers[1]], &|| {
            format!("{:?} to {:?}", x.size, y.size)
        })
    }
}
