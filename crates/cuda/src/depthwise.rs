//! Depthwise convolution in f16 or bf16, with padding of its own on each side and a range that results are clamped to.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, Error, Gpu, Image, ImageMut};

/// How a depthwise convolution moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depthwise {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step along both sides.
    pub stride: usize,
    /// Rows of zeros above and columns at the left; what is missing below and at the right is zero too.
    pub before: [usize; 2],
    /// Lowest and highest result.
    pub range: (f32, f32),
}

/// Results of a row that a thread makes.
const STRIP: usize = 4;

impl Depthwise {
    /// The kernel for this size and type, if there is one.
    fn variant(&self, dtype: DType) -> Option<&'static str> {
        Some(match (self.kernel, self.stride, dtype) {
            (3, 1, DType::F16) => "depthwise_3_1_f16",
            (3, 2, DType::F16) => "depthwise_3_2_f16",
            (5, 1, DType::F16) => "depthwise_5_1_f16",
            (5, 2, DType::F16) => "depthwise_5_2_f16",
            (7, 1, DType::F16) => "depthwise_7_1_f16",
            (3, 1, DType::BF16) => "depthwise_3_1_bf16",
            (3, 2, DType::BF16) => "depthwise_3_2_bf16",
            (5, 1, DType::BF16) => "depthwise_5_1_bf16",
            (5, 2, DType::BF16) => "depthwise_5_2_bf16",
            (7, 1, DType::BF16) => "depthwise_7_1_bf16",
            _ => return None,
        })
    }

    /// Whether there is a kernel for this size and type.
    pub fn is_supported(&self, dtype: DType) -> bool {
        self.variant(dtype).is_some()
    }

    /// `y = clamp(bias + taps * x)`. `taps` are f32 `[kernel²][channels rounded up to 8]`, `bias` is as wide.
    ///
    /// # Errors
    /// If there is no kernel for it, sizes do not fit each other, or something does not lie within its memory.
    pub fn run(
        &self,
        gpu: &Gpu,
        x: Image<'_>,
        taps: Elements<'_>,
        bias: Elements<'_>,
        y: ImageMut<'_>,
    ) -> Result<(), Error> {
        let Some(kernel) = self.variant(x.dtype()) else {
            return refuse!("depthwise", "{self:?} in {:?} has no kernel", x.dtype());
        };
        x.check(kernel, "the input", 8)?;
        y.check(kernel, "the result", 8)?;
        let padded = x.size.channels.next_multiple_of(8);
        taps.check(kernel, "the taps", padded.checked_mul(self.kernel * self.kernel))?;
        bias.check(kernel, "the bias", Some(padded))?;
        let even = |elements: &Elements<'_>, stride: usize| elements.is_aligned(16) && stride.is_multiple_of(8);
        let fits = (x.size.n, x.size.channels, x.dtype()) == (y.size.n, y.size.channels, y.dtype())
            && [taps, bias].iter().all(|e| e.dtype() == DType::F32 && e.is_aligned(16))
            && even(&x.elements, x.size.stride)
            && even(&y.elements.0, y.size.stride)
            && self.before.iter().all(|&side| side < self.kernel);
        if !fits {
            return refuse!(kernel, "{self:?}: {:?} to {:?}", x.size, y.size);
        }
        let raw = Raw {
            n: x.size.n as i32,
            height: x.size.height as i32,
            width: x.size.width as i32,
            out_height: y.size.height as i32,
            out_width: y.size.width as i32,
            groups: (padded / 8) as i32,
            top: self.before[0] as i32,
            left: self.before[1] as i32,
            x_stride: x.size.stride as i64,
            y_stride: y.size.stride as i64,
            lowest: self.range.0,
            highest: self.range.1,
        };
        let strips = y.size.n * y.size.height * y.size.width.div_ceil(STRIP) * (padded / 8);
        if strips == 0 {
            return Ok(());
        }
        let [from, taps, bias, to] = [x.elements.pointer(), taps.pointer(), bias.pointer(), y.elements.0.pointer()];
        // SAFETY: the kernel takes these types; images, taps and bias were checked to lie in their memory.
        unsafe {
            gpu.launch(kernel, Grid::flat(strips), arguments![raw, from, taps, bias, to], &|| {
                format!("{:?} to {:?}", x.size, y.size)
            })
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    n: i32,
    height: i32,
    width: i32,
    out_height: i32,
    out_width: i32,
    groups: i32,
    top: i32,
    left: i32,
    x_stride: i64,
    y_stride: i64,
    lowest: f32,
    highest: f32,
}
