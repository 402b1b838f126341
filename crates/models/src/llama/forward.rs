//! The pass through a decoder.

use super::cache::Cache;
use super::linear::{Columns, Linear, apply};
use super::pages::Sequence;
use super::{Layer, Llama, QkNorm};
use crate::Error;
use supple_tensor::kernels::decoder::{add, for_each_row, gated, rms_norm, rms_norm_in_place, rotate, soft_cap};
use supple_tensor::kernels::low_bit::Scratch;
use supple_tensor::kernels::paged_attention::{Heads, Masking, PAGE, Span, attend};

/// For which of an input's tokens logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// For none: a part of a prompt with more to come.
    Nothing,
    /// For the last one.
    Last,
    /// For all.
    All,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Input<'a> {
    /// The sequence; it grows by the tokens.
    pub sequence: &'a mut Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Which logits are wanted.
    pub wanted: Wanted,
}

/// Memory of a pass. Grows as needed and is kept: a pass as large as one before allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    normed: Columns,
    attended: Columns,
    gated: Columns,
    last: Columns,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Results on their way to the residual stream.
    out: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
    /// Cosines and sines of each token, for both kinds of layers.
    angles: [[Vec<f32>; 2]; 2],
    table: Vec<u32>,
    spans: Vec<Span>,
    /// Page and slot of each token.
    places: Vec<(u32, usize)>,
    positions: Vec<usize>,
    rows: Vec<usize>,
    scratch: Scratch,
}

impl Workspace {
    /// Empty.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// The logits of the last pass.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

impl Llama {
    /// Takes new tokens in, and returns the wanted logits, `[wanted tokens, vocabulary]`, in the order of inputs and tokens.
    ///
    /// # Errors
    /// [`Error::BadToken`] for a token that is not in the vocabulary, [`Error::NoTokens`] for an input without tokens, and
    /// [`Error::CacheFull`]. Sequences are then as they were.
    pub fn forward<'w>(
        &self,
        cache: &mut Cache,
        work: &'w mut Workspace,
        inputs: &mut [Input<'_>],
    ) -> Result<&'w [f32], Error> {
        let config = &self.config;
        for token in inputs.iter().flat_map(|input| input.tokens) {
            if *token as usize >= config.vocabulary {
                return Err(Error::BadToken { token: *token, vocabulary: config.vocabulary });
            }
        }
        if inputs.is_empty() || inputs.iter().any(|input| input.tokens.is_empty()) {
            return Err(Error::NoTokens);
        }
        for at in 0..inputs.len() {
            let Input { sequence, tokens, .. } = &mut inputs[at];
            if let Err(error) = cache.extend(sequence, tokens.len()) {
                for input in &mut inputs[..at] {
                    let len = input.sequence.len;
                    cache.truncate(input.sequence, len);
                }
                return Err(error);
            }
        }
        let tokens = self.prepare(work, inputs);
        for (index, layer) in self.layers.iter().enumerate() {
            self.layer(index, layer, cache, work, tokens);
        }
        for input in inputs.iter_mut() {
            input.sequence.len += input.tokens.len();
        }
        Ok(self.logits(work))
    }

    /// Embeddings, places and angles of all tokens; how many there are.
    fn prepare(&self, work: &mut Workspace, inputs: &[Input<'_>]) -> usize {
        let config = &self.config;
        let hidden = config.hidden;
        let (table, spans) = (&mut work.table, &mut work.spans);
        table.clear();
        spans.clear();
        work.places.clear();
        work.positions.clear();
        work.rows.clear();
        for input in inputs {
            let (first_page, row) = (table.len(), work.places.len());
            let (start, count) = (input.sequence.len, input.tokens.len());
            table.extend_from_slice(&input.sequence.pages);
            spans.push(Span { first_page, start, count, row });
            for position in start..start + count {
                work.places.push((table[first_page + position / PAGE], position % PAGE));
                work.positions.push(position);
            }
            match input.wanted {
                Wanted::Nothing => {}
                Wanted::Last => work.rows.push(row + count - 1),
                Wanted::All => work.rows.extend(row..row + count),
            }
        }
        let tokens = work.places.len();
        work.x.resize(tokens * hidden, 0.0);
        for (frequencies, [cos, sin]) in self.frequencies.iter().zip(&mut work.angles) {
            let count = frequencies.len();
            cos.resize(tokens * count, 0.0);
            sin.resize(tokens * count, 0.0);
            let rows = cos.chunks_exact_mut(count).zip(sin.chunks_exact_mut(count));
            for (&position, (cos, sin)) in work.positions.iter().zip(rows) {
                frequencies.angles(position, cos, sin);
            }
        }
        let ids = inputs.iter().flat_map(|input| input.tokens);
        for (&token, x) in ids.zip(work.x.chunks_exact_mut(hidden)) {
            self.embedding.row(token as usize, x);
            if config.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= config.embedding_scale);
            }
        }
        tokens
    }

    fn layer(&self, index: usize, layer: &Layer, cache: &mut Cache, work: &mut Workspace, tokens: usize) {
        let config = &self.config;
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let cpu = &self.cpu;

        self.norm(&layer.norm, &work.x, &mut work.normed, tokens, [&layer.q, &layer.k, &layer.v]);
        for (buffer, width) in [(&mut work.q, q_width), (&mut work.k, kv_width), (&mut work.v, kv_width)] {
            buffer.resize(tokens * width, 0.0);
        }
        let outputs = [&mut work.q[..], &mut work.k[..], &mut work.v[..]];
        apply(cpu, &work.normed, &mut work.scratch, [&layer.q, &layer.k, &layer.v], outputs);
        self.place(index, layer, cache, work, tokens);

        let masking = Masking { window: config.window.filter(|_| config.local[index]), soft_cap: config.attention_cap };
        work.attended.floats.resize(tokens * q_width, 0.0);
        attend(cpu, &cache.layers[index], masking, &work.table, &work.spans, &work.q, &mut work.attended.floats);
        self.quantise(&mut work.attended, tokens, q_width, [&layer.o]);
        work.out.resize(tokens * config.hidden, 0.0);
        apply(cpu, &work.attended, &mut work.scratch, [&layer.o], [&mut work.out]);
        self.residual(&layer.after_attention, work, tokens);

        self.norm(&layer.feed_norm, &work.x, &mut work.normed, tokens, [&layer.gate, &layer.up]);
        work.gated.floats.resize(tokens * config.intermediate, 0.0);
        work.up.resize(tokens * config.intermediate, 0.0);
        let outputs = [&mut work.gated.floats[..], &mut work.up[..]];
        apply(cpu, &work.normed, &mut work.scratch, [&layer.gate, &layer.up], outputs);
        let width = config.intermediate;
        let up = &work.up;
        self.by_token(&mut work.gated, tokens, width, layer.down.takes_integers(), &|token, gate| {
            gated(cpu.isa, config.gate, gate, &up[token * width..][..width]);
        });
        apply(cpu, &work.gated, &mut work.scratch, [&layer.down], [&mut work.out]);
        self.residual(&layer.after_feed, work, tokens);
    }

    /// Biases, normalises, rotates and scales queries and keys, and stores keys and values.
    fn place(&self, index: usize, layer: &Layer, cache: &mut Cache, work: &mut Workspace, tokens: usize) {
        let config = &self.config;
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let isa = self.cpu.isa;
        let kind = usize::from(config.local[index] && config.local_rope.is_some());
        let angles = self.frequencies[kind].len();
        let [cos, sin] = &work.angles[kind];
        let (q, k, v) = ((&mut work.q[..], q_width), (&mut work.k[..], kv_width), (&mut work.v[..], kv_width));
        for_each_row(&self.cpu, tokens, [q, k, v], None, &|token, [q, k, v]| {
            for (x, bias) in [&mut *q, &mut *k, &mut *v].into_iter().zip(&layer.biases) {
                if !bias.is_empty() {
                    add(isa, x, bias);
                }
            }
            for (x, norm) in [(&mut *q, &layer.q_norm), (&mut *k, &layer.k_norm)] {
                match config.qk_norm {
                    QkNorm::None => {}
                    QkNorm::Head => {
                        x.chunks_exact_mut(head_dim).for_each(|x| rms_norm_in_place(isa, x, norm, config.epsilon));
                    }
                    QkNorm::All => rms_norm_in_place(isa, x, norm, config.epsilon),
                }
                rotate(isa, x, head_dim, &cos[token * angles..][..angles], &sin[token * angles..][..angles]);
            }
            q.iter_mut().for_each(|q| *q *= config.query_scale);
        });
        cache.layers[index].store(&self.cpu, &work.places, &work.k, &work.v);
    }

    /// `columns = norm(x)`, or `x` where there is no such norm, in the forms that `layers` take.
    fn norm<const N: usize>(
        &self,
        weight: &[f32],
        x: &[f32],
        columns: &mut Columns,
        tokens: usize,
        layers: [&Linear; N],
    ) {
        let hidden = self.config.hidden;
        columns.floats.resize(tokens * hidden, 0.0);
        let integers = layers.iter().any(|layer| layer.takes_integers());
        self.by_token(columns, tokens, hidden, integers, &|token, out| {
            let x = &x[token * hidden..][..hidden];
            if weight.is_empty() {
                out.copy_from_slice(x);
            } else {
                rms_norm(self.cpu.isa, x, weight, self.config.epsilon, out);
            }
        });
    }

    fn quantise<const N: usize>(&self, columns: &mut Columns, tokens: usize, width: usize, layers: [&Linear; N]) {
        let integers = layers.iter().any(|layer| layer.takes_integers());
        self.by_token(columns, tokens, width, integers, &|_, _| {});
    }

    /// Calls `fill(token, row)` for each row of `columns`, and quantises the row if integers are wanted.
    fn by_token(
        &self,
        columns: &mut Columns,
        tokens: usize,
        width: usize,
        integers: bool,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        columns.count = tokens;
        if integers {
            columns.integers.resize(tokens, width);
        }
        let quantised = integers.then_some(&mut columns.integers);
        for_each_row(&self.cpu, tokens, [(&mut columns.floats, width)], quantised, &|token, [row]| fill(token, row));
    }

    /// `x += norm(out)`.
    fn residual(&self, weight: &[f32], work: &mut Workspace, tokens: usize) {
        let hidden = self.config.hidden;
        let parts = [(&mut work.x[..], hidden), (&mut work.out[..], hidden)];
        for_each_row(&self.cpu, tokens, parts, None, &|_, [x, out]| {
            if !weight.is_empty() {
                rms_norm_in_place(self.cpu.isa, out, weight, self.config.epsilon);
            }
            add(self.cpu.isa, x, out);
        });
    }

    /// Logits of the wanted rows.
    fn logits<'w>(&self, work: &'w mut Workspace) -> &'w [f32] {
        let config = &self.config;
        let (hidden, rows) = (config.hidden, work.rows.len());
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        work.last.floats.resize(rows * hidden, 0.0);
        let (x, wanted) = (&work.x, &work.rows);
        self.by_token(&mut work.last, rows, hidden, head.takes_integers(), &|row, out| {
            rms_norm(self.cpu.isa, &x[wanted[row] * hidden..][..hidden], &self.norm, config.epsilon, out);
        });
        work.logits.resize(rows * config.vocabulary, 0.0);
        if rows > 0 {
            apply(&self.cpu, &work.last, &mut work.scratch, [head], [&mut work.logits]);
        }
        if let Some(cap) = config.logit_cap {
            let parts = [(&mut work.logits[..], config.vocabulary)];
            for_each_row(&self.cpu, rows, parts, None, &|_, [logits]| soft_cap(self.cpu.isa, logits, cap));
        }
        &work.logits
    }
}
