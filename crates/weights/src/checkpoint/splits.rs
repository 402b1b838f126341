//! GGUF models in several files: `NAME-00001-of-00003.gguf` and so on, the first with all metadata.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::gguf::Gguf;

/// Most files of a model.
const MAX_FILES: u32 = 1000;

/// The file at `path` and those that go with it.
pub(super) fn open(path: &Path) -> Result<Vec<Gguf>, Error> {
    let first = Gguf::open(path)?;
    let count = first.find_u32("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![first]);
    }
    let damaged = |reason: String| Error::Damaged { file: path.display().to_string(), reason };
    if count > MAX_FILES {
        return Err(damaged(format!("a model in {count} files")));
    }
    if first.find_u32("split.no")? != Some(0) {
        return Err(damaged(format!("one of {count} files of a model, not the first (-00001-of-{count:05}.gguf)")));
    }
    let other = |number| {
        sibling(path, number, count)
            .ok_or_else(|| damaged(format!("wanted a name that ends in -00001-of-{count:05}.gguf")))
    };
    let mut files = vec![first];
    for number in 2..=count {
        let file = Gguf::open(&other(number)?)?;
        if file.find_u32("split.no")? != Some(number - 1) || file.find_u32("split.count")? != Some(count) {
            let reason = format!("not file {number} of {count}");
            return Err(Error::Damaged { file: file.source().to_string(), reason });
        }
        files.push(file);
    }
    Ok(files)
}

fn sibling(path: &Path, number: u32, count: u32) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(path.with_file_name(format!("{name}-{number:05}-of-{count:05}.gguf")))
}
