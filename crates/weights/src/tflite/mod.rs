//! TFLite files: a network as a list of operators, with its weights and how they are quantised.
//!
//! ```no_run
//! use supple_weights::tflite::Model;
//!
//! # fn main() -> Result<(), supple_weights::Error> {
//! let model = Model::open("mobilenet.tflite".as_ref())?;
//! for operator in &model.subgraphs[0].operators {
//!     println!("{} {:?} → {:?}", operator.name, operator.inputs, operator.outputs);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Model`] describes what the file says and computes nothing. Shapes are in the file's order, which for pixels is
//! `[batch][height][width][channels]`. What lies in a file is checked as far as reading goes: indices of tensors, buffers
//! and operators exist, sizes fit the file. Whether operators fit together is for who builds a network from them to check.
//!
//! Source: `schema.fbs` of TensorFlow Lite, version 3. The container is explained in `flatbuffer.rs`.

mod flatbuffer;
mod operators;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::bytes::SharedBytes;
use crate::detect::describe;
use crate::dtype::to_f32;
use crate::error::clip;
use crate::{DType, Error};
use flatbuffer::{Flatbuffer, Table};
pub use operators::{Activation, Options, Padding, Window};

/// Bytes 4 to 7 of every TFLite file.
const IDENTIFIER: &[u8] = b"TFL3";
/// Where they lie.
const IDENTIFIER_AT: usize = 4;
/// The version of the schema that is read here.
const VERSION: u32 = 3;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// A TFLite file.
pub struct Model {
    /// Networks; the first is the one to run, others are parts of control flow.
    pub subgraphs: Vec<Subgraph>,
    /// What the program that wrote the file says about it.
    pub description: String,
    /// Named blocks of bytes beside the network.
    pub metadata: Vec<Metadata>,
    source: String,
    bytes: SharedBytes,
}

/// A network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Subgraph {
    /// Its name, often empty or `main`.
    pub name: String,
    /// Constants, inputs and everything computed.
    pub tensors: Vec<Tensor>,
    /// What it is given, by position in `tensors`.
    pub inputs: Vec<usize>,
    /// What it gives back, by position in `tensors`.
    pub outputs: Vec<usize>,
    /// What it does, in order.
    pub operators: Vec<Operator>,
}

/// What is known of one tensor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tensor {
    /// Its name in the program that made the network; converters join several with `;`.
    pub name: String,
    /// Type of an element.
    pub dtype: DType,
    /// Sides, outermost first. A side that is unknown until the network runs is 1.
    pub shape: Vec<usize>,
    /// How integers relate to real numbers.
    pub quantization: Quantization,
    /// Whether its bytes are compressed by leaving out zeros, which is not undone here.
    pub sparse: bool,
    data: Option<Range<usize>>,
}

/// `real = scale × (integer − zero_point)`; both empty for tensors that are not quantised.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Quantization {
    /// One, or one for each position along `axis`. Positive and finite.
    pub scale: Vec<f32>,
    /// As many as `scale`.
    pub zero_point: Vec<i64>,
    /// Dimension that the scales lie along, if there are several.
    pub axis: usize,
}

/// One step of a network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Operator {
    /// What it is, such as `CONV_2D`; for operators outside the format the name that the file gives it.
    pub name: String,
    /// Tensors read, by position; `None` for an optional one left out.
    pub inputs: Vec<Option<usize>>,
    /// Tensors computed, by position.
    pub outputs: Vec<usize>,
    /// How it is set.
    pub options: Options,
}

/// A named block of bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metadata {
    /// Such as `TFLITE_METADATA`.
    pub name: String,
    data: Option<Range<usize>>,
}

/// Whether a file that begins with `bytes` (eight suffice) is TFLite.
pub fn recognises(bytes: &[u8]) -> bool {
    bytes.get(IDENTIFIER_AT..).is_some_and(|rest| rest.starts_with(IDENTIFIER))
}

impl Model {
    /// Opens and maps the file at `path`, which must not be changed while it is open.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be opened, otherwise as [`Model::from_bytes`].
    pub fn open(path: &Path) -> Result<Model, Error> {
        let source = path.display().to_string();
        let bytes = SharedBytes::map(path, &source)?;
        Self::parse(source, bytes)
    }

    /// Reads a file that is in memory; a `&'static [u8]` is not copied. `source` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] and [`Error::UnknownFormat`] when the bytes are no TFLite file; [`Error::UnsupportedFormat`] for
    /// another version of the format; [`Error::Truncated`], [`Error::Damaged`] and [`Error::TooLarge`] when its parts lie
    /// outside the file, contradict each other, or claim to be larger than the file can hold.
    pub fn from_bytes(source: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Model, Error> {
        Self::parse(source.into(), SharedBytes::given(bytes.into()))
    }

    fn parse(source: String, shared: SharedBytes) -> Result<Model, Error> {
        let bytes = shared.as_ref();
        if bytes.is_empty() {
            return Err(Error::Empty { file: source });
        }
        if !recognises(bytes) {
            let found = format!("{}, not a TFLite network", describe(bytes));
            return Err(Error::UnknownFormat { file: source, wanted: "TFLite", found });
        }
        let buffer = Flatbuffer::new(&source, bytes);
        let root = buffer.root()?;
        if root.number(0, 0u32)? != VERSION {
            let hint = "only version 3 is; convert the network again with a newer converter";
            return Err(Error::UnsupportedFormat { file: source, found: "TFLite of another version", hint });
        }
        let reader = Reader {
            buffer: &buffer,
            size: bytes.len(),
            buffers: root.tables(4, |table| data_range(&buffer, bytes.len(), table))?,
            operators: root.tables(1, |table| operator_name(&buffer, table))?,
        };
        let subgraphs = root.tables(2, |table| reader.subgraph(table))?;
        let metadata = root.tables(6, |table| {
            let name = table.text(0)?;
            Ok(Metadata { name, data: reader.data(table.number(1, 0u32)?)? })
        })?;
        if subgraphs.is_empty() {
            return Err(buffer.damaged("it holds no network"));
        }
        let description = root.text(3)?;
        Ok(Model { subgraphs, description, metadata, source, bytes: shared })
    }

    /// The file's name, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file's size in bytes.
    pub fn size(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// The bytes of a constant; `None` for a tensor that is given or computed when the network runs.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where there are more or fewer bytes than `shape` and `dtype` ask for, or zeros were left out.
    pub fn data(&self, tensor: &Tensor) -> Result<Option<&[u8]>, Error> {
        let Some(range) = tensor.data.clone() else { return Ok(None) };
        let damaged = |reason| Error::Damaged { file: self.source.clone(), reason };
        let name = clip(&tensor.name, 100);
        if tensor.sparse {
            return Err(damaged(format!("tensor {name:?} is stored without its zeros, which is not read here")));
        }
        let elements = tensor.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let wanted = elements.zip(tensor.dtype.size()).and_then(|(n, size)| n.checked_mul(size));
        if wanted != Some(range.len()) {
            let (shape, dtype, found) = (&tensor.shape, tensor.dtype, range.len());
            return Err(damaged(format!("tensor {name:?}: {found} bytes for shape {shape:?} of {dtype}")));
        }
        self.bytes
            .as_ref()
            .get(range)
            .map(Some)
            .ok_or_else(|| damaged(format!("tensor {name:?} lies outside the file")))
    }

    /// The elements of a constant as they are stored, without regard to `quantization`, converted to `f32`; `None` for a
    /// tensor that is given or computed when the network runs.
    ///
    /// # Errors
    ///
    /// As [`Model::data`]; [`Error::UnsupportedDType`] for elements that are no numbers, [`Error::NotFinite`] for a NaN or
    /// an infinity.
    pub fn values(&self, tensor: &Tensor) -> Result<Option<Vec<f32>>, Error> {
        let (file, name) = (self.source.clone(), clip(&tensor.name, 100));
        if tensor.data.is_some() && tensor.dtype.size().is_none() {
            return Err(Error::UnsupportedDType { file, tensor: name, found: tensor.dtype });
        }
        let Some(bytes) = self.data(tensor)? else { return Ok(None) };
        let values = to_f32(tensor.dtype, bytes).unwrap_or_default();
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Some(values)),
            Some(index) => Err(Error::NotFinite { file, tensor: name, index, value: values[index] }),
        }
    }

    /// The elements of a constant of 32-bit or 64-bit integers, such as a bias, a shape or a list of axes; `None` for
    /// other tensors.
    ///
    /// # Errors
    ///
    /// As [`Model::data`].
    pub fn integers(&self, tensor: &Tensor) -> Result<Option<Vec<i64>>, Error> {
        let Some(bytes) = self.data(tensor)? else { return Ok(None) };
        Ok(match tensor.dtype {
            DType::I32 => {
                Some(bytes.as_chunks::<4>().0.iter().map(|raw| i64::from(i32::from_le_bytes(*raw))).collect())
            }
            DType::I64 => Some(bytes.as_chunks::<8>().0.iter().map(|raw| i64::from_le_bytes(*raw)).collect()),
            _ => None,
        })
    }

    /// The bytes of a named block.
    pub fn metadata_bytes(&self, name: &str) -> Option<&[u8]> {
        let block = self.metadata.iter().find(|block| block.name == name)?;
        self.bytes.as_ref().get(block.data.clone()?)
    }
}

impl Tensor {
    /// Whether the file holds its elements.
    pub fn is_constant(&self) -> bool {
        self.data.is_some()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Model").field("source", &self.source).field("subgraphs", &self.subgraphs).finish()
    }
}

/// What is needed to read subgraphs: the file's lists that they point into.
struct Reader<'a> {
    buffer: &'a Flatbuffer<'a>,
    size: usize,
    buffers: Vec<Option<Range<usize>>>,
    operators: Vec<String>,
}

impl<'a> Reader<'a> {
    fn subgraph(&self, table: Table<'a>) -> Result<Subgraph, Error> {
        let tensors = table.tables(0, |table| self.tensor(table))?;
        let index = |index: i32| match usize::try_from(index) {
            Ok(index) if index < tensors.len() => Ok(index),
            _ => Err(self.buffer.damaged(format!("tensor {index} of {}", tensors.len()))),
        };
        let indices = |table: &Table<'a>, field| -> Result<Vec<usize>, Error> {
            table.numbers(field)?.into_iter().map(index).collect()
        };
        let inputs = indices(&table, 1)?;
        let outputs = indices(&table, 2)?;
        let operators = table.tables(3, |table| {
            let code = table.number(0, 0u32)?;
            let Some(name) = self.operators.get(code as usize) else {
                return Err(self.buffer.damaged(format!("operator code {code} of {}", self.operators.len())));
            };
            let optional = |i: i32| if i == -1 { Ok(None) } else { index(i).map(Some) };
            let inputs = table.numbers(1)?.into_iter().map(optional).collect::<Result<_, Error>>()?;
            let outputs = indices(&table, 2)?;
            let damaged = |reason| self.buffer.damaged(format!("{name}: {reason}"));
            let options = Options::read(table.number(3, 0u8)?, table.table(4)?, damaged)?;
            Ok(Operator { name: name.clone(), inputs, outputs, options })
        })?;
        Ok(Subgraph { name: table.text(4)?, tensors, inputs, outputs, operators })
    }

    fn tensor(&self, table: Table<'a>) -> Result<Tensor, Error> {
        let name = table.text(3)?;
        let damaged = |reason: String| self.buffer.damaged(format!("tensor {:?}: {reason}", clip(&name, 100)));
        let shape: Vec<i32> = table.numbers(0)?;
        if shape.len() > MAX_RANK {
            return Err(damaged(format!("{} dimensions", shape.len())));
        }
        let side = |&side: &i32| usize::try_from(side).map_err(|_| damaged(format!("a side of {side}")));
        let shape = shape.iter().map(side).collect::<Result<Vec<_>, _>>()?;
        let quantization = match table.table(4)? {
            Some(table) => quantization(table, &shape).and_then(|found| found.map_err(damaged))?,
            None => Quantization::default(),
        };
        // An empty buffer stands for "computed when the network runs".
        let data = self.data(table.number(2, 0u32)?)?.filter(|range| !range.is_empty());
        let (dtype, sparse) = (dtype(table.number(1, 0u8)?), table.table(6)?.is_some());
        Ok(Tensor { name, dtype, shape, quantization, sparse, data })
    }

    /// Where the buffer of this index lies.
    fn data(&self, index: u32) -> Result<Option<Range<usize>>, Error> {
        let range = self.buffers.get(index as usize);
        let range =
            range.ok_or_else(|| self.buffer.damaged(format!("buffer {index} of {}", self.buffers.len())))?.clone();
        debug_assert!(range.iter().all(|range| range.end <= self.size));
        Ok(range)
    }
}

/// A buffer's place: inside the flatbuffer, or, in files beyond 2 GiB, behind it.
fn data_range(buffer: &Flatbuffer<'_>, size: usize, table: Table<'_>) -> Result<Option<Range<usize>>, Error> {
    // Offsets 0 and 1 stand for none.
    let (offset, length) = (table.number(1, 0u64)?, table.number(2, 0u64)?);
    if offset <= 1 {
        return table.range(0);
    }
    match offset.checked_add(length) {
        Some(end) if end <= size as u64 => Ok(Some(offset as usize..end as usize)),
        _ => Err(buffer.damaged(format!("a buffer of {length} bytes at {offset}, beyond the file's end"))),
    }
}

fn operator_name(buffer: &Flatbuffer<'_>, table: Table<'_>) -> Result<String, Error> {
    // The first field is from when codes had one byte; newer ones have 127 there and theirs in the last field.
    let code = i32::from(table.number(0, 0i8)?).max(table.number(3, 0i32)?);
    if code == operators::CUSTOM {
        return table.text(1);
    }
    operators::name(code).map(str::to_string).ok_or_else(|| buffer.damaged(format!("operator code {code} is unknown")))
}

/// A tensor's scales; the inner error says what is wrong with them.
fn quantization(table: Table<'_>, shape: &[usize]) -> Result<Result<Quantization, String>, Error> {
    let scale: Vec<f32> = table.numbers(2)?;
    let mut zero_point: Vec<i64> = table.numbers(3)?;
    let axis = table.number(6, 0i32)?;
    if scale.is_empty() {
        return Ok(Ok(Quantization::default()));
    }
    if let Some(bad) = scale.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
        return Ok(Err(format!("a scale of {bad}")));
    }
    if zero_point.is_empty() {
        zero_point = vec![0; scale.len()];
    }
    let axis = usize::try_from(axis).unwrap_or(usize::MAX);
    let fits = scale.len() == 1 || shape.get(axis) == Some(&scale.len());
    if !fits || zero_point.len() != scale.len() {
        let (scales, zeros) = (scale.len(), zero_point.len());
        return Ok(Err(format!("{scales} scales and {zeros} zero points along dimension {axis} of {shape:?}")));
    }
    let axis = if scale.len() == 1 { 0 } else { axis };
    Ok(Ok(Quantization { scale, zero_point, axis }))
}

/// The schema's `TensorType`.
fn dtype(code: u8) -> DType {
    match code {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        5 => DType::Other("STRING"),
        6 => DType::Bool,
        7 => DType::I16,
        8 => DType::Other("COMPLEX64"),
        9 => DType::I8,
        10 => DType::F64,
        11 => DType::Other("COMPLEX128"),
        12 => DType::U64,
        13 => DType::Other("RESOURCE"),
        14 => DType::Other("VARIANT"),
        15 => DType::U32,
        16 => DType::U16,
        17 => DType::Other("INT4"),
        18 => DType::BF16,
        _ => DType::Other("a type newer than this reader"),
    }
}
