//! PyTorch checkpoints, as `torch.save` writes them since version 1.6.
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
mod callable;
mod objects;
mod pickle;
mod view;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::Error;
use crate::bytes::SharedBytes;
use crate::error::clip;
use crate::weights::{Entries, Entry, Place, TensorInfo};
use archive::Archive;
use objects::{Tensor, Value};
use pickle::Machine;

pub(crate) use archive::Checkpoint;
pub(crate) use view::View;

/// Keys under which training scripts keep the state dict, the preferred first (an exponential moving average of the
/// weights is what a script that keeps one evaluates with).
const WRAPPERS: [&str; 3] = ["params_ema", "params", "state_dict"];
/// The most names in one checkpoint.
const MAX_NAMES: usize = 1 << 18;
/// What `DataParallel` puts before every name.
const PARALLEL_PREFIX: &str = "module.";

/// The tensors of a checkpoint and the archive that their bytes are in.
pub(crate) fn parse(file: &str, bytes: &SharedBytes) -> Result<(Entries, Checkpoint), Error> {
    let mut archive = Archive::open(file, bytes)?;
    let pickle = archive.pickle()?;
    let machine = Machine::run(file, &pickle)?;
    let tensors = state_dict(file, &machine)?;

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
        let storage = match storages.entry(tensor.storage.key) {
            Slot::Occupied(slot) => *slot.get(),
            Slot::Vacant(slot) => *slot.insert(archive.storage(tensor.storage.key)?),
        };
        let view = View::new(file, name, tensor, storage, archive.storage_bytes(storage))?;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
        // A key that is set twice keeps its last value, as in Python.
        entries.insert(name.to_string(), Entry { info, place: Place::View(view) });
    }
    Ok((entries, archive.into_checkpoint()))
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
