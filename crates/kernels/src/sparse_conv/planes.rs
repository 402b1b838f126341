//! The length of a plane.

/// Floats that must be readable after the last plane of a buffer: vectors may reach beyond the last pixel.
pub const PADDING: usize = 64;

/// Floats from one plane of `pixels` floats to the next: whole cache lines, an odd number of them, so that the same pixel
/// of many planes does not fall into few sets of a cache.
pub fn plane_len(pixels: usize) -> usize {
    (pixels.div_ceil(16) | 1) * 16
}
