//! Weights in blocks of four outputs by four inputs, of which only those are stored that are not all zero.
//!
//! | part of [`PackedConv`] | shape |
//! |---|---|
//! | starts | `[⌈outputs / 4⌉ + 1]`, the first block of each group of four outputs |
//! | columns | `[blocks]`, which quad of inputs a block meets, ascending in each group |
//! | values | `[blocks]` of 16 bytes, or of 32 where weights are 16-bit pairs ([`Form`]) |
//!
//! Quads of inputs are counted `[kernel positions][⌈channels / 4⌉]`. Weights have their zero point subtracted and so need
//! nine bits; where a block is stored in signed bytes and a weight does not fit, another block at the same column holds
//! what is left of it. So the sum stays exact, and zeros stay zeros whatever the zero point.

use super::quads::ByteBuf;
use super::requantise::PackedFactors;
use super::vector::{Form, Level};
use super::{PackError, Requantisation};

/// A convolution in integers, as it is described.
#[derive(Clone, Copy, Debug)]
pub struct IntegerWeights<'a> {
    /// `[outputs][inputs][kernel positions]`, zero points subtracted: −255 to 255.
    pub weights: &'a [i16],
    /// `[outputs]`, in units of the sums.
    pub bias: &'a [i32],
    /// Channels read; 1 for a depthwise convolution.
    pub inputs: usize,
    /// Height times width of the kernel.
    pub area: usize,
    /// What stands for real 0 in the input, as an unsigned byte.
    pub input_zero: i32,
}

impl IntegerWeights<'_> {
    /// Weights of output `o`.
    fn row(&self, o: usize) -> &[i16] {
        &self.weights[o * self.inputs * self.area..][..self.inputs * self.area]
    }

    /// The biases, with what the zero point of the input and the offset of `form` contribute to the sums, and the
    /// requantisation, packed.
    ///
    /// # Errors
    /// If a weight has more than nine bits, a factor is impossible, or a sum could overflow.
    pub(super) fn factors(&self, form: Form, requantisation: &Requantisation) -> Result<PackedFactors, PackError> {
        assert_eq!(self.weights.len(), self.bias.len() * self.inputs * self.area, "one weight for each input");
        if !(0..=255).contains(&self.input_zero) {
            return Err(PackError::Factor);
        }
        let shifted = |(o, &bias): (usize, &i32)| {
            let (mut sum, mut magnitude) = (0i64, 0i64);
            for &weight in self.row(o) {
                if !(-255..=255).contains(&weight) {
                    return Err(PackError::Weight { output: o, weight });
                }
                sum += i64::from(weight);
                magnitude += i64::from(weight).abs();
            }
            let shifted = i64::from(bias) - i64::from(self.input_zero - form.offset()) * sum;
            // Bounds of what is added up, in any order, and of the result, which is the file's own sum.
            let partial = shifted.abs().max(255 * magnitude);
            if partial > i64::from(i32::MAX) {
                return Err(PackError::Overflow { output: o });
            }
            Ok((shifted as i32, i64::from(bias).abs() + 255 * magnitude))
        };
        let shifted: Result<Vec<(i32, i64)>, PackError> = self.bias.iter().enumerate().map(shifted).collect();
        let (bias, bounds): (Vec<i32>, Vec<i64>) = shifted?.into_iter().unzip();
        PackedFactors::new(&bias, &bounds, requantisation)
    }
}

/// Four rows of four weights each.
pub(super) type Block = [[i16; 4]; 4];

/// Appends `block` in `form`: nothing if it is all zero, several blocks where bytes cannot hold it. Returns how many.
pub(super) fn push_block(mut block: Block, form: Form, values: &mut Vec<u8>) -> usize {
    let is_zero = |block: &Block| block.iter().flatten().all(|&w| w == 0);
    let mut count = 0;
    while !is_zero(&block) {
        count += 1;
        match form {
            Form::Pairs => {
                for pair in [[0, 2], [1, 3]] {
                    for row in block {
                        values.extend(pair.into_iter().flat_map(|i: usize| row[i].to_le_bytes()));
                    }
                }
                return count;
            }
            Form::Bytes { .. } => {
                for weight in block.iter_mut().flatten() {
                    let part = (*weight).clamp(-128, 127);
                    values.push(part as i8 as u8);
                    *weight -= part;
                }
            }
        }
    }
    count
}

/// A convolution over all channels, packed for one level of instructions.
#[derive(Clone, Debug)]
pub struct PackedConv {
    pub(super) level: Level,
    pub(super) outputs: usize,
    pub(super) columns: usize,
    pub(super) starts: Vec<u32>,
    pub(super) block_columns: Vec<u32>,
    pub(super) values: ByteBuf,
    pub(super) factors: PackedFactors,
    pub(super) input_zero: u8,
    dense_blocks: usize,
}

impl PackedConv {
    /// Packs `weights`, with `requantisation` for what becomes of the sums.
    ///
    /// # Errors
    /// If a weight or a factor is out of range, or a sum could overflow 32 bits.
    ///
    /// # Panics
    /// If lengths do not fit, or this CPU does not offer `level`.
    pub fn new(
        level: Level,
        weights: &IntegerWeights<'_>,
        requantisation: &Requantisation,
    ) -> Result<PackedConv, PackError> {
        assert!(level.is_available(), "this CPU does not offer {level}");
        let form = level.form();
        let factors = weights.factors(form, requantisation)?;
        let outputs = weights.bias.len();
        let quads = weights.inputs.div_ceil(4);
        let columns = quads * weights.area;
        let (mut starts, mut block_columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for group in 0..outputs.div_ceil(4) {
            for column in 0..columns {
                let (position, quad) = (column / quads, column % quads);
                let mut block: Block = [[0; 4]; 4];
                for (r, row) in block.iter_mut().enumerate().take(outputs - group * 4) {
                    for (i, weight) in row.iter_mut().enumerate().take(weights.inputs - quad * 4) {
                        *weight = weights.row(group * 4 + r)[(quad * 4 + i) * weights.area + position];
                    }
                }
                let count = push_block(block, form, &mut values);
                block_columns.extend(std::iter::repeat_n(column as u32, count));
            }
            starts.push(block_columns.len() as u32);
        }
        let mut buffer = ByteBuf::new(values.len());
        buffer.as_mut_slice()[..values.len()].copy_from_slice(&values);
        Ok(PackedConv {
            level,
            outputs,
            columns,
            starts,
            block_columns,
            values: buffer,
            factors,
            input_zero: weights.input_zero as u8,
            dense_blocks: outputs.div_ceil(4) * columns,
        })
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Blocks stored over blocks that the layer has, which is above 1 where blocks are stored twice.
    pub fn density(&self) -> f64 {
        self.block_columns.len() as f64 / self.dense_blocks.max(1) as f64
    }

    /// Groups of four outputs.
    pub(super) fn groups(&self) -> usize {
        self.starts.len() - 1
    }
}
