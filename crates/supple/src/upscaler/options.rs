//! What a caller may choose.

use crate::{Cpu, DeviceChoice, Error, compute};
use supple_models::Precision;

/// How to enlarge. The result depends on `precision`, `device`, `tta` and `wrap` only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpscalerOptions {
    /// How exact the arithmetic has to be.
    pub precision: Precision,
    /// Where the network runs.
    pub device: DeviceChoice,
    /// Threads; all that the machine offers if not given.
    pub threads: Option<usize>,
    /// Bytes that pictures and network together may take; if not given a quarter of the machine's memory, but no more
    /// than 1.4 GiB unless the pictures need it. The pictures themselves cannot be made smaller: what they leave, at
    /// least 128 MiB, decides how wide a strip the network sees at a time.
    pub max_memory: Option<u64>,
    /// Width in pixels of the strips that the network sees, instead of what `max_memory` would give; at least 32.
    pub tile: Option<usize>,
    /// Average over the eight flips and rotations: slightly better, eight times the work.
    pub tta: bool,
    /// The picture is a tile that repeats: its opposite edges meet without a seam afterwards.
    pub wrap: bool,
}

impl UpscalerOptions {
    /// The CPU with as many threads as asked for.
    pub(crate) fn cpu(&self) -> Result<Cpu, Error> {
        compute::cpu(self.threads)
    }
}
