//! NEON, with and without dotprod.

use super::Quads;
use crate::simd::F32x4;
use std::arch::aarch64::*;
use std::arch::asm;

/// Four quads: NEON, with `DOT` also FEAT_DotProd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I8x16<const DOT: bool>(uint8x16_t);

impl<const DOT: bool> I8x16<DOT> {
    #[inline(always)]
    unsafe fn floats(values: float32x4_t) -> F32x4 {
        F32x4::from(values)
    }
}

/// Methods that are one expression over intrinsics.
macro_rules! by_intrinsic {
    ($($name:ident ( $a:ident, $b:ident: $kind:ty ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $b: $kind) -> Self {
            let $a = self.0;
            // SAFETY: every 64-bit ARM CPU has NEON.
            I8x16(unsafe { $body })
        }
    )*};
}

impl<const DOT: bool> Quads for I8x16<DOT> {
    type Floats = F32x4;
    const SIGNED: bool = true;
    const TILE: usize = 12;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: 16 valid bytes, by the trait's contract.
        I8x16(unsafe { vld1q_u8(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe { vst1q_u8(to, self.0) }
    }
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        I8x16(unsafe { vreinterpretq_u8_u32(vdupq_n_u32(from.cast::<u32>().read_unaligned())) })
    }
    #[inline(always)]
    unsafe fn sum_at(from: *const i32) -> Self {
        // SAFETY: a valid number, by the trait's contract.
        I8x16(unsafe { vreinterpretq_u8_s32(vdupq_n_s32(*from)) })
    }
    #[inline(always)]
    unsafe fn splat_bytes(value: u8) -> Self {
        // SAFETY: every 64-bit ARM CPU has NEON.
        I8x16(unsafe { vdupq_n_u8(value) })
    }
    by_intrinsic! {
        and(a, b: Self) => vandq_u8(a, b.0);
        or(a, b: Self) => vorrq_u8(a, b.0);
        shift_right(a, count: u32) => {
            vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(-(count as i32))))
        };
        shift_left(a, count: u32) => {
            vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(count as i32)))
        };
        lookup(a, table: &[u8; 16]) => vqtbl1q_u8(vld1q_u8(table.as_ptr()), a);
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, activations: Self) -> Self {
        // SAFETY: for dotprod the trait's caller vouches; every 64-bit ARM CPU has NEON.
        unsafe {
            let mut sum = vreinterpretq_s32_u8(self.0);
            let (w, a) = (vreinterpretq_s8_u8(weights.0), vreinterpretq_s8_u8(activations.0));
            if DOT {
                asm!(
                    ".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                    inout(vreg) sum, in(vreg) w, in(vreg) a,
                    options(pure, nomem, nostack, preserves_flags)
                );
            } else {
                // Pairs of products fit 16 bits only one by one: 127 · 128 · 2 would not.
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
                let high = vpaddlq_s16(vmull_high_s8(w, a));
                sum = vaddq_s32(sum, vpaddq_s32(low, high));
            }
            I8x16(vreinterpretq_u8_s32(sum))
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(self, weights: Self, activations: Self) -> Self {
        // SAFETY: as for this method.
        unsafe { self.dot(weights, activations) }
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> F32x4 {
        // SAFETY: every 64-bit ARM CPU has NEON.
        unsafe { Self::floats(vcvtq_f32_s32(vreinterpretq_s32_u8(self.0))) }
    }
    #[inline(always)]
    unsafe fn halves(from: *const u16) -> F32x4 {
        // SAFETY: four valid halves, by the trait's contract; every 64-bit ARM CPU converts them.
        unsafe {
            let halves = vld1_u16(from);
            let floats: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
            Self::floats(floats)
        }
    }
    #[inline(always)]
    unsafe fn brains(from: *const u16) -> F32x4 {
        // SAFETY: four valid brain floats, by the trait's contract.
        unsafe { Self::floats(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from)))) }
    }
    #[inline(always)]
    unsafe fn signed(from: *const u8) -> F32x4 {
        // SAFETY: four valid bytes, by the trait's contract.
        unsafe {
            let bytes = vreinterpret_s8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
            Self::floats(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes)))))
        }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> (F32x4, F32x4) {
        // SAFETY: as above.
        unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
            let wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
            let low = vandq_u32(wide, vdupq_n_u32(15));
            (Self::floats(vcvtq_f32_u32(low)), Self::floats(vcvtq_f32_u32(vshrq_n_u32::<4>(wide))))
        }
    }
}
