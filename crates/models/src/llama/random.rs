//! Weights that are made up, for measuring the speed of shapes whose files are not at hand.
//!
//! Scales keep activations finite; what such a model says means nothing. Values repeat every few thousand blocks, which no kernel
//! can make use of.

use super::load::Source;
use super::{Config, Format, QkNorm};
use crate::Error;
use serde_json::{Value, json};
use std::borrow::Cow;
use supple_weights::checkpoint::{RopeLayout, Stored};
use supple_weights::gguf::BlockType;

/// Shapes that are known by name.
pub const SHAPES: [&str; 6] =
    ["llama-3.1-8b", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-7b", "mistral-7b", "smollm2-135m"];

/// Weights that are made up as they are asked for.
#[derive(Clone, Debug)]
pub struct Random {
    name: String,
    config: Value,
    parsed: Config,
    format: Format,
    /// Some thousands of blocks.
    pattern: Vec<u8>,
}

/// Hidden size, intermediate size, layers, heads, heads of keys, elements of a head, vocabulary, whether tied, and base.
type Shape = (usize, usize, usize, usize, usize, usize, usize, bool, f64);

fn shape(name: &str) -> Option<(&'static str, Shape)> {
    Some(match name {
        "llama-3.1-8b" => ("llama", (4096, 14336, 32, 32, 8, 128, 128_256, false, 5e5)),
        "llama-3.2-1b" => ("llama", (2048, 8192, 16, 32, 8, 64, 128_256, true, 5e5)),
        "llama-3.2-3b" => ("llama", (3072, 8192, 28, 24, 8, 128, 128_256, true, 5e5)),
        "qwen2.5-7b" => ("qwen2", (3584, 18944, 28, 28, 4, 128, 152_064, false, 1e6)),
        "mistral-7b" => ("mistral", (4096, 14336, 32, 32, 8, 128, 32_768, false, 1e6)),
        "smollm2-135m" => ("llama", (576, 1536, 30, 9, 3, 64, 49_152, true, 1e5)),
        _ => return None,
    })
}

impl Random {
    /// Weights of one of [`SHAPES`] with matrices in `format`; in 16 bits where rows are no whole blocks.
    ///
    /// # Errors
    /// [`Error::BadConfig`] for another name.
    pub fn new(name: &str, format: Format) -> Result<Random, Error> {
        let Some((family, (hidden, wide, layers, heads, kv_heads, head_dim, vocabulary, tied, theta))) = shape(name)
        else {
            let problem = format!("shapes known here are {}", SHAPES.join(", "));
            return Err(Error::BadConfig { file: name.to_owned(), problem });
        };
        let config = json!({
            "model_type": family, "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
            "vocab_size": vocabulary, "tie_word_embeddings": tied, "rope_theta": theta, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131_072,
        });
        Random::of(name, config, format)
    }

    /// As [`Random::new`], of the shape that a `config.json` describes.
    ///
    /// # Errors
    /// As [`Config::from_json`].
    pub fn of(name: &str, config: Value, format: Format) -> Result<Random, Error> {
        let parsed = Config::from_json(name, &config)?;
        Ok(Random {
            name: format!("{name}, random {}", format.name()),
            config,
            parsed,
            format,
            pattern: pattern(format),
        })
    }

    /// Name and format, with a word that weights are random.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn rows_of(&self, name: &str) -> Option<[usize; 2]> {
        let Config { hidden, intermediate, vocabulary, heads, .. } = self.parsed;
        let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let part = name.strip_suffix(".weight")?.rsplit('.').next()?;
        Some(match part {
            "embed_tokens" | "lm_head" => [vocabulary, hidden],
            "q_proj" => [q, hidden],
            "k_proj" | "v_proj" => [kv, hidden],
            "o_proj" => [hidden, q],
            "gate_proj" | "up_proj" => [intermediate, hidden],
            "down_proj" => [hidden, intermediate],
            _ => return None,
        })
    }
}

impl Source for Random {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn rope(&self) -> RopeLayout {
        RopeLayout::Halves
    }

    fn norms_include_one(&self) -> bool {
        true
    }

    fn contains(&self, name: &str) -> bool {
        match name {
            "lm_head.weight" => !self.parsed.tied,
            // Qwen 2 has biases.
            _ if name.ends_with("_proj.bias") => self.parsed.family == "qwen2",
            _ => false,
        }
    }

    fn tensor(&self, name: &str) -> Result<Stored<'_>, Error> {
        let Config { hidden, heads, .. } = self.parsed;
        let floats = |len: usize, value: f32| Stored::Blocks {
            shape: vec![len],
            block_type: BlockType::F32,
            bytes: Cow::Owned(value.to_le_bytes().repeat(len)),
        };
        let Some([rows, k]) = self.rows_of(name) else {
            let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
            let part = name.trim_end_matches(".weight").rsplit("self_attn.").next().unwrap_or_default();
            return Ok(match (part, self.parsed.qk_norm) {
                ("q_proj.bias", _) => floats(q, 0.25),
                ("k_proj.bias" | "v_proj.bias", _) => floats(kv, 0.25),
                ("q_norm" | "k_norm", QkNorm::Head) => floats(heads.head_dim, 1.0),
                ("q_norm", _) => floats(q, 1.0),
                ("k_norm", _) => floats(kv, 1.0),
                _ => floats(hidden, 1.0),
            });
        };
        let (format, pattern) = match self.format.row_bytes(k) {
            Some(_) => (self.format, Cow::Borrowed(&self.pattern)),
            None => (Format::F16, Cow::Owned(pattern(Format::F16))),
        };
        let Some(size) = format.row_bytes(k).and_then(|bytes| bytes.checked_mul(rows)) else {
            return Err(Error::BadConfig { file: self.name.clone(), problem: format!("{name} is too large") });
        };
        let block_type = BlockType::from_name(format.name()).expect("all formats of kernels are those of files");
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let left = size - bytes.len();
            bytes.extend_from_slice(&pattern[..left.min(pattern.len())]);
        }
        Ok(Stored::Blocks { shape: vec![rows, k], block_type, bytes: Cow::Owned(bytes) })
    }
}

/// Some thousands of blocks of weights between about -0.03 and 0.03.
fn pattern(format: Format) -> Vec<u8> {
    const BLOCKS: usize = 4093;
    let mut state = 0x9e37_79b9u32;
    let mut byte = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let (_, size) = format.block();
    let mut bytes: Vec<u8> = (0..BLOCKS * size).map(|_| byte()).collect();
    // Halves of about 2^-11 and 2^-14, by how large the integers are that they multiply.
    let (small, tiny) = ([0x00, 0x10], [0x00, 0x04]);
    for block in bytes.chunks_exact_mut(size) {
        let mut set = |at: usize, half: [u8; 2]| block[at..at + 2].copy_from_slice(&half);
        match format {
            Format::F32 => {
                let value = (f32::from(block[0]) - 127.5) / 4096.0;
                block.copy_from_slice(&value.to_le_bytes());
            }
            // Exponents that give 2^-6 to 2^-5, of both signs.
            Format::F16 => block[1] = 0x24 | block[1] & 0x83,
            Format::Bf16 => block[1] = 0x3c | block[1] & 0x80,
            Format::Q8_0 | Format::Iq4Nl => set(0, tiny),
            Format::Q4_0 | Format::Q5_0 => set(0, small),
            Format::Q4_1 | Format::Q5_1 => {
                set(0, small);
                set(2, [0x00, 0x9c]);
            }
            Format::Q2_K => {
                set(80, tiny);
                set(82, tiny);
            }
            Format::Q3_K => set(108, [0x10, 0x00]),
            Format::Q4_K | Format::Q5_K => {
                set(0, [0x40, 0x00]);
                set(2, [0x40, 0x00]);
            }
            Format::Q6_K => set(208, [0x02, 0x00]),
            Format::Iq4Xs => set(0, [0x02, 0x00]),
        }
    }
    bytes
}
