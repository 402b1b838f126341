//! A packed weight, and its values.

use super::{WeightFormat, padded};
use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu, Memory};

const KERNEL: &str = "packed matrix";

/// Bytes of a file that are packed at a time.
const PART: usize = 64 << 20;

/// A weight `[rows, k]` on the GPU, in tiles of 16 rows (`kernels/low_bit.cuh`); 16-bit floats lie as rows. What pads rows and columns to whole tiles is zero.
#[derive(Debug)]
pub struct PackedMatrix {
    memory: Memory,
    format: WeightFormat,
    rows: usize,
    k: usize,
    gated: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Packing {
    from: [u64; 2],
    to: u64,
    rows: i32,
    tiles: i32,
    k: i32,
    row_bytes: i64,
    first: i32,
    count: i32,
}

impl PackedMatrix {
    /// Packs `rows` rows of `k` weights from the bytes of a file.
    ///
    /// # Errors
    /// If rows are no whole blocks, `bytes` are not as many, the matrix is too large, or memory is exhausted.
    pub fn pack(gpu: &Gpu, format: WeightFormat, rows: usize, k: usize, bytes: &[u8]) -> Result<PackedMatrix, Error> {
        PackedMatrix::stack(gpu, format, k, &[(rows, bytes)])
    }

    /// Packs matrices of the same format and number of columns as one, whose rows are those of the first, then those of the second
    /// and so on: queries, keys and values.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    pub fn stack(gpu: &Gpu, format: WeightFormat, k: usize, parts: &[(usize, &[u8])]) -> Result<PackedMatrix, Error> {
        let rows = parts.iter().try_fold(0usize, |sum, (rows, _)| sum.checked_add(*rows)).unwrap_or(usize::MAX);
        let row_bytes = check(format, rows, k)?;
        for (rows, bytes) in parts {
            if rows.checked_mul(row_bytes) != Some(bytes.len()) {
                return refuse!(KERNEL, "{} bytes are no {rows} rows of {k} {format:?}", bytes.len());
            }
        }
        if let [(_, bytes)] = parts {
            return PackedMatrix::from_sources(gpu, format, [rows, k], row_bytes, [bytes, &[]]);
        }
        // Parts that are not whole tiles share one.
        let joined = parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect::<Vec<u8>>();
        PackedMatrix::from_sources(gpu, format, [rows, k], row_bytes, [&joined, &[]])
    }

    /// Packs a gate and what it gates, of `rows` rows each: a multiple of 8. The packed matrix has rows of both in turn, eight at a
    /// time, and its product is [`Outcome::Gated`](super::Outcome::Gated).
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`], and if `rows` is no multiple of 8.
    pub fn pack_gated(
        gpu: &Gpu,
        format: WeightFormat,
        rows: usize,
        k: usize,
        [gate, up]: [&[u8]; 2],
    ) -> Result<PackedMatrix, Error> {
        let row_bytes = check(format, rows.saturating_mul(2), k)?;
        let bytes = rows.checked_mul(row_bytes);
        if !rows.is_multiple_of(8) || bytes != Some(gate.len()) || bytes != Some(up.len()) {
            return refuse!(KERNEL, "a gate of {rows} rows of {k} {format:?} in {} and {} bytes", gate.len(), up.len());
        }
        PackedMatrix::from_sources(gpu, format, [2 * rows, k], row_bytes, [gate, up])
    }

    /// A matrix whose packed bytes are in memory already, as [`PackedMatrix::packed_bytes`] many; `gated` as
    /// [`PackedMatrix::pack_gated`] makes it.
    ///
    /// # Errors
    /// If they are not as many, or rows are no whole blocks.
    pub fn from_packed(
        format: WeightFormat,
        rows: usize,
        k: usize,
        gated: bool,
        memory: Memory,
    ) -> Result<PackedMatrix, Error> {
        check(format, rows, k)?;
        if PackedMatrix::packed_bytes(format, rows, k) != Some(memory.bytes()) {
            return refuse!(KERNEL, "{} bytes are no packed {rows} x {k} of {format:?}", memory.bytes());
        }
        Ok(PackedMatrix { memory, format, rows, k, gated })
    }

    /// Bytes of a packed matrix; `None` on overflow.
    pub fn packed_bytes(format: WeightFormat, rows: usize, k: usize) -> Option<usize> {
        let (columns, bytes) = format.tile();
        rows.div_ceil(16).checked_mul(padded(k) / columns)?.checked_mul(bytes)
    }

    fn from_sources(
        gpu: &Gpu,
        format: WeightFormat,
        [rows, k]: [usize; 2],
        row_bytes: usize,
        sources: [&[u8]; 2],
    ) -> Result<PackedMatrix, Error> {
        let Some(bytes) = PackedMatrix::packed_bytes(format, rows, k) else {
            return refuse!(KERNEL, "{rows} x {k} is too large");
        };
        let memory = gpu.allocate(bytes)?;
        let gated = !sources[1].is_empty();
        let matrix = PackedMatrix { memory, format, rows, k, gated };
        if rows == 0 || k == 0 {
            return Ok(matrix);
        }
        let each = if gated { 2 } else { 1 };
        let groups = rows.div_ceil(16);
        // Groups of 16 rows whose bytes go together.
        let step = (PART / (16 * row_bytes)).clamp(1, groups);
        for first in (0..groups).step_by(step) {
            let count = step.min(groups - first);
            let part = |source: &[u8]| -> Result<Memory, Error> {
                let begin = first * 16 / each * row_bytes;
                let end = ((first + count) * 16 / each * row_bytes).min(source.len());
                gpu.upload(&source[begin.min(end)..end])
            };
            let from = [part(sources[0])?, if gated { part(sources[1])? } else { gpu.allocate(1)? }];
            let raw = Packing {
                from: [from[0].pointer(), if gated { from[1].pointer() } else { 0 }],
                to: matrix.memory.pointer(),
                rows: rows as i32,
                tiles: matrix.tiles() as i32,
                k: k as i32,
                row_bytes: row_bytes as i64,
                first: first as i32,
                count: count as i32,
            };
            let grid = Grid::flat(count * 16 * padded(k) / 8);
            // SAFETY: the kernel takes this; sources hold the rows of these groups, and the packed memory has room for all.
            unsafe { gpu.launch(format.kernels().pack, grid, arguments![raw], &|| format!("{rows} x {k}")) }?;
        }
        Ok(matrix)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes on the GPU, all of which a product reads.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The packed bytes.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Format.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Whether rows of a gate and of what it gates lie in turn.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Tiles of 16 rows.
    pub(super) fn tiles(&self) -> usize {
        padded(self.k) / self.format.tile().0
    }

    pub(super) fn pointer(&self) -> u64 {
        self.memory.pointer()
    }

    /// `count` rows from `first` on as numbers of the type [`WeightFormat::input`], `[count, padded(k)]`.
    ///
    /// # Errors
    /// If there are not so many rows, or `out` is too small, of another type or not aligned to 16 bytes.
    pub fn dequantize(&self, gpu: &Gpu, first: usize, count: usize, out: ElementsMut<'_>) -> Result<(), Error> {
        let kernel = self.format.kernels().dequantize;
        let width = padded(self.k);
        if first.checked_add(count).is_none_or(|end| end > self.rows)
            || out.0.dtype() != self.format.input()
            || !out.0.is_aligned(16)
        {
            return refuse!(kernel, "rows {first} and {count} more of {}, into {:?}", self.rows, out.0.dtype());
        }
        out.0.check(kernel, "the rows", count.checked_mul(width))?;
        if count == 0 || width == 0 {
            return Ok(());
        }
        let (from, to) = (self.pointer(), out.0.pointer());
        let [tiles, first, width] = [self.tiles(), first, width].map(|n| n as i32);
        let grid = Grid { blocks: [count, 1, 1], threads: 256, shared: 0 };
        // SAFETY: the kernel takes these types; rows lie within the matrix, and `out` has room for them, aligned.
        unsafe {
            gpu.launch_early(kernel, grid, arguments![from, tiles, first, width, to], &|| format!("{count} rows"))
        }
    }

    /// `x[i] = scale · row ids[i]`, for `tokens` row numbers (`U32`) in device memory, into f32 `[tokens, k]`. Numbers that are no row
    /// give NaN.
    ///
    /// # Errors
    /// If types differ, or something does not lie within its memory.
    pub fn embed(
        &self,
        gpu: &Gpu,
        tokens: usize,
        ids: Elements<'_>,
        scale: f32,
        x: ElementsMut<'_>,
    ) -> Result<(), Error> {
        let kernel = self.format.kernels().embed;
        if ids.dtype() != DType::U32 || x.0.dtype() != DType::F32 || self.gated {
            return refuse!(kernel, "numbers of {:?} and rows of {:?}", ids.dtype(), x.0.dtype());
        }
        ids.check(kernel, "the numbers", Some(tokens))?;
        x.0.check(kernel, "the rows", tokens.checked_mul(self.k))?;
        if tokens == 0 || self.k == 0 {
            return Ok(());
        }
        let [rows, tiles, k] = [self.rows, self.tiles(), self.k].map(|n| n as i32);
        let pointers = [self.pointer(), ids.pointer(), x.0.pointer()];
        let grid = Grid { blocks: [tokens, 1, 1], threads: 256, shared: 0 };
        let arguments = arguments![pointers[0], rows, tiles, k, pointers[1], scale, pointers[2]];
        // SAFETY: the kernel takes these types and checks the numbers; all was checked to lie in its memory.
        unsafe { gpu.launch_early(kernel, grid, arguments, &|| format!("{tokens} rows of {}", self.k)) }
    }
}

/// Bytes of a row in a file.
fn check(format: WeightFormat, rows: usize, k: usize) -> Result<usize, Error> {
    match format.row_bytes(k) {
        Some(bytes) if rows < 1 << 27 && k < 1 << 27 => Ok(bytes),
        _ => refuse!(KERNEL, "{rows} x {k} of {format:?} are no whole blocks, or too large"),
    }
}
