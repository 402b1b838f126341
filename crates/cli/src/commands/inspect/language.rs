//! What a language model's file or folder holds: metadata, tensors under the names that it has.

use super::Args;
use crate::report::{Exit, show, show_json, table};
use crate::size;
use serde_json::{Value as Json, json};
use std::path::Path;
use supple::weights::checkpoint::{Checkpoint, Stored};
use supple::weights::gguf::{Array, Gguf, Value};

/// Values of an array that are shown.
const SHOWN: usize = 4;
/// Letters of a text that are shown.
const LETTERS: usize = 100;

/// Whether `path` is a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    super::head(path).starts_with(b"GGUF")
}

/// Shows a GGUF file.
pub fn gguf(args: &Args) -> anyhow::Result<Exit> {
    let file = Gguf::open(&args.file).map_err(supple::Error::from)?;
    let bytes = std::fs::metadata(&args.file)?.len();
    let bits = |elements: u64| if elements == 0 { 0.0 } else { bytes as f64 * 8.0 / elements as f64 };
    let bits = bits(file.parameters());
    if args.json {
        let metadata: serde_json::Map<String, Json> =
            file.metadata().map(|(key, value)| (key.to_string(), to_json(value))).collect();
        let tensors: Vec<Json> = file
            .tensors()
            .iter()
            .map(|tensor| {
                json!({ "name": tensor.name, "dtype": tensor.block_type.name(), "shape": tensor.shape, "bytes": tensor.size() })
            })
            .collect();
        show_json(&json!({
            "file": args.file.display().to_string(),
            "format": "GGUF",
            "version": file.version(),
            "bytes": bytes,
            "parameters": file.parameters(),
            "bits_per_weight": bits,
            "metadata": metadata,
            "tensors": tensors,
        }))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<[String; 3]> = file
        .tensors()
        .iter()
        .map(|tensor| [tensor.name.escape_debug().to_string(), tensor.block_type.to_string(), shape(&tensor.shape)])
        .collect();
    let mut text = table(&rows);
    for (key, value) in file.metadata() {
        text += &format!("metadata {}: {}\n", key.escape_debug(), short(value));
    }
    text += &format!(
        "{}: GGUF version {}, {}, {} tensors, {} parameters, {bits:.2} bits each\n",
        args.file.display(),
        file.version(),
        size::bytes(bytes),
        file.tensors().len(),
        size::thousands(file.parameters())
    );
    show(&text)?;
    Ok(Exit::Done)
}

/// Shows a folder, or a file with tensors under Hugging Face's names.
pub fn checkpoint(args: &Args) -> anyhow::Result<Exit> {
    let model = Checkpoint::open(&args.file).map_err(supple::Error::from)?;
    let (mut rows, mut parameters) = (Vec::new(), 0u64);
    for name in model.names() {
        let (kind, sides) = match model.tensor(name).map_err(supple::Error::from)? {
            Stored::Blocks { shape, block_type, .. } => (block_type.to_string(), shape),
            Stored::Integers(matrix) => (format!("INT{}", matrix.bits), vec![matrix.rows, matrix.columns]),
        };
        parameters = parameters.saturating_add(sides.iter().map(|&side| side as u64).product());
        rows.push((name.to_string(), kind, sides));
    }
    if args.json {
        let tensors: Vec<Json> =
            rows.iter().map(|(name, kind, sides)| json!({ "name": name, "dtype": kind, "shape": sides })).collect();
        show_json(&json!({
            "file": model.source(),
            "format": "language model",
            "parameters": parameters,
            "config": model.config(),
            "tensors": tensors,
        }))?;
        return Ok(Exit::Done);
    }
    let count = rows.len();
    let rows: Vec<[String; 3]> =
        rows.into_iter().map(|(name, kind, sides)| [name.escape_debug().to_string(), kind, shape(&sides)]).collect();
    let mut text = table(&rows);
    for (key, value) in model.config().as_object().into_iter().flatten() {
        text += &format!("config {}: {value}\n", key.escape_debug());
    }
    text += &format!("{}: {count} tensors, {} parameters\n", model.source(), size::thousands(parameters));
    show(&text)?;
    Ok(Exit::Done)
}

fn shape(sides: &[usize]) -> String {
    sides.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// A value in one line.
fn short(value: &Value) -> String {
    match value {
        Value::String(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let cut: String = text.chars().take(LETTERS).collect();
            let dots = if cut.len() < text.len() { "..." } else { "" };
            format!("{}{dots}", cut.escape_debug())
        }
        Value::Array(array) => {
            let shown: Vec<String> = items(array, SHOWN).iter().map(Json::to_string).collect();
            let dots = if array.len() > SHOWN { ", ..." } else { "" };
            format!("[{}{dots}] ({} of {})", shown.join(", "), array.len(), array.kind().name())
        }
        other => to_json(other).to_string(),
    }
}

fn items(array: &Array, most: usize) -> Vec<Json> {
    if let Some(strings) = array.strings() {
        return strings.take(most).map(|bytes| String::from_utf8_lossy(bytes).into()).collect();
    }
    array.scalars().map(|scalars| scalars.take(most).map(|value| to_json(&value)).collect()).unwrap_or_default()
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::String(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Bool(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::Array(array) => items(array, usize::MAX).into(),
        number => match number.as_integer() {
            Some(number) => i64::try_from(number)
                .map(Json::from)
                .or_else(|_| u64::try_from(number).map(Json::from))
                .unwrap_or_default(),
            None => Json::Null,
        },
    }
}
