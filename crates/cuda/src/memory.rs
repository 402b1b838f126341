//! Device memory that comes back: freed memory waits in lists by size class and is handed out again.
//!
//! All work is on one stream, so memory may be handed out again as soon as the last handle is dropped on the host: whatever
//! still reads it was queued before whatever will write it. After a warm-up nothing is asked of the driver, which also lets
//! work be captured into a graph.

use crate::gpu::{Inner, driver};
use crate::{Error, Gpu};
use cudarc::driver::{DriverError, result, sys};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Element types that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// The upper 16 bits of an `F32`.
    BF16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }
}

/// Memory of the driver that waits, by size class.
#[derive(Default)]
pub(crate) struct Pool {
    free: BTreeMap<usize, Vec<sys::CUdeviceptr>>,
    bytes: usize,
}

impl Pool {
    /// Takes over all that another pool holds.
    pub(crate) fn absorb(&mut self, other: Pool) {
        self.bytes += other.bytes;
        for (class, pointers) in other.free {
            self.free.entry(class).or_default().extend(pointers);
        }
    }

    /// Gives all that waits back to the driver. The stream must be idle.
    pub(crate) fn trim(&mut self) {
        for pointer in std::mem::take(&mut self.free).into_values().flatten() {
            // SAFETY: the pool owns the pointer, and the caller says that no work uses it.
            let _ = unsafe { result::free_sync(pointer) };
        }
        self.bytes = 0;
    }
}

/// Device memory, aligned to 256 bytes. Goes back to the GPU's pool when dropped.
pub struct Memory {
    gpu: Arc<Inner>,
    pointer: sys::CUdeviceptr,
    bytes: usize,
    class: usize,
}

/// `bytes` rounded up to one of four classes per power of two.
fn class_of(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(1).checked_next_multiple_of(512)?;
    bytes.checked_next_multiple_of(1 << (bytes.ilog2() - 2))
}

impl Gpu {
    /// `bytes` of memory with unspecified contents.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or if the driver fails.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, Error> {
        let inner = self.inner();
        let total = || self.memory().unwrap_or((0, 0));
        let Some(class) = class_of(bytes) else {
            let (free, total) = total();
            return Err(Error::OutOfMemory { wanted: bytes, free, total });
        };
        let mut pool = self.pool();
        if let Some(pointer) = pool.free.get_mut(&class).and_then(Vec::pop) {
            pool.bytes -= class;
            return Ok(Memory { gpu: inner.clone(), pointer, bytes, class });
        }
        self.bind()?;
        let is_exhausted = |e: &DriverError| e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        // SAFETY: asks for memory only; the size is not zero.
        let mut pointer = unsafe { result::malloc_sync(class) };
        // While work is captured nothing can be waited for, and nothing given back.
        if pointer.as_ref().is_err_and(is_exhausted) && pool.bytes > 0 && self.synchronize().is_ok() {
            pool.trim();
            // SAFETY: as above.
            pointer = unsafe { result::malloc_sync(class) };
        }
        match pointer {
            Ok(pointer) => Ok(Memory { gpu: inner.clone(), pointer, bytes, class }),
            Err(error) if is_exhausted(&error) => {
                let (free, total) = total();
                Err(Error::OutOfMemory { wanted: bytes, free, total })
            }
            Err(error) => Err(driver(&format!("allocating {bytes} bytes"), error)),
        }
    }

    /// Memory with a copy of `values`.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload(&self, values: &[u8]) -> Result<Memory, Error> {
        let memory = self.allocate(values.len())?;
        self.write(&memory, 0, values)?;
        Ok(memory)
    }

    /// Copies `values` to `memory`, from byte `at` on, after the work queued before.
    ///
    /// # Errors
    /// If they do not fit, or the driver fails.
    pub fn write(&self, memory: &Memory, at: usize, values: &[u8]) -> Result<(), Error> {
        check_range("copy to the GPU", memory, at, values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let stream = self.inner().stream.cu_stream();
        // SAFETY: the range was checked, and the wait below ends the borrow of `values`, should they be page-locked.
        unsafe { result::memcpy_htod_async(memory.pointer + at as u64, values, stream) }
            .map_err(|e| driver(&format!("copying {} bytes to the GPU", values.len()), e))?;
        self.synchronize()
    }

    /// Copies `values.len()` bytes of `memory`, from byte `at` on, once all work queued before is done.
    ///
    /// # Errors
    /// If they are not all there, or that work failed.
    pub fn download(&self, memory: &Memory, at: usize, values: &mut [u8]) -> Result<(), Error> {
        check_range("copy from the GPU", memory, at, values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let stream = self.inner().stream.cu_stream();
        let len = values.len();
        // SAFETY: the range was checked, and the wait below ends the borrow of `values`.
        unsafe { result::memcpy_dtoh_async(values, memory.pointer + at as u64, stream) }
            .map_err(|e| driver(&format!("copying {len} bytes from the GPU"), e))?;
        self.synchronize()
    }

    /// Queues a copy of `bytes` bytes from the start of one memory to that of another, by the driver.
    ///
    /// # Errors
    /// If they are not all there, or the driver fails.
    pub fn copy(&self, from: &Memory, to: &Memory, bytes: usize) -> Result<(), Error> {
        check_range("copy on the GPU", from, 0, bytes)?;
        check_range("copy on the GPU", to, 0, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both ranges were checked.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, bytes, self.inner().stream.cu_stream()) }
            .map_err(|e| driver(&format!("copying {bytes} bytes on the GPU"), e))
    }

    /// Queues setting `bytes` bytes of `memory` to zero, from byte `at` on.
    ///
    /// # Errors
    /// If they are not all there, or the driver fails.
    pub fn clear(&self, memory: &Memory, at: usize, bytes: usize) -> Result<(), Error> {
        check_range("clear", memory, at, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range was checked.
        unsafe { result::memset_d8_async(memory.pointer + at as u64, 0, bytes, self.inner().stream.cu_stream()) }
            .map_err(|e| driver(&format!("clearing {bytes} bytes"), e))
    }

    /// Bytes that wait for reuse.
    pub fn waiting_bytes(&self) -> usize {
        self.pool().bytes
    }

    /// Gives the memory that waits for reuse back to the driver.
    ///
    /// # Errors
    /// If work queued before failed.
    pub fn trim(&self) -> Result<(), Error> {
        self.synchronize()?;
        self.pool().trim();
        Ok(())
    }

    /// Page-locked memory of the host, which copies reach at full speed, zeroed.
    ///
    /// # Errors
    /// If there is no more of it.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, Error> {
        self.bind()?;
        // SAFETY: asks for memory only; the size is not zero.
        let pointer = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(|e| driver(&format!("locking {bytes} bytes of host memory"), e))?;
        // SAFETY: the memory was just handed out with this size.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(Pinned { gpu: self.inner().clone(), pointer: pointer.cast(), bytes })
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.inner().pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_range(kernel: &'static str, memory: &Memory, at: usize, len: usize) -> Result<(), Error> {
    if at.checked_add(len).is_some_and(|end| end <= memory.bytes) {
        return Ok(());
    }
    crate::error::refuse!(kernel, "{len} bytes from byte {at} on of {}", memory.bytes)
}

impl Memory {
    /// Its size in bytes, as asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address on the device.
    pub(crate) fn pointer(&self) -> u64 {
        self.pointer
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut pool = self.gpu.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.bytes += self.class;
        pool.free.entry(self.class).or_default().push(self.pointer);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes on the GPU)", self.bytes)
    }
}

/// Page-locked memory of the host. Copies to and from it wait until they are done.
pub struct Pinned {
    gpu: Arc<Inner>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory that this handle alone owns.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Pinned {}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory has this size, was zeroed, and is owned by `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.gpu.context.bind_to_thread();
        let _ = self.gpu.stream.synchronize();
        // SAFETY: the memory came from `malloc_host`, and no copy uses it any more.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes)", self.bytes)
    }
}

/// Elements in device memory that a kernel reads, from the element `offset` on to the end of the memory.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    memory: &'a Memory,
    offset: usize,
    dtype: DType,
}

/// Elements in device memory that a kernel writes; as [`Elements`]. Exclusive use is the caller's to see to: kernels that are
/// queued one after the other may share memory.
#[derive(Clone, Copy, Debug)]
pub struct ElementsMut<'a>(pub(crate) Elements<'a>);

impl<'a> Elements<'a> {
    /// The elements of `memory` from `offset` on.
    pub fn new(memory: &'a Memory, offset: usize, dtype: DType) -> Elements<'a> {
        Elements { memory, offset, dtype }
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        (self.memory.bytes / self.dtype.size()).saturating_sub(self.offset)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the first.
    pub(crate) fn pointer(&self) -> u64 {
        self.memory.pointer() + (self.offset * self.dtype.size()) as u64
    }

    /// Checks that there are at least `wanted`.
    pub(crate) fn check(&self, kernel: &'static str, what: &str, wanted: Option<usize>) -> Result<(), Error> {
        match wanted {
            Some(wanted) if wanted <= self.len() => Ok(()),
            Some(wanted) => crate::error::refuse!(kernel, "{what} has {} elements, wants {wanted}", self.len()),
            None => crate::error::refuse!(kernel, "the size of {what} overflows"),
        }
    }

    /// What follows the first `count`.
    pub(crate) fn skip(self, count: usize) -> Elements<'a> {
        Elements { offset: self.offset + count, ..self }
    }

    /// Whether the first lies at a multiple of `bytes`.
    pub(crate) fn is_aligned(&self, bytes: usize) -> bool {
        self.pointer().is_multiple_of(bytes as u64)
    }
}

impl<'a> ElementsMut<'a> {
    /// The elements of `memory` from `offset` on, to be written.
    pub fn new(memory: &'a Memory, offset: usize, dtype: DType) -> ElementsMut<'a> {
        ElementsMut(Elements { memory, offset, dtype })
    }
}

#[cfg(test)]
mod tests {
    use super::class_of;

    #[test]
    fn size_classes_hold_what_they_are_asked_for() {
        for bytes in (0..9000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let class = class_of(bytes).unwrap();
            assert!(class >= bytes && class.is_multiple_of(256), "{bytes}");
            assert!(class - bytes <= bytes / 4 + 512, "{bytes}");
            assert_eq!(class_of(class), Some(class), "{bytes}");
        }
        assert!(class_of(usize::MAX).is_none());
    }
}
