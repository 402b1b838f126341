//! GGUF files in other blocks: floats, or quantised anew.

use crate::Error;
use std::path::Path;
use supple_tensor::kernels::low_bit::iq::Codebook;
use supple_tensor::kernels::low_bit::{Format, dequantise, f32_to_f16, quantise};
use supple_weights::gguf::{BlockType, Gguf, NewTensor, TensorInfo, Value, save};

/// Types that can be written, with their numbers in `general.file_type`.
pub const TARGETS: [(BlockType, u32); 6] = [
    (BlockType::F32, 0),
    (BlockType::F16, 1),
    (BlockType::BF16, 32),
    (BlockType::Q8_0, 7),
    (BlockType::Q4_0, 2),
    (BlockType::Q4_1, 3),
];
/// Elements converted at a time.
const CHUNK: usize = 1 << 20;

/// What a conversion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tensors written anew.
    pub converted: usize,
    /// Tensors copied as they were.
    pub copied: usize,
}

/// Writes `input` to `output` with matrices stored as `target`: dequantised exactly, then rounded. Without a target all is
/// copied. Vectors (norms, biases) and integers stay as they are; matrices whose rows are no whole blocks become F16.
/// `progress` is told how many of how many tensors are done.
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
    let number = target.map(|target| TARGETS.iter().find(|row| row.0 == target).map(|row| row.1).ok_or(target));
    let number =
        number.transpose().map_err(|target| unwritable(output, "any", format!("{target} cannot be written")))?;
    let mut metadata: Vec<(String, Value)> =
        input.metadata().map(|(key, value)| (key.to_string(), value.clone())).collect();
    if let Some(number) = number {
        for (key, value) in [("general.file_type", number), ("general.quantization_version", 2)] {
            metadata.retain(|pair| pair.0 != key);
            metadata.push((key.to_string(), Value::U32(value)));
        }
    }
    let wanted = |tensor: &TensorInfo| target.map_or(tensor.block_type, |target| stored_as(tensor, target));
    let tensors: Vec<NewTensor> = input
        .tensors()
        .iter()
        .map(|tensor| NewTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), block_type: wanted(tensor) })
        .collect();
    let mut summary = Summary { converted: 0, copied: 0 };
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

/// What `tensor` becomes where matrices become `target`.
fn stored_as(tensor: &TensorInfo, target: BlockType) -> BlockType {
    let integers = matches!(tensor.block_type, BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64);
    match tensor.shape.as_slice() {
        [_, .., row] if !integers => {
            if row.is_multiple_of(target.block_elements()) {
                target
            } else {
                BlockType::F16
            }
        }
        _ => tensor.block_type,
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
        BlockType::Q8_0 => quantise::q8_0(values, bytes),
        BlockType::Q4_0 => quantise::q4_0(values, bytes),
        BlockType::Q4_1 => quantise::q4_1(values, bytes),
        other => return Err(format!("{other} cannot be written")),
    }
    Ok(())
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
        let tensors = [tensor("a.weight", &[3, 64]), tensor("odd.weight", &[2, 5]), tensor("norm.weight", &[64])];
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
        let error = gguf(&input, &output, Some(BlockType::Q6_K), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("Q6_K cannot be written"), "{error}");
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
