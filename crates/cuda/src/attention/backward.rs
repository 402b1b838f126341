//! Gradients of attention.

use super::{
    AttentionShape, HOPPER_QUERIES, KERNEL, KEYS, Kernel, Raw, Steps, Tensor, Way, columns, pick, pitch, tensor_map,
};
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Kernels for gradients of queries.
const QUERIES_F16: [Kernel; 4] = [
    ("attention_dq_64_f16", 64),
    ("attention_dq_80_f16", 80),
    ("attention_dq_128_f16", 128),
    ("attention_dq_256_f16", 256),
];
const QUERIES_BF16: [Kernel; 4] = [
    ("attention_dq_64_bf16", 64),
    ("attention_dq_80_bf16", 80),
    ("attention_dq_128_bf16", 128),
    ("attention_dq_256_bf16", 256),
];
/// Kernels for gradients of keys and values; beyond 128 features one for each.
const KEYS_F16: [(&[&str], usize); 4] = [
    (&["attention_dkv_64_f16"], 64),
    (&["attention_dkv_80_f16"], 80),
    (&["attention_dkv_128_f16"], 128),
    (&["attention_dk_256_f16", "attention_dv_256_f16"], 256),
];
const KEYS_BF16: [(&[&str], usize); 4] = [
    (&["attention_dkv_64_bf16"], 64),
    (&["attention_dkv_80_bf16"], 80),
    (&["attention_dkv_128_bf16"], 128),
    (&["attention_dk_256_bf16", "attention_dv_256_bf16"], 256),
];
/// Hopper's, for queries, and for keys and values.
const HOPPER_F16: [([&str; 2], usize); 3] = [
    (["attention_hopper_dq_64_f16", "attention_hopper_dkv_64_f16"], 64),
    (["attention_hopper_dq_80_f16", "attention_hopper_dkv_80_f16"], 80),
    (["attention_hopper_dq_128_f16", "attention_hopper_dkv_128_f16"], 128),
];
const HOPPER_BF16: [([&str; 2], usize); 3] = [
    (["attention_hopper_dq_64_bf16", "attention_hopper_dkv_64_bf16"], 64),
    (["attention_hopper_dq_80_bf16", "attention_hopper_dkv_80_bf16"], 80),
    (["attention_hopper_dq_128_bf16", "attention_hopper_dkv_128_bf16"], 128),
];
/// Rows of a tile of Hopper's kernels, and tiles of either tensor in shared memory: for queries, and for keys and values.
const HOPPER_TILES: [(usize, usize); 2] = [(128, 2), (64, 4)];

/// Gradients of [`super::attention`] in f32, without gaps: of q, k and v from that of the result, which has the steps of the result.
/// f16 and bf16 only; sums are made in one order, so that they are the same from run to run.
///
/// # Errors
/// As [`super::attention`], or for f32, or if the GPU has too little shared memory for so many features; Hopper's kernels take at
/// most 128 features.
#[allow(clippy::too_many_arguments, reason = "eight tensors and their shape")]
pub fn attention_backward(
    gpu: &Gpu,
    way: Way,
    shape: &AttentionShape,
    [q, k, v]: [Tensor<'_>; 3],
    [o, grad]: [Elements<'_>; 2],
    o_steps: Steps,
    lse: Elements<'_>,
    gradients: [ElementsMut<'_>; 3],
) -> Result<(), Error> {
    let dtype = q.0.dtype();
    shape.check()?;
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return refuse!(KERNEL, "gradients want f16 or bf16, got {dtype:?}");
    }
    let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
    shape.check_tensor("q", q, [q_len, q_heads], dtype)?;
    shape.check_tensor("k", k, [k_len, kv_heads], dtype)?;
    shape.check_tensor("v", v, [k_len, kv_heads], dtype)?;
    shape.check_tensor("the result", (o, o_steps), [q_len, q_heads], dtype)?;
    shape.check_tensor("its gradient", (grad, o_steps), [q_len, q_heads], dtype)?;
    shape.check_rows("logarithms of sums", lse)?;
    for (of, (len, heads)) in gradients.iter().zip([(q_len, q_heads), (k_len, kv_heads), (k_len, kv_heads)]) {
        shape.check_tensor("a gradient", (of.0, shape.dense(len, heads)), [len, heads], DType::F32)?;
        if !of.0.is_aligned(8) {
            return refuse!(KERNEL, "a gradient is not aligned to 8 bytes");
        }
    }
    if batch == 0 || q_heads == 0 {
        return Ok(());
    }
    let raw = shape.raw([q.1, k.1, v.1, o_steps]);
    let work = Work { gpu, shape, raw, dtype, inputs: [q, k, v], o, grad: (grad, o_steps), lse, gradients };
    let fits = gpu.capability() == (9, 0) && head <= 128 && q_len > 0 && k_len > 0;
    match way {
        Way::Best if fits => work.hopper(),
        Way::Hopper if fits => work.hopper(),
        Way::Hopper => refuse!(KERNEL, "no kernel of Hopper's for gradients of {shape:?} here"),
        _ => work.common(),
    }
}

/// What was checked.
struct Work<'a> {
    gpu: &'a Gpu,
    shape: &'a AttentionShape,
    raw: Raw,
    dtype: DType,
    inputs: [Tensor<'a>; 3],
    o: Elements<'a>,
    grad: Tensor<'a>,
    lse: Elements<'a>,
    gradients: [ElementsMut<'a>; 3],
}

impl Work<'_> {
    fn describe(&self) -> String {
        format!("gradients of {:?}", self.shape)
    }

    fn hopper(&self) -> Result<(), Error> {
        let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *self.shape;
        let half = self.dtype == DType::F16;
        let ([of_queries, of_keys], width) = pick(if half { &HOPPER_F16 } else { &HOPPER_BF16 }, head);
        let [q, k, v] = self.inputs;
        let [dq, dk, dv] = self.gradients.map(|elements| elements.0.pointer());
        let (o, grad, lse) = (self.o.pointer(), self.grad.0.pointer(), self.lse.pointer());
        let padded = q_len.next_multiple_of(HOPPER_TILES[1].0);
        // Two f32 for each query.
        let shifts = self.gpu.allocate(batch * q_heads * padded * 8)?;
        let (shifts, rows, raw) = (shifts.pointer(), padded as i32, self.raw);
        let describe = || self.describe();
        let map = |tensor: Tensor<'_>, len: usize, heads: usize, rows: usize| {
            tensor_map(self.shape, tensor, len, heads, rows)
        };
        let grid = |(tile, stages): (usize, usize), numbers: usize, blocks: [usize; 3]| {
            let memory = columns(width) * 2 * (HOPPER_QUERIES + stages * tile) + stages * tile * numbers;
            Grid { blocks, threads: 384, shared: 1024 + memory + 8 * (1 + 2 * stages) }
        };
        let [by_queries, by_keys] = HOPPER_TILES;
        let blocks = |len: usize, heads: usize| [len.div_ceil(HOPPER_QUERIES), heads, batch];
        let lines = (batch * q_heads * padded).div_ceil(8).min(1 << 20);
        let kernel = if half { "attention_shifts_f16" } else { "attention_shifts_bf16" };
        // SAFETY: the kernels take these types; all tensors were checked to lie in their memory, aligned where it matters.
        unsafe {
            let all = Grid { blocks: [lines, 1, 1], threads: 256, shared: 0 };
            self.gpu.launch(kernel, all, arguments![raw, rows, o, grad, lse, shifts], &describe)?;
            let own = HOPPER_QUERIES;
            let maps = [map(q, q_len, q_heads, own)?, map(self.grad, q_len, q_heads, own)?];
            let others = [map(k, k_len, kv_heads, by_queries.0)?, map(v, k_len, kv_heads, by_queries.0)?];
            let arguments = arguments![raw, rows, maps[0], others[0], others[1], maps[1], shifts, dq];
            self.gpu.launch(of_queries, grid(by_queries, 0, blocks(q_len, q_heads)), arguments, &describe)?;
            let maps = [map(k, k_len, kv_heads, own)?, map(v, k_len, kv_heads, own)?];
            let others = [map(q, q_len, q_heads, by_keys.0)?, map(self.grad, q_len, q_heads, by_keys.0)?];
            let arguments = arguments![raw, rows, others[0], maps[0], maps[1], others[1], shifts, dk, dv];
            self.gpu.launch(of_keys, grid(by_keys, 8, blocks(k_len, kv_heads)), arguments, &describe)
        }
    }

    fn common(&self) -> Result<(), Error> {
        let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *self.shape;
        let (gpu, raw, half) = (self.gpu, self.raw, self.dtype == DType::F16);
        let (queries, width) = pick(if half { &QUERIES_F16 } else { &QUERIES_BF16 }, head);
        let (keys, _) = pick(if half { &KEYS_F16 } else { &KEYS_BF16 }, head);
        let rows = if width <= 128 { 128 } else { 64 };
        // A second stage hides the way of the next tile, where there is room for it.
        let room = |stages: usize| 2 * rows * pitch(width) + stages * (2 * KEYS * pitch(width) + 2 * KEYS * 4);
        let stages = if room(2) <= gpu.shared_memory() { 2 } else { 1 };
        let shared = room(stages);
        if shared > gpu.shared_memory() {
            return refuse!(KERNEL, "gradients for {head} features of a head want {shared} bytes of shared memory");
        }
        let stages = stages as i32;
        let delta = gpu.allocate(batch * q_heads * q_len * 4)?;
        let [q, k, v] = self.inputs.map(|(elements, _)| elements.pointer());
        let [o, grad, lse] = [self.o, self.grad.0, self.lse].map(|elements| elements.pointer());
        let [dq, dk, dv] = self.gradients.map(|elements| elements.0.pointer());
        let (delta, describe) = (delta.pointer(), || self.describe());
        let threads = rows as u32 * 2;
        // SAFETY: the kernels take these types; all tensors were checked to lie in their memory, aligned where it matters.
        unsafe {
            if q_len > 0 {
                let lines = (batch * q_heads * q_len).div_ceil(8).min(1 << 20);
                let grid = Grid { blocks: [lines, 1, 1], threads: 256, shared: 0 };
                let kernel = if half { "attention_delta_f16" } else { "attention_delta_bf16" };
                gpu.launch(kernel, grid, arguments![raw, o, grad, delta], &describe)?;
                let grid = Grid { blocks: [q_len.div_ceil(rows), q_heads, batch], threads, shared };
                gpu.launch(queries, grid, arguments![raw, stages, q, k, v, grad, lse, delta, dq], &describe)?;
            }
            if k_len > 0 {
                let grid = Grid { blocks: [k_len.div_ceil(rows), kv_heads, batch], threads, shared };
                for kernel in keys {
                    gpu.launch(kernel, grid, arguments![raw, stages, q, k, v, grad, lse, delta, dk, dv], &describe)?;
                }
            }
        }
        Ok(())
    }
}
