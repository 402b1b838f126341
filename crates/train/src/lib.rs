//! Training: a recipe says what is trained on what and how, [`train`] does it.
//!
//! * [`Recipe`] – a TOML file: network, data, and stages, each with its loss, optimiser and schedule;
//! * [`Examples`] – where training pairs come from; a [`Loader`] makes batches of them on threads, ahead of the device;
//! * [`language`] – the same for language models;
//! * [`train`] – the loop: batch, loss, [`Gradients`](supple_tensor::Gradients), [`Optimizer`]; metrics as JSON lines, and
//!   checkpoints that a kill at any moment leaves whole.
//!
//! **Training is reproducible.** Every random choice is drawn from the seed and the number of the stage and the step, and
//! every sum is taken in the same order on any number of threads. So a run that was killed and resumed, and one that was
//! not, end in the same weights, bit for bit.

mod architecture;
mod average;
mod checkpoint;
mod error;
mod file;
mod gradients;
pub mod language;
mod learner;
mod loader;
pub mod loss;
mod metrics;
mod optimizer;
pub mod parallel;
mod plot;
mod precision;
mod recipe;
mod schedule;
mod trainer;

pub use architecture::Architecture;
pub use average::Average;
pub use checkpoint::Checkpoint;
pub use error::{BoxError, Error};
pub use gradients::{LossScale, clip, norm};
pub use loader::{Batch, Example, Examples, Loader, Plan, Sample};
pub use metrics::{Metric, Metrics, read_metrics};
pub use optimizer::{Optimizer, OptimizerRecipe};
pub use parallel::Communicator;
pub use plot::{Plot, plot};
pub use precision::Precision;
pub use recipe::{Data, Every, NetworkRecipe, Recipe, Stage};
pub use schedule::Schedule;
pub use trainer::{Observer, Options, Outcome, Progress, Setup, train, train_with};
