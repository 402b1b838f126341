//! Convolution as a matrix product over gathered patches; 1×1 kernels read the input rows as they are.
//!
//! Scratch of a thread: patches `[PIXELS][kernel height · kernel width · channels of a group]`, then, where there is more
//! than one group or operands are bf16, products `[PIXELS][output channels of a group]`.

use super::{ConvShape, Job, Numerics, pad_bias};
use crate::gemm::{Epilogue, PackedMatrix, Product, gemm, gemm_raw};
use crate::pool::SendPtr;
use crate::simd::{Kernel, Simd, dispatch_bf16, lanes};
use crate::{AlignedBuf, Cpu, Isa};

/// Output pixels of a task; a multiple of the rows of an AMX tile.
const PIXELS: usize = 48;
/// Lanes that a bf16 product may read beyond its last row.
const OVERREAD: usize = 16;

fn is_pointwise(s: &ConvShape) -> bool {
    s.kernel == [1; 2] && s.stride == [1; 2] && s.padding == [0; 2] && s.groups == 1
}

/// Weights as matrices, one a group: `[ky][kx][c] × [o]`.
#[derive(Clone, Debug)]
pub(super) struct Im2col {
    isa: Isa,
    shape: ConvShape,
    /// Pointwise with operands in bf16.
    bf16: bool,
    groups: Vec<PackedMatrix>,
    /// One bias a group, padded.
    bias: Vec<AlignedBuf>,
}

impl Im2col {
    pub(super) fn pack(
        isa: Isa,
        numerics: Numerics,
        shape: &ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
    ) -> Im2col {
        let bf16 = numerics == Numerics::Bf16 && is_pointwise(shape);
        let (cin, cout) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let taps = shape.kernel[0] * shape.kernel[1];
        let groups = (0..shape.groups).map(|g| {
            let element = |k: usize, o: usize| weights[((g * cout + o) * cin + k % cin) * taps + k / cin];
            if bf16 {
                PackedMatrix::pack_bf16(isa, cin, cout, element)
            } else {
                PackedMatrix::pack(isa, taps * cin, cout, element)
            }
        });
        let bias = (0..shape.groups).map(|g| pad_bias(isa, cout, bias.map(|b| &b[g * cout..][..cout])));
        Im2col { isa, shape: *shape, bf16, groups: groups.collect(), bias: bias.collect() }
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    fn pointwise(&self) -> bool {
        is_pointwise(&self.shape)
    }

    /// Floats that are read of each input pixel.
    pub(super) fn in_stride(&self) -> usize {
        let channels = self.shape.in_channels;
        if self.bf16 { channels.next_multiple_of(lanes(self.isa)) } else { channels }
    }

    pub(super) fn scratch_len(&self) -> usize {
        if self.bf16 {
            return PIXELS * (self.in_stride().div_ceil(2) + self.groups[0].padded_columns()) + OVERREAD;
        }
        if self.pointwise() {
            return 0;
        }
        let products = if self.shape.groups > 1 { self.groups[0].padded_columns() } else { 0 };
        PIXELS * (self.groups[0].k() + products)
    }

    pub(super) fn run(&self, cpu: &Cpu, job: &Job<'_>, scratch: &mut [f32]) {
        let blocks = job.out.width.div_ceil(PIXELS);
        let per_thread = self.scratch_len();
        let scratch = SendPtr(scratch.as_mut_ptr());
        cpu.pool.run(job.rows.len() * blocks, &|task, worker| {
            let (y, x) = (job.rows.start + task / blocks, task % blocks * PIXELS);
            let pixels = PIXELS.min(job.out.width - x);
            // SAFETY: each worker has its own `per_thread` floats; the caller checked that they are there.
            let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * per_thread), per_thread) };
            if self.bf16 {
                let block = Bf16Block { conv: self, job, y, x, pixels, scratch };
                // SAFETY: weights were packed for this instruction set; the block's pixels are this task's own.
                unsafe { dispatch_bf16(self.isa, block) }
            } else if self.shape.groups == 1 {
                self.block(job, y, x, pixels, scratch);
            } else {
                self.grouped_block(job, y, x, pixels, scratch);
            }
        });
    }

    fn block(&self, job: &Job<'_>, y: usize, x: usize, pixels: usize, scratch: &mut [f32]) {
        let matrix = &self.groups[0];
        let (a, lda) = if self.pointwise() {
            (&job.input.row(y)[x * job.input.stride()..], job.input.stride())
        } else {
            self.gather(job, y, x, pixels, 0, scratch);
            (&*scratch, matrix.k())
        };
        let mut epilogue = Epilogue { bias: &self.bias[0], slope: job.slope, ..Epilogue::NONE };
        if let Some(r) = &job.residual {
            epilogue.residual = &r.row(y)[x * r.stride()..];
            epilogue.residual_stride = r.stride();
        }
        // SAFETY: `a` holds `pixels` rows; the output's pixels `x..x + pixels` of row `y` are this task's own.
        unsafe { gemm_raw(pixels, a.as_ptr(), lda, matrix, job.out.pixel(y, x), job.out.stride, &epilogue) }
    }

    fn grouped_block(&self, job: &Job<'_>, y: usize, x: usize, pixels: usize, scratch: &mut [f32]) {
        let cout = self.shape.out_channels / self.shape.groups;
        for (g, (matrix, bias)) in self.groups.iter().zip(&self.bias).enumerate() {
            let (patches, products) = scratch.split_at_mut(PIXELS * matrix.k());
            self.gather(job, y, x, pixels, g, patches);
            let ldc = matrix.padded_columns();
            let epilogue = Epilogue { bias, slope: job.slope, ..Epilogue::NONE };
            gemm(pixels, patches, matrix.k(), matrix, products, ldc, &epilogue);
            for i in 0..pixels {
                let residual = job.residual.as_ref().map(|r| &r.row(y)[(x + i) * r.stride() + g * cout..]);
                for o in 0..cout {
                    let value = products[i * ldc + o] + residual.map_or(0.0, |r| r[o]);
                    // SAFETY: channel `g * cout + o` of this task's own pixel.
                    unsafe { *job.out.pixel(y, x + i).add(g * cout + o) = value }
                }
            }
        }
    }

    /// Writes the patches of output pixels `x..x + pixels` of row `y` as rows of a matrix.
    fn gather(&self, job: &Job<'_>, y: usize, x: usize, pixels: usize, group: usize, to: &mut [f32]) {
        let s = &self.shape;
        let channels = s.in_channels / s.groups;
        let (width, stride) = (job.input.width(), job.input.stride());
        let k = s.kernel[0] * s.kernel[1] * channels;
        // Taps side by side in memory are copied as one.
        let joined = s.dilation[1] == 1 && stride == channels;
        for ky in 0..s.kernel[0] {
            let row = (y * s.stride[0] + ky * s.dilation[0]).checked_sub(s.padding[0]).filter(|&y| y < job.height);
            let row = row.map(|y| job.input.row(y));
            let tap = ky * s.kernel[1] * channels;
            for i in 0..pixels {
                let to = &mut to[i * k + tap..][..s.kernel[1] * channels];
                let Some(row) = row else {
                    to.fill(0.0);
                    continue;
                };
                let left = (x + i) * s.stride[1];
                if joined && left >= s.padding[1] && left - s.padding[1] + s.kernel[1] <= width {
                    to.copy_from_slice(&row[(left - s.padding[1]) * channels..][..s.kernel[1] * channels]);
                    continue;
                }
                for (kx, to) in to.chunks_exact_mut(channels).enumerate() {
                    match (left + kx * s.dilation[1]).checked_sub(s.padding[1]).filter(|&x| x < width) {
                        Some(x) => to.copy_from_slice(&row[x * stride + group * channels..][..channels]),
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }
}

/// Some pixels of a row of a pointwise convolution with bf16 operands.
struct Bf16Block<'a> {
    conv: &'a Im2col,
    job: &'a Job<'a>,
    y: usize,
    x: usize,
    pixels: usize,
    scratch: &'a mut [f32],
}

impl Kernel for Bf16Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let Bf16Block { conv, job, y, x, pixels, scratch } = self;
        let (channels, columns) = (conv.in_stride(), conv.groups[0].padded_columns());
        let row_lanes = channels.div_ceil(2);
        let (patches, products) = scratch.split_at_mut(PIXELS * row_lanes + OVERREAD);
        let input = &job.input.row(y)[x * job.input.stride()..];
        // SAFETY: the input holds `pixels` pixels of `channels` floats, as `PackedConv::run` checked; the output's pixels
        // `x..x + pixels` are this task's own and hold `columns` floats.
        unsafe {
            for i in 0..pixels {
                let (from, to) = (input.as_ptr().add(i * job.input.stride()), patches.as_mut_ptr().add(i * row_lanes));
                for c in (0..channels).step_by(V::LANES) {
                    V::load(from.add(c)).store_bf16(to.cast::<u16>().add(c));
                }
            }
            // Products may read a little beyond the last row, against weights of zero.
            patches[pixels * row_lanes..][..OVERREAD].fill(0.0);
            let residual = job.residual.as_ref();
            let product = Product {
                m: pixels,
                a: patches.as_ptr(),
                lda: row_lanes,
                b: &conv.groups[0],
                c: products.as_mut_ptr(),
                ldc: columns,
                bias: conv.bias[0].as_ptr(),
                slope: job.slope,
                residual: residual.map_or(std::ptr::null(), |r| r.row(y)[x * r.stride()..].as_ptr()),
                ldr: residual.map_or(0, |r| r.stride()),
            };
            product.multiply::<V, true>();
            for i in 0..pixels {
                let (from, to) = (products.as_ptr().add(i * columns), job.out.pixel(y, x + i));
                for c in (0..columns).step_by(V::LANES) {
                    V::load(from.add(c)).store(to.add(c));
                }
            }
        }
    }
}
