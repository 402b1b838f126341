//! Splitting rows among threads.

use crate::pool::SendPtr;
use crate::{Cpu, RowsMut};
use std::ops::Range;

/// Floats that are worth waking a thread for.
const GRAIN: usize = 16 * 1024;

/// Calls `task(range, out)` for ranges that together cover `0..rows`; `out` is the part of the output that starts at the
/// first row of the range. `work` is the number of floats that a row costs.
pub(crate) fn for_row_blocks(
    cpu: &Cpu,
    rows: usize,
    work: usize,
    out: &mut [f32],
    out_stride: usize,
    task: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
) {
    if rows == 0 {
        return;
    }
    let threads = cpu.threads();
    let block = rows.div_ceil(4 * threads).max(GRAIN.div_ceil(work.max(1)));
    if threads == 1 || block >= rows || out_stride == 0 {
        return task(0..rows, out);
    }
    let len = out.len().min(rows * out_stride);
    cpu.pool.for_each_chunk(&mut out[..len], block * out_stride, &|i, out| {
        task(i * block..((i + 1) * block).min(rows), out);
    });
}

/// Calls `task(y, row)` for each row `y` of `rows`, in parallel.
///
/// # Panics
/// If `out` does not hold that many rows at once.
pub(crate) fn for_image_rows(
    cpu: &Cpu,
    out: &mut RowsMut<'_>,
    rows: Range<usize>,
    task: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    assert!(rows.len() <= out.capacity(), "{} rows do not fit a window of {}", rows.len(), out.capacity());
    let len = out.width() * out.stride();
    let base = SendPtr(out.as_mut_ptr());
    let out = &*out;
    cpu.pool.run(rows.len(), &|i, _| {
        let y = rows.start + i;
        // SAFETY: each `y` is passed once, and no more rows than the window has slots, so that rows do not overlap.
        let row = unsafe { std::slice::from_raw_parts_mut(base.get().add(out.offset(y)), len) };
        task(y, row);
    });
}
