//! Resampling, by definitions written with weights over all pixels.

use crate::{CHANNELS, check, devices, layouts, scaled_noise};
use supple_tensor::ops::{self, ResizeMode};

/// The weight of every input pixel for output pixel `i`.
fn weights(mode: ResizeMode, i: usize, input: usize, output: usize) -> Vec<f64> {
    let mut weights = vec![0.0; input];
    let ratio = input as f64 / output as f64;
    let center = (i as f64 + 0.5) * ratio - 0.5;
    let mut spread = |radius: i64, kernel: fn(f64) -> f64| {
        for p in center.floor() as i64 - radius..=center.floor() as i64 + radius + 1 {
            weights[p.clamp(0, input as i64 - 1) as usize] += kernel((p as f64 - center).abs());
        }
    };
    match mode {
        ResizeMode::Nearest => weights[i * input / output] = 1.0,
        ResizeMode::Bilinear => spread(1, |d| (1.0 - d).max(0.0)),
        ResizeMode::Bicubic => spread(2, |d| match d {
            d if d <= 1.0 => 1.25 * d * d * d - 2.25 * d * d + 1.0,
            d if d < 2.0 => -0.75 * (d * d * d - 5.0 * d * d + 8.0 * d - 4.0),
            _ => 0.0,
        }),
        ResizeMode::Area => {
            let (first, end) = (i * input / output, ((i + 1) * input).div_ceil(output));
            weights[first..end].fill(1.0 / (end - first) as f64);
        }
    }
    weights
}

#[test]
fn resizes() {
    let sizes = [
        ([1, 1], [1, 1]),
        ([1, 1], [3, 5]),
        ([5, 7], [5, 7]),
        ([3, 5], [13, 11]),
        ([13, 11], [3, 5]),
        ([7, 2], [14, 1]),
    ];
    for (i, ([h, w], [oh, ow])) in sizes.into_iter().enumerate() {
        for c in [CHANNELS[i], CHANNELS[(i + 3) % 7]] {
            let n = 1 + i % 2;
            let x = scaled_noise(n * h * w * c, 1, 1.0);
            for mode in [ResizeMode::Nearest, ResizeMode::Bilinear, ResizeMode::Bicubic, ResizeMode::Area] {
                let mut wanted = Vec::new();
                for at in 0..n * oh * ow * c {
                    let (channel, ox, oy, image) = (at % c, at / c % ow, at / c / ow % oh, at / c / ow / oh);
                    let (rows, columns) = (weights(mode, oy, h, oh), weights(mode, ox, w, ow));
                    let mut sum = 0.0;
                    for (iy, wy) in rows.iter().enumerate() {
                        for (ix, wx) in columns.iter().enumerate() {
                            sum += wy * wx * f64::from(x[((image * h + iy) * w + ix) * c + channel]);
                        }
                    }
                    wanted.push(sum);
                }
                for (name, device) in devices() {
                    for x in layouts(device, &x, &[n, h, w, c]) {
                        let what = format!("{mode:?} {h}x{w} to {oh}x{ow}, {c} channels, {name}");
                        check("resize", &what, ops::resize(&x, mode, [oh, ow]), &[n, oh, ow, c], &wanted);
                    }
                }
            }
        }
    }
}
