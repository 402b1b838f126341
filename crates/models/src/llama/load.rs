//! Reading a decoder from a checkpoint, whatever it came in.

use super::rope::{Frequencies, Scaling};
use super::{Config, Format, Layer, Linear, Llama, Norms, QkNorm};
use crate::Error;
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;
use supple_tensor::Cpu;
use supple_tensor::kernels::low_bit::iq::Codebook;
use supple_tensor::kernels::low_bit::{DenseMatrix, Matrix, dequantise};
use supple_tensor::kernels::paged_attention::Heads;
use supple_weights::checkpoint::{Checkpoint, RopeLayout, Stored};
use supple_weights::gguf::BlockType;

/// Where weights come from.
pub(super) trait Source {
    /// What errors call it.
    fn name(&self) -> &str;
    /// As a `config.json` of Hugging Face.
    fn config(&self) -> &Value;
    /// How rows of the query and key projections are ordered.
    fn rope(&self) -> RopeLayout;
    /// Whether norms that multiply by `1 + w` have the 1 in the weights.
    fn norms_include_one(&self) -> bool;
    /// Whether there is such a tensor.
    fn contains(&self, name: &str) -> bool;
    /// A tensor by its name.
    fn tensor(&self, name: &str) -> Result<Stored<'_>, Error>;
    /// Says that a tensor was read and is not wanted soon.
    fn release(&self, _name: &str) {}
}

impl Source for Checkpoint {
    fn name(&self) -> &str {
        self.source()
    }

    fn config(&self) -> &Value {
        self.config()
    }

    fn rope(&self) -> RopeLayout {
        self.conventions().rope
    }

    fn norms_include_one(&self) -> bool {
        self.conventions().norms_include_one
    }

    fn contains(&self, name: &str) -> bool {
        self.contains(name)
    }

    fn tensor(&self, name: &str) -> Result<Stored<'_>, Error> {
        Ok(self.tensor(name)?)
    }

    fn release(&self, name: &str) {
        Checkpoint::release(self, name);
    }
}

/// What brings matrices where they are used, in the form that is used there.
pub(super) trait Packer {
    /// A matrix there.
    type Matrix;

    /// A matrix of `rows` rows of `k` weights, of which `bytes` are as many as there must be.
    fn pack(&self, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Result<Self::Matrix, Error>;
}

impl Packer for Cpu {
    type Matrix = Linear;

    fn pack(&self, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Result<Linear, Error> {
        Ok(if format.is_dense() {
            Linear::Dense(DenseMatrix::pack(self, format, rows, k, bytes))
        } else {
            Linear::LowBit(Matrix::pack(self, format, rows, k, bytes))
        })
    }
}

/// What a decoder consists of, its matrices outside of layers being `M`, its layers `L`.
pub(super) struct Parts<M, L> {
    pub config: Config,
    pub frequencies: [Frequencies; 2],
    pub embedding: M,
    pub layers: Vec<L>,
    pub norm: Vec<f32>,
    /// None where the embedding serves.
    pub head: Option<M>,
}

impl<M, L> Parts<M, L> {
    /// Reads them one after the other; `whole` and `place` are given each matrix and layer as soon as it is read.
    pub fn load<R>(
        packer: &impl Packer<Matrix = R>,
        source: &dyn Source,
        context: Option<usize>,
        whole: impl Fn(R) -> Result<M, Error>,
        mut place: impl FnMut(&Config, Layer<R>) -> Result<L, Error>,
    ) -> Result<Parts<M, L>, Error> {
        let config = Config::from_json(source.name(), source.config())?;
        let read = Reader { packer, source, config: &config };
        let hidden = config.hidden;
        let embedding = whole(read.linear("model.embed_tokens.weight", config.vocabulary, hidden)?)?;
        let head = if config.tied || !source.contains("lm_head.weight") {
            None
        } else {
            Some(whole(read.linear("lm_head.weight", config.vocabulary, hidden)?)?)
        };
        let layers =
            (0..config.layers).map(|index| place(&config, read.layer(index)?)).collect::<Result<_, Error>>()?;
        let norm = read.norm("model.norm.weight", hidden)?;
        let context = context.unwrap_or(config.context);
        let divisors = read.divisors(context)?;
        let frequencies = [
            config.rope.frequencies(context, &divisors),
            config.local_rope.as_ref().unwrap_or(&config.rope).frequencies(context, &[]),
        ];
        Ok(Parts { frequencies, embedding, layers, norm, head, config })
    }
}

impl Llama {
    /// Loads and packs a decoder for contexts of up to `context` tokens (the model's own length if not given), which matters
    /// to models that stretch their positions.
    ///
    /// # Errors
    /// [`Error::BadConfig`] and [`Error::BadTensor`] if the file is no decoder known here, and what reading it takes.
    pub fn load(cpu: &Cpu, checkpoint: &Checkpoint, context: Option<usize>) -> Result<Llama, Error> {
        Llama::load_from(cpu, checkpoint, context)
    }

    /// As [`Llama::load`], from anything.
    pub(super) fn load_from(cpu: &Cpu, source: &dyn Source, context: Option<usize>) -> Result<Llama, Error> {
        let Parts { config, frequencies, embedding, layers, norm, head } =
            Parts::load(cpu, source, context, Ok, |_, layer| Ok(layer))?;
        Ok(Llama { cpu: cpu.clone(), frequencies, embedding, layers, norm, head, config })
    }
}

pub(super) struct Reader<'a, P> {
    pub packer: &'a P,
    pub source: &'a dyn Source,
    pub config: &'a Config,
}

/// A tensor whose bytes have a format of the kernels.
pub(super) struct Tensor<'a> {
    shape: Vec<usize>,
    pub format: Format,
    pub bytes: Cow<'a, [u8]>,
}

impl<'a, P: Packer> Reader<'a, P> {
    pub(super) fn bad(&self, name: &str, wanted: impl Into<String>, found: impl Into<String>) -> Error {
        let file = self.source.name().to_owned();
        Error::BadTensor { file, tensor: name.to_owned(), wanted: wanted.into(), found: found.into() }
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'a>, Error> {
        match self.source.tensor(name)? {
            Stored::Blocks { shape, block_type, bytes } => {
                if let Some(format) = Format::ALL.into_iter().find(|format| format.name() == block_type.name()) {
                    return Ok(Tensor { shape, format, bytes });
                }
                let values = self.convert(name, block_type, &bytes, shape.iter().product())?;
                // Sixteen bits are more than any of these formats has.
                let halves = |v: &f32| supple_tensor::kernels::low_bit::f32_to_f16(*v).to_le_bytes();
                let bytes = Cow::Owned(values.iter().flat_map(halves).collect());
                Ok(Tensor { shape, format: Format::F16, bytes })
            }
            Stored::Integers(matrix) => {
                let bytes = matrix.dequantize().iter().flat_map(|v| v.to_le_bytes()).collect();
                Ok(Tensor { shape: vec![matrix.rows, matrix.columns], format: Format::F32, bytes: Cow::Owned(bytes) })
            }
        }
    }

    /// The values of formats that have no kernels of their own.
    fn convert(&self, name: &str, block_type: BlockType, bytes: &[u8], elements: usize) -> Result<Vec<f32>, Error> {
        let Some(codebook) = Codebook::from_name(block_type.name()) else {
            return Err(self.bad(name, "floats or quantised blocks", block_type.name()));
        };
        if block_type.bytes(elements) != Some(bytes.len()) {
            return Err(self.bad(name, format!("{elements} elements"), format!("{} bytes", bytes.len())));
        }
        let mut values = vec![0.0; elements];
        codebook.dequantize(bytes, &mut values);
        Ok(values)
    }

    /// The tensor as a matrix of `rows` rows of `k`, with its bytes compared with that.
    pub(super) fn matrix(&self, name: &str, rows: usize, k: usize) -> Result<Tensor<'a>, Error> {
        let tensor = self.tensor(name)?;
        if tensor.shape != [rows, k] {
            return Err(self.bad(name, format!("{:?}", [rows, k]), format!("{:?}", tensor.shape)));
        }
        let wanted = tensor.format.row_bytes(k).and_then(|bytes| bytes.checked_mul(rows));
        if wanted != Some(tensor.bytes.len()) {
            let found = format!("{} bytes of {}", tensor.bytes.len(), tensor.format.name());
            return Err(self.bad(name, format!("{rows} rows of {k}"), found));
        }
        Ok(tensor)
    }

    fn linear(&self, name: &str, rows: usize, k: usize) -> Result<P::Matrix, Error> {
        let tensor = self.matrix(name, rows, k)?;
        let packed = self.packer.pack(tensor.format, rows, k, &tensor.bytes);
        self.source.release(name);
        packed
    }

    /// Some rows of a matrix of `rows` rows.
    fn rows(&self, name: &str, rows: usize, k: usize, range: Range<usize>) -> Result<P::Matrix, Error> {
        let tensor = self.matrix(name, rows, k)?;
        let size = tensor.bytes.len() / rows;
        let part = &tensor.bytes[range.start * size..range.end * size];
        self.packer.pack(tensor.format, range.len(), k, part)
    }

    /// The projection of queries or keys; rows that turn together are brought half a head apart.
    fn rotated(&self, name: &str, heads: usize, k: usize) -> Result<P::Matrix, Error> {
        let dim = self.config.heads.head_dim;
        let rows = heads * dim;
        if self.source.rope() != RopeLayout::Interleaved {
            return self.linear(name, rows, k);
        }
        let tensor = self.matrix(name, rows, k)?;
        let size = tensor.bytes.len() / rows;
        let mut bytes = Vec::with_capacity(tensor.bytes.len());
        for row in 0..rows {
            let from = deinterleaved(row, dim, self.config.rope.dim);
            bytes.extend_from_slice(&tensor.bytes[from * size..][..size]);
        }
        self.source.release(name);
        self.packer.pack(tensor.format, rows, k, &bytes)
    }

    /// A vector as floats.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name)?;
        if tensor.shape.iter().product::<usize>() != len || tensor.format.row_bytes(len) != Some(tensor.bytes.len()) {
            return Err(self.bad(name, format!("[{len}]"), format!("{:?} of {}", tensor.shape, tensor.format.name())));
        }
        let mut values = vec![0.0; len];
        dequantise(tensor.format, &tensor.bytes, &mut values);
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.bad(name, "finite numbers", format!("holds {value}"))),
            None => Ok(values),
        }
    }

    fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let mut weight = self.vector(name, len)?;
        if self.config.norm_plus_one && !self.source.norms_include_one() {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    /// The bias of a projection, or none; `rotated` for those of queries and keys.
    fn bias(&self, name: &str, len: usize, rotated: bool) -> Result<Vec<f32>, Error> {
        if !self.source.contains(name) {
            return Ok(Vec::new());
        }
        let bias = self.vector(name, len)?;
        if !rotated || self.source.rope() != RopeLayout::Interleaved {
            return Ok(bias);
        }
        let (dim, turned) = (self.config.heads.head_dim, self.config.rope.dim);
        Ok((0..len).map(|row| bias[deinterleaved(row, dim, turned)]).collect())
    }

    fn layer(&self, index: usize) -> Result<Layer<P::Matrix>, Error> {
        let config = self.config;
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let (hidden, wide) = (config.hidden, config.intermediate);
        let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let own = |part: &str| self.norm(&name(part), hidden);
        let absent = || Ok::<_, Error>(Vec::new());

        let fused = name("self_attn.qkv_proj.weight");
        let [q, k, v] = if self.source.contains(&fused) {
            let all = q_rows + 2 * kv_rows;
            let part = |range| self.rows(&fused, all, hidden, range);
            [part(0..q_rows)?, part(q_rows..q_rows + kv_rows)?, part(q_rows + kv_rows..all)?]
        } else {
            [
                self.rotated(&name("self_attn.q_proj.weight"), heads, hidden)?,
                self.rotated(&name("self_attn.k_proj.weight"), kv_heads, hidden)?,
                self.linear(&name("self_attn.v_proj.weight"), kv_rows, hidden)?,
            ]
        };
        let fused = name("mlp.gate_up_proj.weight");
        let [gate, up] = if self.source.contains(&fused) {
            [self.rows(&fused, 2 * wide, hidden, 0..wide)?, self.rows(&fused, 2 * wide, hidden, wide..2 * wide)?]
        } else {
            [
                self.linear(&name("mlp.gate_proj.weight"), wide, hidden)?,
                self.linear(&name("mlp.up_proj.weight"), wide, hidden)?,
            ]
        };
        let (q_norm, k_norm) = match config.qk_norm {
            QkNorm::None => (0, 0),
            QkNorm::Head => (head_dim, head_dim),
            QkNorm::All => (q_rows, kv_rows),
        };
        let qk = |part: &str, len: usize| if len == 0 { absent() } else { self.norm(&name(part), len) };
        let after = config.norms != Norms::Before;
        Ok(Layer {
            norm: if config.norms == Norms::After { absent()? } else { own("input_layernorm.weight")? },
            q,
            k,
            v,
            o: self.linear(&name("self_attn.o_proj.weight"), hidden, q_rows)?,
            biases: [
                self.bias(&name("self_attn.q_proj.bias"), q_rows, true)?,
                self.bias(&name("self_attn.k_proj.bias"), kv_rows, true)?,
                self.bias(&name("self_attn.v_proj.bias"), kv_rows, false)?,
            ],
            q_norm: qk("self_attn.q_norm.weight", q_norm)?,
            k_norm: qk("self_attn.k_norm.weight", k_norm)?,
            after_attention: if after { own("post_attention_layernorm.weight")? } else { absent()? },
            feed_norm: match config.norms {
                Norms::Before => own("post_attention_layernorm.weight")?,
                Norms::After => absent()?,
                Norms::Both => own("pre_feedforward_layernorm.weight")?,
            },
            gate,
            up,
            down: self.linear(&name("mlp.down_proj.weight"), hidden, wide)?,
            after_feed: if after { own("post_feedforward_layernorm.weight")? } else { absent()? },
        })
    }

    /// Factors of frequencies that the file holds as a tensor.
    pub(super) fn divisors(&self, context: usize) -> Result<Vec<f32>, Error> {
        let long = matches!(&self.config.rope.scaling, Scaling::Long { original, .. } if context > *original);
        let names = [
            "model.rope_freqs.weight",
            if long { "model.rope_factors_long.weight" } else { "model.rope_factors_short.weight" },
        ];
        for name in names {
            if self.source.contains(name) {
                let divisors = self.vector(name, self.config.rope.dim / 2)?;
                if divisors.iter().any(|&d| d <= 0.0) {
                    return Err(self.bad(name, "factors above zero", "holds others"));
                }
                return Ok(divisors);
            }
        }
        Ok(Vec::new())
    }
}

/// Where row `row` of a projection is when elements `2i` and `2i + 1` of a head turn together, not `i` and `i + turned / 2`.
pub(super) fn deinterleaved(row: usize, head_dim: usize, turned: usize) -> usize {
    let (head, i) = (row / head_dim, row % head_dim);
    let half = turned / 2;
    let from = match i {
        _ if i < half => 2 * i,
        _ if i < turned => 2 * (i - half) + 1,
        _ => i,
    };
    head * head_dim + from
}
