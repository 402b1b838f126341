//! NEON vectors, which every 64-bit ARM CPU has.

use super::Simd;
use std::arch::aarch64::*;

/// Four floats: NEON, with fused multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct F32x4(float32x4_t);

impl From<float32x4_t> for F32x4 {
    #[inline(always)]
    fn from(register: float32x4_t) -> Self {
        F32x4(register)
    }
}

/// `2^23 + 2^22 + 127`. Added to a small integer, it leaves that integer's biased exponent in the lowest bits.
const EXPONENT: f32 = 12_583_039.0;

/// Implements methods by intrinsics; the first argument is `self`.
macro_rules! by_intrinsic {
    ($($name:ident ( $this:ident $(, $arg:ident)* ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($arg: Self),*) -> Self {
            let $this = self;
            // SAFETY: the trait's caller vouches for the instruction set.
            F32x4(unsafe { $body })
        }
    )*};
}

impl Simd for F32x4 {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type Half = F32x4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x4(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four valid floats, by the trait's contract.
        F32x4(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: room for four floats, by the trait's contract.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: no more than `count` floats are read, which are valid by the trait's contract.
        F32x4(unsafe {
            let zero = vdup_n_f32(0.0);
            match count {
                1 => vld1q_lane_f32::<0>(from, vdupq_n_f32(0.0)),
                2 => vcombine_f32(vld1_f32(from), zero),
                3 => vcombine_f32(vld1_f32(from), vld1_lane_f32::<0>(from.add(2), zero)),
                _ => vld1q_f32(from),
            }
        })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: no more than `count` floats are written, for which there is room by the trait's contract.
        unsafe {
            match count {
                1 => vst1q_lane_f32::<0>(to, self.0),
                2 => vst1_f32(to, vget_low_f32(self.0)),
                3 => {
                    vst1_f32(to, vget_low_f32(self.0));
                    vst1q_lane_f32::<2>(to.add(2), self.0);
                }
                _ => vst1q_f32(to, self.0),
            }
        }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x4(unsafe {
            match N {
                1 => vextq_f32::<1>(self.0, next.0),
                _ => vextq_f32::<2>(self.0, next.0),
            }
        })
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x4(unsafe {
            match N {
                1 => vextq_f32::<3>(previous.0, self.0),
                _ => vextq_f32::<2>(previous.0, self.0),
            }
        })
    }
    by_intrinsic! {
        even(a, b) => vuzp1q_f32(a.0, b.0);
        odd(a, b) => vuzp2q_f32(a.0, b.0);
        add(a, b) => vaddq_f32(a.0, b.0);
        sub(a, b) => vsubq_f32(a.0, b.0);
        mul(a, b) => vmulq_f32(a.0, b.0);
        div(a, b) => vdivq_f32(a.0, b.0);
        mul_add(a, b, c) => vfmaq_f32(c.0, a.0, b.0);
        // Not `fmax` and `fmin`: those return NaN, and `fmaxnm` the number, whichever side the NaN is on.
        max(a, b) => vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0);
        min(a, b) => vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0);
        round(a) => vrndnq_f32(a.0);
        exp2_integral(a) => {
            let biased = vreinterpretq_s32_f32(vaddq_f32(a.0, vdupq_n_f32(EXPONENT)));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
        copysign(a, s) => vbslq_f32(vdupq_n_u32(1 << 31), s.0, a.0);
        select_lt(a, b, y, n) => vbslq_f32(vcltq_f32(a.0, b.0), y.0, n.0);
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let high = vandq_u32(bits, vdupq_n_u32(0xffff_0000));
            (F32x4(vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits))), F32x4(vreinterpretq_f32_u32(high)))
        }
    }
}
