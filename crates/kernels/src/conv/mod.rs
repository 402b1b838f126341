//! Two-dimensional convolution of channels-last rows, on weights packed once at load time.
//!
//! `out[y][x][o] = leaky_relu(bias[o] + Σ in[y·s + ky·d − p][x·s + kx·d − p][c] · w[o][c][ky][kx]) + residual[y][x][o]`
//!
//! | argument | shape |
//! |---|---|
//! | weights | `[out_channels][in_channels / groups][kernel height][kernel width]` |
//! | input | rows of `width` pixels, at least `in_channels` floats each |
//! | output | rows of the output's width, `out_channels` rounded up to whole vectors, or more, floats a pixel |
//!
//! Pixels outside the picture count as zero. The way to compute is chosen when the weights are packed:
//!
//! * `winograd`: 3×3, stride 1, dense — 2.25 or fewer multiplications an output instead of 9;
//! * pointwise: 1×1 — one matrix product straight from the input rows;
//! * [`depthwise`]: one filter a channel, stride 1;
//! * `im2col`: everything else — patches gathered into scratch, then a matrix product.
//!
//! Every output is the same sum in the same order whatever the split into rows, columns and threads.

pub mod depthwise;
mod im2col;
mod reference;
mod winograd;

use crate::pool::SendPtr;
use crate::{Cpu, Isa, Rows, RowsMut};
#[cfg(not(best_isa_only))]
use depthwise::PackedDepthwise;
use im2col::Im2col;
pub use reference::conv2d_reference;
use std::ops::Range;
pub use winograd::Numerics;
use winograd::Winograd;

/// What kind of convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, columns of zeros left and right.
    pub padding: [usize; 2],
    /// Vertical and horizontal distance of kernel taps.
    pub dilation: [usize; 2],
    /// Channels are split into this many groups that do not see each other.
    pub groups: usize,
}

impl ConvShape {
    /// A square kernel with stride 1 that keeps the picture's size.
    pub fn same(in_channels: usize, out_channels: usize, kernel: usize) -> ConvShape {
        ConvShape {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
        }
    }

    /// Height and width of the output for an input of `height` × `width`; `None` if the kernel does not fit.
    pub fn output_size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let side = |i: usize, n: usize| {
            let reach = self.dilation[i].checked_mul(self.kernel[i].checked_sub(1)?)?.checked_add(1)?;
            let room = self.padding[i].checked_mul(2)?.checked_add(n)?.checked_sub(reach)?;
            Some(room.checked_div(self.stride[i])? + 1)
        };
        Some((side(0, height)?, side(1, width)?))
    }

    /// Whether the parts fit each other.
    pub fn is_valid(&self) -> bool {
        let channels = self.in_channels > 0 && self.out_channels > 0 && self.groups > 0;
        let steps = [self.kernel, self.stride, self.dilation].iter().flatten().all(|&n| n > 0);
        channels
            && steps
            && self.in_channels.is_multiple_of(self.groups)
            && self.out_channels.is_multiple_of(self.groups)
    }

    /// Number of weights; `None` if that overflows.
    pub fn weight_len(&self) -> Option<usize> {
        let per_output = (self.in_channels / self.groups).checked_mul(self.kernel[0])?.checked_mul(self.kernel[1])?;
        per_output.checked_mul(self.out_channels)
    }
}

/// A convolution's weights, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedConv {
    shape: ConvShape,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Winograd(Winograd),
    #[cfg(not(best_isa_only))]
    Depthwise(PackedDepthwise),
    Im2col(Im2col),
}

impl PackedConv {
    /// Packs `weights` (`[out][in / groups][height][width]`) and `bias` (`[out]`) for the fastest way to compute that
    /// rounds no worse than the direct form.
    ///
    /// # Panics
    /// If the shape is not valid or a slice has another length than the shape says.
    pub fn pack(isa: Isa, shape: &ConvShape, weights: &[f32], bias: Option<&[f32]>) -> PackedConv {
        PackedConv::pack_with(isa, Numerics::Strict, shape, weights, bias)
    }

    /// [`pack`](Self::pack) with a choice of numerics: for those convolutions that are computed by Winograd's method, and for
    /// pointwise ones, which take bf16 too.
    ///
    /// # Panics
    /// As [`pack`](Self::pack).
    pub fn pack_with(
        isa: Isa,
        numerics: Numerics,
        shape: &ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
    ) -> PackedConv {
        let dense = shape.stride == [1; 2] && shape.dilation == [1; 2] && shape.groups == 1;
        if dense && shape.kernel == [3; 2] && shape.padding == [1; 2] && shape.in_channels >= 8 {
            check_arguments(shape, weights, bias);
            return PackedConv {
                shape: *shape,
                way: Way::Winograd(Winograd::pack(isa, numerics, shape, weights, bias)),
            };
        }
        check_arguments(shape, weights, bias);
        #[cfg(not(best_isa_only))] // the other way does for the few of them
        if PackedDepthwise::takes(shape) {
            let ConvShape { kernel, dilation, padding, .. } = *shape;
            let packed = PackedDepthwise::pack(isa, shape.groups, kernel, dilation, padding, weights, bias);
            return PackedConv { shape: *shape, way: Way::Depthwise(packed) };
        }
        PackedConv { shape: *shape, way: Way::Im2col(Im2col::pack(isa, numerics, shape, weights, bias)) }
    }

    /// Packs for a way in which an output depends on nothing but the inputs in its reach, to the last bit. (Winograd's
    /// rounding depends on a whole tile of inputs.)
    ///
    /// # Panics
    /// As [`pack`](Self::pack).
    pub fn pack_direct(isa: Isa, shape: &ConvShape, weights: &[f32], bias: Option<&[f32]>) -> PackedConv {
        check_arguments(shape, weights, bias);
        PackedConv { shape: *shape, way: Way::Im2col(Im2col::pack(isa, Numerics::Strict, shape, weights, bias)) }
    }

    /// The shape that it was packed for.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Floats of scratch that [`run`](Self::run) needs on `cpu`.
    pub fn scratch_len(&self, cpu: &Cpu) -> usize {
        let per_thread = match &self.way {
            Way::Winograd(w) => w.scratch_len(),
            #[cfg(not(best_isa_only))]
            Way::Depthwise(_) => 0,
            Way::Im2col(w) => w.scratch_len(),
        };
        per_thread * cpu.threads()
    }

    /// Output rows are computed in steps of this many, counted from the top of the picture; ranges that start and end
    /// on a step waste nothing.
    pub fn row_step(&self) -> usize {
        match &self.way {
            Way::Winograd(w) => w.numerics().tile_side(),
            _ => 1,
        }
    }

    /// Computes output rows `rows` of a picture of `height` input rows.
    ///
    /// `slope` is that of the leaky ReLU (1 for none); `residual`, of the output's shape, is added after it. Input rows
    /// that lie in the picture and in reach of `rows` must be held by `input`.
    ///
    /// # Panics
    /// If shapes do not fit: output width, pixel strides, rows outside the output, too little scratch.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        cpu: &Cpu,
        input: Rows<'_>,
        height: usize,
        out: &mut RowsMut<'_>,
        rows: Range<usize>,
        slope: f32,
        residual: Option<Rows<'_>>,
        scratch: &mut [f32],
    ) {
        if rows.is_empty() || out.width() == 0 {
            return;
        }
        let shape = &self.shape;
        let (out_height, out_width) = shape.output_size(height, input.width()).expect("kernel fits the picture");
        assert_eq!(out.width(), out_width, "convolution: output width");
        assert!(rows.end <= out_height, "convolution: rows {rows:?} of {out_height}");
        assert!(rows.len() <= out.capacity(), "convolution: more rows than the output holds");
        let stride = match &self.way {
            Way::Winograd(w) => w.padded_in(),
            #[cfg(not(best_isa_only))]
            Way::Depthwise(w) => w.padded_channels(),
            Way::Im2col(w) => w.in_stride(),
        };
        assert!(input.stride() >= stride, "convolution: input pixel stride {} below {stride}", input.stride());
        let padded = shape.out_channels.next_multiple_of(crate::simd::lanes(self.isa()));
        assert!(out.stride() >= padded, "convolution: output pixel stride {} below {padded}", out.stride());
        if let Some(r) = &residual {
            assert!(r.width() == out_width && r.stride() >= padded, "convolution: residual shape");
        }
        assert!(scratch.len() >= self.scratch_len(cpu), "convolution: scratch");
        let job = |out| Job { input, height, out: Out::new(out), rows: rows.clone(), slope, residual };
        match &self.way {
            Way::Winograd(w) => w.run(cpu, &job(out), scratch),
            #[cfg(not(best_isa_only))]
            Way::Depthwise(w) => w.run(cpu, input, height, out, rows, slope, residual),
            Way::Im2col(w) => w.run(cpu, &job(out), scratch),
        }
    }

    fn isa(&self) -> Isa {
        match &self.way {
            Way::Winograd(w) => w.isa(),
            #[cfg(not(best_isa_only))]
            Way::Depthwise(w) => w.isa(),
            Way::Im2col(w) => w.isa(),
        }
    }
}

fn check_arguments(shape: &ConvShape, weights: &[f32], bias: Option<&[f32]>) {
    assert!(shape.is_valid(), "convolution of shape {shape:?}");
    assert_eq!(Some(weights.len()), shape.weight_len(), "convolution weights for {shape:?}");
    assert!(bias.is_none_or(|b| b.len() == shape.out_channels), "convolution bias for {shape:?}");
}

/// One call's arguments, checked.
struct Job<'a> {
    input: Rows<'a>,
    height: usize,
    out: Out,
    rows: Range<usize>,
    slope: f32,
    residual: Option<Rows<'a>>,
}

/// Output rows that several threads write, each its own pixels.
#[derive(Clone, Copy)]
struct Out {
    base: SendPtr<f32>,
    capacity: usize,
    width: usize,
    stride: usize,
}

impl Out {
    fn new(rows: &mut RowsMut<'_>) -> Out {
        let (capacity, width, stride) = (rows.capacity(), rows.width(), rows.stride());
        Out { base: SendPtr(rows.as_mut_ptr()), capacity, width, stride }
    }

    /// Pixel `x` of row `y`.
    fn pixel(&self, y: usize, x: usize) -> *mut f32 {
        // In bounds of the buffer that `RowsMut` checked, for `x <= width`.
        self.base.get().wrapping_add(((y % self.capacity) * self.width + x) * self.stride)
    }
}

/// Bias padded to whole vectors, zeros where there is none.
fn pad_bias(isa: Isa, channels: usize, bias: Option<&[f32]>) -> crate::AlignedBuf {
    let mut padded = crate::AlignedBuf::zeroed(channels.next_multiple_of(crate::simd::lanes(isa)));
    if let Some(bias) = bias {
        padded[..channels].copy_from_slice(bias);
    }
    padded
}

#[cfg(test)]
mod tests;
