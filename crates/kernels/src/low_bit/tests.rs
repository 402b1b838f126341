//! What must hold of low-bit products, at every level that this machine has.

use super::formats::{Block, f16_to_f32};
use super::*;
use crate::sparse_conv_i8::Level;
use crate::testing::noise;
use crate::{Cpu, Isa};

const BLOCKS: [Format; 12] = [
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

/// Bytes by a linear congruential generator, the same as in `golden.py`.
fn bytes(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Where half-precision floats are in a block.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        _ => &[0],
    }
}

/// Blocks of any integers, whose floats are finite and between 2^-14 and 2 in magnitude.
fn blocks(format: Format, count: usize, seed: u32) -> Vec<u8> {
    let size = format.block().1;
    let mut all = bytes(count * size, seed);
    for block in all.chunks_exact_mut(size) {
        for &at in halves(format) {
            block[at + 1] = block[at + 1] & 0xbf | 0x04;
        }
    }
    all
}

/// FNV-1a over the bits of the values.
fn digest(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|v| v.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn values_are_those_of_the_reference_implementation() {
    // Written by `golden.py` with the `gguf` package of llama.cpp.
    for line in include_str!("golden.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, wanted) = line.split_once(' ').expect("a name and a digest");
        let format = BLOCKS.into_iter().find(|f| f.name() == name).expect("a format known here");
        let mut values = vec![0.0; 64 * format.block().0];
        dequantise(format, &blocks(format, 64, 7), &mut values);
        assert_eq!(format!("{:016x}", digest(&values)), wanted, "{name}");
    }
}

#[test]
fn half_precision_round_trips_and_rounds_to_even() {
    for bits in 0..=u16::MAX {
        let value = f16_to_f32(bits);
        if value.is_nan() {
            assert_eq!(f32_to_f16(value) & 0x7c00, 0x7c00);
        } else {
            assert_eq!(f32_to_f16(value), bits, "{value}");
        }
    }
    for (value, wanted) in
        [(1.0 + 1.0 / 2048.0, 0x3c00), (1.0 + 3.0 / 2048.0, 0x3c02), (65519.9, 0x7bff), (65520.0, 0x7c00)]
    {
        assert_eq!(f32_to_f16(value), wanted, "{value}");
    }
    assert_eq!([f32_to_f16(2.0f32.powi(-25)), f32_to_f16(1.5 * 2.0f32.powi(-25))], [0, 1]);
}

#[test]
fn a_packed_row_has_the_values_of_its_bytes() {
    let cpu = Cpu::new(Isa::Scalar, 2);
    for level in Level::available() {
        for format in BLOCKS {
            let (k, rows) = (512, 19);
            let row_bytes = format.row_bytes(k).unwrap();
            let data = blocks(format, rows * row_bytes / format.block().1, 3);
            let matrix = Matrix::pack_for(&cpu, level, format, rows, k, &data);
            let (mut found, mut wanted) = (vec![0.0; k], vec![0.0; k]);
            for row in 0..rows {
                matrix.row(row, &mut found);
                dequantise(format, &data[row * row_bytes..][..row_bytes], &mut wanted);
                assert_eq!(digest(&found), digest(&wanted), "{level} {} row {row}", format.name());
            }
        }
    }
}

/// A row times a column as the contract says: integers exactly, floats in the order of `k`.
fn reference(format: Format, row: &[u8], x: &Activations, column: usize, fused: bool) -> f32 {
    let fma = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
    let (weights, size) = format.block();
    let sub = format.sub_block();
    let (quants, scales) = x.column(column);
    let mut total = 0.0f32;
    let mut block = Block::default();
    for (b, bytes) in row.chunks_exact(size).enumerate() {
        format.read(bytes, &mut block);
        let (d, m) = (f16_to_f32(block.scale), format.min_sign() * f16_to_f32(block.min));
        for j in 0..weights / sub {
            let at = b * weights + j * sub;
            let product =
                |i: usize| (i32::from(block.quants[j * sub + i]) - format.offset()) * i32::from(quants[at + i]);
            let dot: i32 = (0..sub).map(product).sum();
            let scale = if weights == 32 { d } else { d * f32::from(block.scales[j]) };
            total = fma(dot as f32, scale * scales[at / 32], total);
            if format.min_sign() != 0.0 {
                let min = if weights == 32 { m } else { m * f32::from(block.mins[j]) };
                let sum: i32 = quants[at..at + sub].iter().map(|&q| i32::from(q)).sum();
                total = fma(min, scales[at / 32] * sum as f32, total);
            }
        }
    }
    total
}

#[test]
fn every_product_is_the_reference_bit_by_bit() {
    for level in Level::available() {
        for threads in [1, 3] {
            let cpu = Cpu::new(Isa::Scalar, threads);
            for format in BLOCKS {
                for (rows, k, columns) in
                    [(1, 256, 1), (37, 512, 1), (16, 256, 2), (5, 768, 3), (33, 256, 4), (50, 512, 31)]
                {
                    let row_bytes = format.row_bytes(k).unwrap();
                    let data = blocks(format, rows * row_bytes / format.block().1, rows as u32);
                    let matrix = Matrix::pack_for(&cpu, level, format, rows, k, &data);
                    let mut x = Activations::new();
                    x.resize(columns, k);
                    x.quantise(&cpu, &noise(columns * k, 5));
                    let stride = rows + 3;
                    let mut out = vec![f32::NAN; columns * stride];
                    let mut scratch = Scratch::new();
                    multiply(&cpu, &x, &mut [Job { matrix: &matrix, out: &mut out, stride }], &mut scratch);
                    // WebAssembly has no vectors of its own here: what runs is portable, and rounds products before sums.
                    let fused = level != Level::Portable && !cfg!(target_arch = "wasm32");
                    for column in 0..columns {
                        for row in 0..rows {
                            let wanted = reference(format, &data[row * row_bytes..][..row_bytes], &x, column, fused);
                            let found = out[column * stride + row];
                            assert_eq!(
                                found.to_bits(),
                                wanted.to_bits(),
                                "{level} {} {rows}x{k}x{columns} at {row}, {column}: {found}, wanted {wanted}",
                                format.name()
                            );
                        }
                        assert!(column + 1 == columns || out[column * stride + rows].is_nan(), "wrote between columns");
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_do_not_saturate() {
    for level in Level::available() {
        let cpu = Cpu::new(Isa::Scalar, 1);
        for format in BLOCKS {
            for fill in [0x00, 0xff, 0x80, 0x7f] {
                let k = 256;
                let mut data = vec![fill; format.row_bytes(k).unwrap()];
                for block in data.chunks_exact_mut(format.block().1) {
                    for &at in halves(format) {
                        block[at..at + 2].copy_from_slice(&0x3c00u16.to_le_bytes());
                    }
                }
                let matrix = Matrix::pack_for(&cpu, level, format, 1, k, &data);
                let mut x = Activations::new();
                x.resize(5, k);
                let values: Vec<f32> = (0..5 * k).map(|i| if i / k % 2 == 0 { 127.0 } else { -127.0 }).collect();
                x.quantise(&cpu, &values);
                let mut out = vec![0.0; 5];
                multiply(&cpu, &x, &mut [Job { matrix: &matrix, out: &mut out, stride: 1 }], &mut Scratch::new());
                for (column, &found) in out.iter().enumerate() {
                    let wanted = reference(format, &data, &x, column, level != Level::Portable);
                    assert_eq!(found, wanted, "{level} {} filled with {fill:#x}", format.name());
                }
            }
        }
    }
}

#[test]
fn several_products_share_a_region() {
    let cpu = Cpu::new(Isa::detect(), 3);
    let k = 512;
    let pack = |format: Format, rows: usize| {
        let blocks = blocks(format, rows * k / format.block().0, 11);
        (Matrix::pack(&cpu, format, rows, k, &blocks), blocks)
    };
    let (a, _) = pack(Format::Q4_K, 100);
    let (b, _) = pack(Format::Q8_0, 7);
    for columns in [1, 20] {
        let mut x = Activations::new();
        x.resize(columns, k);
        x.quantise(&cpu, &noise(columns * k, 5));
        let mut scratch = Scratch::new();
        let (mut together, mut alone) = ([vec![0.0; columns * 100], vec![0.0; columns * 7]], [vec![], vec![]]);
        let [first, second] = &mut together;
        let mut jobs = [Job { matrix: &a, out: first, stride: 100 }, Job { matrix: &b, out: second, stride: 7 }];
        multiply(&cpu, &x, &mut jobs, &mut scratch);
        for (matrix, out) in [&a, &b].into_iter().zip(&mut alone) {
            *out = vec![0.0; columns * matrix.rows()];
            multiply(&cpu, &x, &mut [Job { matrix, out, stride: matrix.rows() }], &mut scratch);
        }
        assert_eq!(together, alone);
    }
}

#[test]
fn activations_are_within_half_a_step() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let mut values = noise(6 * 64, 9);
        values[64..96].fill(0.0);
        let mut x = Activations::new();
        x.resize(6, 64);
        x.quantise(&cpu, &values);
        for (column, values) in values.chunks_exact(64).enumerate() {
            let (quants, scales) = x.column(column);
            for (i, (&q, &v)) in quants.iter().zip(values).enumerate() {
                let scale = scales[i / 32];
                assert!((f32::from(q) * scale - v).abs() <= 0.5001 * scale, "{isa}: {q} · {scale} for {v}");
            }
        }
    }
}

#[test]
fn dense_products_equal_the_reference() {
    for level in Level::available() {
        let cpu = Cpu::new(Isa::Scalar, 2);
        for format in [Format::F32, Format::F16, Format::Bf16] {
            for (rows, k, columns) in [(1, 1, 1), (37, 65, 1), (70, 33, 7), (131, 40, 15)] {
                let (values, x) = (noise(rows * k, 1), noise(columns * k, 2));
                let matrix = DenseMatrix::pack_floats(&cpu, format, rows, k, &values);
                let matrix = if level == Level::of(cpu.isa) {
                    matrix
                } else {
                    let stored: Vec<u8> = (0..rows)
                        .flat_map(|row| {
                            let mut out = vec![0.0; k];
                            matrix.row(row, &mut out);
                            out
                        })
                        .flat_map(|v| match format {
                            Format::F32 => v.to_le_bytes().to_vec(),
                            Format::F16 => f32_to_f16(v).to_le_bytes().to_vec(),
                            _ => ((v.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
                        })
                        .collect();
                    DenseMatrix::pack_for(&cpu, level, format, rows, k, &stored)
                };
                let mut out = vec![f32::NAN; columns * rows];
                multiply_dense(&cpu, columns, &x, &mut [DenseJob { matrix: &matrix, out: &mut out, stride: rows }]);
                let mut row = vec![0.0; k];
                for r in 0..rows {
                    matrix.row(r, &mut row);
                    for t in 0..columns {
                        let wanted: f64 = row.iter().zip(&x[t * k..]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let found = f64::from(out[t * rows + r]);
                        assert!((found - wanted).abs() < 1e-5, "{level} {} {rows}x{k}x{columns}", format.name());
                    }
                }
            }
        }
    }
}
