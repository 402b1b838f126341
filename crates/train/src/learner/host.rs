//! Steps on the CPU.

use super::{Learner, Report, Snapshot, Task};
use crate::loss::Loss;
use crate::{Average, Error, Loader, LossScale, Optimizer, clip, norm, parallel};
use std::borrow::Cow;
use supple_models::Parameters;
use supple_tensor::{Gradients, Tensor, ops};

/// A stage on the CPU, in `f32`.
pub(crate) struct OnHost<'a> {
    task: Task<'a>,
    loss: Loss,
    loader: Loader,
    step: usize,
    parameters: Parameters,
    average: Option<Average>,
    optimizer: Optimizer,
    /// What a GPU goes on with, should the run go back to one.
    scale: Option<LossScale>,
    reports: Vec<Report>,
}

impl<'a> OnHost<'a> {
    pub fn new(task: Task<'a>, start: Snapshot<'static>) -> Result<OnHost<'a>, Error> {
        let loss = Loss::new(task.device, &task.stage().loss, task.recipe.seed)?;
        let (plan, share) = task.plan()?;
        let loader = Loader::share(task.examples.clone(), plan, task.loader_threads, share)?;
        let Snapshot { parameters, average, optimizer, scale } = start;
        Ok(OnHost {
            loss,
            loader,
            step: task.step,
            parameters: parameters.into_owned().variables(),
            average: average.map(Cow::into_owned),
            optimizer: optimizer.into_owned(),
            scale,
            reports: Vec::new(),
            task,
        })
    }

    /// The loss of a step and its gradients.
    fn gradients(&mut self) -> Result<(f32, Gradients), Error> {
        let (mut total, mut gradients) = (0.0, Gradients::default());
        let (network, stage) = (self.task.architecture.network(), self.task.stage());
        for _ in 0..stage.accumulate {
            let [low, high] = self.loader.next_batch()?.tensors(self.task.device)?;
            let output = network.forward(&self.parameters, &low)?;
            let part = ops::scale(&self.loss.of(&output, &high, &low)?, 1.0 / stage.accumulate as f32)?;
            total += part.to_vec::<f32>()?[0];
            gradients.accumulate(Tensor::backward(&part)?)?;
        }
        if let Some(team) = &self.task.team {
            total = parallel::mean_gradients(&**team, &self.parameters, &mut gradients, total)?;
        }
        Ok((total, gradients))
    }
}

impl Learner for OnHost<'_> {
    fn step(&mut self) -> Result<(), Error> {
        let (loss, gradients) = self.gradients()?;
        let size = norm(&self.parameters, &gradients)?;
        if !loss.is_finite() || !size.is_finite() {
            return Err(Error::Diverged { stage: self.task.number + 1, step: self.step + 1, loss });
        }
        let factor = clip(size, self.task.stage().clip);
        self.optimizer.step(&mut self.parameters, &gradients, factor, self.task.rate(self.step))?;
        if let Some(average) = &mut self.average {
            average.update(&self.parameters, self.step)?;
        }
        self.step += 1;
        self.reports.push(Report { step: self.step, loss, norm: size });
        Ok(())
    }

    fn reports(&mut self, _: bool) -> Result<Vec<Report>, Error> {
        Ok(std::mem::take(&mut self.reports))
    }

    fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        Ok(Snapshot {
            parameters: Cow::Borrowed(&self.parameters),
            average: self.average.as_ref().map(Cow::Borrowed),
            optimizer: Cow::Borrowed(&self.optimizer),
            scale: self.scale,
        })
    }
}
