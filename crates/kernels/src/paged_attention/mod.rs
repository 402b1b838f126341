//! Attention over keys and values of earlier tokens, which lie in pages.
//!
//! A [`KvLayer`] holds pages of [`PAGE`] positions each, in floats of 16 or 32 bits:
//!
//! | | layout of a page |
//! |---|---|
//! | keys | `[kv_heads][head_dim][PAGE]`: a lane is a position, so that no sum of a score crosses lanes |
//! | values | `[kv_heads][PAGE][head_dim, padded to 16]` |
//!
//! A sequence is a list of pages; two sequences with the same beginning share pages. Softmax is computed page by page with a
//! running maximum (Milakov and Gimelshein, 2018). Each query's numbers are made in the order of positions, whatever other
//! queries share its tile: a result does not depend on the batch.

#[cfg(test)]
mod tests;
mod tile;

use crate::low_bit::{Format, f16_to_f32, f32_to_f16};
use crate::pool::SendPtr;
use crate::sparse_conv_i8::Level;
use crate::{AlignedBuf, Cpu};
use tile::Queries;

/// Positions of a page.
pub const PAGE: usize = 32;
/// Most elements of a head.
pub const MAX_HEAD: usize = 256;
/// Query rows that a task takes.
const ROWS: usize = 32;

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
    /// `pages` pages of zeros, stored as `format`, which is `F16` or `F32`.
    ///
    /// # Panics
    /// If the format is another, numbers of heads do not divide, or a head has more than [`MAX_HEAD`] elements.
    pub fn new(heads: Heads, format: Format, pages: usize) -> KvLayer {
        assert!(matches!(format, Format::F16 | Format::F32), "keys and values as {}", format.name());
        assert!(heads.head_dim <= MAX_HEAD, "heads of {} elements", heads.head_dim);
        assert!(heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads), "{heads:?}");
        let mut layer = KvLayer { heads, format, pages: 0, keys: AlignedBuf::zeroed(0), values: AlignedBuf::zeroed(0) };
        layer.grow(pages);
        layer
    }

    /// Bytes of a page, keys and values together.
    pub fn page_bytes(heads: Heads, format: Format) -> usize {
        (heads.head_dim + padded(heads.head_dim)) * PAGE * heads.kv_heads * format.block().1
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
        let floats = |dim: usize| dim * PAGE * self.heads.kv_heads * self.format.block().1 / 4 * pages;
        let dim = self.heads.head_dim;
        for (buffer, len) in [(&mut self.keys, floats(dim)), (&mut self.values, floats(padded(dim)))] {
            let mut larger = AlignedBuf::zeroed(len);
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
        let half = self.format == Format::F16;
        let targets = [SendPtr(self.keys.as_mut_ptr()), SendPtr(self.values.as_mut_ptr())];
        let wide = padded(head_dim);
        let store = |head: usize| {
            for (&(page, slot), (key, value)) in
                places.iter().zip(keys.chunks_exact(width).zip(values.chunks_exact(width)))
            {
                let block = page as usize * kv_heads + head;
                let (key, value) = (&key[head * head_dim..][..head_dim], &value[head * head_dim..][..head_dim]);
                // SAFETY: pages, slots, heads and elements were checked to be inside the buffers; a head is one task's.
                unsafe {
                    put(half, targets[0], block * head_dim * PAGE + slot, PAGE, key);
                    put(half, targets[1], (block * PAGE + slot) * wide, 1, value);
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

/// Stores numbers from `at` on, `step` apart.
unsafe fn put(half: bool, to: SendPtr<f32>, at: usize, step: usize, from: &[f32]) {
    for (i, &value) in from.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            if half {
                // An infinity would make every later sum with a weight of zero NaN.
                to.get().cast::<u16>().add(at + i * step).write(f32_to_f16(value.clamp(-65504.0, 65504.0)));
            } else {
                to.get().add(at + i * step).write(value);
            }
        }
    }
}

/// Elements of a head of values with what pads them.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
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
    let read = |buffer: &AlignedBuf, at: usize| -> f64 {
        f64::from(if layer.format == Format::F16 {
            let word = buffer[at / 2].to_bits();
            f16_to_f32((word >> (at % 2 * 16)) as u16)
        } else {
            buffer[at]
        })
    };
    let last = span.start + token;
    let first = masking.window.map_or(0, |window| (last + 1).saturating_sub(window));
    let place = |position: usize| (pages[position / PAGE] as usize * kv_heads + kv, position % PAGE);
    let scores: Vec<f64> = (first..=last)
        .map(|position| {
            let (page, slot) = place(position);
            let key = |d: usize| read(&layer.keys, (page * head_dim + d) * PAGE + slot);
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
                read(&layer.values, (page * PAGE + slot) * padded(head_dim) + d)
            };
            (first..=last).zip(&scores).map(|(p, s)| (s - max).exp() / total * value(p)).sum()
        })
        .collect()
}
