//! GPTQ, AWQ and compressed-tensors: which tensors of a folder stand for a weight, and what they say.
//!
//! For a linear layer of `N` outputs and `K` inputs, groups of `G` inputs and codes of `b` bits (words of 32 bits):
//!
//! | layout | codes | zeros | scales |
//! |---|---|---|---|
//! | GPTQ | `qweight` [K b / 32, N], along K | `qzeros` [K/G, N b / 32], along N | `scales` [K/G, N] |
//! | AWQ | `qweight` [K, N/8], eight of 4 bits in the order 0 2 4 6 1 3 5 7 | `qzeros` [K/G, N/8] alike | `scales` [K/G, N] |
//! | pack-quantized | `weight_packed` [N, K b / 32], dense, code = integer + 2^(b−1) | `weight_zero_point` [N b / 32, K/G] | `weight_scale` [N, K/G] |
//! | int-quantized | `weight` [N, K] of 8 bits | `weight_zero_point` [N, K/G] | `weight_scale` [N, K/G] |
//!
//! GPTQ has `g_idx` [K], the group of each input; its version 1 stores zeros less 1, modulo 2^b. Three bits are packed
//! across words, or ten in a word: shapes tell. compressed-tensors may have `weight_g_idx`.

use serde_json::Value;

use super::integers::{IntegerMatrix, Packing};
use crate::error::clip;
use crate::{DType, Error, Weights};

/// The order of eight codes of AWQ in a word.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Most elements of a matrix.
const MAX_ELEMENTS: usize = if usize::BITS > 36 { usize::MAX >> (usize::BITS - 36) } else { usize::MAX >> 3 };

/// How a folder's linear layers are stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scheme {
    Gptq { bits: u32, group_size: Option<usize>, zeros_less_one: bool },
    Awq { bits: u32, group_size: Option<usize> },
    CompressedTensors { bits: u32, group_size: Option<usize> },
}

/// The scheme that `quantization_config` of a `config.json` names; `None` if there is none.
pub(super) fn scheme(file: &str, config: &Value) -> Result<Option<Scheme>, Error> {
    let settings = &config["quantization_config"];
    if settings.is_null() {
        return Ok(None);
    }
    let damaged = |reason: String| Error::Damaged { file: file.to_string(), reason };
    let method = settings["quant_method"].as_str().unwrap_or("none given");
    let bits = |value: &Value| match value.as_u64() {
        Some(bits @ 1..=8) => Ok(bits as u32),
        _ => Err(damaged(format!("quantization_config: wanted 1 to 8 bits, found {value}"))),
    };
    // -1 and null: a whole row.
    let group = |value: &Value| value.as_u64().map(|size| size as usize).filter(|&size| size > 0);
    match method {
        "gptq" => Ok(Some(Scheme::Gptq {
            bits: bits(&settings["bits"])?,
            group_size: group(&settings["group_size"]),
            zeros_less_one: settings["checkpoint_format"].as_str() != Some("gptq_v2"),
        })),
        "awq" => {
            let width = if settings["bits"].is_null() { &settings["w_bit"] } else { &settings["bits"] };
            let size =
                if settings["group_size"].is_null() { &settings["q_group_size"] } else { &settings["group_size"] };
            match bits(width)? {
                4 => Ok(Some(Scheme::Awq { bits: 4, group_size: group(size) })),
                other => Err(damaged(format!("AWQ with {other} bits, only 4 are known"))),
            }
        }
        "compressed-tensors" => {
            let groups = settings["config_groups"].as_object();
            let weights: Vec<&Value> = groups.into_iter().flatten().map(|(_, group)| &group["weights"]).collect();
            let first = weights.first().ok_or_else(|| damaged("quantization_config without config_groups".into()))?;
            if weights
                .iter()
                .any(|other| other["num_bits"] != first["num_bits"] || other["group_size"] != first["group_size"])
            {
                return Err(damaged("compressed-tensors with groups of layers that differ are not read".into()));
            }
            if first["type"].as_str().is_some_and(|kind| kind != "int") {
                return Err(damaged(format!("compressed-tensors of type {}, only int is read", first["type"])));
            }
            Ok(Some(Scheme::CompressedTensors {
                bits: bits(&first["num_bits"])?,
                group_size: group(&first["group_size"]),
            }))
        }
        other => Err(damaged(format!(
            "weights quantised by {:?} are not read, only gptq, awq and compressed-tensors",
            clip(other, 50)
        ))),
    }
}

impl Scheme {
    /// The endings of tensors that stand for one `weight`; the first is the codes.
    pub(super) fn endings(&self) -> &'static [&'static str] {
        match self {
            Scheme::Gptq { .. } => &["qweight", "qzeros", "scales", "g_idx"],
            Scheme::Awq { .. } => &["qweight", "qzeros", "scales"],
            Scheme::CompressedTensors { .. } => {
                &["weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"]
            }
        }
    }

    /// Reads the matrix of the layer `prefix` (with the point at its end). `find` gives the file that has a tensor.
    pub(super) fn read<'a>(
        &self,
        prefix: &str,
        find: &dyn Fn(&str) -> Option<&'a Weights>,
    ) -> Result<IntegerMatrix, Error> {
        let layer = Layer { prefix, find };
        match *self {
            Scheme::Gptq { bits, group_size, zeros_less_one } => layer.gptq(bits, group_size, zeros_less_one),
            Scheme::Awq { bits, group_size } => layer.awq(bits, group_size),
            Scheme::CompressedTensors { bits, group_size } => layer.compressed(bits, group_size),
        }
    }
}

/// A tensor of integers or floats with two dimensions.
struct Table<T> {
    rows: usize,
    columns: usize,
    values: Vec<T>,
}

struct Layer<'a, 'b> {
    prefix: &'b str,
    find: &'b dyn Fn(&str) -> Option<&'a Weights>,
}

impl<'a> Layer<'a, '_> {
    fn file(&self, ending: &str) -> Result<(&'a Weights, String), Error> {
        let name = format!("{}{ending}", self.prefix);
        let weights = (self.find)(&name).ok_or_else(|| Error::MissingTensor {
            file: "the folder".into(),
            tensor: clip(&name, 200),
            nearest: Vec::new(),
        })?;
        Ok((weights, name))
    }

    fn has(&self, ending: &str) -> bool {
        (self.find)(&format!("{}{ending}", self.prefix)).is_some()
    }

    fn damaged(&self, ending: &str, reason: String) -> Error {
        match self.file(ending) {
            Ok((weights, name)) => Error::Damaged {
                file: weights.source().to_string(),
                reason: format!("tensor {:?}: {reason}", clip(&name, 200)),
            },
            Err(error) => error,
        }
    }

    /// Two sides; a vector is one column.
    fn sides(&self, ending: &str) -> Result<(usize, usize), Error> {
        let (weights, name) = self.file(ending)?;
        match weights.info(&name).map(|info| info.shape.as_slice()) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            Some(&[rows]) => Ok((rows, 1)),
            shape => Err(self.damaged(ending, format!("wanted two dimensions, found {:?}", shape.unwrap_or_default()))),
        }
    }

    fn words(&self, ending: &str) -> Result<Table<u32>, Error> {
        let (weights, name) = self.file(ending)?;
        let (rows, columns) = self.sides(ending)?;
        let dtype = weights.info(&name).map(|info| info.dtype);
        if !matches!(dtype, Some(DType::I32 | DType::U32)) {
            return Err(self.damaged(ending, format!("wanted I32, found {}", dtype.unwrap_or(DType::Other("none")))));
        }
        let bytes = weights.bytes(&name)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
        Ok(Table { rows, columns, values })
    }

    fn floats(&self, ending: &str) -> Result<Table<f32>, Error> {
        let (weights, name) = self.file(ending)?;
        let (rows, columns) = self.sides(ending)?;
        Ok(Table { rows, columns, values: weights.tensor_any_shape(&name)?.1 })
    }

    /// The group of each column, if it is not simply the position divided by the size of a group.
    fn groups(
        &self,
        ending: &str,
        columns: usize,
        groups: usize,
        group_size: usize,
    ) -> Result<Option<Vec<u32>>, Error> {
        if !self.has(ending) {
            return Ok(None);
        }
        let table = self.words(ending)?;
        if table.values.len() != columns {
            return Err(self.damaged(ending, format!("wanted {columns} groups, found {}", table.values.len())));
        }
        if let Some(&wrong) = table.values.iter().find(|&&group| group as usize >= groups) {
            return Err(self.damaged(ending, format!("group {} of {groups}", wrong as i32)));
        }
        let plain = table.values.iter().enumerate().all(|(i, &group)| group as usize == i / group_size);
        Ok((!plain).then_some(table.values))
    }

    /// Checks that `columns` in groups of `size` are `groups` groups; the size, a whole row if none is given.
    fn group_size(&self, ending: &str, size: Option<usize>, columns: usize, groups: usize) -> Result<usize, Error> {
        let size = size.unwrap_or(columns).max(1);
        if columns.div_ceil(size) != groups {
            let reason = format!("{columns} inputs in groups of {size} are not {groups} groups");
            return Err(self.damaged(ending, reason));
        }
        Ok(size)
    }

    fn elements(&self, ending: &str, rows: usize, columns: usize) -> Result<usize, Error> {
        let elements = rows.checked_mul(columns).filter(|&elements| elements <= MAX_ELEMENTS);
        elements.ok_or_else(|| self.damaged(ending, format!("{rows} by {columns} codes are too many")))
    }

    fn gptq(&self, bits: u32, group_size: Option<usize>, zeros_less_one: bool) -> Result<IntegerMatrix, Error> {
        let (words, zeros, scales) = (self.words("qweight")?, self.words("qzeros")?, self.floats("scales")?);
        let (rows, groups) = (words.columns, scales.rows);
        // A word holds 32 / bits codes, or 32 words hold 32 × 32 / bits; g_idx says how many there are in truth.
        let columns = if self.has("g_idx") { self.sides("g_idx")?.0 } else { words.rows * 32 / bits as usize };
        let packing = Packing::find(columns, bits, words.rows);
        let packing = packing.ok_or_else(|| {
            self.damaged("qweight", format!("{} words for {columns} inputs of {bits} bits", words.rows))
        })?;
        let zero_packing = Packing::find(rows, bits, zeros.columns);
        let zero_packing = zero_packing.filter(|_| scales.columns == rows && zeros.rows == groups);
        let zero_packing =
            zero_packing.ok_or_else(|| self.damaged("qzeros", "shape disagrees with qweight and scales".into()))?;
        let group_size = self.group_size("scales", group_size, columns, groups)?;
        let group_of = self.groups("g_idx", columns, groups, group_size)?;

        let mut codes = Vec::with_capacity(self.elements("qweight", rows, columns)?);
        for row in 0..rows {
            codes.extend((0..columns).map(|i| packing.code(i, bits, |word| words.values[word * rows + row])));
        }
        let largest = (1i16 << bits) - 1;
        let zero = |row: usize, group: usize| {
            let stored = i16::from(zero_packing.code(row, bits, |word| zeros.values[group * zeros.columns + word]));
            if zeros_less_one { (stored + 1) & largest } else { stored }
        };
        let zeros = by_row(rows, groups, zero);
        let scales = by_row(rows, groups, |row, group| scales.values[group * rows + row]);
        Ok(IntegerMatrix { rows, columns, bits, group_size, codes, scales, zeros, group_of })
    }

    fn awq(&self, bits: u32, group_size: Option<usize>) -> Result<IntegerMatrix, Error> {
        let (words, zeros, scales) = (self.words("qweight")?, self.words("qzeros")?, self.floats("scales")?);
        let (columns, rows, groups) = (words.rows, scales.columns, scales.rows);
        if words.columns * AWQ_ORDER.len() != rows || zeros.columns != words.columns || zeros.rows != groups {
            return Err(self.damaged("qweight", "shape disagrees with qzeros and scales".into()));
        }
        let group_size = self.group_size("scales", group_size, columns, groups)?;
        let mut place = [0; 8];
        for (nibble, &column) in AWQ_ORDER.iter().enumerate() {
            place[column] = nibble;
        }
        let code = |table: &Table<u32>, line: usize, row: usize| {
            (table.values[line * table.columns + row / 8] >> (4 * place[row % 8]) & 15) as u8
        };
        let mut codes = Vec::with_capacity(self.elements("qweight", rows, columns)?);
        for row in 0..rows {
            codes.extend((0..columns).map(|column| code(&words, column, row)));
        }
        let zeros = by_row(rows, groups, |row, group| i16::from(code(&zeros, group, row)));
        let scales = by_row(rows, groups, |row, group| scales.values[group * rows + row]);
        Ok(IntegerMatrix { rows, columns, bits, group_size, codes, scales, zeros, group_of: None })
    }

    fn compressed(&self, bits: u32, group_size: Option<usize>) -> Result<IntegerMatrix, Error> {
        let middle = 1i16 << (bits - 1);
        let packed = self.has("weight_packed");
        let (rows, columns, codes) = if packed { self.packed_codes(bits)? } else { self.byte_codes(bits, middle)? };
        let ending = "weight_scale";
        let scales = self.floats(ending)?;
        // One scale for all, one a row, or one a group.
        let groups = scales.columns;
        if scales.rows != rows && (scales.rows, groups) != (1, 1) {
            return Err(self.damaged(ending, format!("{} rows for {rows} outputs", scales.rows)));
        }
        let group_size = self.group_size(ending, if groups == 1 { None } else { group_size }, columns, groups)?;
        let group_of = self.groups("weight_g_idx", columns, groups, group_size)?;
        let zeros = if !self.has("weight_zero_point") {
            vec![middle; rows * groups]
        } else if packed {
            let words = self.words("weight_zero_point")?;
            let packing = Packing::find(rows, bits, words.rows).filter(|_| words.columns == groups);
            let packing =
                packing.ok_or_else(|| self.damaged("weight_zero_point", "shape disagrees with weight_scale".into()))?;
            by_row(rows, groups, |row, group| {
                i16::from(packing.code(row, bits, |word| words.values[word * groups + group]))
            })
        } else {
            let zeros = self.floats("weight_zero_point")?;
            if zeros.values.len() != scales.values.len() {
                return Err(self.damaged("weight_zero_point", "shape disagrees with weight_scale".into()));
            }
            by_row(rows, groups, |row, group| {
                zeros.values[if zeros.rows == rows { row * groups + group } else { 0 }] as i16 + middle
            })
        };
        let scales = by_row(rows, groups, |row, group| {
            scales.values[if scales.rows == rows { row * groups + group } else { 0 }]
        });
        Ok(IntegerMatrix { rows, columns, bits, group_size, codes, scales, zeros, group_of })
    }

    fn packed_codes(&self, bits: u32) -> Result<(usize, usize, Vec<u8>), Error> {
        let words = self.words("weight_packed")?;
        let (weights, name) = self.file("weight_shape")?;
        let shape = weights.tensor_any_shape(&name)?.1;
        let [rows, columns] = shape[..] else {
            return Err(self.damaged("weight_shape", format!("wanted two numbers, found {}", shape.len())));
        };
        // Sides of matrices are far below 2^24, where f32 is exact.
        let (rows, columns) = (rows as usize, columns as usize);
        let packing = Packing::find(columns, bits, words.columns).filter(|_| words.rows == rows);
        let packing = packing.ok_or_else(|| {
            let reason =
                format!("{} by {} words for {rows} by {columns} codes of {bits} bits", words.rows, words.columns);
            self.damaged("weight_packed", reason)
        })?;
        let mut codes = Vec::with_capacity(self.elements("weight_packed", rows, columns)?);
        for row in words.values.chunks_exact(words.columns.max(1)) {
            codes.extend((0..columns).map(|i| packing.code(i, bits, |word| row[word])));
        }
        Ok((rows, columns, codes))
    }

    fn byte_codes(&self, bits: u32, middle: i16) -> Result<(usize, usize, Vec<u8>), Error> {
        let (weights, name) = self.file("weight")?;
        let (rows, columns) = self.sides("weight")?;
        if weights.info(&name).is_none_or(|info| info.dtype != DType::I8) {
            return Err(self.damaged("weight", "wanted I8".into()));
        }
        let bytes = weights.bytes(&name)?;
        let code =
            |&byte: &u8| u8::try_from(i16::from(byte as i8) + middle).ok().filter(|&code| u32::from(code) >> bits == 0);
        let codes = bytes.iter().map(code).collect::<Option<Vec<u8>>>();
        let codes = codes.ok_or_else(|| self.damaged("weight", format!("an integer is beyond {bits} bits")))?;
        Ok((rows, columns, codes))
    }
}

fn by_row<T>(rows: usize, groups: usize, value: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..rows).flat_map(|row| (0..groups).map(move |group| (row, group))).map(|(row, group)| value(row, group)).collect()
}
