//! One pass of RLFN down a picture.

use super::Rlfn;
use super::schedule::{Capacities, Schedule, Step, attention_sides};
use crate::{Sink, Source, Window};
use std::ops::Range;
use supple_tensor::kernels::pooling::{Pooling, PoolingKind, pool};
use supple_tensor::kernels::spatial_attention::Lerp;
use supple_tensor::kernels::{AlignedBuf, Cpu};
use supple_tensor::rows::RowBuffer;

/// Slope of the leaky ReLU in blocks.
const SLOPE: f32 = 0.05;
/// Pixels that a step should have for each thread, so that it finds enough work between two barriers.
const STEP_PIXELS: usize = 4096;

/// The attention's pooling.
const POOLING: Pooling = Pooling { kind: PoolingKind::Max, kernel: [7; 2], stride: [3; 2], padding: [0; 2] };
/// Memory up to which buffers are kept, in bytes.
const KEEP: usize = 128 << 20;

/// The rolling windows of one block.
#[derive(Debug)]
struct BlockRows {
    input: RowBuffer,
    first: RowBuffer,
    second: RowBuffer,
    third: RowBuffer,
    reduced: RowBuffer,
    half: RowBuffer,
    pool: RowBuffer,
    coarse: RowBuffer,
}

/// State of a pass.
pub(super) struct Pass<'a> {
    network: &'a Rlfn,
    cpu: &'a Cpu,
    height: usize,
    /// Height of the attention's coarse map.
    coarse_height: usize,
    horizontal: Vec<Lerp>,
    schedule: Schedule,
    buffers: Buffers,
}

/// Memory of a pass. Small ones are kept by the network for its next pass of the same shape.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Width, height and threads.
    shape: [usize; 3],
    input: RowBuffer,
    blocks: Vec<BlockRows>,
    features: RowBuffer,
    body: RowBuffer,
    /// Rows of one step: before `c5`, and what the tail reads or writes.
    step: RowBuffer,
    tail: RowBuffer,
    scratch: AlignedBuf,
    output_row: Vec<f32>,
}

/// Rows that a pass handles at a time.
fn band(cpu: &Cpu, width: usize) -> usize {
    (STEP_PIXELS * cpu.threads()).div_ceil(width.max(1)).min(64)
}

/// Bytes that a pass over `window` allocates.
pub(super) fn working_memory(network: &Rlfn, cpu: &Cpu, window: &Window) -> usize {
    let width = window.columns_len();
    let schedule = Schedule::new(window.height, network.blocks.len(), network.tile, band(cpu, width));
    let (half_width, coarse_width) = attention_sides(width);
    let rows = schedule.band();
    let held = schedule.capacities();
    let (c, mid, f) = (network.channels, network.mid_channels, network.attention_channels);
    let mut bytes = held.input * width * 12 + network.scratch_len(cpu) * 4;
    for block in &held.blocks {
        bytes += RowBuffer::bytes(block.input + block.third, width, c)
            + RowBuffer::bytes(block.first + block.second, width, mid)
            + RowBuffer::bytes(block.third, width, f)
            + RowBuffer::bytes(block.half, half_width, f)
            + RowBuffer::bytes(block.pool, coarse_width, f)
            + RowBuffer::bytes(block.coarse, coarse_width, c);
    }
    bytes += RowBuffer::bytes(held.features + held.body + rows, width, c);
    bytes + RowBuffer::bytes(rows, width, network.tail.shape().out_channels)
}

impl Buffers {
    fn new(network: &Rlfn, cpu: &Cpu, shape: [usize; 3], schedule: &Schedule) -> Buffers {
        let width = shape[0];
        let Capacities { input, blocks, features, body } = schedule.clone().capacities();
        let (half_width, coarse_width) = attention_sides(width);
        let (c, mid, f) = (network.channels, network.mid_channels, network.attention_channels);
        let blocks = blocks.iter().map(|held| BlockRows {
            input: RowBuffer::new(held.input, width, c),
            first: RowBuffer::new(held.first, width, mid),
            second: RowBuffer::new(held.second, width, mid),
            third: RowBuffer::new(held.third, width, c),
            reduced: RowBuffer::new(held.third, width, f),
            half: RowBuffer::new(held.half, half_width, f),
            pool: RowBuffer::new(held.pool, coarse_width, f),
            coarse: RowBuffer::new(held.coarse, coarse_width, c),
        });
        Buffers {
            shape,
            input: RowBuffer::packed(input, width, 3),
            blocks: blocks.collect(),
            features: RowBuffer::new(features, width, c),
            body: RowBuffer::new(body, width, c),
            step: RowBuffer::new(schedule.band(), width, c),
            tail: RowBuffer::new(schedule.band(), width, network.tail.shape().out_channels),
            scratch: AlignedBuf::zeroed(network.scratch_len(cpu)),
            output_row: vec![0.0; width * network.scale * 3],
        }
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new(network: &'a Rlfn, cpu: &'a Cpu, window: &Window) -> Pass<'a> {
        let width = window.columns_len();
        let schedule = Schedule::new(window.height, network.blocks.len(), network.tile, band(cpu, width));
        let (_, coarse_height) = attention_sides(window.height);
        let (_, whole_coarse_width) = attention_sides(window.width);
        let (_, coarse_width) = attention_sides(width);
        // Coarse columns are numbered from the left edge of the picture; a window starts at a multiple of one.
        let offset = window.columns.start / COARSE_STEP;
        let local = |column: usize| column.saturating_sub(offset).min(coarse_width - 1);
        let horizontal = window.columns.clone().map(|x| {
            let lerp = Lerp::at(x, whole_coarse_width, window.width);
            Lerp { first: local(lerp.first), second: local(lerp.second), weight: lerp.weight }
        });
        let kept = network.spare.lock().unwrap_or_else(|e| e.into_inner()).take();
        let shape = [width, window.height, cpu.threads()];
        let buffers = match kept {
            Some(buffers) if buffers.shape == shape => buffers,
            _ => Buffers::new(network, cpu, shape, &schedule),
        };
        Pass { network, cpu, height: window.height, coarse_height, horizontal: horizontal.collect(), schedule, buffers }
    }

    pub(super) fn run(mut self, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) {
        let mut schedule = self.schedule.clone();
        while schedule.advance(&mut |step| self.step(step, source, sink)) {}
        if working_memory(self.network, self.cpu, window) <= KEEP {
            *self.network.spare.lock().unwrap_or_else(|e| e.into_inner()) = Some(self.buffers);
        }
    }

    /// Runs one step; false if the sink wants no more.
    fn step(&mut self, step: Step, source: &mut Source<'_>, sink: &mut Sink<'_>) -> bool {
        let Pass { network, cpu, height, coarse_height, .. } = *self;
        let buffers = &mut self.buffers;
        let scratch = &mut buffers.scratch;
        match step {
            Step::Read(rows) => {
                let mut input = buffers.input.rows_mut();
                for y in rows {
                    source(y, input.row_mut(y));
                }
            }
            Step::Head(rows) => {
                let out = buffers.blocks.first_mut().map_or(&mut buffers.features, |b| &mut b.input);
                network.head.run(cpu, buffers.input.rows(), height, &mut out.rows_mut(), rows, 1.0, None, scratch);
            }
            Step::First(b, rows) => {
                let (layer, block) = (&network.blocks[b].first, &mut buffers.blocks[b]);
                layer.run(cpu, block.input.rows(), height, &mut block.first.rows_mut(), rows, SLOPE, None, scratch);
            }
            Step::Second(b, rows) => {
                let (layer, block) = (&network.blocks[b].second, &mut buffers.blocks[b]);
                layer.run(cpu, block.first.rows(), height, &mut block.second.rows_mut(), rows, SLOPE, None, scratch);
            }
            Step::Third(b, rows) => {
                let (layers, block) = (&network.blocks[b], &mut buffers.blocks[b]);
                let mut step = buffers.step.rows_mut();
                let residual = Some(block.input.rows());
                layers.third.run(cpu, block.second.rows(), height, &mut step, rows.clone(), SLOPE, residual, scratch);
                let mut third = block.third.rows_mut();
                layers.mix.run(cpu, step.as_rows(), height, &mut third, rows.clone(), 1.0, None, scratch);
                let mut reduced = block.reduced.rows_mut();
                layers.reduce.run(cpu, third.as_rows(), height, &mut reduced, rows, 1.0, None, scratch);
            }
            Step::Half(b, rows) => {
                let (layer, block) = (&network.blocks[b].half, &mut buffers.blocks[b]);
                layer.run(cpu, block.reduced.rows(), height, &mut block.half.rows_mut(), rows, 1.0, None, scratch);
            }
            Step::Pool(b, rows) => {
                let block = &mut buffers.blocks[b];
                let (half_height, _) = attention_sides(height);
                let (half, channels) = (block.half.rows(), network.attention_channels);
                pool(cpu, &POOLING, channels, half, half_height, &mut block.pool.rows_mut(), rows);
            }
            Step::Coarse(b, rows) => {
                let (layer, block) = (&network.blocks[b].coarse, &mut buffers.blocks[b]);
                let coarse = &mut block.coarse.rows_mut();
                layer.run(cpu, block.pool.rows(), coarse_height, coarse, rows, 1.0, None, scratch);
            }
            Step::Gate(b, rows) => {
                let (before, after) = buffers.blocks.split_at_mut(b + 1);
                let block = &before[b];
                let out = after.first_mut().map_or(&mut buffers.features, |next| &mut next.input);
                network.blocks[b].gate.run(
                    cpu,
                    block.third.rows(),
                    block.reduced.rows(),
                    block.coarse.rows(),
                    &|y| Lerp::at(y, coarse_height, height),
                    &self.horizontal,
                    &mut out.rows_mut(),
                    rows,
                    scratch,
                );
            }
            Step::Body(rows) => {
                // The head's output is computed again rather than kept for as long as the blocks lag behind it.
                let mut head = buffers.step.rows_mut();
                network.head.run(cpu, buffers.input.rows(), height, &mut head, rows.clone(), 1.0, None, scratch);
                let (residual, mut body) = (Some(head.as_rows()), buffers.body.rows_mut());
                network.body.run(cpu, buffers.features.rows(), height, &mut body, rows, 1.0, residual, scratch);
            }
            Step::Tail(rows) => return self.deliver(rows, sink),
        }
        true
    }

    fn deliver(&mut self, rows: Range<usize>, sink: &mut Sink<'_>) -> bool {
        let Pass { network, cpu, height, .. } = *self;
        let buffers = &mut self.buffers;
        let mut tail = buffers.tail.rows_mut();
        network.tail.run(cpu, buffers.body.rows(), height, &mut tail, rows.clone(), 1.0, None, &mut buffers.scratch);
        let (scale, stride) = (network.scale, tail.stride());
        let part = scale * 3;
        for y in rows {
            for sub_row in 0..scale {
                // The tail's channels were put in the order `[sub-row][sub-column][colour]` when they were packed.
                let pixels = tail.row_mut(y).chunks_exact(stride);
                for (to, pixel) in buffers.output_row.chunks_exact_mut(part).zip(pixels) {
                    to.copy_from_slice(&pixel[sub_row * part..][..part]);
                }
                if !sink(y * scale + sub_row, &buffers.output_row) {
                    return false;
                }
            }
        }
        true
    }
}

/// Input pixels to a column of the attention's coarse map: a stride of 2 and one of 3.
pub(super) const COARSE_STEP: usize = 6;
