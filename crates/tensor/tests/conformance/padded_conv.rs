//! Convolutions with padding of their own on each side, clamped.

use crate::conv::reference;
use crate::{check, devices, layouts, scaled_noise, tensor};
use supple_tensor::ops::{self, ConvShape, PaddedConv2d};

/// `x` with zeros around it.
fn padded(x: &[f32], [n, h, w, c]: [usize; 4], [top, bottom, left, right]: [usize; 4]) -> (Vec<f32>, [usize; 3]) {
    let large = [n, h + top + bottom, w + left + right];
    let mut y = vec![0.0; large.iter().product::<usize>() * c];
    for (i, row) in x.chunks_exact(w * c).enumerate() {
        let at = ((i / h * large[1] + i % h + top) * large[2] + left) * c;
        y[at..at + row.len()].copy_from_slice(row);
    }
    (y, large)
}

#[test]
fn clamped_convolutions_with_residual() {
    let deep = |c: usize, side: usize| ConvShape { groups: c, ..ConvShape::same(c, c, side) };
    let relu6 = (0.0, 6.0);
    for ([n, h, w], shape, padding, range) in [
        // A classifier's first layer, and its 1x1 and depthwise ones.
        ([2, 14, 14], ConvShape { stride: [2; 2], ..ConvShape::same(3, 32, 3) }, [0, 1, 0, 1], relu6),
        ([2, 7, 9], ConvShape::same(32, 64, 1), [0; 4], relu6),
        ([1, 9, 11], ConvShape::same(24, 40, 1), [0; 4], (f32::NEG_INFINITY, f32::INFINITY)),
        ([2, 9, 11], deep(32, 3), [1; 4], relu6),
        ([1, 14, 17], ConvShape { stride: [2; 2], ..deep(24, 3) }, [0, 1, 1, 1], relu6),
        ([1, 9, 11], deep(20, 5), [2; 4], (0.0, f32::INFINITY)),
        ([1, 14, 15], ConvShape { stride: [2; 2], ..deep(17, 5) }, [1, 2, 2, 2], relu6),
        ([1, 5, 3], deep(60, 7), [3; 4], (f32::NEG_INFINITY, 1.5)),
        // The whole picture, other steps, and depthwise with several outputs an input.
        ([3, 7, 7], ConvShape { kernel: [7; 2], ..ConvShape::same(16, 10, 1) }, [0; 4], (f32::NEG_INFINITY, 1.0)),
        ([1, 9, 8], ConvShape { stride: [2, 1], ..ConvShape::same(8, 16, 3) }, [1, 0, 2, 1], relu6),
        ([1, 9, 8], ConvShape { groups: 6, ..ConvShape::same(6, 12, 3) }, [1, 1, 0, 2], relu6),
    ] {
        let fan_in = shape.weight_len().unwrap() / shape.out_channels;
        let weight = scaled_noise(shape.weight_len().unwrap(), 1, 4.0 / (fan_in as f32).sqrt());
        let bias = scaled_noise(shape.out_channels, 2, 3.0);
        let x = scaled_noise(n * h * w * shape.in_channels, 3, 1.0);
        let (large, size) = padded(&x, [n, h, w, shape.in_channels], padding);
        let plain = ConvShape { padding: [0; 2], ..shape };
        let (mut wanted, [oh, ow]) = reference(size, &plain, &large, &weight, Some(&bias));
        let (lowest, highest) = (f64::from(range.0), f64::from(range.1));
        wanted.iter_mut().for_each(|v| *v = v.clamp(lowest, highest));
        let out = [n, oh, ow, shape.out_channels];
        let added = scaled_noise(wanted.len(), 4, 1.0);
        let sum: Vec<f64> = wanted.iter().zip(&added).map(|(a, &b)| a + f64::from(b)).collect();
        for (name, device) in devices() {
            let conv = PaddedConv2d::new(device, shape, padding, range, &weight, Some(&bias)).unwrap();
            let what = format!("{shape:?}, {padding:?}, {range:?}, {name}");
            for x in layouts(device, &x, &[n, h, w, shape.in_channels]) {
                check("padded_conv2d", &what, conv.forward(&x, None), &out, &wanted);
                let added = tensor(device, &added, &out);
                check("padded_conv2d", &what, conv.forward(&x, Some(&added)), &out, &sum);
            }
        }
    }
}

#[test]
fn padding() {
    let ([n, h, w, c], around) = ([2, 3, 5, 17], [1, 0, 2, 3]);
    let x = scaled_noise(n * h * w * c, 1, 1.0);
    let (large, [_, oh, ow]) = padded(&x, [n, h, w, c], around);
    let wanted: Vec<f64> = large.iter().map(|&v| f64::from(v)).collect();
    for (name, device) in devices() {
        for x in layouts(device, &x, &[n, h, w, c]) {
            check("padded_conv2d", &name.to_string(), ops::pad(&x, around), &[n, oh, ow, c], &wanted);
        }
    }
}

#[test]
fn ranges_begin_at_zero_or_nowhere_and_hold_something() {
    for (_, device) in devices() {
        let shape = ConvShape::same(3, 3, 1);
        for range in [(0.0, -1.0), (1.0, 2.0), (f32::NAN, 1.0), (0.0, f32::NAN)] {
            assert!(PaddedConv2d::new(device, shape, [0; 4], range, &[0.0; 9], None).is_err(), "{range:?}");
        }
    }
}
