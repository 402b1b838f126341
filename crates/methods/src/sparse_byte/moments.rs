//! Second moments of a layer's inputs and outputs, from samples of its pixels.
//!
//! A convolution's output at a pixel is a product of its weights with a column of `in_channels · taps` input values. With
//! `X` the columns of many pixels and `Y` what the outputs should be there, all that least squares needs to know are the
//! means, the covariance `G = E[xxᵀ] − E[x]E[x]ᵀ` and the cross-covariance `C = E[yxᵀ] − E[y]E[x]ᵀ`.

use supple_models::convnet::{Conv, Shape, Window2d};
use supple_tensor::Cpu;
use supple_tensor::kernels::gemm::{Epilogue, PackedMatrix, gemm};

/// Samples that are multiplied at once.
const BATCH: usize = 1024;
/// Floats from one column to the next: not a power of two, whose multiples would all fall into one set of a cache.
const STRIDE: usize = BATCH + 16;
/// Rows of a product that one task computes.
const ROWS: usize = 64;

/// A small generator of random numbers (SplitMix64): the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    #[cfg(test)]
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum();
        (sum - 6.0) as f32
    }
}

/// Which output pixels of a picture are looked at: all of them, or `wanted` different ones.
pub fn choose_pixels(pixels: usize, wanted: usize, random: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..pixels).collect();
    if wanted < pixels {
        for i in 0..wanted {
            let j = i + random.below(pixels - i);
            all.swap(i, j);
        }
        all.truncate(wanted);
    }
    all
}

/// What a window reads of a plane for output pixel `pixel` (`y · width + x`, `width` that of the output); 0 in the padding.
pub fn read_taps(window: &Window2d, plane: &[f32], shape: Shape, width: usize, pixel: usize, taps: &mut [f32]) {
    let [top, _, left, _] = window.padding_at(shape.height, shape.width);
    let (y, x) = (pixel / width * window.stride[0], pixel % width * window.stride[1]);
    for (row, taps) in taps.chunks_exact_mut(window.kernel[1]).enumerate() {
        for (column, tap) in taps.iter_mut().enumerate() {
            let (i, j) = (y + row, x + column);
            let inside = i >= top && i - top < shape.height && j >= left && j - left < shape.width;
            *tap = if inside { plane[(i - top) * shape.width + j - left] } else { 0.0 };
        }
    }
}

/// Columns of pixels, `[columns][STRIDE]`, until there are enough for a product.
#[derive(Clone, Debug)]
pub struct Columns {
    values: Vec<f32>,
    columns: usize,
    len: usize,
}

impl Columns {
    /// Room for [`BATCH`] pixels.
    pub fn new(columns: usize) -> Columns {
        Columns { values: vec![0.0; columns * STRIDE], columns, len: 0 }
    }

    /// Whether another pixel fits.
    pub fn full(&self) -> bool {
        self.len == BATCH
    }

    /// Adds the inputs that `conv` reads for output pixel `pixel` (`y · output width + x`), from a planar tensor.
    pub fn push(&mut self, conv: &Conv, input: &[f32], shape: Shape, width: usize, pixel: usize) {
        let taps = conv.window.kernel[0] * conv.window.kernel[1];
        let mut read = vec![0.0; taps];
        for (channel, plane) in input.chunks_exact(shape.pixels()).enumerate() {
            read_taps(&conv.window, plane, shape, width, pixel, &mut read);
            for (tap, value) in read.iter().enumerate() {
                self.values[(channel * taps + tap) * STRIDE + self.len] = *value;
            }
        }
        self.len += 1;
    }

    /// Forgets all pixels.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn packed(&self, cpu: &Cpu) -> PackedMatrix {
        PackedMatrix::pack(cpu.isa, self.len, self.columns, |sample, column| self.values[column * STRIDE + sample])
    }

    /// `W · X + bias` as columns of `rows` outputs.
    pub fn apply(&self, cpu: &Cpu, weights: &[f32], bias: &[f32]) -> Columns {
        let rows = bias.len();
        let mut out = Columns::new(rows);
        out.len = self.len;
        let x =
            PackedMatrix::pack(cpu.isa, self.columns, self.len, |column, sample| self.values[column * STRIDE + sample]);
        let stride = x.padded_columns();
        let mut product = vec![0.0; rows * stride];
        multiply(cpu, rows, weights, self.columns, &x, &mut product);
        for ((row, from), bias) in out.values.chunks_exact_mut(STRIDE).zip(product.chunks_exact(stride)).zip(bias) {
            row[..self.len].iter_mut().zip(from).for_each(|(to, value)| *to = value + bias);
        }
        out
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(STRIDE).map(|row| &row[..self.len])
    }
}

/// `C = A · B` on all threads; `C` is `rows × B.padded_columns()`.
pub fn multiply(cpu: &Cpu, rows: usize, a: &[f32], lda: usize, b: &PackedMatrix, c: &mut [f32]) {
    let stride = b.padded_columns();
    cpu.pool.for_each_chunk(&mut c[..rows * stride], ROWS * stride, &|i, chunk| {
        gemm(chunk.len() / stride, &a[i * ROWS * lda..], lda, b, chunk, stride, &Epilogue::NONE);
    });
}

/// Sums over samples.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Number of columns.
    pub columns: usize,
    /// Number of outputs.
    pub outputs: usize,
    /// Number of samples.
    pub count: usize,
    gram: Vec<f64>,
    cross: Vec<f64>,
    x: Vec<f64>,
    y: Vec<f64>,
    yy: Vec<f64>,
}

impl Moments {
    /// No samples yet. `outputs` may be 0.
    pub fn new(columns: usize, outputs: usize) -> Moments {
        Moments {
            columns,
            outputs,
            count: 0,
            gram: vec![0.0; columns * columns],
            cross: vec![0.0; outputs * columns],
            x: vec![0.0; columns],
            y: vec![0.0; outputs],
            yy: vec![0.0; outputs],
        }
    }

    /// Adds samples and forgets them. `y`, if there are outputs, has as many as `x`.
    pub fn add(&mut self, cpu: &Cpu, x: &mut Columns, y: Option<&Columns>) {
        if x.len == 0 {
            return;
        }
        self.count += x.len;
        let packed = x.packed(cpu);
        let stride = packed.padded_columns();
        let add = |rows: &Columns, sums: &mut [f64], means: &mut [f64]| {
            let mut product = vec![0.0; rows.columns * stride];
            multiply(cpu, rows.columns, &rows.values, STRIDE, &packed, &mut product);
            for (sums, row) in sums.chunks_exact_mut(self.columns).zip(product.chunks_exact(stride)) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            for (mean, row) in means.iter_mut().zip(rows.rows()) {
                *mean += row.iter().map(|&value| f64::from(value)).sum::<f64>();
            }
        };
        add(x, &mut self.gram, &mut self.x);
        if let Some(y) = y {
            add(y, &mut self.cross, &mut self.y);
            for (sum, row) in self.yy.iter_mut().zip(y.rows()) {
                *sum += row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            }
        }
        x.clear();
    }

    /// Means and covariances of the samples so far.
    pub fn covariance(mut self) -> Covariance {
        let n = self.count.max(1) as f64;
        for sums in [&mut self.gram, &mut self.cross, &mut self.x, &mut self.y, &mut self.yy] {
            sums.iter_mut().for_each(|sum| *sum /= n);
        }
        let centre = |sums: &mut [f64], means: &[f64], x: &[f64]| {
            for (row, mean) in sums.chunks_exact_mut(x.len()).zip(means) {
                row.iter_mut().zip(x).for_each(|(value, x)| *value -= mean * x);
            }
        };
        centre(&mut self.gram, &self.x, &self.x);
        centre(&mut self.cross, &self.y, &self.x);
        self.yy.iter_mut().zip(&self.y).for_each(|(value, mean)| *value = (*value - mean * mean).max(0.0));
        // Rounding may leave a variance below zero.
        for j in 0..self.columns {
            let at = j * self.columns + j;
            self.gram[at] = self.gram[at].max(0.0);
        }
        Covariance {
            columns: self.columns,
            outputs: self.outputs,
            gram: self.gram,
            cross: self.cross,
            x: self.x,
            y: self.y,
            yy: self.yy,
        }
    }
}

/// Means and covariances of a layer's columns and outputs.
#[derive(Clone, Debug)]
pub struct Covariance {
    /// Number of columns.
    pub columns: usize,
    /// Number of outputs.
    pub outputs: usize,
    /// `[columns][columns]`.
    pub gram: Vec<f64>,
    /// `[outputs][columns]`.
    pub cross: Vec<f64>,
    /// Mean of each column.
    pub x: Vec<f64>,
    /// Mean of each output.
    pub y: Vec<f64>,
    /// Variance of each output.
    pub yy: Vec<f64>,
}

impl Covariance {
    /// Variance of each column plus `floor` times their mean; 1 where that is nothing.
    pub fn spreads(&self, floor: f64) -> Vec<f64> {
        let variances = || (0..self.columns).map(|j| self.gram[j * self.columns + j]);
        let mean = variances().sum::<f64>() / self.columns.max(1) as f64;
        let smallest = mean * 1e-12;
        variances().map(|v| v + floor * mean).map(|v| if v > smallest { v } else { 1.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_models::convnet::{Padding, Pattern};
    use supple_tensor::Isa;

    #[test]
    fn covariances_are_those_of_the_samples() {
        type Sample = (Vec<f64>, Vec<f64>);
        let cpu = Cpu::new(Isa::detect(), 2);
        let mut random = Random::new(3);
        let (c, o, side) = (5, 3, 40);
        let shape = Shape { channels: c, height: side, width: side };
        let input: Vec<f32> = (0..shape.len()).map(|i| random.normal() + (i % 7) as f32).collect();
        let window = Window2d::square(3, 2, Padding::Same);
        let weights: Vec<f32> = (0..o * c * 9).map(|_| random.normal()).collect();
        let bias = vec![0.5, -1.0, 2.0];
        let conv = Conv { out_channels: o, in_channels: c, window, weights, bias, pattern: Pattern::Dense };
        let mut samples: Vec<Sample> = Vec::new();
        let (mut x, mut moments) = (Columns::new(c * 9), Moments::new(c * 9, o));
        let planar: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
        for pass in 0..4 {
            for pixel in 0..400 {
                if x.full() {
                    let y = x.apply(&cpu, &conv.weights, &conv.bias);
                    moments.add(&cpu, &mut x, Some(&y));
                }
                x.push(&conv, &input, shape, 20, pixel);
                if pass == 0 {
                    // TensorFlow's padding for 40 rows, kernel 3, stride 2: none before, one after.
                    let (py, px) = (pixel / 20 * 2, pixel % 20 * 2);
                    let mut column = Vec::new();
                    for i in 0..c {
                        for k in 0..9 {
                            let (row, col) = (py + k / 3, px + k % 3);
                            let inside = row < side && col < side;
                            column.push(if inside { planar[(i * side + row) * side + col] } else { 0.0 });
                        }
                    }
                    let out = (0..o).map(|k| {
                        let w = &conv.weights[k * c * 9..][..c * 9];
                        w.iter().zip(&column).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(conv.bias[k])
                    });
                    let out: Vec<f64> = out.collect();
                    samples.push((column, out));
                }
            }
        }
        let y = x.apply(&cpu, &conv.weights, &conv.bias);
        moments.add(&cpu, &mut x, Some(&y));
        assert_eq!(moments.count, 1600);
        let found = moments.covariance();
        let mean = |f: &dyn Fn(&Sample) -> f64| samples.iter().map(f).sum::<f64>() / 400.0;
        for j in [0, 17, 44] {
            let mx = mean(&|s| s.0[j]);
            assert!((found.x[j] - mx).abs() < 1e-4);
            for k in [0, 3, 44] {
                let wanted = mean(&|s| s.0[j] * s.0[k]) - mx * mean(&|s| s.0[k]);
                assert!((found.gram[j * 45 + k] - wanted).abs() < 1e-3, "{} {wanted}", found.gram[j * 45 + k]);
            }
            for k in 0..o {
                let wanted = mean(&|s| s.0[j] * s.1[k]) - mx * mean(&|s| s.1[k]);
                assert!((found.cross[k * 45 + j] - wanted).abs() < 1e-2, "{} {wanted}", found.cross[k * 45 + j]);
            }
        }
        let variance = mean(&|s| s.1[1] * s.1[1]) - mean(&|s| s.1[1]).powi(2);
        assert!((found.yy[1] / variance - 1.0).abs() < 1e-4);
    }

    #[test]
    fn chosen_pixels_are_different() {
        let mut random = Random::new(1);
        let mut chosen = choose_pixels(100, 64, &mut random);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 64);
        assert_eq!(choose_pixels(49, 64, &mut random).len(), 49);
    }
}
