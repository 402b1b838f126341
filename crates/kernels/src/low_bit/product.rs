//! Products of packed matrices, split among threads.

use super::activations::Activations;
use super::layout::{Layout, WithLayout, with_layout};
use super::matrix::Matrix;
use super::tile::{Columns, Packed, Unpacked, tile, unpacked_bytes};
use super::vector::{Kernel, MAX_LANES, Quads, dispatch};
use crate::pool::SendPtr;
use crate::{AlignedBuf, Cpu};
use std::marker::PhantomData;
use std::ops::Range;

/// Most products of one region.
pub const MAX_JOBS: usize = 8;

/// Columns that are multiplied straight from the packed weights; more are worth unpacking a group for.
const DIRECT: usize = 4;
/// Bytes of activations that tasks take at a time, so that they stay in a core's cache.
const CACHED: usize = 256 << 10;
/// Tasks of a thread, so that a thread that was late costs little.
const TASKS: usize = 6;

/// One of the products of a region: `out[t · stride + r] = Σ_k matrix[r][k] · x[t][k]`.
#[derive(Debug)]
pub struct Job<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// `[columns, rows]`.
    pub out: &'a mut [f32],
    /// Floats from one column's result to the next.
    pub stride: usize,
}

/// Room for unpacked groups, one for each thread. Grows as needed and is kept.
#[derive(Debug, Default)]
pub struct Scratch {
    buffers: AlignedBufs,
}

#[derive(Debug, Default)]
struct AlignedBufs {
    all: Option<AlignedBuf>,
    floats: usize,
}

impl Scratch {
    /// None yet.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Room for `k` weights of a group on each of `threads` threads: where it starts, and the bytes of each.
    fn reserve(&mut self, threads: usize, k: usize) -> (*mut u8, usize) {
        let [quants, scales] = unpacked_bytes(MAX_LANES, k, 16);
        let floats = (quants + 2 * scales).next_multiple_of(64) / 4;
        let buffers = &mut self.buffers;
        if buffers.floats < floats || buffers.all.as_ref().is_none_or(|all| all.len() < floats * threads) {
            buffers.all = Some(AlignedBuf::zeroed(floats * threads));
            buffers.floats = floats;
        }
        let start = buffers.all.as_mut().map_or(std::ptr::null_mut(), |all| all.as_mut_ptr());
        (start.cast(), buffers.floats * 4)
    }
}

/// A job on several threads.
#[derive(Clone, Copy)]
struct Target<'a> {
    matrix: &'a Matrix,
    out: SendPtr<f32>,
    stride: usize,
    /// Number of its first group among those of all jobs.
    first: usize,
}

/// Multiplies each job's matrix with the columns of `x`.
///
/// # Panics
/// If there are more than [`MAX_JOBS`], a matrix has another `k` than `x`, or an output is too short.
pub fn multiply(cpu: &Cpu, x: &Activations, jobs: &mut [Job<'_>], scratch: &mut Scratch) {
    assert!(jobs.len() <= MAX_JOBS, "{} products in one region", jobs.len());
    if x.columns == 0 {
        return;
    }
    let mut targets: [Option<Target<'_>>; MAX_JOBS] = [None; MAX_JOBS];
    let mut groups = 0;
    for (target, job) in targets.iter_mut().zip(jobs) {
        let rows = job.matrix.rows;
        assert_eq!(job.matrix.k, x.k, "columns of the matrix and length of the activations");
        assert!(job.stride >= rows && job.out.len() >= (x.columns - 1) * job.stride + rows, "room for a product");
        let out = SendPtr(job.out.as_mut_ptr());
        *target = Some(Target { matrix: job.matrix, out, stride: job.stride, first: groups });
        groups += job.matrix.groups();
    }
    let threads = cpu.threads();
    let direct = x.columns <= DIRECT;
    let (buffers, size) = if direct { (std::ptr::null_mut(), 0) } else { scratch.reserve(threads, x.k) };
    let buffers = SendPtr(buffers);
    let cached = if direct { x.columns } else { (CACHED / x.k.max(1)).max(48).next_multiple_of(12).min(x.columns) };
    let spans = x.columns.div_ceil(cached);
    let block = groups.div_ceil(threads * TASKS).max(1);
    let blocks = groups.div_ceil(block);
    let tasks = if threads == 1 { 1 } else { spans * blocks };
    cpu.pool.run(tasks, &|task, worker| {
        let range = if threads == 1 { 0..spans * blocks } else { task..task + 1 };
        for task in range {
            let (span, index) = (task / blocks, task % blocks);
            let columns = span * cached..((span + 1) * cached).min(x.columns);
            let range = index * block..((index + 1) * block).min(groups);
            for target in targets.iter().flatten() {
                let own = range.start.max(target.first)..range.end.min(target.first + target.matrix.groups());
                if own.is_empty() {
                    continue;
                }
                let groups = own.start - target.first..own.end - target.first;
                let part = Part {
                    target: *target,
                    x,
                    groups,
                    columns: columns.clone(),
                    buffer: if direct { std::ptr::null_mut() } else { buffers.get().wrapping_add(worker * size) },
                };
                // SAFETY: the matrix was packed for this level, which the CPU therefore has; jobs were checked above, and
                // no two tasks share rows and columns.
                unsafe { dispatch(target.matrix.level, part) }
            }
        }
    });
}

/// Some groups of a matrix times some columns.
struct Part<'a> {
    target: Target<'a>,
    x: &'a Activations,
    groups: Range<usize>,
    columns: Range<usize>,
    /// Room for an unpacked group; null to do without.
    buffer: *mut u8,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: Quads>(self) {
        with_layout(self.target.matrix.format, OnVectors::<V>(self, PhantomData));
    }
}

struct OnVectors<'a, V>(Part<'a>, PhantomData<V>);

impl<V: Quads> WithLayout for OnVectors<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<L: Layout>(self) {
        let part = self.0;
        let Target { matrix, out, stride, .. } = part.target;
        for group in part.groups.clone() {
            let first_row = group * V::LANES;
            // SAFETY: groups, rows and columns exist, as `multiply` checked.
            unsafe {
                let packed = Packed::<L> {
                    quants: matrix.quants.as_ptr().cast::<u8>().add(group * matrix.strides[0]),
                    scales: matrix.scales.as_ptr().cast::<u8>().add(group * matrix.strides[1]),
                    layout: PhantomData,
                };
                let columns = Columns {
                    x: part.x,
                    first: part.columns.start,
                    out: out.get().add(first_row),
                    stride,
                    rows: V::LANES.min(matrix.rows - first_row),
                };
                if part.buffer.is_null() {
                    few::<V, L>(&packed, columns, part.columns.end);
                } else {
                    let unpacked = Unpacked::fill::<V, L>(&packed, matrix.k, part.buffer);
                    many::<V, L>(&unpacked, columns, part.columns.end);
                }
            }
        }
    }
}

/// Columns up to `end`, from packed weights.
#[inline(always)]
unsafe fn few<V: Quads, L: Layout>(weights: &Packed<L>, mut at: Columns<'_>, end: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match end - at.first {
            4.. => tile::<V, L, _, 4>(weights, at),
            2.. => {
                tile::<V, L, _, 2>(weights, at);
                at.first += 2;
                if at.first < end {
                    tile::<V, L, _, 1>(weights, at);
                }
            }
            _ => tile::<V, L, _, 1>(weights, at),
        }
    }
}

/// Columns up to `end`, from unpacked weights.
#[inline(always)]
unsafe fn many<V: Quads, L: Layout>(weights: &Unpacked, mut at: Columns<'_>, end: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        while at.first + V::TILE <= end {
            match V::TILE {
                12 => tile::<V, L, _, 12>(weights, at),
                6 => tile::<V, L, _, 6>(weights, at),
                _ => tile::<V, L, _, 4>(weights, at),
            }
            at.first += V::TILE;
        }
        while at.first + 4 <= end {
            tile::<V, L, _, 4>(weights, at);
            at.first += 4;
        }
        while at.first < end {
            tile::<V, L, _, 1>(weights, at);
            at.first += 1;
        }
    }
}
