//! What GGUF metadata says of a decoder, in the terms of Hugging Face's `config.json`.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::gguf::Gguf;

/// `(GGUF after "ARCHITECTURE.", config.json)` of whole numbers.
const INTEGERS: [(&str, &str); 7] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("vocab_size", "vocab_size"),
    ("rope.scaling.original_context_length", "original_max_position_embeddings"),
];
/// Whole numbers that may be arrays, one a layer.
const BY_LAYER: [(&str, &str); 3] = [
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
];
/// Real numbers.
const FLOATS: [(&str, &str); 5] = [
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];
/// Keys of the tokeniser.
const TOKENS: [(&str, &str); 3] = [
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];
/// Layers of the 27-billion-parameter models of Gemma 2 and 3, which scale attention by another number.
const GEMMA_27B_LAYERS: [(&str, u64); 2] = [("gemma2", 46), ("gemma3", 62)];

/// The real number that prints as the single-precision one does: 0.00001 for 1e-5, not 0.000009999999747.
fn real(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

/// The metadata of `file` as a `config.json`. What the file does not say is left out, but for what can be told from its
/// tensors and what llama.cpp takes for granted.
pub(super) fn from_gguf(file: &Gguf) -> Result<Value, Error> {
    let architecture = file.get_str("general.architecture")?;
    let key = |name: &str| format!("{architecture}.{name}");
    let mut config = Map::new();
    let model_type = if architecture == "gemma3" { "gemma3_text" } else { architecture };
    config.insert("model_type".into(), json!(model_type));
    for (from, to) in INTEGERS {
        if let Some(value) = file.find_u32(&key(from))? {
            config.insert(to.into(), json!(value));
        }
    }
    for (from, to) in BY_LAYER {
        if let Some(crate::gguf::Value::Array(array)) = file.get(&key(from)) {
            let values = array.integers().ok_or_else(|| Error::WrongMetadata {
                file: file.source().to_string(),
                key: key(from),
                wanted: "whole numbers",
                found: format!("{array:?}"),
            })?;
            // One number where all layers agree.
            let same = values.first().filter(|first| values.iter().all(|value| value == *first));
            config.insert(to.into(), same.map_or_else(|| json!(values), |value| json!(value)));
        } else if let Some(value) = file.find_u32(&key(from))? {
            config.insert(to.into(), json!(value));
        }
    }
    // Layers with a window, where they are not those that the family usually has.
    if let Some(crate::gguf::Value::Array(array)) = file.get(&key("attention.sliding_window_pattern"))
        && let Some(local) = array.bools()
    {
        let kind = |&local: &bool| if local { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".into(), local.iter().map(kind).collect());
    }
    for (from, to) in FLOATS {
        if let Some(value) = file.find_f32(&key(from))? {
            config.insert(to.into(), real(value));
        }
    }
    for (from, to) in TOKENS {
        if let Some(value) = file.find_u32(from)? {
            config.insert(to.into(), json!(value));
        }
    }
    if !config.contains_key("vocab_size") {
        let rows = file.tensor("token_embd.weight").ok().and_then(|tensor| tensor.shape.first().copied());
        if let Some(rows) = rows {
            config.insert("vocab_size".into(), json!(rows));
        }
    }
    let heads = config.get("num_attention_heads").and_then(Value::as_u64);
    if let (None, Some(heads)) = (config.get("num_key_value_heads"), heads) {
        config.insert("num_key_value_heads".into(), json!(heads));
    }
    let hidden = config.get("hidden_size").and_then(Value::as_u64);
    let head_dim = config.get("head_dim").and_then(Value::as_u64).or_else(|| hidden?.checked_div(heads?));
    if let Some(head_dim) = head_dim {
        config.insert("head_dim".into(), json!(head_dim));
        if let Some(rotated) =
            file.find_u32(&key("rope.dimension_count"))?.map(u64::from).filter(|&n| n != 0 && n < head_dim)
        {
            config.insert("partial_rotary_factor".into(), json!(rotated as f64 / head_dim as f64));
        }
    }
    config.insert("tie_word_embeddings".into(), json!(!file.contains("output.weight")));
    let activation = if architecture.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" };
    config.insert("hidden_act".into(), json!(activation));
    if architecture.starts_with("gemma") {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64);
        let large = GEMMA_27B_LAYERS.iter().any(|row| row.0 == architecture && Some(row.1) == layers);
        let scalar =
            if large { hidden.zip(heads).and_then(|(hidden, heads)| hidden.checked_div(heads)) } else { head_dim };
        config.insert("query_pre_attn_scalar".into(), json!(scalar));
    }
    if let Some(scaling) = scaling(file, &key)? {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(Value::Object(config))
}

/// `rope_scaling`, if positions are scaled. The scaling of Llama 3 is not here: its factors are the tensor `rope_freqs`.
fn scaling(file: &Gguf, key: &dyn Fn(&str) -> String) -> Result<Option<Value>, Error> {
    let kind = file.find_str(&key("rope.scaling.type"))?;
    // Older files have the factor of linear scaling only.
    let linear = file.find_f32(&key("rope.scale_linear"))?.filter(|&factor| factor != 0.0);
    let kind = match (kind, linear) {
        (Some("none"), _) | (None, None) => return Ok(None),
        (Some(kind), _) => kind,
        (None, Some(_)) => "linear",
    };
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), json!(kind));
    if let Some(factor) = file.find_f32(&key("rope.scaling.factor"))?.or(linear) {
        scaling.insert("factor".into(), real(factor));
    }
    for (from, to) in
        [("attn_factor", "attention_factor"), ("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")]
    {
        if let Some(value) = file.find_f32(&key(&format!("rope.scaling.{from}")))? {
            scaling.insert(to.into(), real(value));
        }
    }
    if let Some(length) = file.find_u32(&key("rope.scaling.original_context_length"))? {
        scaling.insert("original_max_position_embeddings".into(), json!(length));
    }
    Ok(Some(Value::Object(scaling)))
}
