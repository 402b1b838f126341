//! Checkpoints as `torch.save` wrote them before version 1.6: pickles one after another, then the storages.
//!
//! Layout: a pickle each of a magic number, the version of the protocol (1001), a dict about the machine that wrote it, the
//! saved object, and the list of the storages' keys; then for each of these, in the list's order, the number of its elements
//! (`i64`) and the elements. Pickled tensors are as in the newer format. Source: `_legacy_load` in PyTorch's `serialization.py`.

use std::collections::HashMap;
use std::ops::Range;

use super::objects::Value;
use super::pickle::Machine;
use crate::Error;
use crate::detect::BARE_PICKLES;
use crate::error::{clip, printable};

const PROTOCOL: i64 = 1001;
/// Bytes of the number of elements before a storage.
const COUNT: usize = 8;

/// A checkpoint whose tensors and storages are known.
pub(super) struct Bare<'a> {
    /// Has run the pickle of the saved object.
    pub(super) machine: Machine<'a>,
    /// Where the bytes of each storage are.
    pub(super) storages: HashMap<&'a str, Range<usize>>,
}

impl<'a> Bare<'a> {
    /// Reads the pickles and finds the storages; their elements are not looked at.
    pub(super) fn read(file: &str, bytes: &'a [u8]) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Damaged { file: file.to_string(), reason };
        let version = Machine::run_from(file, bytes, BARE_PICKLES.len())?;
        if !matches!(version.result(), Value::Integer(PROTOCOL)) {
            return Err(damaged("the version of its protocol is not 1001".into()));
        }
        let writer = Machine::run_from(file, bytes, version.end())?;
        if writer
            .pairs(writer.result())
            .any(|(key, value)| key == "little_endian" && matches!(value, Value::Bool(false)))
        {
            return Err(Error::BigEndian { file: file.to_string() });
        }
        let machine = Machine::run_from(file, bytes, writer.end())?;
        let keys = Machine::run_from(file, bytes, machine.end())?;
        let Value::Sequence(list) = keys.result() else {
            return Err(damaged("it has no list of storages".into()));
        };

        let sizes: HashMap<&str, Option<usize>> =
            machine.storages().map(|storage| (storage.key, storage.dtype.and_then(|dtype| dtype.size()))).collect();
        let mut storages = HashMap::new();
        let mut at = keys.end();
        for &key in list {
            let Value::Text(key) = *keys.value(key) else {
                return Err(damaged("a storage has a key that is no text".into()));
            };
            let name = printable(&clip(key, 80), 100);
            let Some(Some(size)) = sizes.get(key).copied() else {
                return Err(damaged(format!("storage {name} is of no type whose size is known")));
            };
            let truncated = |wanted: u64| Error::Truncated {
                file: file.to_string(),
                wanted: format!("{wanted} bytes, up to the end of storage {name}"),
                found: bytes.len() as u64,
            };
            let start = at + COUNT;
            let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<COUNT>());
            let count = i64::from_le_bytes(*count.ok_or_else(|| truncated(start as u64))?);
            let count = u64::try_from(count).map_err(|_| damaged(format!("storage {name} has {count} elements")))?;
            let end = count.saturating_mul(size as u64).saturating_add(start as u64);
            if end > bytes.len() as u64 {
                return Err(truncated(end));
            }
            at = end as usize;
            if storages.insert(key, start..at).is_some() {
                return Err(damaged(format!("storage {name} is listed twice")));
            }
        }
        Ok(Bare { machine, storages })
    }
}
