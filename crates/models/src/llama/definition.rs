//! A decoder as a function of tensors, for training: the network at the head of [`llama`](super), for every family, on the names of
//! Hugging Face's checkpoints.
//!
//! Tokens are `u32`, `[batch, length]`; a sequence shorter than the row has anything behind it: attention looks back only, so
//! that what is behind is seen by nobody, and its targets do not count. So rows need neither masks nor boundaries, and every
//! step of a run has one shape, which a GPU can replay.
//!
//! Weights stay in `f32` (frozen ones may be of 16 bits), activations are in the type of [`Positions`]. Weights of
//! normalisations are as files have them: where the family adds 1 to them, so does the network.

use super::adapter::Adapter;
use super::config::{Config, Norms, QkNorm};
use crate::{Error, Network, Parameters};
use std::collections::BTreeMap;
use std::sync::Arc;
use supple_tensor::kernels::paged_attention::Heads;
use supple_tensor::ops::{self, Activation, Rotation, Scores};
use supple_tensor::{DType, Device, Random, Tensor, checkpoint};

type TensorError = supple_tensor::Error;

/// A decoder that can be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Shape and particulars.
    pub config: Config,
    /// Whether projections to queries, keys and values have biases.
    pub biases: bool,
    /// Whether the last product has weights of its own.
    pub head: bool,
    /// Further factors of frequencies that a file holds, or empty.
    pub divisors: Vec<f32>,
    /// What is trained in place of the weights, if that is not the weights.
    pub adapter: Option<Adapter>,
    /// Whether what a layer computes is dropped and computed again on the way back: memory for a third more computation.
    pub recompute: bool,
}

/// What depends on the place in a sequence alone, made once for all passes over rows of one length.
#[derive(Clone, Debug)]
pub struct Positions {
    dtype: DType,
    length: usize,
    /// Of layers that see everything, and of those with a window.
    rotations: [Rotation; 2],
    /// What scores are hidden by; none where a kernel knows.
    masks: [Option<Tensor>; 2],
}

impl Positions {
    /// Tokens of a row.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Definition {
    /// A decoder with what its family has.
    pub fn new(config: Config) -> Definition {
        let (biases, head) = (config.family == "qwen2", !config.tied);
        Definition { config, biases, head, divisors: Vec::new(), adapter: None, recompute: false }
    }

    /// What passes over rows of `length` tokens need, computed in `dtype`: `f32` on the CPU.
    ///
    /// # Errors
    /// If the device computes in no such type, or memory is exhausted.
    pub fn positions(&self, device: &Device, dtype: DType, length: usize) -> Result<Positions, Error> {
        let on_cpu = matches!(device, Device::Cpu(_));
        let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        if !float || (on_cpu && dtype != DType::F32) {
            return Err(TensorError::DType { op: "decoder", wanted: DType::F32, found: dtype }.into());
        }
        let config = &self.config;
        let ropes = [&config.rope, config.local_rope.as_ref().unwrap_or(&config.rope)];
        let divisors = [&self.divisors[..], &[]];
        let rotation = |kind: usize| {
            let frequencies = ropes[kind].frequencies(length, divisors[kind]);
            let angles = frequencies.len();
            let [mut cosines, mut sines] = [(); 2].map(|()| vec![0.0; length * angles]);
            for (at, (cos, sin)) in cosines.chunks_exact_mut(angles).zip(sines.chunks_exact_mut(angles)).enumerate() {
                frequencies.angles(at, cos, sin);
            }
            Rotation::new(device, [length, angles], &cosines, &sines)
        };
        // A kernel for attention knows no windows and no caps, and computes gradients in 16 bits.
        let fused =
            !on_cpu && dtype != DType::F32 && config.attention_cap.is_none() && config.heads.head_dim.is_multiple_of(8);
        let mask = |window: Option<usize>| match window.filter(|&window| window < length) {
            None if fused => Ok(None),
            window => ops::window_mask(device, dtype, [length; 2], window).map(Some),
        };
        let masks = [mask(None)?, if config.local.contains(&true) { mask(config.window)? } else { None }];
        Ok(Positions { dtype, length, rotations: [rotation(0)?, rotation(1)?], masks })
    }

    /// What goes into the first layer for `tokens`: `[batch, length, hidden]`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, on the CPU (a GPU makes NaN of it), or the embeddings are missing.
    pub fn embed(&self, parameters: &Parameters, tokens: &Tensor, positions: &Positions) -> Result<Tensor, Error> {
        let table = parameters.get(&self.name(), EMBEDDING)?;
        let x = ops::embedding(table, tokens)?.to_dtype(positions.dtype)?;
        Ok(if self.config.embedding_scale == 1.0 { x } else { ops::scale(&x, self.config.embedding_scale)? })
    }

    /// Layer `index` of `x`, `[batch, length, hidden]`: what methods that go layer by layer call.
    ///
    /// # Errors
    /// If a parameter is missing, or shapes do not fit.
    pub fn layer(
        &self,
        index: usize,
        parameters: &Parameters,
        x: &Tensor,
        positions: &Positions,
    ) -> Result<Tensor, Error> {
        let layer = self.tensors(index, parameters)?;
        if !self.recompute {
            return Ok(layer.forward(x, positions)?);
        }
        let positions = positions.clone();
        Ok(checkpoint(&[x], move |x| layer.forward(&x[0], &positions))?)
    }

    /// The last layer's result, normalised: `[batch, length, hidden]`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed) and [`layer`](Self::layer).
    pub fn hidden(&self, parameters: &Parameters, tokens: &Tensor, positions: &Positions) -> Result<Tensor, Error> {
        let mut x = self.embed(parameters, tokens, positions)?;
        for index in 0..self.config.layers {
            x = self.layer(index, parameters, &x, positions)?;
        }
        Ok(ops::rms_norm(&x, &self.gain(parameters, "model.norm.weight")?, self.config.epsilon)?)
    }

    /// Logits, `[batch, length, vocabulary]`.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden).
    pub fn logits(&self, parameters: &Parameters, tokens: &Tensor, positions: &Positions) -> Result<Tensor, Error> {
        let hidden = self.hidden(parameters, tokens, positions)?;
        let logits = ops::linear(&hidden, self.last(parameters)?, None, Activation::Identity)?;
        Ok(match self.config.logit_cap {
            Some(cap) => ops::soft_cap(&logits, cap)?,
            None => logits,
        })
    }

    /// The sum of `-log p(target)` over targets (`u32`, of the shape of `tokens`) that are not [`ops::IGNORED`], in f32.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden), or if a target is not in the vocabulary.
    pub fn loss(
        &self,
        parameters: &Parameters,
        tokens: &Tensor,
        targets: &Tensor,
        positions: &Positions,
    ) -> Result<Tensor, Error> {
        let hidden = self.hidden(parameters, tokens, positions)?;
        let rows = targets.elements();
        let (flat, targets) = (hidden.reshape(&[rows, self.config.hidden])?, targets.reshape(&[rows])?);
        Ok(ops::linear_cross_entropy_sum(&flat, self.last(parameters)?, &targets, self.config.logit_cap)?)
    }

    /// Weights of the last product.
    fn last<'a>(&self, parameters: &'a Parameters) -> Result<&'a Tensor, Error> {
        parameters.get(&self.name(), if self.head { HEAD } else { EMBEDDING })
    }

    /// The weight of a normalisation, with the 1 that a family adds.
    fn gain(&self, parameters: &Parameters, name: &str) -> Result<Tensor, Error> {
        let weight = parameters.get(&self.name(), name)?;
        Ok(if self.config.norm_plus_one { ops::add_scalar(weight, 1.0)? } else { weight.clone() })
    }

    /// The tensors of a layer.
    fn tensors(&self, index: usize, parameters: &Parameters) -> Result<Layer, Error> {
        let network = self.name();
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let projection = |part: &str, bias: bool| -> Result<Projection, Error> {
            let get = |ending: &str| parameters.get(&network, &name(&format!("{part}.{ending}")));
            let adapter = match &self.adapter {
                Some(adapter) if adapter.adapts(part) => {
                    Some((get("lora_A.weight")?.clone(), get("lora_B.weight")?.clone(), adapter.scale()))
                }
                _ => None,
            };
            let bias = bias.then(|| get("bias").cloned()).transpose()?;
            Ok(Projection { weight: get("weight")?.clone(), bias, adapter })
        };
        let norm = |wanted: bool, part: &str| wanted.then(|| self.gain(parameters, &name(part))).transpose();
        let norms = self.config.norms;
        let qk_norm = self.config.qk_norm != QkNorm::None;
        Ok(Layer {
            config: Arc::new(self.config.clone()),
            kind: usize::from(self.config.local[index]),
            norm: norm(norms != Norms::After, "input_layernorm.weight")?,
            q: projection("self_attn.q_proj", self.biases)?,
            k: projection("self_attn.k_proj", self.biases)?,
            v: projection("self_attn.v_proj", self.biases)?,
            o: projection("self_attn.o_proj", false)?,
            q_norm: norm(qk_norm, "self_attn.q_norm.weight")?,
            k_norm: norm(qk_norm, "self_attn.k_norm.weight")?,
            after_attention: norm(norms != Norms::Before, "post_attention_layernorm.weight")?,
            feed_norm: match norms {
                Norms::Before => norm(true, "post_attention_layernorm.weight")?,
                Norms::After => None,
                Norms::Both => norm(true, "pre_feedforward_layernorm.weight")?,
            },
            gate: projection("mlp.gate_proj", false)?,
            up: projection("mlp.up_proj", false)?,
            down: projection("mlp.down_proj", false)?,
            after_feed: norm(norms != Norms::Before, "post_feedforward_layernorm.weight")?,
        })
    }

    /// Names of the projections of a layer after `model.layers.N.`, with outputs and inputs.
    pub fn projections(&self) -> [(&'static str, [usize; 2]); 7] {
        let Heads { heads, kv_heads, head_dim } = self.config.heads;
        let (hidden, wide) = (self.config.hidden, self.config.intermediate);
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        [
            ("self_attn.q_proj", [q, hidden]),
            ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]),
            ("self_attn.o_proj", [hidden, q]),
            ("mlp.gate_proj", [wide, hidden]),
            ("mlp.up_proj", [wide, hidden]),
            ("mlp.down_proj", [hidden, wide]),
        ]
    }

    /// Names and shapes of what an adapter adds.
    pub fn adapter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Some(adapter) = &self.adapter else { return Vec::new() };
        let mut shapes = Vec::new();
        for index in 0..self.config.layers {
            for (part, [outputs, inputs]) in self.projections().into_iter().filter(|(part, _)| adapter.adapts(part)) {
                let name = format!("model.layers.{index}.{part}");
                shapes.push((format!("{name}.lora_A.weight"), vec![adapter.rank, inputs]));
                shapes.push((format!("{name}.lora_B.weight"), vec![outputs, adapter.rank]));
            }
        }
        shapes
    }
}

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// Deviation of fresh weights, as GPT-2 has it.
const DEVIATION: f32 = 0.02;

impl Network for Definition {
    fn name(&self) -> String {
        self.config.family.clone()
    }

    /// Without those of an adapter: [`adapter_shapes`](Self::adapter_shapes).
    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let config = &self.config;
        let hidden = config.hidden;
        let mut shapes = vec![(EMBEDDING.to_owned(), vec![config.vocabulary, hidden])];
        for index in 0..config.layers {
            let mut add = |part: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{index}.{part}"), shape.to_vec()));
            };
            for (i, (part, shape)) in self.projections().into_iter().enumerate() {
                add(&format!("{part}.weight"), &shape);
                if self.biases && i < 3 {
                    add(&format!("{part}.bias"), &shape[..1]);
                }
            }
            let Heads { heads, kv_heads, head_dim } = config.heads;
            let qk = match config.qk_norm {
                QkNorm::None => None,
                QkNorm::Head => Some([head_dim; 2]),
                QkNorm::All => Some([heads * head_dim, kv_heads * head_dim]),
            };
            if let Some([q, k]) = qk {
                add("self_attn.q_norm.weight", &[q]);
                add("self_attn.k_norm.weight", &[k]);
            }
            let norms: &[&str] = match config.norms {
                Norms::Before => &["input_layernorm", "post_attention_layernorm"],
                Norms::After => &["post_attention_layernorm", "post_feedforward_layernorm"],
                Norms::Both => &[
                    "input_layernorm",
                    "post_attention_layernorm",
                    "pre_feedforward_layernorm",
                    "post_feedforward_layernorm",
                ],
            };
            norms.iter().for_each(|norm| add(&format!("{norm}.weight"), &[hidden]));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.head {
            shapes.push((HEAD.to_owned(), vec![config.vocabulary, hidden]));
        }
        shapes
    }

    /// Logits of `x`, tokens `[batch, length]`, in `f32`.
    fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, Error> {
        let length = x.shape().last().copied().unwrap_or(0);
        self.logits(parameters, x, &self.positions(x.device(), DType::F32, length)?)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("format".to_owned(), "pt".to_owned())])
    }

    /// Normal with a deviation of 0.02, what goes to the residual stream with less the deeper the network (Radford et al., 2019);
    /// normalisations do nothing at first, and biases are zero.
    fn initialise(&self, device: &Device, seed: u64) -> Result<Parameters, Error> {
        let (random, mut parameters) = (Random::new(seed), Parameters::default());
        let one = if self.config.norm_plus_one { 0.0 } else { 1.0 };
        let deep = DEVIATION / (2.0 * self.config.layers as f32).sqrt();
        for (i, (name, shape)) in self.shapes().into_iter().enumerate() {
            let count = shape.iter().product();
            let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let values = match &shape[..] {
                [_] if name.ends_with(".bias") => vec![0.0; count],
                [_] => vec![one; count],
                _ => random.part(i as u64).normal(count, if residual { deep } else { DEVIATION }),
            };
            parameters.insert(&name, Tensor::from_slice(device, &values, &shape)?);
        }
        Ok(parameters)
    }
}

/// A linear layer, and what an adapter adds to it.
#[derive(Clone, Debug)]
struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<(Tensor, Tensor, f32)>,
}

impl Projection {
    fn of(&self, x: &Tensor) -> Result<Tensor, TensorError> {
        let y = ops::linear(x, &self.weight, self.bias.as_ref(), Activation::Identity)?;
        let Some((down, up, factor)) = &self.adapter else { return Ok(y) };
        let low = ops::linear(x, down, None, Activation::Identity)?;
        ops::add(&y, &ops::linear(&ops::scale(&low, *factor)?, up, None, Activation::Identity)?)
    }
}

/// A layer's tensors. What a family does without is none.
#[derive(Clone, Debug)]
struct Layer {
    config: Arc<Config>,
    /// 1 with a window.
    kind: usize,
    norm: Option<Tensor>,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    after_attention: Option<Tensor>,
    feed_norm: Option<Tensor>,
    gate: Projection,
    up: Projection,
    down: Projection,
    after_feed: Option<Tensor>,
}

impl Layer {
    fn forward(&self, x: &Tensor, positions: &Positions) -> Result<Tensor, TensorError> {
        let attended = self.attention(&self.normed(x, self.norm.as_ref())?, positions)?;
        let x = ops::add(x, &self.normed(&attended, self.after_attention.as_ref())?)?;
        let normed = self.normed(&x, self.feed_norm.as_ref())?;
        let gated = ops::gated(&self.gate.of(&normed)?, &self.up.of(&normed)?, self.config.gate)?;
        ops::add(&x, &self.normed(&self.down.of(&gated)?, self.after_feed.as_ref())?)
    }

    fn normed(&self, x: &Tensor, weight: Option<&Tensor>) -> Result<Tensor, TensorError> {
        weight.map_or_else(|| Ok(x.clone()), |weight| ops::rms_norm(x, weight, self.config.epsilon))
    }

    fn attention(&self, x: &Tensor, positions: &Positions) -> Result<Tensor, TensorError> {
        let Heads { heads, kv_heads, head_dim } = self.config.heads;
        let (batch, length) = (x.shape()[0], positions.length);
        // `[batch, heads, length, head_dim]`, as a view.
        let placed = |projection: &Projection, heads: usize, norm: Option<&Tensor>, turned: bool| {
            let mut y = projection.of(x)?;
            if self.config.qk_norm == QkNorm::All {
                y = self.normed(&y, norm)?;
            }
            let mut y = y.reshape(&[batch, length, heads, head_dim])?;
            if self.config.qk_norm == QkNorm::Head {
                y = self.normed(&y, norm)?;
            }
            if turned {
                y = ops::rotate(&y, &positions.rotations[self.kind])?;
            }
            y.transpose(1, 2)
        };
        let q = placed(&self.q, heads, self.q_norm.as_ref(), true)?;
        let k = placed(&self.k, kv_heads, self.k_norm.as_ref(), true)?;
        let v = placed(&self.v, kv_heads, None, false)?;
        let mask = positions.masks[self.kind].as_ref();
        let how = Scores { scale: self.config.query_scale, soft_cap: self.config.attention_cap, mask };
        let y = ops::attention_with(&q, &k, &v, mask.is_none(), how)?;
        self.o.of(&y.transpose(1, 2)?.reshape(&[batch, length, heads * head_dim])?)
    }
}
