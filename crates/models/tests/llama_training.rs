//! What must hold of decoders as functions of tensors: logits of `transformers`, gradients of PyTorch, files that are read again.

#[path = "common/decoders.rs"]
mod decoders;

use decoders::{FAMILIES, golden};
use std::path::Path;
use std::sync::OnceLock;
use supple_models::llama::{Adapter, Cache, Definition, Format, Input, Llama, Positions, Sequence, Wanted, Workspace};
use supple_models::{Error, Network, Parameters};
use supple_tensor::ops::{self, IGNORED};
use supple_tensor::{Cpu, DType, Device, Gradients, Isa, Tensor, straight_through};
use supple_weights::Weights;
use supple_weights::checkpoint::Checkpoint;
use supple_weights::gguf::{BlockType, NewTensor, Value, save};

/// One for all: tensors of two devices do not go together.
fn cpu() -> Device {
    static CPU: OnceLock<Device> = OnceLock::new();
    CPU.get_or_init(|| Device::cpu(Cpu::new(Isa::detect(), 2)).expect("the CPU offers it")).clone()
}

struct Tiny {
    definition: Definition,
    parameters: Parameters,
    tokens: Vec<u32>,
    logits: Vec<f32>,
    checkpoint: Checkpoint,
}

fn tiny(name: &str) -> Tiny {
    let folder = golden(name);
    let file = Weights::open(&folder.join("model.safetensors")).expect("weights");
    let (_, tokens) = file.tensor_any_shape("golden.tokens").expect("tokens");
    let (_, logits) = file.tensor_any_shape("golden.logits").expect("logits");
    let checkpoint = Checkpoint::open(&folder).expect("a checkpoint");
    let definition = Definition::of(&checkpoint).expect("a decoder");
    let parameters = definition.read(&cpu(), &checkpoint).expect("its parameters");
    Tiny { definition, parameters, tokens: tokens.into_iter().map(|t| t as u32).collect(), logits, checkpoint }
}

fn row(tokens: &[u32]) -> Tensor {
    Tensor::from_slice(&cpu(), tokens, &[1, tokens.len()]).expect("tokens")
}

fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let largest = wanted.iter().fold(1e-30f32, |a, b| a.max(b.abs()));
    // Written so that NaN is kept.
    found.iter().zip(wanted).fold(0.0, |worst: f32, (a, b)| {
        let error = (a - b).abs() / largest;
        if error <= worst { worst } else { error }
    })
}

fn logits(definition: &Definition, parameters: &Parameters, tokens: &[u32]) -> Vec<f32> {
    definition.forward(parameters, &row(tokens)).expect("logits").to_vec::<f32>().expect("values")
}

/// Logits of the packed decoder that inference uses.
fn packed_logits(checkpoint: &Checkpoint, tokens: &[u32]) -> Vec<f32> {
    let model = Llama::load(&Cpu::new(Isa::detect(), 1), checkpoint, Some(tokens.len())).expect("a model");
    let mut cache = Cache::new(model.config(), Format::F32, tokens.len());
    let (mut work, mut sequence) = (Workspace::new(), Sequence::default());
    let mut input = [Input { sequence: &mut sequence, tokens, wanted: Wanted::All }];
    model.forward(&mut cache, &mut work, &mut input).expect("a pass").to_vec()
}

/// The mean loss on all but every fifth target, and its gradients.
fn loss(definition: &Definition, parameters: &Parameters, tokens: &[u32], positions: &Positions) -> (f32, Gradients) {
    let mut targets = tokens[1..].to_vec();
    targets.iter_mut().step_by(5).for_each(|target| *target = IGNORED);
    let counted = targets.iter().filter(|target| **target != IGNORED).count();
    let inputs = row(&tokens[..tokens.len() - 1]);
    let sum = definition.loss(parameters, &inputs, &row(&targets), positions).expect("a loss");
    let mean = ops::scale(&sum, 1.0 / counted as f32).expect("a mean");
    (mean.to_vec::<f32>().expect("a value")[0], mean.backward().expect("gradients"))
}

#[test]
fn logits_are_those_of_transformers() {
    for name in FAMILIES {
        let tiny = tiny(name);
        let error = worst(&logits(&tiny.definition, &tiny.parameters, &tiny.tokens), &tiny.logits);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: {error:.1e} of the largest logit");
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    for name in ["qwen2", "qwen3", "gemma2"] {
        let Tiny { mut definition, parameters, tokens, .. } = tiny(name);
        let wanted = Weights::open(&golden(&format!("../llama_training/{name}.safetensors"))).expect("goldens");
        let positions = definition.positions(&cpu(), DType::F32, tokens.len() - 1).expect("positions");
        let parameters = parameters.variables();
        let mut first: Option<Vec<Vec<f32>>> = None;
        for recompute in [false, true] {
            definition.recompute = recompute;
            let (value, gradients) = loss(&definition, &parameters, &tokens, &positions);
            let wanted_loss = wanted.tensor("loss", &[1]).expect("a loss")[0];
            assert!((value - wanted_loss).abs() < 1e-5 * wanted_loss, "{name}: {value}, wanted {wanted_loss}");
            let mut all = Vec::new();
            for (key, parameter) in parameters.iter() {
                let found = gradients.of(parameter).unwrap_or_else(|| panic!("{key} has none"));
                let found = found.to_vec::<f32>().expect("values");
                let wanted = wanted.tensor(&format!("gradient.{key}"), parameter.shape()).expect("a gradient");
                let error = worst(&found, &wanted);

                assert!(error < 2e-5, "{name} {key}: {error:.1e}");
                all.push(found);
            }
            assert_eq!(first.get_or_insert_with(|| all.clone()), &all, "{name}: computing again changes nothing");
        }
    }
}

#[test]
fn what_is_saved_is_read_again() {
    for name in ["llama_tied", "qwen2", "gemma2", "gemma3", "phi3", "olmo2"] {
        let Tiny { definition, parameters, tokens, checkpoint, .. } = tiny(name);
        let folder = tempfile::tempdir().expect("a folder");
        definition.save(&parameters, checkpoint.config(), supple_weights::DType::F32, folder.path()).expect("saved");
        let again = Checkpoint::open(folder.path()).expect("a checkpoint");
        assert_eq!(again.contains("model.layers.0.self_attn.qkv_proj.weight"), name == "phi3");
        let read = Definition::of(&again).expect("a decoder");
        assert_eq!(read, definition, "{name}");
        for (key, tensor) in read.read(&cpu(), &again).expect("parameters").iter() {
            let before = parameters.get("test", key).expect("it was there");
            assert_eq!(tensor.to_vec::<f32>().unwrap(), before.to_vec::<f32>().unwrap(), "{name} {key}");
        }
        assert_eq!(packed_logits(&again, &tokens), packed_logits(&checkpoint, &tokens), "{name}");
    }
}

/// A decoder of floats in a GGUF file, whose heads turn neighbours together.
fn in_gguf(folder: &Path) -> Checkpoint {
    let path = folder.join("tiny.gguf");
    let (hidden, wide, vocabulary) = (32usize, 48usize, 40usize);
    let key = |name: &str, value: u32| (format!("llama.{name}"), Value::U32(value));
    let metadata = [
        ("general.architecture".to_owned(), Value::from("llama")),
        key("block_count", 2),
        key("context_length", 64),
        key("embedding_length", hidden as u32),
        key("feed_forward_length", wide as u32),
        key("attention.head_count", 4),
        key("attention.head_count_kv", 2),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        tensors.push(NewTensor { name, shape: shape.to_vec(), block_type: BlockType::F32 });
    };
    add("token_embd.weight".into(), &[vocabulary, hidden]);
    add("output_norm.weight".into(), &[hidden]);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for (part, shape) in [
            ("attn_norm", &[hidden][..]),
            ("ffn_norm", &[hidden]),
            ("attn_q", &[hidden, hidden]),
            ("attn_k", &[hidden / 2, hidden]),
            ("attn_v", &[hidden / 2, hidden]),
            ("attn_output", &[hidden, hidden]),
            ("ffn_gate", &[wide, hidden]),
            ("ffn_up", &[wide, hidden]),
            ("ffn_down", &[hidden, wide]),
        ] {
            add(name(part), shape);
        }
    }
    save(&path, &metadata, &tensors, |index, out| {
        let count: usize = tensors[index].shape.iter().product();
        let values = supple_tensor::Random::new(index as u64).uniform(count, 0.4);
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Ok::<(), supple_weights::Error>(())
    })
    .expect("written");
    Checkpoint::open(&path).expect("a checkpoint")
}

#[test]
fn neighbours_that_turn_together_are_brought_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = in_gguf(folder.path());
    let definition = Definition::of(&checkpoint).expect("a decoder");
    let parameters = definition.read(&cpu(), &checkpoint).expect("its parameters");
    let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 40).collect();
    let wanted = packed_logits(&checkpoint, &tokens);
    assert!(worst(&logits(&definition, &parameters, &tokens), &wanted) < 1e-5);
    // As a folder it is the same.
    let saved = folder.path().join("saved");
    definition.save(&parameters, checkpoint.config(), supple_weights::DType::F32, &saved).expect("saved");
    let again = Checkpoint::open(&saved).expect("a checkpoint");
    assert!(worst(&packed_logits(&again, &tokens), &wanted) < 1e-5);
}

#[test]
fn what_stands_behind_a_sequence_does_not_matter() {
    let Tiny { definition, parameters, tokens, .. } = tiny("gemma2");
    let of = |tokens: &[u32], targets: &[u32]| {
        let positions = definition.positions(&cpu(), DType::F32, tokens.len()).expect("positions");
        let loss = definition.loss(&parameters, &row(tokens), &row(targets), &positions).expect("a loss");
        loss.to_vec::<f32>().expect("a value")[0]
    };
    let alone = of(&tokens[..20], &tokens[1..21]);
    for fill in [0, 7] {
        let longer = [&tokens[..20], &[fill; 12]].concat();
        let targets = [&tokens[1..21], &[IGNORED; 12]].concat();
        assert!((of(&longer, &targets) - alone).abs() < 1e-4 * alone, "filled with {fill}");
    }
}

#[test]
fn an_adapter_begins_with_nothing_and_ends_in_the_weights() {
    let Tiny { mut definition, mut parameters, tokens, .. } = tiny("qwen3");
    let before = logits(&definition, &parameters, &tokens);
    definition.adapter = Some(Adapter { rank: 3, alpha: 6.0, targets: vec!["q_proj".into(), "down_proj".into()] });
    let fresh = definition.initialise_adapter(&cpu(), 1).expect("an adapter");
    assert_eq!(fresh.len(), 2 * 2 * 2);
    for (name, tensor) in fresh.iter() {
        parameters.insert(name, tensor.clone());
    }
    assert_eq!(logits(&definition, &parameters, &tokens), before, "nothing is added at first");
    // Gradients reach the adapter, and the frozen weights have none.
    let mut leaves = parameters.clone();
    for (name, tensor) in fresh.iter() {
        leaves.insert(name, tensor.variable());
    }
    let positions = definition.positions(&cpu(), DType::F32, tokens.len() - 1).expect("positions");
    let (_, gradients) = loss(&definition, &leaves, &tokens, &positions);
    for (name, tensor) in leaves.iter() {
        let up = gradients.of(tensor).map(|gradient| gradient.to_vec::<f32>().unwrap().iter().any(|v| *v != 0.0));
        let wanted = name.contains("lora").then_some(name.contains("lora_B"));
        assert_eq!(up, wanted, "{name}: B is zero, so that A does not matter yet");
    }
    // Merged, it gives what it gave beside the weights.
    for (i, (name, _)) in fresh.iter().enumerate() {
        let shape = *parameters.get("test", name).unwrap().shape();
        let noise = supple_tensor::Random::new(i as u64).uniform(shape.iter().product(), 0.3);
        parameters.insert(name, Tensor::from_slice(&cpu(), &noise, &shape).unwrap());
    }
    let adapted = logits(&definition, &parameters, &tokens);
    assert!(worst(&adapted, &before) > 1e-2);
    let merged = definition.merged(&parameters).expect("merged");
    let plain = Definition { adapter: None, ..definition.clone() };
    assert!(worst(&logits(&plain, &merged, &tokens), &adapted) < 1e-5);
    let folder = tempfile::tempdir().expect("a folder");
    definition.save_adapter(&parameters, "base", folder.path()).expect("saved");
    let file = Weights::open(&folder.path().join("adapter_model.safetensors")).expect("weights");
    assert!(file.contains("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"));
    definition.adapter = Some(Adapter { rank: 3, alpha: 6.0, targets: vec!["c_attn".into()] });
    let error = definition.initialise_adapter(&cpu(), 1).expect_err("no such target");
    assert!(matches!(error, Error::BadConfig { .. }) && error.to_string().contains("c_attn"), "{error}");
}

/// Weights rounded to 4 bits with a scale for each row.
fn rounded(weight: &Tensor) -> Tensor {
    let columns = weight.shape()[1];
    let mut values = weight.to_vec::<f32>().expect("values");
    for row in values.chunks_exact_mut(columns) {
        let scale = row.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 7.0;
        row.iter_mut().for_each(|v| *v = (*v / scale).round() * scale);
    }
    Tensor::from_slice(&cpu(), &values, weight.shape()).expect("weights")
}

#[test]
fn weights_that_are_rounded_can_be_trained() {
    let Tiny { mut definition, parameters, tokens, .. } = tiny("llama");
    let positions = definition.positions(&cpu(), DType::F32, tokens.len() - 1).expect("positions");
    let names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"];
    let names = names.map(|part| format!("model.layers.1.{part}.weight"));
    let mut weights: Vec<Tensor> =
        names.iter().map(|name| parameters.get("test", name).expect("a weight").variable()).collect();
    for recompute in [false, true] {
        definition.recompute = recompute;
        let mut losses = Vec::new();
        for _ in 0..12 {
            let mut rounded_parameters = parameters.clone();
            for (name, weight) in names.iter().zip(&weights) {
                let rounded = straight_through(weight, &rounded(&weight.detach())).expect("the same shape");
                rounded_parameters.insert(name, rounded);
            }
            let (value, gradients) = loss(&definition, &rounded_parameters, &tokens, &positions);
            losses.push(value);
            drop(rounded_parameters);
            for weight in &mut weights {
                let gradient = gradients.of(weight).expect("it reaches the weights").to_vec::<f32>().expect("values");
                let values = weight.as_mut_slice::<f32>().expect("floats");
                values.iter_mut().zip(gradient).for_each(|(value, gradient)| *value -= 0.1 * gradient);
            }
        }
        assert!(losses[11] < losses[0] - 0.05, "recompute {recompute}: {losses:?}");
    }
}

#[test]
fn what_a_decoder_cannot_compute_is_refused() {
    let Tiny { definition, parameters, tokens, .. } = tiny("llama");
    assert!(definition.positions(&cpu(), DType::BF16, 8).is_err(), "the CPU computes in f32");
    assert!(definition.positions(&cpu(), DType::U32, 8).is_err());
    assert!(definition.forward(&parameters, &row(&[3, 48])).is_err(), "48 is no token");
    let positions = definition.positions(&cpu(), DType::F32, 8).expect("positions");
    assert!(definition.logits(&parameters, &row(&tokens), &positions).is_err(), "of another length");
    let missing = definition.forward(&Parameters::default(), &row(&tokens)).expect_err("nothing is there");
    assert!(matches!(missing, Error::MissingParameter { .. }));
    let folder = tempfile::tempdir().expect("a folder");
    assert!(definition.save_adapter(&parameters, "base", folder.path()).is_err(), "there is no adapter");
}
