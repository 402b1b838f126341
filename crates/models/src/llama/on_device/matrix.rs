//! Weights on their way to a GPU, and there.

use super::failed;
use crate::Error;
use crate::llama::Format;
use crate::llama::load::{Packer, Source};
use supple_tensor::GpuError;
use supple_tensor::gpu::low_bit::{PackedMatrix, WeightFormat};
use supple_tensor::gpu::{DType, Gpu, Memory};
use supple_tensor::kernels::low_bit::{dequantise, f32_to_f16};

/// Weights that are converted at a time.
const AT_A_TIME: usize = 1 << 20;

/// A matrix `[rows, k]` of the host's, as it is stored.
pub(super) struct Raw {
    format: Format,
    pub rows: usize,
    pub k: usize,
    bytes: Vec<u8>,
}

/// What kernels of the GPU call a format, if they have it.
fn native(format: Format) -> Option<WeightFormat> {
    Some(match format {
        Format::F16 => WeightFormat::F16,
        Format::Bf16 => WeightFormat::Bf16,
        Format::Q8_0 => WeightFormat::Q8_0,
        Format::Q4_0 => WeightFormat::Q4_0,
        Format::Q4_1 => WeightFormat::Q4_1,
        Format::Q4_K => WeightFormat::Q4_K,
        Format::Q6_K => WeightFormat::Q6_K,
        _ => return None,
    })
}

impl Raw {
    /// The type of its products' inputs, once it is on the GPU.
    pub fn input(&self) -> DType {
        native(self.format).map_or(DType::F16, WeightFormat::input)
    }

    /// The same in half precision: formats without kernels, and where products with one input disagree on its type.
    pub fn halves(self) -> Raw {
        if self.format == Format::F16 {
            return self;
        }
        let Raw { format, rows, k, bytes } = self;
        let size = bytes.len() / rows.max(1);
        let rows_at_a_time = (AT_A_TIME / k.max(1)).max(1);
        let mut halves = Vec::with_capacity(2 * rows * k);
        let mut values = Vec::new();
        for part in bytes.chunks((rows_at_a_time * size).max(1)) {
            values.resize(part.len() / size.max(1) * k, 0.0);
            dequantise(format, part, &mut values);
            halves.extend(values.iter().flat_map(|&value| f32_to_f16(value).to_le_bytes()));
        }
        Raw { format: Format::F16, rows, k, bytes: halves }
    }

    /// With each `size` rows followed by others of zeros, up to `wanted`.
    pub fn pad_rows(self, size: usize, wanted: usize) -> Raw {
        if size == wanted {
            return self;
        }
        // All formats but those of floats have scales, and zeros in them are zeros.
        let Raw { format, rows, k, bytes } = self;
        let group = bytes.len() / rows.max(1) * size;
        let mut padded = Vec::with_capacity(bytes.len() / size * wanted);
        for part in bytes.chunks_exact(group.max(1)) {
            padded.extend_from_slice(part);
            padded.resize(padded.len() + group / size * (wanted - size), 0);
        }
        Raw { format, rows: rows / size * wanted, k, bytes: padded }
    }

    /// In half precision, with each `size` columns followed by others of zeros, up to `wanted`.
    pub fn pad_columns(self, size: usize, wanted: usize) -> Raw {
        if size == wanted {
            return self;
        }
        let Raw { rows, k, bytes, .. } = self.halves();
        // Rows are whole groups, so groups of all rows follow each other.
        let halves = Raw { format: Format::F16, rows: rows * k, k: 1, bytes }.pad_rows(size, wanted);
        Raw { format: Format::F16, rows, k: k / size * wanted, bytes: halves.bytes }
    }
}

/// Matrices as they are if the inputs of their products are of one type, else in half precision.
pub(super) fn agree<const N: usize>(parts: [Raw; N]) -> [Raw; N] {
    if parts.iter().all(|part| part.input() == parts[0].input()) { parts } else { parts.map(Raw::halves) }
}

/// Brings matrices to a GPU.
pub(super) struct Target<'a> {
    gpu: &'a Gpu,
    source: &'a dyn Source,
}

impl<'a> Target<'a> {
    pub fn new(gpu: &'a Gpu, source: &'a dyn Source) -> Target<'a> {
        Target { gpu, source }
    }

    /// A vector of floats; none where there are none.
    pub fn vector(&self, values: &[f32]) -> Result<Option<Memory>, Error> {
        if values.is_empty() {
            return Ok(None);
        }
        self.gpu.upload(bytemuck::cast_slice(values)).map(Some).map_err(|error| self.exhausted(error))
    }

    fn exhausted(&self, error: GpuError) -> Error {
        match error {
            GpuError::OutOfMemory { wanted, free, total } => {
                Error::GpuMemory { what: format!("the next weights of {}", self.source.name()), wanted, free, total }
            }
            error => failed(error),
        }
    }

    /// A matrix for products with inputs of its own.
    pub fn matrix(&self, raw: Raw) -> Result<PackedMatrix, Error> {
        self.stack([raw])?.pop().ok_or(Error::NoTokens)
    }

    /// Matrices that are multiplied with the same input: neighbours of one format as one.
    pub fn stack<const N: usize>(&self, parts: [Raw; N]) -> Result<Vec<PackedMatrix>, Error> {
        let parts = agree(parts).map(|raw| if native(raw.format).is_some() { raw } else { raw.halves() });
        let mut matrices = Vec::new();
        for run in parts.chunk_by(|a, b| a.format == b.format) {
            let pieces: Vec<(usize, &[u8])> = run.iter().map(|raw| (raw.rows, &raw.bytes[..])).collect();
            let Some(format) = native(run[0].format) else { continue };
            let packed = PackedMatrix::stack(self.gpu, format, run[0].k, &pieces);
            matrices.push(packed.map_err(|error| self.exhausted(error))?);
        }
        Ok(matrices)
    }

    /// A gate and what it gates, as one matrix.
    pub fn gated(&self, gate: Raw, up: Raw) -> Result<PackedMatrix, Error> {
        let same = gate.format == up.format && native(gate.format).is_some();
        let [gate, up] = if same { [gate, up] } else { [gate, up].map(Raw::halves) };
        let format = native(gate.format).unwrap_or(WeightFormat::F16);
        let packed = PackedMatrix::pack_gated(self.gpu, format, gate.rows, gate.k, [&gate.bytes, &up.bytes]);
        packed.map_err(|error| self.exhausted(error))
    }
}

impl Packer for Target<'_> {
    type Matrix = Raw;

    fn pack(&self, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Result<Raw, Error> {
        Ok(Raw { format, rows, k, bytes: bytes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_padded_with_zeros() {
        let raw = || Raw { format: Format::F16, rows: 4, k: 2, bytes: (1..=16).collect() };
        let rows = raw().pad_rows(2, 3);
        assert_eq!((rows.rows, rows.k), (6, 2));
        assert_eq!(rows.bytes, [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0, 0, 0]);
        let raw = Raw { format: Format::F16, rows: 2, k: 4, bytes: (1..=16).collect() };
        let columns = raw.pad_columns(2, 3);
        assert_eq!((columns.rows, columns.k), (2, 6));
        assert_eq!(columns.bytes, [1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 0, 0, 9, 10, 11, 12, 0, 0, 13, 14, 15, 16, 0, 0]);
    }
}
