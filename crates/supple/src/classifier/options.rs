//! What a caller may choose.

use crate::DeviceChoice;
use std::path::PathBuf;

/// What a network is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8-bit integers where the file has them throughout, as its makers meant it; else `f32`, or `F16` on a GPU. On a GPU that was
    /// asked for, `F16` in any case.
    #[default]
    Auto,
    /// 32-bit floating point; integers of the file become the real numbers that they stand for.
    F32,
    /// As `F32`, but with half precision in convolutions where the CPU computes faster in it: on ARM with FEAT_FP16.
    Fast,
    /// 8-bit integers: faster, and for the file of a TensorFlow Lite network, bit for bit what its reference kernels give.
    /// The file must have them.
    Int8,
    /// 16-bit floating point, with sums in 32 bits on a GPU. A CPU takes `Fast` instead.
    F16,
}

/// How to classify. The result depends on `precision` and `device` only, not on `threads`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassifierOptions {
    /// A file with a name for each output, one a line; those that the network's file holds if not given.
    pub labels: Option<PathBuf>,
    /// Second half of a network that comes in two files, such as MobileNet's classifier without its body.
    pub head: Option<PathBuf>,
    /// Threads; all that the machine offers if not given.
    pub threads: Option<usize>,
    /// What the network is computed in.
    pub precision: Precision,
    /// Where the network runs; pictures are read and prepared on the CPU.
    pub device: DeviceChoice,
}
