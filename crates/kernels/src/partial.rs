//! The end of a row that does not fill a vector.

use crate::simd::Simd;

/// Most lanes of any vector.
const MAX_LANES: usize = 16;

/// Loads `count` floats, fewer than a vector, and fills the other lanes with `fill`.
///
/// # Safety
/// `from` must be valid for `count < V::LANES` floats, and the CPU must have the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn load_partial<V: Simd>(from: *const f32, count: usize, fill: f32) -> V {
    let mut lanes = [fill; MAX_LANES];
    // SAFETY: `count` is below `MAX_LANES`; the caller vouches for `from`.
    unsafe {
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
        V::load(lanes.as_ptr())
    }
}

/// Stores the first `count` lanes, fewer than a vector.
///
/// # Safety
/// `to` must be valid for `count < V::LANES` floats, and the CPU must have the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn store_partial<V: Simd>(value: V, to: *mut f32, count: usize) {
    let mut lanes = [0.0; MAX_LANES];
    // SAFETY: a vector fits `lanes`; the caller vouches for `to`.
    unsafe {
        value.store(lanes.as_mut_ptr());
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }
}

/// The largest lane.
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn largest_lane<V: Simd>(value: V) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    // SAFETY: a vector fits `lanes`.
    unsafe { value.store(lanes.as_mut_ptr()) };
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Maps `len` floats from `input` to `out`; the two may be the same.
pub(crate) trait Map {
    /// One vector of the output, from one of the input that starts at element `at` of the row.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`, and `count` elements from `at` on must exist.
    unsafe fn apply<V: Simd>(&self, x: V, at: usize, count: usize) -> V;
}

/// Runs `map` over a row.
///
/// # Safety
/// `input` and `out` must be valid for `len` floats, and the CPU must have the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn map_row<V: Simd, M: Map>(map: &M, len: usize, input: *const f32, out: *mut f32) {
    let mut i = 0;
    // SAFETY: `i..i + count` is within the row throughout.
    unsafe {
        while i + V::LANES <= len {
            map.apply(V::load(input.add(i)), i, V::LANES).store(out.add(i));
            i += V::LANES;
        }
        if i < len {
            let count = len - i;
            store_partial(map.apply::<V>(load_partial(input.add(i), count, 0.0), i, count), out.add(i), count);
        }
    }
}
