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
use matrix::{Raw, Target, agree};
use std::fmt;
use supple_tensor::GpuError;
use supple_tensor::gpu::low_bit::PackedMatrix;
use supple_tensor::gpu::paged_attention::Heads;
use supple_tensor::gpu::{Gpu, Memory};

/// Tokens of a prompt that are taken in at a time.
pub(super) const CHUNK: usize = 2048;
/// Sequences that are decoded together, and logits that are computed at once.
const ROWS: usize = 64;

/// A decoder whose weights lie on a GPU.
pub struct GpuLlama {
    gpu: Gpu,
    config: Config,
    /// Heads as they are there: with a multiple of 8 elements, the last of which may be zeros.
    heads: Heads,
    frequencies: [Frequencies; 2],
    embedding: PackedMatrix,
    layers: Vec<GpuLayer>,
    norm: Memory,
    /// None where the embedding serves.
    head: Option<PackedMatrix>,
}

/// One layer. A normalisation or bias that a family does without is none.
struct GpuLayer {
    norm: Option<Memory>,
    /// Queries, keys and values: one matrix where they have one format.
    qkv: Vec<PackedMatrix>,
    o: PackedMatrix,
    /// Of queries, keys and values.
    bias: Option<Memory>,
    qk_norm: Option<[Memory; 2]>,
    after_attention: Option<Memory>,
    feed_norm: Option<Memory>,
    /// The gate and what it gates.
    gated: PackedMatrix,
    down: PackedMatrix,
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
        let whole = |raw| target.matrix(raw);
        let place = |config: &Config, layer| place(&target, config, padded_heads(config)?, layer);
        let Parts { config, frequencies, embedding, layers, norm, head } =
            Parts::load(&target, source, context, whole, place)?;
        let heads = padded_heads(&config)?;
        let Some(norm) = target.vector(&norm)? else { return Err(missing("a norm before the last product")) };
        Ok(GpuLlama { gpu: gpu.clone(), config, heads, frequencies, embedding, layers, norm, head })
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
            let norms = [&layer.norm, &layer.bias, &layer.after_attention, &layer.feed_norm, &layer.after_feed];
            norms.into_iter().flatten().chain(layer.qk_norm.iter().flatten())
        });
        matrices.sum::<u64>() + vectors.chain([&self.norm]).map(|v| v.bytes() as u64 / 4).sum::<u64>()
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_per_token(&self) -> usize {
        let tied = if self.head.is_none() { self.embedding.bytes() } else { 0 };
        self.matrices().map(PackedMatrix::bytes).sum::<usize>() + tied
    }

    /// Multiplications with a weight that one token costs, without the last product and with it.
    pub fn macs_per_token(&self) -> [u64; 2] {
        let macs = |matrix: &PackedMatrix| matrix.rows() as u64 * matrix.k() as u64;
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

    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layers.iter().flat_map(|l| l.qkv.iter().chain([&l.o, &l.gated, &l.down])).chain(&self.head)
    }
}

/// The error for what kernels of the GPU lack.
fn missing(what: impl fmt::Display) -> Error {
    Error::NotOnDevice { network: format!("a decoder with {what}") }
}

/// Heads as kernels take them.
fn padded_heads(config: &Config) -> Result<Heads, Error> {
    let supple_tensor::kernels::paged_attention::Heads { heads, kv_heads, head_dim } = config.heads;
    if heads / kv_heads > 16 {
        return Err(missing(format!("{heads} heads on {kv_heads}")));
    }
    if !config.hidden.is_multiple_of(4) || !config.intermediate.is_multiple_of(8) {
        return Err(missing(format!("widths of {} and {}", config.hidden, config.intermediate)));
    }
    Ok(Heads { heads, kv_heads, head_dim: head_dim.next_multiple_of(8) })
}

/// A layer's weights, on the GPU.
fn place(target: &Target<'_>, config: &Config, heads: Heads, layer: Layer<Raw>) -> Result<GpuLayer, Error> {
    let (had, has) = (config.heads.head_dim, heads.head_dim);
    let pad = |values: &[f32], factor: f32| -> Vec<f32> {
        let zeros = std::iter::repeat_n(0.0, has - had);
        values.chunks(had).flat_map(|head| head.iter().map(|v| v * factor).chain(zeros.clone())).collect()
    };
    // The mean of squares is that of more elements: root(sum / has + epsilon · had / has) = root(had / has) · root(sum / had + epsilon).
    let factor = (had as f32 / has as f32).sqrt();
    let norm = |weights: &[f32]| target.vector(&pad(weights, factor));
    let qk_norm = norm(&layer.q_norm)?.zip(norm(&layer.k_norm)?).map(|(q, k)| [q, k]);
    let widths = [heads.heads, heads.kv_heads, heads.kv_heads].map(|count| count * has);
    let bias = if layer.biases.iter().all(Vec::is_empty) {
        None
    } else {
        let parts = layer.biases.iter().zip(widths).flat_map(|(bias, width)| {
            let mut bias = pad(bias, 1.0);
            bias.resize(width, 0.0);
            bias
        });
        target.vector(&parts.collect::<Vec<f32>>())?
    };
    let qkv = [layer.q, layer.k, layer.v].map(|raw| raw.pad_rows(had, has));
    let [gate, up, down] = agree([layer.gate, layer.up, layer.down]);
    Ok(GpuLayer {
        norm: target.vector(&layer.norm)?,
        qkv: target.stack(qkv)?,
        o: target.matrix(layer.o.pad_columns(had, has))?,
        bias,
        qk_norm,
        after_attention: target.vector(&layer.after_attention)?,
        feed_norm: target.vector(&layer.feed_norm)?,
        gated: target.gated(gate, up)?,
        down: target.matrix(down)?,
        after_feed: target.vector(&layer.after_feed)?,
    })
}

impl fmt::Debug for GpuLlama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuLlama({} on {:?})", self.config.family, self.gpu)
    }
}
