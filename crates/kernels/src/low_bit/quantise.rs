//! Writing blocks of 32 weights: `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, by rounding to nearest, as ggml's reference does.
//! Blocks of 256 are those of `quantise_k`.
//!
//! Blocks (`d`, `m` half-precision, little-endian): `Q8_0` is d · 32 bytes; `Q4_0` d · 16 bytes, weight `i` in the lower half
//! of byte `i`, weight `i + 16` in the upper; `Q4_1` d · m · 16 bytes alike; `Q5_0` d · 32 fifth bits · 16 bytes; `Q5_1` d · m ·
//! 32 fifth bits · 16 bytes.

use super::f32_to_f16;

/// Weights of a block.
const BLOCK: usize = 32;

fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Appends `values`, whole blocks of 32, as `Q8_0`: `d = max |v| / 127`, integers from −127 to 127.
///
/// # Panics
///
/// As the other two: if `values` is no whole number of blocks.
pub fn q8_0(values: &[f32], output: &mut Vec<u8>) {
    for block in blocks(values) {
        let scale = block.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
        let inverse = reciprocal(scale);
        output.extend(f32_to_f16(scale).to_le_bytes());
        output.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
}

/// Appends `values`, whole blocks of 32, as `Q4_0`: the value farthest from zero is `−8 d`.
///
/// # Panics
///
/// As [`q8_0`].
pub fn q4_0(values: &[f32], output: &mut Vec<u8>) {
    for block in blocks(values) {
        let farthest = block.iter().fold(0f32, |most, &value| if value.abs() > most.abs() { value } else { most });
        let scale = farthest / -8.0;
        let inverse = f64::from(reciprocal(scale));
        output.extend(f32_to_f16(scale).to_le_bytes());
        pack(block, |value| f64::from(value) * inverse + 8.5, output);
    }
}

/// Appends `values`, whole blocks of 32, as `Q4_1`: from `m`, the least, in steps of `d`.
///
/// # Panics
///
/// As [`q8_0`].
pub fn q4_1(values: &[f32], output: &mut Vec<u8>) {
    for block in blocks(values) {
        let least = block.iter().copied().fold(f32::INFINITY, f32::min);
        let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = (most - least) / 15.0;
        let inverse = reciprocal(scale);
        output.extend(f32_to_f16(scale).to_le_bytes());
        output.extend(f32_to_f16(least).to_le_bytes());
        pack(block, |value| f64::from((value - least) * inverse + 0.5), output);
    }
}

/// Appends `values`, whole blocks of 32, as `Q5_0`: the value farthest from zero is `−16 d`.
///
/// # Panics
///
/// As [`q8_0`].
pub fn q5_0(values: &[f32], output: &mut Vec<u8>) {
    for block in blocks(values) {
        let farthest = block.iter().fold(0f32, |most, &value| if value.abs() > most.abs() { value } else { most });
        let scale = farthest / -16.0;
        let inverse = f64::from(reciprocal(scale));
        output.extend(f32_to_f16(scale).to_le_bytes());
        pack_five(block, |value| f64::from(value) * inverse + 16.5, output);
    }
}

/// Appends `values`, whole blocks of 32, as `Q5_1`: from `m`, the least, in steps of `d`.
///
/// # Panics
///
/// As [`q8_0`].
pub fn q5_1(values: &[f32], output: &mut Vec<u8>) {
    for block in blocks(values) {
        let least = block.iter().copied().fold(f32::INFINITY, f32::min);
        let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = (most - least) / 31.0;
        let inverse = reciprocal(scale);
        output.extend(f32_to_f16(scale).to_le_bytes());
        output.extend(f32_to_f16(least).to_le_bytes());
        pack_five(block, |value| f64::from((value - least) * inverse + 0.5), output);
    }
}

fn blocks(values: &[f32]) -> std::slice::ChunksExact<'_, f32> {
    assert!(values.len().is_multiple_of(BLOCK), "whole blocks");
    values.chunks_exact(BLOCK)
}

/// Two weights a byte; what is beyond 0 to 15 becomes the nearest of them.
fn pack(block: &[f32], code: impl Fn(f32) -> f64, output: &mut Vec<u8>) {
    let code = |value: f32| code(value).clamp(0.0, 15.0) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    output.extend(low.iter().zip(high).map(|(&low, &high)| code(low) | code(high) << 4));
}

/// The fifth bits of 32 weights, then two weights a byte; what is beyond 0 to 31 becomes the nearest of them.
fn pack_five(block: &[f32], code: impl Fn(f32) -> f64, output: &mut Vec<u8>) {
    let codes: [u8; BLOCK] = std::array::from_fn(|i| code(block[i]).clamp(0.0, 31.0) as u8);
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
    output.extend(bits.to_le_bytes());
    let (low, high) = codes.split_at(BLOCK / 2);
    output.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four blocks of floats, then what the package `gguf` makes of them as Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 (`iq_tables.py`).
    const GOLDEN: &[u8] = include_bytes!("quantise_golden.bin");

    #[test]
    fn blocks_are_those_of_the_reference() {
        let (raw, mut rest) = GOLDEN.split_at(4 * BLOCK * 4);
        let values: Vec<f32> = raw.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
        type Quantise = fn(&[f32], &mut Vec<u8>);
        let formats: [(Quantise, usize); 5] = [(q8_0, 34), (q4_0, 18), (q4_1, 20), (q5_0, 22), (q5_1, 24)];
        for (quantise, bytes) in formats {
            let (wanted, after) = rest.split_at(4 * bytes);
            rest = after;
            let mut found = Vec::new();
            quantise(&values, &mut found);
            assert_eq!(found, wanted, "blocks of {bytes} bytes");
        }
        assert!(rest.is_empty());
    }
}
