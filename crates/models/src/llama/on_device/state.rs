//! Keys and values of sequences on a GPU, and what a step reads from the host: which tokens, where they stand, and where their
//! pages lie. Everything lies in memory that is taken once, so that steps can be replayed.

use super::work::Work;
use super::{CHUNK, GpuLlama, ROWS, failed};
use crate::Error;
use crate::llama::Sequence;
use crate::llama::pages::{Pages, Storage};
use crate::llama::rope::Frequencies;
use std::collections::BTreeMap;
use std::fmt;
use supple_tensor::GpuError;
use supple_tensor::gpu::paged_attention::{PAGE, Pages as LayerPages};
use supple_tensor::gpu::words::post;
use supple_tensor::gpu::{DType, ElementsMut, Gpu, Graph, Memory, Pinned};

/// Keys and values of all layers.
pub(super) struct Kv {
    gpu: Gpu,
    pub layers: Vec<LayerPages>,
}

impl Storage for Kv {
    fn grow(&mut self, _: usize) -> Result<(), Error> {
        // All there may be was taken at the beginning.
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), Error> {
        self.layers.iter().try_for_each(|layer| layer.copy_page(&self.gpu, from as usize, to as usize)).map_err(failed)
    }
}

/// What a step reads: `U32` each.
pub(super) struct Control {
    /// A token of each row.
    pub ids: Memory,
    /// Its position.
    pub positions: Memory,
    /// How many positions it sees: one more.
    pub lengths: Memory,
    /// Rows whose logits are wanted.
    pub rows: Memory,
    /// Pages of each sequence, `[ROWS, pages]`.
    pub table: Memory,
    /// Pages of a row of the table.
    pub pages: usize,
    /// What the table holds.
    shadow: Vec<u32>,
}

/// Keys and values on a GPU with the memory of a pass.
pub struct GpuState {
    pub(super) gpu: Gpu,
    pages: Pages,
    pub(super) kv: Kv,
    pub(super) control: Control,
    /// Cosines and sines of all positions, for layers that see everything and for those with a window.
    pub(super) angles: [[Memory; 2]; 2],
    pub(super) work: Work,
    /// Steps by their number of rows and the most positions that a row sees; none for one that was taken once and not recorded yet.
    pub(super) graphs: BTreeMap<[usize; 2], Option<Graph>>,
    pub(super) use_graphs: bool,
    /// Logits of the last pass.
    host: Pinned,
    wanted: usize,
    /// Holds the page that rows without a sequence write to.
    padding: Sequence,
    positions: usize,
}

impl GpuState {
    pub(super) fn new(model: &GpuLlama, positions: usize) -> Result<GpuState, Error> {
        let (gpu, config) = (&model.gpu, &model.config);
        let count = positions.div_ceil(PAGE).saturating_add(1);
        let bytes = LayerPages::page_bytes(model.heads).checked_mul(count);
        let cache = bytes.and_then(|bytes| bytes.checked_mul(config.layers)).unwrap_or(usize::MAX);
        let exhausted = |error: GpuError| match error {
            GpuError::OutOfMemory { free, total, .. } => {
                let what = format!("keys and values of {positions} positions, and a pass,");
                Error::GpuMemory { what, wanted: cache.saturating_add(Work::bytes(model, positions)), free, total }
            }
            error => failed(error),
        };
        let (free, total) = gpu.memory().map_err(failed)?;
        if cache > total {
            let what = format!("keys and values of {positions} positions");
            return Err(Error::GpuMemory { what, wanted: cache, free, total });
        }
        let layers = (0..config.layers).map(|_| LayerPages::new(gpu, model.heads, count));
        let kv = Kv { gpu: gpu.clone(), layers: layers.collect::<Result<_, GpuError>>().map_err(exhausted)? };
        let angles = |frequencies: &Frequencies| angles(gpu, frequencies, positions);
        let angles = [angles(&model.frequencies[0])?, angles(&model.frequencies[1])?];
        let work = Work::new(gpu, model, count * PAGE).map_err(exhausted)?;
        let control = Control::new(gpu, count).map_err(exhausted)?;
        let host = gpu.pinned(4 * config.vocabulary).map_err(failed)?;
        let (graphs, padding) = (BTreeMap::new(), Sequence::default());
        let mut state = GpuState {
            gpu: gpu.clone(),
            pages: Pages::new(PAGE, count * PAGE),
            kv,
            control,
            angles,
            work,
            graphs,
            use_graphs: true,
            host,
            wanted: 0,
            padding,
            positions,
        };
        state.pages.extend(&mut state.kv, &mut state.padding, 1)?;
        Ok(state)
    }

    /// Whether steps are recorded as graphs and replayed, which changes nothing but the speed; they are if nothing is said.
    pub fn use_graphs(&mut self, yes: bool) {
        self.use_graphs = yes;
    }

    /// The logits of the last pass.
    pub fn logits(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.host)[..self.wanted]
    }

    /// Pages that sequences hold.
    pub fn pages_in_use(&self) -> usize {
        self.pages.in_use() - self.padding.pages.len()
    }

    /// A second sequence with the first `len` tokens of `sequence`, whose pages it shares.
    pub fn fork(&mut self, sequence: &Sequence, len: usize) -> Sequence {
        self.pages.fork(sequence, len)
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        self.pages.truncate(sequence, len);
    }

    /// Makes room for `count` more tokens.
    pub(super) fn extend(&mut self, sequence: &mut Sequence, count: usize) -> Result<(), Error> {
        let full = Error::CacheFull { positions: self.positions };
        // Angles are those of so many positions.
        if sequence.len + count > self.positions {
            return Err(full);
        }
        match self.pages.extend(&mut self.kv, sequence, count) {
            Err(Error::CacheFull { .. }) => Err(full),
            other => other,
        }
    }

    /// Room on the host for so many logits.
    pub(super) fn want(&mut self, logits: usize) -> Result<(), Error> {
        if self.host.len() < 4 * logits {
            self.host = self.gpu.pinned(4 * logits).map_err(failed)?;
        }
        self.wanted = logits;
        Ok(())
    }

    /// Brings logits from the GPU's to place `at` of the host's.
    pub(super) fn fetch(&mut self, from: usize, at: usize, count: usize) -> Result<(), Error> {
        let target = &mut self.host[4 * at..4 * (at + count)];
        self.gpu.download(&self.work.logits, 4 * from, target).map_err(failed)
    }

    /// Row `row` of the table gets the pages of `sequence`, or that of rows without one.
    pub(super) fn place(&mut self, row: usize, sequence: Option<&Sequence>) -> Result<(), Error> {
        let pages = sequence.map_or(&self.padding.pages, |sequence| &sequence.pages);
        self.control.place(&self.gpu, row, pages)
    }
}

impl Control {
    fn new(gpu: &Gpu, pages: usize) -> Result<Control, GpuError> {
        let words = |count: usize| -> Result<Memory, GpuError> {
            let memory = gpu.allocate(4 * count)?;
            gpu.clear(&memory, 0, 4 * count)?;
            Ok(memory)
        };
        Ok(Control {
            ids: words(CHUNK)?,
            positions: words(CHUNK)?,
            lengths: words(CHUNK)?,
            rows: words(ROWS)?,
            table: words(ROWS * pages)?,
            pages,
            shadow: vec![0; ROWS * pages],
        })
    }

    fn place(&mut self, gpu: &Gpu, row: usize, pages: &[u32]) -> Result<(), Error> {
        let start = row * self.pages;
        let held = &mut self.shadow[start..][..pages.len()];
        let Some(first) = held.iter().zip(pages).position(|(a, b)| a != b) else { return Ok(()) };
        held.copy_from_slice(pages);
        let target = ElementsMut::new(&self.table, start + first, DType::U32);
        post(gpu, &pages[first..], target).map_err(failed)
    }
}

/// Cosines and sines of positions, `[positions, angles]` each.
fn angles(gpu: &Gpu, frequencies: &Frequencies, positions: usize) -> Result<[Memory; 2], Error> {
    let width = frequencies.len();
    let mut tables = [vec![0.0f32; positions * width], vec![0.0f32; positions * width]];
    let [cos, sin] = &mut tables;
    for (position, (cos, sin)) in cos.chunks_exact_mut(width).zip(sin.chunks_exact_mut(width)).enumerate() {
        frequencies.angles(position, cos, sin);
    }
    let [cos, sin] = tables.map(|table| gpu.upload(bytemuck::cast_slice(&table)).map_err(failed));
    Ok([cos?, sin?])
}

impl fmt::Debug for GpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuState({} positions)", self.positions)
    }
}
