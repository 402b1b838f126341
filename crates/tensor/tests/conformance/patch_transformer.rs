//! Units of a patch transformer.

use crate::{check, devices, layouts, scaled_noise};
use supple_tensor::ops::patch_transformer::{
    Affine, FeedForwardWeights, Normal, PATCH, PatchLayerWeights, PatchTransformer, PatchTransformerWeights,
    SpatialLayerWeights,
};

/// Makes weights that keep values near those of the input.
struct Maker {
    seed: u64,
}

impl Maker {
    fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        self.seed += 1;
        scaled_noise(len, self.seed, scale)
    }

    fn affine(&mut self, outputs: usize, inputs: usize, with_bias: bool) -> Affine {
        let bias = if with_bias { self.values(outputs, 0.2) } else { Vec::new() };
        Affine { weight: self.values(outputs * inputs, 0.6 / (inputs as f32).sqrt()), bias }
    }

    fn feed_forward(&mut self, c: usize, hidden: usize) -> FeedForwardWeights {
        FeedForwardWeights {
            gate: self.affine(hidden, c, true),
            pass: self.affine(hidden, c, true),
            gate_taps: self.values(hidden * 9, 0.3),
            pass_taps: self.values(hidden * 9, 0.3),
            output: self.affine(c, hidden, false),
        }
    }

    fn unit(
        &mut self,
        c: usize,
        hidden: usize,
        [inner, spatial]: [usize; 2],
        normal: Normal,
    ) -> PatchTransformerWeights {
        let inner = (0..inner).map(|_| PatchLayerWeights {
            attention: [0; 3].map(|_| self.affine(c, c, true)),
            temperature: 2.5,
            project: self.affine(c, c, false),
            feed_forward: self.feed_forward(c, hidden),
        });
        let inner = inner.collect();
        let spatial = (0..spatial).map(|_| SpatialLayerWeights {
            context: self.affine(c, c, true),
            value: self.affine(c, c, true),
            near: self.affine(c, 25, true),
            far: self.affine(c, 49, true),
            mix: self.affine(c, c, true),
            last: self.affine(c, c, true),
            feed_forward: self.feed_forward(c, hidden),
        });
        PatchTransformerWeights { channels: c, normal, inner, spatial: spatial.collect() }
    }
}

/// Pixels of `channels` each.
struct Map {
    size: [usize; 3],
    channels: usize,
    values: Vec<f64>,
}

impl Map {
    fn pixels(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.channels)
    }

    fn with(&self, channels: usize, values: Vec<f64>) -> Map {
        Map { size: self.size, channels, values }
    }

    fn point(&self, map: &Affine) -> Map {
        let outputs = map.weight.len() / self.channels;
        let output = |pixel: &[f64], o: usize| {
            let row = &map.weight[o * self.channels..][..self.channels];
            let bias = map.bias.get(o).map_or(0.0, |&b| f64::from(b));
            bias + pixel.iter().zip(row).map(|(v, &w)| v * f64::from(w)).sum::<f64>()
        };
        self.with(
            outputs,
            self.pixels().flat_map(|pixel| (0..outputs).map(|o| output(pixel, o)).collect::<Vec<_>>()).collect(),
        )
    }

    /// Depthwise; what lies beyond the map, or the pixel's cell of `cell` pixels a side, is zero.
    fn depthwise(&self, taps: &[f32], bias: &[f32], side: usize, dilation: usize, cell: Option<usize>) -> Map {
        let [_, h, w] = self.size;
        let c = self.channels;
        let value = |at: usize| {
            let (channel, x, y, image) = (at % c, at / c % w, at / c / w % h, at / c / w / h);
            let mut sum = bias.get(channel).map_or(0.0, |&b| f64::from(b));
            for tap in 0..side * side {
                let step = |tap: usize, from: usize| (tap * dilation + from).checked_sub(dilation * (side / 2));
                let (Some(iy), Some(ix)) = (step(tap / side, y), step(tap % side, x)) else { continue };
                let same = |side: usize| iy / side == y / side && ix / side == x / side;
                if iy < h && ix < w && cell.is_none_or(same) {
                    sum += self.values[((image * h + iy) * w + ix) * c + channel]
                        * f64::from(taps[channel * side * side + tap]);
                }
            }
            sum
        };
        self.with(c, (0..self.values.len()).map(value).collect())
    }

    fn normal(&self, normal: Normal) -> Map {
        let c = self.channels as f64;
        let pixel = |pixel: &[f64]| -> Vec<f64> {
            match normal {
                Normal::Tanh => pixel.iter().map(|v| v.tanh()).collect(),
                Normal::Layer { epsilon } => {
                    let mean = pixel.iter().sum::<f64>() / c;
                    let variance = pixel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c;
                    pixel.iter().map(|v| (v - mean) / (variance + f64::from(epsilon)).sqrt()).collect()
                }
            }
        };
        self.with(self.channels, self.pixels().flat_map(pixel).collect())
    }

    fn zip(&self, other: &Map, f: impl Fn(f64, f64) -> f64) -> Map {
        self.with(self.channels, self.values.iter().zip(&other.values).map(|(&a, &b)| f(a, b)).collect())
    }

    fn feed_forward(&self, layer: &FeedForwardWeights, normal: Normal, cell: Option<usize>) -> Map {
        let z = self.normal(normal);
        let gate = z.point(&layer.gate).depthwise(&layer.gate_taps, &[], 3, 1, cell);
        let pass = z.point(&layer.pass).depthwise(&layer.pass_taps, &[], 3, 1, cell);
        self.zip(&gate.zip(&pass, |a, b| gelu(a) * b).point(&layer.output), |x, y| x + y)
    }

    fn attention(&self, layer: &PatchLayerWeights, normal: Normal) -> Map {
        let [n, h, w] = self.size;
        let (c, z) = (self.channels, self.normal(normal));
        let [q, k, v] = [0, 1, 2].map(|i| z.point(&layer.attention[i]).values);
        let mut mixed = vec![0.0; self.values.len()];
        for patch in 0..n * h * w / (PATCH * PATCH) {
            let (columns, rows) = (w / PATCH, h / PATCH);
            let (px, py, image) = (patch % columns, patch / columns % rows, patch / columns / rows);
            let pixel = |p: usize| (image * h + py * PATCH + p / PATCH) * w + px * PATCH + p % PATCH;
            let of = |values: &[f64], channel: usize| -> Vec<f64> {
                (0..PATCH * PATCH).map(|p| values[pixel(p) * c + channel]).collect()
            };
            let unit = |values: Vec<f64>| -> Vec<f64> {
                let length = values.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                values.into_iter().map(|v| v / length).collect()
            };
            let keys: Vec<Vec<f64>> = (0..c).map(|channel| unit(of(&k, channel))).collect();
            let values: Vec<Vec<f64>> = (0..c).map(|channel| of(&v, channel)).collect();
            for channel in 0..c {
                let query = unit(of(&q, channel));
                let dot = |key: &Vec<f64>| query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<f64> = keys.iter().map(|key| (dot(key) * f64::from(layer.temperature)).exp()).collect();
                let sum: f64 = scores.iter().sum();
                for p in 0..PATCH * PATCH {
                    let value: f64 = scores.iter().zip(&values).map(|(score, value)| score / sum * value[p]).sum();
                    mixed[pixel(p) * c + channel] = value;
                }
            }
        }
        self.zip(&self.with(c, mixed).point(&layer.project), |x, y| x + y)
    }

    fn spatial(&self, layer: &SpatialLayerWeights, normal: Normal) -> Map {
        let z = self.normal(normal);
        let near = z.point(&layer.context).depthwise(&layer.near.weight, &layer.near.bias, 5, 1, None);
        let mixed = near.depthwise(&layer.far.weight, &layer.far.bias, 7, 3, None).point(&layer.mix);
        let gated = z.point(&layer.value).zip(&mixed, |a, b| a * b);
        self.zip(&gated.point(&layer.last), |x, y| x + y)
    }
}

/// `x Φ(x)`, with the error function by its series or its continued fraction.
fn gelu(x: f64) -> f64 {
    let u = x.abs() / std::f64::consts::SQRT_2;
    let erf = if u < 3.0 {
        let (mut term, mut sum) = (u, u);
        for n in 1..80 {
            term *= -u * u / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(u, |deep, k| u + k as f64 / 2.0 / deep);
        1.0 - (-u * u).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    0.5 * x * (1.0 + erf.copysign(x))
}

#[test]
fn units() {
    let layer = Normal::Layer { epsilon: 1e-5 };
    for (size, c, hidden, layers, normal) in [
        ([1, 8, 8], 60, 120, [1, 0], Normal::Tanh),
        ([1, 8, 8], 60, 120, [1, 1], Normal::Tanh),
        ([2, 16, 24], 60, 120, [1, 1], layer),
        ([1, 24, 40], 49, 113, [2, 2], Normal::Tanh),
        ([1, 16, 8], 64, 128, [1, 2], layer),
        // More layers than one kernel takes.
        ([1, 8, 8], 50, 114, [9, 1], Normal::Tanh),
        // Other widths are composed.
        ([1, 8, 16], 20, 40, [1, 1], Normal::Tanh),
        ([1, 16, 8], 17, 30, [1, 1], layer),
    ] {
        let weights = Maker { seed: 100 }.unit(c, hidden, layers, normal);
        let [n, h, w] = size;
        let x = scaled_noise(n * h * w * c, 1, 1.5);
        let mut map = Map { size, channels: c, values: x.iter().map(|&v| f64::from(v)).collect() };
        for layer in &weights.inner {
            map = map.attention(layer, normal).feed_forward(&layer.feed_forward, normal, Some(PATCH));
        }
        for layer in &weights.spatial {
            map = map.spatial(layer, normal).feed_forward(&layer.feed_forward, normal, None);
        }
        for (name, device) in devices() {
            let unit = PatchTransformer::new(device, &weights).unwrap();
            for x in layouts(device, &x, &[n, h, w, c]) {
                let what = format!("{layers:?} of {c}/{hidden} on {n}x{h}x{w}, {name}");
                check("patch_transformer", &what, unit.forward(&x), &[n, h, w, c], &map.values);
            }
        }
    }
}

#[test]
fn maps_that_are_no_whole_patches_are_refused() {
    let weights = Maker { seed: 1 }.unit(20, 40, [1, 1], Normal::Tanh);
    for (_, device) in devices() {
        let unit = PatchTransformer::new(device, &weights).unwrap();
        for shape in [[1, 8, 12, 20], [1, 7, 8, 20], [1, 8, 8, 21], [0, 8, 8, 20], [1, 0, 8, 20]] {
            let x = crate::tensor(device, &vec![0.0; shape.iter().product()], &shape);
            assert!(unit.forward(&x).is_err(), "{shape:?}");
        }
    }
}
