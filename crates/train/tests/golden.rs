//! Ten optimiser steps against PyTorch: a two-layer transformer and a residual CNN. `golden/make.py` made the files and says
//! what the networks are.

use std::collections::BTreeMap;
use std::path::Path;
use supple_models::Parameters;
use supple_tensor::ops::{self, Activation, ConvShape, ResizeMode};
use supple_tensor::{Cpu, Device, Error, Isa, Tensor};
use supple_train::{Optimizer, OptimizerRecipe, loss};
use supple_weights::Weights;

const STEPS: usize = 10;

/// Runs the steps and compares losses and parameters.
fn compare(
    name: &str,
    recipe: OptimizerRecipe,
    rate: f64,
    loss_of: &dyn Fn(&Parameters, &Tensor, &Tensor) -> Result<Tensor, Error>,
) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let weights = Weights::open(&path).unwrap();
    let names: Vec<&str> = weights.names().filter_map(|name| name.strip_prefix("start/")).collect();
    assert!(names.len() > 15);
    for isa in Isa::available() {
        let device = Device::cpu(Cpu::new(isa, 2)).unwrap();
        let read = |name: &str| {
            let (shape, values) = weights.tensor_any_shape(name).unwrap();
            Tensor::from_slice(&device, &values, &shape).unwrap()
        };
        let mut parameters = Parameters::default();
        names.iter().for_each(|name| parameters.insert(name, read(&format!("start/{name}")).variable()));
        let mut optimizer = Optimizer::new(recipe);
        let losses = weights.tensor("losses", &[STEPS]).unwrap();
        for (i, wanted) in losses.iter().enumerate() {
            let loss = loss_of(&parameters, &read(&format!("input/{i}")), &read(&format!("target/{i}"))).unwrap();
            let found = loss.to_vec::<f32>().unwrap()[0];
            assert!((found - wanted).abs() < 1e-5 * wanted.abs(), "{name} on {isa}, step {i}: {found} not {wanted}");
            let gradients = loss.backward().unwrap();
            drop(loss);
            optimizer.step(&mut parameters, &gradients, 1.0, rate).unwrap();
        }
        let mut moved = 0.0f32;
        for name in &names {
            let values = |folder: &str| weights.tensor_any_shape(&format!("{folder}/{name}")).unwrap().1;
            let found = parameters.get("test", name).unwrap().to_vec::<f32>().unwrap();
            for ((found, wanted), start) in found.iter().zip(values("end")).zip(values("start")) {
                assert!((found - wanted).abs() < 2e-5, "{name} on {isa}: {found} not {wanted}");
                moved = moved.max((wanted - start).abs());
            }
        }
        assert!(moved > 0.05, "the steps went somewhere: {moved}");
    }
}

#[test]
fn a_transformer_trains_as_in_pytorch() {
    const WIDTH: usize = 16;
    const HEADS: usize = 2;
    let recipe = OptimizerRecipe::AdamW { betas: [0.9, 0.95], epsilon: 1e-4, weight_decay: 0.1 };
    compare("transformer.safetensors", recipe, 1e-2, &|p, x, y| {
        let get = |name: &str| p.get("test", name).unwrap();
        let (batch, tokens) = (x.shape()[0], x.shape()[1]);
        let numbers = |x: &Tensor| x.to_vec::<f32>().unwrap().iter().map(|&v| v as u32).collect::<Vec<u32>>();
        let d = WIDTH / HEADS;
        let angle = |i: usize| (i / d) as f64 * 10000f64.powf(-2.0 * (i % d % (d / 2)) as f64 / d as f64);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..tokens * d).map(|i| f(angle(i)) as f32).collect();
            Tensor::from_slice(x.device(), &values, &[tokens, d])
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let indices = Tensor::from_slice(x.device(), &numbers(x), &[batch, tokens])?;
        let mut x = ops::embedding(get("embedding"), &indices)?;
        for i in 0..2 {
            let part = |name: &str| get(&format!("{i}.{name}"));
            let linear = |x: &Tensor, name: &str| ops::linear(x, part(name), None, Activation::Identity);
            let h = ops::rms_norm(&x, part("norm1"), 1e-6)?;
            let heads = |name: &str| linear(&h, name)?.reshape(&[batch, tokens, HEADS, d])?.transpose(1, 2);
            let (q, k) = (ops::rope(&heads("q")?, &cos, &sin)?, ops::rope(&heads("k")?, &cos, &sin)?);
            let a = ops::attention(&q, &k, &heads("v")?, true)?;
            x = ops::add(&x, &linear(&a.transpose(1, 2)?.reshape(&[batch, tokens, WIDTH])?, "o")?)?;
            // The second layer's feed-forward part is computed twice, to save memory.
            let forward = {
                let [norm, gate, up, down] = ["norm2", "gate", "up", "down"].map(|name| part(name).clone());
                move |x: &[Tensor]| {
                    let h = ops::rms_norm(&x[0], &norm, 1e-6)?;
                    let gate = ops::silu(&ops::linear(&h, &gate, None, Activation::Identity)?)?;
                    let up = ops::linear(&h, &up, None, Activation::Identity)?;
                    ops::linear(&ops::mul(&gate, &up)?, &down, None, Activation::Identity)
                }
            };
            let h =
                if i == 0 { forward(std::slice::from_ref(&x))? } else { supple_tensor::checkpoint(&[&x], forward)? };
            x = ops::add(&x, &h)?;
        }
        let x = ops::rms_norm(&x, get("norm"), 1e-6)?.reshape(&[batch * tokens, WIDTH])?;
        ops::linear_cross_entropy(&x, get("head"), &numbers(y))
    });
}

#[test]
fn a_residual_network_trains_as_in_pytorch() {
    let recipe = OptimizerRecipe::Sgd { momentum: 0.9, weight_decay: 1e-2 };
    compare("cnn.safetensors", recipe, 0.1, &|p, x, y| {
        let get = |name: &str| p.get("test", name).unwrap();
        let conv = |name: &str, shape: ConvShape, x: &Tensor, how| {
            ops::conv2d(x, get(&format!("{name}.weight")), Some(get(&format!("{name}.bias"))), shape, how)
        };
        let plain = Activation::Identity;
        let mut x = conv("head", ConvShape::same(3, 8, 3), &ops::to_channels_last(x)?, plain)?;
        for i in 0..2 {
            let part = |name: &str| format!("{i}.{name}");
            let h = ops::group_norm(&x, 2, get(&part("norm.weight")), get(&part("norm.bias")), 1e-5)?;
            let h = conv(&part("first"), ConvShape::same(8, 12, 3), &h, Activation::LeakyRelu(0.05))?;
            let depthwise = ConvShape { groups: 12, dilation: [2; 2], padding: [4; 2], ..ConvShape::same(12, 12, 5) };
            let h = conv(&part("depthwise"), depthwise, &h, Activation::Gelu)?;
            let h = conv(&part("second"), ConvShape::same(12, 8, 1), &h, plain)?;
            let half = ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(8, 8, 3) };
            let c = ops::max_pool2d(&conv(&part("coarse"), half, &x, plain)?, [2; 2], [1; 2], [0; 2])?;
            let c = ops::resize(&c, ResizeMode::Bilinear, [x.shape()[1], x.shape()[2]])?;
            x = ops::add(&x, &ops::mul(&h, &ops::sigmoid(&c)?)?)?;
        }
        let x = ops::pixel_shuffle(&conv("tail", ConvShape::same(8, 12, 3), &x, plain)?, 2)?;
        Ok(loss::charbonnier(&x, &ops::to_channels_last(y)?, 1e-3).unwrap())
    });
}

#[test]
fn goldens_hold_what_their_script_says() {
    for name in ["transformer.safetensors", "cnn.safetensors"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let weights = Weights::open(&path).unwrap();
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        weights.names().for_each(|name| *count.entry(name.split('/').next().unwrap()).or_default() += 1);
        assert_eq!((count["input"], count["target"], count["losses"]), (STEPS, STEPS, 1));
        assert_eq!(count["start"], count["end"]);
    }
}
