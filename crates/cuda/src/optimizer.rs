//! An optimiser's step over all parameters at once: gradients are gathered into one flat buffer, their norm, the clipping and
//! the scale of the loss are decided on the GPU, and one kernel moves all weights. Nothing waits for the host.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu, Memory};

/// What moves weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam; AdamW where `weight_decay` is not 0.
    Adam {
        /// Decay of the two moments.
        betas: [f64; 2],
        /// Keeps the divisor from zero.
        epsilon: f64,
        /// Share of a weight, times the learning rate, that goes in each step.
        weight_decay: f64,
    },
    /// Gradient descent.
    Sgd {
        /// Decay of the moment.
        momentum: f64,
        /// Share of a weight that is added to its gradient.
        weight_decay: f64,
    },
}

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What moves weights.
    pub rule: Rule,
    /// Largest norm of gradients.
    pub clip: Option<f64>,
    /// Decay of the moving average of weights.
    pub average: Option<f64>,
    /// Whether the loss is multiplied by a scale that adapts: for gradients in f16.
    pub scaling: bool,
    /// What gathered gradients and losses are multiplied by: 1 over the number of processes whose sum they are.
    pub share: f64,
}

/// [`Settings`] as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawSettings {
    numbers: [f64; 8],
    rule: i32,
    scaling: i32,
}

impl Settings {
    fn raw(&self) -> RawSettings {
        let [clip, average] = [self.clip.unwrap_or(f64::INFINITY), self.average.unwrap_or(-1.0)];
        let (rule, [b1, b2], epsilon, decay, momentum) = match self.rule {
            Rule::Adam { betas, epsilon, weight_decay } => (0, betas, epsilon, weight_decay, 0.0),
            Rule::Sgd { momentum, weight_decay } => (1, [0.0; 2], 0.0, weight_decay, momentum),
        };
        let numbers = [b1, b2, epsilon, decay, momentum, clip, average, self.share];
        RawSettings { numbers, rule, scaling: i32::from(self.scaling) }
    }
}

/// What is remembered from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Steps begun.
    pub step: u64,
    /// Steps that moved the weights.
    pub taken: u64,
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Steps since it changed.
    pub good: u32,
}

impl State {
    /// Bytes on the GPU.
    pub const BYTES: usize = 72;
    /// Where the scale stands, in floats.
    pub const SCALE: usize = 8;

    /// As the kernels have it.
    pub fn to_bytes(&self) -> [u8; State::BYTES] {
        let mut bytes = [0; State::BYTES];
        bytes[..8].copy_from_slice(&self.step.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.taken.to_ne_bytes());
        bytes[32..36].copy_from_slice(&self.scale.to_ne_bytes());
        bytes[36..40].copy_from_slice(&self.good.to_ne_bytes());
        bytes
    }

    /// From what the kernels have.
    pub fn from_bytes(bytes: &[u8; State::BYTES]) -> State {
        State {
            step: long(bytes, 0),
            taken: long(bytes, 8),
            scale: f32::from_bits(word(bytes, 32)),
            good: word(bytes, 36),
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Its number, from 1.
    pub step: u64,
    /// Norm of the gradients, before clipping.
    pub norm: f64,
    /// The loss.
    pub loss: f32,
    /// What it was multiplied by.
    pub scale: f32,
    /// Whether weights moved.
    pub taken: bool,
    /// Whether the loss or the gradients are no numbers, in this step or one before: weights stay from there on.
    pub diverged: bool,
}

impl Record {
    /// Bytes on the GPU.
    pub const BYTES: usize = 32;

    /// From what the kernels have: `bytes` are [`Record::BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Record {
        Record {
            step: long(bytes, 0),
            norm: f64::from_bits(long(bytes, 8)),
            loss: f32::from_bits(word(bytes, 16)),
            scale: f32::from_bits(word(bytes, 20)),
            taken: word(bytes, 24) != 0,
            diverged: word(bytes, 28) != 0,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Pieces that one launch takes.
const MOST: usize = 128;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawPiece {
    from: u64,
    at: i64,
    len: u32,
    dtype: u32,
}

#[repr(C)]
struct RawPieces([RawPiece; MOST]);

/// Queues adding pieces (elements, how many, where to) to a flat `f32` buffer, in one launch for up to 128 of them.
///
/// # Errors
/// If a piece is not there, has no place, or is of no floating-point type, or the driver fails.
pub fn gather(gpu: &Gpu, pieces: &[(Elements<'_>, usize, usize)], to: ElementsMut<'_>) -> Result<(), Error> {
    const KERNEL: &str = "gather";
    if to.0.dtype() != DType::F32 {
        return refuse!(KERNEL, "gathers into f32 only");
    }
    for group in pieces.chunks(MOST) {
        let mut raw = RawPieces([RawPiece { from: 0, at: 0, len: 0, dtype: 0 }; MOST]);
        let mut longest = 0;
        for (raw, (elements, len, at)) in raw.0.iter_mut().zip(group) {
            let dtype = match elements.dtype() {
                DType::F32 => 0,
                DType::F16 => 1,
                DType::BF16 => 2,
                other => return refuse!(KERNEL, "cannot gather {other:?}"),
            };
            elements.check(KERNEL, "a piece", Some(*len))?;
            to.0.check(KERNEL, "the buffer", at.checked_add(*len))?;
            let Ok(count) = u32::try_from(*len) else { return refuse!(KERNEL, "a piece of {len} elements") };
            *raw = RawPiece { from: elements.pointer(), at: *at as i64, len: count, dtype };
            longest = longest.max(*len);
        }
        let grid = Grid { blocks: [longest.div_ceil(4096).clamp(1, 1024), group.len(), 1], threads: 256, shared: 0 };
        let pointer = to.0.pointer();
        // SAFETY: the kernel takes these types; every piece and its place were checked. The table is copied by the launch.
        unsafe { gpu.launch(KERNEL, grid, arguments![raw, pointer], &|| format!("{} pieces", group.len())) }?;
    }
    Ok(())
}

/// The flat buffers of a step, `len` elements each; all but `low` are `f32`.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// Elements, those between parameters included.
    pub len: usize,
    /// Master weights.
    pub weights: ElementsMut<'a>,
    /// Gradients, set to zero by the step; one more element is the loss.
    pub gradients: ElementsMut<'a>,
    /// First moments.
    pub first: ElementsMut<'a>,
    /// Second moments; of Adam.
    pub second: Option<ElementsMut<'a>>,
    /// The moving average of weights.
    pub average: Option<ElementsMut<'a>>,
    /// The weights in a 16-bit type.
    pub low: Option<ElementsMut<'a>>,
}

/// What a step decides with.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    /// [`PARTIALS`] sums, as scratch.
    pub partials: &'a Memory,
    /// Learning rates of all steps, `f64`.
    pub rates: &'a Memory,
    /// A [`State`].
    pub state: &'a Memory,
    /// [`Record`]s: that of step `i`, from 0, at `i` modulo their number.
    pub ring: &'a Memory,
}

/// Partial sums of the norm.
pub const PARTIALS: usize = 264;

/// Queues a step.
///
/// # Errors
/// If a buffer is too small, or of another type, or missing, or the driver fails.
pub fn step(gpu: &Gpu, settings: &Settings, buffers: &Buffers<'_>, control: &Control<'_>) -> Result<(), Error> {
    const KERNEL: &str = "update";
    let Buffers { len, weights, gradients, first, second, average, low } = *buffers;
    for (what, elements, wanted) in [
        ("weights", Some(weights), len),
        ("gradients", Some(gradients), len + 1),
        ("first moments", Some(first), len),
        ("second moments", second, len),
        ("average", average, len),
    ] {
        let Some(elements) = elements else { continue };
        elements.0.check(KERNEL, what, Some(wanted))?;
        if elements.0.dtype() != DType::F32 || !elements.0.is_aligned(16) {
            return refuse!(KERNEL, "{what} are not f32, or not aligned to 16 bytes");
        }
    }
    let low_type = low.map_or(DType::F32, |low| low.0.dtype());
    if let Some(low) = low {
        low.0.check(KERNEL, "16-bit weights", Some(len))?;
        if !low.0.is_aligned(16) {
            return refuse!(KERNEL, "16-bit weights are not aligned to 16 bytes");
        }
    }
    let (rates, records) = (control.rates.bytes() / 8, control.ring.bytes() / Record::BYTES);
    let fits = control.partials.bytes() >= PARTIALS * 8 && control.state.bytes() >= State::BYTES;
    if !fits || rates == 0 || records == 0 || records > i32::MAX as usize {
        return refuse!(KERNEL, "{rates} rates, {records} records, or too little memory to decide with");
    }
    let is_adam = matches!(settings.rule, Rule::Adam { .. });
    if (is_adam && second.is_none()) || (settings.average.is_some() && average.is_none()) {
        return refuse!(KERNEL, "second moments or the average are missing");
    }
    let (raw, n, parts) = (settings.raw(), len as i64, PARTIALS as i32);
    let describe = || format!("[{len}]");
    let pointer = |elements: Option<ElementsMut<'_>>| elements.map_or(0, |elements| elements.0.pointer());
    let (partials, state) = (control.partials.pointer(), control.state.pointer());
    let flat = gradients.0.pointer();
    let grid = Grid { blocks: [PARTIALS, 1, 1], threads: 256, shared: 0 };
    // SAFETY: the kernel takes these types, reads `len` gradients and writes a partial sum a block; both were checked.
    unsafe { gpu.launch("gradient_squares", grid, arguments![n, flat, partials], &describe) }?;
    let (loss, table, count) = (flat + 4 * len as u64, control.rates.pointer(), rates as i64);
    let (ring, ring_len) = (control.ring.pointer(), records as i32);
    let grid = Grid { blocks: [1, 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![raw, parts, partials, loss, table, count, state, ring_len, ring];
    // SAFETY: the kernel takes these types; the sizes of all it touches were checked or counted above.
    unsafe { gpu.launch("decide", grid, arguments, &describe) }?;
    let kernel = match low_type {
        DType::F16 => "update_f16",
        DType::BF16 => "update_bf16",
        _ if low.is_none() => "update_f32",
        other => return refuse!(KERNEL, "weights for the network as {other:?}"),
    };
    let [w, g, m] = [weights, gradients, first].map(|elements| elements.0.pointer());
    let [v, a, l] = [second, average, low].map(pointer);
    let arguments = arguments![raw, state, n, w, g, m, v, a, l];
    // SAFETY: as above; what may be missing is looked at only where the settings ask for it, which was checked.
    unsafe { gpu.launch(kernel, Grid::flat(len.div_ceil(4)), arguments, &describe) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_share_has_their_layout() {
        assert_eq!(size_of::<RawSettings>(), 72);
        assert_eq!(size_of::<RawPiece>(), 24);
        let state = State { step: 3, taken: 2, scale: 1024.0, good: 7 };
        let bytes = state.to_bytes();
        assert_eq!(State::from_bytes(&bytes), state);
        assert_eq!(word(&bytes, State::SCALE * 4), 1024.0f32.to_bits());
    }
}
