//! [`Checkpoint`]: a language model's weights under their Hugging Face names, whatever they came in: a GGUF file, a
//! folder of safetensors, quantised or not, or a llama2.c file.
//!
//! ```no_run
//! use supple_weights::checkpoint::{Checkpoint, Stored};
//!
//! # fn main() -> Result<(), supple_weights::Error> {
//! let model = Checkpoint::open("SmolLM2-135M-Instruct.gguf".as_ref())?;
//! println!("{} layers", model.config()["num_hidden_layers"]);
//! match model.tensor("model.layers.0.self_attn.q_proj.weight")? {
//!     Stored::Blocks { shape, block_type, bytes } => println!("{shape:?} {block_type}, {} bytes", bytes.len()),
//!     Stored::Integers(matrix) => println!("{} by {} of {} bits", matrix.rows, matrix.columns, matrix.bits),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Values are as stored. Two things differ from container to container and are not undone, for packed blocks cannot be:
//! see [`Conventions`].

mod config;
mod folder;
mod integers;
mod llama2c;
pub mod names;
mod quantized;
mod splits;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::bytes::SharedBytes;
use crate::error::clip;
use crate::gguf::{BlockType, Gguf, MAGIC};
use crate::nearest::nearest;
use crate::{DType, Error, Weights};
use folder::Shards;
pub use folder::read_json;
pub use integers::IntegerMatrix;
use quantized::Scheme;

/// How a checkpoint departs from the mathematics of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conventions {
    /// How rows of the query and key projections are ordered.
    pub rope: RopeLayout,
    /// Gemma multiplies by `1 + w` in its norms; where this is true the 1 is in the weights already.
    pub norms_include_one: bool,
}

/// Which two elements of a head are turned together by a position's angle `i`, of `head_dim / 2` angles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Elements `i` and `i + head_dim / 2`, as Hugging Face has them.
    Halves,
    /// Elements `2 i` and `2 i + 1`: rows of queries and keys are permuted so, in GGUF files of the family `llama` and in
    /// llama2.c.
    Interleaved,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub enum Stored<'a> {
    /// Numbers, or blocks of them.
    Blocks {
        /// Dimensions, outermost first.
        shape: Vec<usize>,
        /// How elements are stored.
        block_type: BlockType,
        /// Rows of whole blocks, one after the other. Of no particular alignment.
        bytes: Cow<'a, [u8]>,
    },
    /// A linear layer of GPTQ, AWQ or compressed-tensors, unpacked.
    Integers(IntegerMatrix),
}

enum Container {
    Gguf(Vec<Gguf>),
    Folder(Shards, Option<Scheme>),
    Llama2c(SharedBytes, llama2c::Layout),
}

/// A language model's weights and configuration. Opening reads headers only.
pub struct Checkpoint {
    source: String,
    container: Container,
    config: Value,
    /// Hugging Face name → name in the container (of the codes, where a weight is several tensors).
    names: BTreeMap<String, String>,
    conventions: Conventions,
}

const AS_PUBLISHED: Conventions = Conventions { rope: RopeLayout::Halves, norms_include_one: false };

impl Checkpoint {
    /// Opens a folder, or a file whose format its content tells. Of a GGUF in several files, give the first.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Empty`], [`Error::UnknownFormat`] and what [`Gguf::open`] and [`Weights::open`] say of their
    /// formats; [`Error::Damaged`] for a folder whose parts contradict each other.
    pub fn open(path: &Path) -> Result<Checkpoint, Error> {
        let source = path.display().to_string();
        if path.is_dir() {
            return Checkpoint::open_folder(path, source);
        }
        let bytes = SharedBytes::map(path, &source)?;
        if bytes.as_ref().starts_with(MAGIC) {
            return Checkpoint::from_gguf(source, splits::open(path)?);
        }
        if let Some(layout) = llama2c::layout(bytes.as_ref(), bytes.as_ref().len()) {
            return Ok(Checkpoint::from_llama2c(source, bytes, layout));
        }
        let config = path.parent().map(|folder| folder.join("config.json")).filter(|path| path.is_file());
        let config = config.map(|path| read_json(&path)).transpose()?.unwrap_or_default();
        let weights = Weights::open(path).map_err(|error| match error {
            // GGUF is read here too.
            Error::UnknownFormat { file, found, .. } => {
                Error::UnknownFormat { file, wanted: "GGUF, safetensors or a PyTorch checkpoint", found }
            }
            other => other,
        })?;
        Checkpoint::from_shards(source, Shards::single(weights), config)
    }

    /// A GGUF file that is in memory.
    ///
    /// # Errors
    ///
    /// What [`Gguf::from_bytes`] says.
    pub fn of_gguf(gguf: Gguf) -> Result<Checkpoint, Error> {
        Checkpoint::from_gguf(gguf.source().to_owned(), vec![gguf])
    }

    fn open_folder(folder: &Path, source: String) -> Result<Checkpoint, Error> {
        if !folder.join("config.json").is_file() {
            // A folder made for GGUF has that file and little else.
            if let [only] = folder::with_extension(folder, "gguf")?.as_slice() {
                return Checkpoint::open(only);
            }
        }
        let shards = Shards::open(folder)?;
        let config = folder.join("config.json");
        let config = if config.is_file() { read_json(&config)? } else { Value::Null };
        Checkpoint::from_shards(source, shards, config)
    }

    fn from_gguf(source: String, files: Vec<Gguf>) -> Result<Checkpoint, Error> {
        let first = files.first().ok_or_else(|| Error::Empty { file: source.clone() })?;
        let config = config::from_gguf(first)?;
        let architecture = first.get_str("general.architecture")?.to_string();
        let mut names = BTreeMap::new();
        for tensor in files.iter().flat_map(Gguf::tensors) {
            let name = names::to_hugging_face(&architecture, &tensor.name).unwrap_or_else(|| tensor.name.clone());
            if names.insert(name, tensor.name.clone()).is_some() {
                let reason = format!("tensor {:?} twice", clip(&tensor.name, 200));
                return Err(Error::Damaged { file: source, reason });
            }
        }
        let interleaved = matches!(architecture.as_str(), "llama" | "mistral3" | "smollm3");
        let rope = if interleaved { RopeLayout::Interleaved } else { RopeLayout::Halves };
        let conventions = Conventions { rope, norms_include_one: architecture.starts_with("gemma") };
        Ok(Checkpoint { source, container: Container::Gguf(files), config, names, conventions })
    }

    fn from_llama2c(source: String, bytes: SharedBytes, layout: llama2c::Layout) -> Checkpoint {
        let names = layout.tensors.keys().map(|name| (name.clone(), name.clone())).collect();
        let conventions = Conventions { rope: RopeLayout::Interleaved, ..AS_PUBLISHED };
        let config = layout.config.clone();
        Checkpoint { source, container: Container::Llama2c(bytes, layout), config, names, conventions }
    }

    fn from_shards(source: String, shards: Shards, config: Value) -> Result<Checkpoint, Error> {
        let scheme = quantized::scheme(&source, &config)?;
        let endings = scheme.as_ref().map_or(&[][..], Scheme::endings);
        let mut names = BTreeMap::new();
        for name in shards.places.keys() {
            let split = endings.iter().find_map(|ending| Some((*ending, name.strip_suffix(ending)?)));
            match split.filter(|(_, prefix)| prefix.ends_with('.')) {
                Some((ending, prefix)) if ending == endings[0] => {
                    names.insert(format!("{prefix}weight"), name.clone());
                }
                Some((_, prefix)) if is_quantized(&shards, endings, prefix) => {}
                _ => {
                    names.insert(name.clone(), name.clone());
                }
            }
        }
        Ok(Checkpoint {
            source,
            container: Container::Folder(shards, scheme),
            config,
            names,
            conventions: AS_PUBLISHED,
        })
    }

    /// The file's or folder's name, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What `config.json` says, or what a GGUF or llama2.c file says in the same terms; null if there is nothing.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// How the weights depart from the mathematics of the family.
    pub fn conventions(&self) -> Conventions {
        self.conventions
    }

    /// The GGUF file, if it is one: its metadata hold the tokeniser and the chat template. The first of several.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.container {
            Container::Gguf(files) => files.first(),
            _ => None,
        }
    }

    /// The names of all tensors, sorted. A quantised linear layer has one `weight`, whatever it is stored as.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The tensor `name` as it is stored.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`]; [`Error::UnsupportedDType`] for elements that no [`BlockType`] holds;
    /// [`Error::Damaged`] when the parts of a quantised layer contradict each other.
    pub fn tensor(&self, name: &str) -> Result<Stored<'_>, Error> {
        let stored = self.names.get(name).ok_or_else(|| Error::MissingTensor {
            file: self.source.clone(),
            tensor: clip(name, 200),
            nearest: nearest(name, self.names()),
        })?;
        match &self.container {
            Container::Gguf(files) => {
                let file = files.iter().find(|file| file.contains(stored)).unwrap_or(&files[0]);
                let tensor = file.tensor(stored)?;
                let bytes = Cow::Borrowed(file.bytes(tensor));
                Ok(Stored::Blocks { shape: tensor.shape.clone(), block_type: tensor.block_type, bytes })
            }
            Container::Llama2c(bytes, layout) => {
                let (shape, range) = &layout.tensors[stored];
                let bytes = Cow::Borrowed(bytes.as_ref().get(range.clone()).unwrap_or_default());
                Ok(Stored::Blocks { shape: shape.clone(), block_type: BlockType::F32, bytes })
            }
            Container::Folder(shards, scheme) => self.in_folder(name, stored, shards, scheme.as_ref()),
        }
    }

    /// Lets go of the memory that reading the tensor `name` took, where the file is a mapped GGUF. It can be read again.
    pub fn release(&self, name: &str) {
        if let (Container::Gguf(files), Some(stored)) = (&self.container, self.names.get(name)) {
            for file in files {
                if file.contains(stored)
                    && let Ok(tensor) = file.tensor(stored)
                {
                    file.release(tensor);
                }
            }
        }
    }

    fn in_folder<'a>(
        &'a self,
        name: &str,
        stored: &str,
        shards: &'a Shards,
        scheme: Option<&Scheme>,
    ) -> Result<Stored<'a>, Error> {
        if let (Some(scheme), Some(prefix)) = (scheme, name.strip_suffix("weight"))
            && is_quantized(shards, scheme.endings(), prefix)
        {
            return Ok(Stored::Integers(scheme.read(prefix, &|name| shards.find(name))?));
        }
        let missing =
            || Error::MissingTensor { file: self.source.clone(), tensor: clip(name, 200), nearest: Vec::new() };
        let file = shards.find(stored).ok_or_else(missing)?;
        let info = file.info(stored).ok_or_else(missing)?;
        let block_type = match info.dtype {
            DType::F32 => BlockType::F32,
            DType::F16 => BlockType::F16,
            DType::BF16 => BlockType::BF16,
            DType::F64 => BlockType::F64,
            DType::I8 => BlockType::I8,
            DType::I16 => BlockType::I16,
            DType::I32 => BlockType::I32,
            DType::I64 => BlockType::I64,
            found => {
                let (file, tensor) = (file.source().to_string(), clip(name, 200));
                return Err(Error::UnsupportedDType { file, tensor, found });
            }
        };
        Ok(Stored::Blocks { shape: info.shape.clone(), block_type, bytes: file.bytes(stored)? })
    }
}

/// Whether the layer `prefix` has codes in place of a weight: under their own name, or as `weight` with scales.
fn is_quantized(shards: &Shards, endings: &[&str], prefix: &str) -> bool {
    let has = |ending: &str| shards.places.contains_key(&format!("{prefix}{ending}"));
    endings.first().is_some_and(|codes| has(codes)) || endings.contains(&"weight_scale") && has("weight_scale")
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, tensors) = (&self.source, self.names.len());
        formatter.debug_struct("Checkpoint").field("source", source).field("tensors", &tensors).finish()
    }
}
