//! Attention: `softmax(scale · q · kᵀ) · v` of many heads, without storing scores.

use crate::elementwise::is_float;
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::tensor_map::TensorMap;
use crate::{DType, Elements, ElementsMut, Error, Gpu};

mod backward;

pub use backward::attention_backward;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Queries of a sequence.
    pub q_len: usize,
    /// Keys of a sequence.
    pub k_len: usize,
    /// Heads of queries.
    pub q_heads: usize,
    /// Heads of keys and values, each of which serves `q_heads / kv_heads` heads of queries.
    pub kv_heads: usize,
    /// Features of a head, at most 256; for f16 and bf16 a multiple of 8.
    pub head: usize,
    /// Factor of the scores, more than 0.
    pub scale: f32,
    /// Whether query `i` sees keys up to `k_len - q_len + i` only, and not all.
    pub causal: bool,
}

/// Which kernels compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The fastest that there is.
    Best,
    /// Those of Hopper; an error elsewhere, for f32, and for heads of 129 to 192 features.
    Hopper,
    /// Those of all GPUs.
    Common,
}

/// Elements from one sequence, token and head to the next.
pub type Steps = [usize; 3];

impl AttentionShape {
    /// Steps of `[batch, len, heads, head]` without gaps.
    pub fn dense(&self, len: usize, heads: usize) -> Steps {
        [len * heads * self.head, heads * self.head, self.head]
    }

    /// Floating-point operations of the products, of visible scores alone: two products forward.
    pub fn operations(&self) -> f64 {
        let (q, k) = (self.q_len as f64, self.k_len as f64);
        let pairs = if self.causal { q * k - q * (q - 1.0) / 2.0 } else { q * k };
        4.0 * pairs * (self.batch * self.q_heads * self.head) as f64
    }

    fn raw(&self, steps: [Steps; 4]) -> Raw {
        let [q_step, k_step, v_step, o_step] = steps.map(|step| step.map(|step| step as i64));
        Raw {
            batch: self.batch as i32,
            q_len: self.q_len as i32,
            k_len: self.k_len as i32,
            q_heads: self.q_heads as i32,
            kv_heads: self.kv_heads as i32,
            d: self.head as i32,
            scale: self.scale,
            causal: i32::from(self.causal),
            q_step,
            k_step,
            v_step,
            o_step,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let sensible = self.kv_heads > 0
            && self.q_heads.is_multiple_of(self.kv_heads)
            && (1..=256).contains(&self.head)
            && self.scale.is_finite()
            && self.scale > 0.0
            && [self.q_len, self.k_len].iter().all(|&len| len < 1 << 30)
            && [self.batch, self.q_heads].iter().all(|&n| n <= 65535);
        if sensible { Ok(()) } else { refuse!(KERNEL, "{self:?} is not sensible") }
    }

    /// Checks that a tensor of so many tokens and heads lies in its memory, aligned for tensor cores.
    fn check_tensor(
        &self,
        what: &str,
        (elements, steps): (Elements<'_>, Steps),
        [len, heads]: [usize; 2],
        dtype: DType,
    ) -> Result<(), Error> {
        let sizes = [self.batch, len, heads];
        let extent = sizes
            .iter()
            .zip(steps)
            .try_fold(self.head, |sum, (&size, step)| sum.checked_add(size.saturating_sub(1).checked_mul(step)?));
        elements.check(KERNEL, what, if sizes.contains(&0) { Some(0) } else { extent })?;
        let whole = 16 / dtype.size();
        let aligned = elements.is_aligned(16) && steps.iter().all(|step| step.is_multiple_of(whole));
        if elements.dtype() != dtype || (dtype != DType::F32 && !(aligned && self.head.is_multiple_of(whole))) {
            return refuse!(KERNEL, "{what} is of another type than {dtype:?}, or not aligned to 16 bytes");
        }
        Ok(())
    }
}

const KERNEL: &str = "attention";

/// Keys of a tile, as in the kernels.
const KEYS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    batch: i32,
    q_len: i32,
    k_len: i32,
    q_heads: i32,
    kv_heads: i32,
    d: i32,
    scale: f32,
    causal: i32,
    q_step: [i64; 3],
    k_step: [i64; 3],
    v_step: [i64; 3],
    o_step: [i64; 3],
}

/// Bytes of a row of `width` 16-bit elements in shared memory, as `RowLayout` has it.
fn pitch(width: usize) -> usize {
    if width.is_multiple_of(64) { width * 2 } else { ((width / 8) | 1) * 16 }
}

/// A kernel for heads of up to so many features.
type Kernel = (&'static str, usize);

/// Bytes of a row of heads of `width` features in Hopper's shared memory: columns of 64 elements.
fn columns(width: usize) -> usize {
    width.div_ceil(64) * 128
}

/// A tensor `[batch, len, heads, head]`, of which `rows` tokens of a head are copied at a time.
fn tensor_map(
    shape: &AttentionShape,
    (elements, steps): Tensor<'_>,
    len: usize,
    heads: usize,
    rows: usize,
) -> Result<TensorMap, Error> {
    let sizes = [shape.head, heads, len, shape.batch];
    TensorMap::new(KERNEL, elements, sizes, [steps[2], steps[1], steps[0]], (2, rows))
}

const COMMON_F16: [Kernel; 6] = [
    ("attention_64_f16", 64),
    ("attention_80_f16", 80),
    ("attention_96_f16", 96),
    ("attention_128_f16", 128),
    ("attention_192_f16", 192),
    ("attention_256_f16", 256),
];
const COMMON_BF16: [Kernel; 6] = [
    ("attention_64_bf16", 64),
    ("attention_80_bf16", 80),
    ("attention_96_bf16", 96),
    ("attention_128_bf16", 128),
    ("attention_192_bf16", 192),
    ("attention_256_bf16", 256),
];
const HOPPER_F16: [Kernel; 5] = [
    ("attention_hopper_64_f16", 64),
    ("attention_hopper_80_f16", 80),
    ("attention_hopper_96_f16", 96),
    ("attention_hopper_128_f16", 128),
    ("attention_hopper_256_f16", 256),
];
const HOPPER_BF16: [Kernel; 5] = [
    ("attention_hopper_64_bf16", 64),
    ("attention_hopper_80_bf16", 80),
    ("attention_hopper_96_bf16", 96),
    ("attention_hopper_128_bf16", 128),
    ("attention_hopper_256_bf16", 256),
];
const F32: [Kernel; 3] = [("attention_64_f32", 64), ("attention_128_f32", 128), ("attention_256_f32", 256)];

/// The first kernel that is wide enough.
fn pick<K: Copy>(kernels: &[(K, usize)], head: usize) -> (K, usize) {
    *kernels.iter().find(|(_, width)| head <= *width).expect("heads have at most 256 features")
}

/// Queries of a block of Hopper's kernels, and tiles of keys, and of values, in their shared memory.
const HOPPER_QUERIES: usize = 128;
const HOPPER_STAGES: usize = 2;

/// A tensor `[batch, len, heads, head]` with its steps.
pub type Tensor<'a> = (Elements<'a>, Steps);

impl AttentionShape {
    /// Checks a tensor of one number for each query of each head.
    fn check_rows(&self, what: &str, rows: Elements<'_>) -> Result<(), Error> {
        rows.check(KERNEL, what, self.batch.checked_mul(self.q_heads * self.q_len))?;
        if rows.dtype() == DType::F32 { Ok(()) } else { refuse!(KERNEL, "{what} are f32") }
    }
}

/// `o = softmax(scale · q · kᵀ) · v` for tensors `[batch, len, heads, head]` of one floating-point type with their steps, and the
/// logarithm of the sum of exponents into `lse` (f32, `[batch, q_heads, q_len]`) if wanted. A query that sees no key gets zeros, and
/// minus infinity. Softmax and sums are in f32.
///
/// # Errors
/// If the shape is not sensible, types differ, something does not lie within its memory or is not aligned to 16 bytes, or `way`
/// cannot.
pub fn attention(
    gpu: &Gpu,
    way: Way,
    shape: &AttentionShape,
    [q, k, v]: [Tensor<'_>; 3],
    o: (ElementsMut<'_>, Steps),
    lse: Option<ElementsMut<'_>>,
) -> Result<(), Error> {
    let dtype = q.0.dtype();
    shape.check()?;
    if !is_float(dtype) {
        return refuse!(KERNEL, "wants floats, got {dtype:?}");
    }
    let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
    shape.check_tensor("q", q, [q_len, q_heads], dtype)?;
    shape.check_tensor("k", k, [k_len, kv_heads], dtype)?;
    shape.check_tensor("v", v, [k_len, kv_heads], dtype)?;
    shape.check_tensor("the result", (o.0.0, o.1), [q_len, q_heads], dtype)?;
    if let Some(lse) = lse {
        shape.check_rows("logarithms of sums", lse.0)?;
    }
    if batch == 0 || q_len == 0 || q_heads == 0 {
        return Ok(());
    }
    let raw = shape.raw([q.1, k.1, v.1, o.1]);
    let [q_at, k_at, v_at, o_at] = [q.0, k.0, v.0, o.0.0].map(|elements| elements.pointer());
    let lse = lse.map_or(0, |lse| lse.0.pointer());
    let describe = || format!("{shape:?}");
    let fits = gpu.capability() == (9, 0) && dtype != DType::F32 && !(129..=192).contains(&head);
    let hopper = match way {
        Way::Best => fits && q_len > 64 && k_len > 0,
        Way::Common => false,
        Way::Hopper if fits => k_len > 0,
        Way::Hopper => return refuse!(KERNEL, "no kernel of Hopper's for {shape:?} of {dtype:?} here"),
    };
    if hopper {
        let (kernel, width) = pick(if dtype == DType::F16 { &HOPPER_F16 } else { &HOPPER_BF16 }, head);
        let keys = if width <= 128 { 128 } else { 64 };
        let map =
            |tensor: Tensor<'_>, len: usize, heads: usize, rows: usize| tensor_map(shape, tensor, len, heads, rows);
        let maps =
            [map(q, q_len, q_heads, HOPPER_QUERIES)?, map(k, k_len, kv_heads, keys)?, map(v, k_len, kv_heads, keys)?];
        let shared = 1024 + columns(width) * (HOPPER_QUERIES + 2 * HOPPER_STAGES * keys) + 8 * (1 + 4 * HOPPER_STAGES);
        let grid = Grid { blocks: [q_len.div_ceil(HOPPER_QUERIES), q_heads, batch], threads: 384, shared };
        // SAFETY: the kernel takes these types; all tensors were checked to lie in their memory, aligned to 16 bytes.
        return unsafe { gpu.launch(kernel, grid, arguments![raw, maps[0], maps[1], maps[2], o_at, lse], &describe) };
    }
    let (kernel, grid) = match dtype {
        DType::F32 => {
            let (kernel, width) = pick(&F32, head);
            let shared = 4 * 3 * 32 * (width + 4);
            (kernel, Grid { blocks: [q_len.div_ceil(32), q_heads, batch], threads: 256, shared })
        }
        _ => {
            let (kernel, width) = pick(if dtype == DType::F16 { &COMMON_F16 } else { &COMMON_BF16 }, head);
            let rows = if width <= 128 { 128 } else { 64 };
            let shared = (rows + 2 * KEYS) * pitch(width);
            (kernel, Grid { blocks: [q_len.div_ceil(rows), q_heads, batch], threads: 128, shared })
        }
    };
    // SAFETY: the kernel takes these types; all tensors were checked to lie in their memory, aligned where it matters.
    unsafe { gpu.launch(kernel, grid, arguments![raw, q_at, k_at, v_at, o_at, lse], &describe) }
}
