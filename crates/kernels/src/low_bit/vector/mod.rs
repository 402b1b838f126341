//! Vectors of bytes for low-bit products, one type an instruction set, behind one trait.
//!
//! A lane is a row of the matrix and holds a *quad*: four neighbouring weights of that row. A product takes the same four
//! activations to all lanes and adds four products to each lane's 32-bit sum, exactly:
//!
//! | level | weights of up to 7 bits | 8-bit weights |
//! |---|---|---|
//! | AVX-512 VNNI, AVX-VNNI | `vpdpbusd` | `vpdpbusd`, 128 added to weights |
//! | AVX2, AVX-512 | `vpmaddubsw`, `vpmaddwd` | the same on magnitudes, signs moved to the activations |
//! | NEON with dotprod | `sdot` | `sdot`, weights with their sign |
//! | NEON | `smull`, `sadalp` | the same |
//!
//! `vpmaddubsw` saturates at 16 bits: activations are within ±127, so that two products with weights of 7 bits, or with
//! magnitudes up to 128, stay below.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::simd::Simd;
use crate::sparse_conv_i8::Level;

/// A vector of quads, or of 32-bit sums, one a lane.
///
/// # Safety
/// Every method needs the instruction set of its type; [`dispatch`] sees to that. Pointers need as many valid bytes as the
/// method says, with any alignment.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub(crate) trait Quads: Copy {
    /// Floats of as many lanes.
    type Floats: Simd;
    /// Lanes: rows of a group.
    const LANES: usize = <Self::Floats as Simd>::LANES;
    /// Whether 8-bit weights are multiplied with their sign; else they have 128 added.
    const SIGNED: bool;
    /// Most right-hand columns of a tile.
    const TILE: usize;

    /// `4 · LANES` bytes.
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    /// The four bytes at `from` in each lane.
    unsafe fn quad(from: *const i8) -> Self;
    /// The number at `from` in each lane.
    unsafe fn sum_at(from: *const i32) -> Self;
    unsafe fn splat_bytes(value: u8) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    /// Lanes shifted; bits cross from byte to byte.
    unsafe fn shift_right(self, count: u32) -> Self;
    unsafe fn shift_left(self, count: u32) -> Self;
    /// Bytes of 0 to 15 as what stands there in the table.
    unsafe fn lookup(self, table: &[u8; 16]) -> Self;
    /// Adds products of unsigned weights of up to 7 bits and signed activations.
    unsafe fn dot(self, weights: Self, activations: Self) -> Self;
    /// Adds products of 8-bit weights, as [`SIGNED`](Self::SIGNED) says.
    unsafe fn dot_wide(self, weights: Self, activations: Self) -> Self;
    unsafe fn to_floats(self) -> Self::Floats;
    /// `LANES` half-precision floats.
    unsafe fn halves(from: *const u16) -> Self::Floats;
    /// `LANES` brain floats.
    unsafe fn brains(from: *const u16) -> Self::Floats;
    /// `LANES` signed bytes.
    unsafe fn signed(from: *const u8) -> Self::Floats;
    /// The low nibbles of `LANES` bytes, and the high ones.
    unsafe fn nibbles(from: *const u8) -> (Self::Floats, Self::Floats);
}

/// A computation that can be compiled for any level.
pub(crate) trait Kernel {
    /// Runs it with vectors of type `V`.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and the arguments held by `self` must be valid.
    unsafe fn run<V: Quads>(self);
}

/// Runs `kernel` with the vectors of `level`.
///
/// # Safety
/// The CPU must offer `level`, and the arguments held by `kernel` must be valid.
#[inline]
pub(crate) unsafe fn dispatch<K: Kernel>(level: Level, kernel: K) {
    // SAFETY: the caller vouches for the instructions and the arguments.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86_64::run_avx2(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => x86_64::run_avx_vnni(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86_64::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => x86_64::run_avx512_vnni(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => kernel.run::<aarch64::I8x16<false>>(),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => kernel.run::<aarch64::I8x16<true>>(),
            _ => kernel.run::<portable::Portable>(),
        }
    }
}

/// Lanes of `level`, and whether its 8-bit weights have their sign.
pub(crate) fn shape(level: Level) -> (usize, bool) {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (8, true),
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => (8, false),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => (16, true),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => (16, false),
        _ => (4, true),
    }
}

/// The most lanes of any level.
pub(crate) const MAX_LANES: usize = 16;

/// A type of stored floats, by its size and how `LANES` of them are read.
pub(crate) trait Stored {
    const BYTES: usize;
    /// # Safety
    /// `LANES` stored floats must be there.
    unsafe fn load<V: Quads>(from: *const u8) -> V::Floats;
}

pub(crate) struct Single;
pub(crate) struct Half;
pub(crate) struct Brain;

impl Stored for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Quads>(from: *const u8) -> V::Floats {
        // SAFETY: the caller's promise.
        unsafe { V::Floats::load(from.cast()) }
    }
}
impl Stored for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Quads>(from: *const u8) -> V::Floats {
        // SAFETY: the caller's promise.
        unsafe { V::halves(from.cast()) }
    }
}
impl Stored for Brain {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Quads>(from: *const u8) -> V::Floats {
        // SAFETY: the caller's promise.
        unsafe { V::brains(from.cast()) }
    }
}
