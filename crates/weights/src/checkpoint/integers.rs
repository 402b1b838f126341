//! Matrices of small integers with scales and zero points: what GPTQ, AWQ and compressed-tensors store, unpacked.

/// A matrix of integers: element `(row, column)` is `scale × (code − zero)`, scale and zero being those of the row and of
/// the column's group.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct IntegerMatrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Bits of a code, 1 to 8.
    pub bits: u32,
    /// Columns that share a scale, in the order of storage; the last group may have fewer.
    pub group_size: usize,
    /// `[rows][columns]`, each below 2^bits.
    pub codes: Vec<u8>,
    /// `[rows][groups]`.
    pub scales: Vec<f32>,
    /// `[rows][groups]`.
    pub zeros: Vec<i16>,
    /// The group of each column, where that is not `column / group_size` ("act-order").
    pub group_of: Option<Vec<u32>>,
}

impl IntegerMatrix {
    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.scales.len().checked_div(self.rows).unwrap_or(0)
    }

    /// The group of a column.
    pub fn group(&self, column: usize) -> usize {
        match &self.group_of {
            Some(groups) => groups[column] as usize,
            None => column / self.group_size.max(1),
        }
    }

    /// `[rows][columns]` as numbers, each product rounded once.
    pub fn dequantize(&self) -> Vec<f32> {
        let groups = self.groups();
        let group_of: Vec<usize> = (0..self.columns).map(|column| self.group(column)).collect();
        let mut values = Vec::with_capacity(self.codes.len());
        for (row, codes) in self.codes.chunks_exact(self.columns.max(1)).enumerate() {
            let (scales, zeros) = (&self.scales[row * groups..], &self.zeros[row * groups..]);
            let value = |(&code, &group): (&u8, &usize)| f32::from(i16::from(code) - zeros[group]) * scales[group];
            values.extend(codes.iter().zip(&group_of).map(value));
        }
        values
    }
}

/// How codes lie in 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Code `i` at bit `i × bits`, crossing from word to word.
    Dense,
    /// `32 / bits` codes in each word, the lowest bits first.
    PerWord,
}

impl Packing {
    /// Words of `count` codes.
    pub(super) fn words(self, count: usize, bits: u32) -> usize {
        match self {
            Packing::Dense => (count as u64).saturating_mul(u64::from(bits)).div_ceil(32) as usize,
            Packing::PerWord => count.div_ceil((32 / bits) as usize),
        }
    }

    /// The packing that needs `words` words for `count` codes, `Dense` if both do.
    pub(super) fn find(count: usize, bits: u32, words: usize) -> Option<Packing> {
        [Packing::Dense, Packing::PerWord].into_iter().find(|packing| packing.words(count, bits) == words)
    }

    /// Code `index`; `word(i)` is word `i`.
    pub(super) fn code(self, index: usize, bits: u32, word: impl Fn(usize) -> u32) -> u8 {
        let mask = (1u32 << bits) - 1;
        let code = match self {
            Packing::Dense => {
                let at = index * bits as usize;
                let (first, shift) = (at / 32, (at % 32) as u32);
                let low = word(first) >> shift;
                if shift + bits > 32 { low | word(first + 1) << (32 - shift) } else { low }
            }
            Packing::PerWord => {
                let each = (32 / bits) as usize;
                word(index / each) >> (index % each * bits as usize)
            }
        };
        (code & mask) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_are_found() {
        for bits in 1..=8u32 {
            let codes: Vec<u8> = (0..77u32).map(|i| ((i * 37 + 11) & ((1 << bits) - 1)) as u8).collect();
            for packing in [Packing::Dense, Packing::PerWord] {
                let mut words = vec![0u32; packing.words(codes.len(), bits)];
                for (i, &code) in codes.iter().enumerate() {
                    let at = match packing {
                        Packing::Dense => i * bits as usize,
                        Packing::PerWord => i / (32 / bits as usize) * 32 + i % (32 / bits as usize) * bits as usize,
                    };
                    for bit in 0..bits as usize {
                        words[(at + bit) / 32] |= u32::from(code >> bit & 1) << ((at + bit) % 32);
                    }
                }
                let found: Vec<u8> = (0..codes.len()).map(|i| packing.code(i, bits, |word| words[word])).collect();
                assert_eq!(found, codes, "{bits} bits, {packing:?}");
            }
        }
    }
}
