//! What language models add to other transformers: rotations of heads by angles made once, gated units, attention whose scores are
//! capped and windowed, and the loss on a vocabulary.

use crate::gradients::{check as check_gradients, input};
use crate::{Target, check, devices, layouts, scaled_noise, tensor};
use supple_tensor::ops::{self, Gate, IGNORED, Rotation, Scores};
use supple_tensor::{DType, Error, Tensor};

/// The values that a tensor really has, after rounding to its type.
fn values_of(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Angles of so many tokens, and their rotation.
fn rotation(device: &supple_tensor::Device, tokens: usize, angles: usize) -> (Vec<f32>, Rotation) {
    let all = scaled_noise(tokens * angles, 3, 3.1);
    let [cosines, sines] = [f32::cos, f32::sin].map(|f| all.iter().map(|&a| f(a)).collect::<Vec<f32>>());
    let rotation = Rotation::new(device, [tokens, angles], &cosines, &sines).unwrap();
    (all, rotation)
}

#[test]
fn heads_are_rotated_whole_and_in_part() {
    for ([batch, tokens, heads, d], angles) in
        [([2, 5, 3, 8], 4), ([1, 3, 2, 16], 3), ([1, 1, 1, 2], 1), ([2, 7, 4, 64], 32)]
    {
        let shape = [batch, tokens, heads, d];
        let x = scaled_noise(shape.iter().product(), 1, 2.0);
        for (name, device) in devices() {
            let (all, rotation) = rotation(device, tokens, angles);
            for x in layouts(device, &x, &shape) {
                let wide = values_of(&x);
                let wanted: Vec<f64> = (0..wide.len())
                    .map(|at| {
                        let (i, row) = (at % d, at / d);
                        let angle = |i: usize| f64::from(all[row / heads % tokens * angles + i]);
                        match i {
                            _ if i < angles => wide[at] * angle(i).cos() - wide[at + angles] * angle(i).sin(),
                            _ if i < 2 * angles => {
                                wide[at] * angle(i - angles).cos() + wide[at - angles] * angle(i - angles).sin()
                            }
                            _ => wide[at],
                        }
                    })
                    .collect();
                check("attention", &format!("rotate {shape:?} {name}"), ops::rotate(&x, &rotation), &shape, &wanted);
            }
        }
    }
    check_gradients("rotate", &[input(&[2, 5, 3, 8], 1)], |x| ops::rotate(&x[0], &rotation(x[0].device(), 5, 4).1));
    check_gradients("rotate", &[input(&[1, 4, 2, 10], 1)], |x| ops::rotate(&x[0], &rotation(x[0].device(), 4, 3).1));
}

#[test]
fn gates() {
    for (how, sigmoid_of) in [
        (Gate::Silu, (|x| x) as fn(f64) -> f64),
        (Gate::GeluTanh, |x| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))),
    ] {
        let (gate, up) = (scaled_noise(3 * 37, 1, 6.0), scaled_noise(3 * 37, 2, 1.0));
        for (name, device) in devices() {
            let up = tensor(device, &up, &[3, 37]);
            for gate in layouts(device, &gate, &[3, 37]) {
                let wanted: Vec<f64> = values_of(&gate)
                    .iter()
                    .zip(values_of(&up))
                    .map(|(&x, up)| x / (1.0 + (-sigmoid_of(x)).exp()) * up)
                    .collect();
                check("activation", &format!("{how:?} {name}"), ops::gated(&gate, &up, how), &[3, 37], &wanted);
            }
        }
        let pair = [input(&[4, 33], 1), input(&[4, 33], 2)];
        check_gradients("gated", &pair, |x| ops::gated(&ops::scale(&x[0], 3.0)?, &x[1], how));
    }
}

/// Attention of `[heads, tokens, d]` with `q_heads / kv_heads` heads of queries on one of keys, causal within a window, capped.
fn reference(q: &[f64], k: &[f64], v: &[f64], [q_heads, kv_heads, tokens, d]: [usize; 4], scale: f64) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    for head in 0..q_heads {
        let key = |j: usize| (head / (q_heads / kv_heads) * tokens + j) * d;
        for i in 0..tokens {
            let row = (head * tokens + i) * d;
            let seen: Vec<usize> = (0..=i).filter(|j| j + WINDOW > i).collect();
            let dot = |j: usize| (0..d).map(|c| q[row + c] * k[key(j) + c]).sum::<f64>();
            let scores: Vec<f64> = seen.iter().map(|&j| (CAP * (dot(j) * scale / CAP).tanh()).exp()).collect();
            let sum: f64 = scores.iter().sum();
            for (score, &j) in scores.iter().zip(&seen) {
                (0..d).for_each(|c| out[row + c] += score / sum * v[key(j) + c]);
            }
        }
    }
    out
}

const WINDOW: usize = 5;
const CAP: f64 = 1.5;

fn windowed(target: &supple_tensor::Device, x: &[Tensor], tokens: usize) -> Result<Tensor, Error> {
    let mask = ops::window_mask(target, x[0].dtype(), [tokens; 2], Some(WINDOW))?;
    let how = Scores { scale: 0.7, soft_cap: Some(CAP as f32), mask: Some(&mask) };
    ops::attention_with(&x[0], &x[1], &x[2], false, how)
}

#[test]
fn scores_are_capped_and_windowed() {
    let sizes @ [q_heads, kv_heads, tokens, d] = [4, 2, 13, 8];
    let (of_q, of_k) = ([q_heads, tokens, d], [kv_heads, tokens, d]);
    let noise = |shape: [usize; 3], seed| scaled_noise(shape.iter().product(), seed, 1.5);
    for (name, target) in devices() {
        let Target { device, .. } = target;
        let all = [(of_q, 1), (of_k, 2), (of_k, 3)].map(|(shape, seed)| tensor(target, &noise(shape, seed), &shape));
        let [q, k, v] = all.each_ref().map(values_of);
        let wanted = reference(&q, &k, &v, sizes, 0.7);
        check("attention", name, windowed(device, &all, tokens), &of_q, &wanted);
        let bad = |scale, soft_cap| {
            ops::attention_with(&all[0], &all[1], &all[2], true, Scores { scale, soft_cap, mask: None })
        };
        assert!(bad(0.0, None).is_err() && bad(1.0, Some(0.0)).is_err() && bad(f32::NAN, None).is_err());
        let mask = ops::window_mask(device, target.dtype, [3, 4], None).unwrap();
        let how = Scores { scale: 1.0, soft_cap: None, mask: Some(&mask) };
        assert!(ops::attention_with(&all[0], &all[1], &all[2], false, how).is_err());
        assert!(ops::window_mask(device, target.dtype, [4, 3], None).is_err());
    }
    let inputs = [input(&of_q, 1), input(&of_k, 2), input(&of_k, 3)];
    check_gradients("capped attention", &inputs, |x| windowed(x[0].device(), x, tokens));
    check_gradients("scaled attention", &inputs, |x| {
        ops::attention_with(&x[0], &x[1], &x[2], true, Scores { scale: 0.3, soft_cap: None, mask: None })
    });
}

#[test]
fn the_loss_on_a_vocabulary() {
    let (rows, width, classes) = (19, 8, 11);
    let targets: Vec<u32> = (0..rows as u32).map(|i| if i % 4 == 2 { IGNORED } else { i * 3 % 11 }).collect();
    for soft_cap in [None, Some(0.8)] {
        let sum = |x: &[Tensor]| {
            let targets = Tensor::from_slice(x[0].device(), &targets, &[rows])?;
            ops::linear_cross_entropy_sum(&x[0], &x[1], &targets, soft_cap)?.to_dtype(x[0].dtype())
        };
        for (name, device) in devices() {
            let x = tensor(device, &scaled_noise(rows * width, 1, 1.0), &[rows, width]);
            let weight = tensor(device, &scaled_noise(classes * width, 2, 1.0), &[classes, width]);
            let (a, b) = (values_of(&x), values_of(&weight));
            let mut wanted = 0.0;
            for (row, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORED) {
                let logit = |class: usize| {
                    let dot = (0..width).map(|c| a[row * width + c] * b[class * width + c]).sum::<f64>();
                    soft_cap.map_or(dot, |cap| f64::from(cap) * (dot / f64::from(cap)).tanh())
                };
                wanted += (0..classes).map(|c| logit(c).exp()).sum::<f64>().ln() - logit(target as usize);
            }
            check("attention", &format!("loss {soft_cap:?} {name}"), sum(&[x, weight]), &[], &[wanted]);
        }
        check_gradients("linear_cross_entropy_sum", &[input(&[rows, width], 1), input(&[classes, width], 2)], sum);
        // One of the two alone.
        check_gradients("linear_cross_entropy_sum", &[input(&[rows, width], 1)], |x| {
            let weight = Tensor::from_slice(x[0].device(), &scaled_noise(classes * width, 2, 1.0), &[classes, width])?;
            sum(&[x[0].clone(), weight.to_dtype(x[0].dtype())?])
        });
    }
    for (_, device) in devices() {
        let (x, weight) = (tensor(device, &[0.5; 4], &[2, 2]), tensor(device, &[0.5; 6], &[3, 2]));
        let of = |targets: &[u32]| {
            let targets = Tensor::from_slice(device, targets, &[targets.len()]).unwrap();
            ops::linear_cross_entropy_sum(&x, &weight, &targets, None).and_then(|loss| loss.to_vec::<f32>())
        };
        assert_eq!(of(&[IGNORED, IGNORED]).unwrap(), [0.0]);
        assert!(of(&[1]).is_err());
        // The CPU says so at once, a GPU by the loss.
        assert!(of(&[1, 3]).map_or(true, |loss| loss[0].is_nan()));
    }
}
