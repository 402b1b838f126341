//! Sums over rows, in an order that does not depend on threads.

use crate::Cpu;

/// Rows that are added up in one go, before sums are added to sums.
const BLOCK: usize = 256;

/// Floats of scratch that [`column_sums`] needs.
pub fn column_sums_scratch(rows: usize, len: usize) -> usize {
    rows.div_ceil(BLOCK) * len
}

/// `out[i] = Σ_row x[row][i]` for `rows` rows of `len` floats, `stride` apart.
///
/// # Panics
/// If a slice is shorter than its shape says.
pub fn column_sums(cpu: &Cpu, rows: usize, len: usize, x: &[f32], stride: usize, out: &mut [f32], scratch: &mut [f32]) {
    assert!(rows == 0 || x.len() >= (rows - 1) * stride + len, "column_sums: {} floats", x.len());
    let out = &mut out[..len];
    out.fill(0.0);
    if rows == 0 || len == 0 {
        return;
    }
    let partial = &mut scratch[..column_sums_scratch(rows, len)];
    cpu.pool.for_each_chunk(partial, len, &|block, sums| {
        sums.fill(0.0);
        for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
            for (sum, x) in sums.iter_mut().zip(&x[row * stride..][..len]) {
                *sum += x;
            }
        }
    });
    // Few are left: f64 keeps long sums exact.
    for (i, out) in out.iter_mut().enumerate() {
        *out = partial[i..].iter().step_by(len).map(|&v| f64::from(v)).sum::<f64>() as f32;
    }
}

/// The sum of `rows` rows of `len` floats, `stride` apart, in `f64`.
///
/// # Panics
/// If the slice is shorter than its shape says.
pub fn sum(rows: usize, len: usize, x: &[f32], stride: usize) -> f64 {
    let mut total = 0.0;
    for row in 0..rows {
        // Eight sums at a time hide the latency of addition.
        let (mut lanes, row) = ([0.0f64; 8], &x[row * stride..][..len]);
        let (chunks, rest) = row.as_chunks::<8>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += f64::from(v));
        }
        total += lanes.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::noise;

    #[test]
    fn sums_are_exact_and_the_same_on_any_number_of_threads() {
        for (rows, len, stride) in [(1, 1, 1), (3, 5, 8), (255, 17, 32), (257, 48, 48), (3001, 3, 16)] {
            let x = noise(rows * stride, 3);
            let run = |threads| {
                let mut out = vec![f32::NAN; len];
                let mut scratch = vec![f32::NAN; column_sums_scratch(rows, len)];
                column_sums(&Cpu::new(Isa::detect(), threads), rows, len, &x, stride, &mut out, &mut scratch);
                out
            };
            let found = run(1);
            assert_eq!(found, run(3));
            let mut total = 0.0;
            for (i, found) in found.iter().enumerate() {
                let wanted: f64 = (0..rows).map(|row| f64::from(x[row * stride + i])).sum();
                assert!((f64::from(*found) - wanted).abs() < 1e-4, "{rows}x{len}: {found} {wanted}");
                total += wanted;
            }
            assert!((sum(rows, len, &x, stride) - total).abs() < 1e-9);
        }
    }
}
