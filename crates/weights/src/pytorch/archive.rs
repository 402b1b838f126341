//! The zip archive around a PyTorch checkpoint.
//!
//! Stored entries are sliced out of the mapped file; compressed ones are inflated into memory under a limit. Either way
//! the checksum is verified, once an entry.

use std::borrow::Cow;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::Error;
use crate::bytes::SharedBytes;
use crate::error::{clip, printable};

/// The largest pickle: a state dict of 100,000 tensors takes about 20 MiB.
const MAX_PICKLE: u64 = 64 << 20;
/// The largest entry that is inflated. PyTorch itself never compresses.
const MAX_INFLATED: u64 = 256 << 20;
/// Deflate cannot shrink data further than this.
const MAX_RATIO: u64 = 1032;

type Zip = ZipArchive<Cursor<SharedBytes>>;

/// An archive while its pickle is read.
pub(super) struct Archive<'f> {
    file: &'f str,
    bytes: SharedBytes,
    zip: Zip,
    /// What the names of all entries begin with: `NAME/`, or nothing.
    root: String,
    storages: Vec<Storage>,
}

/// An archive once its tensors are known.
pub(crate) struct Storages {
    zip: Zip,
    storages: Vec<Storage>,
}

/// One entry with tensor data.
struct Storage {
    entry: EntryPlace,
    verified: AtomicBool,
}

/// Where an entry's bytes are.
struct EntryPlace {
    index: usize,
    name: String,
    /// Uncompressed size in bytes; for a compressed entry, as claimed.
    size: u64,
    /// Where a stored entry lies in the file.
    stored: Option<std::ops::Range<usize>>,
}

impl<'f> Archive<'f> {
    /// Reads the zip directory and checks that this is a checkpoint of a byte order that we read.
    pub(super) fn open(file: &'f str, bytes: &SharedBytes) -> Result<Self, Error> {
        let zip = ZipArchive::new(Cursor::new(bytes.clone())).map_err(|error| {
            // A zip's directory is at its end, so this is what a broken download looks like.
            let wanted = "a zip directory at the end".to_string();
            match error {
                ZipError::InvalidArchive(reason) if reason.contains("EOCD") || reason.contains("end of central") => {
                    Error::Truncated { file: file.to_string(), wanted, found: bytes.as_ref().len() as u64 }
                }
                error => damaged(file, "zip directory", &error),
            }
        })?;
        if zip.has_duplicate_names() {
            return Err(damaged(file, "zip directory", &"two entries of the same name"));
        }
        let mut archive = Self { file, bytes: bytes.clone(), zip, root: String::new(), storages: Vec::new() };
        let names = archive.zip.file_names_raw().filter_map(|name| std::str::from_utf8(name).ok());
        let mut roots = names.filter_map(|name| name.strip_suffix("data.pkl").filter(|root| is_root(root)));
        let Some(root) = roots.next().map(str::to_string) else {
            let found = "a zip archive without data.pkl".to_string();
            return Err(Error::UnknownFormat {
                file: file.to_string(),
                wanted: "safetensors or a PyTorch checkpoint",
                found,
            });
        };
        drop(roots);
        archive.root = root;
        archive.check_kind()?;
        Ok(archive)
    }

    fn check_kind(&mut self) -> Result<(), Error> {
        if self.zip.index_for_name_raw(format!("{}constants.pkl", self.root).as_bytes()).is_some() {
            return Err(Error::UnsupportedFormat {
                file: self.file.to_string(),
                found: "a TorchScript program",
                hint: "it holds code; save the model's state_dict instead",
            });
        }
        let byteorder = format!("{}byteorder", self.root);
        if let Some(index) = self.zip.index_for_name_raw(byteorder.as_bytes()) {
            let place = self.place(index, byteorder)?;
            self.limit(&place, 64)?;
            match &*read(self.file, &mut self.zip, &self.bytes, &place, true)? {
                b"little" => {}
                b"big" => return Err(Error::BigEndian { file: self.file.to_string() }),
                _ => return Err(damaged(self.file, "byteorder", &"neither little nor big")),
            }
        }
        Ok(())
    }

    /// The content of `data.pkl`.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, Error> {
        let name = format!("{}data.pkl", self.root);
        let index = self.index(&name)?;
        let place = self.place(index, name)?;
        self.limit(&place, MAX_PICKLE)?;
        Ok(read(self.file, &mut self.zip, &self.bytes, &place, true)?.into_owned())
    }

    /// Finds the storage `key` and returns its index in the checkpoint.
    pub(super) fn storage(&mut self, key: &str) -> Result<usize, Error> {
        let name = format!("{}data/{key}", self.root);
        let index = self.index(&name)?;
        let entry = self.place(index, name)?;
        if entry.stored.is_none() {
            self.limit(&entry, MAX_INFLATED)?;
        }
        self.storages.push(Storage { entry, verified: AtomicBool::new(false) });
        Ok(self.storages.len() - 1)
    }

    /// The size of a storage that was found.
    pub(super) fn storage_bytes(&self, storage: usize) -> u64 {
        self.storages[storage].entry.size
    }

    pub(super) fn into_storages(self) -> Storages {
        Storages { zip: self.zip, storages: self.storages }
    }

    fn index(&self, name: &str) -> Result<usize, Error> {
        let index = self.zip.index_for_name_raw(name.as_bytes());
        index.ok_or_else(|| damaged(self.file, name, &"the archive has no such entry"))
    }

    /// Refuses an entry of more than `limit` bytes.
    fn limit(&self, place: &EntryPlace, limit: u64) -> Result<(), Error> {
        if place.size <= limit {
            return Ok(());
        }
        let what = format!("zip entry {:?} (bytes)", clip(&place.name, 200));
        Err(Error::TooLarge { file: self.file.to_string(), what, wanted: place.size, limit })
    }

    /// Where the entry is, after comparing its sizes with each other and with the file's.
    fn place(&mut self, index: usize, name: String) -> Result<EntryPlace, Error> {
        let fail = |reason: &dyn std::fmt::Display| damaged(self.file, &name, reason);
        let entry = self.zip.by_index_raw(index).map_err(|error| fail(&error))?;
        if entry.encrypted() {
            return Err(fail(&"it is encrypted"));
        }
        let (size, packed, start) = (entry.size(), entry.compressed_size(), entry.data_start());
        let end = start.and_then(|start| start.checked_add(packed));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= self.bytes.as_ref().len() as u64)) else {
            return Err(fail(&"it reaches beyond the end of the file"));
        };
        let stored = match entry.compression() {
            CompressionMethod::Stored if size == packed => Some(start as usize..end as usize),
            CompressionMethod::Stored => return Err(fail(&"it is stored, but its two sizes differ")),
            CompressionMethod::Deflated if size / MAX_RATIO > packed => {
                return Err(fail(&"its compressed size is too small for what it claims to hold"));
            }
            CompressionMethod::Deflated => None,
            other => return Err(fail(&format!("compression method {other} is not supported"))),
        };
        Ok(EntryPlace { index, name, size, stored })
    }
}

impl Storages {
    /// The bytes of a storage, by its index; the first reading verifies its checksum.
    pub(super) fn read<'a>(&self, file: &str, bytes: &'a SharedBytes, storage: usize) -> Result<Cow<'a, [u8]>, Error> {
        let Some(Storage { entry, verified }) = self.storages.get(storage) else {
            return Err(damaged(file, "archive", &"no such storage"));
        };
        // The clone shares the directory; it exists because reading wants a cursor of its own.
        let content = read(file, &mut self.zip.clone(), bytes, entry, !verified.load(Ordering::Relaxed))?;
        verified.store(true, Ordering::Relaxed);
        Ok(content)
    }
}

/// Whether `data.pkl` may stand at `root`: at the top or one folder down.
fn is_root(root: &str) -> bool {
    root.is_empty() || root.find('/') == Some(root.len() - 1)
}

/// An entry's content. A stored one is borrowed, and its checksum verified if `verify` says so.
fn read<'a>(
    file: &str,
    zip: &mut Zip,
    bytes: &'a SharedBytes,
    place: &EntryPlace,
    verify: bool,
) -> Result<Cow<'a, [u8]>, Error> {
    let fail = |reason: &dyn std::fmt::Display| damaged(file, &place.name, reason);
    if let Some(range) = &place.stored {
        if verify {
            let mut entry = zip.by_index(place.index).map_err(|error| fail(&error))?;
            io::copy(&mut entry, &mut io::sink()).map_err(|error| fail(&error))?;
        }
        let stored = bytes.as_ref().get(range.clone());
        return stored.map(Cow::Borrowed).ok_or_else(|| fail(&"it reaches beyond the end of the file"));
    }
    // The claimed size limits what is read; memory grows only as bytes arrive.
    let mut entry = zip.by_index(place.index).map_err(|error| fail(&error))?;
    let mut content = Vec::new();
    entry.by_ref().take(place.size + 1).read_to_end(&mut content).map_err(|error| fail(&error))?;
    if content.len() as u64 != place.size {
        return Err(fail(&format!("wanted {} bytes, found {}", place.size, content.len())));
    }
    Ok(Cow::Owned(content))
}

fn damaged(file: &str, place: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Damaged {
        file: file.to_string(),
        reason: format!("{}: {}", printable(place, 200), printable(&reason.to_string(), 300)),
    }
}
