//! The gate of RLFN's enhanced spatial attention.
//!
//! It multiplies a feature map by a mask: `out = features · sigmoid(W·reduced + bias + resize(coarse))`, where
//! `coarse` is a small map, resized bilinearly with PyTorch's `align_corners=False`.
//!
//! | argument | shape |
//! |---|---|
//! | `features`, `out` | rows of `width` pixels of `channels` |
//! | `reduced` | rows of `width` pixels of `W.k()` channels |
//! | `coarse` | rows of the coarse width, of `channels` |

use crate::gemm::{PackedMatrix, Product};
use crate::math::sigmoid;
use crate::pool::SendPtr;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Rows, RowsMut};
use std::ops::Range;

/// Output pixels of a task.
const PIXELS: usize = 48;
/// Coarse columns that a task can read: as many as pixels, and one more at each end.
const CELLS: usize = PIXELS + 2;

/// Where one output row or column of a bilinear resize reads: `(1 - weight) · in[first] + weight · in[second]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lerp {
    /// Nearer to the start.
    pub first: usize,
    /// The next one, or the same at the end.
    pub second: usize,
    /// Share of `second`.
    pub weight: f32,
}

impl Lerp {
    /// The source of output sample `i` when `from` samples become `to`, with `align_corners=False`.
    pub fn at(i: usize, from: usize, to: usize) -> Lerp {
        let position = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let first = (position as usize).min(from - 1);
        Lerp { first, second: (first + 1).min(from - 1), weight: (position - first as f64) as f32 }
    }
}

/// The weights of a gate.
#[derive(Clone, Debug)]
pub struct Gate {
    /// `W`, reduced channels × channels.
    pub mix: PackedMatrix,
    /// Bias, padded to [`PackedMatrix::padded_columns`].
    pub bias: Vec<f32>,
}

impl Gate {
    /// Floats of scratch that [`run`](Self::run) needs.
    pub fn scratch_len(&self, cpu: &Cpu) -> usize {
        (PIXELS + CELLS) * self.mix.padded_columns() * cpu.threads()
    }

    /// Computes rows `rows`. `vertical(y)` says which coarse rows make row `y`, `horizontal[x]` which coarse columns make
    /// column `x`; consecutive columns must read the same or neighbouring coarse columns in ascending order.
    ///
    /// # Panics
    /// If shapes do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        cpu: &Cpu,
        features: Rows<'_>,
        reduced: Rows<'_>,
        coarse: Rows<'_>,
        vertical: &(dyn Fn(usize) -> Lerp + Sync),
        horizontal: &[Lerp],
        out: &mut RowsMut<'_>,
        rows: Range<usize>,
        scratch: &mut [f32],
    ) {
        let (width, channels) = (out.width(), self.mix.padded_columns());
        assert!(features.width() == width && reduced.width() == width && horizontal.len() == width, "gate: widths");
        assert!(
            [features.stride(), coarse.stride(), out.stride()].into_iter().all(|s| s >= channels)
                && reduced.stride() >= self.mix.k()
                && self.bias.len() >= channels,
            "gate: channels"
        );
        assert!(horizontal.iter().all(|l| l.first.max(l.second) < coarse.width()), "gate: coarse columns");
        assert!(scratch.len() >= self.scratch_len(cpu) && rows.len() <= out.capacity(), "gate: scratch or rows");
        let blocks = width.div_ceil(PIXELS);
        let per_thread = (PIXELS + CELLS) * channels;
        let scratch = SendPtr(scratch.as_mut_ptr());
        let (out_base, out_stride) = (SendPtr(out.as_mut_ptr()), out.stride());
        let out = &*out;
        cpu.pool.run(rows.len() * blocks, &|task, worker| {
            let (y, x) = (rows.start + task / blocks, task % blocks * PIXELS);
            let lerp = vertical(y);
            let block = GateBlock {
                gate: self,
                features: &features.row(y)[x * features.stride()..],
                feature_stride: features.stride(),
                reduced: &reduced.row(y)[x * reduced.stride()..],
                reduced_stride: reduced.stride(),
                coarse: [coarse.row(lerp.first), coarse.row(lerp.second)],
                coarse_stride: coarse.stride(),
                weight: lerp.weight,
                columns: &horizontal[x..width.min(x + PIXELS)],
                // SAFETY: row `y` lies in the buffer, and `scratch` has a part for each worker.
                out: unsafe { out_base.get().add(out.offset(y) + x * out_stride) },
                out_stride,
                // SAFETY: as above.
                scratch: unsafe { scratch.get().add(worker * per_thread) },
            };
            // SAFETY: `mix` was packed for this instruction set; shapes were checked; tasks write disjoint pixels.
            unsafe { dispatch(self.mix.isa(), block) }
        });
    }
}

struct GateBlock<'a> {
    gate: &'a Gate,
    features: &'a [f32],
    feature_stride: usize,
    reduced: &'a [f32],
    reduced_stride: usize,
    coarse: [&'a [f32]; 2],
    coarse_stride: usize,
    weight: f32,
    columns: &'a [Lerp],
    out: *mut f32,
    out_stride: usize,
    scratch: *mut f32,
}

impl Kernel for GateBlock<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let channels = self.gate.mix.padded_columns();
        let pixels = self.columns.len();
        let first = self.columns[0].first;
        let cells = self.columns[pixels - 1].second - first + 1;
        assert!(cells <= CELLS, "gate: the coarse map is finer than the features");
        // SAFETY: slices were cut to hold `pixels` pixels; scratch holds the mask and the coarse row.
        unsafe {
            let mask = self.scratch;
            Product {
                m: pixels,
                a: self.reduced.as_ptr(),
                lda: self.reduced_stride,
                b: &self.gate.mix,
                c: mask,
                ldc: channels,
                bias: self.gate.bias.as_ptr(),
                slope: 1.0,
                residual: std::ptr::null(),
                ldr: 0,
            }
            .run::<V>();
            let [upper, lower] = self.coarse.map(|row| row.as_ptr().add(first * self.coarse_stride));
            let blended = mask.add(PIXELS * channels);
            let down = V::splat(self.weight);
            for cell in 0..cells {
                for c in (0..channels).step_by(V::LANES) {
                    let at = cell * self.coarse_stride + c;
                    let (a, b) = (V::load(upper.add(at)), V::load(lower.add(at)));
                    b.sub(a).mul_add(down, a).store(blended.add(cell * channels + c));
                }
            }
            for (i, lerp) in self.columns.iter().enumerate() {
                let right = V::splat(lerp.weight);
                let (a, b) = (lerp.first - first, lerp.second - first);
                let (a, b) = (blended.add(a * channels), blended.add(b * channels));
                for c in (0..channels).step_by(V::LANES) {
                    let (a, b) = (V::load(a.add(c)), V::load(b.add(c)));
                    let z = V::load(mask.add(i * channels + c)).add(b.sub(a).mul_add(right, a));
                    let x = V::load(self.features.as_ptr().add(i * self.feature_stride + c));
                    x.mul(sigmoid(z)).store(self.out.add(i * self.out_stride + c));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{close, noise};

    #[test]
    fn lerp_follows_align_corners_false() {
        assert_eq!(Lerp::at(0, 2, 4), Lerp { first: 0, second: 1, weight: 0.0 });
        assert_eq!(Lerp::at(1, 2, 4), Lerp { first: 0, second: 1, weight: 0.25 });
        assert_eq!(Lerp::at(3, 2, 4), Lerp { first: 1, second: 1, weight: 0.25 });
        assert_eq!(Lerp::at(5, 1, 7), Lerp { first: 0, second: 0, weight: 0.285_714_3 });
    }

    #[test]
    fn gate_equals_the_formula() {
        for isa in Isa::available() {
            for (width, coarse_width, channels) in [(1, 1, 48), (15, 1, 46), (50, 7, 48), (101, 15, 52), (120, 119, 16)]
            {
                let cpu = Cpu::new(isa, 3);
                let stride = channels + 16 - channels % 16;
                let (k, height, coarse_height) = (16, 3, 2);
                let mix = noise(k * channels, 1);
                let gate = Gate {
                    mix: PackedMatrix::pack(isa, k, channels, |i, j| mix[i * channels + j]),
                    bias: noise(stride, 2),
                };
                let features = noise(height * width * stride, 3);
                let reduced = noise(height * width * k, 4);
                let coarse = noise(coarse_height * coarse_width * stride, 5);
                let horizontal: Vec<Lerp> = (0..width).map(|x| Lerp::at(x, coarse_width, width)).collect();
                let mut out = vec![0.0; height * width * stride];
                gate.run(
                    &cpu,
                    Rows::new(&features, height, width, stride),
                    Rows::new(&reduced, height, width, k),
                    Rows::new(&coarse, coarse_height, coarse_width, stride),
                    &|y| Lerp::at(y, coarse_height, height),
                    &horizontal,
                    &mut RowsMut::new(&mut out, height, width, stride),
                    0..height,
                    &mut vec![0.0; gate.scratch_len(&cpu)],
                );
                for y in 0..height {
                    for x in 0..width {
                        for c in 0..channels {
                            let (v, h) = (Lerp::at(y, coarse_height, height), horizontal[x]);
                            let cell = |y: usize, x: usize| f64::from(coarse[(y * coarse_width + x) * stride + c]);
                            let blend = |y: usize| {
                                cell(y, h.first) * (1.0 - f64::from(h.weight)) + cell(y, h.second) * f64::from(h.weight)
                            };
                            let up =
                                blend(v.first) * (1.0 - f64::from(v.weight)) + blend(v.second) * f64::from(v.weight);
                            let sum: f64 = (0..k)
                                .map(|i| f64::from(reduced[(y * width + x) * k + i]) * f64::from(mix[i * channels + c]))
                                .sum();
                            let z = up + sum + f64::from(gate.bias[c]);
                            let at = (y * width + x) * stride + c;
                            let wanted = f64::from(features[at]) / (1.0 + (-z).exp());
                            close(&[out[at]], &[wanted as f32], 2e-6, &format!("{isa} {width} at {y},{x},{c}"));
                        }
                    }
                }
            }
        }
    }
}
