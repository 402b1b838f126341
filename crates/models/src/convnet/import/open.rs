//! Opening a network whatever file it is in.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use supple_weights::Weights;
use supple_weights::tflite::{self, Model};

use crate::Error;
use crate::convnet::{ConvNet, file};
#[cfg(feature = "pytorch")]
use crate::{efficientnet_lite, mobilenet};

/// Pixels a side of what a checkpoint's network takes: what all of them were published for.
const RESOLUTION: usize = 224;

impl ConvNet {
    /// Opens the network in the file at `path`, whose format is found by content: TFLite, what [`ConvNet::save`] writes, or a
    /// checkpoint of MobileNet version 1 or 2 or EfficientNet-Lite0 for 224 pixels a side, as safetensors or from PyTorch.
    ///
    /// # Errors
    /// As [`ConvNet::from_tflite`], [`ConvNet::load`] and [`ConvNet::from_checkpoint`].
    pub fn open(path: &Path) -> Result<ConvNet, Error> {
        if tflite::recognises(&head(path)) {
            return ConvNet::from_tflite(&Model::open(path)?, &path.display().to_string());
        }
        ConvNet::from_weights(&Weights::open(path)?)
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
        ConvNet::from_weights(&Weights::from_bytes(source, bytes)?)
    }

    /// The network of a checkpoint, known by the names of its tensors, for pictures of `resolution` pixels a side. For
    /// EfficientNet-Lite0 that is 224 whatever is asked for.
    ///
    /// # Errors
    /// [`Error::UnknownConvNet`] if the names are those of no network known here; [`Error::Weights`] if a tensor is missing or has
    /// another shape.
    pub fn from_checkpoint(weights: &Weights, resolution: usize) -> Result<ConvNet, Error> {
        #[cfg(feature = "pytorch")]
        {
            if mobilenet::v1_recognises(weights) {
                return mobilenet::v1_load(weights, resolution);
            }
            if mobilenet::v2_recognises(weights) {
                return mobilenet::v2_load(weights, resolution);
            }
            if efficientnet_lite::lite0_recognises(weights) {
                return efficientnet_lite::lite0_load(weights);
            }
        }
        #[cfg(not(feature = "pytorch"))]
        let _ = resolution;
        let names: Vec<String> = weights.names().take(3).map(|name| format!("{name:.80?}")).collect();
        let found =
            if names.is_empty() { "no tensors".to_owned() } else { format!("tensors such as {}", names.join(", ")) };
        Err(Error::UnknownConvNet { file: weights.source().into(), found })
    }

    fn from_weights(weights: &Weights) -> Result<ConvNet, Error> {
        if file::recognises(weights) {
            return ConvNet::load(weights);
        }
        ConvNet::from_checkpoint(weights, RESOLUTION)
    }
}

/// The first bytes of a file; none where it cannot be read, which whoever opens it next will report.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for its other end.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(8).read_to_end(&mut bytes);
    }
    bytes
}
