//! Products of matrices.

use super::{Outcome, Random, bytes_of, difference, download, fill, time, tolerance, upload};
use supple_cuda::elementwise::Activation;
use supple_cuda::gemm::{After, Matrices, Way, gemm};
use supple_cuda::gemm_8bit::{gemm_e4m3, gemm_i8};
use supple_cuda::{DType, Elements, ElementsMut, Gpu, Memory};

pub fn check_gemm(gpu: &Gpu, random: &mut Random) -> Outcome {
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

pub fn check_8bit(gpu: &Gpu, random: &mut Random) -> Outcome {
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

pub fn time_gemm(gpu: &Gpu, random: &mut Random, sizes: &[(DType, usize)]) -> Outcome {
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
