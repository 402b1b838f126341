//! Runs a chain of steps on pieces of an image, in parallel, so that what passes between steps stays in the cache.

use crate::pool::SendPtr;
use crate::{Cpu, Rows, RowsMut};
use std::ops::Range;

/// Calls `task(patch, scratch)` for each patch of `side` × `side` pixels in rows `rows`, in parallel, and writes what
/// the task leaves in `patch` to `out`.
///
/// `patch` is `[side · side][stride]`, the patch's pixels row by row. `scratch` is divided equally between the threads,
/// after room for a patch each.
///
/// # Panics
/// If `rows` or the width is no whole number of patches, if input and output differ in width or pixel stride or do not
/// hold so many rows, or if `scratch` is too short for a patch a thread.
pub fn for_each_patch(
    cpu: &Cpu,
    side: usize,
    input: Rows<'_>,
    out: &mut RowsMut<'_>,
    rows: Range<usize>,
    scratch: &mut [f32],
    task: &(dyn Fn(&mut [f32], &mut [f32]) + Sync),
) {
    let (width, stride) = (input.width(), input.stride());
    assert!(
        side > 0 && width.is_multiple_of(side) && rows.len().is_multiple_of(side),
        "patches: {width} columns, rows {rows:?}"
    );
    assert!(out.width() == width && out.stride() == stride, "patches: output shape");
    assert!(rows.len() <= out.capacity() && rows.len() <= input.capacity(), "patches: rows {rows:?}");
    let per_thread = scratch.len() / cpu.threads();
    let patch_len = side * side * stride;
    assert!(per_thread >= patch_len, "patches: scratch");
    let across = width / side;
    let (capacity, base, scratch) = (out.capacity(), SendPtr(out.as_mut_ptr()), SendPtr(scratch.as_mut_ptr()));
    cpu.pool.run(across * (rows.len() / side), &|i, worker| {
        let (y, x) = (rows.start + i / across * side, i % across * side);
        // SAFETY: a thread's own part of `scratch`, which outlives `run`.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * per_thread), per_thread) };
        let (patch, scratch) = scratch.split_at_mut(patch_len);
        for (dy, line) in patch.chunks_exact_mut(side * stride).enumerate() {
            line.copy_from_slice(&input.row(y + dy)[x * stride..][..side * stride]);
        }
        task(patch, scratch);
        for (dy, line) in patch.chunks_exact(side * stride).enumerate() {
            let at = (((y + dy) % capacity) * width + x) * stride;
            // SAFETY: within the buffer, whose slots differ for the rows of one call; patches do not overlap.
            let to = unsafe { std::slice::from_raw_parts_mut(base.get().add(at), side * stride) };
            to.copy_from_slice(line);
        }
    });
}

/// What [`for_each_tile`] calls with `(y, columns, outputs, scratch)`.
pub type TileTask<'a, const N: usize> = dyn Fn(usize, Range<usize>, [&mut [f32]; N], &mut [f32]) + Sync + 'a;

/// Calls `task(y, columns, outputs, scratch)` for strips of at most `columns` pixels of each row in `rows`, in parallel.
///
/// `outputs[i]` is the strip's part of `out[i]`: `columns.len() · stride` floats. `scratch` is divided equally between
/// the threads.
///
/// # Panics
/// If the outputs differ in width or do not hold so many rows, or `columns` is zero.
pub fn for_each_tile<const N: usize>(
    cpu: &Cpu,
    columns: usize,
    rows: Range<usize>,
    out: [&mut RowsMut<'_>; N],
    scratch: &mut [f32],
    task: &TileTask<'_, N>,
) {
    let Some(width) = out.first().map(|o| o.width()) else { return };
    assert!(columns > 0 && out.iter().all(|o| o.width() == width && rows.len() <= o.capacity()), "tiles: output shape");
    let per_thread = scratch.len() / cpu.threads();
    let scratch = SendPtr(scratch.as_mut_ptr());
    let out = out.map(|o| (o.capacity(), o.stride(), SendPtr(o.as_mut_ptr())));
    let across = width.div_ceil(columns);
    cpu.pool.run(across * rows.len(), &|i, worker| {
        // Down before across: steps that look up and down find most of their input in the cache.
        let (y, start) = (rows.start + i % rows.len(), i / rows.len() * columns);
        let strip = start..(start + columns).min(width);
        // SAFETY: a thread's own part of `scratch`, which outlives `run`.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * per_thread), per_thread) };
        let outputs = out.map(|(capacity, stride, base)| {
            let at = ((y % capacity) * width + start) * stride;
            // SAFETY: within the buffer, whose slots differ for the rows of one call; strips do not overlap, and the
            // outputs are different buffers, each borrowed mutably for the whole call.
            unsafe { std::slice::from_raw_parts_mut(base.get().add(at), strip.len() * stride) }
        });
        task(y, strip, outputs, scratch);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_pixel_is_visited_once() {
        for threads in [1, 3] {
            let cpu = Cpu::new(Isa::Scalar, threads);
            let (width, stride) = (24, 16);
            let input: Vec<f32> = (0..8 * width * stride).map(|i| i as f32).collect();
            let mut out = vec![0.0; 16 * width * stride];
            let mut scratch = vec![0.0; cpu.threads() * (64 * stride + 5)];
            let rows = Rows::new(&input, 8, width, stride);
            let mut to = RowsMut::new(&mut out, 16, width, stride);
            // Rows 8..16 of a rolling window of 8 rows.
            for_each_patch(&cpu, 8, rows, &mut to, 8..16, &mut scratch, &|patch, scratch| {
                assert_eq!((patch.len(), scratch.len()), (64 * stride, 5));
                patch.iter_mut().for_each(|v| *v += 1.0);
            });
            assert!(out[8 * width * stride..].iter().zip(&input).all(|(o, i)| *o == i + 1.0));
            assert!(out[..8 * width * stride].iter().all(|&o| o == 0.0));

            let (mut a, mut b) = (vec![0.0; 5 * 21 * 2], vec![0.0; 5 * 21]);
            let outputs = [&mut RowsMut::new(&mut a, 5, 21, 2), &mut RowsMut::new(&mut b, 5, 21, 1)];
            for_each_tile(&cpu, 8, 7..12, outputs, &mut scratch, &|y, columns, [a, b], _| {
                assert_eq!((a.len(), b.len()), (2 * columns.len(), columns.len()));
                a.iter_mut().for_each(|v| *v += y as f32);
                b.iter_mut().zip(columns).for_each(|(v, x)| *v += (100 * y + x) as f32);
            });
            for y in 7..12 {
                assert!(a[y % 5 * 42..][..42].iter().all(|&v| v == y as f32));
                assert!((0..21).all(|x| b[y % 5 * 21 + x] == (100 * y + x) as f32));
            }
        }
    }
}
