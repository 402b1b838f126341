//! AVX2 and AVX-512, each with and without VNNI.

use super::{Kernel, Quads};
use crate::simd::{F32x8, F32x16};
use std::arch::x86_64::*;

/// Eight quads: AVX2, with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ymm<const VNNI: bool>(__m256i);

/// Sixteen quads: AVX-512 F, BW, DQ and VL, with `VNNI` also AVX-512 VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zmm<const VNNI: bool>(__m512i);

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function's caller vouches for the instructions and the arguments.
    unsafe { kernel.run::<Ymm<false>>() }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_avx_vnni<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Ymm<true>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Zmm<false>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512_vnni<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Zmm<true>>() }
}

/// Methods that are one expression over intrinsics.
macro_rules! by_intrinsic {
    ($wrap:ident: $($name:ident ( $a:ident, $b:ident: $kind:ty ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $b: $kind) -> Self {
            let $a = self.0;
            // SAFETY: the trait's caller vouches for the instruction set.
            $wrap(unsafe { $body })
        }
    )*};
}

impl<const VNNI: bool> Quads for Ymm<VNNI> {
    type Floats = F32x8;
    const SIGNED: bool = !VNNI;
    const TILE: usize = 6;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: 32 valid bytes, by the trait's contract.
        Ymm(unsafe { _mm256_loadu_si256(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: room for 32 bytes, by the trait's contract.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        Ymm(unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }
    #[inline(always)]
    unsafe fn sum_at(from: *const i32) -> Self {
        // SAFETY: a valid number, by the trait's contract.
        Ymm(unsafe { _mm256_set1_epi32(*from) })
    }
    #[inline(always)]
    unsafe fn splat_bytes(value: u8) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe { _mm256_set1_epi8(value as i8) })
    }
    by_intrinsic! { Ymm:
        and(a, b: Self) => _mm256_and_si256(a, b.0);
        or(a, b: Self) => _mm256_or_si256(a, b.0);
        shift_right(a, count: u32) => _mm256_srl_epi32(a, _mm_cvtsi32_si128(count as i32));
        shift_left(a, count: u32) => _mm256_sll_epi32(a, _mm_cvtsi32_si128(count as i32));
        lookup(a, table: &[u8; 16]) => {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), a)
        };
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, activations: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe {
            if VNNI {
                _mm256_dpbusd_avx_epi32(self.0, weights.0, activations.0)
            } else {
                let pairs = _mm256_maddubs_epi16(weights.0, activations.0);
                _mm256_add_epi32(self.0, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(self, weights: Self, activations: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            if VNNI {
                self.dot(weights, activations)
            } else {
                let signed = _mm256_sign_epi8(activations.0, weights.0);
                self.dot(Ymm(_mm256_abs_epi8(weights.0)), Ymm(signed))
            }
        }
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> F32x8 {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x8::from(unsafe { _mm256_cvtepi32_ps(self.0) })
    }
    #[inline(always)]
    unsafe fn halves(from: *const u16) -> F32x8 {
        // SAFETY: eight valid halves, by the trait's contract.
        F32x8::from(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn brains(from: *const u16) -> F32x8 {
        // SAFETY: as above.
        F32x8::from(unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    unsafe fn signed(from: *const u8) -> F32x8 {
        // SAFETY: eight valid bytes, by the trait's contract.
        F32x8::from(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> (F32x8, F32x8) {
        // SAFETY: as above.
        unsafe {
            let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let low = _mm256_and_si256(wide, _mm256_set1_epi32(15));
            (F32x8::from(_mm256_cvtepi32_ps(low)), F32x8::from(_mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(wide))))
        }
    }
}

impl<const VNNI: bool> Quads for Zmm<VNNI> {
    type Floats = F32x16;
    const SIGNED: bool = !VNNI;
    const TILE: usize = 12;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: 64 valid bytes, by the trait's contract.
        Zmm(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: room for 64 bytes, by the trait's contract.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        Zmm(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }
    #[inline(always)]
    unsafe fn sum_at(from: *const i32) -> Self {
        // SAFETY: a valid number, by the trait's contract.
        Zmm(unsafe { _mm512_set1_epi32(*from) })
    }
    #[inline(always)]
    unsafe fn splat_bytes(value: u8) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe { _mm512_set1_epi8(value as i8) })
    }
    by_intrinsic! { Zmm:
        and(a, b: Self) => _mm512_and_si512(a, b.0);
        or(a, b: Self) => _mm512_or_si512(a, b.0);
        shift_right(a, count: u32) => _mm512_srl_epi32(a, _mm_cvtsi32_si128(count as i32));
        shift_left(a, count: u32) => _mm512_sll_epi32(a, _mm_cvtsi32_si128(count as i32));
        lookup(a, table: &[u8; 16]) => {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), a)
        };
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, activations: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe {
            if VNNI {
                _mm512_dpbusd_epi32(self.0, weights.0, activations.0)
            } else {
                let pairs = _mm512_maddubs_epi16(weights.0, activations.0);
                _mm512_add_epi32(self.0, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(self, weights: Self, activations: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            if VNNI {
                self.dot(weights, activations)
            } else {
                let negative = _mm512_movepi8_mask(weights.0);
                let signed = _mm512_mask_sub_epi8(activations.0, negative, _mm512_setzero_si512(), activations.0);
                self.dot(Zmm(_mm512_abs_epi8(weights.0)), Zmm(signed))
            }
        }
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> F32x16 {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x16::from(unsafe { _mm512_cvtepi32_ps(self.0) })
    }
    #[inline(always)]
    unsafe fn halves(from: *const u16) -> F32x16 {
        // SAFETY: 16 valid halves, by the trait's contract.
        F32x16::from(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn brains(from: *const u16) -> F32x16 {
        // SAFETY: as above.
        F32x16::from(unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    unsafe fn signed(from: *const u8) -> F32x16 {
        // SAFETY: 16 valid bytes, by the trait's contract.
        F32x16::from(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> (F32x16, F32x16) {
        // SAFETY: as above.
        unsafe {
            let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let low = _mm512_and_si512(wide, _mm512_set1_epi32(15));
            (F32x16::from(_mm512_cvtepi32_ps(low)), F32x16::from(_mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(wide))))
        }
    }
}
