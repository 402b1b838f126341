//! Memory of a pass, taken once.

use super::{CHUNK, GpuLlama, ROWS};
use supple_tensor::GpuError;
use supple_tensor::gpu::decoder::argmax_scratch;
use supple_tensor::gpu::low_bit::{Scratch, padded};
use supple_tensor::gpu::paged_attention::attend_scratch;
use supple_tensor::gpu::{DType, Elements, ElementsMut, Gpu, Memory};

/// Most bytes for weights in 16 bits, where a prompt is taken in.
const UNPACKED: usize = 512 << 20;

/// Rows for `CHUNK` tokens; a pass of fewer uses the first. Inputs of products are of 16 bits, with zeros behind the last column.
pub(super) struct Work {
    /// The residual stream, f32 `[tokens, hidden]`.
    pub x: Memory,
    /// An input of products, `[tokens, padded(hidden)]`.
    pub normed: Memory,
    /// What comes out of a product that is normalised, f32 `[tokens, hidden]`.
    pub out: Memory,
    /// Queries, keys and values, f32 `[tokens, heads + 2 · kv_heads, head_dim]`.
    pub qkv: Memory,
    /// Queries as attention takes them, f16 `[tokens, heads, head_dim]`.
    pub queries: Memory,
    /// What attention gave, `[tokens, padded(heads · head_dim)]`; the second is f16 on its way to bf16.
    pub attended: [Memory; 2],
    /// `[tokens, padded(intermediate)]`.
    pub gated: Memory,
    /// f32 `[ROWS, vocabulary]`.
    pub logits: Memory,
    /// For attention of `ROWS` tokens, and for the choice of the likeliest.
    pub attending: Memory,
    pub choosing: Memory,
    /// For products of many tokens.
    pub unpacked: Scratch,
}

impl Work {
    /// Bytes of each, and of the last.
    fn sizes(model: &GpuLlama, positions: usize) -> ([usize; 11], usize) {
        let (config, heads) = (&model.config, model.heads);
        let q = heads.heads * heads.head_dim;
        let kv = heads.kv_heads * heads.head_dim;
        let attended = 2 * CHUNK * padded(q);
        let sizes = [
            4 * CHUNK * config.hidden,
            2 * CHUNK * padded(config.hidden),
            4 * CHUNK * config.hidden,
            4 * CHUNK * (q + 2 * kv),
            2 * CHUNK * q,
            attended,
            attended,
            2 * CHUNK * padded(config.intermediate),
            4 * ROWS * config.vocabulary,
            4 * attend_scratch(heads, ROWS, positions),
            argmax_scratch(ROWS),
        ];
        let matrices = model.matrices().map(|m| 2 * m.rows().next_multiple_of(128) * (padded(m.k()) + CHUNK));
        (sizes, matrices.max().unwrap_or(0).min(UNPACKED))
    }

    /// Bytes in all.
    pub fn bytes(model: &GpuLlama, positions: usize) -> usize {
        let (sizes, unpacked) = Work::sizes(model, positions);
        sizes.iter().sum::<usize>() + unpacked
    }

    pub fn new(gpu: &Gpu, model: &GpuLlama, positions: usize) -> Result<Work, GpuError> {
        let (sizes, unpacked) = Work::sizes(model, positions);
        let zeros = |bytes: usize| -> Result<Memory, GpuError> {
            let memory = gpu.allocate(bytes)?;
            gpu.clear(&memory, 0, bytes)?;
            Ok(memory)
        };
        let [x, normed, out, qkv, queries, attended, halves, gated, logits, attending, choosing] = sizes.map(zeros);
        Ok(Work {
            x: x?,
            normed: normed?,
            out: out?,
            qkv: qkv?,
            queries: queries?,
            attended: [attended?, halves?],
            gated: gated?,
            logits: logits?,
            attending: attending?,
            choosing: choosing?,
            unpacked: Scratch::new(gpu, unpacked)?,
        })
    }
}

/// Elements to be read.
pub(super) fn read(memory: &Memory, dtype: DType) -> Elements<'_> {
    Elements::new(memory, 0, dtype)
}

/// Elements to be written.
pub(super) fn write(memory: &Memory, dtype: DType) -> ElementsMut<'_> {
    ElementsMut::new(memory, 0, dtype)
}
