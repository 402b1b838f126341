//! The instruction set and the threads that kernels run with.

use crate::{Isa, ThreadPool};
use std::sync::Arc;

/// What kernels run on: an instruction set and a pool of threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Instruction set that kernels may use.
    pub isa: Isa,
    /// Threads that kernels may use.
    pub pool: Arc<ThreadPool>,
}

impl Cpu {
    /// The instruction set `isa` on `threads` threads (at least one).
    pub fn new(isa: Isa, threads: usize) -> Cpu {
        Cpu { isa, pool: Arc::new(ThreadPool::new(threads)) }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}
