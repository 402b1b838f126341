//! Attention and its gradients.

use super::{Outcome, Random, difference, download, fill, time, tolerance, upload};
use supple_cuda::attention::{AttentionShape, Way, attention, attention_backward};
use supple_cuda::{DType, Elements, ElementsMut, Gpu};

/// Attention and its logarithms of sums in f64.
fn reference(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
    let mut out = vec![0.0; batch * q_len * q_heads * head];
    let mut lse = vec![f64::NEG_INFINITY; batch * q_heads * q_len];
    for b in 0..batch {
        for h in 0..q_heads {
            let g = h / (q_heads / kv_heads);
            for i in 0..q_len {
                let seen = if shape.causal { (k_len + i + 1).saturating_sub(q_len).min(k_len) } else { k_len };
                let query = &q[((b * q_len + i) * q_heads + h) * head..][..head];
                let row = |x: &[f32], j: usize, c: usize| f64::from(x[((b * k_len + j) * kv_heads + g) * head + c]);
                let scores: Vec<f64> = (0..seen)
                    .map(|j| {
                        let dot: f64 = (0..head).map(|c| f64::from(query[c]) * row(k, j, c)).sum();
                        dot * f64::from(shape.scale)
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                if seen > 0 {
                    lse[(b * q_heads + h) * q_len + i] = most + sum.ln();
                }
                for (j, score) in scores.iter().enumerate() {
                    let weight = (score - most).exp() / sum;
                    for c in 0..head {
                        out[((b * q_len + i) * q_heads + h) * head + c] += weight * row(v, j, c);
                    }
                }
            }
        }
    }
    (out, lse)
}

/// Shapes that leave tiles partly filled, in every way.
fn odd_shapes(random: &mut Random) -> Vec<AttentionShape> {
    let mut shapes = Vec::new();
    for head in [64, 72, 128, 8, 40, 80, 96, 112, 160, 192, 256] {
        for (q_len, k_len) in [(1, 1), (64, 64), (128, 128), (129, 65), (17, 300), (300, 17), (200, 333), (1, 257)] {
            for causal in [false, true] {
                let groups = [1, 2, 4][random.below(3)];
                let kv_heads = 1 + random.below(2);
                let (batch, q_heads) = (1 + random.below(2), kv_heads * groups);
                let scale = 2.0 / (head as f32).sqrt();
                shapes.push(AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, scale, causal });
            }
        }
    }
    shapes
}

pub fn check_attention(gpu: &Gpu, random: &mut Random) -> Outcome {
    use Way::{Common, Hopper};
    let ways = [
        (DType::F32, Common),
        (DType::F16, Common),
        (DType::BF16, Common),
        (DType::F16, Hopper),
        (DType::BF16, Hopper),
    ];
    let hopper = gpu.capability() == (9, 0);
    for (dtype, way) in ways.into_iter().filter(|(_, way)| *way == Common || hopper) {
        let (mut worst, mut worst_lse, mut wrong) = (0.0f64, 0.0f64, 0);
        let mut shapes = odd_shapes(random);
        shapes.retain(|shape| way != Hopper || !(129..=192).contains(&shape.head));
        for shape in &shapes {
            let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
            let sizes = [q_len * q_heads, k_len * kv_heads, k_len * kv_heads].map(|size| size * batch * head);
            let tripled = |values: Vec<f32>| values.into_iter().map(|value| value * 2.0).collect::<Vec<_>>();
            let (q, q_values) = upload(gpu, &tripled(random.values(sizes[0])), dtype)?;
            let (k, k_values) = upload(gpu, &tripled(random.values(sizes[1])), dtype)?;
            let (v, v_values) = upload(gpu, &random.values(sizes[2]), dtype)?;
            let o = gpu.allocate(sizes[0] * dtype.size())?;
            gpu.write(&o, 0, &vec![0xff; o.bytes()])?;
            let lse = gpu.upload(&vec![0xff; batch * q_heads * q_len * 4])?;
            let (steps_q, steps_k) = (shape.dense(q_len, q_heads), shape.dense(k_len, kv_heads));
            attention(
                gpu,
                way,
                shape,
                [(&q, steps_q), (&k, steps_k), (&v, steps_k)].map(|(x, steps)| (Elements::new(x, 0, dtype), steps)),
                (ElementsMut::new(&o, 0, dtype), steps_q),
                Some(ElementsMut::new(&lse, 0, DType::F32)),
            )?;
            let (wanted, wanted_lse) = reference(shape, &q_values, &k_values, &v_values);
            let error = difference(&download(gpu, &o, sizes[0], dtype)?, &wanted);
            let found_lse = download(gpu, &lse, batch * q_heads * q_len, DType::F32)?;
            let lse_error = found_lse.iter().zip(&wanted_lse).fold(0.0f64, |most, (&found, &wanted)| {
                let same = f64::from(found) == wanted;
                let error = if same { 0.0 } else { (f64::from(found) - wanted).abs() / wanted.abs().max(1.0) };
                if error.is_nan() { f64::INFINITY } else { most.max(error) }
            });
            (worst, worst_lse) = (worst.max(error), worst_lse.max(lse_error));
            if error > tolerance(dtype) || lse_error > 1e-5 {
                wrong += 1;
                if wrong < 6 {
                    println!("WRONG attention {dtype:?} {way:?} {shape:?}: {error:.2e}, lse {lse_error:.2e}");
                }
            }
        }
        println!(
            "attention {dtype:?} {way:?}: {} shapes, {wrong} wrong, largest difference {worst:.1e}, of lse {worst_lse:.1e}",
            shapes.len()
        );
    }
    Ok(())
}

/// Gradients of attention for a gradient of its result, in f64: of q, k and v.
fn backward_reference(shape: &AttentionShape, [q, k, v]: [&[f32]; 3], grad: &[f32]) -> [Vec<f64>; 3] {
    let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
    let mut of_q = vec![0.0; q.len()];
    let (mut of_k, mut of_v) = (vec![0.0; k.len()], vec![0.0; v.len()]);
    let scale = f64::from(shape.scale);
    for b in 0..batch {
        for h in 0..q_heads {
            let g = h / (q_heads / kv_heads);
            for i in 0..q_len {
                let seen = if shape.causal { (k_len + i + 1).saturating_sub(q_len).min(k_len) } else { k_len };
                let row = ((b * q_len + i) * q_heads + h) * head;
                let key = |j: usize| ((b * k_len + j) * kv_heads + g) * head;
                let dot =
                    |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
                let (query, up) = (&q[row..][..head], &grad[row..][..head]);
                let scores: Vec<f64> = (0..seen).map(|j| dot(query, &k[key(j)..][..head]) * scale).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp() / sum).collect();
                let changes: Vec<f64> = (0..seen).map(|j| dot(up, &v[key(j)..][..head])).collect();
                let mean: f64 = weights.iter().zip(&changes).map(|(w, c)| w * c).sum();
                for j in 0..seen {
                    let of_score = weights[j] * (changes[j] - mean) * scale;
                    for c in 0..head {
                        of_q[row + c] += of_score * f64::from(k[key(j) + c]);
                        of_k[key(j) + c] += of_score * f64::from(query[c]);
                        of_v[key(j) + c] += weights[j] * f64::from(up[c]);
                    }
                }
            }
        }
    }
    [of_q, of_k, of_v]
}

fn text(numbers: [f64; 3]) -> String {
    numbers.map(|number| format!("{number:.1e}")).join(" ")
}

pub fn check_backward(gpu: &Gpu, random: &mut Random) -> Outcome {
    let hopper = gpu.capability() == (9, 0);
    let ways = [Way::Common, Way::Hopper].into_iter().filter(|way| *way == Way::Common || hopper);
    for (way, dtype) in ways.flat_map(|way| [(way, DType::F16), (way, DType::BF16)]) {
        let (mut worst, mut wrong) = ([0.0f64; 3], 0);
        let mut shapes = odd_shapes(random);
        shapes.retain(|shape| way == Way::Common || shape.head <= 128);
        for shape in &shapes {
            let AttentionShape { batch, q_len, k_len, q_heads, kv_heads, head, .. } = *shape;
            let sizes = [q_len * q_heads, k_len * kv_heads, k_len * kv_heads].map(|size| size * batch * head);
            let (q, q_values) = upload(gpu, &random.values(sizes[0]), dtype)?;
            let (k, k_values) = upload(gpu, &random.values(sizes[1]), dtype)?;
            let (v, v_values) = upload(gpu, &random.values(sizes[2]), dtype)?;
            let (grad, grad_values) = upload(gpu, &random.values(sizes[0]), dtype)?;
            let o = gpu.allocate(sizes[0] * dtype.size())?;
            let lse = gpu.allocate(batch * q_heads * q_len * 4)?;
            let (steps_q, steps_k) = (shape.dense(q_len, q_heads), shape.dense(k_len, kv_heads));
            let inputs =
                [(&q, steps_q), (&k, steps_k), (&v, steps_k)].map(|(x, steps)| (Elements::new(x, 0, dtype), steps));
            let to = (ElementsMut::new(&o, 0, dtype), steps_q);
            attention(gpu, Way::Best, shape, inputs, to, Some(ElementsMut::new(&lse, 0, DType::F32)))?;
            let gradients = [0, 1, 2].map(|i| gpu.upload(&vec![0xff; sizes[i] * 4]));
            let [of_q, of_k, of_v] = gradients;
            let gradients = [of_q?, of_k?, of_v?];
            let both = [&o, &grad].map(|x| Elements::new(x, 0, dtype));
            let lse = Elements::new(&lse, 0, DType::F32);
            let outs = [0, 1, 2].map(|i| ElementsMut::new(&gradients[i], 0, DType::F32));
            attention_backward(gpu, way, shape, inputs, both, steps_q, lse, outs)?;
            let wanted = backward_reference(shape, [&q_values, &k_values, &v_values], &grad_values);
            let mut bad = false;
            for i in 0..3 {
                let error = difference(&download(gpu, &gradients[i], sizes[i], DType::F32)?, &wanted[i]);
                worst[i] = worst[i].max(error);
                bad |= error > tolerance(dtype);
            }
            if bad {
                wrong += 1;
                if wrong < 6 {
                    println!("WRONG gradients {dtype:?} {way:?} {shape:?}: largest so far {}", text(worst));
                }
            }
        }
        println!(
            "gradients {dtype:?} {way:?}: {} shapes, {wrong} wrong, largest differences {}",
            shapes.len(),
            text(worst)
        );
    }
    Ok(())
}

pub fn time_backward(gpu: &Gpu, random: &mut Random) -> Outcome {
    println!("attention backward, bf16, batch 1, TFLOP/s of the visible part, five products");
    if gpu.capability() == (9, 0) {
        time_backward_way(gpu, random, Way::Hopper)?;
    }
    time_backward_way(gpu, random, Way::Common)
}

fn time_backward_way(gpu: &Gpu, random: &mut Random, way: Way) -> Outcome {
    println!("{way:?} backward");
    let dtype = DType::BF16;
    for (q_heads, kv_heads, head) in [(32, 8, 128), (32, 32, 64)] {
        let mut line = format!("{q_heads}/{kv_heads} heads of {head}, causal:");
        for len in [2048, 4096, 8192, 16384] {
            let scale = 1.0 / (head as f32).sqrt();
            let shape =
                AttentionShape { batch: 1, q_len: len, k_len: len, q_heads, kv_heads, head, scale, causal: true };
            let (of_q, of_k) = (len * q_heads * head, len * kv_heads * head);
            let (q, k) = (fill(gpu, random, of_q, dtype)?, fill(gpu, random, of_k, dtype)?);
            let (v, grad) = (fill(gpu, random, of_k, dtype)?, fill(gpu, random, of_q, dtype)?);
            let o = gpu.allocate(of_q * 2)?;
            let lse = gpu.allocate(q_heads * len * 4)?;
            let (dq, dk, dv) = (gpu.allocate(of_q * 4)?, gpu.allocate(of_k * 4)?, gpu.allocate(of_k * 4)?);
            let (steps_q, steps_k) = (shape.dense(len, q_heads), shape.dense(len, kv_heads));
            let inputs =
                [(&q, steps_q), (&k, steps_k), (&v, steps_k)].map(|(x, steps)| (Elements::new(x, 0, dtype), steps));
            let to = (ElementsMut::new(&o, 0, dtype), steps_q);
            attention(gpu, Way::Best, &shape, inputs, to, Some(ElementsMut::new(&lse, 0, DType::F32)))?;
            let milliseconds = time(gpu, 3, || {
                let both = [&o, &grad].map(|x| Elements::new(x, 0, dtype));
                let outs = [&dq, &dk, &dv].map(|x| ElementsMut::new(x, 0, DType::F32));
                Ok(attention_backward(
                    gpu,
                    way,
                    &shape,
                    inputs,
                    both,
                    steps_q,
                    Elements::new(&lse, 0, DType::F32),
                    outs,
                )?)
            })?;
            line += &format!(" {len} {:.0}", 2.5 * shape.operations() / milliseconds * 1e-9);
        }
        println!("{line}");
    }
    Ok(())
}

pub fn time_forward(gpu: &Gpu, random: &mut Random) -> Outcome {
    println!("attention forward, bf16, batch 1, TFLOP/s of the visible part");
    let ways = [Way::Common, Way::Hopper];
    for way in ways.into_iter().filter(|way| *way == Way::Common || gpu.capability() == (9, 0)) {
        println!("{way:?}");
        time_forward_way(gpu, random, way)?;
    }
    Ok(())
}

fn time_forward_way(gpu: &Gpu, random: &mut Random, way: Way) -> Outcome {
    for (q_heads, kv_heads, head) in [(32, 8, 128), (32, 32, 64), (16, 16, 72), (8, 8, 256)] {
        for causal in [true, false] {
            let mut line = format!("{q_heads}/{kv_heads} heads of {head}{}:", if causal { ", causal" } else { "" });
            for len in [2048, 4096, 8192, 16384, 32768, 65536] {
                if (!causal || head != 128 || way == Way::Common) && len > 16384 {
                    continue;
                }
                let scale = 1.0 / (head as f32).sqrt();
                let shape = AttentionShape { batch: 1, q_len: len, k_len: len, q_heads, kv_heads, head, scale, causal };
                let dtype = DType::BF16;
                let (q, k) =
                    (fill(gpu, random, len * q_heads * head, dtype)?, fill(gpu, random, len * kv_heads * head, dtype)?);
                let v = fill(gpu, random, len * kv_heads * head, dtype)?;
                let o = gpu.allocate(len * q_heads * head * dtype.size())?;
                let (steps_q, steps_k) = (shape.dense(len, q_heads), shape.dense(len, kv_heads));
                let milliseconds = time(gpu, 3, || {
                    Ok(attention(
                        gpu,
                        way,
                        &shape,
                        [(&q, steps_q), (&k, steps_k), (&v, steps_k)]
                            .map(|(x, steps)| (Elements::new(x, 0, dtype), steps)),
                        (ElementsMut::new(&o, 0, dtype), steps_q),
                        None,
                    )?)
                })?;
                line += &format!(" {len} {:.0}", shape.operations() / milliseconds * 1e-9);
            }
            println!("{line}");
        }
    }
    Ok(())
}
