//! Text files that are written whole or not at all.

use crate::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes `text` under another name, synchronises it, and renames it to `path`.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = Path::new(&partial);
    let write = || {
        let mut file = File::create(partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(partial, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(partial);
        Error::io(path, "write")(error)
    })
}
