//! What can go wrong when a network is loaded or run.

/// What can go wrong when a network is loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The weights do not fit the network, or cannot be read.
    #[error(transparent)]
    Weights(#[from] supple_weights::Error),
    /// A tensor operator refused its arguments.
    #[error(transparent)]
    Tensor(#[from] supple_tensor::Error),
    /// The file holds tensors of no network that is known here.
    #[error("{file}: not a network known here ({found}); known are RLFN and DITN checkpoints")]
    UnknownNetwork {
        /// File that was read.
        file: String,
        /// What was found instead.
        found: String,
    },
    /// The file holds tensors of no classifier that is known here.
    #[error(
        "{file}: not a classifier known here ({found}); known are TFLite networks, networks saved by Supple, and checkpoints of \
         MobileNet version 1 and 2 and EfficientNet-Lite0"
    )]
    UnknownConvNet {
        /// File that was read.
        file: String,
        /// What was found instead.
        found: String,
    },
    /// A network that runs on the CPU only.
    #[error("{network} does not run on the GPU yet")]
    NotOnDevice {
        /// Name of the network.
        network: String,
    },
    /// A picture that the network cannot take.
    #[error("{network} needs pictures of at least {min} pixels a side, got {width}x{height}")]
    TooSmall {
        /// Name of the network.
        network: String,
        /// Smallest side.
        min: usize,
        /// Width given.
        width: usize,
        /// Height given.
        height: usize,
    },
    /// A window that does not fit its picture or starts at a column that the network cannot start at.
    #[error(
        "columns {start}..{end} are no window of a {width} pixel wide picture that starts at a multiple of {alignment}"
    )]
    BadWindow {
        /// First column.
        start: usize,
        /// Column after the last.
        end: usize,
        /// Width of the picture.
        width: usize,
        /// What the start must be a multiple of.
        alignment: usize,
    },
    /// A network of operators that do not fit together.
    #[error("{network}: {}{problem}", if node.is_empty() { String::new() } else { format!("operator {node:?} ") })]
    BadNetwork {
        /// Name of the network.
        network: String,
        /// Name of the operator, or nothing where the whole is meant.
        node: String,
        /// What does not fit.
        problem: String,
    },
    /// A file uses an operator that is not known here.
    #[error("{file}: operator {operator} is not supported{hint}")]
    UnsupportedOperator {
        /// File that was read.
        file: String,
        /// Name of the operator, as the file's format calls it.
        operator: String,
        /// More, such as the option that is not supported; starts with a space or a colon, or is empty.
        hint: String,
    },
    /// An input of another length than the network takes.
    #[error("{network} takes {wanted} values, got {found}")]
    WrongInput {
        /// Name of the network.
        network: String,
        /// The shape it takes.
        wanted: crate::convnet::Shape,
        /// Number of values given.
        found: usize,
    },
    /// A parameter that a network asks for and that is not there.
    #[error("{network}: no parameter {name}")]
    MissingParameter {
        /// Name of the network.
        network: String,
        /// Name of the parameter.
        name: String,
    },
    /// A decoder's configuration that makes no sense, or that is not supported.
    #[error("{file}: {problem}")]
    BadConfig {
        /// File or folder.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor of a decoder that has another shape, or a type that cannot stand there.
    #[error("{file}: tensor {tensor:?} is {found}, wanted {wanted}")]
    BadTensor {
        /// File or folder.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Shape or type that was wanted.
        wanted: String,
        /// Shape or type that is there.
        found: String,
    },
    /// A token that is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    BadToken {
        /// The token.
        token: u32,
        /// Number of tokens that there are.
        vocabulary: usize,
    },
    /// A pass without tokens.
    #[error("there are no tokens to take in")]
    NoTokens,
    /// No room for more keys and values.
    #[error("the cache holds {positions} positions, and all are taken")]
    CacheFull {
        /// Positions that it holds.
        positions: usize,
    },
    /// The state of a decoder on another device.
    #[error("keys and values lie on another device than the decoder")]
    OtherDevice,
    /// A decoder that does not fit a GPU's memory.
    #[error(
        "the GPU has no room for the model: {what} need {} MiB, {} of {} MiB are free", wanted.div_ceil(1 << 20), free >> 20, total >> 20
    )]
    GpuMemory {
        /// What did not fit.
        what: String,
        /// Bytes that it needs.
        wanted: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes in all.
        total: usize,
    },
}
