//! Fitting depthwise convolutions: they are not pruned, but what they read has changed, and a few taps a channel mend part of
//! what was lost before the loss goes on into the next product.
//!
//! Each channel is a least-squares problem of its own with as many unknowns as the kernel has taps:
//! `minimise over w: E(y − w·x − b)² + ridge · Σ_t s_t² (w_t − w⁰_t)²`, as [`LeastSquares`](super::linear::LeastSquares) has it.

use super::moments::{Random, choose_pixels, read_taps};
use supple_models::convnet::{Depthwise, Shape};

/// Kernels with more taps than this are left as they are.
pub const MAX_TAPS: usize = 81;

/// Sums over samples, for each channel: `x xᵀ`, `y x`, `x`, `y`, `y²`.
pub struct DepthwiseMoments {
    taps: usize,
    count: usize,
    channels: Vec<Vec<f64>>,
}

impl DepthwiseMoments {
    /// No samples yet.
    pub fn new(layer: &Depthwise) -> DepthwiseMoments {
        let taps = layer.window.kernel[0] * layer.window.kernel[1];
        let sums = taps * taps + 2 * taps + 2;
        DepthwiseMoments { taps, count: 0, channels: vec![vec![0.0; sums]; layer.channels] }
    }

    /// Adds pixels of one picture: `now` and `before` are the planar tensors that the layer and its dense original read.
    /// Output channel `c` is to equal output `rows[c]` of the original.
    #[expect(clippy::too_many_arguments, reason = "two layers with a tensor and a shape each")]
    pub fn add(
        &mut self,
        layer: &Depthwise,
        now: (&[f32], Shape),
        original: &Depthwise,
        before: (&[f32], Shape),
        rows: &[usize],
        output: Shape,
        pixels: usize,
        random: &mut Random,
    ) {
        let n = self.taps;
        let chosen = choose_pixels(output.pixels(), pixels, random);
        self.count += chosen.len();
        let (mut x, mut source) = (vec![0.0f32; n], vec![0.0f32; n]);
        for (c, (sums, &row)) in self.channels.iter_mut().zip(rows).enumerate() {
            let plane = |(values, shape): (&'_ [f32], Shape), channel: usize| channel * shape.pixels()..values.len();
            let now_plane = &now.0[plane(now, c / layer.multiplier)][..now.1.pixels()];
            let before_plane = &before.0[plane(before, row / original.multiplier)][..before.1.pixels()];
            let weights = &original.weights[row * n..][..n];
            for &pixel in &chosen {
                read_taps(&layer.window, now_plane, now.1, output.width, pixel, &mut x);
                read_taps(&original.window, before_plane, before.1, output.width, pixel, &mut source);
                let product: f64 = weights.iter().zip(&source).map(|(&w, &v)| f64::from(w) * f64::from(v)).sum();
                let y = product + f64::from(original.bias[row]);
                let (gram, rest) = sums.split_at_mut(n * n);
                for (row, &a) in gram.chunks_exact_mut(n).zip(&x) {
                    row.iter_mut().zip(&x).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
                }
                for t in 0..n {
                    rest[t] += y * f64::from(x[t]);
                    rest[n + t] += f64::from(x[t]);
                }
                rest[2 * n] += y;
                rest[2 * n + 1] += y * y;
            }
        }
    }

    /// Sets the layer's weights and biases to the minimum. Gives the squared error as a share of the outputs' variance,
    /// before and after.
    pub fn fit(&self, layer: &mut Depthwise, ridge: f64, floor: f64) -> (f64, f64) {
        let n = self.taps;
        let (mut before, mut after, mut total) = (0.0, 0.0, 0.0);
        for (c, sums) in self.channels.iter().enumerate() {
            let mean = |i: usize| sums[i] / self.count.max(1) as f64;
            let (x, y) = (|t: usize| mean(n * n + n + t), mean(n * n + 2 * n));
            let gram = |t: usize, u: usize| mean(t * n + u) - x(t) * x(u);
            let cross = |t: usize| mean(n * n + t) - y * x(t);
            let variance = (mean(n * n + 2 * n + 1) - y * y).max(0.0);
            let middle = (0..n).map(|t| gram(t, t)).sum::<f64>() / n as f64;
            let old: Vec<f64> = layer.weights[c * n..][..n].iter().map(|&w| f64::from(w)).collect();
            let spread = |t: usize| ridge * (gram(t, t).max(0.0) + floor * middle) + f64::MIN_POSITIVE;
            let matrix = (0..n * n).map(|i| gram(i / n, i % n) + if i / n == i % n { spread(i / n) } else { 0.0 });
            let right = (0..n).map(|t| cross(t) + spread(t) * old[t]).collect();
            let error = |w: &[f64]| {
                let quadratic: f64 = (0..n).map(|t| (0..n).map(|u| w[t] * gram(t, u) * w[u]).sum::<f64>()).sum();
                variance + quadratic - 2.0 * (0..n).map(|t| w[t] * cross(t)).sum::<f64>()
            };
            let best_bias = |w: &[f64]| y - (0..n).map(|t| w[t] * x(t)).sum::<f64>();
            let was = error(&old) + (best_bias(&old) - f64::from(layer.bias[c])).powi(2);
            (total, before) = (total + variance, before + was);
            match solve(matrix.collect(), right) {
                Some(w) if error(&w) <= was && w.iter().chain([&best_bias(&w)]).all(|v| (*v as f32).is_finite()) => {
                    layer.weights[c * n..][..n].iter_mut().zip(&w).for_each(|(to, w)| *to = *w as f32);
                    layer.bias[c] = best_bias(&w) as f32;
                    after += error(&w);
                }
                // A channel that never changes has nothing to fit.
                _ => after += was,
            }
        }
        let total: f64 = f64::max(total, f64::MIN_POSITIVE);
        (before.max(0.0) / total, after.max(0.0) / total)
    }
}

/// Solves `A z = b` for a small positive definite `A`; `None` if it is not.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for k in 0..n {
        if a[k * n + k] <= 0.0 || a[k * n + k].is_nan() {
            return None;
        }
        for i in k + 1..n {
            let factor = a[i * n + k] / a[k * n + k];
            (k..n).for_each(|j| a[i * n + j] -= factor * a[k * n + j]);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k * n + j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k * n + k];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_models::convnet::{Padding, Window2d};

    fn layer(channels: usize, multiplier: usize, random: &mut Random) -> Depthwise {
        let window = Window2d::square(3, 2, Padding::Same);
        let weights = (0..channels * 9).map(|_| random.normal()).collect();
        let bias = (0..channels).map(|_| random.normal()).collect();
        Depthwise { channels, multiplier, window, weights, bias }
    }

    #[test]
    fn a_gain_and_a_shift_before_it_are_undone() {
        let mut random = Random::new(5);
        let original = layer(6, 2, &mut random);
        let shape = Shape { channels: 3, height: 11, width: 11 };
        let output = Shape { channels: 6, height: 6, width: 6 };
        let mut fitted = original.clone();
        let mut moments = DepthwiseMoments::new(&original);
        let rows: Vec<usize> = (0..6).collect();
        for _ in 0..40 {
            let before: Vec<f32> = (0..shape.len()).map(|_| random.normal() + 1.0).collect();
            let now: Vec<f32> = before.iter().map(|v| 0.5 * v).collect();
            let (now, before) = ((&now[..], shape), (&before[..], shape));
            moments.add(&original, now, &original, before, &rows, output, 20, &mut random);
        }
        let (before, after) = moments.fit(&mut fitted, 1e-6, 0.0);
        assert!(before > 0.2 && after < 1e-6, "{before} {after}");
        let twice = |(found, old): (&f32, &f32)| (found - 2.0 * old).abs() < 1e-3;
        assert!(fitted.weights.iter().zip(&original.weights).all(twice));
        assert!(fitted.bias.iter().zip(&original.bias).all(|(found, old)| (found - old).abs() < 1e-2));
    }

    #[test]
    fn channels_that_never_change_stay() {
        let mut random = Random::new(6);
        let original = layer(2, 1, &mut random);
        let shape = Shape { channels: 2, height: 5, width: 5 };
        let output = Shape { channels: 2, height: 3, width: 3 };
        let mut fitted = original.clone();
        let mut moments = DepthwiseMoments::new(&original);
        let zeros = vec![0.0; shape.len()];
        let tensor = (&zeros[..], shape);
        moments.add(&original, tensor, &original, tensor, &[0, 1], output, 9, &mut random);
        moments.fit(&mut fitted, 0.1, 1.0);
        assert_eq!(fitted.weights, original.weights);
    }
}
