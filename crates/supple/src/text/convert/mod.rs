//! GGUF files: from Hugging Face folders ([`folder`]), or from others with matrices stored otherwise ([`gguf`]).

mod folder;
mod metadata;
mod vocabulary;

use crate::Error;
pub use folder::folder;
use std::path::Path;
use supple_tensor::kernels::low_bit::iq::Codebook;
use supple_tensor::kernels::low_bit::{Format, dequantise, f32_to_f16, quantise, quantise_k};
use supple_weights::checkpoint::Stored;
use supple_weights::gguf::{BlockType, Gguf, NewTensor, TensorInfo, Value, save};

/// Types that can be written, with their numbers in `general.file_type`.
pub const TARGETS: [(BlockType, u32); 11] = [
    (BlockType::F32, 0),
    (BlockType::F16, 1),
    (BlockType::BF16, 32),
    (BlockType::Q8_0, 7),
    (BlockType::Q4_0, 2),
    (BlockType::Q4_1, 3),
    (BlockType::Q5_0, 8),
    (BlockType::Q5_1, 9),
    (BlockType::Q4_K, 14),
    (BlockType::Q5_K, 16),
    (BlockType::Q6_K, 18),
];
/// Elements converted at a time.
const CHUNK: usize = 1 << 20;
/// Elements that are worth a thread of their own.
const PART: usize = 1 << 16;

/// What a conversion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tensors written anew.
    pub converted: usize,
    /// Tensors copied as they were.
    pub copied: usize,
    /// Tensors left out, for no decoder reads them.
    pub skipped: usize,
}

/// Writes `input` to `output` with matrices stored as `target`: dequantised exactly, then rounded. Without a target all is
/// copied. Vectors (norms, biases) and integers stay as they are; matrices whose rows are no whole blocks of 256 become Q5_0,
/// Q5_1 or Q8_0 in place of Q4_K, Q5_K or Q6_K, and F16 if they are no whole blocks of 32 either; the last product becomes
/// Q6_K in place of Q4_K and Q5_K. `progress` is told how many of how many tensors are done.
///
/// # Errors
///
/// [`Error::Weights`]: a target that is not in [`TARGETS`], blocks that cannot be dequantised, values that the target does
/// not hold, or what the disk says. On error no file is left behind.
pub fn gguf(
    input: &Gguf,
    output: &Path,
    target: Option<BlockType>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, Error> {
    let number = number_of(target, output)?;
    let mut metadata: Vec<(String, Value)> =
        input.metadata().map(|(key, value)| (key.to_string(), value.clone())).collect();
    for pair in file_type(number) {
        metadata.retain(|other| other.0 != pair.0);
        metadata.push(pair);
    }
    let head = if input.contains("output.weight") { "output.weight" } else { "token_embd.weight" };
    let wanted = |tensor: &TensorInfo| {
        let from = tensor.block_type;
        target.map_or(from, |target| stored_as(from, &tensor.shape, target, tensor.name == head))
    };
    let tensors: Vec<NewTensor> = input
        .tensors()
        .iter()
        .map(|tensor| NewTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), block_type: wanted(tensor) })
        .collect();
    let mut summary = Summary { converted: 0, copied: 0, skipped: 0 };
    save(output, &metadata, &tensors, |index, bytes| -> Result<(), Error> {
        let tensor = &input.tensors()[index];
        let to = tensors[index].block_type;
        if to == tensor.block_type {
            bytes.extend_from_slice(input.bytes(tensor));
            summary.copied += 1;
        } else {
            let row = tensor.shape.last().copied().unwrap_or(1).max(1);
            let rows = (CHUNK / row).max(1);
            let size = tensor.block_type.bytes(row).unwrap_or(1).max(1);
            let mut values = Vec::new();
            for part in input.bytes(tensor).chunks(rows * size) {
                values.resize(part.len() / size * row, 0.0);
                floats(tensor.block_type, part, &mut values)
                    .map_err(|reason| unwritable(output, &tensor.name, reason))?;
                write(to, &values, bytes).map_err(|reason| unwritable(output, &tensor.name, reason))?;
            }
            summary.converted += 1;
        }
        progress(index + 1, tensors.len());
        Ok(())
    })?;
    Ok(summary)
}

fn unwritable(output: &Path, tensor: &str, reason: String) -> Error {
    let (file, tensor) = (output.display().to_string(), tensor.to_string());
    supple_weights::Error::Unwritable { file, tensor, reason }.into()
}

/// The number of a target in `general.file_type`.
fn number_of(target: Option<BlockType>, output: &Path) -> Result<Option<u32>, Error> {
    let number = target.map(|target| TARGETS.iter().find(|row| row.0 == target).map(|row| row.1).ok_or(target));
    number.transpose().map_err(|target| unwritable(output, "any", format!("{target} cannot be written")))
}

/// What metadata say of the type of matrices.
fn file_type(number: Option<u32>) -> impl Iterator<Item = (String, Value)> {
    let pairs = number.map(|number| [("general.file_type", number), ("general.quantization_version", 2)]);
    pairs.into_iter().flatten().map(|(key, value)| (key.to_string(), Value::U32(value)))
}

/// What a tensor stored as `from` becomes where matrices become `target`; `last` is that of the last product.
fn stored_as(from: BlockType, shape: &[usize], target: BlockType, last: bool) -> BlockType {
    let integers = matches!(from, BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64);
    let &[_, .., row] = shape else { return from };
    if integers {
        return from;
    }
    let target = match target {
        BlockType::Q4_K | BlockType::Q5_K if last => BlockType::Q6_K,
        target => target,
    };
    let shorter = match target {
        BlockType::Q4_K => BlockType::Q5_0,
        BlockType::Q5_K => BlockType::Q5_1,
        BlockType::Q6_K => BlockType::Q8_0,
        _ => BlockType::F16,
    };
    let fits = |kind: &BlockType| row.is_multiple_of(kind.block_elements());
    [target, shorter].into_iter().find(fits).unwrap_or(BlockType::F16)
}

/// The values of a tensor.
fn values_of(stored: &Stored<'_>) -> Result<Vec<f32>, String> {
    match stored {
        Stored::Integers(matrix) => Ok(matrix.dequantize()),
        Stored::Blocks { shape, block_type, bytes } => {
            let elements: usize = shape.iter().product();
            if block_type.bytes(elements) != Some(bytes.len()) {
                return Err(format!("{} bytes of {elements} elements", bytes.len()));
            }
            let mut values = vec![0.0; elements];
            floats(*block_type, bytes, &mut values)?;
            Ok(values)
        }
    }
}

/// The exact values of whole blocks.
fn floats(from: BlockType, bytes: &[u8], values: &mut [f32]) -> Result<(), String> {
    if let Some(format) = Format::ALL.into_iter().find(|format| format.name() == from.name()) {
        dequantise(format, bytes, values);
    } else if let Some(format) = Codebook::from_name(from.name()) {
        format.dequantize(bytes, values);
    } else if from == BlockType::F64 {
        let doubles = bytes.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw) as f32);
        values.iter_mut().zip(doubles).for_each(|(value, double)| *value = double);
    } else {
        return Err(format!("{from} cannot be dequantised"));
    }
    Ok(())
}

/// Appends `values` as `to`.
fn write(to: BlockType, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), String> {
    if let Some(wrong) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("a weight is {wrong}"));
    }
    match to {
        BlockType::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        BlockType::F16 => {
            if let Some(large) = values.iter().find(|value| value.abs() >= 65520.0) {
                return Err(format!("{large} is beyond the range of F16"));
            }
            bytes.extend(values.iter().flat_map(|&value| f32_to_f16(value).to_le_bytes()));
        }
        BlockType::BF16 => bytes.extend(values.iter().flat_map(|&value| brain_float(value).to_le_bytes())),
        BlockType::Q8_0 => in_parts(values, bytes, quantise::q8_0),
        BlockType::Q4_0 => in_parts(values, bytes, quantise::q4_0),
        BlockType::Q4_1 => in_parts(values, bytes, quantise::q4_1),
        BlockType::Q5_0 => in_parts(values, bytes, quantise::q5_0),
        BlockType::Q5_1 => in_parts(values, bytes, quantise::q5_1),
        BlockType::Q4_K => in_parts(values, bytes, quantise_k::q4_k),
        BlockType::Q5_K => in_parts(values, bytes, quantise_k::q5_k),
        BlockType::Q6_K => in_parts(values, bytes, quantise_k::q6_k),
        other => return Err(format!("{other} cannot be written")),
    }
    Ok(())
}

/// Appends blocks of `values`, made by as many threads as there are.
fn in_parts(values: &[f32], bytes: &mut Vec<u8>, quantise: fn(&[f32], &mut Vec<u8>)) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = values.len().div_ceil(threads).next_multiple_of(PART);
    std::thread::scope(|scope| {
        let made = values.chunks(part.max(1)).map(|values| {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                quantise(values, &mut bytes);
                bytes
            })
        });
        for made in made.collect::<Vec<_>>() {
            match made.join() {
                Ok(made) => bytes.extend(made),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
}

/// The upper half of a finite float, ties to even.
fn brain_float(value: f32) -> u16 {
    let bits = value.to_bits();
    ((u64::from(bits) + 0x7fff + u64::from(bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(folder: &Path) -> Gguf {
        let tensor = |name: &str, shape: &[usize]| NewTensor {
            name: name.into(),
            shape: shape.into(),
            block_type: BlockType::F32,
        };
        let tensors = [tensor("a.weight", &[3, 256]), tensor("odd.weight", &[2, 5]), tensor("norm.weight", &[64])];
        let metadata =
            [("general.architecture".to_string(), Value::from("llama")), ("general.file_type".into(), Value::U32(0))];
        let path = folder.join("tiny.gguf");
        save(&path, &metadata, &tensors, |index, output| {
            let count: usize = tensors[index].shape.iter().product();
            output.extend((0..count).flat_map(|i| ((i as f32 * 0.7).sin() * 3.0).to_le_bytes()));
            Ok::<(), Error>(())
        })
        .unwrap();
        Gguf::open(&path).unwrap()
    }

    fn values(file: &Gguf, name: &str) -> Vec<f32> {
        let tensor = file.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.elements()];
        floats(tensor.block_type, file.bytes(tensor), &mut values).unwrap();
        values
    }

    #[test]
    fn every_target_is_written_and_keeps_its_values_as_far_as_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let input = tiny(folder.path());
        let output = folder.path().join("out.gguf");
        for (target, number) in TARGETS {
            let mut seen = Vec::new();
            let summary = gguf(&input, &output, Some(target), &mut |done, all| seen.push((done, all))).unwrap();
            assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
            let file = Gguf::open(&output).unwrap();
            assert_eq!(file.get_u32("general.file_type").unwrap(), number);
            assert_eq!(file.tensor("a.weight").unwrap().block_type, target);
            assert_eq!(file.tensor("norm.weight").unwrap().block_type, BlockType::F32);
            let odd = if target.is_plain() { target } else { BlockType::F16 };
            assert_eq!(file.tensor("odd.weight").unwrap().block_type, odd);
            assert_eq!(summary.converted, if target == BlockType::F32 { 0 } else { 2 });
            let error = match target {
                BlockType::F32 => 0.0,
                BlockType::F16 => 0.002,
                BlockType::BF16 => 0.008,
                BlockType::Q8_0 => 0.013,
                _ => 0.4,
            };
            let (wanted, found) = (values(&input, "a.weight"), values(&file, "a.weight"));
            assert!(wanted.iter().zip(&found).all(|(a, b)| (a - b).abs() <= error), "{target}");
            assert!(found.iter().any(|value| value.abs() > 2.0), "{target}");
            // What is in blocks already becomes floats of the same values.
            let floats = folder.path().join("floats.gguf");
            gguf(&file, &floats, Some(BlockType::F32), &mut |_, _| ()).unwrap();
            assert_eq!(values(&Gguf::open(&floats).unwrap(), "a.weight"), found, "{target}");
        }
        let before = std::fs::read(&output).unwrap();
        let error = gguf(&input, &output, Some(BlockType::Q3_K), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("Q3_K cannot be written"), "{error}");
        assert_eq!(std::fs::read(&output).unwrap(), before, "what was there is untouched");
        gguf(&input, &output, None, &mut |_, _| ()).unwrap();
        assert_eq!(std::fs::read(&output).unwrap(), std::fs::read(input.source()).unwrap(), "a copy");
    }

    #[test]
    fn bfloat_rounds_to_even() {
        for (value, wanted) in [(1.0, 0x3f80), (1.0 + 1.0 / 256.0, 0x3f80), (1.0 + 3.0 / 256.0, 0x3f82), (-2.5, 0xc020)]
        {
            assert_eq!(brain_float(value), wanted, "{value}");
        }
    }
}
