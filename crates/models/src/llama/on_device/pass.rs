//! The pass through a decoder on a GPU.

use super::work::{read, write};
use super::{GpuLayer, GpuLlama, GpuState, ROWS, failed};
use crate::Error;
use crate::llama;
use supple_tensor::GpuError;
use supple_tensor::gpu::decoder::{argmax, norm, norm_add};
use supple_tensor::gpu::low_bit::{Gate, Outcome, PackedMatrix, padded, project};
use supple_tensor::gpu::paged_attention::{Masking, Placement, QkNorm, Tables, attend, attend_chunk, place};
use supple_tensor::gpu::{DType, Elements, ElementsMut, Memory, copy};
use supple_tensor::kernels::decoder::Gate as Gated;

/// The tokens of a pass.
#[derive(Clone, Copy)]
pub(super) struct Tokens {
    /// How many there are.
    pub count: usize,
    /// No token sees more positions.
    pub longest: usize,
    /// Whether they follow each other in one sequence, whose pages are in every row of the table; else each has its own row.
    pub together: bool,
}

impl GpuLlama {
    /// A step of `rows` sequences: of each the token, position and pages in its row. Logits of all, and the likeliest tokens in place
    /// of those that were taken in. Reads nothing from the host, and allocates nothing.
    pub(super) fn decode(&self, state: &GpuState, rows: usize, longest: usize) -> Result<(), Error> {
        self.layers(state, Tokens { count: rows, longest, together: false })?;
        self.head(state, rows, false)
    }

    /// Tokens into the cache and the residual stream.
    pub(super) fn layers(&self, state: &GpuState, tokens: Tokens) -> Result<(), Error> {
        let run = || -> Result<(), GpuError> {
            let ids = read(&state.control.ids, DType::U32);
            let x = write(&state.work.x, DType::F32);
            self.embedding.embed(&self.gpu, tokens.count, ids, self.config.embedding_scale, x)?;
            for (index, layer) in self.layers.iter().enumerate() {
                self.layer(state, index, layer, tokens)?;
            }
            Ok(())
        };
        run().map_err(failed)
    }

    /// Logits of `rows` rows of the residual stream and the likeliest tokens: of the first, or with `chosen` of those whose numbers are
    /// in place.
    pub(super) fn head(&self, state: &GpuState, rows: usize, chosen: bool) -> Result<(), Error> {
        let run = || -> Result<(), GpuError> {
            let (gpu, config, work) = (&self.gpu, &self.config, &state.work);
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            let dtype = head.format().input();
            let numbers = chosen.then(|| read(&state.control.rows, DType::U32));
            let weight = (Some(read(&self.norm, DType::F32)), config.epsilon);
            let x = read(&work.x, DType::F32);
            norm(gpu, [rows, config.hidden], x, weight, numbers, write(&work.normed, dtype))?;
            let out = write(&work.logits, DType::F32);
            let outcome = Outcome::Store { out, row: config.vocabulary, cap: config.logit_cap };
            project(gpu, None, head, rows, read(&work.normed, dtype), outcome)?;
            let (logits, scratch) = (read(&work.logits, DType::F32), write(&work.choosing, DType::U32));
            argmax(gpu, [rows, config.vocabulary], logits, scratch, write(&state.control.ids, DType::U32))
        };
        run().map_err(failed)
    }

    fn layer(&self, state: &GpuState, index: usize, layer: &GpuLayer, tokens: Tokens) -> Result<(), GpuError> {
        let (config, work) = (&self.config, &state.work);
        let x = self.normed(state, layer.norm.as_ref(), &layer.qkv[0], tokens.count)?;
        let row = (self.heads.heads + 2 * self.heads.kv_heads) * self.heads.head_dim;
        let mut at = 0;
        for matrix in &layer.qkv {
            let outcome = Outcome::Store { out: ElementsMut::new(&work.qkv, at, DType::F32), row, cap: None };
            project(&self.gpu, Some(&work.unpacked), matrix, tokens.count, x, outcome)?;
            at += matrix.rows();
        }
        self.place(state, index, layer, tokens)?;
        self.attention(state, index, layer, tokens)?;
        let attended = read(&work.attended[0], layer.o.format().input());
        self.residual(state, layer.after_attention.as_ref(), &layer.o, attended, tokens.count)?;

        let x = self.normed(state, layer.feed_norm.as_ref(), &layer.gated, tokens.count)?;
        let gate = if config.gate == Gated::Silu { Gate::Silu } else { Gate::GeluTanh };
        let dtype = layer.gated.format().input();
        let outcome = Outcome::Gated { out: write(&work.gated, dtype), gate };
        project(&self.gpu, Some(&work.unpacked), &layer.gated, tokens.count, x, outcome)?;
        self.residual(state, layer.after_feed.as_ref(), &layer.down, read(&work.gated, dtype), tokens.count)
    }

    /// Where tokens' pages lie, and `numbers` of theirs: positions or lengths.
    fn tables<'s>(&self, state: &'s GpuState, numbers: &'s Memory, first: usize, row: usize) -> Tables<'s> {
        let pages = read(&state.control.table, DType::U32);
        Tables { pages, row, positions: Elements::new(numbers, first, DType::U32) }
    }

    /// Biases, normalises, rotates and scales queries and keys, and stores keys and values.
    fn place(&self, state: &GpuState, index: usize, layer: &GpuLayer, tokens: Tokens) -> Result<(), GpuError> {
        let (config, work) = (&self.config, &state.work);
        let kind = usize::from(config.local[index] && config.local_rope.is_some());
        let floats = |memory| read(memory, DType::F32);
        let norm = match (&layer.qk_norm, config.qk_norm) {
            (Some(norms), llama::QkNorm::Head) => QkNorm::Head(norms.each_ref().map(floats)),
            (Some(norms), llama::QkNorm::All) => QkNorm::All(norms.each_ref().map(floats)),
            _ => QkNorm::None,
        };
        let placement = Placement {
            bias: layer.bias.as_ref().map(floats),
            norm,
            epsilon: config.epsilon * config.heads.head_dim as f32 / self.heads.head_dim as f32,
            angles: state.angles[kind].each_ref().map(floats),
            angles_of_head: self.frequencies[kind].len(),
            query_scale: config.query_scale,
        };
        // All tokens of one sequence read the first row.
        let row = if tokens.together { 0 } else { state.control.pages };
        let tables = self.tables(state, &state.control.positions, 0, row);
        let queries = write(&work.queries, DType::F16);
        place(&self.gpu, &state.kv.layers[index], &placement, tokens.count, floats(&work.qkv), tables, queries)
    }

    fn attention(&self, state: &GpuState, index: usize, layer: &GpuLayer, tokens: Tokens) -> Result<(), GpuError> {
        let (gpu, config, work, heads) = (&self.gpu, &self.config, &state.work, self.heads);
        let pages = &state.kv.layers[index];
        let masking = Masking { window: config.window.filter(|_| config.local[index]), soft_cap: config.attention_cap };
        let dtype = layer.o.format().input();
        let width = heads.heads * heads.head_dim;
        let sees_all = masking.soft_cap.is_none() && masking.window.is_none_or(|window| window >= tokens.longest);
        if tokens.count > ROWS && sees_all {
            let made = &work.attended[usize::from(dtype == DType::BF16)];
            let table = read(&state.control.table, DType::U32);
            let queries = read(&work.queries, DType::F16);
            attend_chunk(gpu, pages, [tokens.count, tokens.longest], queries, table, write(made, DType::F16))?;
            if dtype == DType::BF16 {
                let elements = tokens.count * padded(width);
                copy::convert(gpu, elements, read(made, DType::F16), write(&work.attended[0], dtype))?;
            }
            return Ok(());
        }
        for first in (0..tokens.count).step_by(ROWS) {
            let count = ROWS.min(tokens.count - first);
            let tables = self.tables(state, &state.control.lengths, first, state.control.pages);
            let queries = Elements::new(&work.queries, first * width, DType::F16);
            let out = ElementsMut::new(&work.attended[0], first * padded(width), dtype);
            let scratch = write(&work.attending, DType::F32);
            attend(gpu, pages, masking, [count, tokens.longest], queries, tables, scratch, out)?;
        }
        Ok(())
    }

    /// `norm(x)`, or `x` where there is no such norm, as the input of products of `matrix`.
    fn normed<'s>(
        &self,
        state: &'s GpuState,
        weight: Option<&Memory>,
        matrix: &PackedMatrix,
        tokens: usize,
    ) -> Result<Elements<'s>, GpuError> {
        let (work, config, dtype) = (&state.work, &self.config, matrix.format().input());
        let weight = (weight.map(|weight| read(weight, DType::F32)), config.epsilon);
        let x = read(&work.x, DType::F32);
        norm(&self.gpu, [tokens, config.hidden], x, weight, None, write(&work.normed, dtype))?;
        Ok(read(&work.normed, dtype))
    }

    /// `x += norm(matrix · input)`, or without the norm where there is none.
    fn residual(
        &self,
        state: &GpuState,
        weight: Option<&Memory>,
        matrix: &PackedMatrix,
        input: Elements<'_>,
        tokens: usize,
    ) -> Result<(), GpuError> {
        let (work, row) = (&state.work, self.config.hidden);
        let x = write(&work.x, DType::F32);
        let Some(weight) = weight else {
            return project(&self.gpu, Some(&work.unpacked), matrix, tokens, input, Outcome::Add { out: x, row });
        };
        let out = write(&work.out, DType::F32);
        project(&self.gpu, Some(&work.unpacked), matrix, tokens, input, Outcome::Store { out, row, cap: None })?;
        let weight = (read(weight, DType::F32), self.config.epsilon);
        norm_add(&self.gpu, [tokens, row], read(&work.out, DType::F32), weight, x)
    }
}
