//! A decoder's operations in their plain form: any sizes, f32 between them, one order of sums for any number of tokens. What fast
//! kernels are compared with, and what runs the shapes that those do not take.
//!
//! Everything may be captured in a graph: what changes from step to step is read from the GPU's memory. Token ids, positions and
//! pages there are the caller's to see to: below the vocabulary or `u32::MAX`, within the tables of angles, within the cache.

use crate::error::refuse;
use crate::launch::{Grid, arguments, variant};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Positions of a page of keys and values, `[pages, kv_heads, PAGE, head_dim]` in f16.
pub const PAGE: usize = 64;

fn expect(
    kernel: &'static str,
    what: &str,
    elements: Elements<'_>,
    dtype: DType,
    count: Option<usize>,
) -> Result<(), Error> {
    if elements.dtype() != dtype {
        return refuse!(kernel, "{what} of {:?}, wants {dtype:?}", elements.dtype());
    }
    elements.check(kernel, what, count)
}

fn check_sizes(kernel: &'static str, sizes: &[usize]) -> Result<(), Error> {
    if sizes.iter().any(|&size| size > i32::MAX as usize) {
        return refuse!(kernel, "sizes {sizes:?} are too large");
    }
    Ok(())
}

/// `y = x · wᵀ` for `tokens` rows of `k` (f32) and weights `[rows, k]` of a floating-point type.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn project(
    gpu: &Gpu,
    [tokens, rows, k]: [usize; 3],
    x: Elements<'_>,
    w: Elements<'_>,
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(w.dtype(), "plain_project") else {
        return refuse!("plain_project", "weights of {:?}", w.dtype());
    };
    check_sizes(kernel, &[tokens, rows, k])?;
    expect(kernel, "the input", x, DType::F32, tokens.checked_mul(k))?;
    w.check(kernel, "the weights", rows.checked_mul(k))?;
    expect(kernel, "the result", y.0, DType::F32, tokens.checked_mul(rows))?;
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    let pointers = [x.pointer(), w.pointer(), y.0.pointer()];
    let sizes = [tokens, rows, k].map(|size| size as i32);
    let grid = Grid { blocks: [rows.div_ceil(8), tokens.div_ceil(8), 1], threads: 256, shared: 0 };
    let arguments = arguments![pointers[0], pointers[1], pointers[2], sizes[0], sizes[1], sizes[2]];
    // SAFETY: the kernel takes these types; all three were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{tokens} x {rows} x {k}")) }
}

/// `x[t] = scale · table[ids[t]]` for a table `[vocabulary, width]` of a floating-point type; f32 results. A token that is not in
/// the table gives NaN.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn embed(
    gpu: &Gpu,
    [tokens, vocabulary, width]: [usize; 3],
    table: Elements<'_>,
    ids: Elements<'_>,
    scale: f32,
    x: ElementsMut<'_>,
) -> Result<(), Error> {
    let Some(kernel) = variant!(table.dtype(), "plain_embed") else {
        return refuse!("plain_embed", "a table of {:?}", table.dtype());
    };
    check_sizes(kernel, &[tokens, vocabulary, width])?;
    table.check(kernel, "the table", vocabulary.checked_mul(width))?;
    expect(kernel, "the tokens", ids, DType::U32, Some(tokens))?;
    expect(kernel, "the result", x.0, DType::F32, tokens.checked_mul(width))?;
    let pointers = [table.pointer(), ids.pointer(), x.0.pointer()];
    let sizes = [vocabulary as i32, width as i32];
    let grid = Grid { blocks: [tokens.max(1), 1, 1], threads: 256, shared: 0 };
    let arguments = arguments![pointers[0], pointers[1], pointers[2], sizes[0], sizes[1], scale];
    // SAFETY: the kernel takes these types and checks the tokens; all three were checked to lie in their memory.
    unsafe { gpu.launch(kernel, grid, arguments, &|| format!("{tokens} of {vocabulary} x {width}")) }
}

/// `y[i] = x[rows[i]]` for `count` rows of `width` f32; numbers of rows (`U32`) must be rows of `x`, which is the caller's to see to.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn select(
    gpu: &Gpu,
    [count, width]: [usize; 2],
    x: Elements<'_>,
    rows: Elements<'_>,
    y: ElementsMut<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "plain_select";
    check_sizes(KERNEL, &[count, width])?;
    expect(KERNEL, "the rows", x, DType::F32, Some(width))?;
    expect(KERNEL, "the numbers", rows, DType::U32, Some(count))?;
    expect(KERNEL, "the result", y.0, DType::F32, count.checked_mul(width))?;
    let pointers = [x.pointer(), rows.pointer(), y.0.pointer()];
    let (grid, width) = (Grid { blocks: [count.max(1), 1, 1], threads: 256, shared: 0 }, width as i32);
    let arguments = arguments![pointers[0], pointers[1], pointers[2], width];
    // SAFETY: the kernel takes these types; the result was checked, the numbers are the caller's promise.
    unsafe { gpu.launch(KERNEL, grid, arguments, &|| format!("{count} rows of {width}")) }
}

/// Heads of queries, heads of keys and values, and elements of a head: an even number of at most 256.
pub type Heads = [usize; 3];

/// What of queries and keys is normalised.
#[derive(Clone, Copy, Debug)]
pub enum QkNorm<'a> {
    /// Nothing.
    None,
    /// Each head, by weights of queries and of keys.
    Head([Elements<'a>; 2]),
    /// All heads together.
    All([Elements<'a>; 2]),
}

/// Where sequences' keys and values lie.
#[derive(Clone, Copy, Debug)]
pub struct Paged<'a> {
    /// Keys and values, `[pages, kv_heads, PAGE, head]` in f16.
    pub cache: [ElementsMut<'a>; 2],
    /// Position of each token (`U32`).
    pub positions: Elements<'a>,
    /// Pages of sequences (`U32`), `[sequences, pages]`.
    pub table: Elements<'a>,
    /// Pages of a row of the table.
    pub pages: usize,
    /// Whether all tokens are of the sequence in row 0, not token `i` of that in row `i`.
    pub together: bool,
}

impl Paged<'_> {
    fn check(&self, kernel: &'static str, tokens: usize, [heads, kv_heads, head]: Heads) -> Result<(), Error> {
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || head % 2 != 0 || !(2..=256).contains(&head) {
            return refuse!(kernel, "{heads} heads on {kv_heads}, of {head} elements");
        }
        check_sizes(kernel, &[heads, kv_heads, head, self.pages])?;
        for cache in self.cache {
            expect(kernel, "the cache", cache.0, DType::F16, Some(kv_heads * PAGE * head))?;
        }
        expect(kernel, "positions", self.positions, DType::U32, Some(tokens))?;
        let rows = if self.together { 1 } else { tokens };
        expect(kernel, "the table of pages", self.table, DType::U32, rows.checked_mul(self.pages))
    }
}

/// How queries, keys and values become what attention sees.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Sizes.
    pub heads: Heads,
    /// Added to queries, keys and values, where there are such.
    pub biases: [Option<Elements<'a>>; 3],
    /// What is normalised then.
    pub norm: QkNorm<'a>,
    /// Added to the mean of squares.
    pub epsilon: f32,
    /// Cosines and sines (f32, `[positions, angles]`): elements `i` and `i + angles` of a head turn by angle `i`.
    pub angles: ([Elements<'a>; 2], usize),
    /// Queries are multiplied by this in the end.
    pub query_scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawPlace {
    heads: i32,
    kv_heads: i32,
    head: i32,
    angles: i32,
    pages: i32,
    together: i32,
    norm: i32,
    epsilon: f32,
    query_scale: f32,
    pointers: [u64; 5],
}

/// Biases, norms, rotation and scale of `tokens` rows of queries, keys and values (f32). Keys and values go into the cache, queries to
/// the second half of `q`, which is `[2, tokens, heads · head]`.
///
/// # Errors
/// If types or sizes do not fit, or something does not lie within its memory.
pub fn place(
    gpu: &Gpu,
    tokens: usize,
    how: &Place<'_>,
    q: ElementsMut<'_>,
    [k, v]: [Elements<'_>; 2],
    paged: &Paged<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "plain_place";
    paged.check(KERNEL, tokens, how.heads)?;
    let [heads, kv_heads, head] = how.heads;
    let (tables, angles) = how.angles;
    if 2 * angles > head {
        return refuse!(KERNEL, "{angles} angles of heads of {head}");
    }
    let (wide, narrow) = (heads * head, kv_heads * head);
    expect(KERNEL, "queries", q.0, DType::F32, wide.checked_mul(2 * tokens))?;
    for (what, elements) in [("keys", k), ("values", v)] {
        expect(KERNEL, what, elements, DType::F32, narrow.checked_mul(tokens))?;
    }
    for table in tables {
        expect(KERNEL, "angles", table, DType::F32, Some(angles))?;
    }
    for (bias, len) in how.biases.into_iter().zip([wide, narrow, narrow]) {
        bias.map_or(Ok(()), |bias| expect(KERNEL, "a bias", bias, DType::F32, Some(len)))?;
    }
    let (norm, weights, lens) = match how.norm {
        QkNorm::None => (0, [None; 2], [0; 2]),
        QkNorm::Head(weights) => (1, weights.map(Some), [head; 2]),
        QkNorm::All(weights) => (2, weights.map(Some), [wide, narrow]),
    };
    for (weight, len) in weights.into_iter().zip(lens) {
        weight.map_or(Ok(()), |weight| expect(KERNEL, "a norm", weight, DType::F32, Some(len)))?;
    }
    let [q_bias, k_bias, v_bias] = how.biases;
    let pointers = [q_bias, k_bias, v_bias, weights[0], weights[1]].map(|e| e.map_or(0, |e| e.pointer()));
    let [heads, kv_heads, size, angles, pages] = [heads, kv_heads, head, angles, paged.pages].map(|n| n as i32);
    let (together, epsilon, query_scale) = (i32::from(paged.together), how.epsilon, how.query_scale);
    let raw = RawPlace { heads, kv_heads, head: size, angles, pages, together, norm, epsilon, query_scale, pointers };
    let [cos, sin] = tables.map(|table| table.pointer());
    let [keys, values] = paged.cache.map(|cache| cache.0.pointer());
    let at = [q.0, k, v, paged.positions, paged.table].map(|elements| elements.pointer());
    let grid = Grid { blocks: [(heads + 2 * kv_heads) as usize, tokens.max(1), 1], threads: 32, shared: 4 * head };
    let arguments = arguments![raw, at[0], at[1], at[2], cos, sin, at[3], at[4], keys, values];
    // SAFETY: the kernel takes these types; rows were checked to lie in their memory, positions and pages are the caller's promise.
    unsafe { gpu.launch(KERNEL, grid, arguments, &|| format!("{tokens} tokens, {:?}", how.heads)) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawAttend {
    heads: i32,
    kv_heads: i32,
    head: i32,
    pages: i32,
    together: i32,
    window: i32,
    cap: f32,
}

/// Attention of the queries that [`place`] made over the positions up to their own: the last `window` of them if there is one, with
/// scores capped softly at `cap` if there is one. `out` is f32, `[tokens, heads · head]`.
///
/// # Errors
/// If types or sizes do not fit, or something does not lie within its memory.
pub fn attend(
    gpu: &Gpu,
    tokens: usize,
    shape: Heads,
    (window, cap): (Option<usize>, Option<f32>),
    q: Elements<'_>,
    paged: &Paged<'_>,
    out: ElementsMut<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "plain_attend";
    paged.check(KERNEL, tokens, shape)?;
    let [heads, kv_heads, head] = shape;
    expect(KERNEL, "queries", q, DType::F32, (heads * head).checked_mul(2 * tokens))?;
    expect(KERNEL, "the result", out.0, DType::F32, (heads * head).checked_mul(tokens))?;
    let window = window.map_or(0, |window| window.min(i32::MAX as usize) as i32);
    let raw = RawAttend {
        heads: heads as i32,
        kv_heads: kv_heads as i32,
        head: head as i32,
        pages: paged.pages as i32,
        together: i32::from(paged.together),
        window,
        cap: cap.unwrap_or(0.0),
    };
    let [keys, values] = paged.cache.map(|cache| cache.0.pointer());
    let at = [q, paged.positions, paged.table, out.0].map(|elements| elements.pointer());
    let grid = Grid { blocks: [heads, tokens.max(1), 1], threads: 32, shared: 4 * head };
    let arguments = arguments![raw, at[0], keys, values, at[1], at[2], at[3]];
    // SAFETY: the kernel takes these types; rows were checked to lie in their memory, positions and pages are the caller's promise.
    unsafe { gpu.launch(KERNEL, grid, arguments, &|| format!("{tokens} tokens, {shape:?}")) }
}

/// What gates a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU, approximated by tanh.
    GeluTanh,
}

/// `gate = activation(gate) · up` for `count` f32.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn gate(gpu: &Gpu, count: usize, kind: Gate, gate: ElementsMut<'_>, up: Elements<'_>) -> Result<(), Error> {
    const KERNEL: &str = "plain_gate";
    expect(KERNEL, "the gate", gate.0, DType::F32, Some(count))?;
    expect(KERNEL, "what it gates", up, DType::F32, Some(count))?;
    let (at, len, kind) = ([gate.0.pointer(), up.pointer()], count as i64, i32::from(kind == Gate::GeluTanh));
    // SAFETY: the kernel takes these types; both were checked to lie in their memory.
    unsafe { gpu.launch(KERNEL, Grid::flat(count), arguments![at[0], at[1], len, kind], &|| format!("{count}")) }
}

/// Caps `rows` rows of logits softly at `cap`, if there is one, and chooses the first of the largest of each: `u32::MAX` where one is
/// no number or the largest is not finite.
///
/// # Errors
/// If types do not fit, or something does not lie within its memory.
pub fn choose(
    gpu: &Gpu,
    [rows, vocabulary]: [usize; 2],
    cap: Option<f32>,
    logits: ElementsMut<'_>,
    ids: ElementsMut<'_>,
) -> Result<(), Error> {
    const KERNEL: &str = "plain_choose";
    check_sizes(KERNEL, &[rows, vocabulary])?;
    expect(KERNEL, "logits", logits.0, DType::F32, rows.checked_mul(vocabulary))?;
    expect(KERNEL, "the tokens", ids.0, DType::U32, Some(rows))?;
    let (at, width, cap) = ([logits.0.pointer(), ids.0.pointer()], vocabulary as i32, cap.unwrap_or(0.0));
    let grid = Grid { blocks: [rows.max(1), 1, 1], threads: 256, shared: 0 };
    // SAFETY: the kernel takes these types; both were checked to lie in their memory.
    unsafe { gpu.launch(KERNEL, grid, arguments![at[0], at[1], width, cap], &|| format!("{rows} x {vocabulary}")) }
}
