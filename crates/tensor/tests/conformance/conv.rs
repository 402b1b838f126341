//! Convolution with bias, activation and residual.

use crate::{check, devices, layouts, scaled_noise};
use supple_tensor::ops::{Activation, Conv2d, ConvShape};
use supple_tensor::{Device, Error, Tensor};

/// `[n, h, w]` and the convolution.
fn cases() -> Vec<([usize; 3], ConvShape)> {
    let same = ConvShape::same;
    let mut cases = Vec::new();
    for (cin, cout) in [(1, 1), (3, 48), (16, 17), (17, 16), (48, 48), (52, 60), (60, 3)] {
        cases.push(([1, 5, 7], same(cin, cout, 1)));
        cases.push(([1, 7, 5], same(cin, cout, 3)));
    }
    cases.extend([
        ([1, 1, 1], same(3, 16, 3)),
        ([1, 1, 1], same(48, 48, 3)),
        ([1, 1, 23], same(17, 3, 3)),
        ([2, 13, 1], same(16, 52, 3)),
        ([3, 11, 13], same(16, 16, 3)),
        ([1, 37, 41], same(48, 48, 3)),
        // Any step, padding, dilation and number of groups.
        ([1, 9, 11], ConvShape { padding: [0, 0], ..same(16, 16, 3) }),
        ([2, 9, 11], ConvShape { stride: [2, 2], padding: [0, 0], ..same(16, 16, 3) }),
        ([1, 9, 11], ConvShape { stride: [2, 3], padding: [1, 2], ..same(3, 17, 3) }),
        ([1, 9, 11], ConvShape { dilation: [2, 3], padding: [2, 3], ..same(17, 16, 3) }),
        ([1, 13, 11], ConvShape { dilation: [2, 1], stride: [1, 2], padding: [0, 1], groups: 4, ..same(16, 48, 3) }),
        ([1, 6, 7], ConvShape { groups: 3, ..same(48, 60, 3) }),
        ([1, 6, 7], ConvShape { groups: 2, ..same(16, 6, 1) }),
        ([2, 6, 7], ConvShape { stride: [3, 2], ..same(16, 17, 1) }),
        ([1, 6, 7], ConvShape { kernel: [2, 5], padding: [1, 0], ..same(3, 3, 3) }),
        // Depthwise.
        ([1, 9, 11], ConvShape { groups: 16, ..same(16, 16, 3) }),
        ([1, 9, 11], ConvShape { groups: 17, ..same(17, 17, 5) }),
        ([2, 9, 11], ConvShape { groups: 60, ..same(60, 60, 5) }),
        ([1, 1, 1], ConvShape { groups: 60, ..same(60, 60, 5) }),
        ([1, 23, 19], ConvShape { groups: 60, dilation: [3, 3], padding: [9, 9], ..same(60, 60, 7) }),
        ([1, 5, 4], ConvShape { groups: 16, dilation: [3, 3], padding: [9, 9], ..same(16, 16, 7) }),
        ([1, 9, 11], ConvShape { groups: 16, stride: [2, 2], ..same(16, 16, 5) }),
        ([1, 9, 11], ConvShape { groups: 3, ..same(3, 6, 3) }),
    ]);
    cases
}

/// `x * W + b` in `f64`, `[n, h, w, c]`, and its height and width.
pub(crate) fn reference(
    [n, h, w]: [usize; 3],
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> (Vec<f64>, [usize; 2]) {
    let side = |i: usize, size: usize| {
        (size + 2 * shape.padding[i] - shape.dilation[i] * (shape.kernel[i] - 1) - 1) / shape.stride[i] + 1
    };
    let (oh, ow) = (side(0, h), side(1, w));
    let (cin, cout) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    let mut y = Vec::with_capacity(n * oh * ow * shape.out_channels);
    for at in 0..n * oh * ow * shape.out_channels {
        let (o, ox, oy, image) = (
            at % shape.out_channels,
            at / shape.out_channels % ow,
            at / shape.out_channels / ow % oh,
            at / shape.out_channels / ow / oh,
        );
        let mut sum = bias.map_or(0.0, |bias| f64::from(bias[o]));
        for ky in 0..shape.kernel[0] {
            for kx in 0..shape.kernel[1] {
                let iy = (oy * shape.stride[0] + ky * shape.dilation[0]).wrapping_sub(shape.padding[0]);
                let ix = (ox * shape.stride[1] + kx * shape.dilation[1]).wrapping_sub(shape.padding[1]);
                if iy >= h || ix >= w {
                    continue;
                }
                for i in 0..cin {
                    let channel = o / cout * cin + i;
                    let x = x[((image * h + iy) * w + ix) * shape.in_channels + channel];
                    let weight = weight[((o * cin + i) * shape.kernel[0] + ky) * shape.kernel[1] + kx];
                    sum += f64::from(x) * f64::from(weight);
                }
            }
        }
        y.push(sum);
    }
    (y, [oh, ow])
}

fn apply(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu(slope) => {
            if x > 0.0 {
                x
            } else {
                f64::from(slope) * x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => unreachable!("not used here"),
    }
}

#[test]
fn convolutions() {
    for ([n, h, w], shape) in cases() {
        let fan_in = shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
        let x = scaled_noise(n * h * w * shape.in_channels, 1, 1.0);
        let weight = scaled_noise(shape.out_channels * fan_in, 2, 1.7 / (fan_in as f32).sqrt());
        let bias = scaled_noise(shape.out_channels, 3, 1.0);
        for (with_bias, activation, with_residual) in [
            (false, Activation::Identity, false),
            (true, Activation::LeakyRelu(0.05), false),
            (true, Activation::Relu, true),
            (true, Activation::Identity, true),
            (true, Activation::Sigmoid, true),
            (false, Activation::LeakyRelu(1.5), false),
        ] {
            let bias = with_bias.then_some(&bias[..]);
            let (mut wanted, [oh, ow]) = reference([n, h, w], &shape, &x, &weight, bias);
            let added = scaled_noise(wanted.len(), 4, 1.0);
            for (wanted, &added) in wanted.iter_mut().zip(&added) {
                *wanted = apply(activation, *wanted) + if with_residual { f64::from(added) } else { 0.0 };
            }
            let out_shape = [n, oh, ow, shape.out_channels];
            for (name, device) in devices() {
                let conv = Conv2d::new(device, shape, &weight, bias).unwrap();
                let residuals = layouts(device, &added, &out_shape);
                for (x, residual) in layouts(device, &x, &[n, h, w, shape.in_channels]).iter().zip(&residuals) {
                    let y = conv.forward(x, activation, with_residual.then_some(residual));
                    let what = format!("{shape:?} {activation:?} on {n}x{h}x{w}, bias {with_bias}, {name}");
                    check("conv2d", &what, y, &out_shape, &wanted);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device: &Device = &devices()[0].1;
    let image = |shape: [usize; 4]| Tensor::zeros(device, &shape, supple_tensor::DType::F32).unwrap();
    let refused = |result: Result<Tensor, Error>| match result {
        Err(Error::Shape { op: "conv2d", detail }) => assert!(!detail.is_empty()),
        other => panic!("{other:?}"),
    };
    let shape = ConvShape { padding: [0, 0], ..ConvShape::same(2, 4, 3) };
    let conv = Conv2d::new(device, shape, &[0.0; 72], None).unwrap();
    refused(conv.forward(&image([1, 2, 9, 2]), Activation::Identity, None));
    refused(conv.forward(&image([1, 9, 9, 3]), Activation::Identity, None));
    refused(conv.forward(&image([0, 9, 9, 2]), Activation::Identity, None));
    refused(conv.forward(&image([1, 9, 9, 2]), Activation::Identity, Some(&image([1, 7, 7, 3]))));
    refused(conv.forward(&image([1, 9, 9, 2]).reshape(&[9, 9, 2]).unwrap(), Activation::Identity, None));
    let bytes = Tensor::zeros(device, &[1, 9, 9, 2], supple_tensor::DType::U8).unwrap();
    assert!(matches!(conv.forward(&bytes, Activation::Identity, None), Err(Error::DType { op: "conv2d", .. })));
    for bad in [
        ConvShape { groups: 3, ..shape },
        ConvShape { groups: 0, ..shape },
        ConvShape { stride: [0, 1], ..shape },
        ConvShape { kernel: [0, 3], ..shape },
        ConvShape { dilation: [0, 3], ..shape },
        ConvShape { in_channels: usize::MAX, ..shape },
    ] {
        assert!(Conv2d::new(device, bad, &[0.0; 72], None).is_err(), "{bad:?}");
    }
    assert!(Conv2d::new(device, shape, &[0.0; 71], None).is_err());
    assert!(Conv2d::new(device, shape, &[0.0; 72], Some(&[0.0; 5])).is_err());
}
