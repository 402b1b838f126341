//! Gradients of decoders on a GPU against those of the CPU. They run with `SUPPLE_TEST_DEVICE=cuda` and `--features cuda`.
#![cfg(feature = "cuda")]

use serde_json::json;
use supple_models::llama::{Adapter, Config, Definition};
use supple_models::{Network, Parameters};
use supple_tensor::ops::{self, IGNORED};
use supple_tensor::{Cpu, DType, Device, Isa, Random, Tensor};

const LENGTH: usize = 40;

/// The mean loss and the gradients of what is trained, by name; the decoder computes in `dtype`.
fn gradients(
    definition: &Definition,
    start: &Parameters,
    trained: &dyn Fn(&str) -> bool,
    device: &Device,
    dtype: DType,
) -> (f32, Vec<(String, Vec<f32>)>) {
    let mut parameters = Parameters::default();
    for (name, tensor) in start.iter() {
        let there = tensor.to_device(device).unwrap();
        // What is frozen is of 16 bits where activations are.
        let leaf = if trained(name) { there.variable() } else { there.to_dtype(dtype).unwrap() };
        parameters.insert(name, leaf);
    }
    let mut random = Random::new(5);
    let all: Vec<u32> = (0..2 * LENGTH).map(|_| random.below(definition.config.vocabulary) as u32).collect();
    let mut targets: Vec<u32> = all.iter().rev().copied().collect();
    targets.iter_mut().step_by(7).for_each(|target| *target = IGNORED);
    let counted = targets.iter().filter(|target| **target != IGNORED).count();
    let rows = |values: &[u32]| Tensor::from_slice(device, values, &[2, LENGTH]).unwrap();
    let positions = definition.positions(device, dtype, LENGTH).unwrap();
    let sum = definition.loss(&parameters, &rows(&all), &rows(&targets), &positions).unwrap();
    let loss = ops::scale(&sum, 1.0 / counted as f32).unwrap();
    let gradients = loss.backward().unwrap();
    let of = |(name, parameter): (&str, &Tensor)| {
        let gradient = gradients.of(parameter)?;
        assert_eq!((gradient.dtype(), gradient.shape()), (DType::F32, parameter.shape()), "{name}");
        Some((name.to_owned(), gradient.to_vec::<f32>().unwrap()))
    };
    let of_all = parameters.iter().filter_map(of).collect();
    (loss.to_vec::<f32>().unwrap()[0], of_all)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn decoder(family: &str, more: serde_json::Value) -> Definition {
    let mut config = json!({
        "model_type": family, "vocab_size": 96, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
    });
    let (all, more) = (config.as_object_mut().unwrap(), more.as_object().unwrap().clone());
    all.extend(more);
    Definition::new(Config::from_json("test", &config).unwrap())
}

#[test]
fn gradients_are_those_of_the_cpu() {
    if !std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        return;
    }
    let cpu = Device::cpu(Cpu::new(Isa::detect(), 2)).unwrap();
    let gpu = Device::cuda(0).unwrap();
    let gemma = json!({
        "query_pre_attn_scalar": 20, "sliding_window": 9, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention"],
    });
    for (family, more) in [
        ("llama", json!({})),
        ("mistral", json!({"sliding_window": 9})),
        ("qwen2", json!({"head_dim": 12})),
        ("qwen3", json!({"tie_word_embeddings": false})),
        ("gemma2", gemma),
        ("phi3", json!({"partial_rotary_factor": 0.5})),
        ("olmo2", json!({})),
    ] {
        for way in ["weights", "recomputed", "adapter"] {
            let mut definition = decoder(family, more.clone());
            definition.recompute = way == "recomputed";
            let mut start = definition.initialise(&cpu, 1).unwrap();
            // Larger than fresh ones, so that attention and gates have something to do.
            for (_, tensor) in start.iter_mut().filter(|(_, tensor)| tensor.rank() == 2) {
                *tensor = ops::scale(tensor, 5.0).unwrap();
            }
            if way == "adapter" {
                let targets = ["q_proj", "up_proj", "down_proj"].map(str::to_owned).into();
                definition.adapter = Some(Adapter { rank: 8, alpha: 16.0, targets });
                for (i, (name, shape)) in definition.adapter_shapes().into_iter().enumerate() {
                    let values = Random::new(i as u64).uniform(shape.iter().product(), 0.2);
                    start.insert(&name, Tensor::from_slice(&cpu, &values, &shape).unwrap());
                }
            }
            let trained = |name: &str| way != "adapter" || name.contains(".lora_");
            let (wanted_loss, wanted) = gradients(&definition, &start, &trained, &cpu, DType::F32);
            for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 1e-2), (DType::BF16, 6e-2)] {
                let (loss, found) = gradients(&definition, &start, &trained, &gpu, dtype);
                let size = norm(wanted.iter().flat_map(|(_, values)| values.iter().copied()));
                assert_eq!(found.len(), wanted.len());
                let pairs = found.iter().zip(&wanted).flat_map(|(a, b)| a.1.iter().zip(&b.1));
                let error = norm(pairs.map(|(a, b)| a - b)) / size;
                println!("{family} {way} in {dtype}: gradients {error:.1e} off, the loss {:.1e}", loss - wanted_loss);
                // Written so that NaN fails.
                assert!(error < tolerance, "{family} {way} in {dtype}: gradients are {error:.1e} off");
                assert!(((loss - wanted_loss) / wanted_loss).abs() < tolerance as f32, "{loss} {wanted_loss}");
            }
        }
    }
}
