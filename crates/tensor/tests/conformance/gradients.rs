//! Gradients of every operator against finite differences, on every device that computes in f32; in 16 bits on a GPU, where
//! differences drown in rounding, against those of the CPU in f32 of the same rounded inputs.
//!
//! An operator's results are weighted by noise and summed in `f64`. That sum is compared before and after small steps of each
//! input, along directions of noise and along single elements; inputs stay clear of kinks.

use crate::{Target, cpu, devices, scaled_noise};
use supple_tensor::ops::{self, Activation, ConvShape, ResizeMode};
use supple_tensor::{DType, Device, Error, Tensor, autograd};

/// Values of an input and its shape.
pub(crate) type Input = (Vec<f32>, Vec<usize>);

pub(crate) fn input(shape: &[usize], seed: u64) -> Input {
    (scaled_noise(shape.iter().product(), seed, 1.0), shape.to_vec())
}

/// Values at least 0.2 away from zero.
fn away_from_zero(shape: &[usize], seed: u64) -> Input {
    let (values, shape) = input(shape, seed);
    (values.into_iter().map(|v| v + 0.2f32.copysign(v)).collect(), shape)
}

fn positive(shape: &[usize], seed: u64) -> Input {
    let (values, shape) = away_from_zero(shape, seed);
    (values.into_iter().map(f32::abs).collect(), shape)
}

/// Values of which no two are within 0.02 of each other.
fn distinct(shape: &[usize], seed: u64) -> Input {
    let (noise, shape) = input(shape, seed);
    let mut order: Vec<usize> = (0..noise.len()).collect();
    order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
    let mut values = vec![0.0; noise.len()];
    order.iter().enumerate().for_each(|(rank, &at)| values[at] = 0.05 * rank as f32 - 1.0);
    (values, shape)
}

/// The worst disagreement of gradients with differences, relative to their size.
fn worst(device: &Device, inputs: &[Input], f: &dyn Fn(&[Tensor]) -> Result<Tensor, Error>) -> Result<f64, Error> {
    let tensors = |values: &[Vec<f32>]| -> Vec<Tensor> {
        // Padded and contiguous in turn.
        let of = |(i, (values, input)): (usize, (&Vec<f32>, &Input))| {
            let x = Tensor::from_slice(device, values, &input.1).unwrap();
            if i == 0 { x.padded().unwrap() } else { x }
        };
        values.iter().zip(inputs).enumerate().map(of).collect()
    };
    let mut values: Vec<Vec<f32>> = inputs.iter().map(|input| input.0.clone()).collect();
    let leaves: Vec<Tensor> = tensors(&values).iter().map(Tensor::variable).collect();
    let y = f(&leaves)?;
    let weights = scaled_noise(y.elements(), 77, 1.0);
    let loss = |values: &[Vec<f32>]| -> Result<f64, Error> {
        let y = f(&tensors(values))?.to_vec::<f32>()?;
        Ok(y.iter().zip(&weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum())
    };
    let gradients = y.backward_with(&Tensor::from_slice(device, &weights, y.shape())?)?;
    let mut worst = 0.0f64;
    for (i, leaf) in leaves.iter().enumerate() {
        let gradient = gradients.of(leaf).expect("the result depends on it");
        assert_eq!(gradient.shape(), leaf.shape());
        let gradient = gradient.to_vec::<f32>()?;
        let count = gradient.len();
        let single = |at: usize| (0..count).map(|j| if j == at { 1.0 } else { 0.0 }).collect();
        for direction in [scaled_noise(count, 5, 1.0), scaled_noise(count, 6, 1.0), single(0), single(count / 2)] {
            let original = values[i].clone();
            let mut step = |h: f32| -> Result<(f64, Vec<f32>), Error> {
                values[i] = original.iter().zip(&direction).map(|(v, d)| v + h * d).collect();
                Ok((loss(&values)?, values[i].clone()))
            };
            let ((up, a), (down, b)) = (step(4e-3)?, step(-4e-3)?);
            values[i] = original;
            // What was really stepped, after rounding.
            let moved = a.iter().zip(&b).map(|(a, b)| f64::from(*a) - f64::from(*b));
            let (mut wanted, mut size) = (0.0, 0.0f64);
            for (moved, &g) in moved.zip(&gradient) {
                wanted += moved * f64::from(g);
                size += (moved * f64::from(g)).powi(2);
            }
            let error = (up - down - wanted).abs() / size.sqrt().max(8e-3 * 0.1);
            // Written so that NaN counts.
            worst = if error <= worst { worst } else { error };
        }
    }
    Ok(worst)
}

/// How far gradients in 16 bits may be from those in f32, relative to the largest of an input, or to 1.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F16 { 8e-3 } else { 6e-2 }
}

/// The gradients of `f` weighted by noise, of inputs and weights that were rounded to `dtype`, computed in `elements`.
fn gradients_in(
    device: &Device,
    dtype: DType,
    elements: DType,
    inputs: &[Input],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<Vec<Vec<f32>>, Error> {
    let rounded = |values: &[f32], shape: &[usize]| {
        Tensor::from_slice(device, values, shape)?.to_dtype(dtype)?.to_dtype(elements)
    };
    // Padded and contiguous in turn.
    let leaf = |(i, (values, shape)): (usize, &Input)| {
        let x = rounded(values, shape)?;
        Ok(if i == 0 { x.padded()? } else { x }.variable())
    };
    let leaves: Vec<Tensor> = inputs.iter().enumerate().map(leaf).collect::<Result<_, Error>>()?;
    let y = f(&leaves)?;
    let weights = rounded(&scaled_noise(y.elements(), 77, 1.0), y.shape())?.to_dtype(y.dtype())?.padded()?;
    let gradients = y.backward_with(&weights)?;
    let values = |leaf: &Tensor| {
        let gradient = gradients.of(leaf).expect("the result depends on it");
        assert_eq!((gradient.shape(), gradient.dtype()), (leaf.shape(), elements));
        gradient.to_dtype(DType::F32)?.to_vec::<f32>()
    };
    leaves.iter().map(values).collect()
}

/// The worst disagreement of gradients in 16 bits with those of the CPU in f32, as a share of the tolerance.
fn worst_in_16_bits(
    target: &Target,
    inputs: &[Input],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor, Error>,
) -> Result<f32, Error> {
    let wanted = gradients_in(cpu(), target.dtype, DType::F32, inputs, f)?;
    let found = gradients_in(target, target.dtype, target.dtype, inputs, f)?;
    let mut worst = 0.0f32;
    for (found, wanted) in found.iter().zip(&wanted) {
        let size = wanted.iter().fold(1.0f32, |size, v| size.max(v.abs()));
        for (found, wanted) in found.iter().zip(wanted) {
            let error = (found - wanted).abs() / size / tolerance(target.dtype);
            // Written so that NaN counts.
            worst = if error <= worst { worst } else { error };
        }
    }
    Ok(worst)
}

/// Checks an operator on every device.
pub(crate) fn check(name: &str, inputs: &[Input], f: impl Fn(&[Tensor]) -> Result<Tensor, Error>) {
    for (device_name, target) in devices() {
        if target.dtype == DType::F32 {
            let worst = worst(target, inputs, &f).unwrap_or_else(|error| panic!("{name} on {device_name}: {error}"));
            assert!(worst < 1e-2, "{name} on {device_name}: gradients are {worst:.1e} off");
        } else {
            let worst =
                worst_in_16_bits(target, inputs, &f).unwrap_or_else(|error| panic!("{name} on {device_name}: {error}"));
            assert!(worst <= 1.0, "{name} on {device_name}: gradients are {worst:.2} of the tolerance off");
        }
    }
}

#[test]
fn a_wrong_gradient_is_found() {
    // The gradient of the identity for a square.
    let (_, device) = &devices()[0];
    let wrong = |x: &[Tensor]| autograd::straight_through(&x[0], &ops::mul(&x[0], &x[0])?);
    assert!(worst(device, &[input(&[3, 5], 1)], &wrong).unwrap() > 0.1);
    let right = |x: &[Tensor]| ops::mul(&x[0], &x[0]);
    assert!(worst(device, &[input(&[3, 5], 1)], &right).unwrap() < 1e-2);
}

#[test]
fn elementwise() {
    let (image, channel) = ([2, 3, 4, 5], [5]);
    for (a, b) in [(&image[..], &image[..]), (&image, &channel), (&channel, &image), (&[3, 1, 7], &[2, 1, 4, 1])] {
        let pair = [input(a, 1), away_from_zero(b, 2)];
        check("add", &pair, |x| ops::add(&x[0], &x[1]));
        check("sub", &pair, |x| ops::sub(&x[0], &x[1]));
        check("mul", &pair, |x| ops::mul(&x[0], &x[1]));
        let larger = (pair[1].0.iter().map(|v| v + 0.8f32.copysign(*v)).collect(), pair[1].1.clone());
        check("div", &[pair[0].clone(), larger], |x| ops::div(&x[0], &x[1]));
    }
    let one = [away_from_zero(&[2, 3, 17], 3)];
    check("scale", &one, |x| ops::scale(&x[0], -1.7));
    check("add_scalar", &one, |x| ops::add_scalar(&x[0], 0.3));
    check("abs", &one, |x| ops::abs(&x[0]));
    check("exp", &one, |x| ops::exp(&x[0]));
    check("sqrt", &[positive(&[2, 3, 17], 4)], |x| ops::sqrt(&x[0]));
    check("log", &[positive(&[2, 3, 17], 4)], |x| ops::log(&x[0]));
}

#[test]
fn a_tensor_used_twice_gets_both_gradients() {
    check("x + x²", &[input(&[7], 1)], |x| ops::add(&x[0], &ops::mul(&x[0], &x[0])?));
}

#[test]
fn activations() {
    for shape in [vec![2, 3, 4, 5], vec![1, 67]] {
        let x = [away_from_zero(&shape, 1)];
        check("relu", &x, |x| ops::relu(&x[0]));
        check("leaky_relu", &x, |x| ops::leaky_relu(&x[0], 0.05));
        check("leaky_relu, negative slope", &x, |x| ops::leaky_relu(&x[0], -0.5));
        check("sigmoid", &x, |x| ops::sigmoid(&x[0]));
        check("tanh", &x, |x| ops::tanh(&x[0]));
        check("gelu", &x, |x| ops::gelu(&x[0]));
        check("silu", &x, |x| ops::silu(&x[0]));
    }
}

#[test]
fn reductions() {
    let x = [input(&[2, 3, 4, 5], 1)];
    check("sum", &x, |x| ops::sum(&x[0]));
    check("mean", &x, |x| ops::mean(&x[0]));
    for dims in [vec![0], vec![3], vec![1, 2], vec![0, 1, 2], vec![0, 1, 2, 3]] {
        check("sum_dims", &x, |x| ops::sum_dims(&x[0], &dims));
        check("mean_dims", &x, |x| ops::mean_dims(&x[0], &dims));
    }
}

#[test]
fn normalisations() {
    for shape in [vec![3, 7], vec![2, 3, 2, 17], vec![2, 48], vec![71, 60]] {
        let last = [*shape.last().unwrap()];
        let x = input(&shape, 1);
        let (weight, bias) = (input(&last, 2), input(&last, 3));
        check("softmax", std::slice::from_ref(&x), |x| ops::softmax(&x[0]));
        check("l2_normalize", std::slice::from_ref(&x), |x| ops::l2_normalize(&x[0], 1e-12));
        check("l2_normalize below epsilon", std::slice::from_ref(&x), |x| ops::l2_normalize(&x[0], 1e3));
        check("layer_norm", &[x.clone(), weight.clone(), bias], |x| ops::layer_norm(&x[0], &x[1], &x[2], 1e-5));
        check("rms_norm", &[x, weight], |x| ops::rms_norm(&x[0], &x[1], 1e-6));
    }
    let parts = [input(&[2, 3, 4, 6], 1), input(&[6], 2), input(&[6], 3)];
    for groups in [1, 3] {
        check("group_norm", &parts, |x| ops::group_norm(&x[0], groups, &x[1], &x[2], 1e-5));
    }
}

#[test]
fn convolutions() {
    let same = ConvShape::same;
    for (shape, [n, h, w]) in [
        (same(3, 16, 3), [2, 6, 7]),
        (same(16, 17, 3), [1, 5, 6]),
        (same(20, 5, 1), [2, 3, 4]),
        (ConvShape { stride: [2; 2], padding: [0; 2], ..same(16, 16, 3) }, [1, 8, 9]),
        (ConvShape { stride: [3, 2], padding: [1, 2], ..same(5, 6, 3) }, [1, 9, 7]),
        (ConvShape { dilation: [2, 3], padding: [2, 3], ..same(4, 5, 3) }, [1, 7, 8]),
        // More padding than the kernel reaches.
        (ConvShape { padding: [2, 1], ..same(4, 5, 1) }, [1, 4, 5]),
        (ConvShape { kernel: [2, 5], padding: [0, 3], ..same(3, 4, 3) }, [1, 6, 5]),
        (ConvShape { groups: 3, ..same(6, 9, 3) }, [1, 5, 4]),
        (ConvShape { groups: 16, ..same(16, 16, 5) }, [1, 6, 7]),
        (ConvShape { groups: 16, dilation: [3; 2], padding: [9; 2], ..same(16, 16, 7) }, [1, 8, 7]),
        // More lines than a block takes, lines longer than a window, channels that fill no vector.
        (ConvShape { groups: 60, ..same(60, 60, 3) }, [5, 8, 8]),
        (ConvShape { groups: 76, ..same(76, 76, 5) }, [1, 19, 13]),
        (ConvShape { groups: 13, dilation: [3; 2], padding: [9; 2], ..same(13, 13, 7) }, [2, 18, 37]),
    ] {
        let weight =
            input(&[shape.out_channels, shape.in_channels / shape.groups, shape.kernel[0], shape.kernel[1]], 2);
        let inputs = [input(&[n, h, w, shape.in_channels], 1), weight, input(&[shape.out_channels], 3)];
        let name = format!("conv2d {shape:?}");
        check(&name, &inputs, |x| ops::conv2d(&x[0], &x[1], Some(&x[2]), shape, Activation::Identity));
        check(&name, &inputs[..2], |x| ops::conv2d(&x[0], &x[1], None, shape, Activation::Tanh));
    }
    let shape = same(3, 4, 3);
    let inputs = [input(&[1, 5, 6, 3], 1), input(&[4, 3, 3, 3], 2), input(&[4], 3)];
    // The first is fused, the others are not.
    for how in [Activation::Sigmoid, Activation::Gelu] {
        check("conv2d and activation", &inputs, |x| ops::conv2d(&x[0], &x[1], Some(&x[2]), shape, how));
    }
    // A bias large enough that no sum is near the kink.
    let lifted = [inputs[0].clone(), inputs[1].clone(), (vec![-20.0, 20.0, 30.0, -30.0], vec![4])];
    for how in [Activation::Relu, Activation::LeakyRelu(0.05), Activation::LeakyRelu(-0.3)] {
        check("conv2d and ReLU", &lifted, |x| ops::conv2d(&x[0], &x[1], Some(&x[2]), shape, how));
    }
}

#[test]
fn residual_convolutions_and_gates() {
    let same = ConvShape::same;
    // Biases large enough that no sum is near the kink.
    let weight = |o: usize, i: usize, k: usize, seed| (scaled_noise(o * i * k * k, seed, 0.02), vec![o, i, k, k]);
    let bias = |o: usize| ((0..o).map(|c| if c % 3 == 1 { -2.0 } else { 2.0 }).collect::<Vec<f32>>(), vec![o]);
    let x = input(&[2, 5, 6, 20], 1);
    let inputs = [x, weight(17, 20, 3, 2), bias(17), weight(16, 17, 1, 3), bias(16), weight(20, 16, 3, 4), bias(20)];
    check("residual_convs", &inputs, |x| {
        let layers =
            [(&x[1], &x[2], same(20, 17, 3)), (&x[3], &x[4], same(17, 16, 1)), (&x[5], &x[6], same(16, 20, 3))];
        ops::residual_convs(&x[0], &layers, 0.05)
    });
    for shape in [vec![2, 3, 4, 5], vec![1, 2, 3, 48]] {
        check("sigmoid_gate", &[input(&shape, 1), input(&shape, 2)], |x| ops::sigmoid_gate(&x[0], &x[1]));
    }
}

#[test]
fn sums_gates_and_attention_between_channels() {
    for (shape, n) in [
        (ConvShape::same(20, 17, 3), 2),
        (ConvShape::same(7, 12, 1), 3),
        (ConvShape { groups: 24, ..ConvShape::same(24, 24, 3) }, 2),
    ] {
        let (cin, cout, side) = (shape.in_channels, shape.out_channels, shape.kernel[0]);
        let weight = input(&[cout, cin / shape.groups, side, side], 2);
        let inputs = [input(&[n, 5, 6, cin], 1), weight, input(&[n, 5, 6, cout], 3), input(&[cout], 4)];
        check("conv2d_add", &inputs, |x| ops::conv2d_add(&x[0], &x[1], Some(&x[3]), shape, &x[2]));
        check("conv2d_add", &inputs[..3], |x| ops::conv2d_add(&x[0], &x[1], None, shape, &x[2]));
    }
    for shape in [vec![2, 3, 4, 6], vec![5, 240], vec![3, 2, 16]] {
        check("gelu_gate", &[input(&shape, 1)], |x| ops::gelu_gate(&x[0]));
    }
    // With a kernel of its own on a GPU, and without.
    for (patches, pixels, c) in [(3, 64, 60), (2, 64, 8), (1, 64, 64), (2, 25, 12), (2, 64, 9)] {
        let inputs = [input(&[patches, pixels, 3 * c], 1), (vec![1.7], vec![1, 1, 1])];
        check("channel_attention", &inputs, |x| ops::channel_attention(&x[0], &x[1], 1e-12));
    }
    let inputs = [input(&[2, 64, 24], 1), (vec![1.7], vec![1, 1, 1])];
    check("channel_attention, short vectors", &inputs, |x| ops::channel_attention(&x[0], &x[1], 30.0));
}

#[test]
fn products() {
    for (rows, inputs, outputs) in [(&[1][..], 1, 1), (&[5], 7, 17), (&[2, 3], 48, 20)] {
        let x = [input(&[rows, &[inputs]].concat(), 1), input(&[outputs, inputs], 2), input(&[outputs], 3)];
        check("linear", &x, |x| ops::linear(&x[0], &x[1], Some(&x[2]), Activation::Identity));
        check("linear and GELU", &x[..2], |x| ops::linear(&x[0], &x[1], None, Activation::Gelu));
    }
    for (a, b) in
        [(&[3, 4][..], &[4, 5][..]), (&[2, 3, 4], &[4, 5]), (&[1, 3, 4], &[6, 4, 2]), (&[2, 1, 3, 4], &[3, 4, 2])]
    {
        check("matmul", &[input(a, 1), input(b, 2)], |x| ops::matmul(&x[0], &x[1]));
    }
}

#[test]
fn images() {
    for (kernel, stride, padding) in [([7, 7], [3, 3], [0, 0]), ([2, 3], [2, 1], [1, 1])] {
        let shape = [2, 13, 10, 3];
        check("max_pool2d", &[distinct(&shape, 1)], |x| ops::max_pool2d(&x[0], kernel, stride, padding));
        check("avg_pool2d", &[input(&shape, 1)], |x| ops::avg_pool2d(&x[0], kernel, stride, padding));
    }
    for mode in [ResizeMode::Nearest, ResizeMode::Bilinear, ResizeMode::Bicubic, ResizeMode::Area] {
        for size in [[9, 11], [2, 3], [5, 4]] {
            check("resize", &[input(&[2, 5, 4, 3], 1)], |x| ops::resize(&x[0], mode, size));
        }
    }
    check("pixel_shuffle", &[input(&[2, 3, 4, 12], 1)], |x| ops::pixel_shuffle(&x[0], 2));
    check("pixel_unshuffle", &[input(&[2, 6, 4, 5], 1)], |x| ops::pixel_unshuffle(&x[0], 2));
    check("to_channels_last", &[input(&[2, 3, 4, 5], 1)], |x| ops::to_channels_last(&x[0]));
    check("to_channels_first", &[input(&[2, 3, 4, 5], 1)], |x| ops::to_channels_first(&x[0]));
}

#[test]
fn views_and_copies() {
    let x = [input(&[2, 3, 4, 5], 1)];
    check("narrow", &x, |x| x[0].narrow(2, 1, 2));
    check("transpose", &x, |x| x[0].transpose(1, 3)?.contiguous());
    check("permute", &x, |x| x[0].permute(&[2, 0, 3, 1])?.reshape(&[8, 15]));
    check("reshape", &x, |x| x[0].reshape(&[6, 20]));
    check("broadcast", &[input(&[3, 1], 1)], |x| x[0].broadcast_to(&[2, 3, 4])?.contiguous());
    check("concat", &[input(&[2, 3, 5], 1), input(&[2, 2, 5], 2)], |x| ops::concat(&[&x[0], &x[1], &x[0]], 1));
    check("concat of channels", &[input(&[2, 3, 5], 1), input(&[2, 3, 4], 2)], |x| ops::concat(&[&x[0], &x[1]], 2));
}

#[test]
fn tokens() {
    let numbers: [u32; 6] = [3, 0, 3, 1, 4, 3];
    check("embedding", &[input(&[5, 7], 1)], |x| {
        ops::embedding(&x[0], &Tensor::from_slice(x[0].device(), &numbers, &[2, 3])?)
    });
    let angles = scaled_noise(4 * 6, 8, 3.0);
    check("rope", &[input(&[2, 4, 6], 1)], |x| {
        let of = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&a| f(a)).collect();
            Tensor::from_slice(x[0].device(), &values, &[4, 6])?.to_dtype(x[0].dtype())
        };
        ops::rope(&x[0], &of(f32::cos)?, &of(f32::sin)?)
    });
    let qkv = [input(&[2, 3, 8], 1), input(&[2, 5, 8], 2), input(&[2, 5, 6], 3)];
    for causal in [false, true] {
        check("attention", &qkv, |x| ops::attention(&x[0], &x[1], &x[2], causal));
    }
    let targets: Vec<u32> = (0..300).map(|i| if i % 7 == 3 { ops::IGNORED } else { i * 5 % 11 }).collect();
    check("cross_entropy", &[input(&[300, 11], 1)], |x| ops::cross_entropy(&x[0], &targets));
    let pair = [input(&[300, 5], 1), input(&[11, 5], 2)];
    check("linear_cross_entropy", &pair, |x| ops::linear_cross_entropy(&x[0], &x[1], &targets));
}

#[test]
fn checkpoints_change_nothing_but_memory() {
    let part = |x: &Tensor, w: &Tensor| ops::tanh(&ops::matmul(x, w)?);
    let inputs = [input(&[3, 4], 1), input(&[4, 4], 2)];
    let plain = |x: &[Tensor]| part(&part(&x[0], &x[1])?, &x[1]);
    // Weights are an argument once, and once held by the closure.
    let saving = move |x: &[Tensor]| {
        let y = autograd::checkpoint(&[&x[0], &x[1]], move |x| part(&x[0], &x[1]))?;
        let weight = x[1].clone();
        autograd::checkpoint(&[&y], move |y| part(&y[0], &weight))
    };
    check("checkpoint", &inputs, saving);
    for (name, target) in devices() {
        let leaves = || -> Vec<Tensor> { inputs.iter().map(|(v, s)| crate::tensor(target, v, s).variable()).collect() };
        let gradients = |f: &dyn Fn(&[Tensor]) -> Result<Tensor, Error>| {
            let leaves = leaves();
            let gradients = ops::sum(&f(&leaves).unwrap()).unwrap().backward().unwrap();
            let values = |x: &Tensor| gradients.of(x).unwrap().to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
            leaves.iter().map(values).collect::<Vec<_>>()
        };
        assert_eq!(gradients(&plain), gradients(&saving), "{name}");
    }
}

#[test]
fn gradients_stop_where_they_are_told_to() {
    let (_, device) = &devices()[0];
    let x = Tensor::from_slice(device, &[2.0f32], &[]).unwrap().variable();
    assert!(ops::mul(&x, &x).unwrap().requires_grad());
    assert!(!autograd::no_grad(|| ops::mul(&x, &x)).unwrap().requires_grad());
    let gradients = ops::mul(&x, &x.detach()).unwrap().backward().unwrap();
    assert_eq!(gradients.of(&x).unwrap().to_vec::<f32>().unwrap(), [2.0]);
    assert!(x.detach().backward().is_err(), "nothing to differentiate by");
    assert!(Tensor::zeros(device, &[2], supple_tensor::DType::F32).unwrap().variable().backward().is_err());
    // Layers with packed weights say so instead of losing the gradient.
    let conv = ops::Conv2d::new(device, ConvShape::same(1, 1, 1), &[1.0], None).unwrap();
    let image = Tensor::zeros(device, &[1, 2, 2, 1], supple_tensor::DType::F32).unwrap().variable();
    assert!(conv.forward(&image, Activation::Identity, None).is_err());
    assert!(autograd::no_grad(|| conv.forward(&image, Activation::Identity, None)).is_ok());
}

#[test]
fn deep_chains_are_taken_apart_without_recursion() {
    let x = Tensor::from_slice(cpu(), &[1.0f32], &[1]).unwrap().variable();
    let mut y = x.clone();
    for _ in 0..200_000 {
        y = ops::scale(&y, 1.0).unwrap();
    }
    drop(y.backward().unwrap());
    drop(y);
}

#[test]
fn large_batches_are_made_of_small_ones() {
    let (_, device) = &devices()[0];
    let w = Tensor::from_slice(device, &scaled_noise(6, 1, 1.0), &[2, 3]).unwrap().variable();
    let x = Tensor::from_slice(device, &scaled_noise(12, 2, 1.0), &[4, 3]).unwrap();
    let loss = |x: &Tensor| ops::sum(&ops::linear(x, &w, None, Activation::Tanh).unwrap()).unwrap();
    let whole = loss(&x).backward().unwrap();
    let mut parts = loss(&x.narrow(0, 0, 2).unwrap()).backward().unwrap();
    parts.accumulate(loss(&x.narrow(0, 2, 2).unwrap()).backward().unwrap()).unwrap();
    let values = |g: &supple_tensor::Gradients| g.of(&w).unwrap().to_vec::<f32>().unwrap();
    for (a, b) in values(&whole).iter().zip(values(&parts)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}
