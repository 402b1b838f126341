//! How GGUF stores elements: alone, or in blocks of a fixed number that share scales.

use std::fmt;

/// The stored type of a GGUF tensor. A row (the innermost dimension) is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // The names that ggml gives them.
#[allow(missing_docs)] // A table, further below, says all there is to say.
#[non_exhaustive]
pub enum BlockType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
}

/// `(type, number in the file, name, elements a block, bytes a block)`.
const TABLE: [(BlockType, u32, &str, usize, usize); 34] = {
    use BlockType::*;
    [
        (F32, 0, "F32", 1, 4),
        (F16, 1, "F16", 1, 2),
        (Q4_0, 2, "Q4_0", 32, 18),
        (Q4_1, 3, "Q4_1", 32, 20),
        (Q5_0, 6, "Q5_0", 32, 22),
        (Q5_1, 7, "Q5_1", 32, 24),
        (Q8_0, 8, "Q8_0", 32, 34),
        (Q8_1, 9, "Q8_1", 32, 36),
        (Q2_K, 10, "Q2_K", 256, 84),
        (Q3_K, 11, "Q3_K", 256, 110),
        (Q4_K, 12, "Q4_K", 256, 144),
        (Q5_K, 13, "Q5_K", 256, 176),
        (Q6_K, 14, "Q6_K", 256, 210),
        (Q8_K, 15, "Q8_K", 256, 292),
        (IQ2_XXS, 16, "IQ2_XXS", 256, 66),
        (IQ2_XS, 17, "IQ2_XS", 256, 74),
        (IQ3_XXS, 18, "IQ3_XXS", 256, 98),
        (IQ1_S, 19, "IQ1_S", 256, 50),
        (IQ4_NL, 20, "IQ4_NL", 32, 18),
        (IQ3_S, 21, "IQ3_S", 256, 110),
        (IQ2_S, 22, "IQ2_S", 256, 82),
        (IQ4_XS, 23, "IQ4_XS", 256, 136),
        (I8, 24, "I8", 1, 1),
        (I16, 25, "I16", 1, 2),
        (I32, 26, "I32", 1, 4),
        (I64, 27, "I64", 1, 8),
        (F64, 28, "F64", 1, 8),
        (IQ1_M, 29, "IQ1_M", 256, 56),
        (BF16, 30, "BF16", 1, 2),
        (TQ1_0, 34, "TQ1_0", 256, 54),
        (TQ2_0, 35, "TQ2_0", 256, 66),
        (MXFP4, 39, "MXFP4", 32, 17),
        (NVFP4, 40, "NVFP4", 64, 36),
        (Q1_0, 41, "Q1_0", 128, 18),
    ]
};

impl BlockType {
    /// Every type.
    pub fn all() -> impl Iterator<Item = BlockType> {
        TABLE.iter().map(|row| row.0)
    }

    /// The type with this number in the file.
    pub fn from_code(code: u32) -> Option<BlockType> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The type of this name, such as `Q4_K`, in capitals or not.
    pub fn from_name(name: &str) -> Option<BlockType> {
        TABLE.iter().find(|row| row.2.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    fn row(self) -> &'static (BlockType, u32, &'static str, usize, usize) {
        // Every variant has a row, which a test makes sure of.
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// Its number in the file.
    pub fn code(self) -> u32 {
        self.row().1
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements of one block; 1 for plain numbers.
    pub fn block_elements(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of `elements` elements; `None` if they are no whole number of blocks or the product overflows.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let block = self.block_elements();
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.block_bytes()))?
    }

    /// Whether each element is a number of its own.
    pub fn is_plain(self) -> bool {
        self.block_elements() == 1
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_row_of_its_own() {
        for block_type in BlockType::all() {
            assert_eq!(BlockType::from_code(block_type.code()), Some(block_type));
            assert_eq!(BlockType::from_name(&block_type.name().to_lowercase()), Some(block_type));
            assert_eq!(format!("{block_type:?}"), block_type.name());
            assert_eq!(block_type.bytes(3 * block_type.block_elements()), Some(3 * block_type.block_bytes()));
        }
        // The last variant: no variant comes after the rows.
        assert_eq!(BlockType::all().count(), BlockType::Q1_0 as usize + 1);
        assert_eq!(BlockType::Q4_K.bytes(255), None);
        assert_eq!(BlockType::F64.bytes(usize::MAX / 2), None);
    }
}
