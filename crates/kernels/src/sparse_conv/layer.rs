//! A whole layer: the product, what feeds it, and how both are split into bands of rows and shared by threads.
//!
//! What feeds a product other than planes as they are – a depthwise convolution, or the zero-padded phases of a k×k
//! kernel – is computed for a band of output rows at a time, into scratch that the L2 cache holds. Threads take bands, or
//! where a plane is too small for that, first channels of the feed and then blocks of the product.

use super::tile::multiply_at;
use super::{Epilogue, PADDING, PackedSparse, Phases, PlanarDepthwise, Product, plane_len};
use crate::ThreadPool;
use crate::pool::SendPtr;
use std::ops::Range;

/// Floats of scratch that a band should not exceed: a part of a usual L2 cache.
const BAND: usize = 112 << 10;
/// Pixels that a task should have at least: some tiles.
const PIXELS: usize = 192;

/// Columns from which on it pays to gather tiles.
const GATHERED: usize = 64;

/// What a product reads.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Input planes as they are: a 1×1 kernel, or one that covers its input and makes one pixel. Columns are
    /// `[in_channels][area]`, with `area` neighbouring floats of a plane.
    Planes {
        /// Positions of the kernel.
        area: usize,
    },
    /// Zero-padded rows: any kernel. Columns are `[in_channels][kernel height][kernel width]`.
    Phases(Phases),
    /// What a depthwise convolution makes of the input, within a range.
    Depthwise(PlanarDepthwise, (f32, f32)),
}

/// A convolution over all channels, with what feeds it.
#[derive(Clone, Debug)]
pub struct SparseLayer {
    packed: PackedSparse,
    feed: Feed,
    /// Channels that the feed produces, and floats from one to the next.
    channels: usize,
    feed_plane: usize,
    in_plane: usize,
    /// Sides of the output, and floats from a channel to the next.
    size: [usize; 2],
    out_plane: usize,
    /// Output rows of a band; where planes feed the product, pixels of a task.
    band: usize,
    threads: usize,
}

impl SparseLayer {
    /// A layer that makes planes of `size` (height, width), `out_plane` floats apart, from planes `in_plane` floats apart,
    /// on `threads` threads.
    ///
    /// # Panics
    /// If the columns of `packed` do not fit the feed.
    pub fn new(
        mut packed: PackedSparse,
        feed: Feed,
        in_plane: usize,
        size: [usize; 2],
        out_plane: usize,
        threads: usize,
    ) -> SparseLayer {
        let [height, width] = size;
        let area = match &feed {
            Feed::Planes { area } => *area,
            Feed::Phases(phases) => phases.kernel()[0] * phases.kernel()[1],
            Feed::Depthwise(..) => 1,
        };
        assert!(area > 0 && packed.columns().is_multiple_of(area), "{} columns of {area}", packed.columns());
        let channels = packed.columns() / area;
        if let Feed::Depthwise(depthwise, _) = &feed {
            assert_eq!(depthwise.channels(), channels, "the depthwise convolution feeds all columns");
        }
        let row = match &feed {
            Feed::Planes { .. } => 0,
            Feed::Phases(phases) => channels * phases.output_row(),
            Feed::Depthwise(..) => channels * width,
        };
        let band = match &feed {
            Feed::Planes { .. } if threads > 1 => (height * width).div_ceil(4 * threads).next_multiple_of(96),
            Feed::Planes { .. } => height * width,
            _ => band_rows(height, width, row, threads),
        };
        let feed_plane = match &feed {
            Feed::Planes { .. } => in_plane,
            Feed::Phases(phases) => phases.plane_len(band),
            Feed::Depthwise(..) => plane_len(band * width),
        };
        let gather = size != [1, 1] && packed.columns() >= GATHERED;
        match &feed {
            Feed::Phases(phases) => {
                let side = phases.kernel()[1];
                let of = |column| {
                    let tap = column % area;
                    column / area * feed_plane + phases.offset(tap / side, tap % side)
                };
                packed.place(of, gather);
            }
            _ => packed.place(|column| column / area * feed_plane + column % area, gather),
        }
        SparseLayer { packed, feed, channels, feed_plane, in_plane, size, out_plane, band, threads }
    }

    /// The weights.
    pub fn packed(&self) -> &PackedSparse {
        &self.packed
    }

    /// What feeds the product.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Floats of scratch that [`run`](Self::run) wants: what the feed takes, and a tile for each thread.
    pub fn scratch_len(&self) -> usize {
        self.feeding_len() + self.threads * self.tile_len()
    }

    /// Floats of a thread's tile.
    fn tile_len(&self) -> usize {
        self.packed.gathered_len().next_multiple_of(16)
    }

    /// Floats of scratch that the feed takes, on all threads.
    fn feeding_len(&self) -> usize {
        let own = match &self.feed {
            Feed::Depthwise(depthwise, _) => depthwise.scratch_len(self.band).next_multiple_of(16),
            _ => 0,
        };
        match self.feed {
            Feed::Planes { .. } => 0,
            _ if self.by_bands() => self.threads * (self.feed_len() + own),
            _ => self.feed_len() + self.threads * own,
        }
    }

    /// Floats of a band of the feed.
    fn feed_len(&self) -> usize {
        (self.channels * self.feed_plane + PADDING).next_multiple_of(16)
    }

    /// Whether threads take bands, each with scratch of its own.
    fn by_bands(&self) -> bool {
        self.threads == 1 || self.band < self.size[0]
    }

    /// Computes the layer: `input` `[in_channels][in_plane]` and [`PADDING`] floats after it, `output`
    /// `[out_channels][out_plane]`, and as much `scratch` as [`scratch_len`](Self::scratch_len) says.
    ///
    /// # Panics
    /// If a buffer is too short, or `pool` has more threads than the layer was made for.
    pub fn run(
        &self,
        pool: &ThreadPool,
        input: &[f32],
        output: &mut [f32],
        epilogue: Epilogue<'_>,
        scratch: &mut [f32],
    ) {
        let [height, width] = self.size;
        let needed = (self.packed.out_channels() - 1) * self.out_plane + height * width;
        assert!(output.len() >= needed && height * width <= self.out_plane, "the layer writes {needed} floats");
        assert!(scratch.len() >= self.scratch_len() && pool.threads() <= self.threads, "scratch of the layer");
        assert!(epilogue.residual.is_none_or(|(residual, _)| residual.len() >= needed), "residual of the layer");
        let (scratch, tiles) = scratch[..self.scratch_len()].split_at_mut(self.feeding_len());
        let to = Target { output: SendPtr(output.as_mut_ptr()), tiles: SendPtr(tiles.as_mut_ptr()) };
        match &self.feed {
            Feed::Planes { .. } => self.whole_planes(pool, input, to, epilogue),
            _ if self.by_bands() => self.by_band(pool, input, to, epilogue, scratch),
            _ => self.in_two_phases(pool, input, to, epilogue, scratch),
        }
    }

    /// One product of `rows`, from the first of `input` on, by one of the pool's workers.
    fn product(
        &self,
        worker: usize,
        input: &[f32],
        to: Target,
        rows: Rows,
        epilogue: Epilogue<'_>,
        blocks: Range<usize>,
    ) {
        let Rows { count, width, input_row, at } = rows;
        let product = Product { rows: count, width, input_row, output_row: self.size[1], output_plane: self.out_plane };
        let residual = epilogue.residual.map(|(residual, range)| (&residual[at..], range));
        let epilogue = Epilogue { residual, ..epilogue };
        // SAFETY: `run` checked that the planes hold all pixels, and that there is a tile for each worker; tasks differ in pixels
        // or in blocks.
        unsafe {
            let output = to.output.get().add(at);
            let tile = to.tiles.get().add(worker * self.tile_len());
            multiply_at(&self.packed, product, input, output, epilogue, blocks, tile);
        }
    }

    fn whole_planes(&self, pool: &ThreadPool, input: &[f32], to: Target, epilogue: Epilogue<'_>) {
        let pixels = self.size[0] * self.size[1];
        if self.band >= PIXELS || self.threads == 1 {
            pool.run(pixels.div_ceil(self.band), &|task, worker| {
                let at = task * self.band;
                let rows = Rows { count: 1, width: self.band.min(pixels - at), input_row: 0, at };
                self.product(worker, &input[at..], to, rows, epilogue, 0..self.packed.blocks());
            });
            return;
        }
        self.by_blocks(pool, &|worker, blocks| {
            let rows = Rows { count: 1, width: pixels, input_row: 0, at: 0 };
            self.product(worker, input, to, rows, epilogue, blocks);
        });
    }

    /// Calls `task` with a worker and a group of blocks, for all groups.
    fn by_blocks(&self, pool: &ThreadPool, task: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let blocks = self.packed.blocks();
        let group = blocks.div_ceil(4 * pool.threads());
        pool.run(blocks.div_ceil(group), &|i, worker| task(worker, i * group..((i + 1) * group).min(blocks)));
    }

    fn by_band(&self, pool: &ThreadPool, input: &[f32], to: Target, epilogue: Epilogue<'_>, scratch: &mut [f32]) {
        let [height, width] = self.size;
        let share = self.feeding_len() / self.threads;
        let scratch = SendPtr(scratch.as_mut_ptr());
        pool.run(height.div_ceil(self.band), &|task, worker| {
            // SAFETY: each worker has a share of its own, within what `run` checked.
            let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(worker * share), share) };
            let (feed, own) = scratch.split_at_mut(self.feed_len());
            let rows = task * self.band..((task + 1) * self.band).min(height);
            // SAFETY: `feed` is this worker's, and as long as a band needs.
            unsafe { self.fill(input, rows.clone(), 0..self.channels, SendPtr(feed.as_mut_ptr()), own) };
            let fed = Rows { at: rows.start * width, ..self.fed(rows.len()) };
            self.product(worker, feed, to, fed, epilogue, 0..self.packed.blocks());
        });
    }

    fn in_two_phases(&self, pool: &ThreadPool, input: &[f32], to: Target, epilogue: Epilogue<'_>, scratch: &mut [f32]) {
        let height = self.size[0];
        let (feed, own) = scratch.split_at_mut(self.feed_len());
        let share = own.len() / self.threads;
        let (target, own) = (SendPtr(feed.as_mut_ptr()), SendPtr(own.as_mut_ptr()));
        let group = self.channels.div_ceil(4 * pool.threads());
        pool.run(self.channels.div_ceil(group), &|task, worker| {
            // SAFETY: each worker has a share of its own.
            let own = unsafe { std::slice::from_raw_parts_mut(own.get().add(worker * share), share) };
            let channels = task * group..((task + 1) * group).min(self.channels);
            // SAFETY: tasks differ in channels; `feed` is as long as a band needs.
            unsafe { self.fill(input, 0..height, channels, target, own) };
        });
        let feed = &*feed;
        self.by_blocks(pool, &|worker, blocks| self.product(worker, feed, to, self.fed(height), epilogue, blocks));
    }

    /// The rows of the product for a band of `count` rows.
    fn fed(&self, count: usize) -> Rows {
        match &self.feed {
            Feed::Phases(phases) => Rows { count, width: self.size[1], input_row: phases.output_row(), at: 0 },
            _ => Rows { count: 1, width: count * self.size[1], input_row: 0, at: 0 },
        }
    }

    /// Computes channels `channels` of the feed for output rows `rows`; `own` is scratch of this task.
    ///
    /// # Safety
    /// `feed` must have [`feed_len`](Self::feed_len) floats, of which nobody else may use those of these channels.
    unsafe fn fill(
        &self,
        input: &[f32],
        rows: Range<usize>,
        channels: Range<usize>,
        feed: SendPtr<f32>,
        own: &mut [f32],
    ) {
        // SAFETY: the channels lie within the feed.
        let first = unsafe { feed.get().add(channels.start * self.feed_plane) };
        match &self.feed {
            Feed::Planes { .. } => {}
            Feed::Phases(phases) => {
                let input = &input[channels.start * self.in_plane..];
                let len = channels.len() * self.feed_plane;
                // SAFETY: as above, for all these channels.
                let feed = unsafe { std::slice::from_raw_parts_mut(first, len) };
                let planes = channels.len();
                phases.fill_planes(self.packed.isa(), input, self.in_plane, rows, feed, self.feed_plane, planes);
            }
            Feed::Depthwise(depthwise, range) => {
                // SAFETY: as above.
                unsafe { depthwise.run_at(input, self.in_plane, channels, rows, first, self.feed_plane, *range, own) }
            }
        }
    }
}

/// Rows of pixels that a product reads, and how many floats into each plane of the output their results lie.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    width: usize,
    input_row: usize,
    at: usize,
}

/// What products write: the output, and a tile for each worker.
#[derive(Clone, Copy)]
struct Target {
    output: SendPtr<f32>,
    tiles: SendPtr<f32>,
}

/// Rows of a band, where a row of the feed has `row` floats: as many as fit the cache, so that few vectors are partly
/// filled, and for several threads so few that each gets some bands. All of them where a plane is too small to share.
fn band_rows(height: usize, width: usize, row: usize, threads: usize) -> usize {
    let mut most = (BAND / row.max(1)).clamp(1, height);
    if threads > 1 {
        let share = height.div_ceil(2 * threads);
        if share * width < PIXELS {
            return height;
        }
        most = most.min(share);
    }
    // Vectors of 16 for a plane of bands of this height; the highest band among the best.
    let vectors = |rows: usize| {
        let (whole, rest) = (height / rows, height % rows);
        whole * (rows * width).div_ceil(16) + (rest * width).div_ceil(16)
    };
    (most.div_ceil(2)..=most).min_by_key(|&rows| (vectors(rows), height - rows)).unwrap_or(most)
}
