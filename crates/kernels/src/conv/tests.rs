//! Every way to convolve, on every instruction set, against the reference.

use super::*;
use crate::testing::{close, noise};

/// Runs a convolution in one go and in pieces through a rolling window, checks that both agree to the bit, and returns
/// the unpadded output.
fn run(
    isa: Isa,
    threads: usize,
    numerics: Numerics,
    shape: &ConvShape,
    height: usize,
    width: usize,
) -> (Vec<f32>, Vec<f64>) {
    let (cpu, slope) = (Cpu::new(isa, threads), 0.05);
    let stride = shape.in_channels.next_multiple_of(16);
    let out_stride = shape.out_channels.next_multiple_of(16);
    let plain = noise(height * width * shape.in_channels, 1);
    let weights = noise(shape.weight_len().unwrap(), 2);
    let bias = noise(shape.out_channels, 3);
    let (out_height, out_width) = shape.output_size(height, width).unwrap();
    let residual = noise(out_height * out_width * out_stride, 4);
    let mut input = vec![0.0; height * width * stride];
    for (to, from) in input.chunks_exact_mut(stride).zip(plain.chunks_exact(shape.in_channels)) {
        to[..shape.in_channels].copy_from_slice(from);
    }
    let packed = PackedConv::pack_with(isa, numerics, shape, &weights, Some(&bias));
    let mut scratch = vec![f32::NAN; packed.scratch_len(&cpu)];
    let rows = Rows::new(&input, height, width, stride);
    let add = Rows::new(&residual, out_height, out_width, out_stride);
    let mut out = vec![f32::NAN; out_height * out_width * out_stride];
    let mut to = RowsMut::new(&mut out, out_height, out_width, out_stride);
    packed.run(&cpu, rows, height, &mut to, 0..out_height, slope, Some(add), &mut scratch);

    let mut window = vec![f32::NAN; 8 * out_width * out_stride];
    let mut y = 0;
    for step in [1, 3, 4, 8, 5, 7].into_iter().cycle() {
        let rows_now = y..(y + step).min(out_height);
        let mut to = RowsMut::new(&mut window, 8, out_width, out_stride);
        packed.run(&cpu, rows, height, &mut to, rows_now.clone(), slope, Some(add), &mut scratch);
        for y in rows_now.clone() {
            let whole = &out[y * out_width * out_stride..][..out_width * out_stride];
            for (a, b) in to.as_rows().row(y).chunks_exact(out_stride).zip(whole.chunks_exact(out_stride)) {
                assert_eq!(
                    a[..shape.out_channels],
                    b[..shape.out_channels],
                    "{isa} {shape:?}: row {y} differs in a window"
                );
            }
        }
        y = rows_now.end;
        if y == out_height {
            break;
        }
    }

    let mut wanted = conv2d_reference(shape, &plain, height, width, &weights, Some(&bias));
    for (i, value) in wanted.iter_mut().enumerate() {
        if *value < 0.0 {
            *value *= f64::from(slope);
        }
        *value += f64::from(residual[i / shape.out_channels * out_stride + i % shape.out_channels]);
    }
    let found = out.chunks_exact(out_stride).flat_map(|pixel| pixel[..shape.out_channels].to_vec()).collect();
    (found, wanted)
}

fn check(shape: ConvShape, height: usize, width: usize) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            for (numerics, tolerance) in [(Numerics::Strict, 1e-4), (Numerics::Relaxed, 3e-4)] {
                let (found, wanted) = run(isa, threads, numerics, &shape, height, width);
                let wanted: Vec<f32> = wanted.iter().map(|&v| v as f32).collect();
                close(
                    &found,
                    &wanted,
                    tolerance,
                    &format!("{isa} {threads} threads {numerics:?} {shape:?} {height}x{width}"),
                );
            }
            let (found, wanted) = run(isa, threads, Numerics::Bf16, &shape, height, width);
            let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let error = energy(&mut found.iter().zip(&wanted).map(|(&f, w)| f64::from(f) - w));
            let ratio = error / energy(&mut wanted.iter().copied());
            assert!(ratio < 0.03, "{isa} {threads} threads bf16 {shape:?} {height}x{width}: relative error {ratio}");
        }
    }
}

#[test]
fn winograd_equals_the_reference() {
    for (cin, cout) in [(8, 3), (16, 16), (46, 48), (48, 12), (52, 52), (60, 60)] {
        for (height, width) in [(1, 1), (3, 5), (4, 4), (9, 17), (7, 103)] {
            check(ConvShape::same(cin, cout, 3), height, width);
        }
    }
}

#[test]
fn patches_equal_the_reference() {
    let base = ConvShape::same(3, 48, 3);
    check(base, 9, 70);
    check(ConvShape::same(48, 48, 1), 5, 61);
    check(ConvShape { stride: [2; 2], padding: [0; 2], ..ConvShape::same(16, 16, 3) }, 15, 33);
    check(ConvShape { stride: [2, 3], padding: [2, 1], dilation: [2, 3], ..ConvShape::same(5, 7, 3) }, 12, 19);
    check(ConvShape { groups: 3, ..ConvShape::same(12, 9, 3) }, 8, 50);
    check(ConvShape { groups: 20, padding: [9; 2], dilation: [3; 2], ..ConvShape::same(20, 20, 7) }, 11, 30);
}

#[test]
fn sizes_that_do_not_fit_are_none() {
    let shape = ConvShape { padding: [0; 2], ..ConvShape::same(1, 1, 3) };
    assert_eq!(shape.output_size(3, 4), Some((1, 2)));
    assert_eq!(shape.output_size(2, 4), None);
    assert_eq!(ConvShape { dilation: [usize::MAX; 2], ..shape }.output_size(3, 3), None);
    assert!(!ConvShape { groups: 2, ..shape }.is_valid());
}
