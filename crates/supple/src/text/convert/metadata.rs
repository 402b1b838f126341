//! What a GGUF file says of a decoder's shape, by the keys that llama.cpp reads.

use crate::Error;
use supple_models::llama::{Config, Rope, Scaling};
use supple_weights::gguf::{Array, Value};

/// Families of `config.json`, and the architectures that GGUF knows them by.
const ARCHITECTURES: [(&str, &str); 10] = [
    ("llama", "llama"),
    ("smollm", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
    ("gemma3_text", "gemma3"),
    ("phi3", "phi3"),
    ("olmo2", "olmo2"),
];

/// What GGUF has no words for.
fn unsaid(what: String) -> Error {
    Error::BadOption(format!("GGUF cannot hold {what}"))
}

/// The architecture of a family.
pub(super) fn architecture(config: &Config) -> Result<&'static str, Error> {
    let found = ARCHITECTURES.iter().find(|row| row.0 == config.family);
    found
        .map(|row| row.1)
        .ok_or_else(|| unsaid(format!("decoders of the family {:?} as they are read here", config.family)))
}

/// Keys and values of the shape.
pub(super) fn shape(config: &Config, name: &str) -> Result<Vec<(String, Value)>, Error> {
    let architecture = architecture(config)?;
    let mut pairs = vec![
        ("general.architecture".to_owned(), Value::from(architecture)),
        ("general.type".to_owned(), Value::from("model")),
        ("general.name".to_owned(), Value::from(name)),
    ];
    let mut add = |key: &str, value: Value| pairs.push((format!("{architecture}.{key}"), value));
    let heads = config.heads;
    for (key, number) in [
        ("block_count", config.layers),
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("feed_forward_length", config.intermediate),
        ("attention.head_count", heads.heads),
        ("attention.head_count_kv", heads.kv_heads),
        ("attention.key_length", heads.head_dim),
        ("attention.value_length", heads.head_dim),
        ("rope.dimension_count", config.rope.dim),
        ("vocab_size", config.vocabulary),
    ] {
        add(key, Value::U32(u32::try_from(number).map_err(|_| unsaid(format!("a {key} of {number}")))?));
    }
    add("attention.layer_norm_rms_epsilon", Value::F32(config.epsilon));
    add("rope.freq_base", Value::F32(config.rope.theta));
    if let Some(local) = &config.local_rope {
        add("rope.freq_base_swa", Value::F32(local.theta));
    }
    for (key, cap) in [("attn_logit_softcapping", config.attention_cap), ("final_logit_softcapping", config.logit_cap)]
    {
        if let Some(cap) = cap {
            add(key, Value::F32(cap));
        }
    }
    let gemma = architecture.starts_with("gemma");
    if let Some(window) = config.window {
        let every = if gemma {
            (1..=config.layers).map(|l| l % if architecture == "gemma2" { 2 } else { 6 } != 0).collect()
        } else {
            vec![true; config.layers]
        };
        if architecture.starts_with("qwen") {
            return Err(unsaid("windows of attention in this family".into()));
        }
        add("attention.sliding_window", Value::U32(window as u32));
        if config.local != every {
            add("attention.sliding_window_pattern", Value::Array(Array::from_bools(&config.local)));
        }
    }
    // The 27-billion-parameter models of Gemma divide otherwise, which readers tell from the number of layers.
    let large = matches!((architecture, config.layers), ("gemma2", 46) | ("gemma3", 62));
    let divisor = if large { config.hidden / heads.heads } else { heads.head_dim };
    if (config.query_scale * (divisor as f32).sqrt() - 1.0).abs() > 1e-5 {
        return Err(unsaid(format!("attention scaled by {} with heads of {divisor}", config.query_scale)));
    }
    scaling(config, &mut add)?;
    Ok(pairs)
}

fn scaling(config: &Config, add: &mut dyn FnMut(&str, Value)) -> Result<(), Error> {
    let mut kind = |kind: &str, factor: Option<f32>, original: Option<usize>| {
        add("rope.scaling.type", Value::from(kind));
        if let Some(factor) = factor {
            add("rope.scaling.factor", Value::F32(factor));
        }
        if let Some(original) = original {
            add("rope.scaling.original_context_length", Value::U32(original as u32));
        }
    };
    match &config.rope.scaling {
        // Llama 3's is in the tensor `rope_freqs`.
        Scaling::None | Scaling::Llama3 { .. } => {}
        Scaling::Linear { factor } => kind("linear", Some(*factor), None),
        Scaling::Yarn { factor, original, attention, fast, slow, truncate } => {
            let usual = if *factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            if !truncate || (attention / usual - 1.0).abs() > 1e-5 {
                return Err(unsaid("YaRN with an attention factor of its own, or without whole bounds".into()));
            }
            kind("yarn", Some(*factor), Some(*original));
            add("rope.scaling.yarn_beta_fast", Value::F32(*fast));
            add("rope.scaling.yarn_beta_slow", Value::F32(*slow));
        }
        Scaling::Long { original, attention, .. } => {
            kind("longrope", None, Some(*original));
            add("rope.scaling.attn_factor", Value::F32(*attention));
        }
        Scaling::Ntk { .. } => return Err(unsaid("positions scaled by the length in use (\"dynamic\")".into())),
    }
    Ok(())
}

/// Tensors of factors that divide the frequencies of positions, by their names in GGUF.
pub(super) fn factors(rope: &Rope) -> Vec<(&'static str, Vec<f32>)> {
    match &rope.scaling {
        Scaling::Llama3 { factor, low, high, original } => {
            let [factor, low, high] = [*factor, *low, *high].map(f64::from);
            let divisor = |i: usize| {
                let frequency = f64::from(rope.theta).powf(-2.0 * i as f64 / rope.dim as f64);
                let turns = *original as f64 * frequency / std::f64::consts::TAU;
                let smooth = if high > low { ((turns - low) / (high - low)).clamp(0.0, 1.0) } else { 1.0 };
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            };
            vec![("rope_freqs.weight", (0..rope.dim / 2).map(divisor).collect())]
        }
        Scaling::Long { short, long, .. } => {
            vec![("rope_factors_long.weight", long.clone()), ("rope_factors_short.weight", short.clone())]
        }
        _ => Vec::new(),
    }
}
