//! The loop.
//!
//! A run lives in a folder: `recipe.toml`, `metrics.jsonl`, `checkpoint.safetensors` (everything needed to go on),
//! `weights.safetensors` (what the streaming pass loads: the moving average, if there is one) and, of every finished stage but
//! the last, `stage1.safetensors` and so on.

use crate::file::write_whole;
use crate::learner::{Learner, Report, Snapshot, Task};
use crate::metrics::{Metric, Metrics};
use crate::parallel::{self, Communicator};
use crate::recipe::Stage;
use crate::{Architecture, Average, BoxError, Checkpoint, Error, Examples, Optimizer, Recipe};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use supple_models::Parameters;
use supple_tensor::{Cpu, Device, Isa};
use supple_weights::Weights;

/// How a run is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Go on with what the folder holds.
    pub resume: bool,
    /// Threads that make batches.
    pub loader_threads: usize,
}

/// With whom, and how the device is told what to do.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether a GPU's step is recorded once and replayed; else it is queued kernel by kernel.
    pub graph: bool,
    /// The other processes of the run. Process 0 alone writes files, and validates.
    pub team: Option<Arc<dyn Communicator>>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { graph: true, team: None }
    }
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
    /// Loss of the last step that it is known of: a GPU is a few steps behind.
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

    /// Something that a person should know.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
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
    train_with(recipe, folder, device, examples, options, &Setup::default(), observer)
}

/// As [`train`], in a setup of one's own.
///
/// # Errors
/// As [`train`], and [`Error::Lost`] if another process is gone.
pub fn train_with(
    recipe: &Recipe,
    folder: &Path,
    device: &Device,
    examples: Arc<dyn Examples>,
    options: Options,
    setup: &Setup,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    // What is read, written and changed between stages lies on the host.
    let host = match device {
        Device::Cpu(_) => device.clone(),
        #[allow(unreachable_patterns, reason = "without GPUs there is nothing else")]
        _ => Device::cpu(Cpu::new(Isa::detect(), 1))?,
    };
    let writes = setup.team.as_ref().is_none_or(|team| team.rank() == 0);
    let mut run = Run { recipe, folder, device, examples, options, setup, metrics: None, began: Instant::now() };
    let mut state = if writes { run.begin(&host)? } else { State::nowhere(recipe)? };
    if let Some(team) = &setup.team {
        run.hand_round(&**team, &host, &mut state)?;
    }
    let mut loss = f32::NAN;
    loop {
        let finished = run.stage(&mut state, &mut loss, observer)?;
        run.save(&state.position, &state.start)?;
        let weights = run.weights(&state.position, &state.start, "weights.safetensors")?;
        let progress = run.progress(&state.position, loss);
        if !finished || state.position.stage + 1 == recipe.stages.len() {
            return Ok(Outcome { finished, weights, progress });
        }
        let next = state.position.stage + 1;
        run.weights(&state.position, &state.start, &format!("stage{next}.safetensors"))?;
        state = State::begin(&state.position.architecture, state.start.result(), next, &recipe.stages[next])?;
        run.save(&state.position, &state.start)?;
    }
}

/// How far a run is.
struct Position {
    architecture: Architecture,
    /// Number of the stage, from 0.
    stage: usize,
    /// Steps of it that are done.
    step: usize,
}

/// How far a run is, and what it goes on from.
struct State {
    position: Position,
    start: Snapshot<'static>,
}

impl State {
    fn begin(before: &Architecture, weights: &Parameters, number: usize, stage: &Stage) -> Result<State, Error> {
        let (architecture, weights) = before.enter(stage, weights)?;
        let parameters = weights.copy()?;
        let average = stage.average.map(|decay| Average::new(&parameters, decay)).transpose()?;
        let start = Snapshot {
            parameters: Cow::Owned(parameters),
            average: average.map(Cow::Owned),
            optimizer: Cow::Owned(Optimizer::new(stage.optimizer)),
            scale: None,
        };
        Ok(State { position: Position { architecture, stage: number, step: 0 }, start })
    }

    fn resume(first: &Architecture, found: Checkpoint, path: &Path, stages: &[Stage]) -> Result<State, Error> {
        let architecture = first.at(&stages[..=found.stage]);
        if !found.fits(architecture.network()) {
            let problem = "its tensors are not those of the network".to_owned();
            return Err(Error::Checkpoint { path: path.into(), problem });
        }
        let position = Position { architecture, stage: found.stage, step: found.step };
        let decay = stages[found.stage].average;
        Ok(State { position, start: found.into_snapshot(decay)? })
    }

    /// What a process has before it has heard from process 0.
    fn nowhere(recipe: &Recipe) -> Result<State, Error> {
        let position = Position { architecture: Architecture::of(recipe)?, stage: 0, step: 0 };
        let optimizer = Cow::Owned(Optimizer::new(recipe.stages[0].optimizer));
        let start = Snapshot { parameters: Cow::Owned(Parameters::default()), average: None, optimizer, scale: None };
        Ok(State { position, start })
    }
}

struct Run<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    device: &'a Device,
    examples: Arc<dyn Examples>,
    options: Options,
    setup: &'a Setup,
    /// `None` where another process writes them.
    metrics: Option<Metrics>,
    began: Instant,
}

/// Steps between two votes of GPUs on whether to stop: a vote waits for all.
const VOTE: usize = 16;

impl Run<'_> {
    fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// Begins a run, or opens that which is there.
    fn begin(&mut self, host: &Device) -> Result<State, Error> {
        let (recipe, folder, checkpoint) = (self.recipe, self.folder, self.checkpoint());
        let exists = checkpoint.exists();
        if exists && !self.options.resume {
            return Err(Error::RunExists(folder.into()));
        }
        if self.options.resume && !exists {
            return Err(Error::NoRun(folder.into()));
        }
        let first = Architecture::of(recipe)?;
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
        let state = if exists {
            let found = Checkpoint::open(&checkpoint, recipe, host)?;
            State::resume(&first, found, &checkpoint, &recipe.stages)?
        } else {
            write_whole(&folder.join("recipe.toml"), &recipe.to_toml()?)?;
            State::begin(&first, &first.start(recipe, host)?, 0, &recipe.stages[0])?
        };
        let Position { stage, step, .. } = state.position;
        self.metrics = Some(Metrics::resume(&folder.join("metrics.jsonl"), stage + 1, step)?);
        if !exists {
            // A run exists from here on: a kill before the first interval is over can be resumed too.
            self.save(&state.position, &state.start)?;
        }
        Ok(state)
    }

    /// Gives all processes the checkpoint that process 0 begins with.
    fn hand_round(&self, team: &dyn Communicator, host: &Device, state: &mut State) -> Result<(), Error> {
        let path = self.checkpoint();
        let mut bytes = match self.metrics {
            Some(_) => std::fs::read(&path).map_err(Error::io(&path, "read"))?,
            None => Vec::new(),
        };
        team.broadcast(&mut bytes)?;
        if self.metrics.is_none() {
            let weights = Weights::from_bytes("the checkpoint of process 0", bytes)?;
            let found = Checkpoint::read(&path, &weights, self.recipe, host)?;
            *state = State::resume(&Architecture::of(self.recipe)?, found, &path, &self.recipe.stages)?;
        }
        Ok(())
    }

    /// Does what is left of a stage. False if the observer ended it.
    fn stage(&mut self, state: &mut State, last: &mut f32, observer: &mut dyn Observer) -> Result<bool, Error> {
        let State { position, start } = state;
        let architecture = position.architecture.clone();
        let task = Task {
            device: self.device,
            recipe: self.recipe,
            architecture: &architecture,
            number: position.stage,
            step: position.step,
            examples: self.examples.clone(),
            loader_threads: self.options.loader_threads,
            graph: self.setup.graph,
            team: self.setup.team.clone(),
        };
        if position.step == task.stage().steps {
            return Ok(true);
        }
        let mut learner = task.learner(start.clone())?;
        let finished = self.steps(position, &mut *learner, last, observer)?;
        *start = learner.snapshot()?.into_owned();
        Ok(finished)
    }

    fn steps(
        &mut self,
        position: &mut Position,
        learner: &mut dyn Learner,
        last: &mut f32,
        observer: &mut dyn Observer,
    ) -> Result<bool, Error> {
        let (stage, every) = (&self.recipe.stages[position.stage], self.recipe.every);
        let mut asked = false;
        while position.step < stage.steps {
            learner.step()?;
            if let Some(note) = learner.note() {
                observer.note(&note);
            }
            position.step += 1;
            let due = |every: usize| every > 0 && position.step.is_multiple_of(every);
            let ends = position.step == stage.steps;
            let (validates, saves) = (due(every.validate) || ends, due(every.checkpoint) && !ends);
            // All that is known goes into the metrics before anything else is written: what a checkpoint covers is there, and a
            // loss that is no number ends the run.
            for report in learner.reports(validates || saves)? {
                *last = report.loss;
                self.log(position, stage, &report)?;
            }
            let progress = self.progress(position, *last);
            if validates && self.metrics.is_some() {
                let weights = self.weights(position, &learner.snapshot()?, "weights.safetensors")?;
                if let Some(psnr) = observer.validate(&progress, &weights).map_err(Error::Observer)? {
                    self.write(Metric { psnr: Some(psnr), ..self.metric(position, position.step) })?;
                }
            }
            if saves {
                self.save(position, &learner.snapshot()?)?;
            }
            asked |= !observer.step(&progress);
            if self.agreed(asked, position.step)? {
                // What is not known yet must be a number too.
                for report in learner.reports(true)? {
                    *last = report.loss;
                    self.log(position, stage, &report)?;
                }
                return Ok(ends);
            }
        }
        Ok(true)
    }

    /// Whether to stop: all processes do at the same step.
    fn agreed(&self, asked: bool, step: usize) -> Result<bool, Error> {
        match &self.setup.team {
            None => Ok(asked),
            Some(team) => {
                let votes = matches!(self.device, Device::Cpu(_)) || step.is_multiple_of(VOTE);
                Ok(votes && parallel::any(&**team, asked)?)
            }
        }
    }

    fn log(&mut self, position: &Position, stage: &Stage, report: &Report) -> Result<(), Error> {
        let due = self.recipe.every.log > 0 && report.step.is_multiple_of(self.recipe.every.log);
        if !due && report.step != stage.steps {
            return Ok(());
        }
        let rate = stage.schedule.learning_rate(stage.learning_rate, stage.warm_up, report.step - 1, stage.steps);
        // Of a step left out for the scale of its loss there is no norm.
        let norm = Some(report.norm).filter(|norm| norm.is_finite());
        let (loss, learning_rate, gradient_norm) = (Some(report.loss), Some(rate), norm);
        self.write(Metric { loss, learning_rate, gradient_norm, ..self.metric(position, report.step) })
    }

    fn metric(&self, position: &Position, step: usize) -> Metric {
        let seconds = self.began.elapsed().as_secs_f64();
        Metric { stage: position.stage + 1, step, seconds, ..Metric::default() }
    }

    fn write(&mut self, metric: Metric) -> Result<(), Error> {
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.write(&metric))
    }

    fn progress(&self, position: &Position, loss: f32) -> Progress {
        let stages = &self.recipe.stages;
        let sum = |stages: &[Stage]| stages.iter().map(|stage| stage.steps).sum::<usize>();
        Progress {
            stage: position.stage + 1,
            stages: stages.len(),
            step: position.step,
            steps: stages[position.stage].steps,
            done: sum(&stages[..position.stage]) + position.step,
            total: sum(stages),
            loss,
        }
    }

    fn save(&self, position: &Position, state: &Snapshot<'_>) -> Result<(), Error> {
        if self.metrics.is_none() {
            return Ok(());
        }
        Checkpoint::save(&self.checkpoint(), self.recipe, [position.stage, position.step], state)
    }

    /// Writes the weights as the streaming pass loads them.
    fn weights(&self, position: &Position, state: &Snapshot<'_>, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        if self.metrics.is_some() {
            state.result().save(&path, &position.architecture.network().metadata())?;
        }
        Ok(path)
    }
}
