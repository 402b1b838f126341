//! Four numbers in plain Rust: the reference, and what runs where nothing better is known.

use super::{Form, Vector};

/// Four 32-bit numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable([i32; 4]);

/// Implements methods lane by lane; the first argument is a lane of `self`.
macro_rules! lane_by_lane {
    ($($name:ident ( $a:ident, $b:ident ) => $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, other: Self) -> Self {
            let mut out = self;
            for (out, $b) in out.0.iter_mut().zip(other.0) {
                let $a = *out;
                *out = $body;
            }
            out
        }
    )*};
}

impl Portable {
    #[inline(always)]
    fn dot_rows(mut self, quads: [[u8; 4]; 4], rows: [[i8; 4]; 4]) -> Self {
        for ((sum, quad), row) in self.0.iter_mut().zip(quads).zip(rows) {
            for (x, w) in quad.into_iter().zip(row) {
                *sum += i32::from(x) * i32::from(w);
            }
        }
        self
    }
}

/// A number as a byte of `range`.
#[inline(always)]
fn cut(lane: i32, [lowest, highest]: [u8; 2]) -> u8 {
    lane.clamp(lowest.into(), highest.into()) as u8
}

impl Vector for Portable {
    const LANES: usize = 4;
    const TILE: usize = 2;
    const FORM: Form = Form::Bytes { offset: 0 };
    type Quads = [[u8; 4]; 4];
    type Sums = Portable;
    type Block = [[i8; 4]; 4];

    #[inline(always)]
    unsafe fn zero_sums() -> Self {
        Portable([0; 4])
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
    unsafe fn load_block(from: *const u8) -> Self::Block {
        // SAFETY: 16 valid bytes, by the trait's contract; any are valid `i8`.
        unsafe { from.cast::<Self::Block>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const u8) -> Self::Quads {
        // SAFETY: 16 valid bytes, by the trait's contract.
        unsafe { from.cast::<Self::Quads>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn repeat_quads(from: *const u8) -> Self::Quads {
        // SAFETY: four valid bytes, by the trait's contract.
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; 4]
    }
    #[inline(always)]
    unsafe fn windows(from: *const u8, _step: usize) -> Self::Quads {
        // SAFETY: a window is 16 valid bytes, by the trait's contract.
        let window = unsafe { Self::load_quads(from) };
        let mut out = [[0; 4]; 4];
        for (i, quad) in window.into_iter().enumerate() {
            for (lane, byte) in out.iter_mut().zip(quad) {
                lane[i] = byte;
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn dot<const K: usize>(sums: Self, quads: Self::Quads, block: Self::Block) -> Self {
        sums.dot_rows(quads, [block[K]; 4])
    }
    #[inline(always)]
    unsafe fn dot_each(sums: Self, quads: Self::Quads, block: Self::Block) -> Self {
        sums.dot_rows(quads, block)
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        Portable([value; 4])
    }
    #[inline(always)]
    unsafe fn repeat4(from: *const i32) -> Self {
        // SAFETY: four valid numbers, by the trait's contract.
        Portable(unsafe { from.cast::<[i32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self {
        // SAFETY: four valid bytes, by the trait's contract.
        let bytes = unsafe { from.cast::<[u8; 4]>().read_unaligned() };
        Portable(bytes.map(i32::from))
    }
    lane_by_lane! {
        add(a, b) => a.wrapping_add(b);
        min(a, b) => a.min(b);
        max(a, b) => a.max(b);
        and(a, b) => a & b;
        shift_left(a, b) => a << b;
        shift_right(a, b) => a >> b;
        high_mul(a, b) => ((i64::from(a) * i64::from(b) + (1 << 30)) >> 31) as i32;
    }
    #[inline(always)]
    unsafe fn sign(self) -> Self {
        Portable(self.0.map(|lane| lane >> 31))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, range: [u8; 2], to: *mut u8) {
        // SAFETY: room for four bytes, by the trait's contract.
        unsafe { to.cast::<[u8; 4]>().write_unaligned(self.0.map(|lane| cut(lane, range))) }
    }
    #[inline(always)]
    unsafe fn store_quads(parts: [Self; 4], range: [u8; 2], to: *mut u8) {
        let mut quads = [[0u8; 4]; 4];
        for (i, part) in parts.into_iter().enumerate() {
            for (quad, lane) in quads.iter_mut().zip(part.0) {
                quad[i] = cut(lane, range);
            }
        }
        // SAFETY: room for 16 bytes, by the trait's contract.
        unsafe { to.cast::<[[u8; 4]; 4]>().write_unaligned(quads) }
    }
}
