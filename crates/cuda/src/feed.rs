//! Ways to and from a GPU that nobody waits on: bytes go up on a stream of their own while the GPU works, and results come down
//! when they are ready.

use crate::gpu::driver;
use crate::memory::Pinned;
use crate::{Error, Gpu, Memory};
use cudarc::driver::{CudaEvent, CudaStream, result};
use std::fmt;
use std::sync::Arc;

/// Slots through which the host hands batches of bytes to the GPU, one after the other.
///
/// A slot is page-locked memory of the host and memory of the GPU. [`send`](Feed::send) waits only if the GPU is as many batches
/// behind as there are slots.
pub struct Feed {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    slots: Vec<Slot>,
    next: usize,
}

struct Slot {
    host: Pinned,
    device: Memory,
    /// The bytes have left the host.
    sent: CudaEvent,
    /// The GPU needs them no longer.
    used: CudaEvent,
}

impl Feed {
    /// `slots` slots, at least one, of `bytes` bytes.
    ///
    /// # Errors
    /// If memory is exhausted, or the driver fails.
    pub fn new(gpu: &Gpu, slots: usize, bytes: usize) -> Result<Feed, Error> {
        let context = &gpu.inner().context;
        let event = || context.new_event(None).map_err(|e| driver("making an event", e));
        let slot =
            || Ok(Slot { host: gpu.pinned(bytes)?, device: gpu.allocate(bytes)?, sent: event()?, used: event()? });
        let slots = (0..slots.max(1)).map(|_| slot()).collect::<Result<_, Error>>()?;
        let stream = context.new_stream().map_err(|e| driver("making a stream", e))?;
        // The memory may have been used on the GPU's own stream until now.
        gpu.synchronize()?;
        Ok(Feed { gpu: gpu.clone(), stream, slots, next: 0 })
    }

    /// Lets `fill` write a batch's bytes, sends them, and calls `work` to queue what reads them from the GPU's memory.
    ///
    /// # Errors
    /// Those of `work`, or if the driver fails.
    pub fn send<T, E: From<Error>>(
        &mut self,
        fill: impl FnOnce(&mut [u8]),
        work: impl FnOnce(&Memory) -> Result<T, E>,
    ) -> Result<T, E> {
        let main = &self.gpu.inner().stream;
        let count = self.slots.len();
        let slot = &mut self.slots[self.next];
        self.next = (self.next + 1) % count;
        slot.sent.synchronize().map_err(|e| driver("waiting for a slot", e))?;
        fill(&mut slot.host);
        let fail = |e| driver("sending a batch", e);
        self.stream.wait(&slot.used).map_err(fail)?;
        // SAFETY: both have the slot's size; the host's bytes are not touched before `sent` has come to pass, and the GPU's only
        // after the main stream has waited for it.
        unsafe { result::memcpy_htod_async(slot.device.pointer(), &slot.host[..], self.stream.cu_stream()) }
            .map_err(fail)?;
        slot.sent.record(&self.stream).map_err(fail)?;
        main.wait(&slot.sent).map_err(fail)?;
        let value = work(&slot.device);
        slot.used.record(main).map_err(fail)?;
        value
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // What was sent has arrived, so that the memory may go back.
        let _ = self.stream.synchronize();
        let _ = self.gpu.synchronize();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({} slots)", self.slots.len())
    }
}

/// A copy of some memory of the GPU that arrives when it is ready.
pub struct Readback {
    gpu: Gpu,
    host: Pinned,
    arrived: CudaEvent,
    waiting: bool,
}

impl Readback {
    /// Room for `bytes` bytes.
    ///
    /// # Errors
    /// If there is no more page-locked memory.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Readback, Error> {
        let arrived = gpu.inner().context.new_event(None).map_err(|e| driver("making an event", e))?;
        Ok(Readback { gpu: gpu.clone(), host: gpu.pinned(bytes)?, arrived, waiting: false })
    }

    /// Whether a copy is under way, or has arrived and was not taken.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Queues copying the beginning of `memory`, as it will be after the work queued so far.
    ///
    /// # Errors
    /// If `memory` is smaller, a copy waits already, or the driver fails.
    pub fn start(&mut self, memory: &Memory) -> Result<(), Error> {
        if self.waiting || memory.bytes() < self.host.len() {
            return crate::error::refuse!("readback", "{} bytes of {}", self.host.len(), memory.bytes());
        }
        let stream = &self.gpu.inner().stream;
        self.gpu.bind()?;
        let fail = |e| driver("reading back", e);
        // SAFETY: the memory is as large, and the host's bytes are read only after the event.
        unsafe { result::memcpy_dtoh_async(&mut self.host[..], memory.pointer(), stream.cu_stream()) }.map_err(fail)?;
        self.arrived.record(stream).map_err(fail)?;
        self.waiting = true;
        Ok(())
    }

    /// The bytes, if a copy was started and has arrived; with `wait`, once it has.
    ///
    /// # Errors
    /// If the work before it failed.
    pub fn take(&mut self, wait: bool) -> Result<Option<&[u8]>, Error> {
        if !self.waiting {
            return Ok(None);
        }
        let fail = |e| driver("waiting for the GPU", e);
        if wait {
            self.arrived.synchronize().map_err(fail)?;
        } else if !self.arrived.try_is_complete().map_err(fail)? {
            return Ok(None);
        }
        self.waiting = false;
        Ok(Some(&self.host))
    }
}

impl fmt::Debug for Readback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Readback({} bytes)", self.host.len())
    }
}
