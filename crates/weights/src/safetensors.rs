//! The safetensors container.
//!
//! Layout: header length (u64, little-endian) · header (JSON) · tensors, in the order of their offsets, without gaps.
//! The `safetensors` crate's `Metadata` parses the header and checks that the offsets cover the data exactly and agree
//! with the shapes. Its end is compared with the file's here, in checked arithmetic: `SafeTensors::read_metadata` adds
//! claimed sizes unchecked, which a header of eight tensors of 2^61 bytes can overflow.

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;

use crate::error::printable;
use crate::weights::{Entries, Entry, Place, TensorInfo};
use crate::{DType, Error};

/// Bytes of the header length before the header.
const LENGTH_BYTES: usize = 8;
/// The largest header that the format allows.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

/// Whether `bytes` start as safetensors do: a length below a terabyte, then an opening brace.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    // The two upper bytes of the length of a plausible header are zero; in text they never are.
    matches!(bytes, [_, _, _, _, _, _, 0, 0] | [_, _, _, _, _, _, 0, 0, b'{', ..])
}

/// The tensors and metadata of a safetensors file.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<(Entries, BTreeMap<String, String>), Error> {
    let damaged = |reason: String| Error::Damaged { file: file.to_string(), reason };
    let truncated = |wanted: u64| Error::Truncated {
        file: file.to_string(),
        wanted: format!("{wanted} bytes"),
        found: bytes.len() as u64,
    };

    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| truncated(LENGTH_BYTES as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let what = "safetensors header (bytes)".to_string();
        return Err(Error::TooLarge { file: file.to_string(), what, wanted: length, limit: MAX_HEADER });
    }
    let (header, data) =
        rest.split_at_checked(length as usize).ok_or_else(|| truncated(length + LENGTH_BYTES as u64))?;
    let header = std::str::from_utf8(header).map_err(|error| damaged(format!("header is not UTF-8: {error}")))?;
    let header: Metadata = serde_json::from_str(header)
        .map_err(|error| damaged(format!("safetensors header: {}", printable(&error.to_string(), 300))))?;

    let (claimed, start) = (header.data_len(), LENGTH_BYTES + length as usize);
    if claimed > data.len() {
        return Err(truncated((claimed as u64).saturating_add(start as u64)));
    }
    if claimed < data.len() {
        return Err(damaged(format!("{} bytes after the last tensor", data.len() - claimed)));
    }

    let entries = header.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let place = Place::Range(start + from..start + to);
        (name, Entry { info: TensorInfo { dtype: dtype(info.dtype), shape: info.shape.clone() }, place })
    });
    let entries: Entries = entries.collect();
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok((entries, metadata))
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        Dtype::F4 => DType::Other("F4"),
        Dtype::F6_E2M3 => DType::Other("F6_E2M3"),
        Dtype::F6_E3M2 => DType::Other("F6_E3M2"),
        Dtype::F8_E5M2 => DType::Other("F8_E5M2"),
        Dtype::F8_E4M3 => DType::Other("F8_E4M3"),
        Dtype::F8_E8M0 => DType::Other("F8_E8M0"),
        Dtype::F8_E4M3FNUZ => DType::Other("F8_E4M3FNUZ"),
        Dtype::F8_E5M2FNUZ => DType::Other("F8_E5M2FNUZ"),
        Dtype::C64 => DType::Other("C64"),
        _ => DType::Other("a type newer than this reader"),
    }
}
