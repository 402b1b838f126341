//! Runs on a GPU beside the same on the CPU, and runs of several processes. `SUPPLE_TEST_DEVICE=cuda` asks for the GPU; without it
//! there is what the CPU can show.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use supple_tensor::{Cpu, Device, Isa, Random};
use supple_train::parallel::{Place, Tcp};
use supple_train::{
    BoxError, Error, Example, Examples, Metric, Observer, Options, Outcome, Precision, Progress, Recipe,
};
use supple_train::{Setup, read_metrics, train_with};
use supple_weights::Weights;

/// Smooth pictures in 8 bits: waves of random direction. The network sees means of two by two pixels.
struct Waves;

impl Examples for Waves {
    fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError> {
        let [low, high] = self.bytes(patch, random)?.map(|bytes| bytes.iter().map(|&v| f32::from(v) / 255.0).collect());
        Ok(Example { low, high })
    }

    fn has_bytes(&self) -> bool {
        true
    }

    fn bytes(&self, patch: usize, random: &mut Random) -> Result<[Vec<u8>; 2], BoxError> {
        let [a, b, c] = [0; 3].map(|_| random.unit() as f32 * 0.6);
        let wave = |y: f32, x: f32, channel: usize| 0.5 + 0.4 * (a * x + b * y + c * 9.0 + channel as f32).sin();
        let picture = |side: usize, step: f32| -> Vec<u8> {
            let centre = |i: usize| (i as f32 + 0.5) * step;
            (0..side * side * 3)
                .map(|i| (wave(centre(i / 3 / side), centre(i / 3 % side), i % 3) * 255.0) as u8)
                .collect()
        };
        Ok([picture(patch / 2, 2.0), picture(patch, 1.0)])
    }
}

/// Stops after so many steps of this sitting, and remembers what it was told.
struct Watch {
    left: usize,
    notes: Vec<String>,
}

impl Observer for Watch {
    fn step(&mut self, _: &Progress) -> bool {
        self.left -= 1;
        self.left > 0
    }
    fn validate(&mut self, _: &Progress, weights: &Path) -> Result<Option<f64>, BoxError> {
        assert!(weights.is_file());
        Ok(None)
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

fn cpu() -> Device {
    Device::cpu(Cpu::new(Isa::detect(), 2)).unwrap()
}

/// The GPU, if tests are to run on it.
fn gpu() -> Option<Device> {
    #[cfg(feature = "cuda")]
    if std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        return Some(Device::cuda(0).expect("SUPPLE_TEST_DEVICE=cuda asks for a GPU"));
    }
    None
}

fn recipe(network: &str, steps: usize, more: &str) -> Recipe {
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
        steps = {steps}
        batch = 8
        patch = 32
        learning_rate = 2e-3
        warm_up = 3
        average = 0.9
        clip = 1.0
        schedule = {{ kind = "cosine", end = 1e-6 }}
        {more}
        "#
    );
    Recipe::parse("test", &text).unwrap()
}

const L1: &str = "loss = [{ kind = 'l1' }]";

fn sit(recipe: &Recipe, folder: &Path, device: &Device, resume: bool, steps: usize, setup: &Setup) -> (Outcome, Watch) {
    let mut watch = Watch { left: steps, notes: Vec::new() };
    let options = Options { resume, loader_threads: 2 };
    let outcome = train_with(recipe, folder, device, Arc::new(Waves), options, setup, &mut watch).unwrap();
    (outcome, watch)
}

fn losses(folder: &Path) -> Vec<f32> {
    let metrics: Vec<Metric> = read_metrics(&folder.join("metrics.jsonl")).unwrap();
    metrics.iter().filter_map(|metric| metric.loss).collect()
}

/// Largest difference of two files' tensors.
fn difference(a: &Path, b: &Path) -> f32 {
    let [a, b] = [a, b].map(|path| Weights::open(path).unwrap());
    assert!(a.names().eq(b.names()));
    let of = |name: &str| {
        let [a, b] = [&a, &b].map(|weights| weights.tensor_any_shape(name).unwrap().1);
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    a.names().map(of).fold(0.0, f32::max)
}

fn mean(losses: &[f32]) -> f32 {
    losses.iter().sum::<f32>() / losses.len() as f32
}

#[test]
fn processes_together_do_what_one_does() {
    let sgd = format!("accumulate = 2\noptimizer = {{ kind = 'sgd', momentum = 0.9 }}\n{L1}");
    let recipe = recipe("rlfn_tiny", 10, &sgd);
    let devices: Vec<Device> = std::iter::once(cpu()).chain(gpu()).collect();
    for device in &devices {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        sit(&recipe, one.path(), device, false, 1000, &Setup::default());
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let (recipe, folder, device) = (&recipe, two.path(), device.clone());
                scope.spawn(move || {
                    let place = Place { rank, size: 2, local_rank: rank, host: "127.0.0.1".into(), port };
                    let setup = Setup { team: Some(Arc::new(Tcp::new(&place).unwrap())), ..Setup::default() };
                    // Work on a GPU is recorded by one thread at a time, so here each has its own handle.
                    #[cfg(feature = "cuda")]
                    let device = if matches!(device, Device::Cuda(_)) { Device::cuda(0).unwrap() } else { device };
                    assert!(sit(recipe, folder, &device, false, 1000, &setup).0.finished);
                });
            }
        });
        let file = "checkpoint.safetensors";
        let found = difference(&one.path().join(file), &two.path().join(file));
        assert!(found < 2e-5, "{}: weights differ by {found}", device.name());
        for (a, b) in losses(one.path()).iter().zip(losses(two.path())) {
            assert!((a - b).abs() < 1e-5, "{}: losses {a} and {b}", device.name());
        }
    }
}

#[test]
fn the_cpu_computes_in_f32_whatever_the_precision() {
    let [plain, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let recipe = recipe("rlfn_tiny", 4, L1);
    sit(&recipe, plain.path(), &cpu(), false, 1000, &Setup::default());
    sit(&recipe.clone().with_precision(Precision::Bf16), other.path(), &cpu(), false, 1000, &Setup::default());
    let read = |folder: &Path| std::fs::read(folder.join("weights.safetensors")).unwrap();
    assert!(read(plain.path()) == read(other.path()));
}

#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let Some(gpu) = gpu() else { return };
    let contrastive = "loss = [{ kind = 'charbonnier' }, { kind = 'mse' }, { kind = 'contrastive', weight = 0.01 }]";
    let sgd = format!("optimizer = {{ kind = 'sgd', momentum = 0.9 }}\n{L1}");
    let parts =
        format!("accumulate = 2\noptimizer = {{ kind = 'adam_w', weight_decay = 0.1, epsilon = 1e-3 }}\n{contrastive}");
    for (network, more) in [("rlfn_tiny", &sgd), ("rlfn_tiny", &parts)] {
        let recipe = recipe(network, 12, more);
        let [on_cpu, on_gpu] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        sit(&recipe, on_cpu.path(), &cpu(), false, 1000, &Setup::default());
        let (outcome, watch) = sit(&recipe, on_gpu.path(), &gpu, false, 1000, &Setup::default());
        assert!(outcome.finished && watch.notes.is_empty(), "{:?}", watch.notes);
        let (a, b) = (losses(on_cpu.path()), losses(on_gpu.path()));
        assert_eq!((a.len(), b.len()), (12, 12));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 2e-3 * a.abs(), "{network}: losses {a} on the CPU, {b} on the GPU");
        }
        // Kernel by kernel it is the same step, to the bit where nothing is summed in an order of chance.
        let eager = tempfile::tempdir().unwrap();
        sit(&recipe, eager.path(), &gpu, false, 1000, &Setup { graph: false, ..Setup::default() });
        let found = difference(&on_gpu.path().join("weights.safetensors"), &eager.path().join("weights.safetensors"));
        assert!(found < 1e-4, "{network}: recorded and not differ by {found}");
        println!("{network}: graph and eager differ by {found}");
    }
}

#[test]
fn networks_learn_in_every_precision() {
    let Some(gpu) = gpu() else { return };
    for network in ["rlfn_tiny", "ditn_tiny"] {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let steps = if network == "rlfn_tiny" { 80 } else { 30 };
            let recipe = recipe(network, steps, L1).with_precision(precision);
            let folder = tempfile::tempdir().unwrap();
            let (outcome, watch) = sit(&recipe, folder.path(), &gpu, false, 1000, &Setup::default());
            let losses = losses(folder.path());
            let (first, last) = (mean(&losses[..3]), mean(&losses[losses.len() - 3..]));
            println!("{network} {precision}: loss from {first} to {last}, {:?}", watch.notes);
            assert!(outcome.finished && losses.len() == steps);
            assert!(last < 0.7 * first, "{network} {precision}: loss from {first} to {last}");
            let saved = Weights::open(&folder.path().join("checkpoint.safetensors")).unwrap();
            assert_eq!(saved.metadata().contains_key("loss_scale"), precision == Precision::F16);
        }
    }
}

#[test]
fn a_run_goes_on_on_another_device() {
    let Some(gpu) = gpu() else { return };
    let recipe = recipe("rlfn_tiny", 20, &format!("optimizer = {{ kind = 'adam', epsilon = 1e-3 }}\n{L1}"));
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    sit(&recipe, whole.path(), &cpu(), false, 1000, &Setup::default());
    for (i, (device, steps)) in [(&gpu, 6), (&cpu(), 5), (&gpu, 5), (&cpu(), 1000)].into_iter().enumerate() {
        sit(&recipe, parts.path(), device, i > 0, steps, &Setup::default());
    }
    let (a, b) = (losses(whole.path()), losses(parts.path()));
    assert_eq!((a.len(), b.len()), (20, 20), "every step once");
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 5e-3 * a.abs(), "losses {a} in a go, {b} in parts");
    }
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint() {
    for device in std::iter::once(cpu()).chain(gpu()) {
        let mut recipe = recipe("rlfn_tiny", 60, "optimizer = { kind = 'sgd' }\nloss = [{ kind = 'mse' }]");
        recipe.stages[0].clip = None;
        recipe.stages[0].learning_rate = 1e12;
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch { left: 1000, notes: Vec::new() };
        let options = Options { resume: false, loader_threads: 1 };
        let examples = Arc::new(Waves);
        let setup = Setup::default();
        let error = train_with(&recipe, folder.path(), &device, examples, options, &setup, &mut watch).unwrap_err();
        assert!(matches!(error, Error::Diverged { stage: 1, .. }), "{error}");
        let saved = Weights::open(&folder.path().join("checkpoint.safetensors")).unwrap();
        for name in saved.names() {
            assert!(saved.tensor_any_shape(name).unwrap().1.iter().all(|value| value.is_finite()), "{name}");
        }
    }
}
