//! Attention between the channels of a patch, one head (DITN's inner-patch attention, arXiv 2308.02794; Restormer's
//! transposed attention on a patch).
//!
//! `out = A · v`, `A = softmax(temperature · q̂ · k̂ᵀ)`, where `q̂` and `k̂` are `q` and `k` with each channel divided by its
//! Euclidean norm over the patch, at least 1e-12, and the softmax runs over the channels of `k`.
//!
//! | argument | shape |
//! |---|---|
//! | `qkv` | `[positions][3 · stride]`: `q`, `k` and `v` of a pixel, each `channels` floats and finite padding |
//! | `out` | `[positions][stride]`; floats from `channels` on, up to whole vectors, get unspecified finite values |
//! | `scratch` | [`channel_attention_scratch`] floats: `Aᵀ` as `[channels][stride]`, then three rows of `stride` |
//!
//! The transpose of `A` is computed, so that softmax runs down columns, lane by lane, and `Aᵀ` is the right-hand matrix
//! of the second product as it lies. The norms scale sums as they leave registers, and so does the softmax's sum.

use crate::Isa;
use crate::math::exp;
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// Smallest norm that `q` and `k` are divided by.
const EPSILON: f32 = 1e-12;

/// Floats of scratch that [`channel_attention`] needs.
pub fn channel_attention_scratch(channels: usize, stride: usize) -> usize {
    (channels + 3) * stride
}

/// Attention between the channels of one patch, on the calling thread.
///
/// # Panics
/// If a slice is shorter than its shape says, or `stride` is no multiple of the vector length.
#[allow(clippy::too_many_arguments)]
pub fn channel_attention(
    isa: Isa,
    positions: usize,
    channels: usize,
    stride: usize,
    qkv: &[f32],
    temperature: f32,
    out: &mut [f32],
    scratch: &mut [f32],
) {
    assert!(isa <= Isa::detect(), "attention: this CPU lacks {isa}");
    assert!(channels > 0 && stride >= channels && stride.is_multiple_of(lanes(isa)), "attention: stride {stride}");
    assert!(qkv.len() >= positions * 3 * stride, "attention: qkv is {} floats", qkv.len());
    assert!(out.len() >= positions * stride, "attention: out is {} floats", out.len());
    assert!(scratch.len() >= channel_attention_scratch(channels, stride), "attention: scratch");
    let patch = Patch {
        positions,
        channels,
        stride,
        qkv: qkv.as_ptr(),
        temperature,
        out: out.as_mut_ptr(),
        scratch: scratch.as_mut_ptr(),
    };
    // SAFETY: the CPU has the instruction set, and the sizes were checked just now.
    unsafe { dispatch(isa, patch) }
}

struct Patch {
    positions: usize,
    channels: usize,
    stride: usize,
    qkv: *const f32,
    temperature: f32,
    out: *mut f32,
    scratch: *mut f32,
}

impl Kernel for Patch {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let (stride, channels) = (self.stride, self.channels);
        let vectors = channels.div_ceil(V::LANES);
        // SAFETY: `qkv`, `out` and `scratch` have the sizes of the table above, and vectors end within a stride.
        unsafe {
            let (q, k, v) = (self.qkv, self.qkv.add(stride), self.qkv.add(2 * stride));
            let map = self.scratch;
            let q_scale = map.add(channels * stride);
            let k_scale = q_scale.add(stride);
            let sums = k_scale.add(stride);
            self.scales::<V>(q, q_scale, vectors, self.temperature);
            self.scales::<V>(k, k_scale, vectors, 1.0);
            let logits = Product {
                rows: channels,
                depth: self.positions,
                a: k,
                a_row: 1,
                a_depth: 3 * stride,
                b: q,
                ldb: 3 * stride,
                c: map,
                ldc: stride,
                row_scale: k_scale,
                column_scale: q_scale,
            };
            logits.run::<V>(vectors);
            for i in 0..vectors {
                softmax::<V>(map.add(i * V::LANES), channels, stride, sums.add(i * V::LANES));
            }
            let mix = Product {
                rows: self.positions,
                depth: channels,
                a: v,
                a_row: 3 * stride,
                a_depth: 1,
                b: map,
                ldb: stride,
                c: self.out,
                ldc: stride,
                row_scale: std::ptr::null(),
                column_scale: sums,
            };
            mix.run::<V>(vectors);
        }
    }
}

impl Patch {
    /// `factor / max(‖column‖, ε)` for every column of `from`.
    #[inline(always)]
    unsafe fn scales<V: Simd>(&self, from: *const f32, to: *mut f32, vectors: usize, factor: f32) {
        // SAFETY: `from` holds `positions` rows and `to` one.
        unsafe {
            for i in 0..vectors {
                // Four sums, so that additions need not wait for each other.
                let mut sums = [V::splat(0.0); 4];
                for position in 0..self.positions {
                    let x = V::load(from.add(position * 3 * self.stride + i * V::LANES));
                    sums[position % 4] = x.mul_add(x, sums[position % 4]);
                }
                sums[0].add(sums[1]).add(sums[2].add(sums[3])).store(to.add(i * V::LANES));
            }
            for i in 0..vectors * V::LANES {
                *to.add(i) = factor / (*to.add(i)).sqrt().max(EPSILON);
            }
        }
    }
}

/// Replaces a column of vectors by `e^(x - max)` and stores the reciprocal of its sum.
#[inline(always)]
unsafe fn softmax<V: Simd>(column: *mut f32, rows: usize, stride: usize, reciprocal: *mut f32) {
    // SAFETY: the column has `rows` vectors.
    unsafe {
        let mut max = V::load(column);
        for row in 1..rows {
            max = max.max(V::load(column.add(row * stride)));
        }
        let mut sum = V::splat(0.0);
        for row in 0..rows {
            let at = column.add(row * stride);
            let e = exp(V::load(at).sub(max));
            e.store(at);
            sum = sum.add(e);
        }
        V::splat(1.0).div(sum).store(reciprocal);
    }
}

/// `C[row][col] = row_scale[row] · column_scale[col] · Σ_d A[row][d] · B[d][col]`, with any strides in `A`.
struct Product {
    rows: usize,
    depth: usize,
    a: *const f32,
    /// Floats from one row of `A` to the next, and from one element of a row to the next.
    a_row: usize,
    a_depth: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    /// Null for none.
    row_scale: *const f32,
    column_scale: *const f32,
}

impl Product {
    #[inline(always)]
    unsafe fn run<V: Simd>(&self, vectors: usize) {
        // SAFETY: all columns up to `vectors` exist.
        unsafe {
            let mut vector = 0;
            while V::REGISTERS >= 32 && vector + 4 <= vectors {
                self.panel::<V, 6, 4>(vector);
                vector += 4;
            }
            while vector + 2 <= vectors {
                self.panel::<V, 6, 2>(vector);
                vector += 2;
            }
            while vector < vectors {
                self.panel::<V, 6, 1>(vector);
                vector += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<V: Simd, const MR: usize, const NV: usize>(&self, vector: usize) {
        let mut row = 0;
        // SAFETY: rows below `rows` exist.
        unsafe {
            while row + MR <= self.rows {
                self.tile::<V, MR, NV>(row, vector);
                row += MR;
            }
            while row + 2 <= self.rows {
                self.tile::<V, 2, NV>(row, vector);
                row += 2;
            }
            while row < self.rows {
                self.tile::<V, 1, NV>(row, vector);
                row += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Simd, const MR: usize, const NV: usize>(&self, row: usize, vector: usize) {
        let column = vector * V::LANES;
        // SAFETY: the tile lies inside the matrices.
        unsafe {
            let mut sums = [[V::splat(0.0); NV]; MR];
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b.add(column);
            for _ in 0..self.depth {
                let mut columns = [V::splat(0.0); NV];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = V::load(b.add(j * V::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*a.add(i * self.a_row));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = value.mul_add(column, *sum);
                    }
                }
                a = a.add(self.a_depth);
                b = b.add(self.ldb);
            }
            for (i, sums) in sums.iter().enumerate() {
                let scale = if self.row_scale.is_null() { 1.0 } else { *self.row_scale.add(row + i) };
                for (j, &sum) in sums.iter().enumerate() {
                    let scale = V::load(self.column_scale.add(column + j * V::LANES)).mul(V::splat(scale));
                    sum.mul(scale).store(self.c.add((row + i) * self.ldc + column + j * V::LANES));
                }
            }
        }
    }
}

/// [`channel_attention`] in plain loops and `f64`: `[positions][channels]` from `qkv` as above.
pub fn channel_attention_reference(
    positions: usize,
    channels: usize,
    stride: usize,
    qkv: &[f32],
    temperature: f32,
) -> Vec<f64> {
    let at = |part: usize, n: usize, c: usize| f64::from(qkv[(n * 3 + part) * stride + c]);
    let norm = |part: usize, c: usize| {
        (0..positions).map(|n| at(part, n, c).powi(2)).sum::<f64>().sqrt().max(f64::from(EPSILON))
    };
    let mut out = vec![0.0; positions * channels];
    for i in 0..channels {
        let mut row: Vec<f64> = (0..channels)
            .map(|j| {
                let dot: f64 = (0..positions).map(|n| at(0, n, i) * at(1, n, j)).sum();
                dot / norm(0, i) / norm(1, j) * f64::from(temperature)
            })
            .collect();
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f64 = row.iter().sum();
        for n in 0..positions {
            out[n * channels + i] = (0..channels).map(|j| row[j] / sum * at(2, n, j)).sum();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, noise};

    #[test]
    fn every_shape_equals_the_reference() {
        for isa in Isa::available() {
            for (positions, channels, temperature) in
                [(64, 60usize, 3.0f32), (64, 64, -200.0), (7, 5, 0.5), (1, 1, 1.0), (49, 17, 1e4), (64, 90, 2.0)]
            {
                let stride = channels.next_multiple_of(16);
                let mut qkv = noise(positions * 3 * stride, 5);
                // One channel of q, k and v is zero throughout: its norm is.
                for pixel in qkv.chunks_exact_mut(stride) {
                    pixel[channels / 2] = 0.0;
                }
                let mut out = vec![f32::NAN; positions * stride];
                let mut scratch = vec![f32::NAN; channel_attention_scratch(channels, stride)];
                channel_attention(isa, positions, channels, stride, &qkv, temperature, &mut out, &mut scratch);
                let wanted = channel_attention_reference(positions, channels, stride, &qkv, temperature);
                let tolerance = 2e-6 * temperature.abs().max(1.0);
                for (found, wanted) in out.chunks_exact(stride).zip(wanted.chunks_exact(channels)) {
                    let wanted: Vec<f32> = wanted.iter().map(|&w| w as f32).collect();
                    close(
                        &found[..channels],
                        &wanted,
                        tolerance,
                        &format!("{isa} {positions}x{channels} {temperature}"),
                    );
                    assert!(found[..channels.next_multiple_of(lanes(isa))].iter().all(|f| f.is_finite()));
                }
            }
        }
    }
}
