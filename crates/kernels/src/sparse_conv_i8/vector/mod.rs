//! Vectors for 8-bit products with 32-bit sums, one type an instruction set, behind one trait.
//!
//! What all of them compute is the product of *quads*: four neighbouring bytes of an activation and four weights, added to
//! a 32-bit sum, exactly. Instruction sets differ in how they take them ([`Form`]):
//!
//! | level | instruction | activations | weights |
//! |---|---|---|---|
//! | AVX-512 VNNI, AVX-VNNI | `vpdpbusd` | u8 | i8 |
//! | NEON with dotprod | `sdot` | less 128, as i8 | i8 |
//! | NEON | `smull`, `sadalp` | less 128, as i8 | i8 |
//! | AVX2, AVX-512 | `vpmaddwd` | even and odd bytes as i16 | i16 |
//! | simd128 | `i32x4.dot_i16x8_s` | even and odd bytes as i16 | i16 |
//!
//! `vpmaddubsw` saturates at 16 bits, and the relaxed dot product of WebAssembly is defined for 7-bit operands only: neither
//! is exact for 8-bit weights beside 8-bit activations, so neither is used.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::Isa;
use portable::Portable;
use std::fmt;

/// How the four weights of a quad are stored, and what is done to activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A block is `[4 outputs][4 inputs]` of `i8`; `offset` is subtracted from activations.
    Bytes {
        /// Subtracted from each byte of the input.
        offset: i32,
    },
    /// A block is `[2][4 outputs][2]` of `i16`: inputs 0 and 2 of each output, then inputs 1 and 3.
    Pairs,
}

impl Form {
    /// Bytes of a block of four outputs by four inputs.
    pub const fn block_bytes(self) -> usize {
        match self {
            Form::Bytes { .. } => 16,
            Form::Pairs => 32,
        }
    }

    /// What is subtracted from each byte of the input.
    pub const fn offset(self) -> i32 {
        match self {
            Form::Bytes { offset } => offset,
            Form::Pairs => 0,
        }
    }
}

/// A vector of `LANES` numbers of 32 bits.
///
/// Lanes are either pixels of one channel or, four by four, the channels of a quad, pixel after pixel.
///
/// # Safety
/// Every method needs the instruction set of its type; [`dispatch`] sees to that. Pointers need as many valid bytes as the
/// method says, with any alignment.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub(crate) trait Vector: Copy {
    /// Numbers in a vector.
    const LANES: usize;
    /// Most vectors of pixels in a tile of four outputs.
    const TILE: usize;
    /// How weights are stored.
    const FORM: Form;
    /// `LANES` quads of activations, ready to be multiplied.
    type Quads: Copy;
    /// `LANES` sums that are being made.
    type Sums: Copy;
    /// Four quads of weights.
    type Block: Copy;

    unsafe fn zero_sums() -> Self::Sums;
    unsafe fn total(sums: Self::Sums) -> Self;
    unsafe fn add_sums(sums: Self::Sums, others: Self::Sums) -> Self::Sums;
    /// `Form::block_bytes` bytes.
    unsafe fn load_block(from: *const u8) -> Self::Block;
    /// `4 · LANES` bytes.
    unsafe fn load_quads(from: *const u8) -> Self::Quads;
    /// `LANES` bytes: `LANES / 4` quads, each four times.
    unsafe fn repeat_quads(from: *const u8) -> Self::Quads;
    /// `LANES / 4` windows of four neighbouring quads, `step` bytes apart, each transposed: lane `4w + c` is byte `c` of the
    /// four quads of window `w`. Reads at most 64 bytes from the beginning of each window.
    unsafe fn windows(from: *const u8, step: usize) -> Self::Quads;
    /// Adds each lane's quad times quad `K` of the block.
    unsafe fn dot<const K: usize>(sums: Self::Sums, quads: Self::Quads, block: Self::Block) -> Self::Sums;
    /// Adds to each lane `l` its quad times quad `l % 4` of the block.
    unsafe fn dot_each(sums: Self::Sums, quads: Self::Quads, block: Self::Block) -> Self::Sums;

    unsafe fn splat(value: i32) -> Self;
    /// Four numbers, over and over.
    unsafe fn repeat4(from: *const i32) -> Self;
    /// `LANES` bytes, unsigned.
    unsafe fn load_bytes(from: *const u8) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    /// `self << count`, lane by lane; counts of 0 to 31.
    unsafe fn shift_left(self, count: Self) -> Self;
    /// `self >> count` with the sign, lane by lane; counts of 0 to 31.
    unsafe fn shift_right(self, count: Self) -> Self;
    /// [`shift_right`](Self::shift_right) by one count for all lanes.
    #[inline(always)]
    unsafe fn shift_right_all(self, count: i32) -> Self {
        // SAFETY: the trait's caller vouches for the instruction set.
        unsafe { self.shift_right(Self::splat(count)) }
    }
    /// −1 where negative, else 0.
    unsafe fn sign(self) -> Self;
    /// `(self · other + 2^30) >> 31` in 64 bits; not for `self = other = −2^31`.
    unsafe fn high_mul(self, other: Self) -> Self;
    /// Stores `LANES` numbers as bytes, cut to `range`.
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8);
    /// Stores four vectors of numbers, cut to `range`, as `LANES` quads, byte `i` of each from `parts[i]`.
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8);
}

/// The most bytes that [`Vector::load_quads`] reads.
pub(crate) const MAX_VECTOR: usize = 64;

/// A level of 8-bit instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust: the reference.
    Portable,
    /// AVX2, by products of 16-bit pairs.
    Avx2,
    /// AVX2 and AVX-VNNI.
    AvxVnni,
    /// AVX-512 without VNNI, by products of 16-bit pairs.
    Avx512,
    /// AVX-512 with VNNI.
    Avx512Vnni,
    /// NEON without dotprod.
    Neon,
    /// NEON with dotprod.
    NeonDot,
    /// WebAssembly's simd128.
    Simd128,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 8] = [
        Level::Portable,
        Level::Avx2,
        Level::AvxVnni,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Neon,
        Level::NeonDot,
        Level::Simd128,
    ];

    /// The best level within `isa` that this CPU offers.
    pub fn of(isa: Isa) -> Level {
        let best = |levels: &[Level]| levels.iter().copied().find(|level| level.is_available());
        let found = match isa {
            Isa::Scalar => None,
            Isa::Avx2 => best(&[Level::AvxVnni, Level::Avx2]),
            Isa::Avx512 | Isa::Amx => best(&[Level::Avx512Vnni, Level::Avx512]),
            Isa::Neon => best(&[Level::NeonDot, Level::Neon]),
            Isa::Simd128 | Isa::RelaxedSimd => best(&[Level::Simd128]),
        };
        found.unwrap_or(Level::Portable)
    }

    /// Whether this CPU offers it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Isa::Avx512.is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Level::Simd128 => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Levels that this CPU offers.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.is_available())
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avx-vnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512-vnni",
            Level::Neon => "neon",
            Level::NeonDot => "neon-dotprod",
            Level::Simd128 => "simd128",
        }
    }

    /// How its weights are stored.
    pub fn form(self) -> Form {
        match self {
            Level::Avx2 | Level::Avx512 | Level::Simd128 => Form::Pairs,
            Level::Neon | Level::NeonDot => Form::Bytes { offset: 128 },
            Level::Portable | Level::AvxVnni | Level::Avx512Vnni => Form::Bytes { offset: 0 },
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A computation that can be compiled for any level.
pub(crate) trait Kernel {
    /// Runs it with vectors of type `V`.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and the arguments held by `self` must be valid.
    unsafe fn run<V: Vector>(self);
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
            Level::Neon => aarch64::run_neon(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => aarch64::run_neon_dot(kernel),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Level::Simd128 => kernel.run::<wasm32::I32x4>(),
            _ => kernel.run::<Portable>(),
        }
    }
}
