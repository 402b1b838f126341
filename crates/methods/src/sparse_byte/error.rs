//! What can go wrong when a network is compressed.

/// What can go wrong when a network is compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network is inconsistent, or could not be run.
    #[error(transparent)]
    Network(#[from] supple_models::Error),
    /// An option has a value that makes no sense.
    #[error("{option} cannot be {found}: {wanted}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What is possible.
        wanted: &'static str,
    },
    /// A calibration input that the network cannot take.
    #[error("calibration input {index}: {problem}")]
    BadCalibration {
        /// Its position.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Scores or reconstruction need calibration inputs and there are none.
    #[error("{needed_by} needs calibration pictures and there are none")]
    NoCalibration {
        /// What needs them.
        needed_by: &'static str,
    },
    /// There is no layer that could be pruned.
    #[error("{network} has no convolution to prune: the first one, depthwise ones and the classifier stay dense")]
    NothingToPrune {
        /// Name of the network.
        network: String,
    },
    /// The caller's progress function said stop.
    #[error("stopped")]
    Cancelled,
}
