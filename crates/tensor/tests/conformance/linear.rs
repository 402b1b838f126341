//! The linear layer and products of matrices.

use crate::{check, devices, layouts, scaled_noise, tensor};
use supple_tensor::Tensor;
use supple_tensor::ops::{self, Activation, Linear};

#[test]
fn linear() {
    for (m, k, n) in [(1, 1, 1), (3, 17, 3), (13, 3, 52), (7, 60, 180), (401, 16, 17), (5, 48, 1)] {
        let (x, bias) = (scaled_noise(2 * m * k, 1, 1.0), scaled_noise(n, 3, 1.0));
        let weight = scaled_noise(n * k, 2, 1.7 / (k as f32).sqrt());
        for (with_bias, activation) in
            [(false, Activation::Identity), (true, Activation::LeakyRelu(0.1)), (true, Activation::Tanh)]
        {
            let mut wanted = Vec::new();
            for row in x.chunks(k) {
                for j in 0..n {
                    let products = row.iter().zip(&weight[j * k..]).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    let y = products.sum::<f64>() + if with_bias { f64::from(bias[j]) } else { 0.0 };
                    wanted.push(match activation {
                        Activation::Tanh => y.tanh(),
                        Activation::LeakyRelu(slope) if y < 0.0 => y * f64::from(slope),
                        _ => y,
                    });
                }
            }
            for (name, device) in devices() {
                let layer = Linear::new(device, [n, k], &weight, with_bias.then_some(&bias)).unwrap();
                for x in layouts(device, &x, &[2, m, k]) {
                    let what = format!("{m}x{k}x{n} {activation:?} {name}");
                    check("linear", &what, layer.forward(&x, activation), &[2, m, n], &wanted);
                }
                assert!(
                    layer.forward(&Tensor::from_slice(device, &[0.0f32; 2], &[1, 2]).unwrap(), activation).is_err()
                        || k == 2
                );
            }
        }
    }
}

#[test]
fn a_row_that_repeats_is_a_linear_input() {
    for (_, device) in devices() {
        let layer = Linear::new(device, [1, 2], &[1.0, 10.0], None).unwrap();
        let x = Tensor::from_slice(device, &[3.0f32, 4.0], &[2]).unwrap().broadcast_to(&[5, 2]).unwrap();
        check("linear", "repeated", layer.forward(&x, Activation::Identity), &[5, 1], &[43.0; 5]);
    }
}

#[test]
fn matmul() {
    for (batch, m, k, n) in
        [(1, 1, 1, 1), (3, 5, 7, 11), (2, 64, 16, 17), (4, 17, 60, 48), (1, 3, 0, 5), (2, 33, 31, 1)]
    {
        let scale = 1.7 / (k.max(1) as f32).sqrt();
        let (a, b) = (scaled_noise(batch * m * k, 1, scale), scaled_noise(batch * k * n, 2, 1.0));
        let product = |a: &[f32], b: &[f32]| -> Vec<f64> {
            let dot = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
            (0..m * n).map(|at| dot(at / n, at % n)).collect()
        };
        let wanted: Vec<f64> = (0..batch).flat_map(|i| product(&a[i * m * k..], &b[i * k * n..])).collect();
        let wanted_shared: Vec<f64> = (0..batch).flat_map(|i| product(&a[i * m * k..], &b)).collect();
        for (name, device) in devices() {
            let what = format!("{batch}x{m}x{k}x{n} {name}");
            let a = tensor(device, &a, &[batch, m, k]);
            let b = tensor(device, &b, &[batch, k, n]);
            check("matmul", &what, ops::matmul(&a, &b), &[batch, m, n], &wanted);
            // The same matrix for all, and a transposed view.
            let first = b.narrow(0, 0, 1).unwrap().reshape(&[k, n]).unwrap();
            check("matmul", &what, ops::matmul(&a, &first), &[batch, m, n], &wanted_shared);
            let turned = b.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
            check("matmul", &what, ops::matmul(&a, &turned), &[batch, m, n], &wanted);
        }
    }
}
