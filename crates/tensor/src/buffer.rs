//! Buffers that come back: after a warm-up, operators take their memory from here and allocate none.
//!
//! Freed buffers wait in lists by size class (four classes per power of two, so at most a quarter is wasted). A buffer
//! and its reference count stay one allocation throughout. The memory that waits is given back by [`BufferPool::trim`]
//! or when the last handle of the pool goes.

use crate::{Dims, Error};
use bytemuck::Pod;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use supple_kernels::AlignedBuf;

/// A free list of buffers, shared by its clones and by the buffers taken from it.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Mutex<FreeLists>>,
}

struct FreeLists {
    /// By size class; every buffer here has a reference count of one.
    classes: Vec<Vec<Arc<AlignedBuf>>>,
    /// Floats that wait.
    floats: usize,
}

/// A reference-counted, 64-byte aligned buffer that returns to its pool when the last reference goes.
#[derive(Clone)]
pub(crate) struct Buffer {
    /// `None` only while dropping.
    block: Option<Arc<AlignedBuf>>,
    pool: BufferPool,
}

/// What holds the elements of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// Memory of the host.
    Host(Buffer),
    /// Memory of a GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<supple_cuda::Memory>),
}

impl Storage {
    /// Memory of the host; operators check first where their tensors live.
    pub(crate) fn host(&self) -> &Buffer {
        match self {
            Storage::Host(buffer) => buffer,
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) => unreachable!("operators check where their tensors live"),
        }
    }

    /// As [`host`](Self::host), to write.
    pub(crate) fn host_mut(&mut self) -> &mut Buffer {
        match self {
            Storage::Host(buffer) => buffer,
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) => unreachable!("operators check where their tensors live"),
        }
    }
}

/// Buffers of at least this many floats are first asked for in a way that can fail without ending the process.
const CAUTIOUS: usize = 1 << 20;

impl BufferPool {
    /// An empty pool.
    pub fn new() -> BufferPool {
        let classes = (0..4 * usize::BITS as usize).map(|_| Vec::new()).collect();
        BufferPool { shared: Arc::new(Mutex::new(FreeLists { classes, floats: 0 })) }
    }

    fn lists(&self) -> MutexGuard<'_, FreeLists> {
        // The lists are whole between any two statements, so a panic elsewhere does not spoil them.
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A buffer of at least `floats` floats with unspecified contents, for a tensor of `shape`.
    pub(crate) fn take(&self, floats: usize, shape: &Dims) -> Result<Buffer, Error> {
        let too_large = Error::TooLarge { what: "allocation", shape: *shape };
        let capacity = class_capacity(floats).ok_or(too_large.clone())?;
        let waiting = {
            let mut lists = self.lists();
            let block = lists.classes[class_index(capacity)].pop();
            lists.floats -= block.as_ref().map_or(0, |_| capacity);
            block
        };
        let block = match waiting {
            Some(block) => block,
            None => {
                if capacity >= CAUTIOUS && Vec::<f32>::new().try_reserve_exact(capacity).is_err() {
                    return Err(too_large);
                }
                Arc::new(AlignedBuf::zeroed(capacity))
            }
        };
        Ok(Buffer { block: Some(block), pool: self.clone() })
    }

    /// Bytes that wait to be used again.
    pub fn waiting_bytes(&self) -> usize {
        self.lists().floats * size_of::<f32>()
    }

    /// Gives back to the system all memory that waits.
    pub fn trim(&self) {
        let mut lists = self.lists();
        lists.classes.iter_mut().for_each(Vec::clear);
        lists.floats = 0;
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        BufferPool::new()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} bytes waiting)", self.waiting_bytes())
    }
}

/// `floats` rounded up to its size class, a multiple of 16; `None` if that exceeds the address space.
fn class_capacity(floats: usize) -> Option<usize> {
    let floats = floats.max(1).checked_next_multiple_of(16)?;
    let step = 1usize << (floats.ilog2() - 2);
    floats.checked_next_multiple_of(step).filter(|&capacity| capacity <= isize::MAX as usize / 4 - 64)
}

/// The index of a size class among those of all sizes.
fn class_index(capacity: usize) -> usize {
    let log = capacity.ilog2();
    4 * log as usize + ((capacity >> (log - 2)) & 3)
}

impl Buffer {
    fn block(&self) -> &Arc<AlignedBuf> {
        self.block.as_ref().expect("present until drop")
    }

    /// All elements that fit the buffer.
    pub(crate) fn as_slice<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.block()[..])
    }

    /// All elements that fit the buffer, to write; `None` if the buffer is shared.
    pub(crate) fn as_mut_slice<T: Pod>(&mut self) -> Option<&mut [T]> {
        let block = self.block.as_mut().expect("present until drop");
        Arc::get_mut(block).map(|block| bytemuck::cast_slice_mut(&mut block[..]))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(mut block) = self.block.take() else { return };
        // When two threads drop the last two references at once neither may see itself as the last. The buffer is then
        // freed instead of kept, which costs an allocation later and nothing else.
        if Arc::get_mut(&mut block).is_some() {
            let mut lists = self.pool.lists();
            let capacity = block.len();
            lists.floats += capacity;
            lists.classes[class_index(capacity)].push(block);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.block().len() * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_hold_what_they_are_asked_for_and_waste_at_most_a_quarter() {
        for floats in (0..5000).chain([1 << 20, (1 << 20) + 1, 10_000_019]) {
            let capacity = class_capacity(floats).unwrap();
            assert!(capacity >= floats && capacity.is_multiple_of(16));
            assert!(floats < 64 || capacity - floats <= floats / 4 + 16);
            assert_eq!(class_capacity(capacity), Some(capacity), "{floats}");
        }
        assert!(class_capacity(usize::MAX).is_none());
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = BufferPool::new();
        let shape = Dims::default();
        let buffer = pool.take(1000, &shape).unwrap();
        let address = buffer.as_slice::<f32>().as_ptr();
        let shared = buffer.clone();
        drop(buffer);
        assert_eq!(pool.waiting_bytes(), 0);
        drop(shared);
        assert!(pool.waiting_bytes() >= 4000);
        assert_eq!(pool.take(1001, &shape).unwrap().as_slice::<f32>().as_ptr(), address);
        pool.trim();
        assert_eq!(pool.waiting_bytes(), 0);
    }

    #[test]
    fn more_than_the_memory_is_an_error() {
        assert!(BufferPool::new().take(isize::MAX as usize / 8, &Dims::default()).is_err());
    }
}
