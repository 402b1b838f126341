//! Four floats in plain Rust: the path for CPUs that have none of the others.

use super::Simd;

/// Four floats, without special instructions.
#[derive(Clone, Copy, Debug)]
pub struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

/// The condition itself. Compiling for relaxed-simd, LLVM 22 would make `relaxed_max` of a choice of the larger number, whose
/// result for NaN is up to the host (see `wasm32.rs`), so there it may not look.
#[inline(always)]
fn unseen(condition: bool) -> bool {
    if cfg!(target_feature = "relaxed-simd") { std::hint::black_box(condition) } else { condition }
}

impl Simd for Portable {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    type Half = Portable;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives four valid floats.
        Portable(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives room for four floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller gives `count` valid floats.
            *lane = unsafe { *from.add(i) };
        }
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, &lane) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller gives room for `count` floats.
            unsafe { *to.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        Portable(std::array::from_fn(|i| if i + N < 4 { self.0[i + N] } else { next.0[i + N - 4] }))
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        Portable(std::array::from_fn(|i| if i < N { previous.0[i + 4 - N] } else { self.0[i - N] }))
    }
    #[inline(always)]
    unsafe fn even(self, next: Self) -> Self {
        Portable([self.0[0], self.0[2], next.0[0], next.0[2]])
    }
    #[inline(always)]
    unsafe fn odd(self, next: Self) -> Self {
        Portable([self.0[1], self.0[3], next.0[1], next.0[3]])
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a slow library call.
        Portable(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if unseen(a > b) { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if unseen(a < b) { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Portable(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn exp2_integral(self) -> Self {
        Portable(self.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    unsafe fn select_lt(self, other: Self, yes: Self, no: Self) -> Self {
        Portable(std::array::from_fn(|i| if unseen(self.0[i] < other.0[i]) { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        let bits = self.0.map(f32::to_bits);
        (Portable(bits.map(|b| f32::from_bits(b << 16))), Portable(bits.map(|b| f32::from_bits(b & 0xffff_0000))))
    }
}
