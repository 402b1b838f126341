//! A buffer of floats that starts on a 64-byte boundary, so that vector loads never straddle a cache line.

use crate::system::prefer_huge_pages;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const ALIGN: usize = 64;
/// Buffers of at least this many bytes start on a multiple of it, so that the system can back them by huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// A zero-initialised, 64-byte aligned buffer of `f32`.
pub struct AlignedBuf {
    ptr: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory like a `Vec<f32>` and has no interior mutability.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zeros.
    ///
    /// # Panics
    /// If `len` floats exceed the address space. Aborts like `Vec` when memory runs out.
    pub fn zeroed(len: usize) -> AlignedBuf {
        if len == 0 {
            return AlignedBuf { ptr: NonNull::dangling(), len: 0 };
        }
        let layout = Self::layout(len);
        let huge = layout.align() == HUGE_PAGE;
        // SAFETY: the layout is not empty.
        let raw = unsafe { if huge { alloc(layout) } else { alloc_zeroed(layout) } };
        let Some(ptr) = NonNull::new(raw.cast()) else { handle_alloc_error(layout) };
        if huge {
            prefer_huge_pages(raw, layout.size());
            // SAFETY: `raw` was allocated with this size just now.
            unsafe { raw.write_bytes(0, layout.size()) }
        }
        AlignedBuf { ptr, len }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(values.len());
        buf.copy_from_slice(values);
        buf
    }

    fn layout(len: usize) -> Layout {
        let align = if len * size_of::<f32>() >= HUGE_PAGE { HUGE_PAGE } else { ALIGN };
        Layout::array::<f32>(len).and_then(|l| l.align_to(align)).expect("buffer length fits the address space")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `ptr` is valid for `len` initialised floats for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> AlignedBuf {
        AlignedBuf::from_slice(self)
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} floats)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_cache_line_and_is_zero() {
        for len in [0, 1, 15, 1000, HUGE_PAGE / 4, HUGE_PAGE / 4 + 1] {
            let buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.len(), len);
            assert!(len == 0 || (buf.as_ptr() as usize).is_multiple_of(ALIGN));
            assert!(buf.iter().all(|&v| v == 0.0));
        }
    }
}
