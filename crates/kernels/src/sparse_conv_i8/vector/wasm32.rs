//! WebAssembly's simd128, by products of 16-bit pairs.
//!
//! The relaxed dot product is not used where it exists: what it gives for operands of more than seven bits is up to the
//! machine, and both activations and weights have eight.

use super::{Form, Vector};
use std::arch::wasm32::*;

/// Four numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I32x4(v128);

/// Methods that are one expression over intrinsics.
macro_rules! by_intrinsic {
    ($($name:ident ( $a:ident, $b:ident ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            let ($a, $b) = (self.0, other.0);
            I32x4($body)
        }
    )*};
}

/// Even and odd bytes as 16-bit numbers.
#[inline(always)]
fn split(bytes: v128) -> [v128; 2] {
    [v128_and(bytes, u16x8_splat(0xff)), u16x8_shr(bytes, 8)]
}

#[inline(always)]
fn accumulate(sums: I32x4, quads: [v128; 2], even: v128, odd: v128) -> I32x4 {
    I32x4(i32x4_add(i32x4_add(sums.0, i32x4_dot_i16x8(quads[0], even)), i32x4_dot_i16x8(quads[1], odd)))
}

impl Vector for I32x4 {
    const LANES: usize = 4;
    // x86-64 hosts have 16 registers.
    const TILE: usize = 2;
    const FORM: Form = Form::Pairs;
    type Quads = [v128; 2];
    type Sums = Self;
    type Block = *const u8;

    #[inline(always)]
    unsafe fn zero_sums() -> Self {
        I32x4(i32x4_splat(0))
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
        // SAFETY: 16 valid bytes, by the trait's contract.
        split(unsafe { v128_load(from.cast()) })
    }
    #[inline(always)]
    unsafe fn repeat_quads(from: *const u8) -> Self::Quads {
        // SAFETY: four valid bytes, by the trait's contract.
        split(unsafe { v128_load32_splat(from.cast()) })
    }
    #[inline(always)]
    unsafe fn windows(from: *const u8, _step: usize) -> Self::Quads {
        // SAFETY: a window is 16 valid bytes, by the trait's contract.
        let window = unsafe { v128_load(from.cast()) };
        split(transpose(window))
    }
    #[inline(always)]
    unsafe fn dot<const K: usize>(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds eight numbers of 32 bits.
        unsafe {
            let even = v128_load32_splat(block.cast::<u32>().add(K));
            accumulate(sums, quads, even, v128_load32_splat(block.cast::<u32>().add(4 + K)))
        }
    }
    #[inline(always)]
    unsafe fn dot_each(sums: Self, quads: Self::Quads, block: *const u8) -> Self {
        // SAFETY: a block holds 32 bytes.
        unsafe { accumulate(sums, quads, v128_load(block.cast()), v128_load(block.add(16).cast())) }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        I32x4(i32x4_splat(value))
    }
    #[inline(always)]
    unsafe fn repeat4(from: *const i32) -> Self {
        // SAFETY: four valid numbers, by the trait's contract.
        I32x4(unsafe { v128_load(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        let bytes = unsafe { v128_load32_zero(from.cast()) };
        I32x4(u32x4_extend_low_u16x8(u16x8_extend_low_u8x16(bytes)))
    }
    by_intrinsic! {
        add(a, b) => i32x4_add(a, b);
        min(a, b) => i32x4_min(a, b);
        max(a, b) => i32x4_max(a, b);
        and(a, b) => v128_and(a, b);
        // Shifts take one count for all lanes.
        shift_left(a, b) => i32x4(
            i32x4_extract_lane::<0>(a) << i32x4_extract_lane::<0>(b),
            i32x4_extract_lane::<1>(a) << i32x4_extract_lane::<1>(b),
            i32x4_extract_lane::<2>(a) << i32x4_extract_lane::<2>(b),
            i32x4_extract_lane::<3>(a) << i32x4_extract_lane::<3>(b),
        );
        shift_right(a, b) => i32x4(
            i32x4_extract_lane::<0>(a) >> i32x4_extract_lane::<0>(b),
            i32x4_extract_lane::<1>(a) >> i32x4_extract_lane::<1>(b),
            i32x4_extract_lane::<2>(a) >> i32x4_extract_lane::<2>(b),
            i32x4_extract_lane::<3>(a) >> i32x4_extract_lane::<3>(b),
        );
        high_mul(a, b) => {
            let half = i64x2_splat(1 << 30);
            let low = i64x2_add(i64x2_extmul_low_i32x4(a, b), half);
            let high = i64x2_add(i64x2_extmul_high_i32x4(a, b), half);
            i32x4_shuffle::<0, 2, 4, 6>(u64x2_shr(low, 31), u64x2_shr(high, 31))
        };
    }
    #[inline(always)]
    unsafe fn shift_right_all(self, count: i32) -> Self {
        I32x4(i32x4_shr(self.0, count as u32))
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        I32x4(i32x4_shr(self.0, 31))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8) {
        let words = i16x8_narrow_i32x4(self.0, self.0);
        let bytes = cut(u8x16_narrow_i16x8(words, words), range);
        // SAFETY: room for four bytes, by the trait's contract.
        unsafe { v128_store32_lane::<0>(bytes, to.cast()) }
    }
    #[inline(always)]
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8) {
        let (low, high) = (i16x8_narrow_i32x4(parts[0].0, parts[1].0), i16x8_narrow_i32x4(parts[2].0, parts[3].0));
        let bytes = cut(u8x16_narrow_i16x8(low, high), range);
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe { v128_store(to.cast(), transpose(bytes)) }
    }
}

/// Byte `4i + j` from byte `4j + i`.
#[inline(always)]
fn transpose(bytes: v128) -> v128 {
    i8x16_shuffle::<0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15>(bytes, bytes)
}

/// Bytes cut to `range`.
#[inline(always)]
fn cut(bytes: v128, range: [u8; 2]) -> v128 {
    u8x16_min(u8x16_max(bytes, u8x16_splat(range[0])), u8x16_splat(range[1]))
}
