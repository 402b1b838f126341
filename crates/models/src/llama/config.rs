//! What differs between the families of decoders, as data. Read from a `config.json` of Hugging Face, or from what stands for
//! it in other containers.

use super::rope::{Rope, Scaling};
use crate::Error;
use serde_json::Value;
use supple_tensor::kernels::decoder::Gate;
use supple_tensor::kernels::paged_attention::{Heads, MAX_HEAD};

/// Where normalisations stand in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and before the feed-forward part: most families.
    Before,
    /// After them: OLMo 2.
    After,
    /// Before and after: Gemma 2 and 3.
    Both,
}

/// What of queries and keys is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Nothing.
    None,
    /// Each head: Qwen 3, Gemma 3.
    Head,
    /// All heads together: OLMo 2.
    All,
}

/// A decoder's shape and what is particular to its family.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, as `model_type` of a `config.json` names it.
    pub family: String,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: Heads,
    /// Added to the mean of squares in normalisations.
    pub epsilon: f32,
    /// Positions of layers that see everything.
    pub rope: Rope,
    /// Positions of layers with a window, where they differ.
    pub local_rope: Option<Rope>,
    /// Most tokens that it was made for.
    pub context: usize,
    /// Queries are multiplied by this.
    pub query_scale: f32,
    /// Scores of attention are softly capped at this.
    pub attention_cap: Option<f32>,
    /// Logits are softly capped at this.
    pub logit_cap: Option<f32>,
    /// The window of layers that have one.
    pub window: Option<usize>,
    /// Whether each layer has the window; as many as layers.
    pub local: Vec<bool>,
    /// Where normalisations stand.
    pub norms: Norms,
    /// What of queries and keys is normalised.
    pub qk_norm: QkNorm,
    /// What gates the feed-forward part.
    pub gate: Gate,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Whether 1 is added to weights of normalisations, where the container has not done it.
    pub norm_plus_one: bool,
    /// Whether the last product uses the embeddings.
    pub tied: bool,
}

/// Families that are known here.
pub const FAMILIES: [&str; 11] =
    ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3", "olmo2", "smollm", "mistral3"];

/// A value of a `config.json`, with the errors that it takes.
struct Reader<'a> {
    file: &'a str,
    config: &'a Value,
}

impl<'a> Reader<'a> {
    fn bad(&self, problem: String) -> Error {
        Error::BadConfig { file: self.file.to_owned(), problem }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && *v >= 0.0).map(|v| v as u64));
        match number {
            Some(number) if number <= 1 << 31 => Ok(Some(number as usize)),
            _ if value.is_array() => {
                Err(self.bad(format!("{key} differs from layer to layer, which is not supported")))
            }
            _ => Err(self.bad(format!("{key} is {value}, not a whole number below 2^31"))),
        }
    }

    /// A number above zero.
    fn wanted(&self, key: &str) -> Result<usize, Error> {
        match self.size(key)? {
            Some(0) => Err(self.bad(format!("{key} is 0"))),
            Some(size) => Ok(size),
            None => Err(self.bad(format!("{key} is missing"))),
        }
    }

    fn real(&self, key: &str) -> Result<Option<f32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (number as f32).is_finite() => Ok(Some(number as f32)),
            _ => Err(self.bad(format!("{key} is {value}, not a number"))),
        }
    }

    fn positive(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.real(key)? {
            Some(value) if value <= 0.0 => Err(self.bad(format!("{key} is {value}"))),
            value => Ok(value),
        }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }
}

impl Config {
    /// Reads a `config.json`; `file` is what errors call it.
    ///
    /// # Errors
    /// [`Error::BadConfig`] if the family is not known, or a number is missing, out of bounds or contradicts another.
    pub fn from_json(file: &str, config: &Value) -> Result<Config, Error> {
        // Models of text and pictures keep the decoder's part apart.
        let config = config.get("text_config").filter(|part| part.is_object()).unwrap_or(config);
        let read = Reader { file, config };
        let family = read.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !FAMILIES.contains(&family.as_str()) {
            let known = "llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3 and olmo2";
            return Err(read.bad(format!("decoders of the family {family:?} are not known; known are {known}")));
        }
        let gemma = family.starts_with("gemma");
        let gemma3 = family.starts_with("gemma3");
        let hidden = read.wanted("hidden_size")?;
        let layers = read.wanted("num_hidden_layers")?;
        let head_count = read.wanted("num_attention_heads")?;
        let kv_heads = read.size("num_key_value_heads")?.unwrap_or(head_count);
        let head_dim = match read.size("head_dim")? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(head_count) => hidden / head_count,
            None => return Err(read.bad(format!("{head_count} heads do not divide a width of {hidden}"))),
        };
        let sound = kv_heads > 0 && head_count.is_multiple_of(kv_heads) && (2..=MAX_HEAD).contains(&head_dim);
        if !sound || head_dim % 2 != 0 || layers > 4096 || head_count > 4096 || hidden > 1 << 20 {
            let found =
                format!("{layers} layers of {hidden}, {head_count} heads on {kv_heads}, of {head_dim} elements");
            return Err(read.bad(format!("cannot run {found}; heads have an even number of elements up to {MAX_HEAD}")));
        }
        let heads = Heads { heads: head_count, kv_heads, head_dim };
        let context = read.wanted("max_position_embeddings")?;

        let (rope, local_rope) = ropes(&read, gemma3, head_dim, context)?;
        let window = read.size("sliding_window")?.filter(|&window| window > 0);
        let windows = read.flag("use_sliding_window").unwrap_or(!family.starts_with("qwen"));
        let window = window.filter(|_| windows);
        let kinds = read.get("layer_types").and_then(Value::as_array);
        let pattern = read.size("sliding_window_pattern")?.unwrap_or(6).max(1);
        let local = (0..layers)
            .map(|layer| match (window, kinds.and_then(|kinds| kinds.get(layer))) {
                (None, _) => false,
                (_, Some(kind)) => kind.as_str() == Some("sliding_attention"),
                _ if gemma3 => (layer + 1) % pattern != 0,
                _ if family == "gemma2" => layer % 2 == 0,
                _ => true,
            })
            .collect();

        let scalar = read.positive("query_pre_attn_scalar")?.filter(|_| gemma).unwrap_or(head_dim as f32);
        let activation = ["hidden_activation", "hidden_act"].into_iter().find_map(|key| read.get(key)?.as_str());
        let gate = match activation.unwrap_or("silu") {
            "silu" | "swish" => Gate::Silu,
            "gelu_pytorch_tanh" | "gelu_new" => Gate::GeluTanh,
            // Gemma's first files say "gelu" and mean the other.
            "gelu" if gemma => Gate::GeluTanh,
            other => return Err(read.bad(format!("the activation {other:?} is not supported"))),
        };
        Ok(Config {
            vocabulary: read.wanted("vocab_size")?,
            hidden,
            intermediate: read.wanted("intermediate_size")?,
            layers,
            heads,
            epsilon: read.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope,
            local_rope,
            context,
            query_scale: 1.0 / scalar.sqrt(),
            attention_cap: read.positive("attn_logit_softcapping")?.filter(|_| gemma),
            logit_cap: read.positive("final_logit_softcapping")?.filter(|_| gemma),
            window,
            local,
            norms: match family.as_str() {
                "olmo2" => Norms::After,
                _ if gemma => Norms::Both,
                _ => Norms::Before,
            },
            qk_norm: match family.as_str() {
                "olmo2" => QkNorm::All,
                "qwen3" => QkNorm::Head,
                _ if gemma3 => QkNorm::Head,
                _ => QkNorm::None,
            },
            gate,
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            norm_plus_one: gemma,
            tied: read.flag("tie_word_embeddings").unwrap_or(gemma),
            family,
        })
    }
}

/// Positions of the layers that see everything and, where they differ, of those with a window.
fn ropes(read: &Reader<'_>, gemma3: bool, head_dim: usize, context: usize) -> Result<(Rope, Option<Rope>), Error> {
    // Newer files have all of it in `rope_parameters`, by kind of layer where kinds differ.
    let parameters = read.get("rope_parameters");
    let of_kind = |kind: &str| parameters.and_then(|all| all.get(kind)).filter(|part| part.is_object());
    let scaling = of_kind("full_attention").or(parameters).or_else(|| read.get("rope_scaling"));
    let part = Reader { file: read.file, config: scaling.unwrap_or(&Value::Null) };
    let theta = match part.positive("rope_theta")? {
        Some(theta) => theta,
        None => read.positive("rope_theta")?.unwrap_or(if gemma3 { 1e6 } else { 1e4 }),
    };
    let partial = part.positive("partial_rotary_factor")?.or(read.positive("partial_rotary_factor")?).unwrap_or(1.0);
    let dim = (head_dim as f32 * partial) as usize / 2 * 2;
    if dim == 0 || dim > head_dim {
        return Err(read.bad(format!("positions turn {dim} of {head_dim} elements of a head")));
    }
    let rope = Rope { theta, dim, scaling: scaling_of(read, &part, context)? };
    if !gemma3 {
        return Ok((rope, None));
    }
    let local = match of_kind("sliding_attention") {
        Some(part) => Reader { file: read.file, config: part }.positive("rope_theta")?,
        None => read.positive("rope_local_base_freq")?,
    };
    Ok((rope, Some(Rope { theta: local.unwrap_or(1e4), dim, scaling: Scaling::None })))
}

fn scaling_of(read: &Reader<'_>, part: &Reader<'_>, context: usize) -> Result<Scaling, Error> {
    let kind = ["rope_type", "type"].into_iter().find_map(|key| part.get(key)?.as_str()).unwrap_or("default");
    let factor = || {
        part.positive("factor")?.ok_or_else(|| part.bad(format!("the scaling {kind:?} of positions needs a factor")))
    };
    let original = match part.size("original_max_position_embeddings")? {
        Some(length) => Some(length),
        None => read.size("original_max_position_embeddings")?,
    };
    Ok(match kind {
        "default" | "none" | "mrope" => Scaling::None,
        "linear" => Scaling::Linear { factor: factor()? },
        "dynamic" | "ntk" => Scaling::Ntk { factor: factor()?, original: original.unwrap_or(context) },
        "llama3" => Scaling::Llama3 {
            factor: factor()?,
            low: part.positive("low_freq_factor")?.unwrap_or(1.0),
            high: part.positive("high_freq_factor")?.unwrap_or(4.0),
            original: original.unwrap_or(8192),
        },
        "yarn" => {
            let factor = factor()?;
            let mscale = |key| part.positive(key);
            let attention = match (part.positive("attention_factor")?, mscale("mscale")?, mscale("mscale_all_dim")?) {
                (Some(attention), ..) => attention,
                (None, Some(one), Some(all)) => yarn_scale(factor, one) / yarn_scale(factor, all),
                _ => yarn_scale(factor, 1.0),
            };
            Scaling::Yarn {
                factor,
                original: original.unwrap_or(context),
                attention,
                fast: part.positive("beta_fast")?.unwrap_or(32.0),
                slow: part.positive("beta_slow")?.unwrap_or(1.0),
                truncate: part.flag("truncate").unwrap_or(true),
            }
        }
        "longrope" | "su" => {
            let list = |key: &str| -> Vec<f32> {
                let all = part.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                all.iter().filter_map(|v| v.as_f64().map(|v| v as f32)).collect()
            };
            let original = original.unwrap_or(context);
            let factor = match part.positive("factor")? {
                Some(factor) if read.get("original_max_position_embeddings").is_none() => factor,
                _ => context as f32 / original.max(1) as f32,
            };
            let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f32).ln()).sqrt() };
            Scaling::Long {
                short: list("short_factor"),
                long: list("long_factor"),
                original,
                attention: part.positive("attention_factor")?.unwrap_or(usual),
            }
        }
        other => return Err(read.bad(format!("the scaling {other:?} of positions is not supported"))),
    })
}

fn yarn_scale(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
