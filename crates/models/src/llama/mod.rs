//! Decoders of the Llama family and its relatives: one network whose differences are data ([`Config`]).
//!
//! ```text
//! x = embedding(token)
//! for each layer:
//!     x += o(attention(rotate(q(norm(x))), rotate(k(norm(x))), v(norm(x))))
//!     x += down(activation(gate(norm(x))) · up(norm(x)))
//! logits = head(norm(x))
//! ```
//!
//! * [`Llama`] – the weights, packed for one CPU;
//! * [`Cache`] and [`Sequence`] – keys and values, in pages that sequences with the same beginning share;
//! * [`Llama::forward`] – any number of new tokens of any number of sequences at once. What a sequence gets does not depend on
//!   the others, bit by bit: each product, normalisation and attention makes a token's numbers in an order of its own;
//! * [`Decoder`] and [`State`] – the same on whatever device, for those who need not know which;
//! * [`Batch`] – sequences that come and go, decoded together;
//! * [`Definition`] – the same network as a function of tensors, to be trained, with or without an [`Adapter`].

mod adapter;
mod batch;
mod cache;
mod config;
mod decoder;
mod definition;
mod folder;
mod forward;
mod linear;
mod load;
#[cfg(feature = "cuda")]
mod on_device;
mod pages;
mod random;
mod rope;

pub use adapter::Adapter;
pub use batch::{Batch, Choose, Finished, Ticket};
pub use cache::Cache;
pub use config::{Config, FAMILIES, Norms, QkNorm};
pub use decoder::{Decoder, Forward, State, Weights};
pub use definition::{Definition, Positions};
pub use forward::{Input, Wanted, Workspace};
pub use linear::Linear;
#[cfg(feature = "cuda")]
pub use on_device::{GpuLlama, GpuState};
pub use pages::Sequence;
pub use random::{Random, SHAPES};
pub use rope::{Rope, Scaling};
pub use supple_tensor::kernels::low_bit::Format;
pub use supple_tensor::kernels::paged_attention::FORMATS as CACHE_FORMATS;

use rope::Frequencies;
use supple_tensor::Cpu;

/// A decoder, packed for one CPU.
#[derive(Debug)]
pub struct Llama {
    cpu: Cpu,
    config: Config,
    /// Positions of layers that see everything, and of those with a window.
    frequencies: [Frequencies; 2],
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embedding serves.
    head: Option<Linear>,
}

/// One layer. A normalisation that a family does without is empty, and so is a bias.
#[derive(Debug)]
struct Layer<M = Linear> {
    norm: Vec<f32>,
    q: M,
    k: M,
    v: M,
    o: M,
    biases: [Vec<f32>; 3],
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    after_attention: Vec<f32>,
    feed_norm: Vec<f32>,
    gate: M,
    up: M,
    down: M,
    after_feed: Vec<f32>,
}

impl Llama {
    /// Shape and particulars.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it computes on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let mut count = self.norm.len() as u64;
        for linear in self.linears().chain([&self.embedding]) {
            count += linear.rows() as u64 * linear.k() as u64;
        }
        for layer in &self.layers {
            let norms = [&layer.norm, &layer.q_norm, &layer.k_norm, &layer.after_attention, &layer.feed_norm];
            let rest = layer.biases.iter().chain(norms).chain([&layer.after_feed]);
            count += rest.map(|v| v.len() as u64).sum::<u64>();
        }
        count
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_per_token(&self) -> usize {
        let tied = if self.head.is_none() { self.embedding.bytes() } else { 0 };
        self.linears().map(Linear::bytes).sum::<usize>() + tied
    }

    /// Multiplications with a weight that one token costs, without the last product and with it.
    pub fn macs_per_token(&self) -> [u64; 2] {
        let layers: u64 = self.linears().map(|l| l.rows() as u64 * l.k() as u64).sum();
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let last = head.rows() as u64 * head.k() as u64;
        if self.head.is_some() { [layers - last, layers] } else { [layers, layers + last] }
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]).chain(&self.head)
    }
}
