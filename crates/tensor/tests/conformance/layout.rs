//! Operators that only move elements: pixel shuffle, concatenation, channel order.

use crate::{check, devices, layouts, scaled_noise};
use supple_tensor::ops;

#[test]
fn pixel_shuffle() {
    for ([n, h, w, c], r) in
        [([1, 1, 1, 1], 1), ([2, 3, 5, 3], 2), ([1, 7, 5, 3], 4), ([1, 2, 13, 17], 3), ([3, 5, 1, 1], 2)]
    {
        let in_channels = c * r * r;
        let x = scaled_noise(n * h * w * in_channels, 1, 1.0);
        let mut wanted = Vec::new();
        for image in 0..n {
            for (y, x_) in (0..h * r).flat_map(|y| (0..w * r).map(move |x| (y, x))) {
                for channel in 0..c {
                    let from = channel * r * r + y % r * r + x_ % r;
                    wanted.push(f64::from(x[((image * h + y / r) * w + x_ / r) * in_channels + from]));
                }
            }
        }
        for (name, device) in devices() {
            for x in layouts(device, &x, &[n, h, w, in_channels]) {
                let what = format!("pixel_shuffle {n}x{h}x{w}x{c} by {r} {name}");
                check("layout", &what, ops::pixel_shuffle(&x, r), &[n, h * r, w * r, c], &wanted);
            }
        }
    }
}

#[test]
fn concat() {
    let shapes = [[2, 3, 5, 17], [2, 3, 5, 17], [2, 3, 5, 17]];
    for dim in 0..4 {
        for sizes in [[1, 2, 3], [4, 0, 1], [17, 3, 16]] {
            let mut parts = shapes;
            for (part, size) in parts.iter_mut().zip(sizes) {
                part[dim] = size;
            }
            let mut shape = shapes[0];
            shape[dim] = sizes.iter().sum();
            let values: Vec<Vec<f32>> =
                parts.iter().zip(1..).map(|(part, seed)| scaled_noise(part.iter().product(), seed, 1.0)).collect();
            let outer: usize = shape[..dim].iter().product();
            let mut wanted = Vec::new();
            for i in 0..outer {
                for values in &values {
                    let len = values.len() / outer;
                    wanted.extend(values[i * len..][..len].iter().map(|&v| f64::from(v)));
                }
            }
            for (name, device) in devices() {
                let tensors: Vec<Vec<_>> =
                    parts.iter().zip(&values).map(|(part, values)| layouts_or_empty(device, values, part)).collect();
                for i in 0..3 {
                    let picked = [&tensors[0][i], &tensors[1][(i + 1) % 3], &tensors[2][i]];
                    check("layout", &format!("concat {parts:?} {name}"), ops::concat(&picked, dim), &shape, &wanted);
                }
            }
        }
    }
}

fn layouts_or_empty(device: &crate::Target, values: &[f32], shape: &[usize]) -> Vec<supple_tensor::Tensor> {
    if values.is_empty() {
        return vec![crate::tensor(device, values, shape); 3];
    }
    layouts(device, values, shape)
}

#[test]
fn channel_order() {
    for [n, c, h, w] in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 17, 3, 2], [2, 60, 4, 1]] {
        let x = scaled_noise(n * c * h * w, 1, 1.0);
        let mut wanted = Vec::new();
        for at in 0..x.len() {
            let (ch, px, image) = (at % c, at / c % (h * w), at / c / (h * w));
            wanted.push(f64::from(x[(image * c + ch) * h * w + px]));
        }
        let back: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for (name, device) in devices() {
            for x in layouts(device, &x, &[n, c, h, w]) {
                let last = ops::to_channels_last(&x).unwrap();
                check("layout", name, ops::to_channels_first(&last), &[n, c, h, w], &back);
                check("layout", name, Ok(last), &[n, h, w, c], &wanted);
            }
        }
    }
}
