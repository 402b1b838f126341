//! The float format of llama2.c: seven numbers, then float32 tensors in a fixed order, the same of all layers together.
//!
//! `dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len` (i32; a negative vocabulary: a head of its own) ·
//! token embedding · attention norms · q · k · v · output · feed-forward norms · gate · down · up · last norm · two tables
//! of `seq_len × head_dim / 2` that nothing reads any more · the head, if it is not tied.
//!
//! There is no magic: a file is of this format if its size is exactly what its first 28 bytes call for.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

/// Bytes of the seven numbers.
const HEADER: usize = 28;
/// No side of a model is larger.
const MAX_SIDE: i64 = 1 << 24;

/// Where tensors lie, by their Hugging Face names.
pub(super) struct Layout {
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Range<usize>)>,
    pub(super) config: Value,
}

/// The layout of a file that begins with `bytes` and has `length` of them; `None` if it is another format.
pub(super) fn layout(bytes: &[u8], length: usize) -> Option<Layout> {
    let header = bytes.first_chunk::<HEADER>()?.as_chunks::<4>().0;
    let mut numbers = header.iter().map(|raw| i64::from(i32::from_le_bytes(*raw)));
    let mut next = || numbers.next();
    let (dim, hidden, layers, heads, kv_heads, vocabulary, context) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    let tied = vocabulary > 0;
    let vocabulary = vocabulary.abs();
    let sides = [dim, hidden, layers, heads, kv_heads, vocabulary, context];
    if sides.iter().any(|&side| side <= 0 || side > MAX_SIDE) || dim % heads != 0 || heads % kv_heads != 0 {
        return None;
    }
    let head_dim = dim / heads;
    let [dim, hidden, layers, kv, vocabulary] =
        [dim, hidden, layers, kv_heads * head_dim, vocabulary].map(|side| side as usize);

    // Claimed sizes first: no name is made for a layer that the file cannot hold.
    let by_layer: [(&str, &[usize]); 9] = [
        ("input_layernorm", &[dim]),
        ("self_attn.q_proj", &[dim, dim]),
        ("self_attn.k_proj", &[kv, dim]),
        ("self_attn.v_proj", &[kv, dim]),
        ("self_attn.o_proj", &[dim, dim]),
        ("post_attention_layernorm", &[dim]),
        ("mlp.gate_proj", &[hidden, dim]),
        ("mlp.down_proj", &[dim, hidden]),
        ("mlp.up_proj", &[hidden, dim]),
    ];
    let size = |shape: &[usize]| shape.iter().map(|&side| side as u128).product::<u128>() * 4;
    let tables = context as u128 * (head_dim / 2) as u128 * 2 * 4;
    let each: u128 = by_layer.iter().map(|(_, shape)| size(shape)).sum();
    let heads_bytes = size(&[vocabulary, dim]) * if tied { 1 } else { 2 };
    if HEADER as u128 + heads_bytes + each * layers as u128 + size(&[dim]) + tables != length as u128 {
        return None;
    }

    let (mut tensors, mut at) = (BTreeMap::new(), HEADER);
    let mut add = |name: String, shape: &[usize]| {
        let end = at + size(shape) as usize;
        tensors.insert(name, (shape.to_vec(), at..end));
        at = end;
    };
    add("model.embed_tokens.weight".into(), &[vocabulary, dim]);
    for (name, shape) in by_layer {
        (0..layers).for_each(|layer| add(format!("model.layers.{layer}.{name}.weight"), shape));
    }
    add("model.norm.weight".into(), &[dim]);
    if !tied {
        let end = at + tables as usize;
        tensors.insert("lm_head.weight".into(), (vec![vocabulary, dim], end..length));
    }
    let config = json!({
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    Some(Layout { tensors, config })
}
