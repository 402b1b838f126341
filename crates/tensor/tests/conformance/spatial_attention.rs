//! The gate of the spatial attention, and the chain of convolutions before it.

use crate::conv::reference;
use crate::{check, devices, layouts, scaled_noise};
use supple_tensor::ops::{self, Activation, Conv2d, ConvShape};

#[test]
fn gates() {
    for ([n, h, w], [coarse_h, coarse_w], channels, reduced_channels) in [
        ([1, 15, 15], [1, 1], 48, 16),
        ([2, 17, 33], [3, 5], 52, 16),
        ([1, 31, 18], [4, 2], 46, 16),
        ([1, 5, 16], [5, 16], 17, 16),
        ([1, 9, 7], [2, 2], 16, 12),
    ] {
        let pixels = n * h * w;
        let x = scaled_noise(pixels * channels, 1, 1.0);
        let reduced = scaled_noise(pixels * reduced_channels, 2, 1.0);
        let coarse = scaled_noise(n * coarse_h * coarse_w * channels, 3, 1.0);
        let weight = scaled_noise(channels * reduced_channels, 4, 0.3);
        let bias = scaled_noise(channels, 5, 1.0);
        let shape = ConvShape::same(reduced_channels, channels, 1);
        let (mut wanted, _) = reference([n, h, w], &shape, &reduced, &weight, Some(&bias));
        // Two pixels and the weight of the second, along one axis.
        let taps = |i: usize, from: usize, to: usize| {
            let source = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
            let first = (source as usize).min(from - 1);
            (first, (first + 1).min(from - 1), source - first as f64)
        };
        for (at, value) in wanted.iter_mut().enumerate() {
            let (c, px, py, image) = (at % channels, at / channels % w, at / channels / w % h, at / channels / w / h);
            let (y0, y1, fy) = taps(py, coarse_h, h);
            let (x0, x1, fx) = taps(px, coarse_w, w);
            let pixel = |y: usize, x: usize| f64::from(coarse[((image * coarse_h + y) * coarse_w + x) * channels + c]);
            let row = |y: usize| pixel(y, x0) * (1.0 - fx) + pixel(y, x1) * fx;
            let mask = *value + row(y0) * (1.0 - fy) + row(y1) * fy;
            *value = f64::from(x[at]) / (1.0 + (-mask).exp());
        }
        for (name, device) in devices() {
            let mix = Conv2d::new(device, shape, &weight, Some(&bias)).unwrap();
            let xs = layouts(device, &x, &[n, h, w, channels]);
            let others = layouts(device, &reduced, &[n, h, w, reduced_channels]);
            let maps = layouts(device, &coarse, &[n, coarse_h, coarse_w, channels]);
            for ((x, reduced), coarse) in xs.iter().zip(&others).zip(&maps) {
                let y = ops::spatial_gate(&mix, x, reduced, coarse);
                check("spatial_attention", &format!("{n}x{h}x{w}x{channels} {name}"), y, &[n, h, w, channels], &wanted);
            }
        }
    }
}

#[test]
fn chains() {
    for ([n, h, w], inputs, channels, last) in [
        ([1, 8, 32], 48, 48, 16),
        ([2, 13, 37], 48, 46, 16),
        ([1, 9, 31], 52, 52, 16),
        ([1, 5, 7], 16, 17, 16),
        ([1, 5, 7], 48, 48, 12),
    ] {
        let floats = |shape: &ConvShape| shape.weight_len().unwrap();
        let shapes = [
            ConvShape::same(inputs, channels, 3),
            ConvShape::same(channels, channels, 1),
            ConvShape::same(channels, last, 1),
        ];
        let weights: Vec<Vec<f32>> = (1..)
            .zip(&shapes)
            .map(|(seed, shape)| {
                scaled_noise(floats(shape), seed, 1.7 / (floats(shape) as f32 / shape.out_channels as f32).sqrt())
            })
            .collect();
        let biases: Vec<Vec<f32>> =
            (4..).zip(&shapes).map(|(seed, shape)| scaled_noise(shape.out_channels, seed, 1.0)).collect();
        let x = scaled_noise(n * h * w * inputs, 7, 1.0);
        let added = scaled_noise(n * h * w * channels, 8, 1.0);
        let (mut inner, _) = reference([n, h, w], &shapes[0], &x, &weights[0], Some(&biases[0]));
        for (value, &added) in inner.iter_mut().zip(&added) {
            *value = if *value > 0.0 { *value } else { *value * f64::from(0.05f32) } + f64::from(added);
        }
        let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (second, _) = reference([n, h, w], &shapes[1], &single(&inner), &weights[1], Some(&biases[1]));
        let (third, _) = reference([n, h, w], &shapes[2], &single(&second), &weights[2], Some(&biases[2]));
        for (name, device) in devices() {
            let convs: Vec<Conv2d> =
                (0..3).map(|i| Conv2d::new(device, shapes[i], &weights[i], Some(&biases[i])).unwrap()).collect();
            let (xs, residuals) =
                (layouts(device, &x, &[n, h, w, inputs]), layouts(device, &added, &[n, h, w, channels]));
            for (x, residual) in xs.iter().zip(&residuals) {
                let leaky = Activation::LeakyRelu(0.05);
                let (y, z) = ops::conv_chain(x, &convs[0], leaky, residual, [&convs[1], &convs[2]]).unwrap();
                let what = format!("{shapes:?} on {n}x{h}x{w}, {name}");
                check("spatial_attention", &what, Ok(y), &[n, h, w, channels], &second);
                check("spatial_attention", &what, Ok(z), &[n, h, w, last], &third);
            }
        }
    }
}

#[test]
fn coarse_maps() {
    for ([n, h, w], inner, channels) in [
        ([1, 15, 15], 16, 48),
        ([2, 47, 33], 16, 52),
        ([1, 64, 120], 16, 46),
        ([1, 33, 21], 16, 17),
        ([1, 29, 30], 12, 20),
    ] {
        let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(inner, inner, 3) };
        let wide = ConvShape::same(inner, channels, 3);
        let x = scaled_noise(n * h * w * inner, 1, 1.0);
        let weights = [&half, &wide].map(|shape| scaled_noise(shape.weight_len().unwrap(), 2, 0.14));
        let biases = [inner, channels].map(|len| scaled_noise(len, 3, 1.0));
        let (map, [half_h, half_w]) = reference([n, h, w], &half, &x, &weights[0], Some(&biases[0]));
        let [coarse_h, coarse_w] = [(half_h - 7) / 3 + 1, (half_w - 7) / 3 + 1];
        let pooled: Vec<f32> = (0..n * coarse_h * coarse_w * inner)
            .map(|at| {
                let (c, px, row) = (at % inner, at / inner % coarse_w, at / inner / coarse_w);
                let (py, image) = (row % coarse_h, row / coarse_h);
                let at = |k: usize| ((image * half_h + 3 * py + k / 7) * half_w + 3 * px + k % 7) * inner + c;
                (0..49).map(|k| map[at(k)]).fold(f64::NEG_INFINITY, f64::max) as f32
            })
            .collect();
        let (wanted, _) = reference([n, coarse_h, coarse_w], &wide, &pooled, &weights[1], Some(&biases[1]));
        for (name, device) in devices() {
            let half = Conv2d::new(device, half, &weights[0], Some(&biases[0])).unwrap();
            let wide = Conv2d::new(device, wide, &weights[1], Some(&biases[1])).unwrap();
            for x in layouts(device, &x, &[n, h, w, inner]) {
                let y = ops::spatial_coarse_map(&half, &wide, &x);
                check(
                    "spatial_attention",
                    &format!("coarse map of {h}x{w}, {name}"),
                    y,
                    &[n, coarse_h, coarse_w, channels],
                    &wanted,
                );
            }
        }
    }
}

#[test]
fn shuffled_convolutions() {
    for (factor, colours) in [(2, 3), (3, 3), (4, 3), (1, 5)] {
        let ([n, h, w], inputs) = ([2, 9, 35], 48);
        let shape = ConvShape::same(inputs, factor * factor * colours, 3);
        let x = scaled_noise(n * h * w * inputs, 1, 1.0);
        let weight = scaled_noise(shape.weight_len().unwrap(), 2, 0.08);
        let bias = scaled_noise(shape.out_channels, 3, 1.0);
        let (flat, _) = reference([n, h, w], &shape, &x, &weight, Some(&bias));
        let out = [n, h * factor, w * factor, colours];
        let wanted: Vec<f64> = (0..flat.len())
            .map(|at| {
                let (i, px, row) = (at % colours, at / colours % out[2], at / colours / out[2]);
                let (py, image) = (row % out[1], row / out[1]);
                let channel = (py % factor * factor + px % factor) * colours + i;
                flat[((image * h + py / factor) * w + px / factor) * shape.out_channels + channel]
            })
            .collect();
        for (name, device) in devices() {
            let conv = Conv2d::new(device, shape, &weight, Some(&bias)).unwrap();
            for x in layouts(device, &x, &[n, h, w, inputs]) {
                let y = conv.forward_shuffled(&x, factor).and_then(|y| y.to_dtype(x.dtype()));
                check("conv2d", &format!("shuffled by {factor}, {name}"), y, &out, &wanted);
            }
        }
    }
}
