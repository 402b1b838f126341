//! The header of a GGUF file. All numbers are little-endian:
//!
//! `GGUF` · version u32 · tensors u64 · metadata pairs u64 · pairs (key, type u32, value) · tensors (name, rank u32,
//! dimensions u64 innermost first, type u32, offset u64) · padding to the alignment · data, where offsets count from.
//!
//! A string is its length (u64) and its bytes; an array is its type (u32), its length (u64) and its values.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::value::{self, Array, Kind, Value};
use super::{ALIGNMENT_KEY, BlockType, DEFAULT_ALIGNMENT, MAGIC, TensorInfo};
use crate::Error;
use crate::bytes::SharedBytes;
use crate::error::clip;

/// Most dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// Deepest nesting of arrays.
const MAX_DEPTH: u32 = 4;
/// Longest key or name in bytes, as the format says of keys.
const MAX_NAME: usize = 65_535;
/// Largest alignment in bytes.
const MAX_ALIGNMENT: u64 = 1 << 24;
/// Fewest bytes of a metadata pair: an empty key, a type, a value.
const LEAST_PAIR: usize = 8 + 4 + 1;
/// Fewest bytes of a tensor's description.
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;

/// What a header says.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) keys: Vec<String>,
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) by_name: BTreeMap<String, usize>,
    pub(super) alignment: usize,
}

/// Reads from the front of the file, remembering what for.
struct Cursor<'a> {
    file: &'a str,
    bytes: &'a SharedBytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { file: self.file.to_string(), reason: reason.into() }
    }

    fn left(&self) -> usize {
        self.bytes.as_ref().len() - self.at
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes.as_ref()[self.at..];
        let taken = rest.get(..count).ok_or_else(|| Error::Truncated {
            file: self.file.to_string(),
            wanted: format!("{what} at byte {}", self.at),
            found: self.bytes.as_ref().len() as u64,
        })?;
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        let bytes = self.take(4, what)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        let bytes = self.take(8, what)?;
        Ok(bytes.try_into().map_or(0, u64::from_le_bytes))
    }

    /// A count of things of at least `least` bytes each, which the rest of the file must have room for.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, Error> {
        let count = self.u64(what)?;
        match usize::try_from(count) {
            Ok(count) if count.checked_mul(least).is_some_and(|bytes| bytes <= self.left()) => Ok(count),
            _ => Err(Error::Truncated {
                file: self.file.to_string(),
                wanted: format!("{count} {what} from byte {} on", self.at),
                found: self.bytes.as_ref().len() as u64,
            }),
        }
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Error> {
        let length = self.count(1, what)?;
        self.take(length, what)
    }

    fn name(&mut self, what: &str) -> Result<String, Error> {
        let bytes = self.string(what)?;
        if bytes.len() > MAX_NAME {
            return Err(self.damaged(format!("a {what} of {} bytes", bytes.len())));
        }
        let text = std::str::from_utf8(bytes);
        text.map(str::to_string).map_err(|_| self.damaged(format!("a {what} that is not UTF-8: {:?}", lossy(bytes))))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, Error> {
        let code = self.u32("type of a value")?;
        Kind::from_code(code)
            .ok_or_else(|| self.damaged(format!("value {:?} is of no known type ({code})", clip(key, 200))))
    }

    fn value(&mut self, kind: Kind, key: &str) -> Result<Value, Error> {
        const WHAT: &str = "bytes of a value";
        match kind {
            Kind::String => Ok(Value::String(self.string(WHAT)?.to_vec())),
            Kind::Array => {
                let kind = self.kind(key)?;
                let len = self.count(least(kind), "values of an array")?;
                let start = self.at;
                self.skip_array(kind, len, key, 1)?;
                Ok(Value::Array(Array::new(kind, len, self.bytes.clone(), start..self.at)))
            }
            number => {
                let raw = self.take(number.size().unwrap_or(0), WHAT)?;
                value::scalar(number, raw).ok_or_else(|| self.damaged("a number without bytes"))
            }
        }
    }

    /// Walks over the values of an array, so that they can be trusted later.
    fn skip_array(&mut self, kind: Kind, len: usize, key: &str, depth: u32) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.damaged(format!("arrays of {:?} are nested too deep", clip(key, 200))));
        }
        match kind {
            Kind::String => (0..len).try_for_each(|_| self.string("bytes of a string").map(drop)),
            Kind::Array => (0..len).try_for_each(|_| {
                let kind = self.kind(key)?;
                let len = self.count(least(kind), "values of an array")?;
                self.skip_array(kind, len, key, depth + 1)
            }),
            // `count` made sure that the product fits.
            number => self.take(len * number.size().unwrap_or(0), "values of an array").map(drop),
        }
    }
}

/// Fewest bytes of a value in an array.
fn least(kind: Kind) -> usize {
    match kind {
        Kind::String => 8,
        Kind::Array => 12,
        number => number.size().unwrap_or(1),
    }
}

fn lossy(bytes: &[u8]) -> String {
    clip(&String::from_utf8_lossy(bytes), 200)
}

/// Reads the header of `bytes` and compares it with their length.
pub(super) fn parse(file: &str, bytes: &SharedBytes) -> Result<Header, Error> {
    let mut cursor = Cursor { file, bytes, at: 0 };
    if !bytes.as_ref().starts_with(MAGIC) {
        return Err(match crate::detect::detect(file, bytes.as_ref()) {
            Ok(format) => Error::UnknownFormat { file: file.to_string(), wanted: "GGUF", found: format.to_string() },
            Err(Error::UnknownFormat { file, found, .. }) => Error::UnknownFormat { file, wanted: "GGUF", found },
            Err(error) => error,
        });
    }
    cursor.at = MAGIC.len();
    let version = cursor.u32("the version")?;
    if matches!(version.swap_bytes(), 1..=3) {
        return Err(Error::BigEndian { file: file.to_string() });
    }
    if !matches!(version, 2 | 3) {
        let (found, hint) = match version {
            1 => ("GGUF version 1", "convert the model again: files of 2023 on have version 2 or 3"),
            _ => ("GGUF of a version other than 2 and 3", "use a file of version 3"),
        };
        return Err(Error::UnsupportedFormat { file: file.to_string(), found, hint });
    }
    let tensor_count = cursor.count(0, "tensors")?;
    let pair_count = cursor.count(LEAST_PAIR, "metadata pairs")?;

    let (mut keys, mut metadata) = (Vec::new(), HashMap::new());
    for _ in 0..pair_count {
        let key = cursor.name("key")?;
        let kind = cursor.kind(&key)?;
        let value = cursor.value(kind, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(cursor.damaged(format!("key {:?} twice", clip(&key, 200))));
        }
        keys.push(key);
    }
    let alignment = match metadata.get(ALIGNMENT_KEY).map(Value::as_integer) {
        None => DEFAULT_ALIGNMENT,
        Some(Some(value)) if value > 0 && value <= MAX_ALIGNMENT.into() && (value as u64).is_power_of_two() => {
            value as usize
        }
        Some(_) => return Err(cursor.damaged("general.alignment is no power of two")),
    };

    if tensor_count.checked_mul(LEAST_TENSOR).is_none_or(|bytes| bytes > cursor.left()) {
        return Err(Error::Truncated {
            file: file.to_string(),
            wanted: format!("{tensor_count} tensors from byte {} on", cursor.at),
            found: bytes.as_ref().len() as u64,
        });
    }
    let mut raw = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensor_count {
        let tensor = tensor(&mut cursor)?;
        if !names.insert(tensor.0.name.clone()) {
            return Err(cursor.damaged(format!("tensor {:?} twice", clip(&tensor.0.name, 200))));
        }
        raw.push(tensor);
    }
    let tensors = place(&cursor, raw, alignment)?;
    let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
    Ok(Header { version, keys, metadata, tensors, by_name, alignment })
}

/// One tensor's description and its offset within the data; its range in the file is not known yet.
fn tensor(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, u64, usize), Error> {
    let name = cursor.name("tensor name")?;
    let shown = || clip(&name, 200);
    let rank = cursor.u32("rank of a tensor")?;
    if rank > MAX_RANK {
        let (file, what) = (cursor.file.to_string(), format!("rank of tensor {:?}", shown()));
        return Err(Error::TooLarge { file, what, wanted: rank.into(), limit: MAX_RANK.into() });
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let side = cursor.u64("shape of a tensor")?;
        shape
            .push(usize::try_from(side).map_err(|_| cursor.damaged(format!("tensor {:?}: shape overflows", shown())))?);
    }
    shape.reverse();
    let code = cursor.u32("type of a tensor")?;
    let block_type = BlockType::from_code(code).ok_or_else(|| Error::UnknownBlockType {
        file: cursor.file.to_string(),
        tensor: shown(),
        found: code,
    })?;
    let offset = cursor.u64("offset of a tensor")?;

    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(block_type.block_elements()) {
        let block = block_type.block_elements();
        return Err(cursor
            .damaged(format!("tensor {:?}: rows of {row} are no whole blocks of {block} ({block_type})", shown())));
    }
    // Of a tensor without elements the other sides may still be absurd: what multiplies them must not overflow.
    let whole = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side.max(1)));
    let size = whole
        .and_then(|_| block_type.bytes(shape.iter().product()))
        .filter(|&size| size <= isize::MAX as usize)
        .ok_or_else(|| cursor.damaged(format!("tensor {:?}: shape {shape:?} overflows", shown())))?;
    Ok((TensorInfo { name, shape, block_type, range: 0..0 }, offset, size))
}

/// Gives each tensor its range in the file: aligned, inside, and not another's.
fn place(cursor: &Cursor<'_>, raw: Vec<(TensorInfo, u64, usize)>, alignment: usize) -> Result<Vec<TensorInfo>, Error> {
    let length = cursor.bytes.as_ref().len();
    let start = cursor.at.next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(raw.len());
    for (mut tensor, offset, size) in raw {
        let shown = || clip(&tensor.name, 200);
        if offset % alignment as u64 != 0 {
            return Err(cursor.damaged(format!("tensor {:?}: offset {offset} is not aligned to {alignment}", shown())));
        }
        let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
        let range = from.and_then(|from| Some(from..from.checked_add(size)?));
        let Some(range) = range.filter(|range| range.end <= length) else {
            let end = (start as u128) + u128::from(offset) + size as u128;
            return Err(Error::Truncated {
                file: cursor.file.to_string(),
                wanted: format!("{end} bytes (tensor {:?})", shown()),
                found: length as u64,
            });
        };
        tensor.range = range;
        tensors.push(tensor);
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let (a, b) = (clip(&pair[0].name, 200), clip(&pair[1].name, 200));
            return Err(cursor.damaged(format!("tensors {a:?} and {b:?} overlap")));
        }
    }
    Ok(tensors)
}
