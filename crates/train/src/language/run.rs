//! The loop. A run's folder holds `recipe.toml`, `metrics.jsonl` and `checkpoint.safetensors` (everything needed to go on).

#[cfg(feature = "cuda")]
use super::gpu::OnGpu;
use super::state::State;
use super::step::{Learner, Lesson, OnHost, Report, together};
use super::{Corpus, LanguageRecipe};
use crate::file::write_whole;
use crate::metrics::{Metric, Metrics};
use crate::{Error, Optimizer, Progress};
use std::path::Path;
use std::time::Instant;
use supple_models::llama::{Adapter, Definition};
use supple_models::{Network, Parameters};
use supple_tensor::{Device, Tensor};

/// What is trained on what.
#[derive(Clone, Debug)]
pub struct LanguageTask<'a> {
    /// How.
    pub recipe: &'a LanguageRecipe,
    /// The decoder, without an adapter.
    pub definition: Definition,
    /// Its parameters, on `host`.
    pub parameters: Parameters,
    /// Where they lie: a CPU.
    pub host: Device,
    /// What is learnt.
    pub corpus: Corpus,
    /// What perplexity is measured on.
    pub validate: Option<Corpus>,
}

/// Who watches a run.
pub trait LanguageObserver {
    /// A step is finished; `false` saves a checkpoint and ends the run. With the perplexity, if it was measured.
    fn step(&mut self, progress: &Progress, perplexity: Option<f64>) -> bool;

    /// Something that a person should know.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
}

/// How a run of a language model ended.
#[derive(Clone, Debug)]
pub struct LanguageOutcome {
    /// Whether all steps are done, and not ended by the observer.
    pub finished: bool,
    /// The decoder, with its adapter.
    pub definition: Definition,
    /// All parameters, those of the adapter included, on the host.
    pub parameters: Parameters,
    /// Where the run is.
    pub progress: Progress,
    /// The last perplexity that was measured.
    pub perplexity: Option<f64>,
}

/// Trains as the recipe says on `device`, in `folder`; with `resume` goes on with what the folder holds. With `graph` a GPU records
/// a step once and replays it.
///
/// # Errors
/// If the folder holds a run already (or none to resume), the corpus does not fit the model, files cannot be written, or the loss
/// is no longer a number; the last checkpoint stays.
#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "graphs are for GPUs"))]
pub fn train_language(
    task: LanguageTask<'_>,
    folder: &Path,
    device: &Device,
    resume: bool,
    graph: bool,
    observer: &mut dyn LanguageObserver,
) -> Result<LanguageOutcome, Error> {
    let LanguageTask { recipe, mut definition, parameters, host, corpus, validate } = task;
    let training = &recipe.training;
    definition.recompute = training.recompute;
    corpus.check(training.length, definition.config.vocabulary)?;
    let rows = validate.map(|corpus| corpus.rows(training.length)).unwrap_or_default();
    let outside =
        rows.iter().flat_map(|row| &row.inputs).find(|token| **token as usize >= definition.config.vocabulary);
    if let Some(token) = outside {
        return Err(Error::Examples(format!("token {token} of the validation text is none of the model's").into()));
    }
    if !rows.is_empty() && rows.iter().all(|row| row.counted() == 0) {
        return Err(Error::Examples("nothing of the validation text counts".into()));
    }
    if training.length > definition.config.context {
        let (length, context) = (training.length, definition.config.context);
        observer.note(&format!("rows of {length} tokens for a model that was made for {context}"));
    }

    // What is trained: the weights, or an adapter beside them.
    let (mut frozen, trained) = (
        Parameters::default(),
        match &recipe.adapter {
            None => parameters.clone(),
            Some(adapter) => {
                let (rank, alpha, targets) = (adapter.rank, adapter.alpha, adapter.targets.clone());
                definition.adapter = Some(Adapter { rank, alpha, targets });
                definition.initialise_adapter(&host, recipe.seed)?
            }
        },
    );
    if recipe.adapter.is_some() {
        frozen = parameters;
    }

    let checkpoint = folder.join("checkpoint.safetensors");
    let exists = checkpoint.exists();
    if exists && !resume {
        return Err(Error::RunExists(folder.into()));
    }
    if resume && !exists {
        return Err(Error::NoRun(folder.into()));
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let state = if exists {
        State::open(&checkpoint, recipe, &trained, &host)?
    } else {
        write_whole(&folder.join("recipe.toml"), &recipe.to_toml()?)?;
        let optimizer = Optimizer::new(training.optimizer);
        let state = State { step: 0, parameters: trained, optimizer, scale: None };
        state.save(&checkpoint, recipe)?;
        state
    };
    let metrics = Metrics::resume(&folder.join("metrics.jsonl"), 1, state.step)?;
    let lesson = Lesson { recipe, definition: &definition, corpus: &corpus, frozen: &frozen };
    let step = state.step;
    let mut learner: Box<dyn Learner + '_> = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Box::new(OnGpu::new(lesson, device, state, graph)?),
        _ => Box::new(OnHost::new(lesson, &host, state)?),
    };
    let mut run = Run { recipe, metrics, began: Instant::now(), loss: f32::NAN, perplexity: None };
    let finished = run.steps(&mut *learner, step, &rows, &checkpoint, observer)?;
    let state = learner.state()?;
    drop(learner);
    state.save(&checkpoint, recipe)?;
    let mut all = Parameters::default();
    for (name, tensor) in together(&frozen, &state.parameters).iter() {
        // On one device, whoever computed.
        let there = Tensor::from_slice(&host, &tensor.to_vec::<f32>()?, tensor.shape())?;
        all.insert(name, there);
    }
    debug_assert_eq!(all.len(), definition.shapes().len() + definition.adapter_shapes().len());
    let (progress, perplexity) = (run.progress(state.step), run.perplexity);
    Ok(LanguageOutcome { finished, definition: definition.clone(), parameters: all, progress, perplexity })
}

struct Run<'a> {
    recipe: &'a LanguageRecipe,
    metrics: Metrics,
    began: Instant,
    loss: f32,
    perplexity: Option<f64>,
}

impl Run<'_> {
    /// Takes what steps are left. False if the observer ended it.
    fn steps(
        &mut self,
        learner: &mut dyn Learner,
        mut step: usize,
        rows: &[super::corpus::Example],
        checkpoint: &Path,
        observer: &mut dyn LanguageObserver,
    ) -> Result<bool, Error> {
        let (steps, every) = (self.recipe.training.steps, self.recipe.every);
        while step < steps {
            learner.step()?;
            step += 1;
            if let Some(note) = learner.note() {
                observer.note(&note);
            }
            let due = |every: usize| every > 0 && step.is_multiple_of(every);
            let (validates, saves) = (due(every.validate) || step == steps, due(every.checkpoint) && step < steps);
            // What a checkpoint covers is in the metrics.
            for report in learner.reports(validates || saves)? {
                self.log(&report)?;
            }
            let mut perplexity = None;
            if validates && !rows.is_empty() {
                perplexity = Some(learner.measure(rows)?.exp());
                self.perplexity = perplexity;
                self.write(Metric { perplexity, ..self.metric(step) })?;
            }
            if saves {
                learner.state()?.save(checkpoint, self.recipe)?;
            }
            if !observer.step(&self.progress(step), perplexity) {
                for report in learner.reports(true)? {
                    self.log(&report)?;
                }
                return Ok(step == steps);
            }
        }
        Ok(true)
    }

    fn log(&mut self, report: &Report) -> Result<(), Error> {
        self.loss = report.loss;
        let (every, steps) = (self.recipe.every.log, self.recipe.training.steps);
        if report.step != steps && (every == 0 || !report.step.is_multiple_of(every)) {
            return Ok(());
        }
        let learning_rate = Some(self.recipe.rate(report.step - 1));
        let gradient_norm = Some(report.norm).filter(|norm| norm.is_finite());
        self.write(Metric { loss: Some(report.loss), learning_rate, gradient_norm, ..self.metric(report.step) })
    }

    fn metric(&self, step: usize) -> Metric {
        Metric { stage: 1, step, seconds: self.began.elapsed().as_secs_f64(), ..Metric::default() }
    }

    fn write(&mut self, metric: Metric) -> Result<(), Error> {
        self.metrics.write(&metric)
    }

    fn progress(&self, step: usize) -> Progress {
        let steps = self.recipe.training.steps;
        Progress { stage: 1, stages: 1, step, steps, done: step, total: steps, loss: self.loss }
    }
}
