//! How fast training is, on made-up pictures: the loop itself, with all that it does for each step.

use super::pictures::Pictures;
use super::{Options, TrainingPrecision};
use crate::{Error, compute};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supple_tensor::{Device, Random};
use supple_train::{BoxError, Loader, Observer, Plan, Progress, Recipe, Setup};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Network, as recipes call it.
    pub network: String,
    /// Output pixels along a side of an input pixel.
    pub scale: usize,
    /// Examples in a step.
    pub batch: usize,
    /// Side of an example in high-resolution pixels.
    pub patch: usize,
    /// Parts that a batch is split into.
    pub accumulate: usize,
    /// Steps that count, after ten that warm up.
    pub steps: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Speed {
    /// What computed.
    pub device: String,
    /// Whether a GPU replayed the step as a graph.
    pub graph: bool,
    /// Milliseconds of a step: the median over groups of five.
    pub median_ms: f64,
    /// The least of them.
    pub min_ms: f64,
    /// Batches that the loader makes in a second, with nobody to wait for.
    pub loader_per_s: f64,
    /// Loss of the last step.
    pub loss: f32,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Steps of a group that is timed.
const GROUP: usize = 5;

/// Steps before the first that counts.
const WARM_UP: usize = 10;

/// Trains for some steps and measures them.
///
/// # Errors
/// As [`run`](super::run). `watch` is asked after every step whether to go on; [`Error::Cancelled`] if not.
pub fn speed(trial: &Trial, options: Options, watch: &mut dyn FnMut() -> bool) -> Result<Speed, Error> {
    let Trial { network, scale, batch, patch, accumulate, steps } = trial;
    let precision = options.precision.unwrap_or_default();
    let total = WARM_UP + steps.next_multiple_of(GROUP);
    let text = format!(
        "precision = '{precision}'\nevery = {{ log = 100, checkpoint = 0, validate = 0 }}\n\
         [network]\nkind = {network:?}\nscale = {scale}\n[data]\ntrain = ['made up']\n\
         [[stage]]\nsteps = {total}\nbatch = {batch}\naccumulate = {accumulate}\npatch = {patch}\nlearning_rate = 5e-4\n\
         clip = 1.0\naverage = 0.999\nloss = [{{ kind = 'l1' }}]"
    );
    let recipe = Recipe::parse("bench", &text)?;
    let cpu = compute::cpu(options.threads)?;
    let threads = cpu.threads();
    let device = match compute::placement(options.device)?.device {
        Some(device) => device,
        None => Device::cpu(cpu).map_err(supple_models::Error::from)?,
    };
    let examples = Arc::new(Pictures::made_up(*scale));
    let loader_per_s = {
        let plan = Plan {
            batch: *batch,
            patch: *patch,
            scale: *scale,
            steps: 0..usize::MAX,
            random: Random::new(recipe.seed),
        };
        let mut loader = Loader::bytes(examples.clone(), plan, threads, 0..*batch)?;
        let (began, mut batches) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(700) {
            loader.next_batch()?;
            batches += 1;
        }
        f64::from(batches) / began.elapsed().as_secs_f64()
    };
    // Nothing of the run is kept.
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir(), "make a folder in"))?;
    let mut clock = Clock { watch, began: Instant::now(), times: Vec::new(), notes: Vec::new() };
    let run = supple_train::Options { resume: false, loader_threads: threads };
    let setup = Setup { graph: !options.without_graph, team: None };
    let outcome = supple_train::train_with(&recipe, folder.path(), &device, examples, run, &setup, &mut clock)?;
    if !outcome.finished {
        return Err(Error::Cancelled);
    }
    clock.times.sort_by(f64::total_cmp);
    let times = &clock.times;
    let on_cpu = matches!(device, Device::Cpu(_));
    let computes = if on_cpu { TrainingPrecision::F32 } else { precision };
    Ok(Speed {
        device: format!("{}, {computes}", device.name()),
        graph: !on_cpu && setup.graph && clock.notes.is_empty(),
        median_ms: times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
        min_ms: times.first().copied().unwrap_or(f64::NAN),
        loader_per_s,
        loss: outcome.progress.loss,
        notes: clock.notes,
    })
}

/// Times groups of steps. A GPU is at most a few steps behind, so that a group of them takes it as long as the host waits.
struct Clock<'a> {
    watch: &'a mut dyn FnMut() -> bool,
    began: Instant,
    times: Vec<f64>,
    notes: Vec<String>,
}

impl Observer for Clock<'_> {
    fn step(&mut self, progress: &Progress) -> bool {
        if progress.step.is_multiple_of(GROUP) {
            if progress.step > WARM_UP {
                self.times.push(self.began.elapsed().as_secs_f64() * 1e3 / GROUP as f64);
            }
            self.began = Instant::now();
        }
        (self.watch)()
    }

    fn validate(&mut self, _: &Progress, _: &Path) -> Result<Option<f64>, BoxError> {
        Ok(None)
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_steps_are_measured() {
        let trial = Trial { network: "rlfn_tiny".into(), scale: 2, batch: 2, patch: 32, accumulate: 1, steps: 10 };
        let options = Options { device: crate::DeviceChoice::Cpu, threads: Some(1), ..Options::default() };
        let speed = super::speed(&trial, options, &mut || true).unwrap();
        assert!(speed.median_ms >= speed.min_ms && speed.min_ms > 0.0 && speed.loss.is_finite(), "{speed:?}");
        assert!(matches!(super::speed(&trial, options, &mut || false), Err(Error::Cancelled)));
        assert!(super::speed(&Trial { network: "none".into(), ..trial }, options, &mut || true).is_err());
    }
}
