//! GGUF formats that are only dequantised here: codebooks (IQ1, IQ2, IQ3), ternary numbers (TQ1, TQ2), 4-bit floats
//! (MXFP4, NVFP4).
//!
//! A block is 256 weights (32 of MXFP4, 64 of NVFP4). In the IQ formats eight neighbours, or four, are one entry of a
//! codebook times their signs; a scale of a few bits is shared by 16 or 32 weights and multiplies a half-precision scale of
//! the block. Values are exact: what `quants.py` of the package `gguf` gives, bit for bit (`iq_tables.py` writes the
//! codebooks and the blocks that the test compares).
//!
//! Bytes of a block, in order (`d` is a half-precision float, all words little-endian):
//!
//! | format | bytes |
//! |---|---|
//! | IQ1_S | d · 32 of indices · 8 words: 4 × 3 upper index bits, 3 of scale, sign of the shift |
//! | IQ1_M | 32 of indices · 16: for each two indices 3 upper bits and a shift · 4 words: 4 × 3 of scale, 4 of d |
//! | IQ2_XXS | d · 8 × (4 indices, 4 × 7 bits of signs and 4 of scale) |
//! | IQ2_XS | d · 32 words: 9 of index, 7 of signs · 8: two scales each |
//! | IQ2_S | d · 32 of indices · 32 of signs · 8: 4 × 2 upper index bits · 8: two scales each |
//! | IQ3_XXS | d · 64 of indices · 8 words of 32: 4 × 7 of signs, 4 of scale |
//! | IQ3_S | d · 64 of indices · 8 of upper index bits · 32 of signs · 4: two scales each |
//! | TQ1_0 | 48 of 5 ternary digits · 4 of 4 · d |
//! | TQ2_0 | 64 of 4 numbers of 2 bits · d |
//! | MXFP4 | exponent · 16 of two numbers |
//! | NVFP4 | 4 scales (8-bit floats) · 32 of two numbers |

use super::f16_to_f32;
use super::iq_grids as grids;

/// A format that is only dequantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names of the formats.
pub enum Codebook {
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

/// Values of IQ2.
const IQ2_VALUES: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// Values of IQ3_XXS.
const IQ3_XXS_VALUES: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// Values of MXFP4 and NVFP4, twice what they stand for.
const FP4_VALUES: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];
/// By how much IQ1 shifts the entries of its codebook.
const IQ1_SHIFT: f32 = 0.125;

impl Codebook {
    /// Every format.
    pub const ALL: [Codebook; 11] = {
        use Codebook::*;
        [Iq1S, Iq1M, Iq2Xxs, Iq2Xs, Iq2S, Iq3Xxs, Iq3S, Tq1_0, Tq2_0, Mxfp4, Nvfp4]
    };

    /// The name that GGUF files give it.
    pub const fn name(self) -> &'static str {
        match self {
            Codebook::Iq1S => "IQ1_S",
            Codebook::Iq1M => "IQ1_M",
            Codebook::Iq2Xxs => "IQ2_XXS",
            Codebook::Iq2Xs => "IQ2_XS",
            Codebook::Iq2S => "IQ2_S",
            Codebook::Iq3Xxs => "IQ3_XXS",
            Codebook::Iq3S => "IQ3_S",
            Codebook::Tq1_0 => "TQ1_0",
            Codebook::Tq2_0 => "TQ2_0",
            Codebook::Mxfp4 => "MXFP4",
            Codebook::Nvfp4 => "NVFP4",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Codebook> {
        Codebook::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Weights of a block, and its bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Codebook::Iq1S => (256, 50),
            Codebook::Iq1M => (256, 56),
            Codebook::Iq2Xxs | Codebook::Tq2_0 => (256, 66),
            Codebook::Iq2Xs => (256, 74),
            Codebook::Iq2S => (256, 82),
            Codebook::Iq3Xxs => (256, 98),
            Codebook::Iq3S => (256, 110),
            Codebook::Tq1_0 => (256, 54),
            Codebook::Mxfp4 => (32, 17),
            Codebook::Nvfp4 => (64, 36),
        }
    }

    /// The values of whole blocks: `values[i]` is weight `i`.
    ///
    /// # Panics
    ///
    /// If `blocks` is no whole number of blocks, or `values` does not hold as many weights as they.
    pub fn dequantize(self, blocks: &[u8], values: &mut [f32]) {
        let (weights, bytes) = self.block();
        assert!(blocks.len().is_multiple_of(bytes) && values.len() == blocks.len() / bytes * weights, "whole blocks");
        let block: fn(&[u8], &mut [f32]) = match self {
            Codebook::Iq1S => iq1_s,
            Codebook::Iq1M => iq1_m,
            Codebook::Iq2Xxs => iq2_xxs,
            Codebook::Iq2Xs => iq2_xs,
            Codebook::Iq2S => iq2_s,
            Codebook::Iq3Xxs => iq3_xxs,
            Codebook::Iq3S => iq3_s,
            Codebook::Tq1_0 => tq1_0,
            Codebook::Tq2_0 => tq2_0,
            Codebook::Mxfp4 => mxfp4,
            Codebook::Nvfp4 => nvfp4,
        };
        for (stored, values) in blocks.chunks_exact(bytes).zip(values.chunks_exact_mut(weights)) {
            block(stored, values);
        }
    }
}

fn word(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

/// Seven signs and an eighth that makes their number even.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 0x7f) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// `scale` with the sign that bit `index` says.
fn signed(scale: f32, signs: u8, index: usize) -> f32 {
    f32::from_bits(scale.to_bits() ^ (u32::from(signs >> index & 1) << 31))
}

/// Eight weights of IQ2.
fn iq2_eight(entry: u16, signs: u8, scale: f32, values: &mut [f32]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value = signed(scale, signs, i) * IQ2_VALUES[usize::from(entry >> (2 * i) & 3)];
    }
}

/// The scale of 2 and 3 bits: `d (s + 1/2)` in steps.
fn halves(d: f32, scale: u8, step: f32) -> f32 {
    d * (0.5 + f32::from(scale)) * step
}

fn iq2_xxs(block: &[u8], values: &mut [f32]) {
    let d = f16_to_f32(word(block, 0));
    for (part, values) in block[2..].chunks_exact(8).zip(values.chunks_exact_mut(32)) {
        let packed = u32::from_le_bytes([part[4], part[5], part[6], part[7]]);
        let scale = halves(d, (packed >> 28) as u8, 0.25);
        for (i, values) in values.chunks_exact_mut(8).enumerate() {
            iq2_eight(grids::IQ2_XXS[usize::from(part[i])], even_signs(packed >> (7 * i)), scale, values);
        }
    }
}

fn iq2_xs(block: &[u8], values: &mut [f32]) {
    let (d, scales) = (f16_to_f32(word(block, 0)), &block[66..]);
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let packed = word(&block[2..66], i);
        let scale = halves(d, scales[i / 4] >> (i / 2 % 2 * 4) & 15, 0.25);
        iq2_eight(grids::IQ2_XS[usize::from(packed & 511)], even_signs(u32::from(packed >> 9)), scale, values);
    }
}

fn iq2_s(block: &[u8], values: &mut [f32]) {
    let (d, low, signs, high, scales) =
        (f16_to_f32(word(block, 0)), &block[2..34], &block[34..66], &block[66..74], &block[74..]);
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let index = usize::from(low[i]) | usize::from(high[i / 4] >> (i % 4 * 2) & 3) << 8;
        let scale = halves(d, scales[i / 4] >> (i / 2 % 2 * 4) & 15, 0.25);
        iq2_eight(grids::IQ2_S[index], signs[i], scale, values);
    }
}

fn iq3_xxs(block: &[u8], values: &mut [f32]) {
    let (d, indices) = (f16_to_f32(word(block, 0)), &block[2..66]);
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let at = 66 + i / 4 * 4;
        let packed = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let (scale, signs) = (halves(d, (packed >> 28) as u8, 0.5), even_signs(packed >> (7 * (i % 4))));
        for (j, value) in values.iter_mut().enumerate() {
            let entry = grids::IQ3_XXS[usize::from(indices[2 * i + j / 4])];
            *value = signed(scale, signs, j) * IQ3_XXS_VALUES[usize::from(entry >> (j % 4 * 4) & 7)];
        }
    }
}

fn iq3_s(block: &[u8], values: &mut [f32]) {
    let (d, low, high, signs, scales) =
        (f16_to_f32(word(block, 0)), &block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let scale = d * f32::from(1 + 2 * (scales[i / 8] >> (i / 4 % 2 * 4) & 15));
        for (j, value) in values.iter_mut().enumerate() {
            let at = 2 * i + j / 4;
            let index = usize::from(low[at]) | usize::from(high[at / 8] >> (at % 8) & 1) << 8;
            let entry = grids::IQ3_S[index] >> (j % 4 * 4) & 7;
            *value = signed(scale, signs[i], j) * f32::from(2 * entry + 1);
        }
    }
}

/// Eight weights of IQ1.
fn iq1_eight(index: usize, negative: bool, scale: f32, values: &mut [f32]) {
    let shift = if negative { -IQ1_SHIFT } else { IQ1_SHIFT };
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(grids::IQ1[index] >> (2 * i) & 3) - 1.0 + shift);
    }
}

fn iq1_s(block: &[u8], values: &mut [f32]) {
    let (d, low) = (f16_to_f32(word(block, 0)), &block[2..34]);
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let packed = word(&block[34..], i / 4);
        let index = usize::from(low[i]) | usize::from(packed >> (i % 4 * 3) & 7) << 8;
        iq1_eight(index, packed & 0x8000 != 0, d * f32::from(2 * (packed >> 12 & 7) + 1), values);
    }
}

fn iq1_m(block: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&block[..32], &block[32..48], &block[48..]);
    let d = f16_to_f32((0..4).fold(0, |bits, i| bits | (word(scales, i) >> 12) << (4 * i)));
    for (i, values) in values.chunks_exact_mut(8).enumerate() {
        let packed = high[i / 2] >> (i % 2 * 4);
        let index = usize::from(low[i]) | usize::from(packed & 7) << 8;
        let scale = word(scales, i / 8) >> (i / 2 % 4 * 3) & 7;
        iq1_eight(index, packed & 8 != 0, d * f32::from(2 * scale + 1), values);
    }
}

/// Digit `place` of a byte that holds up to five ternary digits as a fraction of 256, less 1.
fn ternary(byte: u8, place: usize) -> f32 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let fraction = byte.wrapping_mul(POWERS[place]);
    f32::from((u16::from(fraction) * 3) >> 8) - 1.0
}

fn tq1_0(block: &[u8], values: &mut [f32]) {
    let d = f16_to_f32(word(&block[52..], 0));
    for (i, value) in values.iter_mut().enumerate() {
        let (byte, place) = match i {
            ..160 => (i % 32, i / 32),
            160..240 => (32 + (i - 160) % 16, (i - 160) / 16),
            _ => (48 + (i - 240) % 4, (i - 240) / 4),
        };
        *value = d * ternary(block[byte], place);
    }
}

fn tq2_0(block: &[u8], values: &mut [f32]) {
    let d = f16_to_f32(word(&block[64..], 0));
    for (i, value) in values.iter_mut().enumerate() {
        let digit = block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        *value = d * (f32::from(digit) - 1.0);
    }
}

fn mxfp4(block: &[u8], values: &mut [f32]) {
    // Half of 2^(e − 127), the table's values being doubled.
    let exponent = u32::from(block[0]);
    let scale = f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 });
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * FP4_VALUES[usize::from(block[1 + i % 16] >> (i / 16 * 4) & 15)];
    }
}

/// Half of an 8-bit float without sign: 4 bits of exponent, 3 of mantissa.
fn half_of_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    match (bits, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

fn nvfp4(block: &[u8], values: &mut [f32]) {
    let (scales, packed) = block.split_at(4);
    for (i, value) in values.iter_mut().enumerate() {
        let byte = packed[i / 16 * 8 + i % 8];
        *value = half_of_e4m3(scales[i / 16]) * FP4_VALUES[usize::from(byte >> (i / 8 % 2 * 4) & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of every format in the order of [`Codebook::ALL`], each three with the values that the reference gives.
    const GOLDEN: &[u8] = include_bytes!("iq_golden.bin");

    #[test]
    fn values_are_those_of_the_reference() {
        let mut rest = GOLDEN;
        for format in Codebook::ALL {
            let (weights, bytes) = format.block();
            let (blocks, after) = rest.split_at(3 * bytes);
            let (wanted, after) = after.split_at(3 * weights * 4);
            rest = after;
            let wanted = wanted.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
            let mut values = vec![f32::NAN; 3 * weights];
            format.dequantize(blocks, &mut values);
            for (i, (value, wanted)) in values.iter().zip(wanted).enumerate() {
                assert_eq!(*value, wanted, "{} weight {i}", format.name());
            }
            assert_eq!(Codebook::from_name(format.name()), Some(format));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn any_bytes_are_dequantised() {
        for format in Codebook::ALL {
            let (weights, bytes) = format.block();
            for byte in [0, 0x55, 0x80, 0xff] {
                format.dequantize(&vec![byte; bytes], &mut vec![0.0; weights]);
            }
        }
    }
}
