//! Which pages of a cache belong to which sequences. A page may have several holders: sequences with the same beginning. Whoever
//! writes to a page that others hold gets one of its own first.

use crate::Error;

/// One sequence of tokens: its pages and its length. Give it back when done: by [`Cache::release`](super::Cache::release) or
/// [`State::release`](super::State::release).
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

/// Where the pages lie.
pub(super) trait Storage {
    /// Makes room for `pages` pages in all.
    fn grow(&mut self, pages: usize) -> Result<(), Error>;

    /// Copies a page, of all layers.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), Error>;
}

/// The holders of pages.
#[derive(Debug)]
pub(super) struct Pages {
    /// Positions of a page.
    size: usize,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    limit: usize,
}

impl Pages {
    /// Room for up to `positions` tokens of all sequences together, `size` a page.
    pub fn new(size: usize, positions: usize) -> Pages {
        Pages { size, holders: Vec::new(), free: Vec::new(), limit: positions.div_ceil(size) }
    }

    /// Pages that there is room for so far.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Pages that sequences hold.
    pub fn in_use(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    fn take(&mut self, storage: &mut impl Storage) -> Result<u32, Error> {
        let full = Error::CacheFull { positions: self.limit * self.size };
        if self.free.is_empty() {
            let (old, limit) = (self.holders.len(), self.limit);
            if old >= limit {
                return Err(full);
            }
            let new = (old * 2).max(8).min(limit);
            storage.grow(new)?;
            self.holders.resize(new, 0);
            self.free.extend((old as u32..new as u32).rev());
        }
        let page = self.free.pop().ok_or(full)?;
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
    /// [`Error::CacheFull`], and those of the storage; the sequence is then as it was.
    pub fn extend(&mut self, storage: &mut impl Storage, sequence: &mut Sequence, count: usize) -> Result<(), Error> {
        let size = self.size;
        if !sequence.len.is_multiple_of(size) && count > 0 {
            let at = sequence.len / size;
            let shared = sequence.pages[at];
            if self.holders[shared as usize] > 1 {
                let own = self.take(storage)?;
                if let Err(error) = storage.copy_page(shared, own) {
                    self.drop_page(own);
                    return Err(error);
                }
                self.drop_page(shared);
                sequence.pages[at] = own;
            }
        }
        let had = sequence.pages.len();
        while sequence.pages.len() * size < sequence.len + count {
            match self.take(storage) {
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
        let pages = sequence.pages[..len.div_ceil(self.size)].to_vec();
        pages.iter().for_each(|&page| self.holders[page as usize] += 1);
        Sequence { pages, len }
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        if len < sequence.len {
            sequence.len = len;
        }
        while sequence.pages.len() > sequence.len.div_ceil(self.size) {
            sequence.pages.pop().into_iter().for_each(|page| self.drop_page(page));
        }
    }
}
