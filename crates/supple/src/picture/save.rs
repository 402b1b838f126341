//! Writing a file whole or not at all: to a temporary name in the same folder, to the disk, then renamed.

use super::{EncodeOptions, Picture, PictureFormat, encode};
use crate::Error;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a picture to a file and returns notes as [`encode`] does. A failure leaves nothing behind, and the file as it
/// was.
///
/// # Errors
/// If the file exists and `overwrite` is not set, if it cannot be written, or as [`encode`].
pub fn save(
    path: impl AsRef<Path>,
    picture: &Picture,
    format: PictureFormat,
    options: &EncodeOptions,
    overwrite: bool,
) -> Result<Vec<String>, Error> {
    let path = path.as_ref();
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = new_file(folder).map_err(Error::io(path, "create a file beside"))?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary);
    // Errors of the stream get the name of the file.
    let named = |e: Error| match e {
        Error::Write(source) => Error::Io { path: path.into(), action: "write", source },
        e => e,
    };
    let notes = encode(picture, format, options, &mut writer).map_err(named)?;
    writer.flush().map_err(Error::io(path, "write"))?;
    let temporary = writer.into_inner().map_err(|e| e.into_error()).map_err(Error::io(path, "write"))?;
    temporary.as_file().sync_all().map_err(Error::io(path, "write"))?;
    let renamed = if overwrite { temporary.persist(path) } else { temporary.persist_noclobber(path) };
    match renamed {
        Ok(_) => Ok(notes),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists { path: path.into() }),
        Err(e) => Err(Error::Io { path: path.into(), action: "rename a file to", source: e.error }),
    }
}

/// A temporary file with the permissions of any new file.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".supple-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The system takes the umask off.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
