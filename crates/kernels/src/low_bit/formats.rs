//! Block formats of GGUF files: what their bytes mean, and their exact values.
//!
//! A row is a sequence of blocks of 32 or 256 weights. All formats with blocks of integers say the same in different bytes:
//! weight `i` of sub-block `j` is `(d · scale_j) · (q_i − offset) + (m · min_j)`, where `d` and `m` are half-precision floats
//! of the block, `scale_j` and `min_j` small integers (1 where there are none) and `q_i` an integer of 2 to 8 bits, or an
//! index into a table. [`Block`] is that, unpacked; reading it is all that a format has to know.

/// A type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the formats")]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// Half-precision floats.
    F16,
    /// Brain floats.
    Bf16,
    /// Blocks of 32: 8-bit integers, one scale.
    Q8_0,
    /// Blocks of 32: 4 bits less 8, one scale.
    Q4_0,
    /// Blocks of 32: 4 bits, scale and minimum.
    Q4_1,
    /// Blocks of 32: 5 bits less 16, one scale.
    Q5_0,
    /// Blocks of 32: 5 bits, scale and minimum.
    Q5_1,
    /// Blocks of 256: 2 bits, sixteen 4-bit scales and minima.
    Q2_K,
    /// Blocks of 256: 3 bits less 4, sixteen 6-bit scales.
    Q3_K,
    /// Blocks of 256: 4 bits, eight 6-bit scales and minima.
    Q4_K,
    /// Blocks of 256: 5 bits, eight 6-bit scales and minima.
    Q5_K,
    /// Blocks of 256: 6 bits less 32, sixteen 8-bit scales.
    Q6_K,
    /// Blocks of 32: 4-bit indices into a table of 16 values, one scale.
    Iq4Nl,
    /// Blocks of 256: 4-bit indices into the same table, eight 6-bit scales.
    Iq4Xs,
}

/// Values of the 4-bit indices of `IQ4_NL` and `IQ4_XS`.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// An unpacked block of up to 256 weights.
#[derive(Clone, Debug)]
pub struct Block {
    /// Scale of the block, the bits of a half-precision float.
    pub scale: u16,
    /// Factor of the minima, as above, with its sign in [`Format::min_sign`]; 0 where there are none.
    pub min: u16,
    /// Integer scales of the sub-blocks, where the format has such.
    pub scales: [i8; 16],
    /// Integer minima of the sub-blocks, where the format has such.
    pub mins: [u8; 16],
    /// The integers, not negative; 8-bit ones have 128 added.
    pub quants: [u8; 256],
}

impl Default for Block {
    fn default() -> Block {
        Block { scale: 0, min: 0, scales: [1; 16], mins: [1; 16], quants: [0; 256] }
    }
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 15] = [
        Format::F32,
        Format::F16,
        Format::Bf16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::Iq4Nl,
        Format::Iq4Xs,
    ];

    /// The name that GGUF files give it.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::Bf16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::Iq4Nl => "IQ4_NL",
            Format::Iq4Xs => "IQ4_XS",
        }
    }

    /// Weights of a block, and its bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::Bf16 => (1, 2),
            Format::Q8_0 => (32, 34),
            Format::Q4_0 | Format::Iq4Nl => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q2_K => (256, 84),
            Format::Q3_K => (256, 110),
            Format::Q4_K => (256, 144),
            Format::Q5_K => (256, 176),
            Format::Q6_K => (256, 210),
            Format::Iq4Xs => (256, 136),
        }
    }

    /// Bytes of a row of `k` weights, if they are whole blocks and the number fits the address space.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        let (weights, bytes) = self.block();
        if k.is_multiple_of(weights) { (k / weights).checked_mul(bytes) } else { None }
    }

    /// Whether its weights are floats, not blocks of integers.
    pub const fn is_dense(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::Bf16)
    }

    /// Weights that share a scale.
    pub const fn sub_block(self) -> usize {
        match self {
            Format::Q2_K | Format::Q3_K | Format::Q6_K => 16,
            _ => 32,
        }
    }

    /// What is subtracted from the integers.
    pub const fn offset(self) -> i32 {
        match self {
            Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => 128,
            Format::Q4_0 => 8,
            Format::Q5_0 => 16,
            Format::Q3_K => 4,
            Format::Q6_K => 32,
            _ => 0,
        }
    }

    /// The sign of the minima: they are subtracted in blocks of 256, added in blocks of 32; 0 where there are none.
    pub const fn min_sign(self) -> f32 {
        match self {
            Format::Q4_1 | Format::Q5_1 => 1.0,
            Format::Q2_K | Format::Q4_K | Format::Q5_K => -1.0,
            _ => 0.0,
        }
    }

    /// Reads one block.
    ///
    /// # Panics
    /// If `bytes` is not one block, or the format is one of floats.
    pub fn read(self, bytes: &[u8], block: &mut Block) {
        assert_eq!(bytes.len(), self.block().1, "{}: bytes of a block", self.name());
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let Block { scale, min, scales, mins, quants } = block;
        *min = 0;
        if self.block().0 < 256 {
            (scales[0], mins[0]) = (1, 1);
        }
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => panic!("{} has no blocks", self.name()),
            Format::Q8_0 => {
                *scale = half(0);
                quants.iter_mut().zip(&bytes[2..]).for_each(|(q, b)| *q = b ^ 0x80);
            }
            Format::Q4_0 => {
                *scale = half(0);
                nibbles(&bytes[2..], 16, quants);
            }
            Format::Iq4Nl => {
                *scale = half(0);
                nibbles(&bytes[2..], 16, quants);
                quants[..32].iter_mut().for_each(|q| *q = iq4(*q));
            }
            Format::Q4_1 => {
                (*scale, *min) = (half(0), half(2));
                nibbles(&bytes[4..], 16, quants);
            }
            Format::Q5_0 => {
                *scale = half(0);
                nibbles(&bytes[6..], 16, quants);
                fifth_bits(&bytes[2..6], quants);
            }
            Format::Q5_1 => {
                (*scale, *min) = (half(0), half(2));
                nibbles(&bytes[8..], 16, quants);
                fifth_bits(&bytes[4..8], quants);
            }
            Format::Q2_K => {
                (*scale, *min) = (half(80), half(82));
                for (j, &byte) in bytes[..16].iter().enumerate() {
                    (scales[j], mins[j]) = ((byte & 15) as i8, byte >> 4);
                }
                pairs(&bytes[16..80], quants);
            }
            Format::Q3_K => {
                *scale = half(108);
                *scales = six_bit_scales(&bytes[96..108]);
                pairs(&bytes[32..96], quants);
                next_bits(&bytes[..32], 2, quants);
            }
            Format::Q4_K => {
                (*scale, *min) = (half(0), half(2));
                six_bit_pairs(&bytes[4..16], scales, mins);
                nibbles(&bytes[16..], 32, quants);
            }
            Format::Q5_K => {
                (*scale, *min) = (half(0), half(2));
                six_bit_pairs(&bytes[4..16], scales, mins);
                nibbles(&bytes[48..], 32, quants);
                next_bits(&bytes[16..48], 4, quants);
            }
            Format::Q6_K => {
                *scale = half(208);
                scales.iter_mut().zip(&bytes[192..208]).for_each(|(s, &b)| *s = b as i8);
                // Halves of 128: four runs of 32, of which the third and fourth are high nibbles.
                for (half, quants) in quants.chunks_exact_mut(128).enumerate() {
                    let high = &bytes[128 + half * 32..][..32];
                    for (run, quants) in quants.chunks_exact_mut(32).enumerate() {
                        let low = &bytes[half * 64 + (run % 2) * 32..][..32];
                        for ((q, low), high) in quants.iter_mut().zip(low).zip(high) {
                            *q = low >> (run / 2 * 4) & 15 | (high >> (run * 2) & 3) << 4;
                        }
                    }
                }
            }
            Format::Iq4Xs => {
                *scale = half(0);
                let high = half(2);
                for (j, scale) in scales.iter_mut().enumerate().take(8) {
                    let low = bytes[4 + j / 2] >> (j % 2 * 4) & 15;
                    *scale = (i32::from(low | ((high >> (2 * j) & 3) as u8) << 4) - 32) as i8;
                }
                nibbles(&bytes[8..], 16, quants);
                quants.iter_mut().for_each(|q| *q = iq4(*q));
            }
        }
    }
}

/// The value of an index, 128 added.
const fn iq4(index: u8) -> u8 {
    (IQ4_VALUES[index as usize & 15] as u8) ^ 0x80
}

/// Runs of `2 · half` weights: low nibbles of `half` bytes, then the high ones.
fn nibbles(bytes: &[u8], half: usize, quants: &mut [u8; 256]) {
    for (bytes, quants) in bytes.chunks_exact(half).zip(quants.chunks_exact_mut(2 * half)) {
        let (low, high) = quants.split_at_mut(half);
        for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

/// Adds the fifth bits of 32 weights.
fn fifth_bits(bits: &[u8], quants: &mut [u8; 256]) {
    for (&bits, quants) in bits.iter().zip(quants.chunks_exact_mut(8)) {
        // A copy in each byte, of which byte `i` keeps bit `i`; 127 more carry it to the top.
        let kept = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let fifth = (kept + 0x7f7f_7f7f_7f7f_7f7f) >> 3 & 0x1010_1010_1010_1010;
        quants.iter_mut().zip(fifth.to_le_bytes()).for_each(|(q, fifth)| *q |= fifth);
    }
}

/// Adds a bit above `low` of them: those of each 32 weights are one bit of 32 bytes.
fn next_bits(bits: &[u8], low: usize, quants: &mut [u8; 256]) {
    for (run, quants) in quants.chunks_exact_mut(32).enumerate() {
        quants.iter_mut().zip(bits).for_each(|(q, bits)| *q |= (bits >> run & 1) << low);
    }
}

/// 2-bit integers: runs of 128 weights from 32 bytes, four runs of 32 of two bits each.
fn pairs(bytes: &[u8], quants: &mut [u8; 256]) {
    for (bytes, quants) in bytes.chunks_exact(32).zip(quants.chunks_exact_mut(128)) {
        for (run, quants) in quants.chunks_exact_mut(32).enumerate() {
            quants.iter_mut().zip(bytes).for_each(|(q, byte)| *q = byte >> (2 * run) & 3);
        }
    }
}

/// Sixteen scales of 6 bits less 32: low nibbles in eight bytes, high pairs in four.
fn six_bit_scales(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Eight scales and eight minima of 6 bits in twelve bytes.
fn six_bit_pairs(bytes: &[u8], scales: &mut [i8; 16], mins: &mut [u8; 16]) {
    for j in 0..4 {
        scales[j] = (bytes[j] & 63) as i8;
        mins[j] = bytes[j + 4] & 63;
        scales[j + 4] = (bytes[j + 8] & 15 | bytes[j] >> 6 << 4) as i8;
        mins[j + 4] = bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4;
    }
}

/// The values of `bytes`, whole blocks of `format`; the scalar truth.
///
/// # Panics
/// If `out` is not whole blocks, or `bytes` is not as many.
pub fn dequantise(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "dequantise: bytes of {} weights", out.len());
    let (weights, size) = format.block();
    match format {
        Format::F32 => out.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(o, b)| {
            *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }),
        Format::F16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| {
            *o = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        }),
        Format::Bf16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| {
            *o = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
        }),
        _ => {
            let mut block = Block::default();
            let (sub, offset, sign) = (format.sub_block(), format.offset(), format.min_sign());
            for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(weights)) {
                format.read(bytes, &mut block);
                let (d, m) = (f16_to_f32(block.scale), sign * f16_to_f32(block.min));
                for (j, out) in out.chunks_exact_mut(sub).enumerate() {
                    let (scale, min) = (d * f32::from(block.scales[j]), m * f32::from(block.mins[j]));
                    for (o, &q) in out.iter_mut().zip(&block.quants[j * sub..]) {
                        let product = scale * (i32::from(q) - offset) as f32;
                        *o = if sign == 0.0 { product } else { product + min };
                    }
                }
            }
        }
    }
}

/// A half-precision float from its bits.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10 & 31), u32::from(bits & 0x3ff));
    match exponent {
        0 => {
            let magnitude = mantissa as f32 * (1.0 / (1 << 24) as f32);
            f32::from_bits(magnitude.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

/// The bits of `value` as a half-precision float, ties to even; beyond its range infinity.
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    let rounded = match magnitude {
        0x7f80_0001.. => 0x7e00,
        0x477f_f000.. => 0x7c00,
        // Normal numbers: the exponent's bias changes, and the lower 13 bits round.
        0x3880_0000.. => (magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13,
        // Adding one half leaves the mantissa, rounded, in the lowest bits.
        _ => (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000,
    };
    sign | rounded as u16
}
