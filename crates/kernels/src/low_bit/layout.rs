//! How packed matrices lie in memory, a type for each format.
//!
//! `LANES` rows make a group. Along `k` a group is a sequence of *chunks* of 32 weights a row, and a chunk is eight
//! *steps*, vectors of a quad (four neighbouring weights) a row. The integers lie in bit planes: `LOW` vectors with the low
//! bits of all steps, then `HIGH` vectors with the bits above them.
//!
//! | bits of the plane | vectors | where step `s` is |
//! |---|---|---|
//! | 8 | 8 | vector `s` |
//! | 4 | 4 | vector `s % 4`, from bit `4 · (s / 4)` of each byte on |
//! | 2 | 2 | vector `s % 2`, from bit `2 · (s / 2)` of each byte on |
//! | 1 | 1 | bit `s` of each byte |
//!
//! Scales lie apart, see [`Scales`]; each is `LANES` numbers side by side.

use super::formats::{Format, IQ4_VALUES};
use super::vector::Quads;
use crate::simd::Simd;

/// Weights of a row in a chunk.
pub(crate) const CHUNK: usize = 32;
/// Vectors of a chunk when unpacked.
pub(crate) const STEPS: usize = 8;

/// How the scales of a group are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// A half-precision scale a chunk.
    Half,
    /// A half-precision scale and minimum a chunk.
    HalfMin,
    /// For 256 weights a half-precision scale, then a signed byte a sub-block.
    Super,
    /// For 256 weights half-precision scale and minimum, then two bytes a sub-block.
    SuperMin,
    /// For 256 weights half-precision scale and minimum, then a byte a sub-block: scale in the low, minimum in the high bits.
    SuperNibbles,
}

impl Scales {
    pub(crate) const fn has_min(self) -> bool {
        matches!(self, Scales::HalfMin | Scales::SuperMin | Scales::SuperNibbles)
    }

    /// Weights of a row in one record, and bytes of it a row.
    pub(crate) const fn record(self, sub: usize) -> (usize, usize) {
        match self {
            Scales::Half => (CHUNK, 2),
            Scales::HalfMin => (CHUNK, 4),
            Scales::Super => (256, 2 + 256 / sub),
            Scales::SuperMin => (256, 4 + 2 * (256 / sub)),
            Scales::SuperNibbles => (256, 4 + 256 / sub),
        }
    }
}

/// The layout of a format.
pub(crate) trait Layout {
    const FORMAT: Format;
    /// Low bits of an integer.
    const LOW: usize;
    /// Bits above them.
    const HIGH: usize;
    const SCALES: Scales;

    /// Whether the low bits are indices into a table.
    const TABLE: bool = matches!(Self::FORMAT, Format::Iq4Nl | Format::Iq4Xs);
    /// Whether unpacked integers have eight bits.
    const WIDE: bool = Self::TABLE || Self::LOW == 8;
    /// Weights that share a scale.
    const SUB: usize = Self::FORMAT.sub_block();
    /// Vectors of a packed chunk.
    const VECTORS: usize = Self::LOW + Self::HIGH;
}

macro_rules! layouts {
    ($($name:ident: $format:ident, $low:literal + $high:literal bits, $scales:ident;)*) => {
        $(
            pub(crate) struct $name;
            impl Layout for $name {
                const FORMAT: Format = Format::$format;
                const LOW: usize = $low;
                const HIGH: usize = $high;
                const SCALES: Scales = Scales::$scales;
            }
        )*

        /// A computation for one layout.
        pub(crate) trait WithLayout {
            type Output;
            fn run<L: Layout>(self) -> Self::Output;
        }

        /// Runs `work` with the layout of `format`, which has blocks of integers.
        #[inline(always)]
        pub(crate) fn with_layout<W: WithLayout>(format: Format, work: W) -> W::Output {
            match format {
                $(Format::$format => work.run::<$name>(),)*
                Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have no layout of blocks"),
            }
        }
    };
}

layouts! {
    Q8x0: Q8_0, 8 + 0 bits, Half;
    Q4x0: Q4_0, 4 + 0 bits, Half;
    Q4x1: Q4_1, 4 + 0 bits, HalfMin;
    Q5x0: Q5_0, 4 + 1 bits, Half;
    Q5x1: Q5_1, 4 + 1 bits, HalfMin;
    Q2K: Q2_K, 2 + 0 bits, SuperNibbles;
    Q3K: Q3_K, 2 + 1 bits, Super;
    Q4K: Q4_K, 4 + 0 bits, SuperMin;
    Q5K: Q5_K, 4 + 1 bits, SuperMin;
    Q6K: Q6_K, 4 + 2 bits, Super;
    Iq4Nl: Iq4Nl, 4 + 0 bits, Half;
    Iq4Xs: Iq4Xs, 4 + 0 bits, Super;
}

/// The bytes of a row in each of a chunk's vectors, `low + high` of them, from the integers of its steps (8-bit ones as they
/// are stored, indices for tables). A number is four bytes, side by side.
#[inline(always)]
pub(crate) fn planes(low: usize, high: usize, steps: &[u32; STEPS]) -> [u32; STEPS] {
    let bytes = |mask: u8| u32::from_ne_bytes([mask; 4]);
    std::array::from_fn(|v| match (low, high) {
        (8, _) => steps[v],
        (4, _) if v < 4 => steps[v] & bytes(15) | (steps[v + 4] & bytes(15)) << 4,
        (2, _) if v < 2 => (0..4).fold(0, |all, i| all | (steps[v + 2 * i] & bytes(3)) << (2 * i)),
        (_, 1) if v == low => (0..STEPS).fold(0, |all, s| all | (steps[s] >> low & bytes(1)) << s),
        (_, 2) if v >= low && v < low + 2 => {
            (0..4).fold(0, |all, i| all | (steps[v - low + 2 * i] >> low & bytes(3)) << (2 * i))
        }
        _ => 0,
    })
}

/// The integer of step `s`, byte `at` of its vector, in a chunk whose vectors have `vector` bytes; the inverse of [`planes`].
pub(crate) fn take(low: usize, high: usize, chunk: &[u8], vector: usize, s: usize, at: usize) -> u8 {
    let low_bits = match low {
        8 => chunk[s * vector + at],
        4 => chunk[s % 4 * vector + at] >> (s / 4 * 4) & 15,
        _ => chunk[s % 2 * vector + at] >> (s / 2 * 2) & 3,
    };
    let high_bits = match high {
        0 => 0,
        1 => chunk[low * vector + at] >> s & 1,
        _ => chunk[(low + s % 2) * vector + at] >> (s / 2 * 2) & 3,
    };
    low_bits | if low < 8 { high_bits << low } else { 0 }
}

/// Values of the table as vectors want them.
#[inline(always)]
fn table(signed: bool) -> [u8; 16] {
    IQ4_VALUES.map(|v| if signed { v as u8 } else { v as u8 ^ 0x80 })
}

/// Step `S` of the chunk at `from`.
#[inline(always)]
unsafe fn step<V: Quads, L: Layout, const S: usize>(from: *const u8) -> V {
    let vector = 4 * V::LANES;
    // SAFETY: the chunk has `L::VECTORS` vectors, by the caller's promise.
    unsafe {
        let bits = |index: usize, shift: usize, mask: u8| {
            let plane = V::load(from.add(index * vector));
            (if shift == 0 { plane } else { plane.shift_right(shift as u32) }).and(V::splat_bytes(mask))
        };
        let low = match L::LOW {
            8 => V::load(from.add(S * vector)),
            4 => bits(S % 4, S / 4 * 4, 15),
            _ => bits(S % 2, S / 2 * 2, 3),
        };
        // Bits above the low ones move straight to their place.
        let raise = |index: usize, at: usize, mask: u8| {
            let plane = V::load(from.add((L::LOW + index) * vector));
            let moved = if at > L::LOW {
                plane.shift_right((at - L::LOW) as u32)
            } else if at < L::LOW {
                plane.shift_left((L::LOW - at) as u32)
            } else {
                plane
            };
            moved.and(V::splat_bytes(mask << L::LOW))
        };
        let all = match L::HIGH {
            0 => low,
            1 => low.or(raise(0, S, 1)),
            _ => low.or(raise(S % 2, S / 2 * 2, 3)),
        };
        if L::TABLE { all.lookup(&table(V::SIGNED)) } else { all }
    }
}

/// The eight steps of the chunk at `from`.
///
/// # Safety
/// The chunk must be there, and the CPU must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn unpack<V: Quads, L: Layout>(from: *const u8) -> [V; STEPS] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            step::<V, L, 0>(from),
            step::<V, L, 1>(from),
            step::<V, L, 2>(from),
            step::<V, L, 3>(from),
            step::<V, L, 4>(from),
            step::<V, L, 5>(from),
            step::<V, L, 6>(from),
            step::<V, L, 7>(from),
        ]
    }
}

/// Scale and minimum (zero where there are none) of sub-block `index` of a group whose scales start at `from`.
///
/// # Safety
/// The sub-block must be there, and the CPU must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn scale<V: Quads, L: Layout>(from: *const u8, index: usize) -> (V::Floats, V::Floats) {
    let (weights, bytes) = L::SCALES.record(L::SUB);
    let per_record = weights / L::SUB;
    let lanes = V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let record = from.add(index / per_record * bytes * lanes);
        let sub = index % per_record;
        let half = |i: usize| V::halves(record.add(2 * i * lanes).cast());
        match L::SCALES {
            Scales::Half => (half(0), V::Floats::splat(0.0)),
            Scales::HalfMin => (half(0), half(1)),
            Scales::Super => (V::signed(record.add((2 + sub) * lanes)).mul(half(0)), V::Floats::splat(0.0)),
            Scales::SuperMin => {
                let at = record.add((4 + 2 * sub) * lanes);
                (V::signed(at).mul(half(0)), V::signed(at.add(lanes)).mul(half(1)))
            }
            Scales::SuperNibbles => {
                let (scale, min) = V::nibbles(record.add((4 + sub) * lanes));
                (scale.mul(half(0)), min.mul(half(1)))
            }
        }
    }
}
