//! Metadata values. Arrays stay as the file has them and are decoded when asked for: a vocabulary is hundreds of
//! thousands of strings.

use std::ops::Range;

use crate::bytes::SharedBytes;

/// One metadata value.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names say it.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Bytes that ought to be UTF-8 and are not always.
    String(Vec<u8>),
    Array(Array),
}

/// The type of a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    pub(crate) fn from_code(code: u32) -> Option<Kind> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(code as usize).copied()
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub(crate) fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        }
    }
}

impl Value {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F32(_) => Kind::F32,
            Value::F64(_) => Kind::F64,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
        }
    }

    /// An integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(value) => value.into(),
            Value::I8(value) => value.into(),
            Value::U16(value) => value.into(),
            Value::I16(value) => value.into(),
            Value::U32(value) => value.into(),
            Value::I32(value) => value.into(),
            Value::U64(value) => value.into(),
            Value::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// A floating-point number; one of 64 bits is rounded.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Appends the value as a file has it, without its type.
    pub(crate) fn encode(&self, output: &mut Vec<u8>) {
        match self {
            Value::U8(value) => output.push(*value),
            Value::I8(value) => output.extend(value.to_le_bytes()),
            Value::U16(value) => output.extend(value.to_le_bytes()),
            Value::I16(value) => output.extend(value.to_le_bytes()),
            Value::U32(value) => output.extend(value.to_le_bytes()),
            Value::I32(value) => output.extend(value.to_le_bytes()),
            Value::U64(value) => output.extend(value.to_le_bytes()),
            Value::I64(value) => output.extend(value.to_le_bytes()),
            Value::F32(value) => output.extend(value.to_le_bytes()),
            Value::F64(value) => output.extend(value.to_le_bytes()),
            Value::Bool(value) => output.push((*value).into()),
            Value::String(bytes) => encode_bytes(bytes, output),
            Value::Array(array) => {
                output.extend((array.kind as u32).to_le_bytes());
                output.extend((array.len as u64).to_le_bytes());
                output.extend(array.raw());
            }
        }
    }
}

/// Appends a string: its length, then its bytes.
pub(crate) fn encode_bytes(bytes: &[u8], output: &mut Vec<u8>) {
    output.extend((bytes.len() as u64).to_le_bytes());
    output.extend(bytes);
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

/// Values of one type, encoded as in a file.
#[derive(Clone)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: SharedBytes,
    range: Range<usize>,
}

impl Array {
    /// `range` of `bytes` was walked when it was read: it holds exactly `len` values.
    pub(crate) fn new(kind: Kind, len: usize, bytes: SharedBytes, range: Range<usize>) -> Array {
        Array { kind, len, bytes, range }
    }

    fn encoded(kind: Kind, len: usize, bytes: Vec<u8>) -> Array {
        let range = 0..bytes.len();
        Array { kind, len, bytes: SharedBytes::given(bytes.into()), range }
    }

    /// An array of strings.
    pub fn from_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Array {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for string in strings {
            encode_bytes(string.as_ref(), &mut bytes);
            len += 1;
        }
        Array::encoded(Kind::String, len, bytes)
    }

    /// An array of 32-bit floats.
    pub fn from_f32(values: &[f32]) -> Array {
        Array::encoded(Kind::F32, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// An array of 32-bit integers.
    pub fn from_i32(values: &[i32]) -> Array {
        Array::encoded(Kind::I32, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// An array of truth values.
    pub fn from_bools(values: &[bool]) -> Array {
        Array::encoded(Kind::Bool, values.len(), values.iter().map(|&value| value.into()).collect())
    }

    /// The type of its values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn raw(&self) -> &[u8] {
        self.bytes.as_ref().get(self.range.clone()).unwrap_or_default()
    }

    /// The strings, as bytes; `None` if it holds something else.
    pub fn strings(&self) -> Option<impl Iterator<Item = &[u8]>> {
        (self.kind == Kind::String).then(|| {
            let mut rest = self.raw();
            (0..self.len).map_while(move |_| {
                let (length, after) = rest.split_first_chunk::<8>()?;
                let (string, after) = after.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)?;
                rest = after;
                Some(string)
            })
        })
    }

    /// The values one by one; `None` for strings (see [`Array::strings`]) and arrays of arrays.
    pub fn scalars(&self) -> Option<impl Iterator<Item = Value>> {
        let size = self.kind.size()?;
        let kind = self.kind;
        Some(self.raw().chunks_exact(size).filter_map(move |raw| scalar(kind, raw)))
    }

    /// All as integers of 64 bits; `None` if one is none or does not fit.
    pub fn integers(&self) -> Option<Vec<i64>> {
        self.scalars()?.map(|value| value.as_integer().and_then(|value| value.try_into().ok())).collect()
    }

    /// All as 32-bit floats; `None` if they are something else.
    pub fn floats(&self) -> Option<Vec<f32>> {
        self.scalars()?.map(|value| value.as_f32()).collect()
    }

    /// All as truth values; `None` if they are something else.
    pub fn bools(&self) -> Option<Vec<bool>> {
        self.scalars()?.map(|value| if let Value::Bool(value) = value { Some(value) } else { None }).collect()
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "[{}; {}]", self.kind.name(), self.len)
    }
}

/// The number that `raw` encodes; `None` for a type without fixed size, or too few bytes.
pub(crate) fn scalar(kind: Kind, raw: &[u8]) -> Option<Value> {
    fn first<const SIZE: usize>(raw: &[u8]) -> Option<[u8; SIZE]> {
        raw.first_chunk::<SIZE>().copied()
    }
    Some(match kind {
        Kind::U8 => Value::U8(*raw.first()?),
        Kind::I8 => Value::I8(i8::from_le_bytes(first(raw)?)),
        Kind::Bool => Value::Bool(*raw.first()? != 0),
        Kind::U16 => Value::U16(u16::from_le_bytes(first(raw)?)),
        Kind::I16 => Value::I16(i16::from_le_bytes(first(raw)?)),
        Kind::U32 => Value::U32(u32::from_le_bytes(first(raw)?)),
        Kind::I32 => Value::I32(i32::from_le_bytes(first(raw)?)),
        Kind::F32 => Value::F32(f32::from_le_bytes(first(raw)?)),
        Kind::U64 => Value::U64(u64::from_le_bytes(first(raw)?)),
        Kind::I64 => Value::I64(i64::from_le_bytes(first(raw)?)),
        Kind::F64 => Value::F64(f64::from_le_bytes(first(raw)?)),
        Kind::String | Kind::Array => return None,
    })
}
