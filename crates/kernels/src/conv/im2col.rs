//! Convolution as a matrix product over gathered patches; 1×1 kernels read the input rows as they are.
//!
//! Scratch of a thread: patches `[PIXELS][kernel height · kernel width · channels of a group]`, then, where there is more
//! than one group, products `[PIXELS][output channels of a group]`.

use super::{ConvShape, Job, pad_bias};
use crate::gemm::{Epilogue, PackedMatrix, gemm, gemm_raw};
use crate::pool::SendPtr;
use crate::{AlignedBuf, Cpu, Isa};

/// Output pixels of a task.
const PIXELS: usize = 48;

/// Weights as matrices, one a group: `[ky][kx][c] × [o]`.
#[derive(Clone, Debug)]
pub(super) struct Im2col {
    isa: Isa,
    shape: ConvShape,
    groups: Vec<PackedMatrix>,
    /// One bias a group, padded.
    bias: Vec<AlignedBuf>,
}

impl Im2col {
    pub(super) fn pack(isa: Isa, shape: &ConvShape, weights: &[f32], bias: Option<&[f32]>) -> Im2col {
        let (cin, cout) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let taps = shape.kernel[0] * shape.kernel[1];
        let groups = (0..shape.groups).map(|g| {
            PackedMatrix::pack(isa, taps * cin, cout, |k, o| {
                let (tap, c) = (k / cin, k % cin);
                weights[((g * cout + o) * cin + c) * taps + tap]
            })
        });
        let bias = (0..shape.groups).map(|g| pad_bias(isa, cout, bias.map(|b| &b[g * cout..][..cout])));
        Im2col { isa, shape: *shape, groups: groups.collect(), bias: bias.collect() }
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    fn pointwise(&self) -> bool {
        let s = &self.shape;
        s.kernel == [1; 2] && s.stride == [1; 2] && s.padding == [0; 2] && s.groups == 1
    }

    pub(super) fn scratch_len(&self) -> usize {
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
            if self.shape.groups == 1 {
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
