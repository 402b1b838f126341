//! The pass through a decoder on a GPU.

use super::matrix::Matrix;
use super::work::{read, write};
use super::{GpuLayer, GpuLlama, GpuState, failed};
use crate::Error;
use crate::llama;
use supple_tensor::GpuError;
use supple_tensor::gpu::decoder_plain::{self as plain, Gate, Paged, Place, QkNorm};
use supple_tensor::gpu::elementwise::{Binary, binary};
use supple_tensor::gpu::normalize::{Normalization, normalize};
use supple_tensor::gpu::{DType, Elements, ElementsMut, Memory};
use supple_tensor::kernels::decoder::Gate as Gated;
use supple_tensor::kernels::paged_attention::Heads;

impl GpuLlama {
    /// A step of `rows` sequences: of each the token, position and pages in its row. Logits of all, and the likeliest tokens in place
    /// of those that were taken in. Reads nothing from the host, and allocates nothing.
    pub(super) fn decode(&self, state: &GpuState, rows: usize) -> Result<(), Error> {
        self.layers(state, rows, false).map_err(failed)?;
        self.head(state, rows, false)
    }

    /// `count` tokens of the sequence in row 0, of which the first is at position `start`: into the cache and the residual stream.
    pub(super) fn chunk(&self, state: &GpuState, _start: usize, count: usize) -> Result<(), Error> {
        self.layers(state, count, true).map_err(failed)
    }

    /// Logits of `rows` rows of the residual stream and the likeliest tokens: of the first, or with `chosen` of those whose numbers are
    /// in place.
    pub(super) fn head(&self, state: &GpuState, rows: usize, chosen: bool) -> Result<(), Error> {
        let run = || -> Result<(), GpuError> {
            let (gpu, config, work) = (&self.gpu, &self.config, &state.work);
            let mut x = &work.x;
            if chosen {
                let numbers = Elements::new(&state.control.rows, 0, DType::U32);
                plain::select(gpu, [rows, config.hidden], read(x), numbers, write(&work.out))?;
                x = &work.out;
            }
            self.norm(&self.norm, rows, config.hidden, x, &work.normed)?;
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            self.project(rows, &work.normed, head, &work.logits)?;
            let ids = ElementsMut::new(&state.control.ids, 0, DType::U32);
            plain::choose(gpu, [rows, config.vocabulary], config.logit_cap, write(&work.logits), ids)
        };
        run().map_err(failed)
    }

    fn layers(&self, state: &GpuState, tokens: usize, together: bool) -> Result<(), GpuError> {
        let (gpu, config) = (&self.gpu, &self.config);
        let ids = Elements::new(&state.control.ids, 0, DType::U32);
        let sizes = [tokens, config.vocabulary, config.hidden];
        plain::embed(gpu, sizes, self.embedding.elements(), ids, config.embedding_scale, write(&state.work.x))?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.layer(state, index, layer, tokens, together)?;
        }
        Ok(())
    }

    fn layer(
        &self,
        state: &GpuState,
        index: usize,
        layer: &GpuLayer,
        tokens: usize,
        together: bool,
    ) -> Result<(), GpuError> {
        let (gpu, config, work) = (&self.gpu, &self.config, &state.work);
        let hidden = config.hidden;
        let x = self.normed(layer.norm.as_ref(), tokens, &work.x, &work.normed)?;
        for (matrix, y) in [(&layer.q, &work.q), (&layer.k, &work.k), (&layer.v, &work.v)] {
            self.project(tokens, x, matrix, y)?;
        }
        self.attention(state, index, layer, tokens, together)?;
        self.project(tokens, &work.attended, &layer.o, &work.out)?;
        self.residual(layer.after_attention.as_ref(), state, tokens)?;

        let x = self.normed(layer.feed_norm.as_ref(), tokens, &work.x, &work.normed)?;
        self.project(tokens, x, &layer.gate, &work.gate)?;
        self.project(tokens, x, &layer.up, &work.up)?;
        let kind = if config.gate == Gated::Silu { Gate::Silu } else { Gate::GeluTanh };
        plain::gate(gpu, tokens * config.intermediate, kind, write(&work.gate), read(&work.up))?;
        self.project(tokens, &work.gate, &layer.down, &work.out)?;
        debug_assert_eq!(layer.down.rows(), hidden);
        self.residual(layer.after_feed.as_ref(), state, tokens)
    }

    fn attention(
        &self,
        state: &GpuState,
        index: usize,
        layer: &GpuLayer,
        tokens: usize,
        together: bool,
    ) -> Result<(), GpuError> {
        let (gpu, config, work) = (&self.gpu, &self.config, &state.work);
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let shape = [heads, kv_heads, head_dim];
        let kind = usize::from(config.local[index] && config.local_rope.is_some());
        let [cos, sin] = &state.angles[kind];
        let norm = match (config.qk_norm, &layer.q_norm, &layer.k_norm) {
            (llama::QkNorm::Head, Some(q), Some(k)) => QkNorm::Head([read(q), read(k)]),
            (llama::QkNorm::All, Some(q), Some(k)) => QkNorm::All([read(q), read(k)]),
            _ => QkNorm::None,
        };
        let halves = |memory| ElementsMut::new(memory, 0, DType::F16);
        let paged = Paged {
            cache: [halves(&state.kv.keys[index]), halves(&state.kv.values[index])],
            positions: Elements::new(&state.control.positions, 0, DType::U32),
            table: Elements::new(&state.control.table, 0, DType::U32),
            pages: state.control.pages,
            together,
        };
        let place = Place {
            heads: shape,
            biases: layer.biases.each_ref().map(|bias| bias.as_ref().map(read)),
            norm,
            epsilon: config.epsilon,
            angles: ([read(cos), read(sin)], self.frequencies[kind].len()),
            query_scale: config.query_scale,
        };
        plain::place(gpu, tokens, &place, write(&work.q), [read(&work.k), read(&work.v)], &paged)?;
        let masking = (config.window.filter(|_| config.local[index]), config.attention_cap);
        plain::attend(gpu, tokens, shape, masking, read(&work.q), &paged, write(&work.attended))
    }

    fn project(&self, tokens: usize, x: &Memory, matrix: &Matrix, y: &Memory) -> Result<(), GpuError> {
        plain::project(&self.gpu, [tokens, matrix.rows(), matrix.k()], read(x), matrix.elements(), write(y))
    }

    fn norm(&self, weight: &Memory, tokens: usize, width: usize, x: &Memory, y: &Memory) -> Result<(), GpuError> {
        let how = Normalization::Rms { weight: read(weight), epsilon: self.config.epsilon };
        normalize(&self.gpu, how, [tokens, width], (read(x), width), (write(y), width))
    }

    /// Where `norm(x)` lies, or `x` where there is no such norm.
    fn normed<'m>(
        &self,
        weight: Option<&Memory>,
        tokens: usize,
        x: &'m Memory,
        y: &'m Memory,
    ) -> Result<&'m Memory, GpuError> {
        match weight {
            Some(weight) => self.norm(weight, tokens, self.config.hidden, x, y).map(|()| y),
            None => Ok(x),
        }
    }

    /// `x += norm(out)`.
    fn residual(&self, weight: Option<&Memory>, state: &GpuState, tokens: usize) -> Result<(), GpuError> {
        let (work, hidden) = (&state.work, self.config.hidden);
        let out = self.normed(weight, tokens, &work.out, &work.normed)?;
        let shape = [1, tokens * hidden];
        let x = (read(&work.x), shape[1]);
        binary(&self.gpu, Binary::Add, shape, x, (read(out), shape[1]), (write(&work.x), shape[1]))
    }
}
