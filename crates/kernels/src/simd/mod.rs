//! Vectors of `f32`, one type an instruction set, behind one trait.
//!
//! A kernel is written once, generic over [`Simd`], as a [`Kernel`]: a struct of arguments with one method. [`dispatch`]
//! compiles it for each instruction set and picks one at run time. Everything a kernel calls on its way must be
//! `#[inline(always)]`, so that it is compiled with the instruction set of its caller.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::Isa;
#[cfg(target_arch = "aarch64")]
pub use aarch64::F32x4;
pub use portable::Portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub use wasm32::F32x4;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128", target_feature = "relaxed-simd"))]
pub use wasm32::F32x4Relaxed;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{F32x4, F32x8, F32x16, F32x16Bf16};

/// A vector of `LANES` floats.
///
/// # Safety
/// Every method needs the instruction set of its type; [`dispatch`] sees to that. `load` and `store` need `LANES` valid
/// floats at the pointer, with any alignment.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub trait Simd: Copy {
    /// Floats in a vector.
    const LANES: usize;
    /// Architectural vector registers.
    const REGISTERS: usize;

    /// A vector of at most half as many floats for ends of rows, or this one where there is none shorter.
    type Half: Simd;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` (1 to `LANES`) floats at `from` and zeros after them; reads no more than those.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// Stores the first `count` (1 to `LANES`) lanes and touches nothing after them.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// Lanes `N` further on: `self[N..]`, then `next[..N]`. `N` is 1 or 2.
    unsafe fn after<const N: usize>(self, next: Self) -> Self;
    /// Lanes `N` before: the last `N` of `previous`, then `self[..LANES - N]`. `N` is 1 or 2.
    unsafe fn before<const N: usize>(self, previous: Self) -> Self;
    /// Lanes 0, 2, 4, … of `self` followed by `next`.
    unsafe fn even(self, next: Self) -> Self;
    /// Lanes 1, 3, 5, … of `self` followed by `next`.
    unsafe fn odd(self, next: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once where the instruction set can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger of each pair; `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each pair; `other` where either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// Nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for integral values in -126..=127.
    unsafe fn exp2_integral(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn copysign(self, sign: Self) -> Self;
    /// `yes` where `self < other`, else `no`.
    unsafe fn select_lt(self, other: Self, yes: Self, no: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// Asks for the cache line at `_at`, which need not exist, to read it soon. Nothing where that is left to the machine.
    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}
    /// The same, to write to it.
    #[inline(always)]
    unsafe fn prefetch_write(_at: *const f32) {}
    /// Lanes taken as pairs of bf16: the low halves and the high halves, as floats.
    unsafe fn bf16_pair(self) -> (Self, Self);
    /// `self + a.low · b.low + a.high · b.high`, lanes of `a` and `b` taken as pairs of bf16.
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        // SAFETY: as for this method.
        unsafe { dot_bf16_by_parts(self, a, b) }
    }
    /// Stores `LANES` values rounded to bf16, ties to even.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        // SAFETY: as for this method.
        unsafe { store_bf16_by_parts(self, to) }
    }
}

/// [`Simd::dot_bf16`] where there is no instruction for it.
#[inline(always)]
unsafe fn dot_bf16_by_parts<V: Simd>(sum: V, a: V, b: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let ((a_low, a_high), (b_low, b_high)) = (a.bf16_pair(), b.bf16_pair());
        a_high.mul_add(b_high, a_low.mul_add(b_low, sum))
    }
}

/// [`Simd::store_bf16`] where there is no instruction for it.
#[inline(always)]
unsafe fn store_bf16_by_parts<V: Simd>(values: V, to: *mut u16) {
    let mut floats = [0.0f32; MAX_LANES];
    // SAFETY: no vector is longer than `MAX_LANES`; the caller gives room for `LANES` values.
    unsafe {
        values.store(floats.as_mut_ptr());
        for (i, &value) in floats.iter().enumerate().take(V::LANES) {
            *to.add(i) = bf16_bits(value);
        }
    }
}

/// `value` rounded to bf16, ties to even.
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The longest vector, in floats.
pub const MAX_LANES: usize = 16;

/// Whether this CPU multiplies bf16 vectors by one instruction at the level of `isa`.
pub fn has_bf16(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = isa >= Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let found = isa > Isa::Amx;
    found
}

/// Whether bf16 products are faster than `f32` ones at the level of `isa`: on AMX tiles, and on AMD's AVX-512. (Intel's
/// AVX-512 has the instruction, at half the rate: measured on a Xeon, whole networks took 1.2 to 1.7 times longer with it.)
pub fn bf16_is_fast(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        // "AuthenticAMD" in registers B, D, C; its first four letters tell.
        has_bf16(isa) && (isa == Isa::Amx || vendor.ebx.to_le_bytes() == *b"Auth")
    }
    #[cfg(not(target_arch = "x86_64"))]
    has_bf16(isa)
}

/// [`dispatch`] for kernels that use [`Simd::dot_bf16`]: with bf16 instructions where the CPU has them.
///
/// # Safety
/// As [`dispatch`].
#[inline]
pub unsafe fn dispatch_bf16<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if has_bf16(isa) {
        // SAFETY: the CPU has the instructions, as was just asked; the caller vouches for the arguments.
        return unsafe { x86_64::run_avx512_bf16(kernel) };
    }
    #[cfg(all(best_isa_only, target_arch = "wasm32"))]
    {
        let _ = (isa, kernel);
        unreachable!("bf16 is never chosen where it is not fast");
    }
    // SAFETY: the caller's promise.
    #[cfg(not(all(best_isa_only, target_arch = "wasm32")))]
    unsafe {
        dispatch(isa, kernel)
    }
}

/// A computation that can be compiled for any instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// Runs it with vectors of type `V`.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`, and the arguments held by `self` must be valid.
    unsafe fn run<V: Simd>(self) -> Self::Output;
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Safety
/// The CPU must offer `isa`, and the arguments held by `kernel` must be valid.
#[inline]
pub unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(all(best_isa_only, target_arch = "wasm32", target_feature = "simd128"))]
    {
        #[cfg(target_feature = "relaxed-simd")]
        type Best = F32x4Relaxed;
        #[cfg(not(target_feature = "relaxed-simd"))]
        type Best = F32x4;
        let _ = isa;
        // SAFETY: all of this module was compiled with these instructions; the caller vouches for the arguments.
        unsafe { kernel.run::<Best>() }
    }
    #[cfg(not(all(best_isa_only, target_arch = "wasm32", target_feature = "simd128")))]
    match isa {
        // SAFETY: the caller vouches for the instruction set and the arguments.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => unsafe { x86_64::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::run_avx2(kernel) },
        // SAFETY: all of this program was compiled for CPUs with NEON; the caller vouches for the arguments.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { kernel.run::<F32x4>() },
        // SAFETY: all of this module was compiled with these instructions; the caller vouches for the arguments.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128", target_feature = "relaxed-simd"))]
        Isa::RelaxedSimd => unsafe { kernel.run::<F32x4Relaxed>() },
        // SAFETY: as above.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => unsafe { kernel.run::<F32x4>() },
        // SAFETY: needs no instruction set; the caller vouches for the arguments.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

/// Floats in a vector of `isa`.
pub fn lanes(isa: Isa) -> usize {
    shape(isa).0
}

/// Architectural vector registers of `isa`.
pub fn registers(isa: Isa) -> usize {
    shape(isa).1
}

/// Lanes and registers of the vectors that [`dispatch`] takes for `isa`.
fn shape(isa: Isa) -> (usize, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => (F32x16::LANES, F32x16::REGISTERS),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (F32x8::LANES, F32x8::REGISTERS),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (F32x4::LANES, F32x4::REGISTERS),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 | Isa::RelaxedSimd => (F32x4::LANES, F32x4::REGISTERS),
        _ => (Portable::LANES, Portable::REGISTERS),
    }
}
