//! Attention over keys and values that lie in pages.
//!
//! * [`Pages`] – keys and values of a layer: f16, pages of [`PAGE`] positions of all heads;
//! * [`place`] – makes queries, keys and values of what products gave, and stores the latter two;
//! * [`attend`] – attention of single queries, any number of sequences at once;
//! * [`attend_chunk`] – attention of many queries of one sequence.
//!
//! Positions, lengths and tables of pages (`U32`) are read from device memory. That they point into the pages is the caller's promise.

use crate::attention::{AttentionShape, Way, attention};
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::low_bit::padded;
use crate::{DType, Elements, ElementsMut, Error, Gpu, Memory};

/// Positions of a page.
pub const PAGE: usize = 64;

/// Positions of a part of a sequence that is attended to by itself.
const SPLIT: usize = 256;

/// Heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads`, at most 16, heads of queries.
    pub kv_heads: usize,
    /// Features of a head: a multiple of 8 up to 256.
    pub head_dim: usize,
}

impl Heads {
    fn check(&self, kernel: &'static str) -> Result<(), Error> {
        let Heads { heads, kv_heads, head_dim } = *self;
        let sensible = kv_heads > 0
            && heads.is_multiple_of(kv_heads)
            && (1..=16).contains(&(heads / kv_heads))
            && heads <= 4096
            && head_dim.is_multiple_of(8)
            && (8..=256).contains(&head_dim);
        if sensible { Ok(()) } else { refuse!(kernel, "no kernel for {self:?}") }
    }
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
pub struct Pages {
    heads: Heads,
    pages: usize,
    keys: Memory,
    values: Memory,
}

impl Pages {
    /// `pages` pages of zeros.
    ///
    /// # Errors
    /// If heads are not sensible, or memory is exhausted.
    pub fn new(gpu: &Gpu, heads: Heads, pages: usize) -> Result<Pages, Error> {
        heads.check("pages")?;
        let Some(bytes) = Pages::page_bytes(heads).checked_mul(pages).map(|bytes| bytes / 2) else {
            return refuse!("pages", "{pages} pages are too many");
        };
        let layer = Pages { heads, pages, keys: gpu.allocate(bytes)?, values: gpu.allocate(bytes)? };
        gpu.clear(&layer.keys, 0, bytes)?;
        gpu.clear(&layer.values, 0, bytes)?;
        Ok(layer)
    }

    /// Bytes of a page, keys and values.
    pub fn page_bytes(heads: Heads) -> usize {
        2 * 2 * PAGE * heads.kv_heads * heads.head_dim
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies a page, for sequences that part.
    ///
    /// # Errors
    /// If there is no such page.
    pub fn copy_page(&self, gpu: &Gpu, from: usize, to: usize) -> Result<(), Error> {
        let elements = Pages::page_bytes(self.heads) / 4;
        for memory in [&self.keys, &self.values] {
            let from = Elements::new(memory, from.saturating_mul(elements), DType::F16);
            let to = ElementsMut::new(memory, to.saturating_mul(elements), DType::F16);
            crate::copy::strided(gpu, &[elements], (from, &[1]), (to, &[1]))?;
        }
        Ok(())
    }
}

/// What is normalised of queries and keys, with f32 weights.
#[derive(Clone, Copy, Debug)]
pub enum QkNorm<'a> {
    /// Nothing.
    None,
    /// Each head, by weights of one head for queries and for keys.
    Head([Elements<'a>; 2]),
    /// All heads together, by weights of all.
    All([Elements<'a>; 2]),
}

/// How queries and keys are made of what products gave.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// f32, of queries, keys and values one after the other; added first.
    pub bias: Option<Elements<'a>>,
    /// Normalised next.
    pub norm: QkNorm<'a>,
    /// Added to means of squares.
    pub epsilon: f32,
    /// Cosines and sines, f32 `[positions, angles]`: features `i` and `angles + i` are turned by angle `i`.
    pub angles: [Elements<'a>; 2],
    /// Angles of a head, at most half of its features.
    pub angles_of_head: usize,
    /// Queries are multiplied by this at last.
    pub query_scale: f32,
}

/// Tokens, each a row of a table of pages and a number of positions.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Page numbers, `[tokens, row]`.
    pub pages: Elements<'a>,
    /// Pages of a row.
    pub row: usize,
    /// Of [`place`]: the position of each token. Of [`attend`]: how many positions it sees, one more.
    pub positions: Elements<'a>,
}

impl Tables<'_> {
    fn check(&self, kernel: &'static str, tokens: usize) -> Result<(), Error> {
        if self.pages.dtype() != DType::U32
            || self.positions.dtype() != DType::U32
            || self.row > i32::MAX as usize / PAGE
        {
            return refuse!(kernel, "tables of {:?} and {:?}", self.pages.dtype(), self.positions.dtype());
        }
        self.pages.check(kernel, "the table of pages", tokens.checked_mul(self.row))?;
        self.positions.check(kernel, "the positions", Some(tokens))
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Placing {
    heads: i32,
    kv_heads: i32,
    d: i32,
    in_row: i32,
    angles: i32,
    norms: i32,
    table_row: i32,
    epsilon: f32,
    query_scale: f32,
}

/// Of `tokens` rows of f32, `[tokens, heads + 2 · kv_heads, head_dim]`: adds biases, normalises, rotates, writes queries as f16
/// `[tokens, heads, head_dim]`, and stores keys and values at the tokens' positions.
///
/// # Errors
/// If types or shapes do not fit, or something does not lie within its memory.
pub fn place(
    gpu: &Gpu,
    layer: &Pages,
    how: &Placement<'_>,
    tokens: usize,
    input: Elements<'_>,
    tables: Tables<'_>,
    queries: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = "decoder_place";
    let Heads { heads, kv_heads, head_dim } = layer.heads;
    let all = heads + 2 * kv_heads;
    tables.check(kernel, tokens)?;
    let floats = |what: &str, elements: Elements<'_>, wanted: usize| {
        if elements.dtype() != DType::F32 {
            return refuse!(kernel, "{what} is of {:?}, wants f32", elements.dtype());
        }
        elements.check(kernel, what, Some(wanted))
    };
    floats("the input", input, tokens.saturating_mul(all * head_dim))?;
    if let Some(bias) = how.bias {
        floats("the bias", bias, all * head_dim)?;
    }
    let (norms, weights) = match how.norm {
        QkNorm::None => (0, [0; 2]),
        QkNorm::Head(weights) | QkNorm::All(weights) => {
            let each = matches!(how.norm, QkNorm::Head(_));
            for (weight, count) in weights.iter().zip([heads, kv_heads]) {
                floats("a normalisation", *weight, if each { head_dim } else { count * head_dim })?;
            }
            (if each { 1 } else { 2 }, weights.map(|weight| weight.pointer()))
        }
    };
    for table in how.angles {
        floats("a table of angles", table, how.angles_of_head)?;
    }
    queries.0.check(kernel, "the queries", tokens.checked_mul(heads * head_dim))?;
    if 2 * how.angles_of_head > head_dim || queries.0.dtype() != DType::F16 {
        return refuse!(
            kernel,
            "{} angles for {:?}, queries of {:?}",
            how.angles_of_head,
            layer.heads,
            queries.0.dtype()
        );
    }
    if tokens == 0 {
        return Ok(());
    }
    let raw = Placing {
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        d: head_dim as i32,
        in_row: (all * head_dim) as i32,
        angles: how.angles_of_head as i32,
        norms,
        table_row: tables.row as i32,
        epsilon: how.epsilon,
        query_scale: how.query_scale,
    };
    let bias = how.bias.map_or(0, |bias| bias.pointer());
    let [cosines, sines] = how.angles.map(|table| table.pointer());
    let [input, positions, table] = [input, tables.positions, tables.pages].map(|elements| elements.pointer());
    let (queries, keys, values) = (queries.0.pointer(), layer.keys.pointer(), layer.values.pointer());
    let grid = Grid { blocks: [tokens, all.div_ceil(4), 1], threads: 128, shared: 4 * 4 * head_dim };
    let arguments =
        arguments![raw, input, bias, weights[0], weights[1], cosines, sines, positions, table, queries, keys, values];
    // SAFETY: the kernel takes these types; all was checked to lie in its memory, positions and pages are the caller's promise.
    unsafe { gpu.launch_early(kernel, grid, arguments, &|| format!("{tokens} of {:?}", layer.heads)) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attending {
    heads: i32,
    kv_heads: i32,
    d: i32,
    splits: i32,
    table_row: i32,
    window: i32,
    soft_cap: f32,
}

/// Elements (f32) of scratch memory that [`attend`] wants for `tokens` tokens of at most `longest` positions.
pub const fn attend_scratch(heads: Heads, tokens: usize, longest: usize) -> usize {
    tokens * heads.heads * longest.div_ceil(SPLIT) * (heads.head_dim + 2)
}

/// Attention of `tokens` queries, f16 `[tokens, heads, head_dim]` as [`place`] makes them, each over the positions that its row of
/// `tables` says, at most `longest`; into the input of the next product, `[tokens, padded(heads · head_dim)]` of f16 or bf16. A token
/// that sees nothing gets zeros. `scratch` has [`attend_scratch`] elements.
///
/// # Errors
/// If types or shapes do not fit, or something does not lie within its memory, aligned to 16 bytes.
#[allow(clippy::too_many_arguments, reason = "each is a tensor or a size of its own")]
pub fn attend(
    gpu: &Gpu,
    layer: &Pages,
    masking: Masking,
    [tokens, longest]: [usize; 2],
    queries: Elements<'_>,
    tables: Tables<'_>,
    scratch: ElementsMut<'_>,
    out: ElementsMut<'_>,
) -> Result<(), Error> {
    let Heads { heads, kv_heads, head_dim } = layer.heads;
    let (kernel, width) = match head_dim {
        ..=64 => ("decoder_attend_64", 64),
        65..=96 => ("decoder_attend_96", 96),
        97..=128 => ("decoder_attend_128", 128),
        _ => ("decoder_attend_256", 256),
    };
    let merge = match out.0.dtype() {
        DType::F16 => "decoder_merge_f16",
        DType::BF16 => "decoder_merge_bf16",
        other => return refuse!(kernel, "makes f16 or bf16, not {other:?}"),
    };
    let (splits, out_row) = (longest.div_ceil(SPLIT), padded(heads * head_dim));
    tables.check(kernel, tokens)?;
    queries.check(kernel, "the queries", tokens.checked_mul(heads * head_dim))?;
    scratch.0.check(kernel, "the scratch memory", Some(attend_scratch(layer.heads, tokens, longest)))?;
    out.0.check(kernel, "the result", tokens.checked_mul(out_row))?;
    let types = [queries.dtype(), scratch.0.dtype()];
    if types != [DType::F16, DType::F32] || !queries.is_aligned(16) || longest > tables.row.saturating_mul(PAGE) {
        return refuse!(kernel, "queries and scratch of {types:?}, {longest} positions of {} pages", tables.row);
    }
    if tokens == 0 {
        return Ok(());
    }
    let raw = Attending {
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        d: head_dim as i32,
        splits: splits as i32,
        table_row: tables.row as i32,
        window: masking.window.map_or(0, |window| window.clamp(1, i32::MAX as usize) as i32),
        soft_cap: masking.soft_cap.unwrap_or(0.0),
    };
    let stats = scratch.0.skip(tokens * heads * splits * head_dim).pointer();
    let [q, table, lengths, parts] =
        [queries, tables.pages, tables.positions, scratch.0].map(|elements| elements.pointer());
    let (keys, values, to, row) = (layer.keys.pointer(), layer.values.pointer(), out.0.pointer(), out_row as i32);
    let describe = || format!("{tokens} of {:?} over {longest}", layer.heads);
    // SAFETY: the kernels take these types; all was checked to lie in its memory, lengths and pages are the caller's promise.
    unsafe {
        if splits > 0 {
            let shared = 4 * 8 * (16 * width + 32);
            let grid = Grid { blocks: [splits, kv_heads, tokens], threads: 256, shared };
            let arguments = arguments![raw, q, keys, values, table, lengths, parts, stats];
            gpu.launch_early(kernel, grid, arguments, &describe)?;
        }
        let grid = Grid { blocks: [heads, tokens, 1], threads: 128, shared: 0 };
        gpu.launch_early(merge, grid, arguments![raw, lengths, parts, stats, row, to], &describe)
    }
}

/// Attention of `count` adjacent queries of one sequence, the last of which stands at position `len - 1`; keys and values of all `len`
/// positions are in the pages of `table`. Queries and result are as of [`attend`], the result f16, and zeros behind all heads the
/// caller's to set. Causal, without window or cap: where a layer has those, [`attend`] takes each query as a token of its own.
///
/// # Errors
/// As [`attend`], and if memory for the gathered keys and values is exhausted.
pub fn attend_chunk(
    gpu: &Gpu,
    layer: &Pages,
    [count, len]: [usize; 2],
    queries: Elements<'_>,
    table: Elements<'_>,
    out: ElementsMut<'_>,
) -> Result<(), Error> {
    let kernel = "decoder_gather";
    let Heads { heads, kv_heads, head_dim } = layer.heads;
    table.check(kernel, "the table of pages", Some(len.div_ceil(PAGE)))?;
    if table.dtype() != DType::U32 || count > len || len > i32::MAX as usize {
        return refuse!(kernel, "{count} queries of {len} positions, pages of {:?}", table.dtype());
    }
    let row = padded(heads * head_dim);
    out.0.check(kernel, "the result", count.checked_mul(row))?;
    if count == 0 {
        return Ok(());
    }
    let bytes = 2 * len * kv_heads * head_dim;
    let (k, v) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
    let [kv, d, n] = [kv_heads, head_dim, len].map(|n| n as i32);
    let (keys, values, pages) = (layer.keys.pointer(), layer.values.pointer(), table.pointer());
    let pointers = [k.pointer(), v.pointer()];
    let arguments = arguments![kv, d, n, pages, keys, values, pointers[0], pointers[1]];
    // SAFETY: the kernel takes these types; both results have room for all positions, pages are the caller's promise.
    unsafe { gpu.launch_early(kernel, Grid::flat(bytes / 16), arguments, &|| format!("{len} of {:?}", layer.heads)) }?;
    let shape = AttentionShape {
        batch: 1,
        q_len: count,
        k_len: len,
        q_heads: heads,
        kv_heads,
        head: head_dim,
        scale: 1.0,
        causal: true,
    };
    let k = (Elements::new(&k, 0, DType::F16), shape.dense(len, kv_heads));
    let v = (Elements::new(&v, 0, DType::F16), shape.dense(len, kv_heads));
    let steps = [count * row, row, head_dim];
    attention(gpu, Way::Best, &shape, [(queries, shape.dense(count, heads)), k, v], (out, steps), None)
}
