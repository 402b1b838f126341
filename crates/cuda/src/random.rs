//! Random numbers, each from the stream's state and its own place in it.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, ElementsMut, Error, Gpu};

/// How numbers are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Evenly in `-bound..bound`.
    Uniform {
        /// The largest.
        bound: f32,
    },
    /// Normally around 0.
    Normal {
        /// Standard deviation.
        deviation: f32,
    },
}

/// Queues writing `len` numbers of the stream at `state` to the `f32` elements `to`.
///
/// # Errors
/// If they are not there or of another type, or the driver fails.
pub fn fill(gpu: &Gpu, state: u64, distribution: Distribution, len: usize, to: ElementsMut<'_>) -> Result<(), Error> {
    let (kernel, factor) = match distribution {
        Distribution::Uniform { bound } => ("random_uniform", bound),
        Distribution::Normal { deviation } => ("random_normal", deviation),
    };
    if to.0.dtype() != DType::F32 {
        return refuse!(kernel, "writes f32 only");
    }
    to.0.check(kernel, "the result", Some(len))?;
    if len == 0 {
        return Ok(());
    }
    let (n, pointer) = (len as i64, to.0.pointer());
    // SAFETY: the kernel takes these types, and writes `len` elements, which were checked to be there.
    unsafe { gpu.launch(kernel, Grid::flat(len), arguments![state, n, factor, pointer], &|| format!("[{len}]")) }
}
