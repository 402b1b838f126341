//! Stands in for `pytorch` in builds without that feature: its checkpoints are refused, and no tensor lies in one.

use crate::Error;
use crate::bytes::SharedBytes;
use crate::weights::Entries;
use std::borrow::Cow;

/// None exists.
pub(crate) enum Checkpoint {}

/// None exists.
pub(crate) enum View {}

/// Refuses a checkpoint.
pub(crate) fn parse(file: &str, _: &SharedBytes) -> Result<(Entries, Checkpoint), Error> {
    Err(Error::UnsupportedFormat {
        file: file.into(),
        found: "a PyTorch checkpoint",
        hint: "this build reads no PyTorch checkpoints, convert it to safetensors",
    })
}

impl Checkpoint {
    /// There is nothing to read.
    pub(crate) fn read_storage<'a>(&self, _: &str, _: &'a SharedBytes, _: &View) -> Result<Cow<'a, [u8]>, Error> {
        match *self {}
    }
}

impl View {
    /// There is nothing to gather.
    pub(crate) fn gather<'a>(&self, _: Cow<'a, [u8]>, _: &[usize], _: usize) -> Option<Cow<'a, [u8]>> {
        match *self {}
    }
}
