//! GGUF files from Hugging Face folders.

use super::metadata::{architecture, factors, shape};
use super::{Summary, number_of, stored_as, unwritable, values_of, vocabulary, write};
use crate::Error;
use std::path::Path;
use supple_models::llama::Config;
use supple_weights::checkpoint::names::to_gguf;
use supple_weights::checkpoint::{Checkpoint, Stored};
use supple_weights::gguf::{BlockType, NewTensor, save};

/// Where a tensor of the file comes from.
enum Source {
    /// A tensor of the folder, by its name there.
    Folder(String),
    /// Numbers made from the configuration.
    Made(Vec<f32>),
}

/// Writes the model in `folder` (`config.json`, `tokenizer.json`, safetensors) to `output`, with matrices stored as `target`;
/// without a target floats stay as they are and quantised layers become F16. Tokeniser and chat template go with it. Names,
/// metadata and the order of rows are those that llama.cpp reads. `progress` is told how many of how many tensors are done.
///
/// # Errors
///
/// [`Error::BadOption`] for what GGUF cannot say; otherwise as [`super::gguf`], and what reading the folder takes.
pub fn folder(
    folder: &Path,
    output: &Path,
    target: Option<BlockType>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, Error> {
    let number = number_of(target, output)?;
    let checkpoint = Checkpoint::open(folder)?;
    let config = Config::from_json(checkpoint.source(), checkpoint.config())?;
    let architecture = architecture(&config)?;
    let folder_name =
        folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut metadata = shape(&config, folder_name.as_deref().unwrap_or("model"))?;
    metadata.extend(super::file_type(number));
    metadata.extend(vocabulary::vocabulary(folder, config.vocabulary)?);

    let mut summary = Summary { converted: 0, copied: 0, skipped: 0 };
    let (mut tensors, mut sources) = (Vec::new(), Vec::new());
    for (name, values) in factors(&config.rope) {
        tensors.push(NewTensor { name: name.into(), shape: vec![values.len()], block_type: BlockType::F32 });
        sources.push(Source::Made(values));
    }
    for name in checkpoint.names() {
        let known = to_gguf(architecture, name).filter(|_| name != "lm_head.weight" || !config.tied);
        let Some(to) = known else {
            summary.skipped += 1;
            continue;
        };
        let (shape, stored) = match checkpoint.tensor(name)? {
            Stored::Blocks { shape, block_type, .. } => (shape, block_type),
            Stored::Integers(matrix) => (vec![matrix.rows, matrix.columns], BlockType::F16),
        };
        let last = name == "lm_head.weight" || config.tied && name == "model.embed_tokens.weight";
        let block_type = match shape.len() {
            0 | 1 => BlockType::F32,
            _ => stored_as(stored, &shape, target.unwrap_or(stored), last),
        };
        tensors.push(NewTensor { name: to, shape, block_type });
        sources.push(Source::Folder(name.to_owned()));
    }
    save(output, &metadata, &tensors, |index, bytes| -> Result<(), Error> {
        let (tensor, to) = (&tensors[index], tensors[index].block_type);
        match &sources[index] {
            Source::Made(values) => write(to, values, bytes).map_err(|why| unwritable(output, &tensor.name, why))?,
            Source::Folder(name) => {
                let stored = checkpoint.tensor(name)?;
                let turned = architecture == "llama" && is_turned(name);
                match stored {
                    Stored::Blocks { block_type, bytes: raw, .. } if block_type == to && !turned && !is_norm(name) => {
                        bytes.extend_from_slice(&raw);
                        summary.copied += 1;
                    }
                    stored => {
                        let mut values = values_of(&stored).map_err(|why| unwritable(output, &tensor.name, why))?;
                        if turned {
                            values = interleaved(&values, tensor.shape[0], &config);
                        }
                        if config.norm_plus_one && is_norm(name) {
                            values.iter_mut().for_each(|w| *w += 1.0);
                        }
                        write(to, &values, bytes).map_err(|why| unwritable(output, &tensor.name, why))?;
                        summary.converted += 1;
                    }
                }
            }
        }
        progress(index + 1, tensors.len());
        Ok(())
    })?;
    Ok(summary)
}

/// Whether its rows are turned by positions.
fn is_turned(name: &str) -> bool {
    name.contains(".q_proj.") || name.contains(".k_proj.")
}

fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight")
}

/// Rows of queries or keys, `rows` of them, in the order of GGUF's family `llama`: elements of a head that turn together
/// side by side.
fn interleaved(values: &[f32], rows: usize, config: &Config) -> Vec<f32> {
    let (dim, half) = (config.heads.head_dim, config.rope.dim / 2);
    let rows: Vec<&[f32]> = values.chunks_exact((values.len() / rows.max(1)).max(1)).collect();
    let mut to = Vec::with_capacity(values.len());
    for head in rows.chunks_exact(dim) {
        for row in 0..dim {
            let from = match row {
                _ if row >= 2 * half => row,
                _ if row % 2 == 0 => row / 2,
                _ => half + row / 2,
            };
            to.extend_from_slice(head[from]);
        }
    }
    to
}
