//! The product in half precision, for ARM CPUs that compute with vectors of it (FEAT_FP16): eight lanes a multiply-add
//! instead of four.
//!
//! Input, bias, sums and output stay `f32`. A tile of pixels of all columns is rounded to half precision and put into
//! neighbouring memory once, then all blocks pass over it. Products are added up in half precision for [`RUN`] entries at
//! a time, and those sums in `f32`: so an error does not grow with the number of columns.
//!
//! Values beyond ±65504 become infinite, and those below 6e-8 zero.

/// Entries whose products are added up in half precision.
#[cfg(any(target_arch = "aarch64", test))]
const RUN: usize = 64;

/// The block size to pack dense weights with that go to half precision, and the largest that there is a kernel for.
pub const HALF_BLOCK: usize = 8;

/// Whether there is a kernel for blocks of `block` channels.
pub(super) fn has_kernel(block: usize) -> bool {
    matches!(block, 4 | HALF_BLOCK)
}

/// Pixels of a tile for blocks of `block` channels: 3·8 or 4·4 sums of eight lanes, the pixels of a column and its weights
/// fit the 32 registers. (4·8 would leave none for pixels.)
pub(super) fn pixels(block: usize) -> usize {
    if block == HALF_BLOCK { 24 } else { 32 }
}

/// `value` rounded to half precision, ties to even.
pub(super) fn bits(value: f32) -> u16 {
    let all = value.to_bits();
    let (sign, magnitude) = ((all >> 16 & 0x8000) as u16, all & 0x7fff_ffff);
    let rounded = match magnitude {
        0x7f80_0001.. => 0x7e00, // NaN
        0x477f_f000.. => 0x7c00, // 65520 and beyond
        0x3880_0000.. => {
            let rebiased = magnitude - (112 << 23);
            (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13
        }
        // Below 2^-14 a step is 2^-24: added to 0.5, a float's last bit is worth that, and the addition rounds.
        _ => (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits(),
    };
    sign | rounded as u16
}

#[cfg(target_arch = "aarch64")]
pub(super) use kernel::multiply;

#[cfg(target_arch = "aarch64")]
mod kernel {
    use super::super::{Epilogue, PackedSparse, Product};
    use super::{HALF_BLOCK, RUN, pixels};
    use crate::simd::{F32x4, Simd};
    use std::arch::aarch64::*;
    use std::ops::Range;

    /// Lanes of a vector.
    const LANES: usize = 8;
    /// Sums of the largest tile.
    const SUMS: usize = 24 * HALF_BLOCK;

    /// The product of `packed`, whose weights are in half precision, for `blocks` of it.
    ///
    /// # Safety
    /// The CPU must have FEAT_FP16; otherwise as for `multiply_at`, whose checks must have passed.
    pub unsafe fn multiply(
        packed: &PackedSparse,
        product: Product,
        input: &[f32],
        output: *mut f32,
        epilogue: Epilogue<'_>,
        blocks: Range<usize>,
        gathered: *mut f32,
    ) {
        let tiles = Tiles { packed, product, input, output, epilogue, blocks, gathered: gathered.cast() };
        // SAFETY: the caller's promise; a block has as many channels as the kernel takes.
        unsafe {
            match packed.block() {
                8 => tiles.all::<3, 8>(),
                _ => tiles.all::<4, 4>(),
            }
        }
    }

    struct Tiles<'a> {
        packed: &'a PackedSparse,
        product: Product,
        input: &'a [f32],
        output: *mut f32,
        epilogue: Epilogue<'a>,
        blocks: Range<usize>,
        /// `[columns][pixels]` in half precision.
        gathered: *mut u16,
    }

    impl Tiles<'_> {
        /// All pixels in tiles of `NV` vectors, the last of fewer.
        #[target_feature(enable = "fp16")]
        unsafe fn all<const NV: usize, const B: usize>(&self) {
            let Product { rows, width, .. } = self.product;
            for row in 0..rows {
                for x in (0..width).step_by(NV * LANES) {
                    let count = (width - x).min(NV * LANES);
                    // SAFETY: the pixels are those of the row.
                    unsafe {
                        match count.div_ceil(LANES) {
                            1 => self.tile::<1, B>(row, x, count),
                            2 => self.tile::<2, B>(row, x, count),
                            3 => self.tile::<3, B>(row, x, count),
                            _ => self.tile::<NV, B>(row, x, count),
                        }
                    }
                }
            }
        }

        /// Pixels `x .. x + count` of a row, `NV` vectors of which the last may be partly filled.
        #[target_feature(enable = "fp16")]
        unsafe fn tile<const NV: usize, const B: usize>(&self, row: usize, x: usize, count: usize) {
            let stride = pixels(B);
            // SAFETY: a vector ends within the padding of the input; there is room for a tile of all columns.
            unsafe {
                let from = self.input.as_ptr().add(row * self.product.input_row + x);
                for (column, &offset) in self.packed.columns_at.iter().enumerate() {
                    let (from, to) = (from.add(offset as usize), self.gathered.add(column * stride));
                    for j in 0..NV {
                        let low = vcvt_f16_f32(vld1q_f32(from.add(j * LANES)));
                        let all = vcvt_high_f16_f32(low, vld1q_f32(from.add(j * LANES + 4)));
                        vst1q_u16(to.add(j * LANES), vreinterpretq_u16_f16(all));
                    }
                }
                for block in self.blocks.clone() {
                    self.block::<NV, B>(block, row * self.product.output_row + x, count);
                }
            }
        }

        /// The channels of `block`: `count` pixels from `pixel` of the output on.
        #[target_feature(enable = "fp16")]
        unsafe fn block<const NV: usize, const B: usize>(&self, block: usize, pixel: usize, count: usize) {
            let mut sums = [0.0f32; SUMS];
            for (sums, &bias) in sums.chunks_exact_mut(NV * LANES).zip(&self.packed.bias[block * B..][..B]) {
                sums.fill(bias);
            }
            let (offsets, weights) = self.packed.half_entries(block);
            for (offsets, weights) in offsets.chunks(RUN).zip(weights.chunks(RUN * B)) {
                // SAFETY: the caller's promise: offsets lie within the gathered tile.
                unsafe { self.run::<NV, B>(offsets, weights, &mut sums) };
            }
            let channels = (self.packed.out_channels() - block * B).min(B);
            for (i, sums) in sums.chunks_exact(NV * LANES).enumerate().take(channels) {
                let at = (block * B + i) * self.product.output_plane + pixel;
                // SAFETY: `count` pixels of this channel are writable, and in the residual if there is one.
                unsafe { self.finish(&sums[..count], at) };
            }
        }

        /// Adds the products of some entries to `sums`, `[B][NV · LANES]`.
        #[target_feature(enable = "fp16")]
        #[inline]
        unsafe fn run<const NV: usize, const B: usize>(
            &self,
            offsets: &[u32],
            weights: &[u16],
            sums: &mut [f32; SUMS],
        ) {
            // SAFETY: an entry has `B` weights and `NV` vectors of pixels in the gathered tile; `B · NV · LANES` sums there
            // are.
            unsafe {
                let mut run = [[vreinterpretq_f16_u16(vdupq_n_u16(0)); NV]; B];
                let mut weight = weights.as_ptr();
                for &offset in offsets {
                    let from = self.gathered.add(offset as usize);
                    let mut x = [vreinterpretq_f16_u16(vdupq_n_u16(0)); NV];
                    for (j, x) in x.iter_mut().enumerate() {
                        *x = vreinterpretq_f16_u16(vld1q_u16(from.add(j * LANES)));
                    }
                    if B == 8 {
                        let w = vreinterpretq_f16_u16(vld1q_u16(weight));
                        for j in 0..NV {
                            run[0][j] = vfmaq_laneq_f16::<0>(run[0][j], x[j], w);
                            run[1][j] = vfmaq_laneq_f16::<1>(run[1][j], x[j], w);
                            run[2][j] = vfmaq_laneq_f16::<2>(run[2][j], x[j], w);
                            run[3][j] = vfmaq_laneq_f16::<3>(run[3][j], x[j], w);
                            run[4 % B][j] = vfmaq_laneq_f16::<4>(run[4 % B][j], x[j], w);
                            run[5 % B][j] = vfmaq_laneq_f16::<5>(run[5 % B][j], x[j], w);
                            run[6 % B][j] = vfmaq_laneq_f16::<6>(run[6 % B][j], x[j], w);
                            run[7 % B][j] = vfmaq_laneq_f16::<7>(run[7 % B][j], x[j], w);
                        }
                    } else {
                        let w = vreinterpret_f16_u16(vld1_u16(weight));
                        for j in 0..NV {
                            run[0][j] = vfmaq_lane_f16::<0>(run[0][j], x[j], w);
                            run[1][j] = vfmaq_lane_f16::<1>(run[1][j], x[j], w);
                            run[2][j] = vfmaq_lane_f16::<2>(run[2][j], x[j], w);
                            run[3][j] = vfmaq_lane_f16::<3>(run[3][j], x[j], w);
                        }
                    }
                    weight = weight.add(B);
                }
                for (sums, run) in sums.chunks_exact_mut(NV * LANES).zip(run) {
                    for (sums, run) in sums.chunks_exact_mut(LANES).zip(run) {
                        let (low, high) = (sums.as_mut_ptr(), sums.as_mut_ptr().add(4));
                        vst1q_f32(low, vaddq_f32(vld1q_f32(low), vcvt_f32_f16(vget_low_f16(run))));
                        vst1q_f32(high, vaddq_f32(vld1q_f32(high), vcvt_high_f32_f16(run)));
                    }
                }
            }
        }

        /// Clamps, adds the residual, and stores pixels from `at` on.
        unsafe fn finish(&self, sums: &[f32], at: usize) {
            // SAFETY: every 64-bit ARM CPU has these vectors; no more is read and written than there are sums.
            unsafe {
                let (low, high) = (F32x4::splat(self.epilogue.range.0), F32x4::splat(self.epilogue.range.1));
                for (i, sums) in sums.chunks(F32x4::LANES).enumerate() {
                    let at = at + i * F32x4::LANES;
                    // In this order NaN passes.
                    let mut value = high.min(low.max(F32x4::load_first(sums.as_ptr(), sums.len())));
                    if let Some((residual, (low, high))) = self.epilogue.residual {
                        let other = F32x4::load_first(residual.as_ptr().add(at), sums.len());
                        value = F32x4::splat(high).min(F32x4::splat(low).max(value.add(other)));
                    }
                    value.store_first(self.output.add(at), sums.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BLOCKS, Epilogue, PADDING, PackedSparse, Product, multiply, plane_len};
    use super::super::{Feed, Phases, PlanarDepthwise, SparseLayer};
    use super::*;
    use crate::isa::has_fp16;
    use crate::testing::noise;
    use crate::{AlignedBuf, Isa, ThreadPool};

    /// What half precision `bits` stand for.
    fn value(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
        };
        if bits >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn halves_are_the_nearest() {
        // Each half is itself; just below and above the middle of two neighbours is the nearer one, the middle the even one.
        for half in 0..0x7c00u16 {
            let (this, next) = (value(half), value(half + 1));
            assert_eq!(bits(this as f32), half);
            assert_eq!(bits(-this as f32), half | 0x8000);
            let middle = if next.is_finite() { (this + next) / 2.0 } else { 65520.0 } as f32;
            assert_eq!(bits(middle), half + (half & 1), "{middle}");
            assert_eq!(bits(middle.next_down()), half, "{middle}");
            assert_eq!(bits(middle.next_up()), half + 1, "{middle}");
        }
        assert_eq!([f32::INFINITY, 1e30, -1e30, 1e-30].map(bits), [0x7c00, 0x7c00, 0xfc00, 0]);
        assert!(value(bits(f32::NAN)).is_nan());
    }

    #[test]
    fn only_cpus_that_compute_in_half_precision_do() {
        for isa in Isa::available() {
            for block in BLOCKS {
                let packed = PackedSparse::pack(isa, &[1.0; 64], &[0.0; 8], 8, block).in_half();
                let expected = isa == Isa::Neon && has_fp16() && block >= 4;
                assert_eq!(packed.is_half(), expected, "{isa} {block}");
            }
        }
        println!("fp16: {}", has_fp16());
    }

    /// On other CPUs this is the product in `f32`, which is nearer still.
    #[test]
    fn products_are_near_those_of_rounded_numbers() {
        for (out, columns, pixels) in [(1, 1, 1), (7, 5, 3), (32, 27, 196), (13, 300, 61), (40, 9, 49), (16, 640, 31)] {
            for block in [4, 8, 16, 32] {
                let mut weights = noise(out * columns, 3);
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight *= f32::from(u8::from((i / columns / block + i % columns) % 3 != 0));
                }
                let (bias, plane) = (noise(out, 7), plane_len(pixels));
                let input = noise(columns * plane + PADDING, 11);
                let residual = noise(out * plane, 13);
                let packed = PackedSparse::pack(Isa::detect(), &weights, &bias, columns, block);
                let mut packed = packed.in_half();
                packed.place(|column| column * plane, false);
                for residual in [None, Some((&residual[..], (-2.0, 3.0)))] {
                    let (mut output, mut off) = (vec![99.0; out * plane], 0.0f64);
                    let epilogue = Epilogue { range: (-3.0, 4.0), residual };
                    let product = Product { rows: 1, width: pixels, input_row: 0, output_row: 0, output_plane: plane };
                    // In two parts, which must not disturb each other.
                    let middle = packed.blocks() / 2;
                    multiply(&packed, product, &input, &mut output, epilogue, middle..packed.blocks());
                    multiply(&packed, product, &input, &mut output, epilogue, 0..middle);
                    for (i, &got) in output.iter().enumerate() {
                        let (o, p) = (i / plane, i % plane);
                        if p >= pixels {
                            assert_eq!(got, 99.0, "{block}: wrote pixel {p} of {pixels}");
                            continue;
                        }
                        let half = |number: f32| if packed.is_half() { value(bits(number)) } else { f64::from(number) };
                        let products =
                            (0..columns).map(|c| half(weights[o * columns + c]) * half(input[c * plane + p]));
                        let mut expected = (products.sum::<f64>() + f64::from(bias[o])).clamp(-3.0, 4.0);
                        if let Some((residual, (low, high))) = residual {
                            expected = (expected + f64::from(residual[i])).clamp(low.into(), high.into());
                        }
                        off = off.max((expected - f64::from(got)).abs());
                    }
                    // Sums of RUN products are rounded to 11 bits as often; their errors add up like their roots.
                    let most = 0.01 * (columns.div_ceil(RUN) as f64).sqrt();
                    println!("{out}x{columns}, blocks of {block}: off by {off}");
                    assert!(off <= most, "{out}x{columns}, blocks of {block}: off by {off}");
                }
            }
        }
    }

    #[test]
    fn layers_in_half_precision_are_near_those_in_f32() {
        let (isa, channels, out, side) = (Isa::detect(), 24, 20, 15);
        let (in_plane, size) = (plane_len(side * side), [side, side]);
        let input = noise(channels * in_plane + PADDING, 3);
        let filters = (noise(channels * 9, 5), noise(channels, 7));
        let strided = Phases::new([3, 3], [2, 2], [1, 1], size, 8);
        let beside = Phases::new([3, 3], [1, 1], [1, 1], size, side);
        let depthwise = PlanarDepthwise::new(isa, &filters.0, &filters.1, 1, beside);
        for (feed, columns, size) in [
            (Feed::Planes { area: 1 }, channels, size),
            (Feed::Phases(strided), channels * 9, [8, 8]),
            (Feed::Depthwise(depthwise, (0.0, 6.0)), channels, size),
        ] {
            let (weights, bias) = (noise(out * columns, 9), noise(out, 11));
            let out_plane = plane_len(size[0] * size[1]);
            for (block, threads) in [(4, 1), (8, 1), (8, 3)] {
                let pool = ThreadPool::new(threads);
                let run = |packed: PackedSparse| {
                    let layer = SparseLayer::new(packed, feed.clone(), in_plane, size, out_plane, threads);
                    let mut scratch = AlignedBuf::zeroed(layer.scratch_len());
                    let mut output = vec![0.0; out * out_plane];
                    let epilogue = Epilogue { range: (-9.0, 9.0), residual: None };
                    layer.run(&pool, &input, &mut output, epilogue, &mut scratch);
                    (layer.packed().is_half(), output)
                };
                let packed = PackedSparse::pack(isa, &weights, &bias, columns, block);
                let (_, exact) = run(packed.clone());
                let (is_half, near) = run(packed.in_half());
                let off = exact.iter().zip(&near).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("{columns} columns, blocks of {block}: off by {off}");
                // Errors of inputs and weights add up like their roots as well.
                let most = 0.004 * (columns as f32).sqrt();
                assert!(off < most && (is_half || off == 0.0) && exact.iter().any(|v| v.abs() > 1.0), "{off}");
                assert!(!is_half || off > 0.0, "nothing was rounded");
            }
        }
    }
}
