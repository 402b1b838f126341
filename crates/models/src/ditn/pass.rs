//! One pass of DITN down a picture.

use super::layers::SpatialLayer;
use super::schedule::{FAR_REACH, Grains, NEAR_REACH, Schedule, Work};
use super::{Ditn, PATCH};
use crate::{Sink, Source, Window};
use std::ops::Range;
use supple_tensor::kernels::attention::{for_each_patch, for_each_tile, multiply};
use supple_tensor::kernels::{AlignedBuf, Cpu, Rows};
use supple_tensor::rows::RowBuffer;

/// Pixels that a step should have at least, so that threads find enough work between two barriers.
const STEP_PIXELS: usize = 2048;
/// Most patch rows of a step.
const MAX_STEP_PATCHES: usize = 8;
/// Pixels of a task on the whole map.
const TILE: usize = 48;

/// The rolling windows of one spatial-aware layer; `T` is a window, or nothing where only sizes are counted.
struct SpatialRows<T> {
    input: T,
    /// The halves of the first product.
    context: T,
    value: T,
    /// After the 5×5 convolution.
    near: T,
    /// Between the two residual branches.
    middle: T,
    /// The feed-forward layer's first product.
    hidden: T,
}

struct UnitRows<T> {
    input: T,
    spatial: Vec<SpatialRows<T>>,
}

/// All rolling windows of a pass.
struct Windows<T> {
    picture: T,
    units: Vec<UnitRows<T>>,
    features: T,
    /// The head once more, for the rows that the body needs now.
    head: T,
    body: T,
    tail: T,
}

/// Height or width of the picture as the network sees it: whole patches.
fn padded(side: usize) -> usize {
    side.next_multiple_of(PATCH)
}

fn schedule(network: &Ditn, window: &Window, patches: Option<usize>) -> Schedule {
    let layers: Vec<usize> = network.units.iter().map(|u| u.spatial.len()).collect();
    let grains = Grains { patch: PATCH, body: network.body.row_step(), tail: network.tail.row_step() };
    let wanted = STEP_PIXELS.div_ceil(padded(window.columns_len()).max(1)).div_ceil(PATCH);
    let band = patches.unwrap_or(wanted.min(MAX_STEP_PATCHES)) * PATCH;
    Schedule::new(padded(window.height), &layers, grains, band)
}

/// Makes every rolling window by `make(capacity, width, stride)`.
fn windows<T>(
    network: &Ditn,
    schedule: &Schedule,
    width: usize,
    make: &mut dyn FnMut(usize, usize, usize) -> T,
) -> Windows<T> {
    let stride = network.features.stride;
    let last_unit = network.units.len() - 1;
    let mut units = Vec::new();
    let mut before = Work::Head;
    for (u, unit) in network.units.iter().enumerate() {
        let input = make(schedule.capacity(before, Work::Patches(u), 0), width, stride);
        before = Work::Patches(u);
        let mut spatial = Vec::new();
        for (s, layer) in unit.spatial.iter().enumerate() {
            let (near, mix, gate) = (Work::Near(u, s), Work::Mix(u, s), Work::Gate(u, s));
            let kept = schedule.capacity(before, mix, 0);
            spatial.push(SpatialRows {
                input: make(kept, width, stride),
                context: make(schedule.capacity(before, near, NEAR_REACH), width, stride),
                value: make(kept, width, stride),
                near: make(schedule.capacity(near, mix, FAR_REACH), width, stride),
                middle: make(schedule.capacity(mix, gate, 0), width, stride),
                hidden: make(schedule.capacity(mix, gate, 1), width, layer.feed_forward.hidden_stride()),
            });
            before = gate;
        }
        units.push(UnitRows { input, spatial });
    }
    let last = network.units[last_unit].spatial.len();
    let before = last.checked_sub(1).map_or(Work::Patches(last_unit), |s| Work::Gate(last_unit, s));
    let tail_stride = network.tail.shape().out_channels.next_multiple_of(supple_tensor::rows::CHANNEL_STEP);
    // Mirrored rows at the bottom read at most two patches back.
    let picture = schedule.capacity(Work::Read, Work::Body, 1).max(schedule.band() + 2 * PATCH);
    Windows {
        picture: make(picture, width, 3),
        units,
        features: make(schedule.capacity(before, Work::Body, 1), width, stride),
        head: make(schedule.band(), width, stride),
        body: make(schedule.capacity(Work::Body, Work::Tail, 1), width, stride),
        tail: make(schedule.band(), width, tail_stride),
    }
}

/// Floats of scratch that a pass needs.
fn scratch_len(network: &Ditn, cpu: &Cpu) -> usize {
    let features = &network.features;
    let patch = PATCH * PATCH * features.stride;
    let inner = network.units.iter().flat_map(|u| &u.inner).map(|layer| patch + features.patch_scratch(layer));
    let spatial = network.units.iter().flat_map(|u| &u.spatial);
    let tiles = spatial.map(|layer| TILE * (2 * features.stride + layer.feed_forward.gated_stride()));
    let pieces = inner.chain(tiles).max().unwrap_or(0).max(patch).next_multiple_of(16) * cpu.threads();
    [&network.head, &network.body, &network.tail].iter().map(|conv| conv.scratch_len(cpu)).fold(pieces, usize::max)
}

/// Bytes that a pass over `window` allocates.
pub(super) fn working_memory(network: &Ditn, cpu: &Cpu, window: &Window) -> usize {
    let width = padded(window.columns_len());
    let mut floats = scratch_len(network, cpu) + window.columns_len() * network.scale * 3 + width * 3;
    let schedule = schedule(network, window, None);
    windows(network, &schedule, width, &mut |capacity, width, stride| {
        floats += capacity * width * stride;
    });
    floats * size_of::<f32>()
}

/// Buffers and state of a pass.
pub(super) struct Pass<'a> {
    network: &'a Ditn,
    cpu: &'a Cpu,
    /// Size of the output, in input pixels.
    height: usize,
    columns: usize,
    /// Rows that the network sees.
    padded_height: usize,
    schedule: Schedule,
    windows: Windows<RowBuffer>,
    scratch: AlignedBuf,
    output_row: Vec<f32>,
    mirrored_row: Vec<f32>,
}

impl<'a> Pass<'a> {
    /// `patches` rows of patches are handled at a time; by default as many as keep threads busy.
    pub(super) fn new(network: &'a Ditn, cpu: &'a Cpu, window: &Window, patches: Option<usize>) -> Pass<'a> {
        let schedule = schedule(network, window, patches);
        let columns = window.columns_len();
        Pass {
            height: window.height,
            columns,
            padded_height: padded(window.height),
            windows: windows(network, &schedule, padded(columns), &mut RowBuffer::packed),
            scratch: AlignedBuf::zeroed(scratch_len(network, cpu)),
            output_row: vec![0.0; columns * network.scale * 3],
            mirrored_row: vec![0.0; padded(columns) * 3],
            schedule,
            network,
            cpu,
        }
    }

    pub(super) fn run(mut self, source: &mut Source<'_>, sink: &mut Sink<'_>) {
        let mut schedule = self.schedule.clone();
        while schedule.advance(&mut |work, rows| self.step(work, rows, source, sink)) {}
    }

    /// Runs one step; false if the sink wants no more.
    fn step(&mut self, work: Work, rows: Range<usize>, source: &mut Source<'_>, sink: &mut Sink<'_>) -> bool {
        let Pass { network, cpu, padded_height: height, .. } = *self;
        let scratch = &mut self.scratch;
        let Windows { picture, units, features, head, body, .. } = &mut self.windows;
        match work {
            Work::Read => self.read(rows, source),
            Work::Head => {
                let out = &mut units[0].input.rows_mut();
                network.head.run(cpu, picture.rows(), height, out, rows, 1.0, None, scratch);
            }
            Work::Patches(u) => {
                let (before, after) = units.split_at_mut(u + 1);
                let next_unit = after.first_mut().map_or(features, |unit| &mut unit.input);
                let UnitRows { input, spatial } = &mut before[u];
                let out = spatial.first_mut().map_or(next_unit, |layer| &mut layer.input);
                let inner = &network.units[u].inner;
                let task = |patch: &mut [f32], scratch: &mut [f32]| {
                    inner.iter().for_each(|layer| layer.run(&network.features, patch, scratch));
                };
                for_each_patch(cpu, PATCH, input.rows(), &mut out.rows_mut(), rows.clone(), scratch, &task);
                if let (Some(layer), Some(of)) = (network.units[u].spatial.first(), spatial.first_mut()) {
                    first_products(network, cpu, layer, of, rows, scratch);
                }
            }
            Work::Near(u, s) => {
                let (layer, of) = (&network.units[u].spatial[s], &mut units[u].spatial[s]);
                layer.near.run(cpu, of.context.rows(), height, &mut of.near.rows_mut(), rows, 1.0, None);
            }
            Work::Mix(u, s) => {
                mix(network, cpu, &network.units[u].spatial[s], &mut units[u].spatial[s], height, rows, scratch);
            }
            Work::Gate(u, s) => {
                let (before, after) = units.split_at_mut(u + 1);
                let next_unit = after.first_mut().map_or(features, |unit| &mut unit.input);
                let (before, after) = before[u].spatial.split_at_mut(s + 1);
                let of = &before[s];
                let layers = &network.units[u].spatial;
                match (after.first_mut(), layers.get(s + 1)) {
                    (Some(next), Some(next_layer)) => {
                        gate_and_first_products(network, cpu, &layers[s], of, next_layer, next, height, rows, scratch);
                    }
                    _ => gate(cpu, &layers[s], of, next_unit, height, rows, scratch),
                }
            }
            Work::Body => {
                // The head's output is computed again rather than kept for as long as the units lag behind it.
                let mut head = head.rows_mut();
                network.head.run(cpu, picture.rows(), height, &mut head, rows.clone(), 1.0, None, scratch);
                let (residual, out) = (Some(head.as_rows()), &mut body.rows_mut());
                network.body.run(cpu, features.rows(), height, out, rows, 1.0, residual, scratch);
            }
            Work::Tail => return self.deliver(rows, sink),
        }
        true
    }

    /// Takes rows from the source; mirrors the picture's last rows and columns to whole patches.
    fn read(&mut self, rows: Range<usize>, source: &mut Source<'_>) {
        let mut picture = self.windows.picture.rows_mut();
        let (len, last) = (self.columns * 3, self.columns - 1);
        for y in rows {
            if y < self.height {
                let row = picture.row_mut(y);
                source(y, &mut row[..len]);
                for x in self.columns..row.len() / 3 {
                    // A window too narrow to mirror is inexact as a whole.
                    let from = (2 * last).saturating_sub(x).min(last) * 3;
                    row.copy_within(from..from + 3, x * 3);
                }
            } else {
                let mirrored = &mut self.mirrored_row;
                mirrored.copy_from_slice(picture.row_mut(2 * (self.height - 1) - y));
                picture.row_mut(y).copy_from_slice(mirrored);
            }
        }
    }

    fn deliver(&mut self, rows: Range<usize>, sink: &mut Sink<'_>) -> bool {
        let Pass { network, cpu, padded_height: height, .. } = *self;
        let Windows { body, tail, .. } = &mut self.windows;
        let mut tail = tail.rows_mut();
        network.tail.run(cpu, body.rows(), height, &mut tail, rows.clone(), 1.0, None, &mut self.scratch);
        let (scale, stride) = (network.scale, tail.stride());
        let part = scale * 3;
        for y in rows.start..rows.end.min(self.height) {
            for sub_row in 0..scale {
                // The tail's channels were put in the order `[sub-row][sub-column][colour]` when they were packed.
                let pixels = tail.row_mut(y).chunks_exact(stride);
                for (to, pixel) in self.output_row.chunks_exact_mut(part).zip(pixels) {
                    to.copy_from_slice(&pixel[sub_row * part..][..part]);
                }
                if !sink(y * scale + sub_row, &self.output_row) {
                    return false;
                }
            }
        }
        true
    }
}

/// Pixels `columns` of a row, as one slice.
fn pixels<'a>(rows: Rows<'a>, y: usize, columns: &Range<usize>) -> &'a [f32] {
    &rows.row(y)[columns.start * rows.stride()..columns.end * rows.stride()]
}

/// What a spatial-aware layer makes of each pixel of its input alone: both halves of its first product.
fn first_products(
    network: &Ditn,
    cpu: &Cpu,
    layer: &SpatialLayer,
    of: &mut SpatialRows<RowBuffer>,
    rows: Range<usize>,
    scratch: &mut [f32],
) {
    let SpatialRows { input, context, value, .. } = of;
    let input = input.rows();
    let outputs = [&mut context.rows_mut(), &mut value.rows_mut()];
    for_each_tile(cpu, TILE, rows, outputs, scratch, &|y, columns, [context, value], scratch| {
        let input = pixels(input, y, &columns);
        layer.first_products(&network.features, columns.len(), input, context, value, scratch);
    });
}

/// From the large kernels to the feed-forward layer's first product.
fn mix(
    network: &Ditn,
    cpu: &Cpu,
    layer: &SpatialLayer,
    of: &mut SpatialRows<RowBuffer>,
    height: usize,
    rows: Range<usize>,
    scratch: &mut [f32],
) {
    let stride = network.features.stride;
    let SpatialRows { input, value, near, middle, hidden, .. } = of;
    let (input, value, near) = (input.rows(), value.rows(), near.rows());
    let outputs = [&mut middle.rows_mut(), &mut hidden.rows_mut()];
    for_each_tile(cpu, TILE, rows, outputs, scratch, &|y, columns, [middle, hidden], scratch| {
        let count = columns.len();
        let (a, b) = scratch.split_at_mut(count * stride);
        let b = &mut b[..count * stride];
        layer.far.strip(near, height, y, columns.clone(), a, stride);
        layer.mix.run(count, a, stride, b, stride, &[]);
        multiply(layer.mix.matrix.isa(), b, pixels(value, y, &columns));
        layer.last.run(count, b, stride, middle, stride, pixels(input, y, &columns));
        let feed_forward = &layer.feed_forward;
        network.features.normalise(&feed_forward.input, count, middle, a);
        feed_forward.input.run(count, a, stride, hidden, feed_forward.hidden_stride(), &[]);
    });
}

/// The rest of the feed-forward layer.
fn gate(
    cpu: &Cpu,
    layer: &SpatialLayer,
    of: &SpatialRows<RowBuffer>,
    out: &mut RowBuffer,
    height: usize,
    rows: Range<usize>,
    scratch: &mut [f32],
) {
    let (hidden, middle) = (of.hidden.rows(), of.middle.rows());
    for_each_tile(cpu, TILE, rows, [&mut out.rows_mut()], scratch, &|y, columns, [out], scratch| {
        layer.feed_forward.finish(hidden, height, y, columns.clone(), pixels(middle, y, &columns), out, scratch);
    });
}

/// The rest of the feed-forward layer, and what the next layer makes of each pixel alone.
#[allow(clippy::too_many_arguments)]
fn gate_and_first_products(
    network: &Ditn,
    cpu: &Cpu,
    layer: &SpatialLayer,
    of: &SpatialRows<RowBuffer>,
    next_layer: &SpatialLayer,
    next: &mut SpatialRows<RowBuffer>,
    height: usize,
    rows: Range<usize>,
    scratch: &mut [f32],
) {
    let (hidden, middle) = (of.hidden.rows(), of.middle.rows());
    let SpatialRows { input, context, value, .. } = next;
    let outputs = [&mut input.rows_mut(), &mut context.rows_mut(), &mut value.rows_mut()];
    for_each_tile(cpu, TILE, rows, outputs, scratch, &|y, columns, [out, context, value], scratch| {
        layer.feed_forward.finish(hidden, height, y, columns.clone(), pixels(middle, y, &columns), out, scratch);
        next_layer.first_products(&network.features, columns.len(), out, context, value, scratch);
    });
}
