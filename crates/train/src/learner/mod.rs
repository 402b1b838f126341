//! Who takes the steps of a stage: the CPU, one operator after the other, or a GPU, which is only told what to do next.

#[cfg(feature = "cuda")]
mod gpu;
mod host;

use crate::loader::Plan;
#[cfg(feature = "cuda")]
use crate::loss::LossRecipe;
use crate::recipe::{Recipe, Stage};
use crate::{Architecture, Average, Communicator, Error, Examples, LossScale, Optimizer};
#[cfg(feature = "cuda")]
pub(crate) use gpu::{OnGpu, rule};
pub(crate) use host::OnHost;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use supple_models::Parameters;
use supple_tensor::{Device, Random};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    /// Step of the stage, from 1.
    pub step: usize,
    /// Its loss.
    pub loss: f32,
    /// Norm of its gradients.
    pub norm: f64,
}

/// All that a run goes on from, between two steps.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<'a> {
    pub parameters: Cow<'a, Parameters>,
    pub average: Option<Cow<'a, Average>>,
    pub optimizer: Cow<'a, Optimizer>,
    pub scale: Option<LossScale>,
}

impl Snapshot<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Snapshot<'static> {
        Snapshot {
            parameters: Cow::Owned(self.parameters.into_owned()),
            average: self.average.map(|average| Cow::Owned(average.into_owned())),
            optimizer: Cow::Owned(self.optimizer.into_owned()),
            scale: self.scale,
        }
    }

    /// The weights that count: the average if there is one.
    pub fn result(&self) -> &Parameters {
        self.average.as_ref().map_or(&self.parameters, |average| average.parameters())
    }
}

/// Takes the steps of a stage.
pub(crate) trait Learner {
    /// Takes a step, or sees to it that it will be taken.
    ///
    /// # Errors
    /// If there is no batch, the network refuses it, or the loss is no longer a number.
    fn step(&mut self) -> Result<(), Error>;

    /// What has become known since the last time, in the order of steps; with `wait`, all there is to know.
    ///
    /// # Errors
    /// If the loss of one of them is no number: weights are still those before it.
    fn reports(&mut self, wait: bool) -> Result<Vec<Report>, Error>;

    /// Where it is, once all steps are taken.
    ///
    /// # Errors
    /// If the device fails.
    fn snapshot(&mut self) -> Result<Snapshot<'_>, Error>;

    /// Something that whoever watches should know, once.
    fn note(&mut self) -> Option<String> {
        None
    }
}

/// What a stage is, whoever takes its steps.
pub(crate) struct Task<'a> {
    pub device: &'a Device,
    pub recipe: &'a Recipe,
    pub architecture: &'a Architecture,
    /// Number of the stage, from 0.
    pub number: usize,
    /// Steps that are done.
    pub step: usize,
    pub examples: Arc<dyn Examples>,
    pub loader_threads: usize,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "graphs are for GPUs"))]
    pub graph: bool,
    pub team: Option<Arc<dyn Communicator>>,
}

impl<'a> Task<'a> {
    pub fn stage(&self) -> &'a Stage {
        &self.recipe.stages[self.number]
    }

    /// All batches that are left, and the part of each that is this process's.
    fn plan(&self) -> Result<(Plan, Range<usize>), Error> {
        let stage = self.stage();
        let plan = Plan {
            batch: stage.batch / stage.accumulate,
            patch: stage.patch,
            scale: self.recipe.network.scale,
            steps: self.step * stage.accumulate..stage.steps * stage.accumulate,
            random: Random::new(self.recipe.seed).part(self.number as u64),
        };
        let (rank, size) = self.team.as_ref().map_or((0, 1), |team| (team.rank(), team.size()));
        if !plan.batch.is_multiple_of(size) {
            let problem =
                format!("stage {}: {} examples cannot be shared by {size} processes", self.number + 1, plan.batch);
            return Err(Error::Recipe { recipe: "batch".into(), problem });
        }
        let own = plan.batch / size;
        Ok((plan, rank * own..(rank + 1) * own))
    }

    /// The learning rate of step `step`, from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let stage = self.stage();
        stage.schedule.learning_rate(stage.learning_rate, stage.warm_up, step, stage.steps)
    }

    /// Whether a loss looks at what the network was given.
    #[cfg(feature = "cuda")]
    fn compares_with_input(&self) -> bool {
        self.stage().loss.iter().any(|part| matches!(part, LossRecipe::Contrastive { .. }))
    }

    /// Who takes the steps.
    ///
    /// # Errors
    /// If the stage cannot be begun.
    pub fn learner(self, start: Snapshot<'static>) -> Result<Box<dyn Learner + 'a>, Error> {
        match self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Ok(Box::new(OnGpu::new(self, start)?)),
            _ => Ok(Box::new(OnHost::new(self, start)?)),
        }
    }
}
