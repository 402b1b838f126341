//! Small dense linear algebra: what optimal brain surgeon and least squares need of a covariance.

use super::moments::{Covariance, multiply};
use supple_tensor::Cpu;
use supple_tensor::kernels::gemm::PackedMatrix;

/// The diagonal of `(A + ridge · I)⁻¹` for a symmetric `[n][n]` matrix, by Cholesky's factorisation in `f64`; `None` if it
/// is not positive definite.
pub fn inverse_diagonal(cpu: &Cpu, a: &[f64], n: usize, ridge: f64) -> Option<Vec<f64>> {
    let lower = cholesky(cpu, a, n, ridge)?;
    // Column j of L⁻¹ by forward substitution; the squares of its elements sum to the diagonal of (L Lᵀ)⁻¹.
    let mut diagonal = vec![0.0; n];
    cpu.pool.for_each_chunk(&mut diagonal, 1, &|j, out| {
        let mut column = vec![0.0; n - j];
        column[0] = 1.0 / lower[j * n + j];
        for i in j + 1..n {
            let sum = dot(&lower[i * n + j..i * n + i], &column[..i - j]);
            column[i - j] = -sum / lower[i * n + i];
        }
        out[0] = dot(&column, &column);
    });
    Some(diagonal)
}

/// The lower factor of `A + ridge · I`, row by row in blocks; what is above the diagonal is unspecified.
fn cholesky(cpu: &Cpu, a: &[f64], n: usize, ridge: f64) -> Option<Vec<f64>> {
    const BLOCK: usize = 32;
    let mut l = a[..n * n].to_vec();
    (0..n).for_each(|j| l[j * n + j] += ridge);
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        for i in start..end {
            for j in start..=i {
                let sum = l[i * n + j] - dot(&l[i * n..i * n + j], &l[j * n..j * n + j]);
                if i == j {
                    if sum <= 0.0 || sum.is_nan() {
                        return None;
                    }
                    l[i * n + i] = sum.sqrt();
                } else {
                    l[i * n + j] = sum / l[j * n + j];
                }
            }
        }
        let (done, below) = l.split_at_mut(end * n);
        cpu.pool.for_each_chunk(below, n, &|_, row| {
            for j in start..end {
                let sum = row[j] - dot(&row[..j], &done[j * n..j * n + j]);
                row[j] = sum / done[j * n + j];
            }
        });
    }
    Some(l)
}

/// In eight sums, so that it vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for k in 0..8 {
            sums[k] += x[k] * y[k];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Least squares with a pull towards given weights, for many outputs that each use some of the columns:
///
/// `minimise over w: E(y − w·x − b)² + ridge · Σ_j s_j² (w_j − w⁰_j)²`, with `w_j = 0` where the mask says so.
///
/// The columns are divided by `s`, the roots of their spreads, which makes the ridge free of units and the diagonal a good
/// preconditioner. All
/// outputs go through conjugate gradients together, so that the work is one matrix product an iteration, and masks
/// cost nothing: Cholesky's factorisation would be one for each block of outputs.
pub struct LeastSquares<'a> {
    covariance: &'a Covariance,
    /// Root of each column's spread.
    scale: Vec<f32>,
    /// Covariances of the columns so divided.
    gram: PackedMatrix,
    ridge: f32,
}

impl<'a> LeastSquares<'a> {
    /// Prepares the normal equations.
    pub fn new(cpu: &Cpu, covariance: &'a Covariance, ridge: f64, floor: f64) -> LeastSquares<'a> {
        let n = covariance.columns;
        let scale: Vec<f32> = covariance.spreads(floor).into_iter().map(|v| v.sqrt() as f32).collect();
        let gram = PackedMatrix::pack(cpu.isa, n, n, |i, j| {
            (covariance.gram[i * n + j] / f64::from(scale[i]) / f64::from(scale[j])) as f32
        });
        LeastSquares { covariance, scale, gram, ridge: ridge as f32 }
    }

    /// Floats from one output's weights to the next in the buffers in here.
    fn stride(&self) -> usize {
        self.gram.padded_columns()
    }

    fn scaled(&self, weights: &[f32]) -> Vec<f32> {
        let (n, stride) = (self.covariance.columns, self.stride());
        let mut out = vec![0.0; weights.len() / n * stride];
        for (to, from) in out.chunks_exact_mut(stride).zip(weights.chunks_exact(n)) {
            to.iter_mut().zip(from.iter().zip(&self.scale)).for_each(|(to, (w, scale))| *to = w * scale);
        }
        out
    }

    /// Moves `weights` (`[outputs][columns]`, the start) towards the minimum by at most `iterations` steps. `keep` says
    /// which are free; the others become zero. `original` is what the ridge pulls to, where it is kept.
    pub fn solve(&self, cpu: &Cpu, original: &[f32], keep: &[bool], weights: &mut [f32], iterations: usize) {
        let (n, stride) = (self.covariance.columns, self.stride());
        let outputs = self.covariance.outputs;
        weights.iter_mut().zip(keep).for_each(|(w, &keep)| *w = if keep { *w } else { 0.0 });
        let mut x = self.scaled(weights);
        let mut q = vec![0.0; outputs * stride];
        multiply(cpu, outputs, &x, stride, &self.gram, &mut q);
        // Residual: scaled cross-covariance + ridge · original − (G + ridge) x, on the free columns.
        let mut r = vec![0.0; outputs * stride];
        let pull = self.scaled(original);
        for o in 0..outputs {
            for j in 0..n {
                let at = o * stride + j;
                if keep[o * n + j] {
                    let wanted = self.covariance.cross[o * n + j] / f64::from(self.scale[j]);
                    r[at] = wanted as f32 + self.ridge * (pull[at] - x[at]) - q[at];
                }
            }
        }
        let mut p = r.clone();
        let norms = |r: &[f32]| -> Vec<f64> { r.chunks_exact(stride).map(|row| dot_f32(row, row)).collect() };
        let mut rr = norms(&r);
        // An output is done when its error can hardly fall any more, measured by what there is to explain.
        let enough: Vec<f64> = self.covariance.yy.iter().map(|yy| yy * 1e-10).collect();
        for _ in 0..iterations {
            if rr.iter().zip(&enough).all(|(rr, enough)| rr <= enough) {
                break;
            }
            multiply(cpu, outputs, &p, stride, &self.gram, &mut q);
            for o in 0..outputs {
                if rr[o] <= enough[o] {
                    continue;
                }
                let row = o * stride..o * stride + n;
                let (p, q, r, x) = (&mut p[row.clone()], &mut q[row.clone()], &mut r[row.clone()], &mut x[row]);
                for j in 0..n {
                    q[j] = if keep[o * n + j] { q[j] + self.ridge * p[j] } else { 0.0 };
                }
                let curvature = dot_f32(p, q);
                if curvature <= 0.0 || curvature.is_nan() {
                    rr[o] = 0.0;
                    continue;
                }
                let step = (rr[o] / curvature) as f32;
                for j in 0..n {
                    x[j] += step * p[j];
                    r[j] -= step * q[j];
                }
                let next = dot_f32(r, r);
                let turn = (next / rr[o]) as f32;
                rr[o] = next;
                for j in 0..n {
                    p[j] = r[j] + turn * p[j];
                }
            }
        }
        for (to, from) in weights.chunks_exact_mut(n).zip(x.chunks_exact(stride)) {
            to.iter_mut().zip(from.iter().zip(&self.scale)).for_each(|(to, (x, scale))| *to = x / scale);
        }
    }

    /// `E(y − w·x − b)²` of each output, with the best bias.
    pub fn errors(&self, cpu: &Cpu, weights: &[f32]) -> Vec<f64> {
        let (n, stride) = (self.covariance.columns, self.stride());
        let x = self.scaled(weights);
        let mut q = vec![0.0; x.len()];
        multiply(cpu, self.covariance.outputs, &x, stride, &self.gram, &mut q);
        let error = |o: usize| {
            let x = &x[o * stride..][..n];
            let cross = &self.covariance.cross[o * n..][..n];
            let explained: f64 =
                x.iter().zip(cross).zip(&self.scale).map(|((&x, c), &s)| f64::from(x) * c / f64::from(s)).sum();
            (self.covariance.yy[o] + dot_f32(x, &q[o * stride..][..n]) - 2.0 * explained).max(0.0)
        };
        (0..self.covariance.outputs).map(error).collect()
    }

    /// The best bias of each output: `E[y] − w·E[x]`.
    pub fn biases(&self, weights: &[f32]) -> Vec<f64> {
        let rows = weights.chunks_exact(self.covariance.columns);
        let product = |row: &[f32]| row.iter().zip(&self.covariance.x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        rows.zip(&self.covariance.y).map(|(row, y)| y - product(row)).collect()
    }
}

/// A dot product of `f32` whose sum is `f64`, in pieces whose own sums are short.
fn dot_f32(a: &[f32], b: &[f32]) -> f64 {
    let piece = |a: &[f32], b: &[f32]| {
        let mut sums = [0.0f32; 16];
        let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
        let rest: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in a16.zip(b16) {
            for k in 0..16 {
                sums[k] += x[k] * y[k];
            }
        }
        f64::from(sums.iter().sum::<f32>() + rest)
    };
    a.chunks(256).zip(b.chunks(256)).map(|(a, b)| piece(a, b)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::moments::Random;
    use super::*;
    use supple_tensor::Isa;

    /// A covariance of `n` correlated columns and `outputs` noisy products with them.
    fn problem(n: usize, outputs: usize) -> (Covariance, Vec<f32>) {
        let mut random = Random::new(9);
        let mix: Vec<f64> = (0..n * n).map(|_| f64::from(random.normal())).collect();
        let gram = (0..n * n).map(|at| {
            let (i, j) = (at / n, at % n);
            (0..n).map(|k| mix[i * n + k] * mix[j * n + k]).sum::<f64>() / n as f64 + if i == j { 0.3 } else { 0.0 }
        });
        let gram: Vec<f64> = gram.collect();
        let weights: Vec<f32> = (0..outputs * n).map(|_| random.normal()).collect();
        let cross = (0..outputs * n).map(|at| {
            let (o, j) = (at / n, at % n);
            (0..n).map(|k| f64::from(weights[o * n + k]) * gram[k * n + j]).sum::<f64>()
        });
        let cross: Vec<f64> = cross.collect();
        let yy = (0..outputs)
            .map(|o| (0..n).map(|j| f64::from(weights[o * n + j]) * cross[o * n + j]).sum::<f64>() + 0.1)
            .collect();
        let (x, y) = (vec![0.5; n], vec![2.0; outputs]);
        (Covariance { columns: n, outputs, gram, cross, x, y, yy }, weights)
    }

    /// Solves `A z = b` by elimination with pivots.
    fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
        let n = b.len();
        for k in 0..n {
            let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
            a.swap(k, pivot);
            b.swap(k, pivot);
            for i in k + 1..n {
                let f = a[i][k] / a[k][k];
                let row = a[k].clone();
                (k..n).for_each(|j| a[i][j] -= f * row[j]);
                b[i] -= f * b[k];
            }
        }
        let mut z = vec![0.0; n];
        for k in (0..n).rev() {
            z[k] = (b[k] - (k + 1..n).map(|j| a[k][j] * z[j]).sum::<f64>()) / a[k][k];
        }
        z
    }

    #[test]
    fn the_inverse_diagonal_is_that_of_the_inverse() {
        let cpu = Cpu::new(Isa::detect(), 2);
        for n in [1, 5, 33, 70] {
            let (covariance, _) = problem(n, 1);
            let found = inverse_diagonal(&cpu, &covariance.gram, n, 0.01).expect("positive definite");
            for j in [0, n / 2, n - 1] {
                let rows = (0..n).map(|i| {
                    let mut row = covariance.gram[i * n..][..n].to_vec();
                    row[i] += 0.01;
                    row
                });
                let unit = (0..n).map(|i| f64::from(u8::from(i == j))).collect();
                let wanted = eliminate(rows.collect(), unit)[j];
                assert!((found[j] / wanted - 1.0).abs() < 1e-9, "{n} {j}: {} {wanted}", found[j]);
            }
        }
        assert_eq!(inverse_diagonal(&cpu, &[1.0, 2.0, 2.0, 1.0], 2, 0.0), None);
    }

    #[test]
    fn masked_least_squares_is_that_of_the_surviving_columns() {
        let cpu = Cpu::new(Isa::detect(), 2);
        let (n, outputs, ridge) = (41, 7, 0.02);
        let (covariance, original) = problem(n, outputs);
        let mut random = Random::new(4);
        let keep: Vec<bool> = (0..outputs * n).map(|_| random.below(10) < 6).collect();
        let equations = LeastSquares::new(&cpu, &covariance, ridge, 0.0);
        let mut weights = original.clone();
        equations.solve(&cpu, &original, &keep, &mut weights, 400);
        let errors = equations.errors(&cpu, &weights);
        for o in 0..outputs {
            let free: Vec<usize> = (0..n).filter(|j| keep[o * n + j]).collect();
            let g = |i: usize, j: usize| covariance.gram[i * n + j];
            let rows =
                free.iter().map(|&i| free.iter().map(|&j| g(i, j) * if i == j { 1.0 + ridge } else { 1.0 }).collect());
            let right =
                free.iter().map(|&j| covariance.cross[o * n + j] + ridge * g(j, j) * f64::from(original[o * n + j]));
            let wanted = eliminate(rows.collect(), right.collect());
            for (&j, wanted) in free.iter().zip(&wanted) {
                let found = f64::from(weights[o * n + j]);
                assert!((found - wanted).abs() < 2e-3, "output {o}, column {j}: {found} {wanted}");
            }
            assert!((0..n).all(|j| keep[o * n + j] || weights[o * n + j] == 0.0));
            let w: Vec<f64> = weights[o * n..][..n].iter().map(|&w| f64::from(w)).collect();
            let quadratic: f64 = (0..n).map(|i| (0..n).map(|j| w[i] * g(i, j) * w[j]).sum::<f64>()).sum();
            let linear: f64 = (0..n).map(|j| w[j] * covariance.cross[o * n + j]).sum();
            let error = covariance.yy[o] + quadratic - 2.0 * linear;
            assert!((errors[o] / error - 1.0).abs() < 1e-3, "{} {error}", errors[o]);
        }
        let bias = equations.biases(&weights)[0];
        let sum: f64 = weights[..n].iter().map(|&w| f64::from(w)).sum();
        assert!((bias - (2.0 - 0.5 * sum)).abs() < 1e-6);
    }
}
