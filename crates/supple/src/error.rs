//! What can go wrong, and what a person can do about it.

use crate::picture::PictureFormat;
use std::io;
use std::path::PathBuf;

/// Everything that this crate reports. [`Error::hint`] says what to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, such as `read` or `write`.
        action: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A stream could not be written.
    #[error("cannot write the picture: {0}")]
    Write(#[source] io::Error),
    /// The bytes are no picture of a known format.
    #[error("{name}: not a picture ({found})")]
    NotAPicture {
        /// Name of the file or stream.
        name: String,
        /// What the bytes look like instead.
        found: String,
    },
    /// The file ends before the picture does.
    #[error("{name}: the {format} file is truncated ({detail})")]
    Truncated {
        /// Name of the file or stream.
        name: String,
        /// Format of the file.
        format: PictureFormat,
        /// What was missing.
        detail: String,
    },
    /// A picture that cannot be decoded.
    #[error("{name}: cannot decode this {format} picture: {detail}")]
    Decode {
        /// Name of the file or stream.
        name: String,
        /// Format of the file.
        format: PictureFormat,
        /// The decoder's words.
        detail: String,
    },
    /// The header announces more pixels than allowed.
    #[error("{name}: {width}x{height} is {:.1} Mpixel, the limit is {:.1} Mpixel", (.width * .height) as f64 / 1e6, *.limit as f64 / 1e6)]
    TooManyPixels {
        /// Name of the file or stream.
        name: String,
        /// Width announced.
        width: u64,
        /// Height announced.
        height: u64,
        /// Most pixels allowed.
        limit: u64,
    },
    /// A picture that does not fit into memory.
    #[error("{what} needs {} MiB of memory, {} MiB are allowed", .needed >> 20, .limit >> 20)]
    TooMuchMemory {
        /// What would not fit.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The file exists and overwriting was not asked for.
    #[error("{}: exists already", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A picture format that is not known, or that cannot be written.
    #[error("cannot write pictures as {wanted:?}")]
    UnknownFormat {
        /// Extension or name that was asked for.
        wanted: String,
    },
    /// A picture that its format cannot hold.
    #[error("cannot write {width}x{height} pixels as {format}: {detail}")]
    Encode {
        /// Format to write.
        format: PictureFormat,
        /// Width of the picture.
        width: usize,
        /// Height of the picture.
        height: usize,
        /// What stands against it.
        detail: String,
    },
    /// Samples whose number does not fit the size, or an empty picture.
    #[error("{width}x{height} pixels with {channels} channels need {wanted} samples, got {found}")]
    Samples {
        /// Width.
        width: usize,
        /// Height.
        height: usize,
        /// Channels, alpha included.
        channels: usize,
        /// Number of samples wanted.
        wanted: usize,
        /// Number of samples given.
        found: usize,
    },
    /// Two pictures that cannot be compared.
    #[error("cannot compare {a} with {b}")]
    Sizes {
        /// Size of the first.
        a: String,
        /// Size of the second.
        b: String,
    },
    /// A weight file, or metadata in one.
    #[error(transparent)]
    Weights(#[from] supple_weights::Error),
    /// A vocabulary that cannot be used.
    #[error("{name}: tokeniser: {reason}")]
    Tokenizer {
        /// File that holds it.
        name: String,
        /// What stands against it.
        reason: String,
    },
    /// A chat template that cannot be used, or not for these messages.
    #[error("{name}: chat template: {reason}")]
    Template {
        /// File that holds it.
        name: String,
        /// What stands against it.
        reason: String,
    },
    /// The network or its weights.
    #[error(transparent)]
    Network(#[from] supple_models::Error),
    /// Training.
    #[cfg(feature = "files")]
    #[error(transparent)]
    Train(#[from] supple_train::Error),
    /// The hub of models.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(Box<crate::hub::HubError>),
    /// A network whose arithmetic went wrong.
    #[error("the network {network} produced NaN or infinite values in output row {row}")]
    NotFinite {
        /// Name of the network.
        network: String,
        /// Output row.
        row: usize,
    },
    /// A network that is no classifier of pictures in colour.
    #[error("the network {network} cannot classify pictures: {found}")]
    NotAClassifier {
        /// Name of the network.
        network: String,
        /// What stands against it.
        found: String,
    },
    /// Integers were asked for, and the network has real numbers only.
    #[error("the network {network} holds no 8-bit integers")]
    NotQuantized {
        /// Name of the network.
        network: String,
    },
    /// Labels whose number does not fit the network.
    #[error("{found} labels do not fit a network of {outputs} outputs")]
    Labels {
        /// Number of labels.
        found: usize,
        /// Outputs of the network.
        outputs: usize,
    },
    /// A classifier whose arithmetic went wrong.
    #[error("the network {network} produced NaN or infinity for class {class}")]
    NotFiniteScore {
        /// Name of the network.
        network: String,
        /// First output concerned.
        class: usize,
    },
    /// No model of this name.
    #[error("no model called {name:?}")]
    UnknownModel {
        /// Name that was asked for.
        name: String,
        /// Names that exist.
        known: Vec<String>,
    },
    /// A scale outside of what is offered.
    #[error("scale {scale} is not between {} and {}", crate::scale_plan::MIN_SCALE, crate::scale_plan::MAX_SCALE)]
    BadScale {
        /// Scale that was asked for.
        scale: f64,
    },
    /// An option with a value that makes no sense.
    #[error("{0}")]
    BadOption(String),
    /// A prompt without tokens.
    #[error("the prompt is empty: there is nothing to go on from")]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, and the context is {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of prompt and answer together, at most.
        context: usize,
    },
    /// A language model whose arithmetic went wrong.
    #[error("the model produced no finite logits")]
    NotFiniteLogits,
    /// The caller stopped the work.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// What a person may try, when there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Io { source, .. } | Error::Write(source) => match source.kind() {
                io::ErrorKind::NotFound => "check the path".into(),
                io::ErrorKind::PermissionDenied => "choose another folder or change its permissions".into(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "the disk is full: free some space or write elsewhere; nothing was left behind".into()
                }
                _ => return None,
            },
            #[cfg(feature = "files")]
            Error::Train(supple_train::Error::Examples(inner) | supple_train::Error::Observer(inner)) => {
                inner.downcast_ref::<Error>()?.hint()?
            }
            #[cfg(all(feature = "files", feature = "cuda"))]
            Error::Train(
                supple_train::Error::Tensor(supple_tensor::Error::Cuda(error))
                | supple_train::Error::Model(supple_models::Error::Tensor(supple_tensor::Error::Cuda(error))),
            ) => match error {
                supple_tensor::GpuError::OutOfMemory { .. } => {
                    "a smaller batch needs less, and so does a larger accumulate in the stage, which takes the same steps; \
                     --resume goes on if a checkpoint was written"
                        .into()
                }
                _ => "--device cpu trains without a GPU; --no-graph may tell more".into(),
            },
            #[cfg(feature = "files")]
            Error::Train(
                supple_train::Error::Tensor(supple_tensor::Error::Device { .. })
                | supple_train::Error::Model(supple_models::Error::Tensor(supple_tensor::Error::Device { .. })),
            ) => "--device auto trains it on the CPU".into(),
            #[cfg(feature = "files")]
            Error::Train(error) => error.hint()?,
            #[cfg(feature = "hub")]
            Error::Hub(error) => error.hint()?,
            Error::Weights(supple_weights::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                "check the path".into()
            }
            Error::NotAPicture { .. } => format!("known formats: {}", PictureFormat::readable_names()),
            Error::Truncated { .. } => "copy or download the file again".into(),
            Error::TooManyPixels { width, height, .. } => {
                format!("raise the limit with --max-pixels {} if the file is to be trusted", width * height)
            }
            Error::TooMuchMemory { .. } => "use a smaller scale or a machine with more memory".into(),
            Error::Exists { .. } => "use --overwrite to replace it".into(),
            Error::UnknownFormat { .. } => {
                format!("formats that can be written: {}", PictureFormat::writable_names())
            }
            Error::Encode { .. } => "png and tiff hold pictures of any size".into(),
            Error::EmptyPrompt => "give some text, as an argument or on standard input".into(),
            Error::PromptTooLong { tokens, .. } => format!("--context {} or more, or a shorter prompt", tokens + 256),
            Error::NotFiniteLogits => "the weights are damaged".into(),
            Error::NotFinite { .. } => "try --precision f32; if it stays, the weights are damaged".into(),
            Error::NotFiniteScore { .. } => "the weights are damaged, or too large for 32-bit floating point".into(),
            Error::NotAClassifier { .. } => {
                "networks from a picture of 3 planes to one value a class can be used; supple inspect shows the shapes".into()
            }
            Error::NotQuantized { .. } => {
                "supple compress MODEL --precision int8 --calibration PICTURES writes one that does; or choose --precision f32".into()
            }
            Error::Labels { outputs: 1001, .. } => {
                "a labels file has one name a line: 1001, the first for the background, or 1000 without it".into()
            }
            Error::Labels { outputs, .. } => format!("a labels file has one name a line, {outputs} for this network"),
            Error::UnknownModel { known, .. } => format!("known models: {}; or give a file", known.join(", ")),
            Error::BadScale { .. } => "choose a scale such as 2, 3, 4 or 2.5".into(),
            Error::Network(supple_models::Error::UnknownNetwork { .. }) => {
                "RLFN and DITN checkpoints (.safetensors, .pth) can be used".into()
            }
            Error::Network(supple_models::Error::GpuMemory { .. }) => {
                "a smaller --context or a model in smaller blocks needs less; --device cpu runs it without the GPU".into()
            }
            Error::Network(supple_models::Error::NotOnDevice { .. }) => "--device auto runs it on the CPU".into(),
            #[cfg(feature = "cuda")]
            Error::Network(supple_models::Error::Tensor(supple_tensor::Error::Cuda(error))) => match error {
                supple_tensor::GpuError::NoKernels => {
                    "cargo xtask cuda-toolchain installs nvcc, then build again; --device cpu runs without a GPU".into()
                }
                supple_tensor::GpuError::OldDriver { .. } => "update the driver; --device cpu runs without a GPU".into(),
                supple_tensor::GpuError::OutOfMemory { .. } => "--device cpu works in any memory".into(),
                _ => "--device auto or cpu runs without a GPU".into(),
            },
            Error::Network(supple_models::Error::UnsupportedOperator { .. }) => {
                "known are convolutions, depthwise and fully-connected ones among them, pooling, additions, concatenations and softmax".into()
            }
            _ => return None,
        })
    }

    /// An [`Error::Io`] in the making.
    #[cfg(feature = "files")]
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }
}
