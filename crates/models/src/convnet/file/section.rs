//! The weights of one sparse convolution in bytes, without the zeros that its pattern leaves out.
//!
//! Little-endian, without gaps, in this order:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `oc`, `ic` | `u32` × 2 | output and input channels |
//! | `kh`, `kw` | `u8` × 2 | height and width of the kernel |
//! | `b_oc` | `u8` | output channels of a block |
//! | `taps` | `u8` | taps of a block: 1, or `kh × kw` where all taps of an input channel are zero together |
//! | `dtype` | `u8` | type of values: 0 `f32`, 1 `f16` |
//! | `nblk` | `u32` | groups of output channels, `⌈oc / b_oc⌉` |
//! | `nnzb` | `u32` | blocks that are not zero |
//! | `nnz` | `u16[nblk]` | how many of them each group has |
//! | `col` | `u16[nnzb]` | where each lies, ascending within its group: `(y × kw + x) × ic + i` for blocks of one tap, else `i` |
//! | `val` | `dtype[nnzb][taps][b_oc]` | values; those beyond the last output channel are 0 |
//! | `bias` | `f32[oc]` | |

use half::f16;

use super::Storage;
use crate::convnet::{Conv, Pattern};

/// What the description says of a section.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub out_channels: usize,
    pub in_channels: usize,
    pub kernel: [usize; 2],
    pub pattern: Pattern,
}

/// How a section's blocks lie, the same for writing and reading.
struct Blocks {
    /// Output channels of a block.
    rows: usize,
    /// Taps of a block.
    taps: usize,
    /// Groups of output channels.
    groups: usize,
    /// Positions of blocks in a group.
    columns: usize,
}

impl Shape {
    /// Number of weights, zeros included.
    pub fn elements(self) -> Option<usize> {
        let row = self.kernel.into_iter().try_fold(self.in_channels, usize::checked_mul)?;
        row.checked_mul(self.out_channels)
    }

    /// `None` where the fields of a section could not hold it.
    fn blocks(self) -> Option<Blocks> {
        let area = self.kernel[0].checked_mul(self.kernel[1])?;
        let (rows, taps) = match self.pattern {
            Pattern::Dense => return None,
            Pattern::Block(rows) => (rows, 1),
            Pattern::Kernel(rows) => (rows, area),
        };
        let columns = (area.checked_div(taps)?).checked_mul(self.in_channels)?;
        let byte = |n: usize| (1..=usize::from(u8::MAX)).contains(&n);
        let fits = byte(rows) && byte(taps) && byte(self.kernel[0]) && byte(self.kernel[1]);
        let fits = fits && u32::try_from(self.out_channels).is_ok() && (1..=usize::from(u16::MAX)).contains(&columns);
        let groups = self.out_channels.checked_div(rows)? + usize::from(!self.out_channels.is_multiple_of(rows));
        fits.then_some(Blocks { rows, taps, groups, columns })
    }

    /// Index among the weights of tap number `tap` of the block at `column`, for output channel `o`.
    fn weight(self, blocks: &Blocks, o: usize, column: usize, tap: usize) -> usize {
        let area = self.kernel[0] * self.kernel[1];
        let (i, tap) = if blocks.taps == 1 && area > 1 {
            (column % self.in_channels, column / self.in_channels)
        } else {
            (column, tap)
        };
        (o * self.in_channels + i) * area + tap
    }
}

/// The section of a convolution; `None` if it has no pattern or is too large for one.
///
/// # Errors
/// If a weight is beyond the range of the storage.
pub(super) fn write(conv: &Conv, storage: Storage) -> Result<Option<Vec<u8>>, String> {
    let (out_channels, in_channels, kernel, pattern) =
        (conv.out_channels, conv.in_channels, conv.window.kernel, conv.pattern);
    let shape = Shape { out_channels, in_channels, kernel, pattern };
    let Some(blocks) = shape.blocks() else { return Ok(None) };
    let (mut counts, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..blocks.groups {
        let before = columns.len();
        for column in 0..blocks.columns {
            let first = values.len();
            for tap in 0..blocks.taps {
                for o in group * blocks.rows..(group + 1) * blocks.rows {
                    let weight = (o < out_channels).then(|| conv.weights[shape.weight(&blocks, o, column, tap)]);
                    values.push(weight.unwrap_or(0.0));
                }
            }
            if values[first..].iter().all(|&value| value == 0.0) {
                values.truncate(first);
            } else {
                columns.push(column as u16);
            }
        }
        counts.push((columns.len() - before) as u16);
    }

    let mut bytes = Vec::new();
    let Ok(stored) = u32::try_from(columns.len()) else { return Ok(None) };
    bytes.extend((out_channels as u32).to_le_bytes());
    bytes.extend((in_channels as u32).to_le_bytes());
    let dtype = if storage == Storage::F32 { 0 } else { 1 };
    bytes.extend([kernel[0] as u8, kernel[1] as u8, blocks.rows as u8, blocks.taps as u8, dtype]);
    bytes.extend((blocks.groups as u32).to_le_bytes());
    bytes.extend(stored.to_le_bytes());
    bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend(columns.iter().flat_map(|column| column.to_le_bytes()));
    match storage {
        Storage::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Storage::F16 => {
            let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
            if let Some(i) = halves.iter().position(|half| !half.is_finite()) {
                return Err(format!("has a weight, {}, that is beyond 16 bits", values[i]));
            }
            bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        }
    }
    bytes.extend(conv.bias.iter().flat_map(|bias| bias.to_le_bytes()));
    Ok(Some(bytes))
}

/// Weights with their zeros, and biases. The caller has seen to it that there is memory for [`Shape::elements`].
///
/// # Errors
/// What is wrong, as the end of a sentence that begins with the section.
pub(super) fn read(bytes: &[u8], shape: Shape) -> Result<(Vec<f32>, Vec<f32>), String> {
    let (Some(blocks), Some(elements)) = (shape.blocks(), shape.elements()) else {
        return Err("and a shape or a pattern that no section can have".into());
    };
    let mut reader = Reader { bytes };
    let (oc, ic) = (reader.u32()?, reader.u32()?);
    let [kh, kw, rows, taps, dtype] = reader.array()?;
    let (groups, stored) = (reader.u32()?, reader.u32()?);
    let found = [oc, ic, kh.into(), kw.into(), rows.into(), taps.into(), groups];
    let wanted = [
        shape.out_channels,
        shape.in_channels,
        shape.kernel[0],
        shape.kernel[1],
        blocks.rows,
        blocks.taps,
        blocks.groups,
    ];
    if found.map(|field| field as usize) != wanted {
        return Err(format!("of shape {found:?} in place of {wanted:?}"));
    }
    let size = match dtype {
        0 => 4,
        1 => 2,
        other => return Err(format!("of type {other}, which is neither 0 nor 1")),
    };
    let stored = stored as usize;
    let counts = reader.take(blocks.groups.checked_mul(2))?.as_chunks::<2>().0;
    let columns = reader.take(stored.checked_mul(2))?.as_chunks::<2>().0;
    let per_block = blocks.rows * blocks.taps;
    let values = reader.take(stored.checked_mul(per_block).and_then(|n| n.checked_mul(size)))?;
    let bias = reader.take(shape.out_channels.checked_mul(4))?;
    if !reader.bytes.is_empty() {
        return Err(format!("with {} bytes after its end", reader.bytes.len()));
    }

    let sum: usize = counts.iter().map(|count| usize::from(u16::from_le_bytes(*count))).sum();
    if sum != stored {
        return Err(format!("whose groups have {sum} blocks and which has {stored}"));
    }
    let value = |i: usize| match size {
        4 => f32::from_le_bytes(std::array::from_fn(|byte| values[i * 4 + byte])),
        _ => f16::from_le_bytes([values[i * 2], values[i * 2 + 1]]).to_f32(),
    };
    let mut weights = vec![0.0; elements];
    let mut block = 0;
    for (group, count) in counts.iter().enumerate() {
        let mut before = None;
        for _ in 0..u16::from_le_bytes(*count) {
            let column = usize::from(u16::from_le_bytes(columns[block]));
            if column >= blocks.columns || before.is_some_and(|before| column <= before) {
                return Err(format!("with column {column} after {before:?} of {}", blocks.columns));
            }
            before = Some(column);
            for tap in 0..blocks.taps {
                for row in 0..blocks.rows {
                    let (o, value) = (group * blocks.rows + row, value(block * per_block + tap * blocks.rows + row));
                    if o < shape.out_channels {
                        weights[shape.weight(&blocks, o, column, tap)] = value;
                    } else if value != 0.0 {
                        return Err(format!("with a weight of output channel {o} of {}", shape.out_channels));
                    }
                }
            }
            block += 1;
        }
    }
    let bias: Vec<f32> = bias.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
    match weights.iter().chain(&bias).find(|value| !value.is_finite()) {
        Some(value) => Err(format!("with a weight that is {value}")),
        None => Ok((weights, bias)),
    }
}

/// What is left of a section.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: Option<usize>) -> Result<&'a [u8], String> {
        let taken = count.and_then(|count| self.bytes.split_at_checked(count));
        let (taken, rest) = taken.ok_or_else(|| "that ends early".to_string())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(Some(N))?;
        taken.first_chunk().copied().ok_or_else(|| "that ends early".to_string())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }
}
