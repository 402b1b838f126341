//! Memory of a pass, taken once.

use super::{CHUNK, ROWS};
use crate::llama::Config;
use supple_tensor::GpuError;
use supple_tensor::gpu::{DType, Elements, ElementsMut, Gpu, Memory};
use supple_tensor::kernels::paged_attention::Heads;

/// Rows of f32, `CHUNK` of each kind; a pass of fewer uses the first.
pub(super) struct Work {
    /// The residual stream, `[tokens, hidden]`.
    pub x: Memory,
    /// What goes into a product, `[tokens, hidden]`.
    pub normed: Memory,
    /// What comes out of one, `[tokens, hidden]`.
    pub out: Memory,
    /// Queries as they were made and as attention takes them, `[2, tokens, heads · head_dim]`.
    pub q: Memory,
    pub k: Memory,
    pub v: Memory,
    /// `[tokens, heads · head_dim]`.
    pub attended: Memory,
    /// `[tokens, intermediate]`.
    pub gate: Memory,
    pub up: Memory,
    /// `[ROWS, vocabulary]`.
    pub logits: Memory,
}

impl Work {
    /// Elements of each.
    fn sizes(config: &Config) -> [usize; 10] {
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let rows = |width: usize| CHUNK * width;
        let (q, kv) = (rows(heads * head_dim), rows(kv_heads * head_dim));
        let (hidden, wide) = (rows(config.hidden), rows(config.intermediate));
        [hidden, hidden, hidden, 2 * q, kv, kv, q, wide, wide, ROWS * config.vocabulary]
    }

    /// Bytes in all.
    pub fn bytes(config: &Config) -> usize {
        4 * Work::sizes(config).iter().sum::<usize>()
    }

    pub fn new(gpu: &Gpu, config: &Config) -> Result<Work, GpuError> {
        let [x, normed, out, q, k, v, attended, gate, up, logits] =
            Work::sizes(config).map(|elements| gpu.allocate(4 * elements));
        Ok(Work {
            x: x?,
            normed: normed?,
            out: out?,
            q: q?,
            k: k?,
            v: v?,
            attended: attended?,
            gate: gate?,
            up: up?,
            logits: logits?,
        })
    }
}

/// f32 to be read.
pub(super) fn read(memory: &Memory) -> Elements<'_> {
    Elements::new(memory, 0, DType::F32)
}

/// f32 to be written.
pub(super) fn write(memory: &Memory) -> ElementsMut<'_> {
    ElementsMut::new(memory, 0, DType::F32)
}
