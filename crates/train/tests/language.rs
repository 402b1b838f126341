//! What must hold of runs that train language models: PyTorch's steps, the same end after an interruption, adapters. With
//! `SUPPLE_TEST_DEVICE=cuda` and `--features cuda` also that a GPU does what the CPU does.

use std::path::{Path, PathBuf};
use supple_models::llama::{Config, Definition};
use supple_models::{Network, Parameters};
use supple_tensor::ops::{self, IGNORED};
use supple_tensor::{Cpu, DType, Device, Isa, Tensor};
use supple_train::language::{
    Corpus, Document, LanguageObserver, LanguageOutcome, LanguageRecipe, LanguageTask, train_language,
};
use supple_train::{Error, Optimizer, OptimizerRecipe, Progress, read_metrics};
use supple_weights::Weights;
use supple_weights::checkpoint::Checkpoint;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden").join(name)
}

fn cpu() -> Device {
    Device::cpu(Cpu::new(Isa::detect(), 2)).expect("the CPU offers it")
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    for name in ["qwen2", "qwen3", "gemma2"] {
        let (host, folder) = (cpu(), golden("llama").join(name));
        let checkpoint = Checkpoint::open(&folder).expect("a checkpoint");
        let definition = Definition::of(&checkpoint).expect("a decoder");
        let mut parameters = definition.read(&host, &checkpoint).expect("its parameters").variables();
        let file = Weights::open(&folder.join("model.safetensors")).expect("weights");
        let tokens: Vec<u32> =
            file.tensor_any_shape("golden.tokens").expect("tokens").1.into_iter().map(|token| token as u32).collect();
        let mut targets = tokens[1..].to_vec();
        targets.iter_mut().step_by(5).for_each(|target| *target = IGNORED);
        let counted = targets.iter().filter(|target| **target != IGNORED).count();
        let row = |values: &[u32]| Tensor::from_slice(&host, values, &[1, values.len()]).expect("a row");
        let (inputs, targets) = (row(&tokens[..tokens.len() - 1]), row(&targets));
        let positions = definition.positions(&host, DType::F32, tokens.len() - 1).expect("positions");
        let wanted = Weights::open(&golden("llama_training").join(format!("{name}.safetensors"))).expect("goldens");
        let recipe = OptimizerRecipe::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.01 };
        let mut optimizer = Optimizer::new(recipe);
        for (step, wanted) in wanted.tensor("losses", &[11]).expect("losses").into_iter().enumerate() {
            let sum = definition.loss(&parameters, &inputs, &targets, &positions).expect("a loss");
            let mean = ops::scale(&sum, 1.0 / counted as f32).expect("a mean");
            let loss = mean.to_vec::<f32>().expect("a value")[0];
            assert!((loss - wanted).abs() < 2e-4 * wanted, "{name}, step {step}: {loss}, wanted {wanted}");
            let gradients = mean.backward().expect("gradients");
            drop((sum, mean));
            optimizer.step(&mut parameters, &gradients, 1.0, 1e-3).expect("a step");
        }
    }
}

/// A recipe and a task of a tiny decoder on a text that repeats.
fn recipe(more: &str) -> LanguageRecipe {
    let text = format!(
        "task = 'language'\nevery = {{ log = 1, checkpoint = 3, validate = 4 }}\n{more}\n[model]\nstart = 'none'\n\
         [data]\ntrain = ['none']\n[training]\nsteps = 8\nbatch = 4\naccumulate = 2\nlength = 24\nlearning_rate = 1e-2\n\
         warm_up = 2\nclip = 1.0\nschedule = {{ kind = 'cosine' }}"
    );
    LanguageRecipe::parse("test", &text).expect("a recipe")
}

fn decoder(size: [usize; 5]) -> Definition {
    let [vocabulary, hidden, wide, layers, heads] = size;
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": wide,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads.div_ceil(3),
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    Definition::new(Config::from_json("test", &config).expect("a configuration"))
}

fn task<'a>(recipe: &'a LanguageRecipe, host: &Device) -> LanguageTask<'a> {
    let definition = decoder([32, 24, 40, 2, 3]);
    let parameters = definition.initialise(host, 1).expect("parameters");
    let text = |count: u32| Corpus::Text((0..count).map(|i| i * i % 23 + i % 2).collect());
    let (corpus, validate) = (text(600), Some(text(100)));
    LanguageTask { recipe, definition, parameters, host: host.clone(), corpus, validate }
}

/// Ends a run after some steps.
struct Until(usize);

impl LanguageObserver for Until {
    fn step(&mut self, progress: &Progress, _: Option<f64>) -> bool {
        progress.done < self.0
    }

    fn note(&mut self, text: &str) {
        println!("{text}");
    }
}

fn run(recipe: &LanguageRecipe, folder: &Path, resume: bool, until: usize) -> Result<LanguageOutcome, Error> {
    let host = cpu();
    train_language(task(recipe, &host), folder, &host, resume, true, &mut Until(until))
}

fn values(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_vec::<f32>().expect("values"))).collect()
}

#[test]
fn a_run_that_was_interrupted_ends_as_one_that_was_not() {
    for more in ["", "adapter = { rank = 4, alpha = 8.0 }"] {
        let recipe = recipe(more);
        let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let at_once = run(&recipe, whole.path(), false, 100).expect("a run");
        assert!(at_once.finished);
        let first = run(&recipe, parts.path(), false, 5).expect("a part");
        assert!(!first.finished && first.progress.done == 5);
        let second = run(&recipe, parts.path(), true, 100).expect("the rest");
        assert!(second.finished);
        assert_eq!(values(&second.parameters), values(&at_once.parameters), "{more}");
        let metrics = |folder: &Path| -> Vec<_> {
            let all = read_metrics(&folder.join("metrics.jsonl")).expect("metrics");
            all.into_iter().map(|metric| (metric.step, metric.loss, metric.perplexity)).collect()
        };
        let found = metrics(whole.path());
        assert_eq!(metrics(parts.path()), found);
        let losses: Vec<f32> = found.iter().filter_map(|metric| metric.1).collect();
        assert_eq!((losses.len(), found.iter().filter(|metric| metric.2.is_some()).count()), (8, 2));
        // A guess among 32 tokens has a perplexity of 32; frozen random weights leave an adapter little to do.
        let perplexities: Vec<f64> = found.iter().filter_map(|metric| metric.2).collect();
        assert!(perplexities[1] < perplexities[0], "{perplexities:?}");
        assert!(!more.is_empty() || (perplexities[1] < 31.0 && losses[7] < losses[0]), "{perplexities:?} {losses:?}");
        // A run is begun once, and goes on with its own recipe.
        assert!(matches!(run(&recipe, whole.path(), false, 100), Err(Error::RunExists(_))));
        let mut other = recipe.clone();
        other.training.length = 16;
        assert!(matches!(run(&other, whole.path(), true, 100), Err(Error::Checkpoint { .. })));
        let empty = tempfile::tempdir().expect("a folder");
        assert!(matches!(run(&recipe, &empty.path().join("none"), true, 100), Err(Error::NoRun(_))));
    }
}

#[test]
fn an_adapter_leaves_the_weights_alone() {
    let recipe = recipe("adapter = { rank = 4, alpha = 8.0, targets = ['q_proj', 'down_proj'] }");
    let folder = tempfile::tempdir().expect("a folder");
    let outcome = run(&recipe, folder.path(), false, 100).expect("a run");
    let host = cpu();
    let before = task(&recipe, &host).parameters;
    for (name, tensor) in outcome.parameters.iter().filter(|(name, _)| !name.contains("lora")) {
        let start = before.get("test", name).expect("it was there").to_vec::<f32>().expect("values");
        assert_eq!(tensor.to_vec::<f32>().expect("values"), start, "{name}");
    }
    let saved = Weights::open(&folder.path().join("checkpoint.safetensors")).expect("a checkpoint");
    assert!(saved.names().all(|name| name.contains("lora")), "what is frozen is not kept twice");
    let merged = outcome.definition.merged(&outcome.parameters).expect("merged");
    let name = "model.layers.0.mlp.down_proj.weight";
    let [a, b] =
        [&merged, &before].map(|all| all.get("test", name).expect("a weight").to_vec::<f32>().expect("values"));
    assert_ne!(a, b);
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    let (recipe, host) = (recipe(""), cpu());
    let with = |corpus: Corpus, validate: Option<Corpus>| {
        let folder = tempfile::tempdir().expect("a folder");
        let task = LanguageTask { corpus, validate, ..task(&recipe, &host) };
        train_language(task, folder.path(), &host, false, true, &mut Until(1)).map(|_| ())
    };
    let text = || Corpus::Text(vec![1; 100]);
    assert!(matches!(with(Corpus::Text(vec![1; 24]), None), Err(Error::Examples(_))));
    assert!(matches!(with(Corpus::Text(vec![32; 100]), None), Err(Error::Examples(_))));
    assert!(matches!(with(text(), Some(Corpus::Text(vec![32; 100]))), Err(Error::Examples(_))));
    let silent = Corpus::Documents(vec![Document { tokens: vec![1, 2], counts: vec![false; 2] }]);
    assert!(matches!(with(silent.clone(), None), Err(Error::Examples(_))));
    assert!(matches!(with(text(), Some(silent)), Err(Error::Examples(_))));
    assert!(with(text(), None).is_ok());
}

#[cfg(feature = "cuda")]
fn wants_gpu() -> bool {
    std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_learns_what_the_cpu_does() {
    if !wants_gpu() {
        return;
    }
    let (host, gpu) = (cpu(), Device::cuda(0).expect("a GPU"));
    for (precision, tolerance) in [("f32", 2e-4), ("f16", 1e-2), ("bf16", 3e-2)] {
        for more in ["", "adapter = { rank = 4, alpha = 8.0 }"] {
            let recipe = recipe(&format!("precision = '{precision}'\n{more}"));
            let curve = |device: &Device, graph: bool, parts: &[usize]| {
                let folder = tempfile::tempdir().expect("a folder");
                for (i, &until) in parts.iter().enumerate() {
                    train_language(task(&recipe, &host), folder.path(), device, i > 0, graph, &mut Until(until))
                        .expect("a run");
                }
                let all = read_metrics(&folder.path().join("metrics.jsonl")).expect("metrics");
                let numbers = |metric: &supple_train::Metric| metric.loss.or(metric.perplexity.map(|p| p.ln() as f32));
                all.iter().filter_map(numbers).collect::<Vec<f32>>()
            };
            let wanted = curve(&host, true, &[100]);
            for (graph, parts) in [(false, &[100][..]), (true, &[100]), (true, &[5, 100])] {
                let found = curve(&gpu, graph, parts);
                assert_eq!(found.len(), wanted.len());
                let worst = found.iter().zip(&wanted).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f32::max);
                println!("{precision} {more:?} graph {graph} {parts:?}: losses {worst:.1e} off");
                assert!(found.iter().all(|v| v.is_finite()) && worst < tolerance, "{found:?}, wanted {wanted:?}");
            }
        }
    }
}

/// Milliseconds of a step of a decoder of 135 million parameters on rows of 1024 tokens.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "a measurement"]
fn speed_of_135_million_parameters() {
    let (host, gpu) = (cpu(), Device::cuda(0).expect("a GPU"));
    let definition = decoder([49152, 576, 1536, 30, 9]);
    let parameters = definition.initialise(&host, 1).expect("parameters");
    for (batch, recompute, adapter, graph) in [
        (1, false, false, true),
        (8, false, false, true),
        (8, false, false, false),
        (8, true, false, true),
        (8, false, true, true),
    ] {
        let more = if adapter { "adapter = { rank = 16, alpha = 32.0 }" } else { "" };
        let mut recipe = recipe(&format!("precision = 'bf16'\n{more}"));
        recipe.every = supple_train::Every { log: 1, checkpoint: 0, validate: 0 };
        let training = &mut recipe.training;
        (training.steps, training.batch, training.accumulate, training.length) = (30, batch, 1, 1024);
        (training.recompute, training.learning_rate) = (recompute, 1e-3);
        let corpus = Corpus::Text((0..200_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 17 & 4095).collect());
        let task = LanguageTask {
            recipe: &recipe,
            definition: definition.clone(),
            parameters: parameters.clone(),
            host: host.clone(),
            corpus,
            validate: None,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let mut clock = Clock(Vec::new());
        let outcome = train_language(task, folder.path(), &gpu, false, graph, &mut clock).expect("a run");
        // The host is at most three batches ahead.
        let ms = (clock.0[27] - clock.0[9]).as_secs_f64() * 1e3 / 18.0;
        let loss = outcome.progress.loss;
        println!(
            "batch {batch}, recompute {recompute}, adapter {adapter}, graph {graph}: {ms:.2} ms a step, loss {loss}"
        );
    }
}

#[cfg(feature = "cuda")]
struct Clock(Vec<std::time::Instant>);

#[cfg(feature = "cuda")]
impl LanguageObserver for Clock {
    fn step(&mut self, _: &Progress, _: Option<f64>) -> bool {
        self.0.push(std::time::Instant::now());
        true
    }

    fn note(&mut self, text: &str) {
        println!("{text}");
    }
}
