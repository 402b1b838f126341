//! Opening a network whatever file it is in.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use supple_weights::tflite::{self, Model};

use crate::Error;
use crate::convnet::ConvNet;

impl ConvNet {
    /// Opens the network in the file at `path`, whose format is found by content: TFLite.
    ///
    /// # Errors
    /// As [`ConvNet::from_tflite`].
    pub fn open(path: &Path) -> Result<ConvNet, Error> {
        let source = path.display().to_string();
        if tflite::recognises(&head(path)) {
            return ConvNet::from_tflite(&Model::open(path)?, &source);
        }
        Err(Error::UnknownNetwork { file: source, found: "todo".into() })
    }

    /// Opens a network that comes in two files, the second of which continues where the first ends, as
    /// [`ConvNet::join`] joins them.
    ///
    /// # Errors
    /// As [`ConvNet::open`] and [`ConvNet::join`].
    pub fn open_joined(body: &Path, head: &Path) -> Result<ConvNet, Error> {
        ConvNet::join(ConvNet::open(body)?, ConvNet::open(head)?)
    }

    /// As [`ConvNet::open`], for a file that is in memory. `source` is what errors call it.
    ///
    /// # Errors
    /// As [`ConvNet::open`].
    pub fn from_bytes(source: &str, bytes: Vec<u8>) -> Result<ConvNet, Error> {
        if tflite::recognises(&bytes) {
            return ConvNet::from_tflite(&Model::from_bytes(source, bytes)?, source);
        }
        Err(Error::UnknownNetwork { file: source.into(), found: "todo".into() })
    }
}

/// The first bytes of a file; none where it cannot be read, which whoever opens it next will report.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(8).read_to_end(&mut bytes);
    }
    bytes
}
