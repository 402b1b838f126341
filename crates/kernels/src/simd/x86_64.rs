//! AVX2 and AVX-512 vectors.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Four floats, with AVX2 and FMA: for ends of rows.
#[derive(Clone, Copy, Debug)]
pub struct F32x4(__m128);

/// Eight floats: AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct F32x8(__m256);

/// Sixteen floats: AVX-512 F, BW, DQ, VL, and with `BF16` the bf16 instructions too.
#[derive(Clone, Copy, Debug)]
pub struct Zmm<const BF16: bool>(__m512);

/// To and from the register, for kernels that mix them with vectors of integers.
macro_rules! registers {
    ($($vector:ty: $register:ty;)*) => {$(
        impl From<$register> for $vector {
            #[inline(always)]
            fn from(register: $register) -> Self {
                Self(register)
            }
        }
        impl From<$vector> for $register {
            #[inline(always)]
            fn from(vector: $vector) -> Self {
                vector.0
            }
        }
    )*};
}
registers! {
    F32x8: __m256;
    F32x16: __m512;
}

/// AVX-512 without bf16 instructions.
pub type F32x16 = Zmm<false>;
/// AVX-512 with them.
pub type F32x16Bf16 = Zmm<true>;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's caller vouches for the instruction set and the arguments.
    unsafe { kernel.run::<F32x8>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as above.
    unsafe { kernel.run::<F32x16>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as above.
    unsafe { kernel.run::<F32x16Bf16>() }
}

/// A mask of the first `count` of 8 lanes.
#[inline(always)]
unsafe fn first_of_8(count: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// A mask of the first `count` of 16 lanes.
#[inline(always)]
fn first_of_16(count: usize) -> __mmask16 {
    (0xffff_u32 >> (16 - count)) as u16
}

/// Implements the two prefetches, by which no memory is used and nothing can fail.
macro_rules! prefetches {
    () => {
        #[inline(always)]
        unsafe fn prefetch(at: *const f32) {
            // SAFETY: a hint, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_write(at: *const f32) {
            // SAFETY: a hint, whatever the address; CPUs with AVX2 that lack it take it for no operation.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
    };
}

/// Implements methods by intrinsics; the first argument is `self`.
macro_rules! by_intrinsic {
    ($($name:ident ( $this:ident $(, $arg:ident)* ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($arg: Self),*) -> Self {
            let $this = self;
            // SAFETY: the trait's caller vouches for the instruction set.
            unsafe { $body }
        }
    )*};
}

impl Simd for F32x4 {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    type Half = F32x4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x4(unsafe { _mm_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four valid floats, by the trait's contract.
        F32x4(unsafe { _mm_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: room for four floats, by the trait's contract.
        unsafe { _mm_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the mask has a bit set for each of `count` valid floats; the others are not read.
        F32x4(unsafe { _mm_maskload_ps(from, _mm256_castsi256_si128(first_of_8(count))) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: as above, for writing.
        unsafe { _mm_maskstore_ps(to, _mm256_castsi256_si128(first_of_8(count)), self.0) }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let (low, high) = (_mm_castps_si128(self.0), _mm_castps_si128(next.0));
            F32x4(_mm_castsi128_ps(match N {
                1 => _mm_alignr_epi8::<4>(high, low),
                _ => _mm_alignr_epi8::<8>(high, low),
            }))
        }
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let (low, high) = (_mm_castps_si128(previous.0), _mm_castps_si128(self.0));
            F32x4(_mm_castsi128_ps(match N {
                1 => _mm_alignr_epi8::<12>(high, low),
                _ => _mm_alignr_epi8::<8>(high, low),
            }))
        }
    }
    by_intrinsic! {
        even(a, b) => F32x4(_mm_shuffle_ps::<0x88>(a.0, b.0));
        odd(a, b) => F32x4(_mm_shuffle_ps::<0xdd>(a.0, b.0));
        add(a, b) => F32x4(_mm_add_ps(a.0, b.0));
        sub(a, b) => F32x4(_mm_sub_ps(a.0, b.0));
        mul(a, b) => F32x4(_mm_mul_ps(a.0, b.0));
        div(a, b) => F32x4(_mm_div_ps(a.0, b.0));
        max(a, b) => F32x4(_mm_max_ps(a.0, b.0));
        min(a, b) => F32x4(_mm_min_ps(a.0, b.0));
        mul_add(a, b, c) => F32x4(_mm_fmadd_ps(a.0, b.0, c.0));
        round(a) => F32x4(_mm_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a.0));
        exp2_integral(a) => {
            let biased = _mm_add_epi32(_mm_cvtps_epi32(a.0), _mm_set1_epi32(127));
            F32x4(_mm_castsi128_ps(_mm_slli_epi32::<23>(biased)))
        };
        copysign(a, s) => {
            let mask = _mm_set1_ps(-0.0);
            F32x4(_mm_or_ps(_mm_andnot_ps(mask, a.0), _mm_and_ps(mask, s.0)))
        };
        select_lt(a, b, y, n) => F32x4(_mm_blendv_ps(n.0, y.0, _mm_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)));
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let pair = _mm_add_ps(self.0, _mm_movehl_ps(self.0, self.0));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let bits = _mm_castps_si128(self.0);
            let high = _mm_and_si128(bits, _mm_set1_epi32(0xffff_0000_u32 as i32));
            (F32x4(_mm_castsi128_ps(_mm_slli_epi32::<16>(bits))), F32x4(_mm_castsi128_ps(high)))
        }
    }
}

impl Simd for F32x8 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Half = F32x4;

    prefetches!();
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        F32x8(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: eight valid floats, by the trait's contract.
        F32x8(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: room for eight floats, by the trait's contract.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the mask has a bit set for each of `count` valid floats; the others are not read.
        F32x8(unsafe { _mm256_maskload_ps(from, first_of_8(count)) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: as above, for writing.
        unsafe { _mm256_maskstore_ps(to, first_of_8(count), self.0) }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let low = _mm256_castps_si256(self.0);
            let middle = _mm256_castps_si256(_mm256_permute2f128_ps::<0x21>(self.0, next.0));
            F32x8(_mm256_castsi256_ps(match N {
                1 => _mm256_alignr_epi8::<4>(middle, low),
                _ => _mm256_alignr_epi8::<8>(middle, low),
            }))
        }
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let high = _mm256_castps_si256(self.0);
            let middle = _mm256_castps_si256(_mm256_permute2f128_ps::<0x21>(previous.0, self.0));
            F32x8(_mm256_castsi256_ps(match N {
                1 => _mm256_alignr_epi8::<12>(high, middle),
                _ => _mm256_alignr_epi8::<8>(high, middle),
            }))
        }
    }
    by_intrinsic! {
        even(a, b) => {
            let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a.0, b.0));
            F32x8(_mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(pairs)))
        };
        odd(a, b) => {
            let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0xdd>(a.0, b.0));
            F32x8(_mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(pairs)))
        };
        add(a, b) => F32x8(_mm256_add_ps(a.0, b.0));
        sub(a, b) => F32x8(_mm256_sub_ps(a.0, b.0));
        mul(a, b) => F32x8(_mm256_mul_ps(a.0, b.0));
        div(a, b) => F32x8(_mm256_div_ps(a.0, b.0));
        max(a, b) => F32x8(_mm256_max_ps(a.0, b.0));
        min(a, b) => F32x8(_mm256_min_ps(a.0, b.0));
        mul_add(a, b, c) => F32x8(_mm256_fmadd_ps(a.0, b.0, c.0));
        round(a) => F32x8(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a.0));
        exp2_integral(a) => {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a.0), _mm256_set1_epi32(127));
            F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        };
        copysign(a, s) => {
            let mask = _mm256_set1_ps(-0.0);
            F32x8(_mm256_or_ps(_mm256_andnot_ps(mask, a.0), _mm256_and_ps(mask, s.0)))
        };
        select_lt(a, b, y, n) => {
            F32x8(_mm256_blendv_ps(n.0, y.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)))
        };
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let high = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))), F32x8(_mm256_castsi256_ps(high)))
        }
    }
}

impl<const BF16: bool> Simd for Zmm<BF16> {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type Half = F32x8;

    prefetches!();
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen valid floats, by the trait's contract.
        Zmm(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: room for sixteen floats, by the trait's contract.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the mask has a bit set for each of `count` valid floats; the others are not read.
        Zmm(unsafe { _mm512_maskz_loadu_ps(first_of_16(count), from) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: as above, for writing.
        unsafe { _mm512_mask_storeu_ps(to, first_of_16(count), self.0) }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let (low, high) = (_mm512_castps_si512(self.0), _mm512_castps_si512(next.0));
            Zmm(_mm512_castsi512_ps(match N {
                1 => _mm512_alignr_epi32::<1>(high, low),
                _ => _mm512_alignr_epi32::<2>(high, low),
            }))
        }
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let (low, high) = (_mm512_castps_si512(previous.0), _mm512_castps_si512(self.0));
            Zmm(_mm512_castsi512_ps(match N {
                1 => _mm512_alignr_epi32::<15>(high, low),
                _ => _mm512_alignr_epi32::<14>(high, low),
            }))
        }
    }
    by_intrinsic! {
        even(a, b) => {
            let lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            Zmm(_mm512_permutex2var_ps(a.0, lanes, b.0))
        };
        odd(a, b) => {
            let lanes = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            Zmm(_mm512_permutex2var_ps(a.0, lanes, b.0))
        };
        add(a, b) => Zmm(_mm512_add_ps(a.0, b.0));
        sub(a, b) => Zmm(_mm512_sub_ps(a.0, b.0));
        mul(a, b) => Zmm(_mm512_mul_ps(a.0, b.0));
        div(a, b) => Zmm(_mm512_div_ps(a.0, b.0));
        max(a, b) => Zmm(_mm512_max_ps(a.0, b.0));
        min(a, b) => Zmm(_mm512_min_ps(a.0, b.0));
        mul_add(a, b, c) => Zmm(_mm512_fmadd_ps(a.0, b.0, c.0));
        round(a) => Zmm(_mm512_roundscale_ps::<0>(a.0));
        exp2_integral(a) => {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a.0), _mm512_set1_epi32(127));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        };
        copysign(a, s) => {
            let mask = _mm512_set1_ps(-0.0);
            Zmm(_mm512_or_ps(_mm512_andnot_ps(mask, a.0), _mm512_and_ps(mask, s.0)))
        };
        select_lt(a, b, y, n) => {
            Zmm(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0), n.0, y.0))
        };
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let high = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))), Zmm(_mm512_castsi512_ps(high)))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set; the bit patterns are the same.
        unsafe {
            if BF16 {
                let a = std::mem::transmute::<__m512, __m512bh>(a.0);
                Zmm(_mm512_dpbf16_ps(self.0, a, std::mem::transmute::<__m512, __m512bh>(b.0)))
            } else {
                super::dot_bf16_by_parts(self, a, b)
            }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        // SAFETY: room for sixteen values, by the trait's contract.
        unsafe {
            if BF16 {
                let bits = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
                _mm256_storeu_si256(to.cast(), bits);
            } else {
                super::store_bf16_by_parts(self, to);
            }
        }
    }
}
