//! Four rows in plain Rust: the reference, and the path for CPUs that have none of the others.

use super::Quads;
use crate::low_bit::formats::f16_to_f32;
use crate::simd::{self, Simd};

/// Four quads, without special instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable([u32; 4]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(u32) -> u32) -> Portable {
        Portable(self.0.map(f))
    }
    #[inline(always)]
    fn zip(self, other: Portable, f: impl Fn(u32, u32) -> u32) -> Portable {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
    #[inline(always)]
    fn floats(f: impl Fn(usize) -> f32) -> simd::Portable {
        let values: [f32; 4] = std::array::from_fn(f);
        // SAFETY: four floats are there.
        unsafe { simd::Portable::load(values.as_ptr()) }
    }
}

impl Quads for Portable {
    type Floats = simd::Portable;
    const SIGNED: bool = true;
    const TILE: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: 16 valid bytes, by the trait's contract.
        Portable(unsafe { from.cast::<[u32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe { to.cast::<[u32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn quad(from: *const i8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        Portable([unsafe { from.cast::<u32>().read_unaligned() }; 4])
    }
    #[inline(always)]
    unsafe fn sum_at(from: *const i32) -> Self {
        // SAFETY: a valid number, by the trait's contract.
        Portable([unsafe { *from } as u32; 4])
    }
    #[inline(always)]
    unsafe fn splat_bytes(value: u8) -> Self {
        Portable([u32::from_ne_bytes([value; 4]); 4])
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn shift_right(self, count: u32) -> Self {
        self.map(|a| a >> count)
    }
    #[inline(always)]
    unsafe fn shift_left(self, count: u32) -> Self {
        self.map(|a| a << count)
    }
    #[inline(always)]
    unsafe fn lookup(self, table: &[u8; 16]) -> Self {
        self.map(|a| u32::from_ne_bytes(a.to_ne_bytes().map(|b| table[usize::from(b & 15)])))
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, activations: Self) -> Self {
        // SAFETY: needs no instruction set. Weights of 7 bits are the same with a sign.
        unsafe { self.dot_wide(weights, activations) }
    }
    #[inline(always)]
    unsafe fn dot_wide(self, weights: Self, activations: Self) -> Self {
        let product = |w: u32, a: u32| {
            let (w, a) = (w.to_ne_bytes(), a.to_ne_bytes());
            (0..4).map(|i| i32::from(w[i] as i8) * i32::from(a[i] as i8)).sum::<i32>()
        };
        Portable(std::array::from_fn(|i| {
            (self.0[i] as i32).wrapping_add(product(weights.0[i], activations.0[i])) as u32
        }))
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> simd::Portable {
        Self::floats(|i| self.0[i] as i32 as f32)
    }
    #[inline(always)]
    unsafe fn halves(from: *const u16) -> simd::Portable {
        // SAFETY: four valid halves, by the trait's contract.
        Self::floats(|i| f16_to_f32(unsafe { from.add(i).read_unaligned() }))
    }
    #[inline(always)]
    unsafe fn brains(from: *const u16) -> simd::Portable {
        // SAFETY: as above.
        Self::floats(|i| f32::from_bits(u32::from(unsafe { from.add(i).read_unaligned() }) << 16))
    }
    #[inline(always)]
    unsafe fn signed(from: *const u8) -> simd::Portable {
        // SAFETY: four valid bytes, by the trait's contract.
        Self::floats(|i| f32::from(unsafe { *from.add(i) } as i8))
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> (simd::Portable, simd::Portable) {
        // SAFETY: as above.
        let byte = |i| unsafe { *from.add(i) };
        (Self::floats(|i| f32::from(byte(i) & 15)), Self::floats(|i| f32::from(byte(i) >> 4)))
    }
}
