//! Who takes the steps: the CPU, one operator after the other, or a GPU, which replays one graph.

use super::corpus::Example;
use super::state::State;
use super::{Corpus, LanguageRecipe};
use crate::{Error, Optimizer, clip, norm};
use supple_models::Parameters;
use supple_models::llama::{Definition, Positions};
use supple_tensor::{DType, Device, Gradients, Random, Tensor, no_grad, ops};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Report {
    /// From 1.
    pub step: usize,
    /// Mean over tokens that count.
    pub loss: f32,
    pub norm: f64,
}

/// What is learnt, whoever takes the steps.
pub(super) struct Lesson<'a> {
    pub recipe: &'a LanguageRecipe,
    pub definition: &'a Definition,
    pub corpus: &'a Corpus,
    /// Parameters that stay as they are, on the host.
    pub frozen: &'a Parameters,
}

impl Lesson<'_> {
    /// The parts of the batch of step `step`, from 0, and one over the number of targets that count in all of them.
    pub fn batch(&self, step: usize) -> (Vec<Vec<Example>>, f32) {
        let training = &self.recipe.training;
        let random = Random::new(self.recipe.seed).part(step as u64);
        let examples: Vec<Example> =
            (0..training.batch).map(|i| self.corpus.example(training.length, &mut random.part(i as u64))).collect();
        let counted: usize = examples.iter().map(Example::counted).sum();
        let parts = examples.chunks(training.batch / training.accumulate).map(<[Example]>::to_vec).collect();
        (parts, 1.0 / counted.max(1) as f32)
    }
}

/// Inputs and targets of rows, side by side.
pub(super) fn flat(rows: &[Example]) -> [Vec<u32>; 2] {
    let all = |of: fn(&Example) -> &Vec<u32>| rows.iter().flat_map(|row| of(row).iter().copied()).collect();
    [all(|row| &row.inputs), all(|row| &row.targets)]
}

/// The mean loss of rows, `batch` of them at a time. Rows without a target that counts take no time.
pub(super) fn measure(
    definition: &Definition,
    parameters: &Parameters,
    positions: &Positions,
    device: &Device,
    rows: &[Example],
    batch: usize,
) -> Result<f64, Error> {
    let rows: Vec<Example> = rows.iter().filter(|row| row.counted() > 0).cloned().collect();
    let (mut sum, mut counted) = (0.0, 0);
    for part in rows.chunks(batch) {
        let [inputs, targets] = flat(part);
        let shape = [part.len(), positions.length()];
        let tensors = [Tensor::from_slice(device, &inputs, &shape)?, Tensor::from_slice(device, &targets, &shape)?];
        let loss = no_grad(|| definition.loss(parameters, &tensors[0], &tensors[1], positions))?;
        sum += f64::from(loss.to_vec::<f32>()?[0]);
        counted += part.iter().map(Example::counted).sum::<usize>();
    }
    Ok(sum / counted.max(1) as f64)
}

/// Takes steps.
pub(super) trait Learner {
    /// Takes a step, or sees to it that it will be taken.
    fn step(&mut self) -> Result<(), Error>;

    /// What has become known since the last time; with `wait`, all there is to know. A loss that is no number is an error.
    fn reports(&mut self, wait: bool) -> Result<Vec<Report>, Error>;

    /// The mean loss of rows.
    fn measure(&mut self, rows: &[Example]) -> Result<f64, Error>;

    /// Where it is, once all steps are taken.
    fn state(&mut self) -> Result<State, Error>;

    /// Something that whoever watches should know, once.
    fn note(&mut self) -> Option<String> {
        None
    }
}

/// Steps on the CPU, in `f32`.
pub(super) struct OnHost<'a> {
    lesson: Lesson<'a>,
    device: Device,
    positions: Positions,
    /// What is trained, as leaves.
    trained: Parameters,
    optimizer: Optimizer,
    scale: Option<crate::LossScale>,
    step: usize,
    reports: Vec<Report>,
}

/// All parameters of a network together.
pub(super) fn together(frozen: &Parameters, trained: &Parameters) -> Parameters {
    let mut all = frozen.clone();
    trained.iter().for_each(|(name, tensor)| all.insert(name, tensor.clone()));
    all
}

impl<'a> OnHost<'a> {
    pub fn new(lesson: Lesson<'a>, device: &Device, state: State) -> Result<OnHost<'a>, Error> {
        let positions = lesson.definition.positions(device, DType::F32, lesson.recipe.training.length)?;
        let State { step, parameters, optimizer, scale } = state;
        let trained = parameters.variables();
        Ok(OnHost { lesson, device: device.clone(), positions, trained, optimizer, scale, step, reports: Vec::new() })
    }

    fn gradients(&self) -> Result<(f32, Gradients), Error> {
        let all = together(self.lesson.frozen, &self.trained);
        let (parts, share) = self.lesson.batch(self.step);
        let (mut total, mut gradients) = (0.0, Gradients::default());
        for part in parts {
            let [inputs, targets] = flat(&part);
            let shape = [part.len(), self.positions.length()];
            let tensors = [
                Tensor::from_slice(&self.device, &inputs, &shape)?,
                Tensor::from_slice(&self.device, &targets, &shape)?,
            ];
            let sum = self.lesson.definition.loss(&all, &tensors[0], &tensors[1], &self.positions)?;
            let mean = ops::scale(&sum, share)?;
            total += mean.to_vec::<f32>()?[0];
            gradients.accumulate(mean.backward()?)?;
        }
        Ok((total, gradients))
    }
}

impl Learner for OnHost<'_> {
    fn step(&mut self) -> Result<(), Error> {
        let (loss, gradients) = self.gradients()?;
        let size = norm(&self.trained, &gradients)?;
        if !loss.is_finite() || !size.is_finite() {
            return Err(Error::Diverged { stage: 1, step: self.step + 1, loss });
        }
        let factor = clip(size, self.lesson.recipe.training.clip);
        self.optimizer.step(&mut self.trained, &gradients, factor, self.lesson.recipe.rate(self.step))?;
        self.step += 1;
        self.reports.push(Report { step: self.step, loss, norm: size });
        Ok(())
    }

    fn reports(&mut self, _: bool) -> Result<Vec<Report>, Error> {
        Ok(std::mem::take(&mut self.reports))
    }

    fn measure(&mut self, rows: &[Example]) -> Result<f64, Error> {
        let all = together(self.lesson.frozen, &self.trained);
        let training = &self.lesson.recipe.training;
        let batch = training.batch / training.accumulate;
        measure(self.lesson.definition, &all, &self.positions, &self.device, rows, batch)
    }

    fn state(&mut self) -> Result<State, Error> {
        let mut parameters = Parameters::default();
        self.trained.iter().for_each(|(name, tensor)| parameters.insert(name, tensor.detach()));
        Ok(State { step: self.step, parameters, optimizer: self.optimizer.clone(), scale: self.scale })
    }
}
