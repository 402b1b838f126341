//! Every level of instructions against plain code, bit for bit.

use super::*;
use crate::ThreadPool;
use crate::testing::noise;

/// `len` integers from `lowest` to `highest` that look random.
fn integers(len: usize, lowest: i32, highest: i32, seed: u64) -> Vec<i32> {
    let span = f64::from(highest - lowest) + 1.0;
    let scaled = |v: &f32| lowest + ((f64::from(*v) + 1.0) / 2.0 * span).min(span - 1.0) as i32;
    noise(len, seed).iter().map(scaled).collect()
}

fn picture(channels: usize, size: [usize; 2], seed: u64) -> QuadBuf {
    let mut quads = QuadBuf::new(channels, size[0], size[1]);
    let values: Vec<u8> = integers(channels * size[0] * size[1], 0, 255, seed).iter().map(|&v| v as u8).collect();
    quads.fill_interleaved(&values, &[std::array::from_fn(|i| i as u8)]);
    quads
}

fn geometry(input: [usize; 2], kernel: usize, stride: usize, before: usize, after: usize) -> Geometry {
    let side = |n: usize| (n + before + after - kernel) / stride + 1;
    Geometry {
        kernel: [kernel; 2],
        stride: [stride; 2],
        before: [before; 2],
        input,
        output: [side(input[0]), side(input[1])],
    }
}

fn bytes(quads: &QuadBuf) -> Vec<u8> {
    let mut out = vec![0; quads.channels() * quads.pixels()];
    quads.copy_interleaved(&mut out);
    out
}

/// Factors that bring sums of this size to about the range of a byte, differing among channels; now and then one above 1.
fn requantisation(outputs: usize, terms: usize, seed: u64) -> Requantisation {
    let usual = 1.0 / (60.0 * (terms as f64).sqrt());
    let factors = noise(outputs, seed).into_iter().enumerate().map(|(o, v)| match o % 7 {
        5 => Factor::new(1.7),
        6 => Factor::new(0.75),
        _ => Factor::new(usual * (1.0 + 0.9 * f64::from(v))),
    });
    Requantisation { factors: factors.collect(), zero_point: 117, range: [3, 250] }
}

/// Weights in blocks of four by four, of which `sparsity` in a hundred are zero.
fn sparse_weights(outputs: usize, inputs: usize, area: usize, bound: i32, sparsity: usize, seed: u64) -> Vec<i16> {
    let mut weights: Vec<i16> =
        integers(outputs * inputs * area, -bound, bound, seed).iter().map(|&w| w as i16).collect();
    let dice = integers(outputs.div_ceil(4) * inputs.div_ceil(4) * area, 0, 99, seed + 1);
    for (i, weight) in weights.iter_mut().enumerate() {
        let (o, rest) = (i / (inputs * area), i % (inputs * area));
        let block = (o / 4 * inputs.div_ceil(4) + rest / area / 4) * area + rest % area;
        if (dice[block] as usize) < sparsity {
            *weight = 0;
        }
    }
    weights
}

/// Runs one convolution at every level and on several threads.
fn check_conv(outputs: usize, inputs: usize, g: Geometry, bound: i32, sparsity: usize, seed: u64) {
    let weights = sparse_weights(outputs, inputs, g.area(), bound, sparsity, seed);
    let bias = integers(outputs, -9000, 9000, seed + 2);
    let weights = IntegerWeights { weights: &weights, bias: &bias, inputs, area: g.area(), input_zero: 101 };
    let to_bytes = requantisation(outputs, inputs * g.area(), seed + 3);
    let input = picture(inputs, g.input, seed + 4);
    let mut wanted = QuadBuf::new(outputs, g.output[0], g.output[1]);
    reference::conv(&weights, &to_bytes, &g, &input, &mut wanted);
    for level in Level::available() {
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads);
            let conv = PackedConv::new(level, &weights, &to_bytes).unwrap();
            let plain = g.area() == 1 && g.stride == [1; 2] && g.before == [0; 2];
            let feed = if plain { Feed::Planes } else { Feed::Taps(g) };
            let layer = ConvLayer::new(conv, feed, g.output, threads);
            let mut scratch = Scratch::new(threads, layer.scratch_bytes());
            let mut found = QuadBuf::new(outputs, g.output[0], g.output[1]);
            layer.run(&pool, &input, &mut found, &mut scratch);
            assert_eq!(
                bytes(&found),
                bytes(&wanted),
                "{level}, {threads} threads: {outputs}x{inputs} {g:?} {sparsity} %"
            );
        }
    }
}

#[test]
fn pointwise_products_are_exact_for_every_size_and_sparsity() {
    let sizes =
        [[1, 1], [1, 2], [1, 3], [2, 2], [1, 5], [3, 3], [3, 4], [4, 4], [1, 17], [7, 7], [5, 9], [11, 11], [14, 14]];
    for (i, size) in sizes.into_iter().enumerate() {
        for (outputs, inputs) in [(1, 1), (3, 5), (8, 4), (13, 21), (32, 40)] {
            let sparsity = [0, 30, 50, 90, 100][(i + outputs) % 5];
            let bound = [127, 255, 128, 8][(i + inputs) % 4];
            check_conv(outputs, inputs, geometry(size, 1, 1, 0, 0), bound, sparsity, (i * 97 + outputs) as u64);
        }
    }
    check_conv(16, 24, geometry([23, 29], 1, 1, 0, 0), 127, 40, 5);
}

#[test]
fn larger_kernels_are_exact() {
    for (kernel, stride, before, after) in
        [(3, 1, 1, 1), (3, 2, 0, 1), (2, 2, 0, 0), (5, 3, 2, 2), (1, 2, 0, 0), (3, 1, 2, 2)]
    {
        for (outputs, inputs) in [(8, 3), (5, 9), (12, 16)] {
            check_conv(outputs, inputs, geometry([9, 13], kernel, stride, before, after), 127, 30, kernel as u64);
        }
    }
    // Padding wider than the picture, and a kernel that covers it.
    check_conv(4, 4, geometry([2, 1], 5, 1, 2, 2), 255, 0, 3);
    check_conv(10, 6, geometry([6, 6], 6, 1, 0, 0), 127, 50, 4);
    check_conv(8, 3, geometry([65, 70], 3, 2, 0, 1), 127, 0, 6);
}

#[test]
fn extremes_do_not_overflow() {
    // All products as large as they can be, in both directions, and weights that need nine bits.
    let inputs = 4096;
    for (weight, value) in [(127, 255), (-128, 255), (255, 255), (-255, 255), (-255, 0), (-128, 0)] {
        let weights = vec![weight as i16; 4 * inputs];
        let weights = IntegerWeights { weights: &weights, bias: &[7; 4], inputs, area: 1, input_zero: 0 };
        let to_bytes = Requantisation { factors: vec![Factor::new(3e-7); 4], zero_point: 128, range: [0, 255] };
        let mut input = QuadBuf::new(inputs, 3, 7);
        input.fill_interleaved(&vec![value; inputs * 21], &[std::array::from_fn(|i| i as u8)]);
        let sum = 7 + i64::from(weight) * i64::from(value) * inputs as i64;
        let wanted = (128.0 + (sum as f64 * 3e-7).round()).clamp(0.0, 255.0) as u8;
        for level in Level::available() {
            let conv = PackedConv::new(level, &weights, &to_bytes).unwrap();
            let layer = ConvLayer::new(conv, Feed::Planes, [3, 7], 1);
            let mut found = QuadBuf::new(4, 3, 7);
            layer.run(&ThreadPool::new(1), &input, &mut found, &mut Scratch::new(1, layer.scratch_bytes()));
            assert!(bytes(&found).iter().all(|&b| b == wanted), "{level}: {weight} x {value}");
        }
    }
}

#[test]
fn what_could_overflow_or_is_no_weight_is_refused() {
    let level = Level::Portable;
    let to_bytes = Requantisation { factors: vec![Factor::new(0.1)], zero_point: 0, range: [0, 255] };
    let pack = |weights: &[i16], bias: i32, to_bytes: &Requantisation| {
        let weights = IntegerWeights { weights, bias: &[bias], inputs: weights.len(), area: 1, input_zero: 0 };
        PackedConv::new(level, &weights, to_bytes).map(|_| ())
    };
    assert_eq!(pack(&[1], 5, &to_bytes), Ok(()));
    assert_eq!(pack(&[256], 5, &to_bytes), Err(PackError::Weight { output: 0, weight: 256 }));
    assert_eq!(pack(&[1], i32::MAX, &to_bytes), Err(PackError::Overflow { output: 0 }));
    assert_eq!(pack(&[1], i32::MIN, &to_bytes), Err(PackError::Overflow { output: 0 }));
    assert_eq!(pack(&vec![255; 40_000], 0, &to_bytes), Err(PackError::Overflow { output: 0 }));
    // What converters give channels that are always the same: no weights, a huge bias, a tiny scale.
    let tiny = Requantisation { factors: vec![Factor::new(3.7e-10)], ..to_bytes.clone() };
    assert_eq!(pack(&[0], (1 << 30) + 128, &tiny), Ok(()));
    let wrong = Requantisation { zero_point: 256, ..to_bytes.clone() };
    assert_eq!(pack(&[1], 5, &wrong), Err(PackError::Factor));
    let wrong = Requantisation { range: [9, 8], ..to_bytes };
    assert_eq!(pack(&[1], 5, &wrong), Err(PackError::Factor));
}

#[test]
fn zero_weights_cost_nothing_whatever_their_zero_point() {
    let weights = sparse_weights(32, 32, 1, 255, 50, 9);
    let zero_blocks = (0..64).filter(|b| (0..16).all(|i| weights[(b / 8 * 4 + i / 4) * 32 + b % 8 * 4 + i % 4] == 0));
    let stored = 64 - zero_blocks.count();
    let weights = IntegerWeights { weights: &weights, bias: &[0; 32], inputs: 32, area: 1, input_zero: 3 };
    for level in Level::available() {
        let conv = PackedConv::new(level, &weights, &requantisation(32, 32, 1)).unwrap();
        let blocks = (conv.density() * 64.0).round() as usize;
        let most = if level.form() == Form::Pairs { stored } else { 2 * stored };
        assert!((stored..=most).contains(&blocks), "{level}: {blocks} of {stored}");
    }
}

#[test]
fn depthwise_convolutions_are_exact_alone_and_before_a_product() {
    for (kernel, stride, before, after) in
        [(3, 1, 1, 1), (3, 2, 0, 1), (3, 2, 1, 1), (5, 1, 2, 2), (5, 2, 2, 2), (2, 3, 0, 0), (7, 1, 3, 3)]
    {
        for (size, channels, multiplier) in
            [([7, 7], 8, 1), ([9, 12], 5, 1), ([13, 6], 6, 2), ([8, 17], 9, 3), ([30, 31], 16, 1), ([9, 1], 7, 1)]
        {
            if size[1] + before + after < kernel {
                continue;
            }
            let g = geometry(size, kernel, stride, before, after);
            let bound = if kernel == 3 { 255 } else { 127 };
            let weights = sparse_weights(channels, 1, g.area(), bound, 0, kernel as u64);
            let bias = integers(channels, -3000, 3000, 2);
            let weights = IntegerWeights { weights: &weights, bias: &bias, inputs: 1, area: g.area(), input_zero: 77 };
            let to_bytes = requantisation(channels, g.area(), 3);
            let input = picture(channels / multiplier, size, 4);
            let mut middle = QuadBuf::new(channels, g.output[0], g.output[1]);
            reference::depthwise(&weights, &to_bytes, multiplier, &g, &input, &mut middle);

            let outputs = 11;
            let point = geometry(g.output, 1, 1, 0, 0);
            let values = sparse_weights(outputs, channels, 1, 127, 20, 5);
            let zeros = vec![0; outputs];
            let product = IntegerWeights { weights: &values, bias: &zeros, inputs: channels, area: 1, input_zero: 117 };
            let product_bytes = requantisation(outputs, channels, 6);
            let mut wanted = QuadBuf::new(outputs, g.output[0], g.output[1]);
            reference::conv(&product, &product_bytes, &point, &middle, &mut wanted);

            for level in Level::available() {
                for threads in [1, 2] {
                    let what = format!("{level}, {threads} threads: {g:?} {channels} channels by {multiplier}");
                    let pool = ThreadPool::new(threads);
                    let depthwise = PackedDepthwise::new(level, &weights, &to_bytes, multiplier, g).unwrap();
                    let mut scratch = Scratch::new(threads, depthwise_scratch_bytes(&depthwise));
                    let mut found = QuadBuf::new(channels, g.output[0], g.output[1]);
                    run_depthwise(&pool, &depthwise, &input, &mut found, &mut scratch);
                    assert_eq!(bytes(&found), bytes(&middle), "{what}");

                    let conv = PackedConv::new(level, &product, &product_bytes).unwrap();
                    let layer = ConvLayer::new(conv, Feed::Depthwise(depthwise), g.output, threads);
                    let mut scratch = Scratch::new(threads, layer.scratch_bytes());
                    let mut found = QuadBuf::new(outputs, g.output[0], g.output[1]);
                    layer.run(&pool, &input, &mut found, &mut scratch);
                    assert_eq!(bytes(&found), bytes(&wanted), "fused, {what}");
                }
            }
        }
    }
}

#[test]
fn sums_of_pictures_are_exact() {
    let scales =
        [((0.1, 128), (0.05, 3), (0.13, 100)), ((0.02, 0), (0.9, 255), (0.5, 128)), ((0.05, 7), (0.05, 7), (0.05, 7))];
    for (a, b, out) in scales {
        let (left, right) = (picture(7, [5, 9], 1), picture(7, [5, 9], 2));
        for level in Level::available() {
            let layer = AddLayer::new(level, [a, b], out, [2, 251]).unwrap();
            let mut found = QuadBuf::new(7, 5, 9);
            layer.run(&left, &right, &mut found);
            for (i, ((l, r), found)) in bytes(&left).into_iter().zip(bytes(&right)).zip(bytes(&found)).enumerate() {
                assert_eq!(found, layer.apply(l, r), "{level}: at {i}");
                let real = a.0 * (f32::from(l) - a.1 as f32) + b.0 * (f32::from(r) - b.1 as f32);
                let near = (real / out.0 + out.1 as f32).clamp(2.0, 251.0);
                assert!((f32::from(found) - near).abs() <= 0.51, "{level}: {found} for {near}");
            }
        }
    }
    assert_eq!(
        AddLayer::new(Level::Portable, [(f32::NAN, 0); 2], (1.0, 0), [0, 255]).map(|_| ()),
        Err(PackError::Factor)
    );
}

#[test]
fn means_round_ties_away_from_zero_of_the_type() {
    let mut input = QuadBuf::new(2, 1, 2);
    input.fill_interleaved(&[100, 128, 101, 127], &[std::array::from_fn(|i| i as u8)]);
    let g = Geometry { kernel: [1, 2], stride: [1, 2], before: [0; 2], input: [1, 2], output: [1, 1] };
    let mut output = QuadBuf::new(2, 1, 1);
    pool(&input, PoolKind::Average { offset: 0 }, &g, [0, 255], &mut output);
    assert_eq!(bytes(&output), [101, 128]);
    // As signed bytes: −27.5 and −0.5.
    pool(&input, PoolKind::Average { offset: 128 }, &g, [0, 255], &mut output);
    assert_eq!(bytes(&output), [100, 127]);
    pool(&input, PoolKind::Max, &g, [0, 127], &mut output);
    assert_eq!(bytes(&output), [101, 127]);
    rescaled_mean(&input, 90, 2.0, 10, [0, 255], &mut output);
    assert_eq!(bytes(&output), [31, 85]);
}

#[test]
fn pictures_are_joined_channel_by_channel() {
    let (a, b) = (picture(3, [4, 5], 1), picture(6, [4, 5], 2));
    let mut joined = QuadBuf::new(9, 4, 5);
    copy_channels(&a, &std::array::from_fn(|i| i as u8), &mut joined, 0);
    copy_channels(&b, &std::array::from_fn(|i| 255 - i as u8), &mut joined, 3);
    for pixel in 0..20 {
        (0..3).for_each(|c| assert_eq!(joined.get(c, pixel), a.get(c, pixel)));
        (0..6).for_each(|c| assert_eq!(joined.get(3 + c, pixel), 255 - b.get(c, pixel)));
    }
}
