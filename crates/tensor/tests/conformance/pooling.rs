//! Max and average pooling.

use crate::{CHANNELS, check, devices, layouts, scaled_noise};
use supple_tensor::ops;

#[test]
fn poolings() {
    let windows = [
        ([2, 2], [2, 2], [0, 0]),
        ([7, 7], [3, 3], [0, 0]),
        ([3, 3], [1, 1], [1, 1]),
        ([3, 2], [2, 1], [1, 0]),
        ([1, 1], [2, 2], [0, 0]),
        ([5, 1], [1, 3], [2, 0]),
    ];
    for (i, (kernel, stride, padding)) in windows.into_iter().enumerate() {
        for (n, h, w) in [(1, 1, 1), (2, 7, 11), (1, 13, 17)] {
            if h + 2 * padding[0] < kernel[0] || w + 2 * padding[1] < kernel[1] {
                continue;
            }
            let c = CHANNELS[(i + h) % CHANNELS.len()];
            let (oh, ow) =
                ((h + 2 * padding[0] - kernel[0]) / stride[0] + 1, (w + 2 * padding[1] - kernel[1]) / stride[1] + 1);
            let x = scaled_noise(n * h * w * c, 1, 1.0);
            let (mut max, mut mean) = (Vec::new(), Vec::new());
            for at in 0..n * oh * ow * c {
                let (channel, ox, oy, image) = (at % c, at / c % ow, at / c / ow % oh, at / c / ow / oh);
                let mut values = Vec::new();
                for (ky, kx) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x))) {
                    let iy = (oy * stride[0] + ky).wrapping_sub(padding[0]);
                    let ix = (ox * stride[1] + kx).wrapping_sub(padding[1]);
                    if iy < h && ix < w {
                        values.push(f64::from(x[((image * h + iy) * w + ix) * c + channel]));
                    }
                }
                max.push(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                mean.push(values.iter().sum::<f64>() / (kernel[0] * kernel[1]) as f64);
            }
            let shape = [n, oh, ow, c];
            for (name, device) in devices() {
                for x in layouts(device, &x, &[n, h, w, c]) {
                    let what = format!("{kernel:?} by {stride:?} on {n}x{h}x{w}x{c} {name}");
                    check("pooling", &what, ops::max_pool2d(&x, kernel, stride, padding), &shape, &max);
                    check("pooling", &what, ops::avg_pool2d(&x, kernel, stride, padding), &shape, &mean);
                }
            }
        }
    }
}
