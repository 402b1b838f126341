//! Decoders on an NVIDIA GPU.
//!
//! Weights are read matrix by matrix and packed on the GPU; a pass runs there from token ids to logits, or to the likeliest next
//! tokens, which the next pass can take in without the host. A step of a given number of sequences is recorded as a graph when it is
//! asked for a second time, and replayed from then on.
//!
//! What a sequence gets in steps does not depend on its neighbours, bit by bit. Keys and values are kept in 16 bits.

mod matrix;
mod pass;
mod state;
mod step;
mod work;

pub use state::GpuState;

use super::load::{Parts, Source};
use super::rope::Frequencies;
use super::{Config, Layer};
use crate::Error;
use matrix::{Matrix, Target};
use std::fmt;
use supple_tensor::GpuError;
use supple_tensor::gpu::{Gpu, Memory};

/// Tokens of a prompt that are taken in at a time.
pub(super) const CHUNK: usize = 2048;
/// Sequences that are decoded together, and logits that are computed at once.
const ROWS: usize = 64;

/// A decoder whose weights lie on a GPU.
pub struct GpuLlama {
    gpu: Gpu,
    config: Config,
    frequencies: [Frequencies; 2],
    embedding: Matrix,
    layers: Vec<GpuLayer>,
    norm: Memory,
    /// None where the embedding serves.
    head: Option<Matrix>,
}

/// One layer. A normalisation or bias that a family does without is none.
struct GpuLayer {
    norm: Option<Memory>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    biases: [Option<Memory>; 3],
    q_norm: Option<Memory>,
    k_norm: Option<Memory>,
    after_attention: Option<Memory>,
    feed_norm: Option<Memory>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    after_feed: Option<Memory>,
}

/// The error of a GPU.
fn failed(error: GpuError) -> Error {
    Error::Tensor(error.into())
}

impl GpuLlama {
    /// Loads a decoder for contexts of up to `context` tokens.
    ///
    /// # Errors
    /// As [`Llama::load`](super::Llama::load); [`Error::GpuMemory`] if the GPU does not hold it, and if the GPU fails.
    pub(super) fn load(gpu: &Gpu, source: &dyn Source, context: Option<usize>) -> Result<GpuLlama, Error> {
        let target = Target::new(gpu, source);
        let Parts { config, frequencies, embedding, layers, norm, head } =
            Parts::load(&target, source, context, |_| Ok(()))?;
        let upload = |values: &[f32]| target.vector(values);
        let vector = |values: &Vec<f32>| if values.is_empty() { Ok(None) } else { upload(values).map(Some) };
        let layer = |layer: Layer<Matrix>| -> Result<GpuLayer, Error> {
            let [q, k, v] = &layer.biases;
            Ok(GpuLayer {
                norm: vector(&layer.norm)?,
                biases: [vector(q)?, vector(k)?, vector(v)?],
                q_norm: vector(&layer.q_norm)?,
                k_norm: vector(&layer.k_norm)?,
                after_attention: vector(&layer.after_attention)?,
                feed_norm: vector(&layer.feed_norm)?,
                after_feed: vector(&layer.after_feed)?,
                q: layer.q,
                k: layer.k,
                v: layer.v,
                o: layer.o,
                gate: layer.gate,
                up: layer.up,
                down: layer.down,
            })
        };
        let layers = layers.into_iter().map(layer).collect::<Result<_, Error>>()?;
        let norm = upload(&norm)?;
        Ok(GpuLlama { gpu: gpu.clone(), config, frequencies, embedding, layers, norm, head })
    }

    /// Shape and particulars.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the GPU is called.
    pub fn device(&self) -> String {
        self.gpu.name().to_owned()
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// A cache for up to `positions` tokens of all sequences together, with the memory of a pass: all of it is taken at once.
    ///
    /// # Errors
    /// [`Error::GpuMemory`] if the GPU does not hold it, or if it fails.
    pub fn state(&self, positions: usize) -> Result<GpuState, Error> {
        GpuState::new(self, positions)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let matrices = self.matrices().chain([&self.embedding]).map(|m| m.rows() as u64 * m.k() as u64);
        let vectors = self.layers.iter().flat_map(|layer| {
            let norms = [&layer.norm, &layer.q_norm, &layer.k_norm, &layer.after_attention, &layer.feed_norm];
            norms.into_iter().chain([&layer.after_feed]).chain(&layer.biases).flatten()
        });
        matrices.sum::<u64>() + vectors.chain([&self.norm]).map(|v| v.bytes() as u64 / 4).sum::<u64>()
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_per_token(&self) -> usize {
        let tied = if self.head.is_none() { self.embedding.bytes() } else { 0 };
        self.matrices().map(Matrix::bytes).sum::<usize>() + tied
    }

    /// Multiplications with a weight that one token costs, without the last product and with it.
    pub fn macs_per_token(&self) -> [u64; 2] {
        let macs = |matrix: &Matrix| matrix.rows() as u64 * matrix.k() as u64;
        let last = macs(self.head.as_ref().unwrap_or(&self.embedding));
        let all: u64 = self.matrices().map(macs).sum();
        if self.head.is_some() { [all - last, all] } else { [all, all + last] }
    }

    /// Bytes a second that the GPU copies on itself, those read and those written.
    ///
    /// # Errors
    /// If the GPU fails, or has no room for two times 256 MiB.
    pub fn bandwidth(&self) -> Result<f64, Error> {
        const BYTES: usize = 1 << 28;
        let gpu = &self.gpu;
        let measure = || -> Result<f64, GpuError> {
            let (from, to) = (gpu.allocate(BYTES)?, gpu.allocate(BYTES)?);
            gpu.clear(&from, 0, BYTES)?;
            let mut best = f32::INFINITY;
            for _ in 0..5 {
                let (copied, milliseconds) = gpu.time(|| (0..4).try_for_each(|_| gpu.copy(&from, &to, BYTES)))?;
                copied?;
                best = best.min(milliseconds);
            }
            Ok(4.0 * 2.0 * BYTES as f64 / f64::from(best) * 1e3)
        };
        measure().map_err(failed)
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]).chain(&self.head)
    }
}

impl fmt::Debug for GpuLlama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuLlama({} on {:?})", self.config.family, self.gpu)
    }
}
