//! What transformers are made of: attention with its gradients, RMS norm, rotary positions, SiLU, and larger products. Inputs differ
//! from run to run; the seed is printed.

use crate::{Target, check, devices, layouts, scaled_noise, tensor};
use std::time::{SystemTime, UNIX_EPOCH};
use supple_tensor::ops::{self, Activation, Linear};
use supple_tensor::{DType, Device, Tensor};

/// A seed that no run had before.
fn fresh_seed() -> u64 {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.subsec_nanos().into());
    println!("seed {seed}");
    seed
}

/// The values that a tensor really has, after rounding to its type.
fn values_of(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Heads of queries, heads of keys, queries, keys, features.
#[derive(Clone, Copy, Debug)]
struct Shape {
    q_heads: usize,
    kv_heads: usize,
    q_len: usize,
    k_len: usize,
    d: usize,
}

/// Attention of `[heads, tokens, d]`, and gradients of q, k and v for the gradient `up` of the result.
fn reference(s: Shape, causal: bool, [q, k, v, up]: [&[f64]; 4]) -> [Vec<f64>; 4] {
    let scale = 1.0 / (s.d as f64).sqrt();
    let mut out = [vec![0.0; q.len()], vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
    for h in 0..s.q_heads {
        let g = h / (s.q_heads / s.kv_heads);
        for i in 0..s.q_len {
            let seen = if causal { s.k_len - s.q_len + i + 1 } else { s.k_len };
            let row = (h * s.q_len + i) * s.d;
            let key = |j: usize| (g * s.k_len + j) * s.d;
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let score = |j: usize| dot(&q[row..][..s.d], &k[key(j)..][..s.d]) * scale;
            let most = (0..seen).map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..seen).map(|j| (score(j) - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let changes: Vec<f64> = (0..seen).map(|j| dot(&up[row..][..s.d], &v[key(j)..][..s.d])).collect();
            let mean: f64 = weights.iter().zip(&changes).map(|(w, c)| w / sum * c).sum();
            for j in 0..seen {
                let weight = weights[j] / sum;
                let of_score = weight * (changes[j] - mean) * scale;
                for c in 0..s.d {
                    out[0][row + c] += weight * v[key(j) + c];
                    out[1][row + c] += of_score * k[key(j) + c];
                    out[2][key(j) + c] += of_score * q[row + c];
                    out[3][key(j) + c] += weight * up[row + c];
                }
            }
        }
    }
    out
}

/// `[heads, tokens, d]` as heads usually come: a view into `[tokens, heads, d]`.
fn by_tokens(x: &Tensor) -> Tensor {
    x.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap()
}

/// Whether operators can have gradients there: those of f32 attention on a GPU are those of its parts.
fn has_gradients(target: &Target) -> bool {
    matches!(target.device, Device::Cpu(_)) || target.dtype != DType::F32
}

#[test]
fn attention_and_its_gradients() {
    let seed = fresh_seed();
    let shape = |q_heads, kv_heads, q_len, k_len, d| Shape { q_heads, kv_heads, q_len, k_len, d };
    let shapes = [
        shape(1, 1, 1, 1, 8),
        shape(2, 2, 64, 64, 64),
        shape(4, 2, 33, 130, 72),
        shape(2, 1, 129, 129, 128),
        shape(3, 1, 65, 200, 40),
        shape(1, 1, 70, 131, 256),
        shape(2, 2, 3, 17, 20),
        shape(6, 3, 130, 140, 16),
    ];
    for (i, s) in shapes.into_iter().enumerate() {
        let (of_q, of_k) = ([s.q_heads, s.q_len, s.d], [s.kv_heads, s.k_len, s.d]);
        let noise = |part: u64, shape: [usize; 3], scale| {
            scaled_noise(shape.iter().product(), seed + 10 * i as u64 + part, scale)
        };
        let (q, k, v) = (noise(0, of_q, 2.0), noise(1, of_k, 2.0), noise(2, of_k, 1.0));
        let up = noise(3, of_q, 1.0);
        for (name, device) in devices() {
            let [q, k, v] = [(&q, of_q), (&k, of_k), (&v, of_k)].map(|(x, shape)| tensor(device, x, &shape));
            let up = tensor(device, &up, &of_q);
            let rounded = [&q, &k, &v, &up].map(values_of);
            for causal in [false, true] {
                let wanted = reference(s, causal, [&rounded[0], &rounded[1], &rounded[2], &rounded[3]]);
                let what = format!("{s:?} causal {causal} {name}");
                check("attention", &what, ops::attention(&q, &k, &v, causal), &of_q, &wanted[0]);
                let views = [&q, &k, &v].map(by_tokens);
                let found = ops::attention(&views[0], &views[1], &views[2], causal);
                check("attention", &format!("{what}, views"), found, &of_q, &wanted[0]);
                // A GPU's kernels want whole pieces of 16 bytes.
                if !has_gradients(device) || (device.dtype != DType::F32 && s.d % 8 != 0) {
                    continue;
                }
                let leaves = [&q, &k, &v].map(Tensor::variable);
                let y = ops::attention(&leaves[0], &by_tokens(&leaves[1]), &leaves[2], causal).unwrap();
                check("attention", &format!("{what}, recorded"), Ok(y.clone()), &of_q, &wanted[0]);
                let gradients = y.backward_with(&up).unwrap();
                for (i, shape) in [of_q, of_k, of_k].into_iter().enumerate() {
                    let found = Ok(gradients.of(&leaves[i]).expect("it was used").clone());
                    check("attention", &format!("{what}, gradient {i}"), found, &shape, &wanted[i + 1]);
                }
            }
        }
    }
}

#[test]
fn attention_of_batches() {
    let seed = fresh_seed();
    let s = Shape { q_heads: 2, kv_heads: 1, q_len: 40, k_len: 50, d: 24 };
    let (of_q, of_k) = ([3, s.q_heads, s.q_len, s.d], [3, s.kv_heads, s.k_len, s.d]);
    let (plane_q, plane_k) = (s.q_heads * s.q_len * s.d, s.kv_heads * s.k_len * s.d);
    let (q, k, v) = (
        scaled_noise(3 * plane_q, seed, 2.0),
        scaled_noise(3 * plane_k, seed + 1, 2.0),
        scaled_noise(3 * plane_k, seed + 2, 1.0),
    );
    for (name, device) in devices() {
        let (q, k, v) = (tensor(device, &q, &of_q), tensor(device, &k, &of_k), tensor(device, &v, &of_k));
        let [flat_q, flat_k, flat_v] = [&q, &k, &v].map(values_of);
        let wanted: Vec<f64> = (0..3)
            .flat_map(|b| {
                let [k, v] = [&flat_k, &flat_v].map(|x| &x[b * plane_k..][..plane_k]);
                let q = &flat_q[b * plane_q..][..plane_q];
                let [out, ..] = reference(s, true, [q, k, v, q]);
                out
            })
            .collect();
        check("attention", name, ops::attention(&q, &k, &v, true), &of_q, &wanted);
    }
}

#[test]
fn what_attention_does_not_take_is_refused() {
    for (_, device) in devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, shape, device.dtype).unwrap();
        assert!(ops::attention(&zeros(&[3, 8]), &zeros(&[2, 8]), &zeros(&[2, 8]), true).is_err());
        assert!(ops::attention(&zeros(&[2, 8]), &zeros(&[2, 16]), &zeros(&[2, 16]), false).is_err());
        assert!(ops::attention(&zeros(&[3, 2, 8]), &zeros(&[2, 2, 8]), &zeros(&[2, 2, 8]), false).is_err());
    }
}

#[test]
fn norms_rotations_and_gates() {
    let seed = fresh_seed();
    for shape in [[2, 3, 5, 6], [1, 2, 7, 64], [2, 2, 9, 136], [1, 1, 3, 4096], [1, 1, 2, 10000], [1, 3, 1, 16]] {
        let (last, tokens) = (shape[3], shape[2]);
        let x = scaled_noise(shape.iter().product(), seed, 3.0);
        let weight = scaled_noise(last, seed + 1, 1.0);
        let angles = scaled_noise(tokens * last, seed + 2, 3.1);
        let tables = [f32::cos, f32::sin].map(|f| angles.iter().map(|&a| f(a)).collect::<Vec<f32>>());
        for (name, device) in devices() {
            let weight = tensor(device, &weight, &[last]);
            let [cosines, sines] = [&tables[0], &tables[1]].map(|table| tensor(device, table, &[tokens, last]));
            let (w, c, s) = (values_of(&weight), values_of(&cosines), values_of(&sines));
            for x in layouts(device, &x, &shape) {
                let wide = values_of(&x);
                let what = |op: &str| format!("{op} {shape:?} {name}");
                let rms: Vec<f64> = wide
                    .chunks(last)
                    .flat_map(|row| {
                        let root = (row.iter().map(|v| v * v).sum::<f64>() / last as f64 + 1e-6).sqrt();
                        row.iter().zip(&w).map(move |(v, w)| v / root * w).collect::<Vec<_>>()
                    })
                    .collect();
                check("normalize", &what("rms_norm"), ops::rms_norm(&x, &weight, 1e-6), &shape, &rms);
                let silu: Vec<f64> = wide.iter().map(|v| v / (1.0 + (-v).exp())).collect();
                check("activation", &what("silu"), ops::silu(&x), &shape, &silu);
                let turned: Vec<f64> = (0..wide.len())
                    .map(|i| {
                        let (at, half) = (i % last, last / 2);
                        let other = if at < half { -wide[i + half] } else { wide[i - half] };
                        let angle = i / last % tokens * last + at;
                        wide[i] * c[angle] + other * s[angle]
                    })
                    .collect();
                check("attention", &what("rope"), ops::rope(&x, &cosines, &sines), &shape, &turned);
            }
        }
    }
}

/// `a · b` for `m × k` and `k × n`, either of them given turned.
fn product([m, k, n]: [usize; 3], a: (&[f64], bool), b: (&[f64], bool)) -> Vec<f64> {
    let of_a = |y: usize, c: usize| if a.1 { a.0[c * m + y] } else { a.0[y * k + c] };
    let of_b = |c: usize, x: usize| if b.1 { b.0[x * k + c] } else { b.0[c * n + x] };
    (0..m * n).map(|i| (0..k).map(|c| of_a(i / n, c) * of_b(c, i % n)).sum()).collect()
}

#[test]
fn larger_products() {
    let seed = fresh_seed();
    for [m, k, n] in [[128, 64, 256], [200, 136, 264], [130, 72, 300], [257, 129, 131], [2, 512, 160]] {
        let scale = 1.7 / (k as f32).sqrt();
        let (x, weight, bias) =
            (scaled_noise(m * k, seed, 1.0), scaled_noise(n * k, seed + 1, scale), scaled_noise(n, seed + 2, 1.0));
        let grad = scaled_noise(m * n, seed + 3, 1.0 / (m as f32).sqrt());
        for (name, device) in devices() {
            let what = |op: &str| format!("{op} {m}x{k}x{n} {name}");
            let layer = Linear::new(device, [n, k], &weight, Some(&bias)).unwrap();
            let (weight, bias) = (tensor(device, &weight, &[n, k]), tensor(device, &bias, &[n]));
            let (w, b) = (values_of(&weight), values_of(&bias));
            for x in layouts(device, &x, &[m, k]) {
                let wide = values_of(&x);
                let plain = product([m, k, n], (&wide, false), (&w, true));
                let relu: Vec<f64> = plain.iter().enumerate().map(|(i, v)| (v + b[i % n]).max(0.0)).collect();
                check("linear", &what("layer"), layer.forward(&x, Activation::Relu), &[m, n], &relu);
                let found = ops::linear(&x, &weight, Some(&bias), Activation::Relu);
                check("linear", &what("linear"), found, &[m, n], &relu);
                let turned = weight.transpose(0, 1).unwrap();
                check("matmul", &what("matmul"), ops::matmul(&x, &turned), &[m, n], &plain);
            }
            let (x, grad) = (tensor(device, &x, &[m, k]), tensor(device, &grad, &[m, n]));
            let (wide, up) = (values_of(&x), values_of(&grad));
            let of_x = product([m, n, k], (&up, false), (&w, false));
            check("linear", &what("of the input"), ops::linear_backward_input(&grad, &weight), &[m, k], &of_x);
            let of_weight = product([n, m, k], (&up, true), (&wide, false));
            check("linear", &what("of the weight"), ops::linear_backward_weight(&grad, &x), &[n, k], &of_weight);
        }
    }
}
