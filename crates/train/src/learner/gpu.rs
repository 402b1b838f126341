//! Steps on a GPU: the host sends batches and says go on; the GPU works a few steps behind, and tells later what became of them.

use super::{Learner, Report, Snapshot, Task};
use crate::loss::Loss;
use crate::optimizer::OptimizerRecipe;
use crate::{Average, Error, Loader, LossScale, Optimizer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use supple_models::Parameters;
use supple_tensor::masters::{Masters, Record, Rule, Settings, State, Values};
use supple_tensor::{Cpu, DType, Device, ImageFeed, Isa, Replay, Tensor, ops};

/// Batches in whatever the examples are.
enum Batches {
    Bytes(Loader<u8>),
    Floats(Loader<f32>),
}

/// A stage on a GPU.
pub(crate) struct OnGpu<'a> {
    task: Task<'a>,
    loss: Loss,
    batches: Batches,
    feed: ImageFeed,
    masters: Masters,
    names: Vec<String>,
    /// What the network is called with: leaves on the masters.
    parameters: Parameters,
    leaves: Vec<Tensor>,
    /// What the loss is multiplied by.
    seed: Tensor,
    /// The step as one graph, once it was recorded.
    replay: Option<Replay>,
    may_record: bool,
    note: Option<String>,
    step: usize,
}

impl<'a> OnGpu<'a> {
    pub fn new(task: Task<'a>, start: Snapshot<'static>) -> Result<OnGpu<'a>, Error> {
        let (stage, device) = (task.stage(), task.device);
        let dtype = task.recipe.precision_of(stage).dtype();
        let loss = Loss::new(device, &stage.loss, task.recipe.seed)?;
        let (plan, share) = task.plan()?;
        let (examples, sides) = (share.len(), [plan.patch / plan.scale, plan.patch]);
        let batches = match task.examples.has_bytes() {
            true => Batches::Bytes(Loader::bytes(task.examples.clone(), plan, task.loader_threads, share)?),
            false => Batches::Floats(Loader::share(task.examples.clone(), plan, task.loader_threads, share)?),
        };
        let samples = if matches!(batches, Batches::Bytes(_)) { DType::U8 } else { DType::F32 };
        let feed = ImageFeed::new(device, sides.map(|side| [examples, side, side, 3]), [dtype, DType::F32], samples)?;

        let scale = start.scale.unwrap_or(LossScale::new(dtype));
        let state =
            State { step: task.step as u64, taken: start.optimizer.steps(), scale: scale.factor(), good: scale.good() };
        let settings = Settings {
            rule: rule(&stage.optimizer),
            clip: stage.clip,
            average: stage.average.filter(|_| start.average.is_some()),
            scaling: dtype == DType::F16,
            share: 1.0 / task.team.as_ref().map_or(1.0, |team| team.size() as f64),
        };
        let rates: Vec<f64> = (0..stage.steps).map(|step| task.rate(step)).collect();
        let shapes: Vec<Vec<usize>> = start.parameters.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect();
        let names: Vec<String> = start.parameters.iter().map(|(name, _)| name.to_owned()).collect();
        let network = task.architecture.network();
        // Layers take weights in f32; a copy in 16 bits is for what else there is.
        let low = if names.iter().any(|name| network.meets_activations(name)) { dtype } else { DType::F32 };
        let mut masters = Masters::new(device, &shapes, low, settings, &rates, state)?;
        for (i, (name, tensor)) in start.parameters.iter().enumerate() {
            let [first, second] = start.optimizer.moments().get(name).cloned().unwrap_or_default();
            let average = match &start.average {
                Some(average) => average.parameters().get("average", name)?.to_vec::<f32>()?,
                None => Vec::new(),
            };
            masters.import(i, &Values { weights: tensor.to_vec::<f32>()?, first, second, average })?;
        }
        let (mut parameters, mut leaves) = (Parameters::default(), Vec::new());
        for (i, name) in names.iter().enumerate() {
            let leaf = masters.leaf(i, !network.meets_activations(name))?.variable();
            parameters.insert(name, leaf.clone());
            leaves.push(leaf);
        }
        let seed = masters.scale()?;
        let (may_record, step) = (task.graph, task.step);
        Ok(OnGpu {
            task,
            loss,
            batches,
            feed,
            masters,
            names,
            parameters,
            leaves,
            seed,
            replay: None,
            may_record,
            note: None,
            step,
        })
    }

    /// Sends the next batch.
    fn send(&mut self) -> Result<(), Error> {
        match &mut self.batches {
            Batches::Bytes(loader) => {
                let batch = loader.next_batch()?;
                self.feed.send(batch.samples())?;
            }
            Batches::Floats(loader) => {
                let batch = loader.next_batch()?;
                self.feed.send(batch.samples())?;
            }
        }
        Ok(())
    }

    /// Queues forward and backward pass of a part of a batch; of a whole one, also the step.
    fn work(&mut self, whole: bool) -> Result<(), Error> {
        let stage = self.task.stage();
        let [low, high] = self.feed.images();
        let output = self.task.architecture.network().forward(&self.parameters, low)?.to_dtype(DType::F32)?;
        let low = if self.task.compares_with_input() { low.to_dtype(DType::F32)? } else { low.clone() };
        let part = ops::scale(&self.loss.of(&output, high, &low)?, 1.0 / stage.accumulate as f32)?;
        let gradients = part.backward_with(&self.seed.reshape(part.shape())?)?;
        self.masters.gather(&part, &gradients, &self.leaves)?;
        if whole { Ok(self.masters.step(false)?) } else { Ok(()) }
    }

    /// Records the step, so that it can be replayed from here on.
    fn record(&mut self, whole: bool) {
        let device = self.task.device.clone();
        match Replay::new(&device, || self.work(whole).map(|()| Vec::new())) {
            Ok(replay) => self.replay = Some(replay),
            Err(error) => {
                self.may_record = false;
                self.note =
                    Some(format!("the step cannot be recorded as a graph, so it runs kernel by kernel: {error}"));
            }
        }
    }
}

impl Learner for OnGpu<'_> {
    fn step(&mut self) -> Result<(), Error> {
        let parts = self.task.stage().accumulate;
        let whole = parts == 1 && self.task.team.is_none();
        for _ in 0..parts {
            self.send()?;
            match &mut self.replay {
                Some(replay) => replay.replay()?,
                None => self.work(whole)?,
            }
        }
        if !whole {
            if let Some(team) = &self.task.team {
                team.sum_on_device(self.masters.gradients())?;
            }
            self.masters.step(false)?;
        }
        self.masters.count();
        self.step += 1;
        // The first step has made whatever is made once.
        if self.may_record && self.replay.is_none() {
            self.record(whole);
        }
        Ok(())
    }

    fn reports(&mut self, wait: bool) -> Result<Vec<Report>, Error> {
        let records = self.masters.records(wait)?;
        self.masters.ask()?;
        let report = |record: Record| {
            let (step, loss) = (record.step as usize, record.loss);
            if record.diverged {
                return Err(Error::Diverged { stage: self.task.number + 1, step, loss });
            }
            Ok(Report { step, loss, norm: record.norm })
        };
        records.into_iter().map(report).collect()
    }

    fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        let host = Device::cpu(Cpu::new(Isa::detect(), 1))?;
        let (values, state) = (self.masters.export()?, self.masters.state()?);
        let (mut parameters, mut average) = (Parameters::default(), Parameters::default());
        let mut moments = BTreeMap::new();
        for (i, (name, values)) in self.names.iter().zip(values).enumerate() {
            let shape = self.leaves[i].shape();
            parameters.insert(name, Tensor::from_slice(&host, &values.weights, shape)?);
            if !values.average.is_empty() {
                average.insert(name, Tensor::from_slice(&host, &values.average, shape)?);
            }
            if state.taken > 0 {
                moments.insert(name.clone(), [values.first, values.second]);
            }
        }
        let stage = self.task.stage();
        let average = match stage.average {
            Some(decay) if !average.is_empty() => Some(Cow::Owned(Average::new(&average, decay)?)),
            _ => None,
        };
        let dtype = self.task.recipe.precision_of(stage).dtype();
        Ok(Snapshot {
            parameters: Cow::Owned(parameters),
            average,
            optimizer: Cow::Owned(Optimizer::resume(stage.optimizer, state.taken, moments)),
            scale: (dtype == DType::F16).then(|| LossScale::resume(dtype, state.scale, state.good)),
        })
    }

    fn note(&mut self) -> Option<String> {
        self.note.take()
    }
}

/// The rule as a GPU has it.
pub(crate) fn rule(recipe: &OptimizerRecipe) -> Rule {
    match *recipe {
        OptimizerRecipe::Adam { betas, epsilon } => Rule::Adam { betas, epsilon, weight_decay: 0.0 },
        OptimizerRecipe::AdamW { betas, epsilon, weight_decay } => Rule::Adam { betas, epsilon, weight_decay },
        OptimizerRecipe::Sgd { momentum, weight_decay } => Rule::Sgd { momentum, weight_decay },
    }
}
