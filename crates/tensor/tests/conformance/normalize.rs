//! Softmax, L2 normalisation, layer normalisation.

use crate::{CHANNELS, check, devices, layouts, scaled_noise, tensor};
use supple_tensor::ops;

#[test]
fn normalisations_over_the_last_dimension() {
    for shape in CHANNELS.map(|c| [2, 1, 5, c]).into_iter().chain([[1, 23, 29, 64]]) {
        let len = shape[3];
        for scale in [1.0, 20.0] {
            let x = scaled_noise(shape.iter().product(), 1, scale);
            let (weight, bias) = (scaled_noise(len, 2, 1.0), scaled_noise(len, 3, 1.0));
            let (mut softmax, mut l2, mut layer) = (Vec::new(), Vec::new(), Vec::new());
            for row in x.chunks(len) {
                let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
                let sum: f64 = row.iter().map(|v| v.exp()).sum();
                softmax.extend(row.iter().map(|v| v.exp() / sum));
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                l2.extend(row.iter().map(|v| v / norm));
                let mean = row.iter().sum::<f64>() / len as f64;
                let deviation = (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len as f64 + 1e-5).sqrt();
                let affine = weight.iter().zip(&bias).map(|(&w, &b)| (f64::from(w), f64::from(b)));
                layer.extend(row.iter().zip(affine).map(|(v, (w, b))| (v - mean) / deviation * w + b));
            }
            for (name, device) in devices() {
                let weight = tensor(device, &weight, &[len]);
                let bias = tensor(device, &bias, &[len]);
                for x in layouts(device, &x, &shape) {
                    let what = |op: &str| format!("{op} {shape:?} {name}");
                    check("normalize", &what("softmax"), ops::softmax(&x), &shape, &softmax);
                    check("normalize", &what("l2"), ops::l2_normalize(&x, 1e-12), &shape, &l2);
                    check("normalize", &what("layer"), ops::layer_norm(&x, &weight, &bias, 1e-5), &shape, &layer);
                }
            }
        }
    }
}
