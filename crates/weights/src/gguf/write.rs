//! Writing GGUF version 3.
//!
//! The file appears under its name whole or not at all: see [`crate::save`]. Tensors are asked for one by one, so that a
//! model larger than memory can be converted.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::value::{Value, encode_bytes};
use super::{ALIGNMENT_KEY, BlockType, DEFAULT_ALIGNMENT, MAGIC};
use crate::Error;
use crate::error::clip;
use crate::save::Partial;

/// The version that is written.
const VERSION: u32 = 3;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 4;

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub block_type: BlockType,
}

impl NewTensor {
    /// Stored bytes; `None` if rows are no whole blocks or the product overflows.
    fn size(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let elements = self.shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side))?;
        row.is_multiple_of(self.block_type.block_elements()).then(|| self.block_type.bytes(elements))?
    }
}

/// Writes `metadata`, then `tensors`, to `path`, replacing what is there. `fill` is called once for each tensor, in order,
/// with its position in `tensors` and an empty buffer to append its stored bytes to.
///
/// The same input gives the same bytes. Tensors are aligned to 32 bytes, whatever `general.alignment` was; that key is
/// left out.
///
/// # Errors
///
/// [`Error::Unwritable`] for a key or name used twice, more than four dimensions, rows that are no whole blocks, and bytes
/// that are not as many as the shape asks for; what `fill` returns; [`Error::Io`] when the folder or disk refuses. On error
/// no file is left behind and `path` is untouched.
pub fn save<E: From<Error>>(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[NewTensor],
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let file = path.display().to_string();
    let (header, sizes) = header(&file, metadata, tensors)?;
    let failed = |action| {
        let file = &file;
        move |source| Error::Io { file: file.clone(), action, source }
    };
    let (partial, output) = Partial::create(path).map_err(failed("create"))?;
    let mut output = BufWriter::new(output);
    output.write_all(&header).map_err(failed("write"))?;
    let mut buffer = Vec::new();
    for (index, &size) in sizes.iter().enumerate() {
        buffer.clear();
        fill(index, &mut buffer)?;
        if buffer.len() != size {
            let reason = format!("wanted {size} bytes, found {}", buffer.len());
            return Err(Error::Unwritable { file, tensor: clip(&tensors[index].name, 200), reason }.into());
        }
        buffer.resize(size.next_multiple_of(DEFAULT_ALIGNMENT), 0);
        output.write_all(&buffer).map_err(failed("write"))?;
    }
    output.flush().and_then(|()| output.get_ref().sync_all()).map_err(failed("write"))?;
    drop(output);
    partial.rename_to(path).map_err(failed("rename"))?;
    Ok(())
}

/// Everything before the data, padded, and each tensor's stored bytes.
fn header(file: &str, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<(Vec<u8>, Vec<usize>), Error> {
    let unwritable =
        |name: &str, reason: String| Error::Unwritable { file: file.to_string(), tensor: clip(name, 200), reason };
    let metadata: Vec<_> = metadata.iter().filter(|(key, _)| key != ALIGNMENT_KEY).collect();
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    let mut seen = HashSet::new();
    for (key, value) in metadata {
        if !seen.insert(key) {
            return Err(unwritable(key, "the key is used twice".into()));
        }
        encode_bytes(key.as_bytes(), &mut header);
        header.extend((value.kind() as u32).to_le_bytes());
        value.encode(&mut header);
    }
    let (mut seen, mut sizes, mut offset) = (HashSet::new(), Vec::with_capacity(tensors.len()), 0usize);
    for tensor in tensors {
        let NewTensor { name, shape, block_type } = tensor;
        if !seen.insert(name) {
            return Err(unwritable(name, "the name is used twice".into()));
        }
        if shape.len() > MAX_RANK {
            return Err(unwritable(name, format!("{} dimensions, the format holds {MAX_RANK}", shape.len())));
        }
        let size = tensor.size().ok_or_else(|| {
            let block = block_type.block_elements();
            unwritable(name, format!("rows of shape {shape:?} are no whole blocks of {block} ({block_type})"))
        })?;
        encode_bytes(name.as_bytes(), &mut header);
        header.extend((shape.len() as u32).to_le_bytes());
        header.extend(shape.iter().rev().flat_map(|&side| (side as u64).to_le_bytes()));
        header.extend(block_type.code().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        sizes.push(size);
        offset = size
            .checked_next_multiple_of(DEFAULT_ALIGNMENT)
            .and_then(|size| offset.checked_add(size))
            .ok_or_else(|| unwritable(name, "the file would be larger than memory can address".into()))?;
    }
    header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
    Ok((header, sizes))
}
