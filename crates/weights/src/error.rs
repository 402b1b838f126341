//! What can go wrong with a weight file, each variant carrying what a person needs to act on it.

use crate::DType;

/// A failure to read or write weights. Every variant names the file; those about a tensor name it too, with what was
/// wanted and what was found.
///
/// Names that come from the file are printed quoted and escaped, so that a hostile file cannot write to a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, disk full, a folder in place of a file.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file, as given to [`Weights::open`](crate::Weights::open) or
        /// [`save_safetensors`](crate::save_safetensors).
        file: String,
        /// What was being done: "open", "map", "write", ...
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The file has no bytes at all.
    #[error("{file}: the file is empty (0 bytes)")]
    Empty {
        /// The file.
        file: String,
    },

    /// The content is no weight format that we know.
    #[error("{file}: wanted {wanted}, found {found}")]
    UnknownFormat {
        /// The file.
        file: String,
        /// What can be read here.
        wanted: &'static str,
        /// What the first bytes look like: "an HTML page", "a PNG image", ...
        found: String,
    },

    /// The content is a weight format that this crate knows of but does not read.
    #[error("{file}: {found} cannot be read: {hint}")]
    UnsupportedFormat {
        /// The file.
        file: String,
        /// The format's name.
        found: &'static str,
        /// What to do about it.
        hint: &'static str,
    },

    /// The file ends before what it promises.
    #[error("{file}: truncated: wanted {wanted}, found {found} bytes")]
    Truncated {
        /// The file.
        file: String,
        /// What its own header calls for.
        wanted: String,
        /// The file's size in bytes.
        found: u64,
    },

    /// The container (safetensors header, zip archive) contradicts itself or fails its checksum.
    #[error("{file}: damaged: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },

    /// Something in the file is larger than we are willing to handle; the usual cause is a file made to exhaust memory.
    #[error("{file}: {what} is too large: {wanted}, the limit is {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// What is too large, with its unit.
        what: String,
        /// The size that the file asks for.
        wanted: u64,
        /// The largest size accepted.
        limit: u64,
    },

    /// A PyTorch checkpoint written on a big-endian machine.
    #[error("{file}: wanted little-endian numbers, found a checkpoint written on a big-endian machine")]
    BigEndian {
        /// The file.
        file: String,
    },

    /// A PyTorch checkpoint that wants a Python object built or a function called which a table of tensors does not
    /// need. Nothing was run.
    #[error(
        "{file}: refuses to run code: {callable} (a checkpoint may hold tensors only; \
         save its state_dict alone, or convert it to safetensors)"
    )]
    RefusedCode {
        /// The file.
        file: String,
        /// The Python callable, `module.name`.
        callable: String,
    },

    /// The pickled part of a PyTorch checkpoint is malformed.
    #[error("{file}: bad pickle at byte {offset}: {reason}")]
    Pickle {
        /// The file.
        file: String,
        /// Where in `data.pkl`; for checkpoints that are no archive, where in the file.
        offset: usize,
        /// What is wrong.
        reason: String,
    },

    /// A well-formed file in which no table of named tensors was found.
    #[error("{file}: wanted a table of named tensors, found {found}")]
    NoTensors {
        /// The file.
        file: String,
        /// What there is instead, for example the top-level keys.
        found: String,
    },

    /// The tensor asked for is not in the file.
    #[error("{file}: no tensor {tensor:?}{}", did_you_mean(nearest))]
    MissingTensor {
        /// The file.
        file: String,
        /// The name asked for.
        tensor: String,
        /// Up to three names in the file that look like it, the nearest first.
        nearest: Vec<String>,
    },

    /// The tensor exists with another shape.
    #[error("{file}: tensor {tensor:?}: wanted shape {wanted:?}, found {found:?}")]
    WrongShape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shape asked for.
        wanted: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// The tensor's elements are of a type that we do not convert to `f32`.
    #[error("{file}: tensor {tensor:?}: wanted numbers that convert to f32, found {found}")]
    UnsupportedDType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: DType,
    },

    /// A weight is NaN or infinite, or too large for `f32`.
    #[error("{file}: tensor {tensor:?}: element {index} is {value}: weights must be finite")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first such element, counted in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },

    /// A tensor reaches beyond the bytes that it is stored in.
    #[error("{file}: tensor {tensor:?}: wanted {wanted} bytes of storage, found {found}")]
    OutOfBounds {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Bytes from the start of the storage to the tensor's last element.
        wanted: u64,
        /// Bytes in the storage.
        found: u64,
    },

    /// A GGUF file lacks a value that is needed.
    #[error("{file}: no metadata {key:?}")]
    MissingMetadata {
        /// The file.
        file: String,
        /// The key asked for.
        key: String,
    },

    /// A GGUF file has a value of another type, or out of range.
    #[error("{file}: metadata {key:?}: wanted {wanted}, found {found}")]
    WrongMetadata {
        /// The file.
        file: String,
        /// The key asked for.
        key: String,
        /// What the value has to be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },

    /// A tensor of a GGUF file is stored in blocks that this version knows nothing of.
    #[error("{file}: tensor {tensor:?} is stored in blocks of type {found}, which is not known")]
    UnknownBlockType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The type's number in the file.
        found: u32,
    },

    /// [`save_safetensors`](crate::save_safetensors) or [`gguf::save`](crate::gguf::save) was given what the format
    /// cannot hold.
    #[error("{file}: tensor {tensor:?} cannot be written: {reason}")]
    Unwritable {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: String,
    },
}

fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(|name| format!("{name:?}")).collect();
    format!("; did you mean {}?", names.join(" or "))
}

/// At most `limit` characters of `text`, so that a name of a megabyte does not become a message of a megabyte.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// At most `limit` characters of `text` with those escaped that a terminal would act on, for text outside quotes.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let mut escaped = String::new();
    for letter in clip(text, limit).chars() {
        match letter {
            '\'' | '"' | '\\' => escaped.push(letter),
            letter => escaped.extend(letter.escape_debug()),
        }
    }
    escaped
}
