//! Attention over keys and values of earlier tokens, which lie in pages.
//!
//! A [`KvLayer`] holds pages of [`PAGE`] positions each, in floats of 16 or 32 bits or in blocks of 32 elements of a head that
//! share a scale (`Q8_0`, `Q4_0`):
//!
//! | | layout of a page, floats | blocks |
//! |---|---|---|
//! | keys | `[kv_heads][head_dim][PAGE]` | `[kv_heads]` of integers `[head_dim][PAGE]`, scales `[blocks][PAGE]` |
//! | values | `[kv_heads][PAGE][head_dim]` | `[kv_heads]` of integers `[PAGE][head_dim]`, scales `[blocks][PAGE]` |
//!
//! A lane of keys is a position, so that no sum of a score crosses lanes. Values are padded to 16 elements; blocks are whole
//! in both. A byte of `Q4_0` holds elements `i` and `i + 16` of a block, 8 added; scales are half-precision floats.
//!
//! A sequence is a list of pages; two sequences with the same beginning share pages. Softmax is computed page by page with a
//! running maximum (Milakov and Gimelshein, 2018). Each query's numbers are made in the order of positions, whatever other
//! queries share its tile: a result does not depend on the batch.

mod page;
mod store;
#[cfg(test)]
mod tests;
mod tile;

use crate::low_bit::Format;
use crate::pool::SendPtr;
use crate::sparse_conv_i8::Level;
use crate::{AlignedBuf, Cpu};
use page::{Shape, element};
use store::Place;
use tile::Queries;

/// Positions of a page.
pub const PAGE: usize = 32;
/// Most elements of a head.
pub const MAX_HEAD: usize = 256;
/// Query rows that a task takes.
const ROWS: usize = 32;
/// Formats that keys and values can be kept in.
pub const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_0];

/// Numbers of heads and their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// What scores go through before softmax.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Masking {
    /// A query sees only the last so many positions, itself included.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    pub(crate) heads: Heads,
    pub(crate) format: Format,
    pub(crate) pages: usize,
    keys: AlignedBuf,
    values: AlignedBuf,
}

/// Tokens of one sequence that attend together.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Where the pages of the sequence begin in the table of pages; they hold at least `start + count` positions.
    pub first_page: usize,
    /// Position of its first token here.
    pub start: usize,
    /// Number of tokens.
    pub count: usize,
    /// Row of its first token in queries and output.
    pub row: usize,
}

impl KvLayer {
    /// `pages` pages of zeros, stored as `format`, one of [`FORMATS`].
    ///
    /// # Panics
    /// If the format is another, numbers of heads do not divide, or a head has more than [`MAX_HEAD`] elements.
    pub fn new(heads: Heads, format: Format, pages: usize) -> KvLayer {
        assert!(FORMATS.contains(&format), "keys and values as {}", format.name());
        assert!(heads.head_dim <= MAX_HEAD, "heads of {} elements", heads.head_dim);
        assert!(heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads), "{heads:?}");
        let mut layer = KvLayer { heads, format, pages: 0, keys: AlignedBuf::zeroed(0), values: AlignedBuf::zeroed(0) };
        layer.grow(pages);
        layer
    }

    /// Bytes of a page, keys and values together.
    pub fn page_bytes(heads: Heads, format: Format) -> usize {
        Shape::of(format, heads.head_dim).bytes().iter().sum::<usize>() * heads.kv_heads
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Makes it `pages` pages, if there are fewer; those that are there keep what they hold.
    pub fn grow(&mut self, pages: usize) {
        if pages <= self.pages {
            return;
        }
        let bytes = Shape::of(self.format, self.heads.head_dim).bytes();
        for (buffer, bytes) in [&mut self.keys, &mut self.values].into_iter().zip(bytes) {
            let mut larger = AlignedBuf::zeroed(bytes * self.heads.kv_heads / 4 * pages);
            larger[..buffer.len()].copy_from_slice(buffer);
            *buffer = larger;
        }
        self.pages = pages;
    }

    /// Copies the page `from` over the page `to`.
    ///
    /// # Panics
    /// If there are no such pages.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let pages = self.pages;
        for buffer in [&mut self.keys, &mut self.values] {
            let size = buffer.len() / pages;
            buffer.copy_within(from as usize * size..(from as usize + 1) * size, to as usize * size);
        }
    }

    /// Stores keys and values of tokens, `[tokens, kv_heads, head_dim]` each; `places` are their pages and slots.
    ///
    /// # Panics
    /// If there is no such place, or lengths do not fit.
    pub fn store(&mut self, cpu: &Cpu, places: &[(u32, usize)], keys: &[f32], values: &[f32]) {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let width = kv_heads * head_dim;
        assert!(keys.len() == places.len() * width && values.len() == keys.len(), "keys of {} tokens", places.len());
        assert!(
            places.iter().all(|&(page, slot)| (page as usize) < self.pages && slot < PAGE),
            "places that there are"
        );
        let targets = [SendPtr(self.keys.as_mut_ptr().cast::<u8>()), SendPtr(self.values.as_mut_ptr().cast::<u8>())];
        let shape = Shape::of(self.format, head_dim);
        let bytes = shape.bytes();
        let store = |head: usize| {
            for (&(page, slot), (key, value)) in
                places.iter().zip(keys.chunks_exact(width).zip(values.chunks_exact(width)))
            {
                let block = page as usize * kv_heads + head;
                let (key, value) = (&key[head * head_dim..][..head_dim], &value[head * head_dim..][..head_dim]);
                // SAFETY: pages, slots and heads were checked to be inside the buffers; a head is one task's.
                unsafe {
                    shape.store(targets[0].get().add(block * bytes[0]), Place::Key(slot), key);
                    shape.store(targets[1].get().add(block * bytes[1]), Place::Value(slot), value);
                }
            }
        };
        if places.len() < 8 {
            (0..kv_heads).for_each(store);
        } else {
            cpu.pool.run(kv_heads, &|head, _| store(head));
        }
    }
}

/// `out[t] = softmax(q[t] · keys) · values` for the tokens of all spans; `q` and `out` are `[tokens, heads, head_dim]`, and
/// queries are scaled already. `table` holds the pages of all sequences.
///
/// # Panics
/// If a span has too few pages, or a slice is too short.
pub fn attend(cpu: &Cpu, layer: &KvLayer, masking: Masking, table: &[u32], spans: &[Span], q: &[f32], out: &mut [f32]) {
    let Heads { heads, kv_heads, head_dim } = layer.heads;
    let width = heads * head_dim;
    let group = heads / kv_heads;
    let mut tasks = 0;
    for span in spans {
        let pages = &table[span.first_page..][..(span.start + span.count).div_ceil(PAGE)];
        assert!(pages.iter().all(|&page| (page as usize) < layer.pages), "pages that there are");
        let end = (span.row + span.count) * width;
        assert!(q.len() >= end && out.len() >= end, "attention over {} rows", span.row + span.count);
        tasks += (span.count * group).div_ceil(ROWS) * kv_heads;
    }
    let out = SendPtr(out.as_mut_ptr());
    let level = Level::of(cpu.isa);
    cpu.pool.run(tasks, &|task, _| {
        let mut task = task;
        for span in spans {
            let blocks = (span.count * group).div_ceil(ROWS);
            if task >= blocks * kv_heads {
                task -= blocks * kv_heads;
                continue;
            }
            // Later blocks have more to do: they come first.
            let (block, head) = (blocks - 1 - task / kv_heads, task % kv_heads);
            let rows = block * ROWS..((block + 1) * ROWS).min(span.count * group);
            let queries = Queries {
                layer,
                masking,
                span: *span,
                pages: &table[span.first_page..],
                head,
                rows,
                q,
                out: out.get(),
                keys: layer.keys.as_ptr().cast(),
                values: layer.values.as_ptr().cast(),
            };
            // SAFETY: the CPU offers the level of its instruction set; sizes were checked, and tasks share no row of a head.
            unsafe { crate::low_bit::dispatch(level, queries) }
            return;
        }
    });
}

/// The reference in `f64`: the row of `head` for one query `[head_dim]` of a sequence with these pages.
pub fn attend_reference(
    layer: &KvLayer,
    masking: Masking,
    pages: &[u32],
    span: Span,
    token: usize,
    head: usize,
    q: &[f32],
) -> Vec<f64> {
    let Heads { heads, kv_heads, head_dim } = layer.heads;
    let kv = head / (heads / kv_heads);
    let read = |values: bool, page: usize, slot: usize, d: usize| -> f64 {
        let buffer = if values { &layer.values } else { &layer.keys };
        let size = Shape::of(layer.format, head_dim).bytes()[usize::from(values)];
        // SAFETY: any byte of a float may be read.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), 4 * buffer.len()) };
        let place = if values { Place::Value(slot) } else { Place::Key(slot) };
        f64::from(element(layer.format, head_dim, &bytes[page * size..][..size], place, d))
    };
    let last = span.start + token;
    let first = masking.window.map_or(0, |window| (last + 1).saturating_sub(window));
    let place = |position: usize| (pages[position / PAGE] as usize * kv_heads + kv, position % PAGE);
    let scores: Vec<f64> = (first..=last)
        .map(|position| {
            let (page, slot) = place(position);
            let key = |d: usize| read(false, page, slot, d);
            let score: f64 = q.iter().enumerate().map(|(d, &q)| f64::from(q) * key(d)).sum();
            masking.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    (0..head_dim)
        .map(|d| {
            let value = |position: usize| {
                let (page, slot) = place(position);
                read(true, page, slot, d)
            };
            (first..=last).zip(&scores).map(|(p, s)| (s - max).exp() / total * value(p)).sum()
        })
        .collect()
}
