//! What GGUF calls the tensors of a decoder, and what Hugging Face calls them: one table, with columns where families differ.

/// `(GGUF, Hugging Face)` of tensors that are there once. What has no counterpart is given a name in the same style.
const WHOLE: [(&str, &str); 6] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    // Factors that divide the frequencies of positions; Hugging Face computes them from config.json.
    ("rope_freqs.weight", "model.rope_freqs.weight"),
    ("rope_factors_long.weight", "model.rope_factors_long.weight"),
    ("rope_factors_short.weight", "model.rope_factors_short.weight"),
];

/// `(GGUF after "blk.N.", Hugging Face after "model.layers.N.")`, without `.weight` and `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Norms about the second half of a layer, most families: one before it.
const ONE_NORM: [(&str, &str); 1] = [("ffn_norm", "post_attention_layernorm")];
/// Gemma 2 and 3: before and after both halves.
const FOUR_NORMS: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
/// OLMo 2: after both halves only.
const LATE_NORMS: [(&str, &str); 2] =
    [("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];
/// Phi-3: the gate and what it multiplies in one matrix.
const PHI3: [(&str, &str); 2] = [("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.gate_up_proj")];

/// What differs in the family that GGUF calls `architecture`.
fn family(architecture: &str) -> &'static [(&'static str, &'static str)] {
    match architecture {
        "gemma2" | "gemma3" => &FOUR_NORMS,
        "olmo2" => &LATE_NORMS,
        "phi3" => &PHI3,
        _ => &ONE_NORM,
    }
}

/// The Hugging Face name of a GGUF tensor; `None` for one that no family has.
pub fn to_hugging_face(architecture: &str, name: &str) -> Option<String> {
    translate(architecture, name, ("blk.", "model.layers."), |row| *row)
}

/// The GGUF name of a Hugging Face tensor; `None` for one that no family has.
pub fn to_gguf(architecture: &str, name: &str) -> Option<String> {
    translate(architecture, name, ("model.layers.", "blk."), |&(gguf, hugging_face)| (hugging_face, gguf))
}

fn translate(
    architecture: &str,
    name: &str,
    (before, after): (&str, &str),
    order: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    if let Some((_, other)) = WHOLE.iter().map(&order).find(|row| row.0 == name) {
        return Some(other.to_string());
    }
    let (layer, rest) = name.strip_prefix(before)?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") || layer.is_empty() || !layer.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let mut rows = family(architecture).iter().chain(&LAYER).map(order);
    let (_, other) = rows.find(|row| row.0 == part)?;
    Some(format!("{after}{layer}.{other}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_both_ways() {
        let cases = [
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("llama", "blk.31.ffn_norm.weight", "model.layers.31.post_attention_layernorm.weight"),
            ("qwen2", "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("qwen3", "blk.7.attn_k_norm.weight", "model.layers.7.self_attn.k_norm.weight"),
            ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
            ("gemma3", "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("olmo2", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"),
            ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
            ("phi3", "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ];
        for (architecture, gguf, hugging_face) in cases {
            assert_eq!(to_hugging_face(architecture, gguf).as_deref(), Some(hugging_face));
            assert_eq!(to_gguf(architecture, hugging_face).as_deref(), Some(gguf));
        }
        for strange in
            ["blk.weight", "blk..attn_q.weight", "blk.a.attn_q.weight", "blk.0.attn_q.scale", "blk.0.x.weight", ""]
        {
            assert_eq!(to_hugging_face("llama", strange), None, "{strange}");
        }
    }
}
