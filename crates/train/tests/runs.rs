//! Whole runs on a tiny network and pictures made of waves.

use std::path::Path;
use std::sync::Arc;
use supple_models::{Precision, SuperResolution, Window, load};
use supple_tensor::{Cpu, Device, Isa, Random};
use supple_train::{BoxError, Example, Examples, Metric, Observer, Options, Outcome, Progress, Recipe};
use supple_train::{read_metrics, train};
use supple_weights::Weights;

/// Smooth pictures: waves of random direction. The network sees means of two by two pixels.
struct Waves {
    scale: usize,
}

impl Examples for Waves {
    fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError> {
        let [a, b, c] = [0; 3].map(|_| random.unit() as f32 * 0.6);
        let wave = |y: f32, x: f32, channel: usize| 0.5 + 0.4 * (a * x + b * y + c * 9.0 + channel as f32).sin();
        let scale = self.scale as f32;
        let picture = |side: usize, step: f32| -> Vec<f32> {
            let centre = |i: usize| (i as f32 + 0.5) * step;
            (0..side * side * 3).map(|i| wave(centre(i / 3 / side), centre(i / 3 % side), i % 3)).collect()
        };
        Ok(Example { low: picture(patch / self.scale, scale), high: picture(patch, 1.0) })
    }
}

/// Stops after so many steps of this sitting.
struct StopAfter(usize);

impl Observer for StopAfter {
    fn step(&mut self, _: &Progress) -> bool {
        self.0 -= 1;
        self.0 > 0
    }
    fn validate(&mut self, progress: &Progress, weights: &Path) -> Result<Option<f64>, BoxError> {
        assert!(weights.is_file());
        Ok(Some(progress.step as f64))
    }
}

fn device(threads: usize) -> Device {
    Device::cpu(Cpu::new(Isa::detect(), threads)).unwrap()
}

/// Two stages, the second with all that a checkpoint has to keep.
fn recipe(network: &str, second: &str) -> Recipe {
    let text = format!(
        r#"
        seed = 3
        every = {{ log = 1, checkpoint = 4, validate = 5 }}
        [network]
        kind = "{network}"
        scale = 2
        [data]
        train = ["not read"]
        [[stage]]
        steps = 7
        batch = 4
        patch = 32
        learning_rate = 2e-3
        warm_up = 3
        average = 0.9
        loss = [{{ kind = "l1" }}]
        [[stage]]
        steps = 9
        batch = 4
        accumulate = 2
        patch = 48
        learning_rate = 1e-3
        clip = 0.5
        average = 0.9
        optimizer = {{ kind = "adam_w", weight_decay = 0.1 }}
        schedule = {{ kind = "cosine", end = 1e-6 }}
        loss = [{{ kind = "charbonnier" }}, {{ kind = "mse" }}, {{ kind = "contrastive", weight = 0.01 }}]
        {second}
        "#
    );
    Recipe::parse("test", &text).unwrap()
}

fn sit(recipe: &Recipe, folder: &Path, threads: usize, resume: bool, steps: usize) -> Outcome {
    let options = Options { resume, loader_threads: threads };
    let (examples, mut observer) = (Arc::new(Waves { scale: recipe.network.scale }), StopAfter(steps));
    train(recipe, folder, &device(threads), examples, options, &mut observer).unwrap()
}

/// Metrics without the time that they took.
fn curve(folder: &Path) -> Vec<Metric> {
    let metrics = read_metrics(&folder.join("metrics.jsonl")).unwrap();
    metrics.into_iter().map(|metric| Metric { seconds: 0.0, ..metric }).collect()
}

fn same_run(a: &Path, b: &Path) {
    assert_eq!(curve(a), curve(b));
    for file in ["weights.safetensors", "stage1.safetensors", "checkpoint.safetensors"] {
        assert!(std::fs::read(a.join(file)).unwrap() == std::fs::read(b.join(file)).unwrap(), "{file} differs");
    }
}

#[test]
fn a_run_in_sittings_is_the_same_as_one_in_a_go_on_any_number_of_threads() {
    let recipe = recipe("rlfn_tiny", "prune_channels = 14");
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let outcome = sit(&recipe, whole.path(), 1, false, 1000);
    assert!(outcome.finished && outcome.progress.done == 16);
    assert!(!sit(&recipe, parts.path(), 3, false, 5).finished);
    assert!(!sit(&recipe, parts.path(), 2, true, 5).finished);
    assert!(!sit(&recipe, parts.path(), 1, true, 3).finished);
    assert!(sit(&recipe, parts.path(), 3, true, 1000).finished);
    same_run(whole.path(), parts.path());
    let losses = curve(whole.path()).iter().filter(|metric| metric.loss.is_some()).count();
    assert_eq!(losses, 16);
    assert_eq!(curve(whole.path()).iter().filter_map(|metric| metric.psnr).collect::<Vec<_>>(), [5.0, 7.0, 5.0, 9.0]);
}

#[test]
fn a_run_that_was_killed_goes_on_from_its_last_checkpoint() {
    let recipe = recipe("rlfn_tiny", "");
    let [whole, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    sit(&recipe, whole.path(), 2, false, 1000);
    // As a kill would have it: the checkpoint of step 4, and metrics and weights of what came after it.
    sit(&recipe, killed.path(), 2, false, 4);
    let old = std::fs::read(killed.path().join("checkpoint.safetensors")).unwrap();
    sit(&recipe, killed.path(), 2, true, 2);
    assert_eq!(curve(killed.path()).iter().map(|metric| metric.step).max(), Some(6));
    std::fs::write(killed.path().join("checkpoint.safetensors"), old).unwrap();
    std::fs::write(killed.path().join(".checkpoint.safetensors.1-0.part"), b"half a file").unwrap();
    sit(&recipe, killed.path(), 2, true, 1000);
    same_run(whole.path(), killed.path());
}

#[test]
fn training_learns_and_the_streaming_pass_runs_what_was_learnt() {
    for network in ["rlfn_tiny", "ditn_tiny"] {
        let mut recipe = recipe(network, if network == "ditn_tiny" { "substitute_tanh = true" } else { "" });
        // The larger network learns in fewer steps, and takes longer for one.
        [recipe.stages[0].steps, recipe.stages[1].steps] = if network == "ditn_tiny" { [12, 2] } else { [60, 9] };
        let folder = tempfile::tempdir().unwrap();
        let outcome = sit(&recipe, folder.path(), 2, false, 1000);
        let losses: Vec<f32> = curve(folder.path()).iter().filter(|m| m.stage == 1).filter_map(|m| m.loss).collect();
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..3]), mean(&losses[losses.len() - 3..]));
        assert!(last < 0.7 * first, "{network}: loss from {first} to {last}");
        let cpu = Cpu::new(Isa::detect(), 1);
        let weights = Weights::open(&outcome.weights).unwrap();
        let network: Box<dyn SuperResolution> = load(&cpu, &weights, Precision::F32).unwrap();
        assert_eq!(network.scale(), 2);
        let mut rows = 0;
        let window = Window::whole(16, 16);
        network
            .run(&cpu, &window, &mut |_, row| row.fill(0.5), &mut |_, row| {
                rows += usize::from(row.iter().all(|v| v.is_finite()));
                true
            })
            .unwrap();
        assert_eq!(rows, 32);
    }
}

#[test]
fn a_start_of_another_scale_keeps_the_trunk() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe("rlfn_tiny", "");
    let outcome = sit(&recipe, &folder.path().join("x2"), 1, false, 1000);
    recipe.network.start = Some(outcome.weights.clone());
    recipe.network.scale = 3;
    let network = supple_train::Architecture::of(&recipe).unwrap();
    let parameters = network.start(&recipe, &device(1)).unwrap();
    let before = Weights::open(&outcome.weights).unwrap();
    let trunk = parameters.get("test", "block_1.c1_r.weight").unwrap();
    assert_eq!(trunk.to_vec::<f32>().unwrap(), before.tensor("block_1.c1_r.weight", trunk.shape()).unwrap());
    assert_eq!(parameters.get("test", "upsampler.0.bias").unwrap().elements(), 27);
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_overwritten() {
    let mut recipe = recipe("rlfn_tiny", "");
    let folder = tempfile::tempdir().unwrap();
    let run = |recipe: &Recipe, resume| {
        let options = Options { resume, loader_threads: 1 };
        let examples = Arc::new(Waves { scale: 2 });
        train(recipe, folder.path(), &device(1), examples, options, &mut StopAfter(2)).map(|_| ()).unwrap_err()
    };
    assert!(matches!(run(&recipe, true), supple_train::Error::NoRun(_)));
    sit(&recipe, folder.path(), 1, false, 3);
    let before = std::fs::read(folder.path().join("checkpoint.safetensors")).unwrap();
    assert!(matches!(run(&recipe, false), supple_train::Error::RunExists(_)));
    recipe.stages[0].learning_rate *= 2.0;
    let error = run(&recipe, true);
    assert!(error.to_string().contains("another recipe") && error.hint().is_some(), "{error}");
    recipe.stages[0].learning_rate /= 2.0;
    recipe.network.kind = "unet".into();
    assert!(run(&recipe, true).to_string().contains("unet"));
    assert!(std::fs::read(folder.path().join("checkpoint.safetensors")).unwrap() == before);
    // A checkpoint whose moments belong to something else.
    let weights = Weights::from_bytes("before", before).unwrap();
    let tensors: Vec<_> = weights
        .names()
        .map(|name| {
            let (mut shape, mut values) = weights.tensor_any_shape(name).unwrap();
            if name == "second/conv_1.bias" {
                (shape, values) = (vec![1], vec![0.5]);
            }
            (name.to_owned(), supple_weights::DType::F32, shape, values)
        })
        .collect();
    supple_weights::save_safetensors(&folder.path().join("checkpoint.safetensors"), &tensors, weights.metadata())
        .unwrap();
    recipe.network.kind = "rlfn_tiny".into();
    assert!(run(&recipe, true).to_string().contains("not those of the network"));
    // A learning rate that blows the weights up ends the run, and its last checkpoint stays readable.
    let mut wild = self::recipe("rlfn_tiny", "");
    wild.stages[0].learning_rate = 1e30;
    wild.stages[0].warm_up = 0;
    let other = tempfile::tempdir().unwrap();
    let options = Options { resume: false, loader_threads: 1 };
    let error = train(&wild, other.path(), &device(1), Arc::new(Waves { scale: 2 }), options, &mut StopAfter(100));
    assert!(matches!(error, Err(supple_train::Error::Diverged { .. })), "{error:?}");
    assert!(Weights::open(&other.path().join("checkpoint.safetensors")).is_ok());
}
