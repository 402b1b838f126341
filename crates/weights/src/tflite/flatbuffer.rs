//! Checked access to a flatbuffer: the container that TFLite files are written in.
//!
//! All numbers are little-endian and may lie at any address.
//!
//! * The file starts with a `u32`, the distance to the root table; bytes 4 to 7 are the file's identifier.
//! * A table starts with an `i32`, the distance *back* to its vtable. The vtable holds `u16`s: its own size in bytes, the
//!   table's size, and for each field the distance from the table's start to its value, or 0 where the field is absent.
//! * Numbers lie in the table itself. Vectors, texts and other tables lie elsewhere: the table holds a `u32`, the distance
//!   from that place to theirs. A vector is a `u32` count and its elements; a text is a vector of bytes.
//!
//! Every read is compared with the end of the file. Nothing stops a file from naming one vector a million times, so that
//! what is copied out of it is counted too, and may not exceed a small multiple of the file's size.

use std::cell::Cell;
use std::ops::Range;

use crate::Error;
use crate::error::printable;

/// What may be copied: this many times the size of the file, and [`BUDGET_BYTES`] more. Writers share texts and vectors
/// between tables, but not often.
const BUDGET_TIMES: usize = 8;
const BUDGET_BYTES: usize = 1 << 16;
/// Bytes of the longest text that is kept whole; names of real tensors have some hundreds.
const MAX_TEXT: usize = 1 << 12;

/// A file's bytes, its name for errors, and how much may still be copied out of it.
pub(super) struct Flatbuffer<'a> {
    file: &'a str,
    bytes: &'a [u8],
    budget: Cell<usize>,
}

/// A table, by the positions of its first byte and of its vtable.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    buffer: &'a Flatbuffer<'a>,
    start: usize,
    vtable: usize,
    vtable_size: usize,
}

/// A number that can stand in a table or a vector.
pub(super) trait Number: Sized {
    /// Reads one at `position`.
    fn read(buffer: &Flatbuffer<'_>, position: usize) -> Result<Self, Error>;
    /// Bytes of one.
    const SIZE: usize = size_of::<Self>();
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn read(buffer: &Flatbuffer<'_>, position: usize) -> Result<Self, Error> {
                buffer.array(position).map(<$number>::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8, i8, u16, u32, i32, i64, u64, f32);

impl<'a> Flatbuffer<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        let budget = bytes.len().saturating_mul(BUDGET_TIMES).saturating_add(BUDGET_BYTES);
        Flatbuffer { file, bytes, budget: Cell::new(budget) }
    }

    /// The table that the file's first number leads to.
    pub(super) fn root(&'a self) -> Result<Table<'a>, Error> {
        let start = self.follow(0, "the root table")?;
        self.table(start)
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { file: self.file.to_string(), reason: reason.into() }
    }

    fn truncated(&self, end: u64) -> Error {
        Error::Truncated { file: self.file.to_string(), wanted: format!("{end} bytes"), found: self.bytes.len() as u64 }
    }

    fn array<const N: usize>(&self, position: usize) -> Result<[u8; N], Error> {
        let found = self.bytes.get(position..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().ok_or_else(|| self.truncated((position as u64).saturating_add(N as u64)))
    }

    /// The position that the distance at `position` leads to.
    fn follow(&self, position: usize, what: &str) -> Result<usize, Error> {
        let distance = u32::read(self, position)? as usize;
        if distance == 0 {
            return Err(self.damaged(format!("{what} lies at distance 0")));
        }
        let end = position.checked_add(distance).ok_or_else(|| self.damaged(format!("{what} lies too far")))?;
        if end >= self.bytes.len() { Err(self.truncated(end as u64 + 1)) } else { Ok(end) }
    }

    fn table(&'a self, start: usize) -> Result<Table<'a>, Error> {
        let back = i64::from(i32::read(self, start)?);
        let vtable = usize::try_from(start as i64 - back).map_err(|_| self.damaged("a vtable before the file"))?;
        let vtable_size = usize::from(u16::read(self, vtable)?);
        if vtable_size < 4 || vtable_size % 2 != 0 {
            return Err(self.damaged(format!("a vtable of {vtable_size} bytes")));
        }
        let end = vtable + vtable_size;
        if end > self.bytes.len() {
            return Err(self.truncated(end as u64));
        }
        Ok(Table { buffer: self, start, vtable, vtable_size })
    }

    /// The elements' bytes of the vector that the distance at `position` leads to, and their count.
    fn vector(&self, position: usize, element: usize) -> Result<(usize, usize), Error> {
        let start = self.follow(position, "a vector")?;
        let count = u32::read(self, start)? as usize;
        let first = start + 4;
        let end = count.checked_mul(element).and_then(|size| size.checked_add(first));
        match end {
            Some(end) if end <= self.bytes.len() => Ok((first, count)),
            end => Err(self.truncated(end.map_or(u64::MAX, |end| end as u64))),
        }
    }

    /// Takes `size` bytes from what may still be copied.
    fn spend(&self, size: usize) -> Result<(), Error> {
        match self.budget.get().checked_sub(size) {
            Some(rest) => {
                self.budget.set(rest);
                Ok(())
            }
            None => Err(Error::TooLarge {
                file: self.file.to_string(),
                what: "description of the network (bytes, parts named repeatedly)".to_string(),
                wanted: (self.bytes.len() as u64).saturating_mul(BUDGET_TIMES as u64).saturating_add(1),
                limit: (self.bytes.len() as u64).saturating_mul(BUDGET_TIMES as u64),
            }),
        }
    }
}

impl<'a> Table<'a> {
    /// The position of a field's value; `None` where the field is absent. Field 0 is the first of the schema's table.
    fn place(&self, field: usize) -> Result<Option<usize>, Error> {
        let entry = 4 + 2 * field;
        if entry + 2 > self.vtable_size {
            return Ok(None);
        }
        let distance = usize::from(u16::read(self.buffer, self.vtable + entry)?);
        Ok((distance != 0).then_some(self.start + distance))
    }

    /// A number, or `default` where the field is absent.
    pub(super) fn number<T: Number>(&self, field: usize, default: T) -> Result<T, Error> {
        self.place(field)?.map_or(Ok(default), |position| T::read(self.buffer, position))
    }

    /// A truth value; absent is false.
    pub(super) fn truth(&self, field: usize) -> Result<bool, Error> {
        Ok(self.number(field, 0u8)? != 0)
    }

    /// A vector of numbers; absent is empty.
    pub(super) fn numbers<T: Number>(&self, field: usize) -> Result<Vec<T>, Error> {
        let Some(position) = self.place(field)? else { return Ok(Vec::new()) };
        let (first, count) = self.buffer.vector(position, T::SIZE)?;
        self.buffer.spend(count * T::SIZE + size_of::<Vec<T>>())?;
        (0..count).map(|i| T::read(self.buffer, first + i * T::SIZE)).collect()
    }

    /// Where in the file a vector of bytes lies; `None` where the field is absent. Nothing is copied.
    pub(super) fn range(&self, field: usize) -> Result<Option<Range<usize>>, Error> {
        let Some(position) = self.place(field)? else { return Ok(None) };
        let (first, count) = self.buffer.vector(position, 1)?;
        Ok(Some(first..first + count))
    }

    /// A text, its control characters escaped; absent is empty. What is no UTF-8 is replaced.
    pub(super) fn text(&self, field: usize) -> Result<String, Error> {
        let Some(range) = self.range(field)? else { return Ok(String::new()) };
        let range = range.start..range.end.min(range.start + MAX_TEXT);
        self.buffer.spend(range.len() + size_of::<String>())?;
        Ok(printable(&String::from_utf8_lossy(&self.buffer.bytes[range]), MAX_TEXT))
    }

    /// A table; `None` where the field is absent.
    pub(super) fn table(&self, field: usize) -> Result<Option<Table<'a>>, Error> {
        let Some(position) = self.place(field)? else { return Ok(None) };
        self.buffer.table(self.buffer.follow(position, "a table")?).map(Some)
    }

    /// What `read` makes of each table of a vector; absent is empty.
    pub(super) fn tables<T>(
        &self,
        field: usize,
        mut read: impl FnMut(Table<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let Some(position) = self.place(field)? else { return Ok(Vec::new()) };
        let (first, count) = self.buffer.vector(position, 4)?;
        self.buffer.spend(count.saturating_mul(size_of::<T>()))?;
        let table = |i: usize| self.buffer.follow(first + 4 * i, "a table").and_then(|start| self.buffer.table(start));
        (0..count).map(|i| table(i).and_then(&mut read)).collect()
    }
}
