//! GGUF: the container that llama.cpp's models come in, versions 2 and 3.
//!
//! [`Gguf`] is an opened file: metadata by key, and tensors by name in whatever blocks they are stored. [`save`] writes one.
//!
//! ```
//! use supple_weights::gguf::{BlockType, Gguf, NewTensor, Value, save};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! let metadata = [("general.architecture".to_string(), Value::from("llama"))];
//! let norm = NewTensor { name: "output_norm.weight".into(), shape: vec![2], block_type: BlockType::F32 };
//! save(&path, &metadata, &[norm], |_, output| {
//!     output.extend([0.5f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
//!     Ok::<(), supple_weights::Error>(())
//! })?;
//!
//! let file = Gguf::open(&path)?;
//! assert_eq!(file.get_str("general.architecture")?, "llama");
//! let tensor = file.tensor("output_norm.weight")?;
//! assert_eq!((tensor.shape.as_slice(), tensor.block_type), (&[2][..], BlockType::F32));
//! assert_eq!(file.bytes(tensor).len(), 8);
//! # Ok(())
//! # }
//! ```
//!
//! The file is mapped; opening reads its header and touches no tensor. Every count, offset and shape is compared with the
//! file's size first, ranges of tensors are aligned and do not overlap.
//!
//! Source: `docs/gguf.md` of ggml.

mod block_type;
mod parse;
mod value;
mod write;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use crate::Error;
use crate::bytes::SharedBytes;
use crate::error::clip;
use crate::nearest::nearest;

pub use block_type::BlockType;
pub use value::{Array, Kind, Value};
pub use write::{NewTensor, save};

/// The first bytes of every GGUF file.
pub(crate) const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
/// Bytes to which tensors are aligned if the file does not say.
const DEFAULT_ALIGNMENT: usize = 32;

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first (the file has them the other way round); empty for a scalar.
    pub shape: Vec<usize>,
    /// How elements are stored.
    pub block_type: BlockType,
    range: Range<usize>,
}

impl TensorInfo {
    /// The number of elements. It was checked not to overflow when the file was opened.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number of stored bytes.
    pub fn size(&self) -> usize {
        self.range.len()
    }

    /// Bytes from the start of the file to the tensor's first.
    pub fn position(&self) -> usize {
        self.range.start
    }
}

/// An opened GGUF file. It is `Send` and `Sync`. The file must not be changed while it is open: it is mapped, not copied.
#[derive(Clone)]
pub struct Gguf {
    source: String,
    bytes: SharedBytes,
    version: u32,
    keys: Vec<String>,
    metadata: HashMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, usize>,
    alignment: usize,
}

impl Gguf {
    /// Opens and maps the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be opened, otherwise as [`Gguf::from_bytes`].
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let source = path.display().to_string();
        let bytes = SharedBytes::map(path, &source)?;
        Gguf::parse(source, bytes)
    }

    /// Reads a file that is in memory; a `&'static [u8]` is not copied. `source` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] and [`Error::UnknownFormat`] when the bytes are no GGUF; [`Error::UnsupportedFormat`],
    /// [`Error::BigEndian`] and [`Error::UnknownBlockType`] when they are of a kind that is not read;
    /// [`Error::Truncated`], [`Error::Damaged`] and [`Error::TooLarge`] when they cannot be trusted.
    pub fn from_bytes(source: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Gguf, Error> {
        Gguf::parse(source.into(), SharedBytes::given(bytes.into()))
    }

    fn parse(source: String, bytes: SharedBytes) -> Result<Gguf, Error> {
        let parse::Header { version, keys, metadata, tensors, by_name, alignment } = parse::parse(&source, &bytes)?;
        Ok(Gguf { source, bytes, version, keys, metadata, tensors, by_name, alignment })
    }

    /// The file's name, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes to which tensors are aligned.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Metadata, in the order of the file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().filter_map(|key| Some((key.as_str(), self.metadata.get(key)?)))
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn find<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| Error::WrongMetadata {
            file: self.source.clone(),
            key: clip(key, 200),
            wanted,
            found: match value.as_integer() {
                Some(number) => format!("{number} ({})", value.kind().name()),
                None => value.kind().name().to_string(),
            },
        })
    }

    fn required<T>(&self, key: &str, found: Result<Option<T>, Error>) -> Result<T, Error> {
        found?.ok_or_else(|| Error::MissingMetadata { file: self.source.clone(), key: clip(key, 200) })
    }

    /// The text of `key`, if the file has it.
    ///
    /// # Errors
    ///
    /// As for all that begin with `find`: [`Error::WrongMetadata`] when there is a value of another type.
    pub fn find_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.find(key, "UTF-8 text", Value::as_str)
    }

    /// The text of `key`.
    ///
    /// # Errors
    ///
    /// As for all that begin with `get`: [`Error::MissingMetadata`] when there is no such key, and [`Error::WrongMetadata`]
    /// when there is a value of another type.
    pub fn get_str(&self, key: &str) -> Result<&str, Error> {
        self.required(key, self.find_str(key))
    }

    /// The integer of `key`, of any width, if the file has it.
    ///
    /// # Errors
    ///
    /// As [`Gguf::find_str`], also when it does not fit.
    pub fn find_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.find(key, "an integer of 32 bits without sign", |value| value.as_integer()?.try_into().ok())
    }

    /// The integer of `key`, of any width.
    ///
    /// # Errors
    ///
    /// As [`Gguf::get_str`], also when it does not fit.
    pub fn get_u32(&self, key: &str) -> Result<u32, Error> {
        self.required(key, self.find_u32(key))
    }

    /// The floating-point number of `key`, if the file has it.
    ///
    /// # Errors
    ///
    /// As [`Gguf::find_str`].
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.find(key, "a floating-point number", Value::as_f32)
    }

    /// The floating-point number of `key`.
    ///
    /// # Errors
    ///
    /// As [`Gguf::get_str`].
    pub fn get_f32(&self, key: &str) -> Result<f32, Error> {
        self.required(key, self.find_f32(key))
    }

    /// The truth value of `key`, if the file has it.
    ///
    /// # Errors
    ///
    /// As [`Gguf::find_str`].
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.find(key, "true or false", |value| if let Value::Bool(value) = value { Some(*value) } else { None })
    }

    /// The truth value of `key`.
    ///
    /// # Errors
    ///
    /// As [`Gguf::get_str`].
    pub fn get_bool(&self, key: &str) -> Result<bool, Error> {
        self.required(key, self.find_bool(key))
    }

    /// The array of `key`, if the file has it.
    ///
    /// # Errors
    ///
    /// As [`Gguf::find_str`].
    pub fn find_array(&self, key: &str) -> Result<Option<&Array>, Error> {
        self.find(key, "an array", |value| if let Value::Array(array) = value { Some(array) } else { None })
    }

    /// The array of `key`.
    ///
    /// # Errors
    ///
    /// As [`Gguf::get_str`].
    pub fn get_array(&self, key: &str) -> Result<&Array, Error> {
        self.required(key, self.find_array(key))
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.by_name.get(name).and_then(|&index| self.tensors.get(index)).ok_or_else(|| Error::MissingTensor {
            file: self.source.clone(),
            tensor: clip(name, 200),
            nearest: nearest(name, self.by_name.keys().map(String::as_str)),
        })
    }

    /// The stored bytes of a tensor of this file: rows of whole blocks, one after the other.
    ///
    /// Their address is a multiple of [`Gguf::alignment`] when the file is mapped.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        // The range was compared with the file when it was opened; a tensor of another file may lie outside.
        self.bytes.as_ref().get(tensor.range.clone()).unwrap_or_default()
    }

    /// Lets go of the memory that reading a tensor took. It can be read again.
    pub fn release(&self, tensor: &TensorInfo) {
        self.bytes.release(tensor.range.clone());
    }

    /// The number of elements in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.elements() as u64))
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Gguf")
            .field("source", &self.source)
            .field("version", &self.version)
            .field("metadata", &self.keys.len())
            .field("tensors", &self.tensors.len())
            .finish()
    }
}
