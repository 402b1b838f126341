//! Keys and values of all sequences, in pages that sequences with the same beginning share.

use super::Config;
use crate::Error;
use supple_tensor::kernels::low_bit::Format;
use supple_tensor::kernels::paged_attention::{KvLayer, PAGE};

/// Pages of keys and values for all layers. Page `i` of each layer belongs to the same positions.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<KvLayer>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    limit: usize,
}

/// One sequence of tokens: its pages and its length. Give it back by [`Cache::release`].
#[derive(Debug, Default)]
pub struct Sequence {
    pub(super) pages: Vec<u32>,
    pub(super) len: usize,
}

impl Sequence {
    /// Tokens that are in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Cache {
    /// Room for up to `positions` tokens of all sequences together, kept as `format`; memory is taken as it is needed.
    ///
    /// # Panics
    /// If the format is none of [`CACHE_FORMATS`](super::CACHE_FORMATS).
    pub fn new(config: &Config, format: Format, positions: usize) -> Cache {
        let layers = (0..config.layers).map(|_| KvLayer::new(config.heads, format, 0)).collect();
        Cache { layers, holders: Vec::new(), free: Vec::new(), limit: positions.div_ceil(PAGE) }
    }

    /// Bytes in use or kept for use.
    pub fn bytes(&self, config: &Config, format: Format) -> usize {
        self.holders.len() * self.layers.len() * KvLayer::page_bytes(config.heads, format)
    }

    /// Pages that sequences hold.
    pub fn pages_in_use(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    fn take(&mut self) -> Result<u32, Error> {
        if self.free.is_empty() {
            let (old, limit) = (self.holders.len(), self.limit);
            if old >= limit {
                return Err(Error::CacheFull { positions: limit * PAGE });
            }
            let new = (old * 2).max(8).min(limit);
            self.layers.iter_mut().for_each(|layer| layer.grow(new));
            self.holders.resize(new, 0);
            self.free.extend((old as u32..new as u32).rev());
        }
        let page = self.free.pop().ok_or(Error::CacheFull { positions: self.limit * PAGE })?;
        self.holders[page as usize] = 1;
        Ok(page)
    }

    fn drop_page(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }

    /// Makes room for `count` more tokens of `sequence`; its last page becomes its own.
    ///
    /// # Errors
    /// [`Error::CacheFull`]; the sequence is then as it was.
    pub(super) fn extend(&mut self, sequence: &mut Sequence, count: usize) -> Result<(), Error> {
        if !sequence.len.is_multiple_of(PAGE) && count > 0 {
            let at = sequence.len / PAGE;
            let shared = sequence.pages[at];
            if self.holders[shared as usize] > 1 {
                let own = self.take()?;
                self.layers.iter_mut().for_each(|layer| layer.copy_page(shared, own));
                self.drop_page(shared);
                sequence.pages[at] = own;
            }
        }
        let had = sequence.pages.len();
        while sequence.pages.len() * PAGE < sequence.len + count {
            match self.take() {
                Ok(page) => sequence.pages.push(page),
                Err(error) => {
                    while sequence.pages.len() > had {
                        sequence.pages.pop().into_iter().for_each(|page| self.drop_page(page));
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A second sequence with the first `len` tokens of `sequence`, whose pages it shares.
    pub fn fork(&mut self, sequence: &Sequence, len: usize) -> Sequence {
        let len = len.min(sequence.len);
        let pages = sequence.pages[..len.div_ceil(PAGE)].to_vec();
        pages.iter().for_each(|&page| self.holders[page as usize] += 1);
        Sequence { pages, len }
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        if len < sequence.len {
            sequence.len = len;
        }
        while sequence.pages.len() > sequence.len.div_ceil(PAGE) {
            sequence.pages.pop().into_iter().for_each(|page| self.drop_page(page));
        }
    }

    /// Gives the pages of a sequence back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }
}
