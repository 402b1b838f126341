//! Writing safetensors.
//!
//! The file is written under a temporary name in the same folder, synchronised, then renamed: whoever opens the final
//! name sees the old file or the whole new one, also after a crash or on a full disk.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};

use crate::error::clip;
use crate::safetensors::MAX_HEADER;
use crate::{DType, Error};

/// Elements converted at a time.
const CHUNK: usize = 1 << 14;

/// Writes `tensors`, each `(name, stored type, shape, elements in row-major order)`, and `metadata` to `path`, replacing
/// what is there. The stored type is `F32`, `F16`, `BF16`, or `U8` for whole numbers from 0 to 255; halves are rounded to
/// nearest, ties to even.
///
/// The same input gives the same bytes: wider types come first, as the format's alignment rule asks, otherwise tensors
/// keep their order.
///
/// # Errors
///
/// [`Error::Unwritable`] for a repeated or reserved name, a shape that does not match the number of elements, another
/// stored type, or a value beyond the stored type's range; [`Error::NotFinite`] for NaN and infinities;
/// [`Error::Io`] when the folder or disk refuses. On error no file is left behind and `path` is untouched.
pub fn save_safetensors(
    path: &Path,
    tensors: &[(String, DType, Vec<usize>, Vec<f32>)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let file = path.display().to_string();
    check(&file, tensors)?;
    let (header, order) = header(tensors, metadata);
    if header.len() as u64 > MAX_HEADER {
        let what = "safetensors header (bytes)".to_string();
        return Err(Error::TooLarge { file, what, wanted: header.len() as u64, limit: MAX_HEADER });
    }

    let failed = |action| {
        let file = &file;
        move |source| Error::Io { file: file.clone(), action, source }
    };
    let (partial, output) = Partial::create(path).map_err(failed("create"))?;
    let mut output = BufWriter::new(output);
    let mut write = || {
        output.write_all(&(header.len() as u64).to_le_bytes())?;
        output.write_all(header.as_bytes())?;
        for &index in &order {
            let (_, dtype, _, values) = &tensors[index];
            write_values(&mut output, *dtype, values)?;
        }
        output.flush()?;
        output.get_ref().sync_all()
    };
    write().map_err(failed("write"))?;
    drop(output);
    partial.rename_to(path).map_err(failed("rename"))
}

/// Everything that can be wrong with the input, before a file is touched.
fn check(file: &str, tensors: &[(String, DType, Vec<usize>, Vec<f32>)]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for (name, dtype, shape, values) in tensors {
        let unwritable =
            |reason: String| Err(Error::Unwritable { file: file.to_string(), tensor: clip(name, 200), reason });
        if name == "__metadata__" {
            return unwritable("the name is reserved by the format".to_string());
        }
        if !seen.insert(name) {
            return unwritable("the name is used twice".to_string());
        }
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if elements != Some(values.len()) {
            return unwritable(format!("shape {shape:?} does not hold {} elements", values.len()));
        }
        // The largest values that round to a finite number of the stored type.
        let largest = match dtype {
            DType::F32 => f32::MAX,
            DType::F16 => 65520f32.next_down(),
            DType::BF16 => f32::from_bits(0x7f7f_7fff),
            DType::U8 => 255.0,
            _ => return unwritable(format!("wanted F32, F16, BF16 or U8, found {dtype}")),
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (file, tensor) = (file.to_string(), clip(name, 200));
            return Err(Error::NotFinite { file, tensor, index, value: values[index] });
        }
        if let Some(index) = values.iter().position(|value| value.abs() > largest) {
            return unwritable(format!("element {index}, {}, is beyond the range of {dtype}", values[index]));
        }
        let whole = |value: &f32| *value >= 0.0 && value.fract() == 0.0;
        if let Some(index) = values.iter().position(|value| *dtype == DType::U8 && !whole(value)) {
            return unwritable(format!("element {index}, {}, is no whole number of {dtype}", values[index]));
        }
    }
    Ok(())
}

/// The JSON header, padded with spaces to a multiple of 8 bytes, and the order in which it lists the tensors.
fn header(
    tensors: &[(String, DType, Vec<usize>, Vec<f32>)],
    metadata: &BTreeMap<String, String>,
) -> (String, Vec<usize>) {
    let size = |index: usize| tensors[index].1.size().unwrap_or(0);
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(size(index)));

    let mut fields = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        fields.push(format!("\"__metadata__\":{}", serde_json::json!(metadata)));
    }
    let mut offset = 0;
    for &index in &order {
        let (name, dtype, shape, values) = &tensors[index];
        let end = offset + values.len() * size(index);
        let info = serde_json::json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [offset, end]});
        fields.push(format!("{}:{info}", serde_json::json!(name)));
        offset = end;
    }
    let mut header = format!("{{{}}}", fields.join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    (header, order)
}

fn write_values(output: &mut impl Write, dtype: DType, values: &[f32]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK * 4);
    for chunk in values.chunks(CHUNK) {
        buffer.clear();
        match dtype {
            DType::F16 => buffer.extend(chunk.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
            DType::BF16 => buffer.extend(chunk.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
            DType::U8 => buffer.extend(chunk.iter().map(|&value| value as u8)),
            _ => buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes())),
        }
        output.write_all(&buffer)?;
    }
    Ok(())
}

/// A file under its temporary name, removed when dropped unless it was renamed.
pub(crate) struct Partial {
    path: PathBuf,
    renamed: bool,
}

impl Partial {
    /// Creates `.NAME.PROCESS-COUNT.part` beside `path`; never opens a file that exists.
    pub(crate) fn create(path: &Path) -> io::Result<(Self, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let path = path.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((Self { path, renamed: false }, file))
    }

    pub(crate) fn rename_to(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.renamed = true;
        // The rename itself lasts only once its folder is synchronised; where a folder cannot be opened, so be it.
        if let Some(Ok(folder)) =
            path.parent().map(|folder| File::open(if folder == "" { Path::new(".") } else { folder }))
        {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
