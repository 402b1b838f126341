//! The bytes of a weight file, mapped or embedded, behind a handle that clones for free.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::Error;

/// A file's content. The `AsRef` lets a `Cursor<SharedBytes>` read it in place.
#[derive(Clone)]
pub(crate) struct SharedBytes(Arc<Content>);

enum Content {
    Mapped(Mmap),
    Given(Cow<'static, [u8]>),
}

impl SharedBytes {
    /// Maps the file at `path` into memory; `name` is what errors call it.
    pub(crate) fn map(path: &Path, name: &str) -> Result<Self, Error> {
        let failed = |action| move |source| Error::Io { file: name.to_string(), action, source };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("open"))?;
        if metadata.is_dir() {
            return Err(failed("read")(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if !metadata.is_file() {
            return Err(failed("map")(io::Error::other("not a regular file")));
        }
        if metadata.len() == 0 {
            return Err(Error::Empty { file: name.to_string() });
        }
        // SAFETY: the map is read-only and lives as long as the handle. That no other process changes or shortens the
        // file meanwhile is the caller's promise, as for every reader of mapped weights.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        Ok(Self(Arc::new(Content::Mapped(map))))
    }

    /// Lets go of the memory behind `range` until it is read again; nothing where the bytes are no map.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Content::Mapped(map) = &*self.0
            && range.end <= map.len()
            && !range.is_empty()
        {
            // SAFETY: the map is of a file and only read, so pages come back with the file's bytes.
            let _refused_is_fine =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Takes bytes that are already in memory; `&'static` ones are not copied.
    pub(crate) fn given(bytes: Cow<'static, [u8]>) -> Self {
        Self(Arc::new(Content::Given(bytes)))
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        match &*self.0 {
            Content::Mapped(map) => map,
            Content::Given(bytes) => bytes,
        }
    }
}
