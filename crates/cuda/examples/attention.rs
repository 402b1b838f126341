//! Checks products of matrices and attention on a GPU against references, and prints how fast they are.
//!
//! `cargo run --release -p supple-cuda --example attention [PART ..]`: `check-products`, `check-forward`,
//! `check-backward`, `gemm`, `gemm-short`, `forward`, `backward`; all of them if none is named. Numbers are
//! 10^12 floating-point operations of the visible part a second, the median of several rounds of at least 20 ms each.

use std::error::Error;
use supple_cuda::attention::{self, AttentionShape, attention, attention_backward};
use supple_cuda::elementwise::Activation;
use supple_cuda::gemm::{After, Matrices, Way, gemm};
use supple_cuda::gemm_8bit::{gemm_e4m3, gemm_i8};
use supple_cuda::{DType, Elements, ElementsMut, Gpu, Memory, copy};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Numbers in -1..1 that differ from run to run.
struct Random(u64);

impl Random {
    fn values(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next(&mut self.0)).collect()
    }

    fn below(&mut self, bound: usize) -> usize {
        (f64::from(self.values(1)[0].abs()) * bound as f64) as usize % bound
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Values on the GPU in an element type, and what they are after rounding to it.
fn upload(gpu: &Gpu, values: &[f32], dtype: DType) -> Outcome<(Memory, Vec<f32>)> {
    let wide = gpu.upload(&bytes_of(values))?;
    let memory = gpu.allocate(values.len() * dtype.size() + 64)?;
    copy::convert(gpu, values.len(), Elements::new(&wide, 0, DType::F32), ElementsMut::new(&memory, 0, dtype))?;
    let rounded = download(gpu, &memory, values.len(), dtype)?;
    Ok((memory, rounded))
}

fn download(gpu: &Gpu, memory: &Memory, count: usize, dtype: DType) -> Outcome<Vec<f32>> {
    let wide = gpu.allocate(count * 4)?;
    copy::convert(gpu, count, Elements::new(memory, 0, dtype), ElementsMut::new(&wide, 0, DType::F32))?;
    let mut bytes = vec![0u8; count * 4];
    gpu.download(&wide, 0, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// At least `count` numbers on the GPU, a part that repeats: making that many on the host takes longer than all else.
fn fill(gpu: &Gpu, random: &mut Random, count: usize, dtype: DType) -> Outcome<Memory> {
    const PART: usize = (1 << 20) + 8;
    let (part, _) = upload(gpu, &random.values(PART), dtype)?;
    let repeats = count.div_ceil(PART);
    let memory = gpu.allocate(repeats * PART * dtype.size())?;
    let to = (ElementsMut::new(&memory, 0, dtype), &[PART, 1][..]);
    copy::strided(gpu, &[repeats, PART], (Elements::new(&part, 0, dtype), &[0, 1]), to)?;
    Ok(memory)
}

/// The largest difference relative to the larger of 1 and the wanted value; infinite where a value is not finite.
fn difference(found: &[f32], wanted: &[f64]) -> f64 {
    found.iter().zip(wanted).fold(0.0, |most, (&found, &wanted)| {
        let error = (f64::from(found) - wanted).abs() / wanted.abs().max(1.0);
        if error.is_nan() { f64::INFINITY } else { most.max(error) }
    })
}

/// What results may be off: a step or so of the type for what is rounded once, more where weights are rounded on the way.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    }
}

/// Milliseconds of `work`, the median of `rounds`, after one for warming up.
fn time(gpu: &Gpu, rounds: usize, mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    work()?;
    gpu.synchronize()?;
    let (first, once) = gpu.time(&mut work)?;
    first?;
    let repeats = (20.0 / once.max(1e-3)).clamp(1.0, 200.0) as usize;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (done, elapsed) = gpu.time(|| (0..repeats).try_for_each(|_| work()))?;
        done?;
        times.push(f64::from(elapsed) / repeats as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn check_gemm(gpu: &Gpu, random: &mut Random) -> Outcome {
    let mut worst = [0.0f64; 3];
    let mut count = 0;
    let sizes = [
        [1, 1, 1, 1],
        [2, 64, 64, 64],
        [1, 128, 32, 128],
        [3, 37, 80, 51],
        [1, 200, 264, 136],
        [2, 130, 72, 264],
        [1, 5, 1000, 16],
        [1, 257, 129, 65],
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for [batch, m, k, n] in sizes {
            for way in [Way::Library, Way::Hopper, Way::TensorCores, Way::Plain, Way::Best] {
                for turned in [[false, false], [false, true], [true, false], [true, true]] {
                    let activation = [Activation::Identity, Activation::Relu, Activation::Gelu][random.below(3)];
                    let (with_bias, with_residual) = (random.below(2) == 1, random.below(2) == 1);
                    let shape = |turned: bool, y: usize, x: usize| if turned { [x, y] } else { [y, x] };
                    let gap = [0, 8, 3][random.below(3)];
                    let aligned = |shape: [usize; 2]| (shape[1] + gap).is_multiple_of(8);
                    let (shape_a, shape_b) = (shape(turned[0], m, k), shape(turned[1], k, n));
                    let tensor_cores = dtype != DType::F32
                        && [shape_a, shape_b]
                            .into_iter()
                            .all(|s| aligned(s) && (s[0] * (s[1] + gap)).is_multiple_of(8));
                    let hopper = tensor_cores
                        && aligned([m, n])
                        && (m * (n + gap)).is_multiple_of(8)
                        && gpu.capability() == (9, 0);
                    if (way == Way::TensorCores && !tensor_cores)
                        || (way == Way::Hopper && !hopper)
                        || (way == Way::Library && gpu.blas_version().is_none())
                    {
                        continue;
                    }
                    let scale = 1.7 / (k as f32).sqrt();
                    let steps = |s: [usize; 2]| (s[1] + gap, s[0] * (s[1] + gap));
                    let make = |random: &mut Random, s: [usize; 2], scale: f32| -> Outcome<(Memory, Vec<f32>)> {
                        let values: Vec<f32> = random.values(batch * steps(s).1).iter().map(|v| v * scale).collect();
                        upload(gpu, &values, dtype)
                    };
                    let (a, a_values) = make(random, shape_a, scale)?;
                    let (b, b_values) = make(random, shape_b, 1.0)?;
                    let (rest, rest_values) = make(random, [m, n], 1.0)?;
                    let (bias, bias_values) = upload(gpu, &random.values(n), dtype)?;
                    let d = gpu.allocate(batch * steps([m, n]).1 * dtype.size())?;
                    gpu.write(&d, 0, &vec![0xff; d.bytes()])?;
                    let matrices = |memory, s: [usize; 2], turned| Matrices {
                        elements: Elements::new(memory, 0, dtype),
                        row: steps(s).0,
                        batch: steps(s).1,
                        turned,
                    };
                    let after = After {
                        bias: with_bias.then(|| Elements::new(&bias, 0, dtype)),
                        activation,
                        residual: with_residual.then(|| matrices(&rest, [m, n], false)),
                    };
                    let what = format!(
                        "{dtype:?} {way:?} {batch}x{m}x{k}x{n} turned {turned:?} gap {gap} bias {with_bias} {activation:?} residual {with_residual}"
                    );
                    gemm(
                        gpu,
                        way,
                        [batch, m, k, n],
                        matrices(&a, shape_a, turned[0]),
                        matrices(&b, shape_b, turned[1]),
                        after,
                        (ElementsMut::new(&d, 0, dtype), steps([m, n]).0, steps([m, n]).1),
                    )
                    .map_err(|error| format!("{what}: {error}"))?;
                    let found = download(gpu, &d, batch * steps([m, n]).1, dtype)?;
                    let at = |s: [usize; 2], turned: bool, i: usize, y: usize, x: usize| {
                        i * steps(s).1 + if turned { x * steps(s).0 + y } else { y * steps(s).0 + x }
                    };
                    let (mut picked, mut wanted) = (Vec::new(), Vec::new());
                    for i in 0..batch {
                        for y in 0..m {
                            for x in 0..n {
                                let mut sum = 0.0;
                                for c in 0..k {
                                    sum += f64::from(a_values[at(shape_a, turned[0], i, y, c)])
                                        * f64::from(b_values[at(shape_b, turned[1], i, c, x)]);
                                }
                                if with_bias {
                                    sum += f64::from(bias_values[x]);
                                }
                                sum = match activation {
                                    Activation::Relu => sum.max(0.0),
                                    Activation::Gelu => sum * normal(sum),
                                    _ => sum,
                                };
                                if with_residual {
                                    sum += f64::from(rest_values[at([m, n], false, i, y, x)]);
                                }
                                wanted.push(sum);
                                picked.push(found[at([m, n], false, i, y, x)]);
                            }
                        }
                    }
                    let error = difference(&picked, &wanted);
                    let kind = [DType::F32, DType::F16, DType::BF16].iter().position(|&d| d == dtype).unwrap_or(0);
                    worst[kind] = worst[kind].max(error);
                    count += 1;
                    if error > tolerance(dtype) {
                        println!("WRONG gemm {what}: {error:.2e}");
                    }
                }
            }
        }
    }
    println!(
        "gemm: {count} products, largest differences f32 {:.1e} f16 {:.1e} bf16 {:.1e}",
        worst[0], worst[1], worst[2]
    );
    Ok(())
}

/// The value of an 8-bit float with 4 bits of exponent.
fn e4m3(bits: u8) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
    let size = if exponent == 0 { fraction * 2f64.powi(-6) } else { (1.0 + fraction) * 2f64.powi(exponent - 7) };
    if bits & 0x80 == 0 { size } else { -size }
}

fn check_8bit(gpu: &Gpu, random: &mut Random) -> Outcome {
    if gpu.blas_version().is_none() {
        return Ok(());
    }
    let (mut wrong, mut worst) = (0, 0.0f64);
    for [m, k, n] in [[16, 16, 16], [100, 64, 48], [333, 272, 160], [1, 128, 16], [64, 1024, 256]] {
        // 0x7f and 0xff are no numbers.
        let mut bytes = |count: usize| -> Vec<u8> {
            let values = random.values(count);
            values.iter().map(|v| (v * 126.9) as i8 as u8).map(|b| if b & 0x7f == 0x7f { 1 } else { b }).collect()
        };
        let (a, b) = (bytes(m * k), bytes(n * k));
        let (on_a, on_b) = (gpu.upload(&a)?, gpu.upload(&b)?);
        let d = gpu.allocate(m * n * 4)?;
        let of = |memory, dtype| Elements::new(memory, 0, dtype);
        gemm_i8(gpu, [m, k, n], of(&on_a, DType::I8), of(&on_b, DType::I8), ElementsMut::new(&d, 0, DType::I32))?;
        let mut found = vec![0u8; m * n * 4];
        gpu.download(&d, 0, &mut found)?;
        for (i, found) in found.chunks_exact(4).enumerate() {
            let (y, x) = (i / n, i % n);
            let wanted: i32 = (0..k).map(|c| i32::from(a[y * k + c] as i8) * i32::from(b[x * k + c] as i8)).sum();
            wrong += usize::from(found != wanted.to_ne_bytes());
        }
        let scales = [0.03f32, 0.002].map(|scale| gpu.upload(&bytes_of(&[scale])));
        let [scale_a, scale_b] = scales;
        let (scale_a, scale_b) = (scale_a?, scale_b?);
        gemm_e4m3(
            gpu,
            [m, k, n],
            (of(&on_a, DType::U8), of(&scale_a, DType::F32)),
            (of(&on_b, DType::U8), of(&scale_b, DType::F32)),
            ElementsMut::new(&d, 0, DType::BF16),
        )?;
        let found = download(gpu, &d, m * n, DType::BF16)?;
        for (i, found) in found.iter().enumerate() {
            let (y, x) = (i / n, i % n);
            let terms = (0..k).map(|c| e4m3(a[y * k + c]) * e4m3(b[x * k + c]));
            let size: f64 = terms.clone().map(f64::abs).sum::<f64>() * 0.03 * 0.002;
            let wanted = terms.sum::<f64>() * f64::from(0.03f32) * f64::from(0.002f32);
            let error = (f64::from(*found) - wanted).abs() / wanted.abs().max(size / (k as f64).sqrt());
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    let verdict = if wrong > 0 || worst > 1e-2 { "WRONG" } else { "right" };
    println!("8-bit products: {verdict}, {wrong} of i8 differ, largest difference of e4m3 {worst:.1e}");
    Ok(())
}

/// The distribution function of the normal distribution, by Simpson's rule on its density.
fn normal(x: f64) -> f64 {
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let step = x.abs() / 200.0;
    let weight = |i: i32| if i == 0 || i == 200 { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
    let half = (0..=200).map(|i| weight(i) * density(f64::from(i) * step)).sum::<f64>() * step / 3.0;
    0.5 + half.copysign(x)
}

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

fn check_attention(gpu: &Gpu, random: &mut Random) -> Outcome {
    use attention::Way::{Common, Hopper};
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

fn check_backward(gpu: &Gpu, random: &mut Random) -> Outcome {
    for dtype in [DType::F16, DType::BF16] {
        let (mut worst, mut wrong) = ([0.0f64; 3], 0);
        let shapes = odd_shapes(random);
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
            attention(gpu, attention::Way::Best, shape, inputs, to, Some(ElementsMut::new(&lse, 0, DType::F32)))?;
            let gradients = [0, 1, 2].map(|i| gpu.upload(&vec![0xff; sizes[i] * 4]));
            let [of_q, of_k, of_v] = gradients;
            let gradients = [of_q?, of_k?, of_v?];
            let both = [&o, &grad].map(|x| Elements::new(x, 0, dtype));
            let lse = Elements::new(&lse, 0, DType::F32);
            let outs = [0, 1, 2].map(|i| ElementsMut::new(&gradients[i], 0, DType::F32));
            attention_backward(gpu, shape, inputs, both, steps_q, lse, outs)?;
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
                    println!("WRONG gradients {dtype:?} {shape:?}: largest so far {}", text(worst));
                }
            }
        }
        println!("gradients {dtype:?}: {} shapes, {wrong} wrong, largest differences {}", shapes.len(), text(worst));
    }
    Ok(())
}

fn time_backward(gpu: &Gpu, random: &mut Random) -> Outcome {
    println!("attention backward, bf16, batch 1, TFLOP/s of the visible part, five products");
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
            attention(gpu, attention::Way::Best, &shape, inputs, to, Some(ElementsMut::new(&lse, 0, DType::F32)))?;
            let milliseconds = time(gpu, 3, || {
                let both = [&o, &grad].map(|x| Elements::new(x, 0, dtype));
                let outs = [&dq, &dk, &dv].map(|x| ElementsMut::new(x, 0, DType::F32));
                Ok(attention_backward(gpu, &shape, inputs, both, steps_q, Elements::new(&lse, 0, DType::F32), outs)?)
            })?;
            line += &format!(" {len} {:.0}", 2.5 * shape.operations() / milliseconds * 1e-9);
        }
        println!("{line}");
    }
    Ok(())
}

fn time_gemm(gpu: &Gpu, random: &mut Random, sizes: &[(DType, usize)]) -> Outcome {
    for &(dtype, size) in sizes {
        let (a, b) = (fill(gpu, random, size * size, dtype)?, fill(gpu, random, size * size, dtype)?);
        let d = gpu.allocate(size * size * dtype.size())?;
        for way in [Way::Library, Way::Hopper, Way::TensorCores, Way::Plain] {
            let unable = (way == Way::Library && gpu.blas_version().is_none())
                || (way == Way::TensorCores && (dtype == DType::F32 || size < 8192))
                || (way == Way::Hopper && (dtype == DType::F32 || gpu.capability() != (9, 0)))
                || (way == Way::Plain && dtype != DType::F32);
            if unable {
                continue;
            }
            for turned in [false, true] {
                let dense = |memory| Matrices::dense(Elements::new(memory, 0, dtype), [size; 2]);
                let (left, right) = (dense(&a), Matrices { turned, ..dense(&b) });
                let milliseconds = time(gpu, 3, || {
                    let to = (ElementsMut::new(&d, 0, dtype), size, size * size);
                    Ok(gemm(gpu, way, [1, size, size, size], left, right, After::NONE, to)?)
                })?;
                let speed = 2.0 * (size as f64).powi(3) / milliseconds * 1e-9;
                println!(
                    "gemm {size}^3 {dtype:?} {way:?}{}: {milliseconds:.3} ms, {speed:.0} TFLOP/s",
                    if turned { " b turned" } else { "" }
                );
            }
        }
    }
    Ok(())
}

fn time_forward(gpu: &Gpu, random: &mut Random) -> Outcome {
    println!("attention forward, bf16, batch 1, TFLOP/s of the visible part");
    let ways = [attention::Way::Common, attention::Way::Hopper];
    for way in ways.into_iter().filter(|way| *way == attention::Way::Common || gpu.capability() == (9, 0)) {
        println!("{way:?}");
        time_forward_way(gpu, random, way)?;
    }
    Ok(())
}

fn time_forward_way(gpu: &Gpu, random: &mut Random, way: attention::Way) -> Outcome {
    for (q_heads, kv_heads, head) in [(32, 8, 128), (32, 32, 64), (16, 16, 72), (8, 8, 256)] {
        for causal in [true, false] {
            let mut line = format!("{q_heads}/{kv_heads} heads of {head}{}:", if causal { ", causal" } else { "" });
            for len in [2048, 4096, 8192, 16384, 32768, 65536] {
                if (!causal || head != 128 || way == attention::Way::Common) && len > 16384 {
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

fn main() -> Outcome {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let gpu = Gpu::new(0)?;
    println!("{}, cuBLASLt {}", gpu.name(), gpu.blas_version().unwrap_or_else(|| "is not there".into()));
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    if asked("check-products") {
        check_gemm(&gpu, &mut random)?;
        check_8bit(&gpu, &mut random)?;
    }
    if asked("check-forward") {
        check_attention(&gpu, &mut random)?;
    }
    if asked("check-backward") {
        check_backward(&gpu, &mut random)?;
    }
    if asked("gemm") {
        time_gemm(
            &gpu,
            &mut random,
            &[(DType::BF16, 8192), (DType::BF16, 4096), (DType::F16, 8192), (DType::F32, 4096)],
        )?;
    }
    if wanted.iter().any(|w| w == "gemm-short") {
        time_gemm(&gpu, &mut random, &[(DType::BF16, 8192)])?;
    }
    if asked("forward") {
        time_forward(&gpu, &mut random)?;
    }
    if asked("backward") {
        time_backward(&gpu, &mut random)?;
    }
    Ok(())
}
