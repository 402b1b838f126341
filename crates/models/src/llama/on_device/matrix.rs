//! Weights on a GPU.

use super::failed;
use crate::Error;
use crate::llama::Format;
use crate::llama::load::{Packer, Source};
use supple_tensor::GpuError;
use supple_tensor::gpu::{DType, Elements, Gpu, Memory};
use supple_tensor::kernels::low_bit::{dequantise, f32_to_f16};

/// Weights that are brought up at a time, where they are changed on the way.
const AT_A_TIME: usize = 1 << 24;

/// A matrix `[rows, k]` of floats.
pub(super) struct Matrix {
    memory: Memory,
    dtype: DType,
    rows: usize,
    k: usize,
}

impl Matrix {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        self.rows * self.k * self.dtype.size()
    }

    pub fn elements(&self) -> Elements<'_> {
        Elements::new(&self.memory, 0, self.dtype)
    }
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

    /// A vector of floats.
    pub fn vector(&self, values: &[f32]) -> Result<Memory, Error> {
        self.gpu.upload(bytemuck::cast_slice(values)).map_err(|error| self.exhausted(error))
    }

    fn exhausted(&self, error: GpuError) -> Error {
        match error {
            GpuError::OutOfMemory { wanted, free, total } => {
                Error::GpuMemory { what: format!("the next weights of {}", self.source.name()), wanted, free, total }
            }
            error => failed(error),
        }
    }
}

impl Packer for Target<'_> {
    type Matrix = Matrix;

    fn pack(&self, format: Format, rows: usize, k: usize, bytes: &[u8]) -> Result<Matrix, Error> {
        let exhausted = |error| self.exhausted(error);
        let dtype = match format {
            Format::F32 => DType::F32,
            Format::Bf16 => DType::BF16,
            _ => DType::F16,
        };
        if format.is_dense() {
            return Ok(Matrix { memory: self.gpu.upload(bytes).map_err(exhausted)?, dtype, rows, k });
        }
        let memory = self.gpu.allocate(2 * rows * k).map_err(exhausted)?;
        let size = bytes.len() / rows.max(1);
        let rows_at_a_time = (AT_A_TIME / k.max(1)).max(1);
        let mut values = Vec::new();
        for (i, part) in bytes.chunks(rows_at_a_time * size).enumerate() {
            values.resize(part.len() / size * k, 0.0);
            dequantise(format, part, &mut values);
            let halves: Vec<u16> = values.iter().map(|&value| f32_to_f16(value)).collect();
            let at = 2 * i * rows_at_a_time * k;
            self.gpu.write(&memory, at, bytemuck::cast_slice(&halves)).map_err(exhausted)?;
        }
        Ok(Matrix { memory, dtype, rows, k })
    }
}
