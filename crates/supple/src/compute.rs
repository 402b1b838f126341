//! What computes: the instruction set and the threads that a caller asks for.

use crate::{Cpu, Error, Isa};

/// The CPU with so many threads; with all that the machine offers if not given.
///
/// # Errors
/// If no thread is asked for, or `SUPPLE_ISA` asks for what this CPU lacks.
pub fn cpu(threads: Option<usize>) -> Result<Cpu, Error> {
    let threads = match threads {
        Some(0) => return Err(Error::BadOption("at least one thread is needed".into())),
        Some(threads) => threads.min(1024),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(Cpu::new(Isa::from_env().map_err(Error::BadOption)?, threads))
}
