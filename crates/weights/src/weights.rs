//! [`Weights`]: tensors by name, whatever the format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::bytes::SharedBytes;
use crate::detect::detect;
use crate::dtype::to_f32;
use crate::error::clip;
use crate::nearest::nearest;
use crate::pytorch::{self, Checkpoint};
use crate::{DType, Error, safetensors};

/// The container format of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A JSON header, then the tensors' bytes.
    Safetensors,
    /// A zip archive of a pickle and one entry per storage, as `torch.save` writes since PyTorch 1.6, or pickles followed by
    /// the storages, as it wrote before.
    PyTorch,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Format::Safetensors => "safetensors",
            Format::PyTorch => "PyTorch checkpoint",
        })
    }
}

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The stored type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// The number of elements. It was checked not to overflow when the file was opened.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One tensor: what it is, and where its bytes are.
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    pub(crate) place: Place,
}

/// Tensors by name.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// Where a tensor's bytes are.
pub(crate) enum Place {
    /// A range of the file.
    Range(std::ops::Range<usize>),
    /// A view of a PyTorch storage.
    #[cfg_attr(not(feature = "pytorch"), expect(dead_code))]
    View(pytorch::View),
}

/// An opened weight file or byte buffer.
///
/// Opening reads the header only; a tensor's bytes are read, checked and converted when it is asked for. `Weights` is
/// `Send` and `Sync`, so several threads can load tensors at once.
///
/// The file must not be changed while it is open: it is mapped, not copied.
pub struct Weights {
    source: String,
    format: Format,
    bytes: SharedBytes,
    entries: Entries,
    metadata: BTreeMap<String, String>,
    checkpoint: Option<Checkpoint>,
}

impl Weights {
    /// Opens and maps the file at `path`. The format is found by content, not by extension.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be opened, otherwise as [`Weights::from_bytes`].
    pub fn open(path: &Path) -> Result<Weights, Error> {
        let source = path.display().to_string();
        let bytes = SharedBytes::map(path, &source)?;
        Self::parse(source, bytes)
    }

    /// Opens weights that are in memory, for example embedded with `include_bytes!`; a `&'static [u8]` is not copied.
    /// `source` is what errors call them.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::UnknownFormat`] and [`Error::UnsupportedFormat`] when the bytes are no weights that
    /// we read; [`Error::Truncated`], [`Error::Damaged`], [`Error::TooLarge`], [`Error::BigEndian`],
    /// [`Error::RefusedCode`], [`Error::Pickle`], [`Error::OutOfBounds`] and [`Error::NoTensors`] when they are but
    /// cannot be trusted or used.
    pub fn from_bytes(source: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Weights, Error> {
        Self::parse(source.into(), SharedBytes::given(bytes.into()))
    }

    fn parse(source: String, bytes: SharedBytes) -> Result<Weights, Error> {
        let format = detect(&source, bytes.as_ref())?;
        let (entries, metadata, checkpoint) = match format {
            Format::Safetensors => {
                let (entries, metadata) = safetensors::parse(&source, bytes.as_ref())?;
                (entries, metadata, None)
            }
            Format::PyTorch => {
                let (entries, checkpoint) = pytorch::parse(&source, &bytes)?;
                (entries, BTreeMap::new(), Some(checkpoint))
            }
        };
        Ok(Weights { source, format, bytes, entries, metadata, checkpoint })
    }

    /// The file's name, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The container format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The names of all tensors, sorted by their bytes.
    ///
    /// The prefix `module.`, which PyTorch's `DataParallel` adds, is removed when every tensor of a checkpoint has it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The type and shape of the tensor `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.entries.get(name).map(|entry| &entry.info)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor `name` in row-major order, converted to `f32`, after checking that it has the wanted `shape`.
    ///
    /// Integers beyond 2^24 and 64-bit floats are rounded to the nearest `f32`.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::WrongShape`], [`Error::UnsupportedDType`], [`Error::NotFinite`], and
    /// [`Error::Damaged`] when the stored bytes fail their checksum.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let entry = self.entry(name)?;
        if entry.info.shape != shape {
            return Err(Error::WrongShape {
                file: self.source.clone(),
                tensor: clip(name, 200),
                wanted: shape.to_vec(),
                found: entry.info.shape.clone(),
            });
        }
        self.read(name, entry)
    }

    /// The tensor `name` with whatever shape it has: `(shape, elements)`.
    ///
    /// # Errors
    ///
    /// As [`Weights::tensor`], less [`Error::WrongShape`].
    pub fn tensor_any_shape(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let entry = self.entry(name)?;
        Ok((entry.info.shape.clone(), self.read(name, entry)?))
    }

    /// The bytes of the tensor `name` as they are stored: little-endian elements in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::UnsupportedDType`] for elements of unknown size, and [`Error::Damaged`] when the
    /// stored bytes fail their checksum.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, Error> {
        self.stored(name, self.entry(name)?)
    }

    /// The `__metadata__` of a safetensors file; empty for a PyTorch checkpoint.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The number of elements in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.entries.values().fold(0, |sum, entry| sum.saturating_add(entry.info.elements() as u64))
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::MissingTensor {
            file: self.source.clone(),
            tensor: clip(name, 200),
            nearest: nearest(name, self.names()),
        })
    }

    fn stored(&self, name: &str, entry: &Entry) -> Result<Cow<'_, [u8]>, Error> {
        let size = entry.info.dtype.size().ok_or_else(|| self.unsupported(name, entry))?;
        let contiguous = match (&entry.place, &self.checkpoint) {
            (Place::Range(range), _) => self.bytes.as_ref().get(range.clone()).map(Cow::Borrowed),
            (Place::View(view), Some(checkpoint)) => {
                let storage = checkpoint.read_storage(&self.source, &self.bytes, view)?;
                view.gather(storage, &entry.info.shape, size)
            }
            (Place::View(_), None) => None,
        };
        // Ranges and views were compared with the file when it was opened, so this holds unless the file has changed.
        contiguous.ok_or_else(|| Error::Damaged {
            file: self.source.clone(),
            reason: format!("tensor {:?} lies outside the file", clip(name, 200)),
        })
    }

    fn unsupported(&self, name: &str, entry: &Entry) -> Error {
        Error::UnsupportedDType { file: self.source.clone(), tensor: clip(name, 200), found: entry.info.dtype }
    }

    fn read(&self, name: &str, entry: &Entry) -> Result<Vec<f32>, Error> {
        let contiguous = self.stored(name, entry)?;
        let values = to_f32(entry.info.dtype, &contiguous).ok_or_else(|| self.unsupported(name, entry))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(Error::NotFinite {
                file: self.source.clone(),
                tensor: clip(name, 200),
                index,
                value: values[index],
            }),
        }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Weights")
            .field("source", &self.source)
            .field("format", &self.format)
            .field("tensors", &self.entries.len())
            .field("parameters", &self.parameters())
            .finish()
    }
}
