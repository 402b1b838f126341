//! A Hugging Face folder: `config.json`, and weights in one file or in several with an index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::clip;
use crate::{Error, Weights};

/// Index files, the preferred first.
const INDICES: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
/// Single files, the preferred first.
const SINGLES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// What a language model may be.
pub(super) const WANTED: &str = "GGUF, or a folder with config.json and safetensors or a PyTorch checkpoint";
/// Most bytes of a JSON file.
const MAX_JSON: u64 = 64 << 20;

/// Shards, and which of them has a tensor.
pub(super) struct Shards {
    pub(super) files: Vec<Weights>,
    pub(super) places: BTreeMap<String, usize>,
}

impl Shards {
    /// All tensors of one file.
    pub(super) fn single(weights: Weights) -> Shards {
        let places = weights.names().map(|name| (name.to_string(), 0)).collect();
        Shards { files: vec![weights], places }
    }

    /// Opens what `folder` holds.
    pub(super) fn open(folder: &Path) -> Result<Shards, Error> {
        for index in INDICES {
            if folder.join(index).is_file() {
                return Shards::indexed(folder, index);
            }
        }
        for name in SINGLES {
            if folder.join(name).is_file() {
                return Ok(Shards::single(Weights::open(&folder.join(name))?));
            }
        }
        // A file of another name, if it is the only one.
        let mut found = with_extension(folder, "safetensors")?;
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(Shards::single(Weights::open(&only)?)),
            (Some(_), false) => Err(nothing(folder, "several .safetensors files without model.safetensors.index.json")),
            (None, _) => Err(nothing(folder, "a folder without model.safetensors")),
        }
    }

    fn indexed(folder: &Path, index: &str) -> Result<Shards, Error> {
        let path = folder.join(index);
        let file = path.display().to_string();
        let damaged = |reason: String| Error::Damaged { file: file.clone(), reason };
        let json = read_json(&path)?;
        let map = json["weight_map"].as_object().ok_or_else(|| damaged("no weight_map".into()))?;
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for (tensor, shard) in map {
            let shown = clip(tensor, 200);
            let shard = shard.as_str().ok_or_else(|| damaged(format!("tensor {shown:?}: its file is no text")))?;
            let number = match numbers.get(shard) {
                Some(&number) => number,
                None => {
                    let name = plain_name(shard).ok_or_else(|| {
                        damaged(format!("tensor {shown:?}: {:?} is no file in this folder", clip(shard, 200)))
                    })?;
                    files.push(Weights::open(&folder.join(name))?);
                    numbers.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            if !files[number].contains(tensor) {
                return Err(damaged(format!("tensor {shown:?} is not in {:?}", clip(shard, 200))));
            }
            places.insert(tensor.clone(), number);
        }
        if files.is_empty() {
            return Err(damaged("an empty weight_map".into()));
        }
        Ok(Shards { files, places })
    }

    /// The file that has `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Weights> {
        self.places.get(name).and_then(|&number| self.files.get(number))
    }
}

/// `name`, if it names a file of a folder and nothing above, below or beside it.
fn plain_name(name: &str) -> Option<&str> {
    let strange = |letter: char| matches!(letter, '/' | '\\' | ':') || letter.is_control();
    (!name.is_empty() && name != "." && name != ".." && !name.contains(strange)).then_some(name)
}

fn nothing(folder: &Path, found: &str) -> Error {
    Error::UnknownFormat { file: folder.display().to_string(), wanted: WANTED, found: found.to_string() }
}

/// Files of `folder` with this extension, sorted.
pub(super) fn with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { file: folder.display().to_string(), action: "list", source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A JSON file of reasonable size.
///
/// # Errors
///
/// [`Error::Io`], [`Error::TooLarge`], and [`Error::Damaged`] for what is no JSON.
pub fn read_json(path: &Path) -> Result<Value, Error> {
    let name = || path.display().to_string();
    let failed = |source: io::Error| Error::Io { file: name(), action: "read", source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_JSON {
        let what = "JSON file (bytes)".to_string();
        return Err(Error::TooLarge { file: name(), what, wanted: bytes.len() as u64, limit: MAX_JSON });
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::Damaged { file: name(), reason: format!("JSON: {error}") })
}
