//! What can go wrong in training.

use std::path::PathBuf;

/// An error of whoever brings examples or watches a run.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network failed, or its weights.
    #[error(transparent)]
    Model(#[from] supple_models::Error),
    /// A tensor operator refused its arguments.
    #[error(transparent)]
    Tensor(#[from] supple_tensor::Error),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] supple_weights::Error),
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A recipe that makes no sense.
    #[error("{recipe}: {problem}")]
    Recipe {
        /// Name of the recipe.
        recipe: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder holds a run already, and resuming was not asked for.
    #[error("{}: holds a run already", .0.display())]
    RunExists(PathBuf),
    /// Resuming was asked for, and there is nothing to go on from.
    #[error("{}: holds no run that could be resumed", .0.display())]
    NoRun(PathBuf),
    /// A checkpoint that does not belong to the recipe.
    #[error("{}: {problem}", .path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The loss is no longer a number.
    #[error("stage {stage}, step {step}: the loss is {loss}")]
    Diverged {
        /// Stage, from 1.
        stage: usize,
        /// Step, from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// Another process of the run is gone, or cannot be understood.
    #[error("process {rank} {what}")]
    Lost {
        /// Its number.
        rank: usize,
        /// What became of it.
        what: String,
    },
    /// The environment does not say how processes find each other.
    #[error("several processes: {0}")]
    Environment(String),
    /// Examples could not be had.
    #[error("training data: {0}")]
    Examples(#[source] BoxError),
    /// The watcher failed.
    #[error("validation: {0}")]
    Observer(#[source] BoxError),
    /// There is nothing to draw.
    #[error("{}: no metrics to plot", .0.display())]
    NoMetrics(PathBuf),
    /// A chart could not be drawn.
    #[error("cannot draw the chart: {0}")]
    Plot(String),
}

impl Error {
    /// What a person may try.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::RunExists(_) => "--resume goes on with it; -o names another folder",
            Error::NoRun(_) => "leave --resume out to begin a run there",
            Error::Checkpoint { .. } => {
                "a run goes on with the recipe that it was begun with; to train on with another, begin a new run whose \
                 [network] has start = \"weights.safetensors\""
            }
            Error::Lost { .. } => {
                "the run can be resumed from its last checkpoint; that process's own output says why it ended"
            }
            Error::Environment(_) => {
                "supple launch -n 2 train RECIPE starts processes on one machine; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT \
                 do on many"
            }
            Error::Diverged { .. } => "a smaller learning_rate, a longer warm_up or clip = 1.0 usually helps",
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Makes an [`Error::Io`] of what the operating system says.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }
}
