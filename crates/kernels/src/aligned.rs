//! A buffer of floats that starts on a 64-byte boundary, so that vector loads never straddle a cache line.

use crate::system::prefer_huge_pages;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

const ALIGN: usize = 64;
const HUGE_PAGE: usize = 2 << 20;
/// Buffers of at least this many bytes lie in chunks of huge pages: a network reads thousands of small pages in turn, more
/// than a processor has addresses at hand.
const LARGE: usize = 32 << 10;
/// Bytes of a chunk that buffers share. Larger buffers have one to themselves.
const CHUNK: usize = 4 * HUGE_PAGE;
/// Whether there are huge pages to ask for.
const HUGE_PAGES: bool = cfg!(all(target_arch = "x86_64", target_os = "linux"));

/// A zero-initialised, 64-byte aligned buffer of `f32`.
pub struct AlignedBuf {
    ptr: NonNull<f32>,
    len: usize,
    /// What the memory is part of, if it was not allocated by itself.
    chunk: Option<Arc<Chunk>>,
}

/// Memory that starts on a huge page.
struct Chunk {
    ptr: NonNull<u8>,
    layout: Layout,
}

/// The chunk that buffers are taken from, and the bytes of it that are taken. What is given back is not used again before
/// all of the chunk is.
static CURRENT: Mutex<Option<(Arc<Chunk>, usize)>> = Mutex::new(None);

// SAFETY: a chunk is only memory, and no part of it is in two buffers.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}
// SAFETY: the buffer owns its memory like a `Vec<f32>` and has no interior mutability.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl Chunk {
    /// `bytes` bytes that hold anything.
    fn new(bytes: usize) -> Arc<Chunk> {
        let layout = Layout::from_size_align(bytes, HUGE_PAGE).expect("buffer length fits the address space");
        // SAFETY: chunks are not empty.
        let Some(ptr) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        prefer_huge_pages(ptr.as_ptr(), bytes);
        Arc::new(Chunk { ptr, layout })
    }

    /// A chunk and where in it `bytes` bytes are nobody's.
    fn take(bytes: usize) -> (Arc<Chunk>, usize) {
        if bytes > CHUNK / 2 {
            // All of a last page that is used to some extent; else less than a page is small ones.
            let pages = (bytes + HUGE_PAGE / 2) / HUGE_PAGE * HUGE_PAGE;
            return (Chunk::new(bytes.max(pages)), 0);
        }
        let mut current = CURRENT.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((chunk, taken)) = &mut *current {
            if Arc::get_mut(chunk).is_some() {
                *taken = 0; // nobody else has a part of it any more
            }
            if *taken + bytes > CHUNK {
                *current = None;
            }
        }
        let (chunk, taken) = current.get_or_insert_with(|| (Chunk::new(CHUNK), 0));
        let start = *taken;
        *taken += bytes.next_multiple_of(ALIGN);
        (chunk.clone(), start)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout; no buffer is left.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

impl AlignedBuf {
    /// `len` zeros.
    ///
    /// # Panics
    /// If `len` floats exceed the address space. Aborts like `Vec` when memory runs out.
    pub fn zeroed(len: usize) -> AlignedBuf {
        // SAFETY: parts of chunks are written here, all else comes as zeros.
        unsafe {
            let buf = Self::unwritten(len);
            if buf.chunk.is_some() {
                buf.ptr.as_ptr().write_bytes(0, len);
            }
            buf
        }
    }

    /// `len` floats that hold anything and, where they are many, lie in pages that nobody may have touched yet.
    ///
    /// # Safety
    /// Each must be written before it is read.
    ///
    /// # Panics
    /// As [`zeroed`](Self::zeroed).
    pub(crate) unsafe fn unwritten(len: usize) -> AlignedBuf {
        if len == 0 {
            return AlignedBuf { ptr: NonNull::dangling(), len: 0, chunk: None };
        }
        let layout = Self::layout(len);
        if HUGE_PAGES && layout.size() >= LARGE {
            let (chunk, start) = Chunk::take(layout.size());
            // SAFETY: these bytes of the chunk are nobody else's, and lie on a cache line.
            let ptr = unsafe { chunk.ptr.add(start).cast() };
            return AlignedBuf { ptr, len, chunk: Some(chunk) };
        }
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw.cast()) else { handle_alloc_error(layout) };
        AlignedBuf { ptr, len, chunk: None }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(values.len());
        buf.copy_from_slice(values);
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len).and_then(|l| l.align_to(ALIGN)).expect("buffer length fits the address space")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 && self.chunk.is_none() {
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
        // Without huge pages all sizes go one way; and Node 20 does not survive it when a module grows by 32 MB at a time.
        let lens = [0, 1, 15, 1000, LARGE / 4, LARGE / 4 + 1, CHUNK / 8, CHUNK / 8 + 1, CHUNK];
        for len in lens.into_iter().filter(|&len| HUGE_PAGES || len < CHUNK / 8) {
            let buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.len(), len);
            assert!(len == 0 || (buf.as_ptr() as usize).is_multiple_of(ALIGN));
            assert!(buf.iter().all(|&v| v == 0.0));
        }
    }
    #[test]
    fn buffers_of_a_chunk_are_apart() {
        let lens = [LARGE / 4 + 3, 3 * LARGE, CHUNK / 8, CHUNK / 8, CHUNK / 8, LARGE / 4];
        for _ in 0..3 {
            let mut all: Vec<AlignedBuf> = lens.iter().map(|&len| AlignedBuf::zeroed(len)).collect();
            all.iter_mut().enumerate().for_each(|(i, buf)| buf.fill(i as f32 + 1.0));
            for (i, buf) in all.iter().enumerate() {
                assert!(buf.iter().all(|&v| v == i as f32 + 1.0), "buffer {i}");
            }
        }
    }
}
