//! Training steps that a GPU replays as one graph.

use crate::{devices, scaled_noise};
use supple_tensor::ops::{self, Activation, ConvShape};
use supple_tensor::{DType, Device, Error, Recorded, Tensor};

/// All gradients of a small network's loss, one after the other, in f32.
fn gradients(x: &Tensor, dtype: DType, leaves: &[Tensor]) -> Result<Tensor, Error> {
    let same = ConvShape::same;
    let [w1, b1, w2, w3, gain, shift, last] = leaves else { unreachable!("as many as below") };
    let half = ConvShape { stride: [2; 2], padding: [0; 2], ..same(48, 16, 3) };
    // Master weights in f32: some are cast where they are used, convolutions cast their own.
    let of = |leaf: &Tensor| leaf.to_dtype(dtype);
    let y = ops::conv2d(&x.to_dtype(dtype)?, w1, Some(b1), same(3, 48, 3), Activation::LeakyRelu(0.05))?;
    let coarse = ops::conv2d(&y, &of(w2)?, None, half, Activation::Identity)?;
    let coarse = ops::resize(&ops::max_pool2d(&coarse, [3; 2], [2; 2], [0; 2])?, ops::ResizeMode::Bilinear, [16, 24])?;
    let mask = ops::conv2d(&coarse, w3, None, same(16, 48, 1), Activation::Sigmoid)?;
    let y = ops::layer_norm(&ops::mul(&y, &mask)?, gain, shift, 1e-5)?;
    let y = ops::conv2d(&ops::add(&y, &mask)?, last, None, same(48, 12, 3), Activation::Identity)?;
    let y = ops::pixel_shuffle(&y, 2)?.to_dtype(DType::F32)?;
    let loss = ops::mean(&ops::abs(&ops::add_scalar(&y, -0.3)?)?)?;
    let gradients = loss.backward()?;
    let parts: Vec<Tensor> = leaves
        .iter()
        .map(|leaf| {
            let gradient = gradients.of(leaf).expect("all are used");
            assert_eq!(gradient.dtype(), DType::F32);
            gradient.reshape(&[gradient.elements()])
        })
        .collect::<Result<_, Error>>()?;
    ops::concat(&parts.iter().collect::<Vec<_>>(), 0)
}

#[test]
fn a_recorded_training_step_is_the_one_that_was_launched() {
    for (name, target) in devices().iter().filter(|(_, target)| matches!(target.device, Device::Cuda(_))) {
        // With a stream of its own: other tests must not queue work while it is recorded.
        let target = &crate::Target { device: Device::cuda(0).unwrap(), dtype: target.dtype };
        let shapes: [&[usize]; 7] =
            [&[48, 3, 3, 3], &[48], &[16, 48, 3, 3], &[48, 16, 1, 1], &[48], &[48], &[12, 48, 3, 3]];
        let tensor = |(i, shape): (usize, &&[usize])| {
            let values = scaled_noise(shape.iter().product(), i as u64, 0.2);
            Tensor::from_slice(target, &values, shape).unwrap().variable()
        };
        let leaves: Vec<Tensor> = shapes.iter().enumerate().map(tensor).collect();
        let shape = [2, 16, 24, 3];
        let x = Tensor::zeros(target, &shape, DType::F32).unwrap();
        let mut recorded =
            Recorded::new(&x, |x| gradients(x, target.dtype, &leaves)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for seed in [10, 11, 10] {
            let values = scaled_noise(x.elements(), seed, 1.0);
            let eager = Tensor::from_slice(target, &values, &shape).unwrap();
            let eager = gradients(&eager, target.dtype, &leaves).unwrap().to_vec::<f32>().unwrap();
            let found = recorded.run(|to| to.copy_from_slice(&values)).unwrap();
            assert_eq!(found, eager, "{name}: the same bits");
            assert!(found.iter().any(|v| v.abs() > 1e-4));
        }
    }
}
