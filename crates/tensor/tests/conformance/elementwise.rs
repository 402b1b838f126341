//! Sums, products, multiples.

use crate::{CHANNELS, check, devices, layouts, scaled_noise, tensor};
use supple_tensor::ops;

#[test]
fn operands_of_equal_shape() {
    for shape in CHANNELS.map(|c| [2, 3, 5, c]).into_iter().chain([[1, 1, 1, 1], [1, 41, 43, 17]]) {
        let len = shape.iter().product();
        let (a, b) = (scaled_noise(len, 1, 1.0), scaled_noise(len, 2, 1.0));
        let with = |f: fn(f64, f64) -> f64| -> Vec<f64> {
            a.iter().zip(&b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).collect()
        };
        let (sum, product) = (with(|a, b| a + b), with(|a, b| a * b));
        let multiple: Vec<f64> = a.iter().map(|&a| f64::from(a) * f64::from(0.3f32)).collect();
        for (name, device) in devices() {
            for a in layouts(device, &a, &shape) {
                for b in layouts(device, &b, &shape) {
                    check("elementwise", &format!("add {shape:?} {name}"), ops::add(&a, &b), &shape, &sum);
                    check("elementwise", &format!("mul {shape:?} {name}"), ops::mul(&a, &b), &shape, &product);
                }
                check("elementwise", &format!("scale {shape:?} {name}"), ops::scale(&a, 0.3), &shape, &multiple);
            }
        }
    }
}

#[test]
fn operands_that_repeat() {
    let cases: [(&[usize], &[usize], &[usize]); 7] = [
        (&[2, 3, 5, 17], &[17], &[2, 3, 5, 17]),
        (&[60], &[1, 5, 7, 60], &[1, 5, 7, 60]),
        (&[2, 3, 5, 17], &[2, 1, 1, 17], &[2, 3, 5, 17]),
        (&[2, 3, 5, 17], &[3, 5, 1], &[2, 3, 5, 17]),
        (&[3, 1], &[1, 4], &[3, 4]),
        (&[1], &[7], &[7]),
        (&[5, 0], &[1], &[5, 0]),
    ];
    for (a_shape, b_shape, shape) in cases {
        let (a, b) = (scaled_noise(a_shape.iter().product(), 1, 1.0), scaled_noise(b_shape.iter().product(), 2, 1.0));
        // The element of an operand that belongs to element `at` of the result.
        let pick = |values: &[f32], own: &[usize], mut at: usize| {
            let (mut index, mut step) = (0, 1);
            for d in 1..=shape.len() {
                let i = at % shape[shape.len() - d];
                at /= shape[shape.len() - d];
                if d <= own.len() {
                    index += if own[own.len() - d] == 1 { 0 } else { i * step };
                    step *= own[own.len() - d];
                }
            }
            f64::from(values[index])
        };
        let wanted: Vec<f64> =
            (0..shape.iter().product()).map(|at| pick(&a, a_shape, at) * pick(&b, b_shape, at)).collect();
        for (name, device) in devices() {
            let a = tensor(device, &a, a_shape);
            let b = tensor(device, &b, b_shape);
            let what = format!("mul {a_shape:?} {b_shape:?} {name}");
            check("elementwise", &what, ops::mul(&a, &b), shape, &wanted);
            check("elementwise", &what, ops::mul(&b, &a), shape, &wanted);
        }
    }
}
