//! Steps on a GPU: the host sends tokens and says go on; the GPU works a few steps behind, and tells later what became of them.

use super::corpus::Example;
use super::state::State;
use super::step::{Learner, Lesson, Report, flat, measure, together};
use crate::optimizer::OptimizerRecipe;
use crate::{Error, LossScale, Optimizer};
use std::collections::BTreeMap;
use supple_models::Parameters;
use supple_models::llama::Positions;
use supple_tensor::masters::{Masters, Record, Settings, State as MastersState, Values};
use supple_tensor::{Cpu, DType, Device, Isa, Replay, Tensor, TokenFeed, ops};

/// A run on a GPU.
pub(super) struct OnGpu<'a> {
    lesson: Lesson<'a>,
    device: Device,
    dtype: DType,
    positions: Positions,
    feed: TokenFeed,
    masters: Masters,
    names: Vec<String>,
    leaves: Vec<Tensor>,
    /// All that the network is called with.
    parameters: Parameters,
    /// What the loss is multiplied by.
    seed: Tensor,
    replay: Option<Replay>,
    may_record: bool,
    note: Option<String>,
    step: usize,
}

impl<'a> OnGpu<'a> {
    pub fn new(lesson: Lesson<'a>, device: &Device, state: State, graph: bool) -> Result<OnGpu<'a>, Error> {
        let training = &lesson.recipe.training;
        let dtype = lesson.recipe.precision.dtype();
        let positions = lesson.definition.positions(device, dtype, training.length)?;
        let feed = TokenFeed::new(device, [training.batch / training.accumulate, training.length])?;
        let scale = state.scale.unwrap_or(LossScale::new(dtype));
        let start = MastersState {
            step: state.step as u64,
            taken: state.optimizer.steps(),
            scale: scale.factor(),
            good: scale.good(),
        };
        let settings = Settings {
            rule: crate::learner::rule(&training.optimizer),
            clip: training.clip,
            average: None,
            scaling: dtype == DType::F16,
            share: 1.0,
        };
        let rates: Vec<f64> = (0..training.steps).map(|step| lesson.recipe.rate(step)).collect();
        let shapes: Vec<Vec<usize>> = state.parameters.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect();
        let names: Vec<String> = state.parameters.iter().map(|(name, _)| name.to_owned()).collect();
        let mut masters = Masters::new(device, &shapes, DType::F32, settings, &rates, start)?;
        let (mut trained, mut leaves) = (Parameters::default(), Vec::new());
        for (i, (name, tensor)) in state.parameters.iter().enumerate() {
            let [first, second] = state.optimizer.moments().get(name).cloned().unwrap_or_default();
            masters.import(i, &Values { weights: tensor.to_vec::<f32>()?, first, second, average: Vec::new() })?;
            let leaf = masters.leaf(i, true)?.variable();
            trained.insert(name, leaf.clone());
            leaves.push(leaf);
        }
        let mut frozen = Parameters::default();
        for (name, tensor) in lesson.frozen.iter() {
            // Matrices that nobody trains are kept in what they are multiplied in.
            let there = tensor.to_device(device)?;
            frozen.insert(name, if tensor.rank() > 1 { there.to_dtype(dtype)? } else { there });
        }
        let (seed, step) = (masters.scale()?, state.step);
        let parameters = together(&frozen, &trained);
        let device = device.clone();
        let (replay, note) = (None, None);
        Ok(OnGpu {
            lesson,
            device,
            dtype,
            positions,
            feed,
            masters,
            names,
            leaves,
            parameters,
            seed,
            replay,
            may_record: graph,
            note,
            step,
        })
    }

    /// Queues forward and backward pass of a part of a batch; of a whole one, also the step.
    fn work(&mut self, whole: bool) -> Result<(), Error> {
        let [tokens, targets] = self.feed.rows();
        let sum = self.lesson.definition.loss(&self.parameters, tokens, targets, &self.positions)?;
        let part = ops::mul(&sum, self.feed.share())?;
        let gradients = part.backward_with(&self.seed.reshape(part.shape())?)?;
        self.masters.gather(&part, &gradients, &self.leaves)?;
        if whole { Ok(self.masters.step(false)?) } else { Ok(()) }
    }

    fn record(&mut self, whole: bool) {
        let device = self.device.clone();
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
        let (parts, share) = self.lesson.batch(self.step);
        let whole = parts.len() == 1;
        for part in parts {
            let [inputs, targets] = flat(&part);
            self.feed.send(&inputs, &targets, share)?;
            match &mut self.replay {
                Some(replay) => replay.replay()?,
                None => self.work(whole)?,
            }
        }
        if !whole {
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
                return Err(Error::Diverged { stage: 1, step, loss });
            }
            Ok(Report { step, loss, norm: record.norm })
        };
        records.into_iter().map(report).collect()
    }

    fn measure(&mut self, rows: &[Example]) -> Result<f64, Error> {
        let training = &self.lesson.recipe.training;
        let batch = training.batch / training.accumulate;
        measure(self.lesson.definition, &self.parameters, &self.positions, &self.device, rows, batch)
    }

    fn state(&mut self) -> Result<State, Error> {
        let host = Device::cpu(Cpu::new(Isa::detect(), 1))?;
        let (values, state) = (self.masters.export()?, self.masters.state()?);
        let (mut parameters, mut moments) = (Parameters::default(), BTreeMap::new());
        for (i, (name, values)) in self.names.iter().zip(values).enumerate() {
            parameters.insert(name, Tensor::from_slice(&host, &values.weights, self.leaves[i].shape())?);
            if state.taken > 0 {
                moments.insert(name.clone(), [values.first, values.second]);
            }
        }
        let recipe: OptimizerRecipe = self.lesson.recipe.training.optimizer;
        Ok(State {
            step: self.step,
            parameters,
            optimizer: Optimizer::resume(recipe, state.taken, moments),
            scale: (self.dtype == DType::F16).then(|| LossScale::resume(self.dtype, state.scale, state.good)),
        })
    }

    fn note(&mut self) -> Option<String> {
        self.note.take()
    }
}
