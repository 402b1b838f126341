//! ReLU, leaky ReLU, sigmoid, tanh, GELU.

use crate::{CHANNELS, check, devices, layouts, scaled_noise};
use supple_tensor::{Error, Tensor, ops};

/// A name, the operator, and its reference.
type Row = (&'static str, fn(&Tensor) -> Result<Tensor, Error>, fn(f64) -> f64);

#[test]
fn activations() {
    let operators: [Row; 5] = [
        ("relu", ops::relu, |x| x.max(0.0)),
        ("leaky_relu", |x| ops::leaky_relu(x, 0.05), |x| if x > 0.0 { x } else { f64::from(0.05f32) * x }),
        ("sigmoid", ops::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ("tanh", ops::tanh, f64::tanh),
        ("gelu", ops::gelu, |x| x * normal_cdf(x)),
    ];
    for shape in CHANNELS.map(|c| [2, 1, 7, c]).into_iter().chain([[1, 1, 1, 1], [1, 31, 37, 60]]) {
        for scale in [1.0, 8.0] {
            let values = scaled_noise(shape.iter().product(), 1, scale);
            for (name, operator, reference) in operators {
                let wanted: Vec<f64> = values.iter().map(|&x| reference(f64::from(x))).collect();
                for (device_name, device) in devices() {
                    for x in layouts(device, &values, &shape) {
                        check("activation", &format!("{name} {shape:?} {device_name}"), operator(&x), &shape, &wanted);
                    }
                }
            }
        }
    }
}

/// The distribution function of the normal distribution, by Simpson's rule on its density.
fn normal_cdf(x: f64) -> f64 {
    let (n, bound) = (400, x.abs());
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let step = bound / f64::from(n);
    let weight = |i: i32| {
        if i == 0 || i == n {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let half = (0..=n).map(|i| weight(i) * density(f64::from(i) * step)).sum::<f64>() * step / 3.0;
    0.5 + half.copysign(x)
}

#[test]
fn relu_lets_nan_through() {
    for (name, device) in devices() {
        let x = Tensor::from_slice(device, &[f32::NAN; 19], &[19]).unwrap();
        assert!(ops::relu(&x).unwrap().to_vec::<f32>().unwrap().iter().all(|y| y.is_nan()), "{name}");
        assert!(ops::leaky_relu(&x, 0.1).unwrap().to_vec::<f32>().unwrap().iter().all(|y| y.is_nan()), "{name}");
    }
}
