//! Values of the operators that are there for the sake of training; their gradients are in `gradients.rs`.

use crate::{check, devices, layouts, scaled_noise};
use supple_tensor::ops::{self, Activation, Conv2d, ConvShape, Linear};
use supple_tensor::{DType, Device, Error, Tensor};

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// A name, the operator, and its reference.
type Row = (&'static str, fn(&Tensor) -> Result<Tensor, Error>, fn(f64) -> f64);

#[test]
fn functions_of_one_element() {
    let operators: [Row; 6] = [
        ("abs", ops::abs, f64::abs),
        ("sqrt", ops::sqrt, f64::sqrt),
        ("exp", ops::exp, f64::exp),
        ("log", ops::log, f64::ln),
        ("silu", ops::silu, |x| x / (1.0 + (-x).exp())),
        ("add_scalar", |x| ops::add_scalar(x, -0.7), |x| x + f64::from(-0.7f32)),
    ];
    for shape in [[2, 1, 7, 3], [1, 1, 1, 1], [1, 5, 3, 48]] {
        let values = scaled_noise(shape.iter().product(), 1, 3.0);
        for (name, operator, reference) in operators {
            let defined = matches!(name, "sqrt" | "log");
            let values: Vec<f32> = values.iter().map(|v| if defined { v.abs() + 0.1 } else { *v }).collect();
            let wanted: Vec<f64> = values.iter().map(|&v| reference(f64::from(v))).collect();
            for (device_name, device) in devices() {
                for x in layouts(device, &values, &shape) {
                    check("activation", &format!("{name} {shape:?} {device_name}"), operator(&x), &shape, &wanted);
                }
            }
        }
    }
}

#[test]
fn differences_and_quotients() {
    let (a, b) = (scaled_noise(2 * 3 * 5, 1, 1.0), scaled_noise(5, 2, 1.0));
    let b: Vec<f32> = b.iter().map(|v| v + 2.0f32.copysign(*v)).collect();
    let of = |f: fn(f64, f64) -> f64| -> Vec<f64> {
        a.iter().enumerate().map(|(i, &a)| f(f64::from(a), f64::from(b[i % 5]))).collect()
    };
    for (name, device) in devices() {
        for (a, b) in layouts(device, &a, &[2, 3, 5]).iter().zip(layouts(device, &b, &[5])) {
            check("elementwise", &format!("sub {name}"), ops::sub(a, &b), &[2, 3, 5], &of(|a, b| a - b));
            check("elementwise", &format!("div {name}"), ops::div(a, &b), &[2, 3, 5], &of(|a, b| a / b));
        }
    }
}

#[test]
fn sums_and_means() {
    let shape = [2, 3, 4, 5];
    let values = scaled_noise(120, 1, 1.0);
    let sum_over = |dims: &[usize]| -> Vec<f64> {
        let mut out_shape = shape;
        dims.iter().for_each(|&d| out_shape[d] = 1);
        let mut sums = vec![0.0; out_shape.iter().product()];
        for (i, &v) in values.iter().enumerate() {
            let index = [i / 60, i / 20 % 3, i / 5 % 4, i % 5];
            let at = (0..4).fold(0, |at, d| at * out_shape[d] + if out_shape[d] == 1 { 0 } else { index[d] });
            sums[at] += f64::from(v);
        }
        sums
    };
    for (name, device) in devices() {
        for x in layouts(device, &values, &shape) {
            for dims in [&[0][..], &[3], &[1, 2], &[0, 1, 2], &[0, 1, 2, 3], &[]] {
                let mut out = shape;
                dims.iter().for_each(|&d| out[d] = 1);
                let wanted = sum_over(dims);
                check("normalize", &format!("sum_dims {dims:?} {name}"), ops::sum_dims(&x, dims), &out, &wanted);
                let count = 120.0 / wanted.len() as f64;
                let mean: Vec<f64> = wanted.iter().map(|v| v / count).collect();
                check("normalize", &format!("mean_dims {dims:?} {name}"), ops::mean_dims(&x, dims), &out, &mean);
            }
            let total = sum_over(&[0, 1, 2, 3])[0];
            check("normalize", &format!("sum {name}"), ops::sum(&x), &[], &[total]);
            check("normalize", &format!("mean {name}"), ops::mean(&x), &[], &[total / 120.0]);
            check("normalize", &format!("sum_to {name}"), ops::sum_to(&x, &[4, 1]), &[4, 1], &sum_over(&[0, 1, 3]));
            check("normalize", &format!("column_sums {name}"), ops::column_sums(&x), &[5], &sum_over(&[0, 1, 2]));
        }
    }
}

#[test]
fn normalisations_by_parts() {
    let (values, weight, bias) =
        (scaled_noise(2 * 3 * 4 * 6, 1, 2.0), scaled_noise(6, 2, 1.0), scaled_noise(6, 3, 1.0));
    let (x, w, b) = (wide(&values), wide(&weight), wide(&bias));
    let rms: Vec<f64> = x
        .chunks(6)
        .flat_map(|row| {
            let root = (row.iter().map(|v| v * v).sum::<f64>() / 6.0 + 1e-6).sqrt();
            row.iter().zip(&w).map(|(v, w)| v / root * w).collect::<Vec<_>>()
        })
        .collect();
    let groups: Vec<f64> = (0..x.len())
        .map(|i| {
            // Three groups of two channels, each over the twelve pixels of an image.
            let (image, c) = (i / 72, i % 6);
            let group: Vec<f64> = (0..72).filter(|j| j % 6 / 2 == c / 2).map(|j| x[image * 72 + j]).collect();
            let mean = group.iter().sum::<f64>() / 24.0;
            let variance = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 24.0;
            (x[i] - mean) / (variance + 1e-5).sqrt() * w[c] + b[c]
        })
        .collect();
    for (name, device) in devices() {
        let vector = |values: &[f32]| crate::tensor(device, values, &[6]);
        let (weight, bias) = (vector(&weight), vector(&bias));
        for x in layouts(device, &values, &[2, 3, 4, 6]) {
            check("normalize", &format!("rms_norm {name}"), ops::rms_norm(&x, &weight, 1e-6), &[2, 3, 4, 6], &rms);
            let found = ops::group_norm(&x, 3, &weight, &bias, 1e-5);
            check("normalize", &format!("group_norm {name}"), found, &[2, 3, 4, 6], &groups);
        }
    }
}

#[test]
fn weights_as_tensors_are_as_good_as_packed_ones() {
    for (name, device) in devices() {
        let values = |x: Tensor| x.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
        let same = |a: Tensor, b: Tensor| assert_eq!(values(a), values(b), "{name}");
        let tensor = |seed, shape: &[usize]| {
            Tensor::from_slice(device, &scaled_noise(shape.iter().product(), seed, 1.0), shape).unwrap()
        };
        let x = tensor(1, &[2, 5, 7, 12]).to_dtype(device.dtype).unwrap();
        for how in [Activation::Identity, Activation::LeakyRelu(0.1), Activation::LeakyRelu(-0.1), Activation::Gelu] {
            let shape = ConvShape { groups: 2, stride: [1, 2], ..ConvShape::same(12, 8, 3) };
            let (weight, bias) = (tensor(2, &[8, 6, 3, 3]), tensor(3, &[8]));
            let packed = Conv2d::new(device, shape, &values(weight.clone()), Some(&values(bias.clone()))).unwrap();
            // Not all that is fused without gradients is fused with them, and what is not is rounded once more in 16 bits.
            let same = |a: Tensor, b: Tensor| match how {
                Activation::LeakyRelu(_) if device.dtype != DType::F32 => {
                    let wanted: Vec<f64> = values(b.clone()).into_iter().map(f64::from).collect();
                    check("layout", &format!("packed {name}"), Ok(a), b.shape(), &wanted);
                }
                _ => same(a, b),
            };
            let found = ops::conv2d(&x, &weight, Some(&bias), shape, how).unwrap();
            same(found, packed.forward(&x, how, None).unwrap());
            let (weight, bias) = (tensor(4, &[17, 12]), tensor(5, &[17]));
            let packed = Linear::new(device, [17, 12], &values(weight.clone()), Some(&values(bias.clone()))).unwrap();
            same(ops::linear(&x, &weight, Some(&bias), how).unwrap(), packed.forward(&x, how).unwrap());
        }
        let shuffled = ops::pixel_shuffle(&x, 2).unwrap();
        same(ops::pixel_unshuffle(&shuffled, 2).unwrap(), x);
    }
}

#[test]
fn sums_gates_and_attention_between_channels() {
    let rounded = |values: &[f32], dtype: DType, shape: &[usize]| {
        Tensor::from_slice(crate::cpu(), values, shape).unwrap().to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
    };
    let close = |what: &str, found: Result<Tensor, Error>, wanted: Tensor| {
        check("attention", what, found, wanted.shape(), &wide(&wanted.to_vec::<f32>().unwrap()));
    };
    for (name, device) in devices() {
        for shape in [vec![2, 3, 4, 6], vec![5, 240], vec![3, 2, 16]] {
            let values = scaled_noise(shape.iter().product(), 1, 3.0);
            let (x, last) = (rounded(&values, device.dtype, &shape), shape.len() - 1);
            let half = |i: usize| x.narrow(last, i * (shape[last] / 2), shape[last] / 2).unwrap();
            let wanted = ops::mul(&ops::gelu(&half(0)).unwrap(), &half(1)).unwrap();
            for x in layouts(device, &values, &shape) {
                close(&format!("gelu_gate {name}"), ops::gelu_gate(&x), wanted.clone());
            }
        }
        for (patches, pixels, c) in [(3, 64, 60), (2, 64, 8), (1, 64, 64), (2, 25, 12), (2, 64, 9)] {
            let (shape, temperature) = ([patches, pixels, 3 * c], [2.5f32]);
            let values = scaled_noise(patches * pixels * 3 * c, 1, 1.0);
            let (x, t) = (rounded(&values, device.dtype, &shape), crate::tensor(device, &temperature, &[1]));
            let part = |i: usize| x.narrow(2, i * c, c).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
            let cosines = ops::matmul(
                &ops::l2_normalize(&part(0), 1e-12).unwrap(),
                &ops::l2_normalize(&part(1), 1e-12).unwrap().transpose(1, 2).unwrap(),
            );
            let shares = ops::softmax(&ops::scale(&cosines.unwrap(), 2.5).unwrap()).unwrap();
            let wanted = ops::matmul(&shares, &part(2)).unwrap().transpose(1, 2).unwrap();
            for x in layouts(device, &values, &shape) {
                let found = ops::channel_attention(&x, &t, 1e-12);
                close(&format!("channel_attention {patches} {pixels} {c} {name}"), found, wanted.clone());
            }
        }
        let shape = ConvShape { groups: 12, ..ConvShape::same(12, 12, 3) };
        for shape in [shape, ConvShape::same(12, 20, 1)] {
            let of = |seed, shape: &[usize]| scaled_noise(shape.iter().product(), seed, 0.5);
            let sizes = [[12, 20][usize::from(shape.groups == 1)], 12 / shape.groups, shape.kernel[0], shape.kernel[1]];
            let ends = [[2, 4, 9, 12], [2, 4, 9, sizes[0]]];
            let (x, w, other) = (of(1, &ends[0]), of(2, &sizes), of(3, &ends[1]));
            let small = |values: &[f32], shape: &[usize]| rounded(values, device.dtype, shape);
            let product =
                ops::conv2d(&small(&x, &ends[0]), &small(&w, &sizes), None, shape, Activation::Identity).unwrap();
            let wanted = ops::add(&product, &small(&other, &ends[1])).unwrap();
            let (weight, other) = (crate::tensor(device, &w, &sizes), crate::tensor(device, &other, &ends[1]));
            for x in layouts(device, &x, &ends[0]) {
                let found = ops::conv2d_add(&x, &weight, None, shape, &other);
                close(&format!("conv2d_add {name}"), found, wanted.clone());
            }
        }
    }
    let device: &Device = &devices()[0].1;
    let zeros = |shape: &[usize]| Tensor::zeros(device, shape, DType::F32).unwrap();
    assert!(ops::gelu_gate(&zeros(&[2, 3])).is_err());
    assert!(ops::channel_attention(&zeros(&[1, 4, 5]), &zeros(&[1]), 1e-12).is_err());
    assert!(ops::channel_attention(&zeros(&[1, 4, 6]), &zeros(&[2]), 1e-12).is_err());
    let (x, w, shape) = (zeros(&[1, 2, 2, 3]), zeros(&[3, 3, 1, 1]), ConvShape::same(3, 3, 1));
    assert!(ops::conv2d_add(&x, &w, None, shape, &zeros(&[1, 2, 1, 3])).is_err());
}

#[test]
fn tokens() {
    let [queries, keys, d, width] = [3, 5, 4, 2];
    let (q, k, v) = (scaled_noise(12, 1, 2.0), scaled_noise(20, 2, 2.0), scaled_noise(10, 3, 1.0));
    let attended = |causal: bool| -> Vec<f64> {
        let (q, k, v) = (wide(&q), wide(&k), wide(&v));
        let row = |i: usize| {
            let seen = if causal { i + keys - queries + 1 } else { keys };
            let score = |j: usize| (0..d).map(|c| q[i * d + c] * k[j * d + c]).sum::<f64>() / 2.0;
            let e: Vec<f64> = (0..seen).map(|j| score(j).exp()).collect();
            let sum: f64 = e.iter().sum();
            (0..width).map(|c| (0..seen).map(|j| e[j] / sum * v[j * width + c]).sum()).collect::<Vec<f64>>()
        };
        (0..queries).flat_map(row).collect()
    };
    let table = scaled_noise(5 * 3, 4, 1.0);
    let rows = [4u32, 0, 4];
    let picked: Vec<f64> = rows.iter().flat_map(|&r| wide(&table[r as usize * 3..][..3])).collect();
    let logits = scaled_noise(4 * 6, 5, 4.0);
    let targets = [5, ops::IGNORED, 0, 2];
    let entropy: f64 = targets
        .iter()
        .enumerate()
        .filter(|(_, target)| **target != ops::IGNORED)
        .map(|(i, &target)| {
            let row = wide(&logits[i * 6..][..6]);
            row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[target as usize]
        })
        .sum::<f64>()
        / 3.0;
    for (name, device) in devices() {
        let tensor = |values: &[f32], shape: &[usize]| crate::tensor(device, values, shape);
        let (q, k, v) = (tensor(&q, &[3, 4]), tensor(&k, &[5, 4]), tensor(&v, &[5, 2]));
        for causal in [false, true] {
            let found = ops::attention(&q, &k, &v, causal);
            check("normalize", &format!("attention {name}"), found, &[3, 2], &attended(causal));
        }
        let rows = Tensor::from_slice(device, &rows, &[3]).unwrap();
        check(
            "layout",
            &format!("embedding {name}"),
            ops::embedding(&tensor(&table, &[5, 3]), &rows),
            &[3, 3],
            &picked,
        );
        // In f32 whatever the logits are in, whose rounding it has.
        let found = ops::cross_entropy(&tensor(&logits, &[4, 6]), &targets).and_then(|y| y.to_dtype(device.dtype));
        check("normalize", &format!("cross_entropy {name}"), found, &[], &[entropy]);
        // A quarter turn takes (a, b) to (-b, a).
        let (zeros, ones) = (tensor(&[0.0; 4], &[1, 4]), tensor(&[1.0; 4], &[1, 4]));
        let found = ops::rope(&tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 4]), &zeros, &ones);
        check("layout", &format!("rope {name}"), found, &[1, 4], &[-3.0, -4.0, 1.0, 2.0]);
    }
}

#[test]
fn a_loss_over_many_rows_is_the_same_with_and_without_the_layer_before_it() {
    for (name, device) in devices() {
        let tensor =
            |seed, shape: &[usize]| crate::tensor(device, &scaled_noise(shape.iter().product(), seed, 1.0), shape);
        // More rows than are computed at a time.
        let (x, weight) = (tensor(1, &[2300, 9]), tensor(2, &[23, 9]));
        let targets: Vec<u32> = (0..2300).map(|i| i * 7 % 23).collect();
        let logits = ops::linear(&x, &weight, None, Activation::Identity).unwrap();
        let wanted = ops::cross_entropy(&logits, &targets).unwrap().to_vec::<f32>().unwrap()[0];
        let found = ops::linear_cross_entropy(&x, &weight, &targets).unwrap().to_vec::<f32>().unwrap()[0];
        assert!((found - wanted).abs() < 1e-6 * wanted, "{name}: {found} {wanted}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device: &Device = &devices()[0].1;
    let zeros = |shape: &[usize]| Tensor::zeros(device, shape, DType::F32).unwrap();
    let shape = ConvShape::same(3, 4, 3);
    let conv = |x: &[usize], w: &[usize], b: &[usize]| {
        ops::conv2d(&zeros(x), &zeros(w), Some(&zeros(b)), shape, Activation::Relu).is_err()
    };
    assert!(conv(&[1, 5, 5, 2], &[4, 3, 3, 3], &[4]));
    assert!(conv(&[1, 5, 5, 3], &[4, 3, 3], &[4]));
    assert!(conv(&[1, 5, 5, 3], &[4, 3, 3, 3], &[3]));
    let linear = |x: &[usize], w: &[usize]| ops::linear(&zeros(x), &zeros(w), None, Activation::Relu).is_err();
    assert!(linear(&[5, 3], &[4, 2]) && linear(&[5, 3], &[4]) && linear(&[], &[4, 1]));
    assert!(ops::attention(&zeros(&[3, 4]), &zeros(&[2, 4]), &zeros(&[2, 4]), true).is_err());
    assert!(ops::attention(&zeros(&[4]), &zeros(&[2, 4]), &zeros(&[2, 4]), false).is_err());
    assert!(ops::rope(&zeros(&[2, 3]), &zeros(&[2, 3]), &zeros(&[2, 3])).is_err());
    let numbers = Tensor::from_slice(device, &[5u32], &[1]).unwrap();
    assert!(ops::embedding(&zeros(&[9]), &numbers).is_err());
    match ops::embedding(&zeros(&[5, 2]), &numbers) {
        // A GPU does not wait for numbers.
        Ok(row) => {
            assert!(row.to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()) && !matches!(device, Device::Cpu(_)))
        }
        Err(_) => assert!(matches!(device, Device::Cpu(_))),
    }
    assert!(ops::cross_entropy(&zeros(&[2, 3]), &[0]).is_err() && ops::cross_entropy(&zeros(&[1, 3]), &[3]).is_err());
    assert!(ops::cross_entropy(&zeros(&[1, 3]), &[ops::IGNORED]).is_err());
    assert!(ops::sum_dims(&zeros(&[2]), &[1]).is_err() && ops::sum_to(&zeros(&[4, 3]), &[2]).is_err());
    assert!(ops::mean(&zeros(&[0])).is_err() && ops::mean_dims(&zeros(&[0, 2]), &[0]).is_err());
    assert!(ops::rms_norm(&zeros(&[2, 3]), &zeros(&[2]), 1e-6).is_err());
    assert!(ops::group_norm(&zeros(&[1, 2, 2, 6]), 4, &zeros(&[6]), &zeros(&[6]), 1e-5).is_err());
    assert!(ops::pixel_unshuffle(&zeros(&[1, 3, 4, 1]), 2).is_err());
    assert!(zeros(&[2, 3]).permute(&[0, 0]).is_err() && zeros(&[2, 3]).permute(&[0]).is_err());
}
