//! AVX2 and AVX-512, each with and without VNNI.

use super::{Form, Kernel, Vector};
use std::arch::x86_64::*;

/// Eight numbers: AVX2, with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ymm<const VNNI: bool>(__m256i);

/// Sixteen numbers: AVX-512 F, BW, DQ and VL, with `VNNI` also AVX-512 VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zmm<const VNNI: bool>(__m512i);

#[target_feature(enable = "avx2")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function's caller vouches for the instructions and the arguments.
    unsafe { kernel.run::<Ymm<false>>() }
}

#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn run_avx_vnni<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Ymm<true>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Zmm<false>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2")]
pub(super) unsafe fn run_avx512_vnni<K: Kernel>(kernel: K) {
    // SAFETY: as above.
    unsafe { kernel.run::<Zmm<true>>() }
}

/// Methods that are one expression over intrinsics.
macro_rules! by_intrinsic {
    ($wrap:ident, $vnni:ident: $($name:ident ( $a:ident, $b:ident ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            let ($a, $b) = (self.0, other.0);
            // SAFETY: the trait's caller vouches for the instruction set.
            $wrap::<$vnni>(unsafe { $body })
        }
    )*};
}

impl<const VNNI: bool> Ymm<VNNI> {
    /// Bytes as products want them: as they are, or the even and the odd ones as 16-bit numbers.
    #[inline(always)]
    unsafe fn prepare(bytes: __m256i) -> [__m256i; 2] {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            if VNNI {
                [bytes, bytes]
            } else {
                [_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(bytes)]
            }
        }
    }
    /// Adds products with weights that are already where the lanes need them; `odd` is for pairs only.
    #[inline(always)]
    unsafe fn accumulate(sums: Self, quads: [__m256i; 2], weights: __m256i, odd: __m256i) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe {
            if VNNI {
                _mm256_dpbusd_avx_epi32(sums.0, quads[0], weights)
            } else {
                let products = _mm256_madd_epi16(quads[0], weights);
                _mm256_add_epi32(_mm256_add_epi32(sums.0, products), _mm256_madd_epi16(quads[1], odd))
            }
        })
    }
}

impl<const VNNI: bool> Vector for Ymm<VNNI> {
    const LANES: usize = 8;
    const TILE: usize = if VNNI { 3 } else { 2 };
    const FORM: Form = if VNNI { Form::Bytes { offset: 0 } } else { Form::Pairs };
    type Quads = [__m256i; 2];
    type Sums = Self;
    type Block = *const u8;

    #[inline(always)]
    unsafe fn zero_sums() -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe { _mm256_setzero_si256() })
    }
    #[inline(always)]
    unsafe fn total(sums: Self) -> Self {
        sums
    }
    #[inline(always)]
    unsafe fn add_sums(sums: Self, others: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe { sums.add(others) }
    }
    #[inline(always)]
    unsafe fn load_block(from: *const u8) -> *const u8 {
        from
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: 32 valid bytes, by the trait's contract.
        unsafe { Self::prepare(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn repeat_quads(from: *const u8) -> Self::Quads {
        // SAFETY: eight valid bytes, by the trait's contract.
        unsafe {
            let two = _mm256_castsi128_si256(_mm_loadl_epi64(from.cast()));
            Self::prepare(_mm256_permutevar8x32_epi32(two, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)))
        }
    }
    #[inline(always)]
    unsafe fn windows(from: *const u8, step: usize) -> Self::Quads {
        // SAFETY: 16 valid bytes at each window, by the trait's contract.
        unsafe {
            let first = _mm256_castsi128_si256(_mm_loadu_si128(from.cast()));
            let both = _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(from.add(step).cast()));
            let transpose = _mm256_broadcastsi128_si256(transpose_4x4());
            Self::prepare(_mm256_shuffle_epi8(both, transpose))
        }
    }
    #[inline(always)]
    unsafe fn dot<const K: usize>(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds four numbers of 32 bits, or eight where weights are pairs.
        unsafe {
            let weights = block.cast::<i32>();
            let even = _mm256_set1_epi32(weights.add(K).read_unaligned());
            let odd = if VNNI { even } else { _mm256_set1_epi32(weights.add(4 + K).read_unaligned()) };
            Self::accumulate(sums, quads, even, odd)
        }
    }
    #[inline(always)]
    unsafe fn dot_each(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds 16 bytes, or 32 where weights are pairs.
        unsafe {
            let even = _mm256_broadcastsi128_si256(_mm_loadu_si128(block.cast()));
            let odd = if VNNI { even } else { _mm256_broadcastsi128_si256(_mm_loadu_si128(block.add(16).cast())) };
            Self::accumulate(sums, quads, even, odd)
        }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe { _mm256_set1_epi32(value) })
    }
    #[inline(always)]
    unsafe fn repeat4(from: *const i32) -> Self {
        // SAFETY: four valid numbers, by the trait's contract.
        Ymm(unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: eight valid bytes, by the trait's contract.
        Ymm(unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) })
    }
    by_intrinsic! { Ymm, VNNI:
        add(a, b) => _mm256_add_epi32(a, b);
        min(a, b) => _mm256_min_epi32(a, b);
        max(a, b) => _mm256_max_epi32(a, b);
        and(a, b) => _mm256_and_si256(a, b);
        shift_left(a, b) => _mm256_sllv_epi32(a, b);
        shift_right(a, b) => _mm256_srav_epi32(a, b);
        high_mul(a, b) => {
            let half = _mm256_set1_epi64x(1 << 30);
            let even = _mm256_add_epi64(_mm256_mul_epi32(a, b), half);
            let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            let odd = _mm256_add_epi64(odd, half);
            // Bits 31 to 62 of each product, moved to the low half and to the high half.
            _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<31>(even), _mm256_slli_epi64::<1>(odd))
        };
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Ymm(unsafe { _mm256_srai_epi32::<31>(self.0) })
    }
    #[inline(always)]
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8) {
        // SAFETY: room for eight bytes, by the trait's contract.
        unsafe {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0));
            let bytes = _mm_max_epu8(_mm_packus_epi16(words, words), _mm_set1_epi8(range[0] as i8));
            _mm_storel_epi64(to.cast(), _mm_min_epu8(bytes, _mm_set1_epi8(range[1] as i8)));
        }
    }
    #[inline(always)]
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8) {
        // SAFETY: room for 32 bytes, by the trait's contract.
        unsafe {
            let low = _mm256_packs_epi32(parts[0].0, parts[1].0);
            let bytes = _mm256_packus_epi16(low, _mm256_packs_epi32(parts[2].0, parts[3].0));
            let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(range[0] as i8));
            let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(range[1] as i8));
            let quads = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(transpose_4x4()));
            _mm256_storeu_si256(to.cast(), quads);
        }
    }
}

/// Byte `4i + j` from byte `4j + i`.
#[inline(always)]
unsafe fn transpose_4x4() -> __m128i {
    // SAFETY: SSE2, which every x86-64 CPU has.
    unsafe { _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15) }
}

impl<const VNNI: bool> Zmm<VNNI> {
    /// As that of [`Ymm`].
    #[inline(always)]
    unsafe fn prepare(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe {
            if VNNI {
                [bytes, bytes]
            } else {
                [_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(bytes)]
            }
        }
    }
    /// As that of [`Ymm`].
    #[inline(always)]
    unsafe fn accumulate(sums: Self, quads: [__m512i; 2], weights: __m512i, odd: __m512i) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe {
            if VNNI {
                _mm512_dpbusd_epi32(sums.0, quads[0], weights)
            } else {
                let products = _mm512_madd_epi16(quads[0], weights);
                _mm512_add_epi32(_mm512_add_epi32(sums.0, products), _mm512_madd_epi16(quads[1], odd))
            }
        })
    }
}

impl<const VNNI: bool> Vector for Zmm<VNNI> {
    const LANES: usize = 16;
    const TILE: usize = if VNNI { 6 } else { 4 };
    const FORM: Form = if VNNI { Form::Bytes { offset: 0 } } else { Form::Pairs };
    type Quads = [__m512i; 2];
    type Sums = Self;
    type Block = *const u8;

    #[inline(always)]
    unsafe fn zero_sums() -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe { _mm512_setzero_si512() })
    }
    #[inline(always)]
    unsafe fn total(sums: Self) -> Self {
        sums
    }
    #[inline(always)]
    unsafe fn add_sums(sums: Self, others: Self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe { sums.add(others) }
    }
    #[inline(always)]
    unsafe fn load_block(from: *const u8) -> *const u8 {
        from
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: 64 valid bytes, by the trait's contract.
        unsafe { Self::prepare(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn repeat_quads(from: *const u8) -> Self::Quads {
        // SAFETY: 16 valid bytes, by the trait's contract.
        unsafe {
            let four = _mm512_castsi128_si512(_mm_loadu_si128(from.cast()));
            let each = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            Self::prepare(_mm512_permutexvar_epi32(each, four))
        }
    }
    #[inline(always)]
    unsafe fn windows(from: *const u8, step: usize) -> Self::Quads {
        // SAFETY: 64 valid bytes at each window, by the trait's contract.
        unsafe {
            let transpose = _mm512_broadcast_i32x4(transpose_4x4());
            let windows = match step {
                // Neighbouring windows lie in one vector.
                4 => {
                    let each = _mm512_setr_epi32(0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6);
                    _mm512_permutexvar_epi32(each, _mm512_castsi256_si512(_mm256_loadu_si256(from.cast())))
                }
                8 => {
                    let each = _mm512_setr_epi32(0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9);
                    _mm512_permutexvar_epi32(each, _mm512_loadu_si512(from.cast()))
                }
                _ => {
                    let first = _mm512_castsi128_si512(_mm_loadu_si128(from.cast()));
                    let two = _mm512_inserti32x4::<1>(first, _mm_loadu_si128(from.add(step).cast()));
                    let three = _mm512_inserti32x4::<2>(two, _mm_loadu_si128(from.add(2 * step).cast()));
                    _mm512_inserti32x4::<3>(three, _mm_loadu_si128(from.add(3 * step).cast()))
                }
            };
            Self::prepare(_mm512_shuffle_epi8(windows, transpose))
        }
    }
    #[inline(always)]
    unsafe fn dot<const K: usize>(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds four numbers of 32 bits, or eight where weights are pairs.
        unsafe {
            let weights = block.cast::<i32>();
            let even = _mm512_set1_epi32(weights.add(K).read_unaligned());
            let odd = if VNNI { even } else { _mm512_set1_epi32(weights.add(4 + K).read_unaligned()) };
            Self::accumulate(sums, quads, even, odd)
        }
    }
    #[inline(always)]
    unsafe fn dot_each(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds 16 bytes, or 32 where weights are pairs.
        unsafe {
            let even = _mm512_broadcast_i32x4(_mm_loadu_si128(block.cast()));
            let odd = if VNNI { even } else { _mm512_broadcast_i32x4(_mm_loadu_si128(block.add(16).cast())) };
            Self::accumulate(sums, quads, even, odd)
        }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe { _mm512_set1_epi32(value) })
    }
    #[inline(always)]
    unsafe fn repeat4(from: *const i32) -> Self {
        // SAFETY: four valid numbers, by the trait's contract.
        Zmm(unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: 16 valid bytes, by the trait's contract.
        Zmm(unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) })
    }
    by_intrinsic! { Zmm, VNNI:
        add(a, b) => _mm512_add_epi32(a, b);
        min(a, b) => _mm512_min_epi32(a, b);
        max(a, b) => _mm512_max_epi32(a, b);
        and(a, b) => _mm512_and_si512(a, b);
        shift_left(a, b) => _mm512_sllv_epi32(a, b);
        shift_right(a, b) => _mm512_srav_epi32(a, b);
        high_mul(a, b) => {
            let half = _mm512_set1_epi64(1 << 30);
            let even = _mm512_add_epi64(_mm512_mul_epi32(a, b), half);
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let odd = _mm512_add_epi64(odd, half);
            // Bits 31 to 62 of each product, moved to the low half and to the high half.
            _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<31>(even), _mm512_slli_epi64::<1>(odd))
        };
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        Zmm(unsafe { _mm512_srai_epi32::<31>(self.0) })
    }
    #[inline(always)]
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8) {
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe {
            let lowest = _mm512_set1_epi32(range[0].into());
            // Without negative numbers, saturation to unsigned bytes is right.
            let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(self.0, lowest));
            _mm_storeu_si128(to.cast(), _mm_min_epu8(bytes, _mm_set1_epi8(range[1] as i8)));
        }
    }
    #[inline(always)]
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8) {
        // SAFETY: room for 64 bytes, by the trait's contract.
        unsafe {
            let low = _mm512_packs_epi32(parts[0].0, parts[1].0);
            let bytes = _mm512_packus_epi16(low, _mm512_packs_epi32(parts[2].0, parts[3].0));
            let bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(range[0] as i8));
            let bytes = _mm512_min_epu8(bytes, _mm512_set1_epi8(range[1] as i8));
            _mm512_storeu_si512(to.cast(), _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(transpose_4x4())));
        }
    }
}
