//! Pictures as files hold them, red green blue without gaps, to a network's input and from its result.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, Error, Gpu, ImageMut, Memory};

/// What a picture's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// 8 bits; 255 stands for 1.
    Eight,
    /// 16 bits; 65535 stands for 1.
    Sixteen,
    /// f32.
    Floats,
}

impl Samples {
    /// Bytes of a sample.
    pub fn size(self) -> usize {
        match self {
            Samples::Eight => 1,
            Samples::Sixteen => 2,
            Samples::Floats => 4,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    height: i32,
    width: i32,
    padded_height: i32,
    padded_width: i32,
    stride: i32,
}

fn check_bytes(kernel: &'static str, memory: &Memory, wanted: Option<usize>) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted <= memory.bytes() => Ok(()),
        _ => refuse!(kernel, "{} bytes of samples, wants {wanted:?}", memory.bytes()),
    }
}

fn bytes_of([height, width]: [usize; 2], samples: Samples) -> Option<usize> {
    height.checked_mul(width)?.checked_mul(3 * samples.size())
}

/// Writes a picture of `size`, height and width, to an image that is as large or larger by what is mirrored at its right and
/// bottom; and `i32::MAX` to `bad_row`, for [`to_samples`].
///
/// # Errors
/// If sizes or types do not fit each other, or something does not lie within its memory.
pub fn from_samples(
    gpu: &Gpu,
    samples: Samples,
    size: [usize; 2],
    from: &Memory,
    x: ImageMut<'_>,
    bad_row: &Memory,
) -> Result<(), Error> {
    let kernel = match samples {
        Samples::Eight => variant!(x.dtype(), "from_u8"),
        Samples::Sixteen => variant!(x.dtype(), "from_u16"),
        Samples::Floats => variant!(x.dtype(), "from_floats"),
    };
    let Some(kernel) = kernel else { return refuse!("from_samples", "to {:?}", x.dtype()) };
    x.check(kernel, "the image", 1)?;
    check_bytes(kernel, from, bytes_of(size, samples))?;
    check_bytes(kernel, bad_row, Some(4))?;
    let fits = (x.size.n, x.size.channels) == (1, 3)
        && size.iter().all(|&side| side > 0)
        && (size[0]..2 * size[0]).contains(&x.size.height)
        && (size[1]..2 * size[1]).contains(&x.size.width)
        && x.size.stride < 1 << 20;
    if !fits {
        return refuse!(kernel, "{size:?} to {:?}", x.size);
    }
    let raw = Raw {
        height: size[0] as i32,
        width: size[1] as i32,
        padded_height: x.size.height as i32,
        padded_width: x.size.width as i32,
        stride: x.size.stride as i32,
    };
    let (from, to, bad) = (from.pointer(), x.elements.0.pointer(), bad_row.pointer());
    let grid = Grid::flat(x.size.height * x.size.width);
    // SAFETY: the kernel takes these types; samples, image and row were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments![raw, from, to, bad], &|| format!("{size:?} to {:?}", x.size)) }
}

/// Rounds the upper left part of `y`, f32 `[rows][columns][3]` of `from` rows and columns, to samples of a picture of `size`. Lowers
/// `bad_row` to the first row with a value that is no finite number.
///
/// # Errors
/// As [`from_samples`].
pub fn to_samples(
    gpu: &Gpu,
    samples: Samples,
    size: [usize; 2],
    (y, from): (Elements<'_>, [usize; 2]),
    to: &Memory,
    bad_row: &Memory,
) -> Result<(), Error> {
    let kernel = match samples {
        Samples::Eight => "to_u8",
        Samples::Sixteen => "to_u16",
        Samples::Floats => "to_floats",
    };
    y.check(kernel, "the result", from[0].checked_mul(from[1]).and_then(|pixels| pixels.checked_mul(3)))?;
    check_bytes(kernel, to, bytes_of(size, samples))?;
    check_bytes(kernel, bad_row, Some(4))?;
    let small = from.iter().all(|&side| side < 1 << 29);
    if y.dtype() != DType::F32 || size[0] > from[0] || size[1] > from[1] || !small {
        return refuse!(kernel, "{from:?} of {:?} to {size:?}", y.dtype());
    }
    let [height, width] = size.map(|side| side as i32);
    let raw = Raw { height, width, padded_height: from[0] as i32, padded_width: from[1] as i32, stride: 3 };
    let (from, to, bad) = (y.pointer(), to.pointer(), bad_row.pointer());
    let grid = Grid::flat(size[0] * (size[1] * 3).div_ceil(4));
    // SAFETY: as above.
    unsafe { gpu.launch(kernel, grid, arguments![raw, from, to, bad], &|| format!("a picture of {size:?}")) }
}

/// Writes 8-bit pictures, `[n][height][width][3]`, to images of the same size, each sample by its colour's `table`, f32 `[3][256]`.
///
/// # Errors
/// As [`from_samples`].
pub fn from_pixels(gpu: &Gpu, from: &Memory, table: Elements<'_>, x: ImageMut<'_>) -> Result<(), Error> {
    let Some(kernel) = variant!(x.dtype(), "from_pixels") else {
        return refuse!("from_pixels", "to {:?}", x.dtype());
    };
    x.check(kernel, "the images", 1)?;
    table.check(kernel, "the table", Some(3 * 256))?;
    let pixels = x.size.pixels();
    check_bytes(kernel, from, pixels.and_then(|pixels| pixels.checked_mul(3)))?;
    let pixels = pixels.unwrap_or(0);
    if x.size.channels != 3 || table.dtype() != DType::F32 || x.size.stride >= 1 << 20 || pixels == 0 {
        return refuse!(kernel, "{:?} to {:?}", table.dtype(), x.size);
    }
    let (count, stride) = (pixels as i64, x.size.stride as i32);
    let (from, table, to) = (from.pointer(), table.pointer(), x.elements.0.pointer());
    // SAFETY: the kernel takes these types; pictures, table and images were checked to lie in their memory.
    unsafe {
        gpu.launch(kernel, Grid::flat(pixels), arguments![count, stride, from, table, to], &|| format!("{:?}", x.size))
    }
}
