//! The loop.
//!
//! A run lives in a folder: `recipe.toml`, `metrics.jsonl`, `checkpoint.safetensors` (everything needed to go on),
//! `weights.safetensors` (what the streaming pass loads: the moving average, if there is one) and, of every finished stage but
//! the last, `stage1.safetensors` and so on.

use crate::file::write_whole;
use crate::loader::Plan;
use crate::loss::Loss;
use crate::metrics::{Metric, Metrics};
use crate::recipe::Stage;
use crate::{Architecture, Average, BoxError, Checkpoint, Error, Examples, Loader, Optimizer, Recipe, clip, norm};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use supple_models::Parameters;
use supple_tensor::{Device, Gradients, Random, Tensor, ops};

/// How a run is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Go on with what the folder holds.
    pub resume: bool,
    /// Threads that make batches.
    pub loader_threads: usize,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Stage, from 1.
    pub stage: usize,
    /// Number of stages.
    pub stages: usize,
    /// Steps finished in this stage.
    pub step: usize,
    /// Steps of this stage.
    pub steps: usize,
    /// Steps finished in all stages.
    pub done: usize,
    /// Steps of all stages.
    pub total: usize,
    /// Loss of the last step.
    pub loss: f32,
}

/// Who watches a run.
pub trait Observer {
    /// A step is finished; `false` saves a checkpoint and ends the run.
    fn step(&mut self, progress: &Progress) -> bool;

    /// Weights were written to `weights`; their PSNR on validation pictures, if there are any.
    ///
    /// # Errors
    /// If the pictures cannot be read or the weights not be loaded.
    fn validate(&mut self, progress: &Progress, weights: &Path) -> Result<Option<f64>, BoxError>;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether all stages are done, and not ended by the observer.
    pub finished: bool,
    /// The weights.
    pub weights: PathBuf,
    /// Where the run is.
    pub progress: Progress,
}

/// Trains as `recipe` says, in `folder`.
///
/// # Errors
/// If the recipe makes no sense, the folder holds a run already (or none to resume), examples or files cannot be had, or the
/// loss is no longer a number; the last checkpoint stays.
pub fn train(
    recipe: &Recipe,
    folder: &Path,
    device: &Device,
    examples: Arc<dyn Examples>,
    options: Options,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let checkpoint = folder.join("checkpoint.safetensors");
    let exists = checkpoint.exists();
    if exists && !options.resume {
        return Err(Error::RunExists(folder.into()));
    }
    if options.resume && !exists {
        return Err(Error::NoRun(folder.into()));
    }
    let first = Architecture::of(recipe)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let mut state = if exists {
        let found = Checkpoint::open(&checkpoint, recipe, device)?;
        let architecture = first.at(&recipe.stages[..=found.stage]);
        if !found.fits(architecture.network()) {
            let problem = "its tensors are not those of the network".to_owned();
            return Err(Error::Checkpoint { path: checkpoint, problem });
        }
        State::resume(architecture, found, &recipe.stages)?
    } else {
        write_whole(&folder.join("recipe.toml"), &recipe.to_toml()?)?;
        State::begin(&first, &first.start(recipe, device)?, 0, &recipe.stages[0])?
    };
    let metrics = Metrics::resume(&folder.join("metrics.jsonl"), state.stage + 1, state.step)?;
    let mut run = Run { recipe, folder, device, examples, options, metrics, began: Instant::now() };
    if !exists {
        // A run exists from here on: a kill before the first interval is over can be resumed too.
        run.save(&state)?;
    }
    let mut loss = f32::NAN;
    loop {
        let finished = run.stage(&mut state, &mut loss, observer)?;
        run.save(&state)?;
        let weights = run.weights(&state, "weights.safetensors")?;
        let progress = run.progress(&state, loss);
        if !finished || state.stage + 1 == recipe.stages.len() {
            return Ok(Outcome { finished, weights, progress });
        }
        run.weights(&state, &format!("stage{}.safetensors", state.stage + 1))?;
        let next = state.stage + 1;
        state = State::begin(&state.architecture, state.result(), next, &recipe.stages[next])?;
        run.save(&state)?;
    }
}

/// What changes from step to step.
struct State {
    architecture: Architecture,
    stage: usize,
    step: usize,
    parameters: Parameters,
    average: Option<Average>,
    optimizer: Optimizer,
}

impl State {
    fn begin(before: &Architecture, weights: &Parameters, number: usize, stage: &Stage) -> Result<State, Error> {
        let (architecture, weights) = before.enter(stage, weights)?;
        let parameters = weights.copy()?.variables();
        let average = stage.average.map(|decay| Average::new(&parameters, decay)).transpose()?;
        let optimizer = Optimizer::new(stage.optimizer);
        Ok(State { architecture, stage: number, step: 0, parameters, average, optimizer })
    }

    fn resume(architecture: Architecture, found: Checkpoint, stages: &[Stage]) -> Result<State, Error> {
        let Checkpoint { stage, step, parameters, average, optimizer } = found;
        let average = match (stages[stage].average, average) {
            (Some(decay), Some(average)) => Some(Average::new(&average, decay)?),
            _ => None,
        };
        Ok(State { architecture, stage, step, parameters: parameters.variables(), average, optimizer })
    }

    /// The weights that count: the average if there is one.
    fn result(&self) -> &Parameters {
        self.average.as_ref().map_or(&self.parameters, Average::parameters)
    }
}

struct Run<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    device: &'a Device,
    examples: Arc<dyn Examples>,
    options: Options,
    metrics: Metrics,
    began: Instant,
}

impl Run<'_> {
    /// Does what is left of a stage. False if the observer ended it.
    fn stage(&mut self, state: &mut State, last: &mut f32, observer: &mut dyn Observer) -> Result<bool, Error> {
        let (stage, seed) = (&self.recipe.stages[state.stage], self.recipe.seed);
        let loss = Loss::new(self.device, &stage.loss, seed)?;
        let plan = Plan {
            batch: stage.batch / stage.accumulate,
            patch: stage.patch,
            scale: self.recipe.network.scale,
            steps: state.step * stage.accumulate..stage.steps * stage.accumulate,
            random: Random::new(seed).part(state.stage as u64),
        };
        let mut loader = Loader::new(self.examples.clone(), plan, self.options.loader_threads)?;
        while state.step < stage.steps {
            let (value, gradients) = self.gradients(state, stage, &loss, &mut loader)?;
            let at = Metric { stage: state.stage + 1, step: state.step + 1, ..Metric::default() };
            let size = norm(&state.parameters, &gradients)?;
            if !value.is_finite() || !size.is_finite() {
                return Err(Error::Diverged { stage: at.stage, step: at.step, loss: value });
            }
            let rate = stage.schedule.learning_rate(stage.learning_rate, stage.warm_up, state.step, stage.steps);
            state.optimizer.step(&mut state.parameters, &gradients, clip(size, stage.clip), rate)?;
            if let Some(average) = &mut state.average {
                average.update(&state.parameters, state.step)?;
            }
            state.step += 1;
            *last = value;
            let due = |every: usize| every > 0 && state.step.is_multiple_of(every);
            let (every, ends) = (self.recipe.every, state.step == stage.steps);
            let seconds = self.began.elapsed().as_secs_f64();
            if due(every.log) || ends {
                let (loss, learning_rate, gradient_norm) = (Some(value), Some(rate), Some(size));
                self.metrics.write(&Metric { loss, learning_rate, gradient_norm, seconds, ..at.clone() })?;
            }
            let progress = self.progress(state, value);
            if due(every.validate) || ends {
                let weights = self.weights(state, "weights.safetensors")?;
                if let Some(psnr) = observer.validate(&progress, &weights).map_err(Error::Observer)? {
                    self.metrics.write(&Metric { psnr: Some(psnr), seconds, ..at })?;
                }
            }
            // After the metrics: what a checkpoint covers has been written.
            if due(every.checkpoint) && !ends {
                self.save(state)?;
            }
            if !observer.step(&progress) {
                return Ok(ends);
            }
        }
        Ok(true)
    }

    /// The loss of a step and its gradients.
    fn gradients(
        &self,
        state: &State,
        stage: &Stage,
        loss: &Loss,
        loader: &mut Loader,
    ) -> Result<(f32, Gradients), Error> {
        let (mut total, mut gradients) = (0.0, Gradients::default());
        let network = state.architecture.network();
        for _ in 0..stage.accumulate {
            let [low, high] = loader.next_batch()?.tensors(self.device)?;
            let output = network.forward(&state.parameters, &low)?;
            let part = ops::scale(&loss.of(&output, &high, &low)?, 1.0 / stage.accumulate as f32)?;
            total += part.to_vec::<f32>()?[0];
            gradients.accumulate(Tensor::backward(&part)?)?;
        }
        Ok((total, gradients))
    }

    fn progress(&self, state: &State, loss: f32) -> Progress {
        let stages = &self.recipe.stages;
        let sum = |stages: &[Stage]| stages.iter().map(|stage| stage.steps).sum::<usize>();
        Progress {
            stage: state.stage + 1,
            stages: stages.len(),
            step: state.step,
            steps: stages[state.stage].steps,
            done: sum(&stages[..state.stage]) + state.step,
            total: sum(stages),
            loss,
        }
    }

    fn save(&self, state: &State) -> Result<(), Error> {
        let path = self.folder.join("checkpoint.safetensors");
        let at = [state.stage, state.step];
        Checkpoint::save(&path, self.recipe, at, &state.parameters, state.average.as_ref(), &state.optimizer)
    }

    /// Writes the weights as the streaming pass loads them.
    fn weights(&self, state: &State, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        state.result().save(&path, &state.architecture.network().metadata())?;
        Ok(path)
    }
}
