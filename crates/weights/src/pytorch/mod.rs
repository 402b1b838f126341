//! PyTorch checkpoints, as `torch.save` writes them since version 1.6; for older ones see [`bare`].
//!
//! Layout: a zip archive with one folder, usually of stored (uncompressed) entries:
//!
//! * `NAME/data.pkl`: a pickle of the saved object, in which each tensor is a call of `torch._utils._rebuild_tensor_v2`
//!   with a storage's key, an offset, a shape and strides;
//! * `NAME/data/KEY`: the bytes of one storage;
//! * `NAME/byteorder` (optional): `little` or `big`;
//! * `NAME/version`: of no consequence here.
//!
//! The pickle is interpreted by a small machine of our own that builds data only ([`pickle`]); nothing is called.

mod archive;
mod bare;
mod callable;
mod objects;
mod pickle;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Range;

use crate::Error;
use crate::bytes::SharedBytes;
use crate::detect::BARE_PICKLES;
use crate::error::{clip, printable};
use crate::weights::{Entries, Entry, Place, TensorInfo};
use archive::Archive;
use bare::Bare;
use objects::{Tensor, Value};
use pickle::Machine;

pub(crate) use view::View;

/// Keys under which training scripts keep the state dict, the preferred first (an exponential moving average of the
/// weights is what a script that keeps one evaluates with).
const WRAPPERS: [&str; 3] = ["params_ema", "params", "state_dict"];
/// The most names in one checkpoint.
const MAX_NAMES: usize = 1 << 18;
/// What `DataParallel` puts before every name.
const PARALLEL_PREFIX: &str = "module.";

/// Where the storages of a checkpoint are.
pub(crate) enum Checkpoint {
    /// In entries of a zip archive.
    Archive(archive::Storages),
    /// In ranges of the file.
    Bare(Vec<Range<usize>>),
}

impl Checkpoint {
    /// The bytes of the storage behind `view`.
    pub(crate) fn read_storage<'a>(
        &self,
        file: &str,
        bytes: &'a SharedBytes,
        view: &View,
    ) -> Result<Cow<'a, [u8]>, Error> {
        match self {
            Checkpoint::Archive(storages) => storages.read(file, bytes, view.storage),
            Checkpoint::Bare(ranges) => {
                let found = ranges.get(view.storage).and_then(|range| bytes.as_ref().get(range.clone()));
                let damaged =
                    || Error::Damaged { file: file.to_string(), reason: "a storage lies outside the file".into() };
                found.map(Cow::Borrowed).ok_or_else(damaged)
            }
        }
    }
}

/// The tensors of a checkpoint and where their bytes are.
pub(crate) fn parse(file: &str, bytes: &SharedBytes) -> Result<(Entries, Checkpoint), Error> {
    if bytes.as_ref().starts_with(BARE_PICKLES) {
        let Bare { machine, storages } = Bare::read(file, bytes.as_ref())?;
        let mut ranges = Vec::new();
        let entries = entries(file, &machine, |key| {
            let missing = || Error::Damaged {
                file: file.to_string(),
                reason: format!("storage {} is not in the list", printable(&clip(key, 80), 100)),
            };
            let range = storages.get(key).cloned().ok_or_else(missing)?;
            ranges.push(range.clone());
            Ok((ranges.len() - 1, range.len() as u64))
        })?;
        return Ok((entries, Checkpoint::Bare(ranges)));
    }
    let mut archive = Archive::open(file, bytes)?;
    let pickle = archive.pickle()?;
    let machine = Machine::run(file, &pickle)?;
    let entries = entries(file, &machine, |key| {
        let storage = archive.storage(key)?;
        Ok((storage, archive.storage_bytes(storage)))
    })?;
    Ok((entries, Checkpoint::Archive(archive.into_storages())))
}

/// The tensors that a pickle describes. `find` gives the index and the bytes of the storage of a key; it is asked once a key.
fn entries<'a>(
    file: &str,
    machine: &Machine<'a>,
    mut find: impl FnMut(&'a str) -> Result<(usize, u64), Error>,
) -> Result<Entries, Error> {
    let tensors = state_dict(file, machine)?;
    if tensors.len() > MAX_NAMES {
        let what = "state dict (tensors)".to_string();
        let (wanted, limit) = (tensors.len() as u64, MAX_NAMES as u64);
        return Err(Error::TooLarge { file: file.to_string(), what, wanted, limit });
    }
    let stripped = tensors.iter().all(|(name, _)| name.starts_with(PARALLEL_PREFIX));
    let mut entries = Entries::new();
    let mut storages = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = if stripped { &name[PARALLEL_PREFIX.len()..] } else { name };
        let (storage, available) = match storages.entry(tensor.storage.key) {
            Slot::Occupied(slot) => *slot.get(),
            Slot::Vacant(slot) => *slot.insert(find(tensor.storage.key)?),
        };
        let view = View::new(file, name, tensor, storage, available)?;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
        // A key that is set twice keeps its last value, as in Python.
        entries.insert(name.to_string(), Entry { info, place: Place::View(view) });
    }
    Ok(entries)
}

/// The named tensors: those of a wrapper's dict if there is one, else those of the top-level dict. Entries that are not
/// tensors (epochs, options) are passed over.
fn state_dict<'m, 'a>(file: &str, machine: &'m Machine<'a>) -> Result<Vec<(&'a str, &'m Tensor<'a>)>, Error> {
    let top = machine.result();
    for wrapper in WRAPPERS {
        let inner = machine.pairs(top).filter(|(key, _)| *key == wrapper).last();
        let tensors = inner.map_or_else(Vec::new, |(_, value)| tensors(machine, value));
        if !tensors.is_empty() {
            return Ok(tensors);
        }
    }
    let tensors = tensors(machine, top);
    if !tensors.is_empty() {
        return Ok(tensors);
    }
    let keys: Vec<String> = machine.pairs(top).take(8).map(|(key, _)| format!("{:?}", clip(key, 40))).collect();
    let found = match (top, keys.is_empty()) {
        (Value::Dict(_), true) => "an empty dict".to_string(),
        (Value::Dict(_), false) => format!("a dict with the keys {}", keys.join(", ")),
        (Value::Tensor(_), _) => "one tensor without a name".to_string(),
        (Value::Sequence(_), _) => "a list".to_string(),
        _ => "another kind of object".to_string(),
    };
    Err(Error::NoTensors { file: file.to_string(), found })
}

fn tensors<'m, 'a>(machine: &'m Machine<'a>, dict: &'m Value<'a>) -> Vec<(&'a str, &'m Tensor<'a>)> {
    let pairs = machine.pairs(dict);
    pairs
        .filter_map(|(key, value)| if let Value::Tensor(tensor) = value { Some((key, &**tensor)) } else { None })
        .collect()
}
