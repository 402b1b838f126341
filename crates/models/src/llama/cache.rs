//! Keys and values of all sequences, in pages that sequences with the same beginning share.

use super::Config;
use super::pages::{Pages, Sequence, Storage};
use crate::Error;
use supple_tensor::kernels::low_bit::Format;
use supple_tensor::kernels::paged_attention::{KvLayer, PAGE};

/// Pages of keys and values for all layers. Page `i` of each layer belongs to the same positions.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<KvLayer>,
    pages: Pages,
}

impl Storage for Vec<KvLayer> {
    fn grow(&mut self, pages: usize) -> Result<(), Error> {
        self.iter_mut().for_each(|layer| layer.grow(pages));
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), Error> {
        self.iter_mut().for_each(|layer| layer.copy_page(from, to));
        Ok(())
    }
}

impl Cache {
    /// Room for up to `positions` tokens of all sequences together, kept as `format`; memory is taken as it is needed.
    ///
    /// # Panics
    /// If the format is none of [`CACHE_FORMATS`](super::CACHE_FORMATS).
    pub fn new(config: &Config, format: Format, positions: usize) -> Cache {
        let layers = (0..config.layers).map(|_| KvLayer::new(config.heads, format, 0)).collect();
        Cache { layers, pages: Pages::new(PAGE, positions) }
    }

    /// Bytes in use or kept for use.
    pub fn bytes(&self, config: &Config, format: Format) -> usize {
        self.pages.len() * self.layers.len() * KvLayer::page_bytes(config.heads, format)
    }

    /// Pages that sequences hold.
    pub fn pages_in_use(&self) -> usize {
        self.pages.in_use()
    }

    /// Makes room for `count` more tokens of `sequence`; its last page becomes its own.
    ///
    /// # Errors
    /// [`Error::CacheFull`]; the sequence is then as it was.
    pub(super) fn extend(&mut self, sequence: &mut Sequence, count: usize) -> Result<(), Error> {
        self.pages.extend(&mut self.layers, sequence, count)
    }

    /// A second sequence with the first `len` tokens of `sequence`, whose pages it shares.
    pub fn fork(&mut self, sequence: &Sequence, len: usize) -> Sequence {
        self.pages.fork(sequence, len)
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        self.pages.truncate(sequence, len);
    }

    /// Gives the pages of a sequence back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }
}
