//! A whole layer: the product, what feeds it, and how both are split into bands of rows and shared by threads.
//!
//! What feeds a product other than planes as they are – a depthwise convolution, or the taps of a k×k kernel side by side –
//! is computed for a band of output rows at a time, into scratch that the L2 cache holds. Threads take bands; where there
//! are too few of them, all threads feed one band together and then share the groups of outputs.

use super::packed::PackedConv;
use super::quads::{ByteBuf, QuadBuf};
use super::tile::Product;
use super::vector::MAX_VECTOR;
use super::{Geometry, PackedDepthwise};
use crate::ThreadPool;
use crate::pool::SendPtr;
use std::ops::Range;

/// Bytes of scratch that a band should not exceed: a part of a usual L2 cache.
const BAND: usize = 128 << 10;
/// Pixels that a task should have at least: some tiles.
const PIXELS: usize = 192;

/// What a product reads.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub enum Feed {
    /// Input planes as they are: a 1×1 kernel.
    Planes,
    /// The taps of a kernel, `[positions][⌈channels / 4⌉]` quads for each output pixel.
    Taps(Geometry),
    /// What a depthwise convolution makes of the input.
    Depthwise(PackedDepthwise),
}

/// A convolution over all channels, with what feeds it.
#[derive(Clone, Debug)]
pub struct ConvLayer {
    conv: PackedConv,
    feed: Feed,
    /// Height and width of the output.
    size: [usize; 2],
    /// Output rows of a band.
    rows: usize,
    threads: usize,
}

/// Scratch memory of one or more layers.
#[derive(Clone, Debug)]
pub struct Scratch {
    bytes: ByteBuf,
    /// Bytes of one thread.
    part: usize,
}

impl Scratch {
    /// For threads that need `part` bytes each, see [`ConvLayer::scratch_bytes`].
    pub fn new(threads: usize, part: usize) -> Scratch {
        let part = part.next_multiple_of(MAX_VECTOR);
        Scratch { bytes: ByteBuf::new(threads * part), part }
    }
}

impl ConvLayer {
    /// `conv` behind `feed`, for an output of this height and width, on pools of `threads` threads.
    ///
    /// # Panics
    /// If they do not fit together.
    pub fn new(conv: PackedConv, feed: Feed, size: [usize; 2], threads: usize) -> ConvLayer {
        match &feed {
            Feed::Planes => {}
            Feed::Taps(geometry) => {
                assert!(geometry.output == size && conv.columns.is_multiple_of(geometry.area()), "taps");
            }
            Feed::Depthwise(depthwise) => {
                let fits = depthwise.channels().div_ceil(4) == conv.columns && depthwise.geometry().output == size;
                assert!(fits, "depthwise convolution");
            }
        }
        let threads = threads.max(1);
        let pixel = conv.columns * 4;
        let fitting = (BAND / (pixel * size[1]).max(1)).clamp(1, size[0].max(1));
        let mut bands = size[0].div_ceil(fitting).max(1);
        if bands > 1 || (size[0] >= threads && size[0] * size[1] >= threads * PIXELS) {
            bands = bands.next_multiple_of(threads).min(size[0].max(1));
        }
        let rows = size[0].div_ceil(bands).max(1);
        ConvLayer { conv, feed, size, rows, threads }
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.conv.outputs
    }

    /// Blocks stored over blocks that the layer has.
    pub fn density(&self) -> f64 {
        self.conv.density()
    }

    /// Bytes of scratch that each thread needs.
    pub fn scratch_bytes(&self) -> usize {
        let rows = match &self.feed {
            Feed::Depthwise(depthwise) => depthwise.scratch_bytes(self.rows),
            _ => 0,
        };
        self.panel_bytes() + rows
    }

    /// Bytes from a quad of the fed panel to the next.
    fn panel_plane(&self) -> usize {
        (self.rows * self.size[1]).next_multiple_of(16) * 4 + MAX_VECTOR
    }

    fn panel_bytes(&self) -> usize {
        match self.feed {
            Feed::Planes => 0,
            _ => self.conv.columns * self.panel_plane() + MAX_VECTOR,
        }
    }

    /// Computes `output` from `input`.
    ///
    /// # Panics
    /// If sizes do not fit or the scratch is too small.
    pub fn run(&self, pool: &ThreadPool, input: &QuadBuf, output: &mut QuadBuf, scratch: &mut Scratch) {
        let fits = output.channels() == self.conv.outputs && [output.height(), output.width()] == self.size;
        assert!(fits, "output of a convolution");
        match &self.feed {
            Feed::Planes => {
                let fits = input.quads() == self.conv.columns && [input.height(), input.width()] == self.size;
                assert!(fits, "input of a convolution");
            }
            Feed::Taps(geometry) => {
                let fits = [input.height(), input.width()] == geometry.input;
                assert!(fits && input.quads() * geometry.area() == self.conv.columns, "input of a convolution");
            }
            // Checked where it runs.
            Feed::Depthwise(_) => {}
        }
        let plane = output.plane_bytes();
        let to = SendPtr(output.bytes_mut().as_mut_ptr());
        if let Feed::Planes = self.feed {
            return self.run_planes(pool, input, to, plane);
        }
        assert!(scratch.part >= self.scratch_bytes() && pool.threads() <= self.threads, "scratch of a convolution");
        assert!(scratch.bytes.as_slice().len() >= pool.threads() * scratch.part, "scratch for each thread");
        let part = scratch.part;
        let base = SendPtr(scratch.bytes.as_mut_slice().as_mut_ptr());
        let bands = self.size[0].div_ceil(self.rows);
        if bands >= pool.threads() {
            pool.run(bands, &|i, worker| {
                let rows = i * self.rows..((i + 1) * self.rows).min(self.size[0]);
                // SAFETY: each worker has its own part of the scratch; bands are disjoint parts of the output.
                unsafe {
                    let panel = base.get().add(worker * part);
                    self.feed(input, rows.clone(), 0..self.conv.columns, panel, panel.add(self.panel_bytes()));
                    self.product(panel, self.panel_plane(), rows, to.get(), plane, 0..self.conv.groups());
                }
            });
            return;
        }
        // Few bands: all threads feed the panel of the first thread, each a part of it, and then share the outputs.
        for i in 0..bands {
            let rows = i * self.rows..((i + 1) * self.rows).min(self.size[0]);
            let tasks = pool.threads();
            pool.run(tasks, &|task, worker| {
                let columns = share(self.conv.columns, tasks, task);
                // SAFETY: tasks write disjoint parts of the panel and each worker its own rows.
                unsafe {
                    let rest = base.get().add(worker * part + self.panel_bytes());
                    self.feed(input, rows.clone(), columns, base.get(), rest);
                }
            });
            pool.run(tasks, &|task, _| {
                let groups = share(self.conv.groups(), tasks, task);
                // SAFETY: the panel is complete; tasks write disjoint channels of the output.
                unsafe { self.product(base.get(), self.panel_plane(), rows.clone(), to.get(), plane, groups) }
            });
        }
    }

    /// A 1×1 kernel over planes as they are.
    fn run_planes(&self, pool: &ThreadPool, input: &QuadBuf, output: SendPtr<u8>, plane: usize) {
        let (pixels, threads) = (self.size[0] * self.size[1], pool.threads());
        let by_pixels = pixels >= threads * PIXELS;
        let tasks = if threads == 1 { 1 } else { 2 * threads };
        pool.run(tasks, &|task, _| {
            let whole = (0..pixels, 0..self.conv.groups());
            let (pixels, groups) = match by_pixels {
                // Cuts at multiples of a vector.
                true => {
                    let cut = share(pixels.div_ceil(16), tasks, task);
                    (cut.start * 16..(cut.end * 16).min(pixels), whole.1)
                }
                false => (whole.0, share(self.conv.groups(), tasks, task)),
            };
            // SAFETY: there is room behind the planes of `input`; tasks write disjoint parts of the output.
            unsafe {
                Product {
                    conv: &self.conv,
                    input: input.bytes().as_ptr().add(pixels.start * 4),
                    input_plane: input.plane_bytes(),
                    output: output.get().add(groups.start * plane + pixels.start * 4),
                    output_plane: plane,
                    pixels: pixels.len(),
                    first_group: groups.start,
                    groups: groups.len(),
                }
                .run();
            }
        });
    }

    /// The product over a panel that holds output rows `rows`.
    ///
    /// # Safety
    /// The panel is complete; `output` is the first plane of an output of this layer, of which no one else has these rows
    /// of these groups.
    unsafe fn product(
        &self,
        panel: *const u8,
        panel_plane: usize,
        rows: Range<usize>,
        output: *mut u8,
        plane: usize,
        groups: Range<usize>,
    ) {
        // SAFETY: the panel has room behind each quad; the rest is the caller's promise.
        unsafe {
            Product {
                conv: &self.conv,
                input: panel,
                input_plane: panel_plane,
                output: output.add(groups.start * plane + rows.start * self.size[1] * 4),
                output_plane: plane,
                pixels: rows.len() * self.size[1],
                first_group: groups.start,
                groups: groups.len(),
            }
            .run();
        }
    }

    /// Fills quads `columns` of the panel for output rows `rows`.
    ///
    /// # Safety
    /// The panel has [`panel_bytes`](Self::panel_bytes), and `rest` the scratch of a depthwise convolution.
    unsafe fn feed(&self, input: &QuadBuf, rows: Range<usize>, columns: Range<usize>, panel: *mut u8, rest: *mut u8) {
        for column in columns {
            // SAFETY: a quad of the panel holds a band's rows and a vector more.
            let to = unsafe { panel.add(column * self.panel_plane()) };
            match &self.feed {
                Feed::Planes => unreachable!("planes are read where they are"),
                // SAFETY: the caller's promise, and the panel's room.
                Feed::Depthwise(depthwise) => unsafe { depthwise.rows(input, column, rows.clone(), rest, to) },
                Feed::Taps(geometry) => {
                    let len = rows.len() * self.size[1] * 4;
                    // SAFETY: as above.
                    let to = unsafe { std::slice::from_raw_parts_mut(to, len) };
                    gather(geometry, input, column, rows.clone(), self.conv.input_zero, to);
                }
            }
        }
    }
}

/// Part `index` of `count` things that `parts` share.
fn share(count: usize, parts: usize, index: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// Copies quad `column` of the taps for output rows `rows` to `out`, `[rows][output width][4]`.
fn gather(geometry: &Geometry, input: &QuadBuf, column: usize, rows: Range<usize>, zero: u8, out: &mut [u8]) {
    let (position, quad) = (column / input.quads(), column % input.quads());
    let (ky, kx) = (position / geometry.kernel[1], position % geometry.kernel[1]);
    let plane = &input.bytes()[quad * input.plane_bytes()..][..input.pixels() * 4];
    let inside = geometry.columns_inside(kx);
    let width = geometry.output[1];
    if width == 0 {
        return;
    }
    for (y, out) in rows.zip(out.chunks_exact_mut(width * 4)) {
        let Some(row) = geometry.input_row(y, ky).filter(|_| !inside.is_empty()) else {
            out.fill(zero);
            continue;
        };
        out[..inside.start * 4].fill(zero);
        out[inside.end * 4..].fill(zero);
        let first = row * geometry.input[1] + inside.start * geometry.stride[1] + kx - geometry.before[1];
        let (from, out) = (&plane[first * 4..], &mut out[inside.start * 4..inside.end * 4]);
        match geometry.stride[1] {
            1 => out.copy_from_slice(&from[..out.len()]),
            step => {
                for (to, from) in out.chunks_exact_mut(4).zip(from.chunks(step * 4)) {
                    to.copy_from_slice(&from[..4]);
                }
            }
        }
    }
}

/// A depthwise convolution by itself.
///
/// # Panics
/// If sizes do not fit or the scratch is too small.
pub fn run_depthwise(
    pool: &ThreadPool,
    depthwise: &PackedDepthwise,
    input: &QuadBuf,
    output: &mut QuadBuf,
    scratch: &mut Scratch,
) {
    let size = depthwise.geometry().output;
    let fits = output.channels() == depthwise.channels() && [output.height(), output.width()] == size;
    assert!(fits, "output of a depthwise convolution");
    assert!(scratch.part >= depthwise.scratch_bytes(size[0]), "scratch of a depthwise convolution");
    assert!(scratch.bytes.as_slice().len() >= pool.threads() * scratch.part, "scratch for each thread");
    let (plane, part) = (output.plane_bytes(), scratch.part);
    let quads = output.quads();
    let to = SendPtr(output.bytes_mut().as_mut_ptr());
    let base = SendPtr(scratch.bytes.as_mut_slice().as_mut_ptr());
    pool.run(quads, &|quad, worker| {
        // SAFETY: each worker has its own scratch; planes are disjoint.
        unsafe {
            depthwise.rows(input, quad, 0..size[0], base.get().add(worker * part), to.get().add(quad * plane));
        }
    });
}

/// Bytes of scratch that [`run_depthwise`] needs for each thread.
pub fn depthwise_scratch_bytes(depthwise: &PackedDepthwise) -> usize {
    depthwise.scratch_bytes(depthwise.geometry().output[0])
}
