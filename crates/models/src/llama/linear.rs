//! A linear layer, whatever its weights are stored as.

use supple_tensor::Cpu;
use supple_tensor::kernels::low_bit::{
    Activations, DenseJob, DenseMatrix, Job, Matrix, Scratch, multiply, multiply_dense,
};

/// Weights `[rows, k]`.
#[derive(Clone, Debug)]
pub enum Linear {
    /// Floats of 16 or 32 bits.
    Dense(DenseMatrix),
    /// Blocks of integers.
    LowBit(Matrix),
}

/// Columns to be multiplied, in the forms that layers take.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub count: usize,
    /// `[count, k]`.
    pub floats: Vec<f32>,
    /// The same in 8 bits, where a layer wants it.
    pub integers: Activations,
}

impl Linear {
    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Linear::Dense(matrix) => matrix.rows(),
            Linear::LowBit(matrix) => matrix.rows(),
        }
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        match self {
            Linear::Dense(matrix) => matrix.k(),
            Linear::LowBit(matrix) => matrix.k(),
        }
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        match self {
            Linear::Dense(matrix) => matrix.bytes(),
            Linear::LowBit(matrix) => matrix.bytes(),
        }
    }

    /// The values of one row.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Linear::Dense(matrix) => matrix.row(row, out),
            Linear::LowBit(matrix) => matrix.row(row, out),
        }
    }

    /// Whether it takes activations in 8 bits.
    pub(super) fn takes_integers(&self) -> bool {
        matches!(self, Linear::LowBit(_))
    }
}

/// Multiplies several layers with the same columns; outputs are `[count, rows]`.
pub(super) fn apply<const N: usize>(
    cpu: &Cpu,
    x: &Columns,
    scratch: &mut Scratch,
    layers: [&Linear; N],
    outputs: [&mut [f32]; N],
) {
    let low = layers.map(|layer| if let Linear::LowBit(matrix) = layer { Some(matrix) } else { None });
    if low.iter().all(Option::is_some) {
        let mut outputs = outputs.into_iter();
        let mut jobs = low.map(|matrix| {
            let (Some(matrix), Some(out)) = (matrix, outputs.next()) else { unreachable!("all are there") };
            Job { matrix, stride: matrix.rows(), out }
        });
        return multiply(cpu, &x.integers, &mut jobs, scratch);
    }
    for (layer, out) in layers.into_iter().zip(outputs) {
        let stride = layer.rows();
        match layer {
            Linear::LowBit(matrix) => multiply(cpu, &x.integers, &mut [Job { matrix, out, stride }], scratch),
            Linear::Dense(matrix) => multiply_dense(cpu, x.count, &x.floats, &mut [DenseJob { matrix, out, stride }]),
        }
    }
}
