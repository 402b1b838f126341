//! NEON, with and without the dot product.
//!
//! `sdot` multiplies signed bytes, so activations have 128 subtracted; what that changes is in the packed bias. The
//! instruction is written as assembly, since its intrinsic is not stable.

use super::{Form, Kernel, Vector};
use std::arch::aarch64::*;
use std::arch::asm;

/// Four numbers: NEON, with `DOT` also dotprod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I32x4<const DOT: bool>(int32x4_t);

pub(super) unsafe fn run_neon<K: Kernel>(kernel: K) {
    // SAFETY: this function's caller vouches for the arguments; every 64-bit ARM CPU has NEON.
    unsafe { kernel.run::<I32x4<false>>() }
}

#[target_feature(enable = "dotprod")]
pub(super) unsafe fn run_neon_dot<K: Kernel>(kernel: K) {
    // SAFETY: this function's caller vouches for the instructions and the arguments.
    unsafe { kernel.run::<I32x4<true>>() }
}

/// Byte `4i + j` from byte `4j + i`.
static TRANSPOSE: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Methods that are one expression over intrinsics.
macro_rules! by_intrinsic {
    ($($name:ident ( $a:ident, $b:ident ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            let ($a, $b) = (self.0, other.0);
            // SAFETY: every 64-bit ARM CPU has NEON.
            I32x4(unsafe { $body })
        }
    )*};
}

impl<const DOT: bool> I32x4<DOT> {
    /// Adds the products of each lane's quads. Without dotprod the sums are pairs of partial ones: those of lanes 0 and 1 in
    /// the first vector, those of lanes 2 and 3 in the second.
    #[inline(always)]
    unsafe fn accumulate(sums: [int32x4_t; 2], quads: int8x16_t, weights: int8x16_t) -> [int32x4_t; 2] {
        // SAFETY: NEON; `sdot` is reached with `DOT` alone, for which the trait's caller vouches.
        unsafe {
            if DOT {
                let mut sum = sums[0];
                asm!(
                    "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                    inout(vreg) sum, in(vreg) quads, in(vreg) weights,
                    options(pure, nomem, nostack, preserves_flags)
                );
                [sum, sums[1]]
            } else {
                let low = vmull_s8(vget_low_s8(quads), vget_low_s8(weights));
                [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], vmull_high_s8(quads, weights))]
            }
        }
    }

    /// Bytes less 128, as signed ones.
    #[inline(always)]
    unsafe fn signed(bytes: uint8x16_t) -> int8x16_t {
        // SAFETY: every 64-bit ARM CPU has NEON.
        unsafe { vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80))) }
    }
}

impl<const DOT: bool> Vector for I32x4<DOT> {
    const LANES: usize = 4;
    const TILE: usize = if DOT { 6 } else { 2 };
    const FORM: Form = Form::Bytes { offset: 128 };
    type Quads = int8x16_t;
    type Sums = [int32x4_t; 2];
    type Block = int8x16_t;

    #[inline(always)]
    unsafe fn zero_sums() -> Self::Sums {
        // SAFETY: every 64-bit ARM CPU has NEON.
        unsafe { [vdupq_n_s32(0); 2] }
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> Self {
        // SAFETY: every 64-bit ARM CPU has NEON.
        I32x4(if DOT { sums[0] } else { unsafe { vpaddq_s32(sums[0], sums[1]) } })
    }
    #[inline(always)]
    unsafe fn add_sums(sums: Self::Sums, others: Self::Sums) -> Self::Sums {
        // SAFETY: every 64-bit ARM CPU has NEON.
        unsafe { [vaddq_s32(sums[0], others[0]), vaddq_s32(sums[1], others[1])] }
    }
    #[inline(always)]
    unsafe fn load_block(from: *const u8) -> int8x16_t {
        // SAFETY: 16 valid bytes, by the trait's contract.
        unsafe { vld1q_s8(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> int8x16_t {
        // SAFETY: 16 valid bytes, by the trait's contract.
        unsafe { Self::signed(vld1q_u8(from)) }
    }
    #[inline(always)]
    unsafe fn repeat_quads(from: *const u8) -> int8x16_t {
        // SAFETY: four valid bytes, by the trait's contract.
        unsafe { Self::signed(vreinterpretq_u8_u32(vdupq_n_u32(from.cast::<u32>().read_unaligned()))) }
    }
    #[inline(always)]
    unsafe fn windows(from: *const u8, _step: usize) -> int8x16_t {
        // SAFETY: a window is 16 valid bytes, by the trait's contract.
        unsafe { Self::signed(vqtbl1q_u8(vld1q_u8(from), vld1q_u8(TRANSPOSE.as_ptr()))) }
    }
    #[inline(always)]
    unsafe fn dot<const K: usize>(sums: Self::Sums, quads: int8x16_t, block: int8x16_t) -> Self::Sums {
        // SAFETY: every 64-bit ARM CPU has NEON; for dotprod the trait's caller vouches.
        unsafe {
            let block = vreinterpretq_s32_s8(block);
            let row = match K {
                0 => vdupq_laneq_s32::<0>(block),
                1 => vdupq_laneq_s32::<1>(block),
                2 => vdupq_laneq_s32::<2>(block),
                _ => vdupq_laneq_s32::<3>(block),
            };
            if !DOT {
                return Self::accumulate(sums, quads, vreinterpretq_s8_s32(row));
            }
            // `sdot` by a lane needs no copy of the row.
            let mut sum = sums[0];
            macro_rules! by_lane {
                ($lane:literal) => {
                    asm!(
                        concat!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[", $lane, "]"),
                        inout(vreg) sum, in(vreg) quads, in(vreg) block,
                        options(pure, nomem, nostack, preserves_flags)
                    )
                };
            }
            match K {
                0 => by_lane!("0"),
                1 => by_lane!("1"),
                2 => by_lane!("2"),
                _ => by_lane!("3"),
            }
            [sum, sums[1]]
        }
    }
    #[inline(always)]
    unsafe fn dot_each(sums: Self::Sums, quads: int8x16_t, block: int8x16_t) -> Self::Sums {
        // SAFETY: for dotprod the trait's caller vouches.
        unsafe { Self::accumulate(sums, quads, block) }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: every 64-bit ARM CPU has NEON.
        I32x4(unsafe { vdupq_n_s32(value) })
    }
    #[inline(always)]
    unsafe fn repeat4(from: *const i32) -> Self {
        // SAFETY: four valid numbers, by the trait's contract.
        I32x4(unsafe { vld1q_s32(from) })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        I32x4(unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        })
    }
    by_intrinsic! {
        add(a, b) => vaddq_s32(a, b);
        min(a, b) => vminq_s32(a, b);
        max(a, b) => vmaxq_s32(a, b);
        and(a, b) => vandq_s32(a, b);
        shift_left(a, b) => vshlq_s32(a, b);
        shift_right(a, b) => vshlq_s32(a, vnegq_s32(b));
        high_mul(a, b) => vqrdmulhq_s32(a, b);
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        // SAFETY: every 64-bit ARM CPU has NEON.
        I32x4(unsafe { vshrq_n_s32::<31>(self.0) })
    }
    #[inline(always)]
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8) {
        // SAFETY: room for four bytes, by the trait's contract.
        unsafe {
            let words = vqmovn_s32(self.0);
            let bytes = vqmovun_s16(vcombine_s16(words, words));
            let bytes = vmin_u8(vmax_u8(bytes, vdup_n_u8(range[0])), vdup_n_u8(range[1]));
            to.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }
    #[inline(always)]
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8) {
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe {
            let low = vcombine_s16(vqmovn_s32(parts[0].0), vqmovn_s32(parts[1].0));
            let high = vcombine_s16(vqmovn_s32(parts[2].0), vqmovn_s32(parts[3].0));
            let bytes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
            let bytes = vminq_u8(vmaxq_u8(bytes, vdupq_n_u8(range[0])), vdupq_n_u8(range[1]));
            vst1q_u8(to, vqtbl1q_u8(bytes, vld1q_u8(TRANSPOSE.as_ptr())));
        }
    }
}
