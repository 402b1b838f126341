//! WebAssembly vectors. A module that contains vector instructions loads only where the host knows them, so the choice is
//! made when it is compiled (`-C target-feature=+simd128`, or `+simd128,+relaxed-simd`) and not at run time.

use super::Simd;
use std::arch::wasm32::*;

/// Four floats: simd128, and with `RELAXED` the instructions of relaxed-simd, whose multiply-add is fused on most hosts.
/// Without that target feature the two are the same.
#[derive(Clone, Copy, Debug)]
pub struct V128<const RELAXED: bool>(v128);

/// simd128 alone: results do not depend on the host.
pub type F32x4 = V128<false>;
/// With relaxed-simd.
#[cfg(target_feature = "relaxed-simd")]
pub type F32x4Relaxed = V128<true>;

/// `2^23 + 2^22 + 127`. Added to a small integer, it leaves that integer's biased exponent in the lowest bits.
const EXPONENT: f32 = 12_583_039.0;

/// Implements methods by intrinsics; the first argument is `self`.
macro_rules! by_intrinsic {
    ($($name:ident ( $this:ident $(, $arg:ident)* ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($arg: Self),*) -> Self {
            let $this = self;
            V128($body)
        }
    )*};
}

impl<const RELAXED: bool> Simd for V128<RELAXED> {
    const LANES: usize = 4;
    // What x86-64 hosts have; those with more gain nothing that all could rely on.
    const REGISTERS: usize = 16;
    type Half = V128<RELAXED>;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        V128(f32x4_splat(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four valid floats, by the trait's contract.
        V128(unsafe { v128_load(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: room for four floats, by the trait's contract.
        unsafe { v128_store(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: no more than `count` floats are read, which are valid by the trait's contract.
        V128(unsafe {
            match count {
                1 => v128_load32_zero(from.cast()),
                2 => v128_load64_zero(from.cast()),
                3 => v128_load32_lane::<2>(v128_load64_zero(from.cast()), from.add(2).cast()),
                _ => v128_load(from.cast()),
            }
        })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: no more than `count` floats are written, for which there is room by the trait's contract.
        unsafe {
            match count {
                1 => v128_store32_lane::<0>(self.0, to.cast()),
                2 => v128_store64_lane::<0>(self.0, to.cast()),
                3 => {
                    v128_store64_lane::<0>(self.0, to.cast());
                    v128_store32_lane::<2>(self.0, to.add(2).cast());
                }
                _ => v128_store(to.cast(), self.0),
            }
        }
    }
    #[inline(always)]
    unsafe fn after<const N: usize>(self, next: Self) -> Self {
        V128(match N {
            1 => i32x4_shuffle::<1, 2, 3, 4>(self.0, next.0),
            _ => i32x4_shuffle::<2, 3, 4, 5>(self.0, next.0),
        })
    }
    #[inline(always)]
    unsafe fn before<const N: usize>(self, previous: Self) -> Self {
        V128(match N {
            1 => i32x4_shuffle::<3, 4, 5, 6>(previous.0, self.0),
            _ => i32x4_shuffle::<2, 3, 4, 5>(previous.0, self.0),
        })
    }
    by_intrinsic! {
        even(a, b) => i32x4_shuffle::<0, 2, 4, 6>(a.0, b.0);
        odd(a, b) => i32x4_shuffle::<1, 3, 5, 7>(a.0, b.0);
        add(a, b) => f32x4_add(a.0, b.0);
        sub(a, b) => f32x4_sub(a.0, b.0);
        mul(a, b) => f32x4_mul(a.0, b.0);
        div(a, b) => f32x4_div(a.0, b.0);
        mul_add(a, b, c) => multiply_add::<RELAXED>(a.0, b.0, c.0);
        max(a, b) => larger(a.0, b.0);
        min(a, b) => smaller(a.0, b.0);
        round(a) => f32x4_nearest(a.0);
        exp2_integral(a) => i32x4_shl(f32x4_add(a.0, f32x4_splat(EXPONENT)), 23);
        copysign(a, s) => v128_bitselect(s.0, a.0, f32x4_splat(-0.0));
        select_lt(a, b, y, n) => select(f32x4_lt(a.0, b.0), y.0, n.0);
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let pairs = f32x4_add(self.0, i32x4_shuffle::<2, 3, 0, 1>(self.0, self.0));
        f32x4_extract_lane::<0>(pairs) + f32x4_extract_lane::<1>(pairs)
    }
    #[inline(always)]
    unsafe fn bf16_pair(self) -> (Self, Self) {
        (V128(i32x4_shl(self.0, 16)), V128(v128_and(self.0, u32x4_splat(0xffff_0000))))
    }
}

/// `a * b + c`; with `RELAXED` rounded once if the host's CPU can.
#[inline(always)]
fn multiply_add<const RELAXED: bool>(a: v128, b: v128, c: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    if RELAXED {
        return f32x4_relaxed_madd(a, b, c);
    }
    f32x4_add(f32x4_mul(a, b), c)
}

// With relaxed-simd, LLVM 22 makes `relaxed_max` of whatever looks like `a > b ? a : b`, `pmax` included, though its result
// for NaN and for zeros of both signs is up to the host (llvm/llvm-project#177968 mends it). `relaxed_laneselect` hides the
// comparison, and does the same on every host if all bits of a lane of the mask are equal.

/// `a > b ? a : b`
#[inline(always)]
fn larger(a: v128, b: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return select(f32x4_gt(a, b), a, b);
    // `b < a ? a : b`: one instruction on x86-64 hosts, unlike `f32x4_max`.
    #[cfg(not(target_feature = "relaxed-simd"))]
    f32x4_pmax(b, a)
}

/// `a < b ? a : b`
#[inline(always)]
fn smaller(a: v128, b: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return select(f32x4_lt(a, b), a, b);
    #[cfg(not(target_feature = "relaxed-simd"))]
    f32x4_pmin(b, a)
}

/// `yes` where all bits of a lane of `mask` are set, `no` where none is.
#[inline(always)]
fn select(mask: v128, yes: v128, no: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return i32x4_relaxed_laneselect(yes, no, mask);
    #[cfg(not(target_feature = "relaxed-simd"))]
    v128_bitselect(yes, no, mask)
}
