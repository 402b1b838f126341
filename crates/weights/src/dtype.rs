//! How an element is stored, and its conversion to `f32`.
//!
//! All formats store elements in little-endian order, row-major, without padding.

use std::fmt;

use half::{bf16, f16};

/// The stored type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 64-bit IEEE floating point.
    F64,
    /// 32-bit IEEE floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// The upper 16 bits of an `F32`.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, zero or not.
    Bool,
    /// A type that is listed but not converted (8-bit floats, complex numbers, ...), by its name in the file.
    Other(&'static str),
}

impl DType {
    /// Bytes of one element; `None` for [`DType::Other`].
    pub fn size(self) -> Option<usize> {
        match self {
            DType::F64 | DType::I64 | DType::U64 => Some(8),
            DType::F32 | DType::I32 | DType::U32 => Some(4),
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => Some(2),
            DType::I8 | DType::U8 | DType::Bool => Some(1),
            DType::Other(_) => None,
        }
    }
}

impl fmt::Display for DType {
    /// The type's name as safetensors spells it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U64 => "U64",
            DType::U32 => "U32",
            DType::U16 => "U16",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
            DType::Other(name) => name,
        })
    }
}

/// The elements in `bytes` as `f32`; `None` for [`DType::Other`]. Bytes after the last whole element are ignored.
///
/// Integers beyond 2^24 and `F64` are rounded to the nearest `f32`; an `F64` beyond its range becomes infinite.
pub(crate) fn to_f32(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let values = match dtype {
        DType::F64 => convert(bytes, |raw| f64::from_le_bytes(raw) as f32),
        DType::F32 => convert(bytes, f32::from_le_bytes),
        DType::F16 => convert(bytes, |raw| f16::from_le_bytes(raw).to_f32()),
        DType::BF16 => convert(bytes, |raw| bf16::from_le_bytes(raw).to_f32()),
        DType::I64 => convert(bytes, |raw| i64::from_le_bytes(raw) as f32),
        DType::I32 => convert(bytes, |raw| i32::from_le_bytes(raw) as f32),
        DType::I16 => convert(bytes, |raw| f32::from(i16::from_le_bytes(raw))),
        DType::I8 => convert(bytes, |raw| f32::from(i8::from_le_bytes(raw))),
        DType::U64 => convert(bytes, |raw| u64::from_le_bytes(raw) as f32),
        DType::U32 => convert(bytes, |raw| u32::from_le_bytes(raw) as f32),
        DType::U16 => convert(bytes, |raw| f32::from(u16::from_le_bytes(raw))),
        DType::U8 => convert(bytes, |[raw]| f32::from(raw)),
        DType::Bool => convert(bytes, |[raw]| if raw == 0 { 0.0 } else { 1.0 }),
        DType::Other(_) => return None,
    };
    Some(values)
}

fn convert<const SIZE: usize>(bytes: &[u8], element: impl Fn([u8; SIZE]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<SIZE>().0.iter().map(|raw| element(*raw)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_converts_its_own_bytes() {
        let cases: [(DType, Vec<u8>, f32); 13] = [
            (DType::F64, (-1.5f64).to_le_bytes().to_vec(), -1.5),
            (DType::F32, 0.1f32.to_le_bytes().to_vec(), 0.1),
            (DType::F16, f16::from_f32(0.25).to_le_bytes().to_vec(), 0.25),
            (DType::BF16, bf16::from_f32(-3.0).to_le_bytes().to_vec(), -3.0),
            (DType::I64, (-7i64).to_le_bytes().to_vec(), -7.0),
            (DType::I32, (-7i32).to_le_bytes().to_vec(), -7.0),
            (DType::I16, (-7i16).to_le_bytes().to_vec(), -7.0),
            (DType::I8, (-7i8).to_le_bytes().to_vec(), -7.0),
            (DType::U64, u64::MAX.to_le_bytes().to_vec(), 18446744073709551615.0),
            (DType::U32, u32::MAX.to_le_bytes().to_vec(), 4294967295.0),
            (DType::U16, u16::MAX.to_le_bytes().to_vec(), 65535.0),
            (DType::U8, vec![255], 255.0),
            (DType::Bool, vec![2], 1.0),
        ];
        for (dtype, bytes, wanted) in cases {
            assert_eq!(dtype.size(), Some(bytes.len()), "{dtype}");
            assert_eq!(to_f32(dtype, &bytes), Some(vec![wanted]), "{dtype}");
        }
        assert_eq!(to_f32(DType::Other("F8_E4M3"), &[0]), None);
    }
}
