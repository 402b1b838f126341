//! Every kernel on every instruction set against plain loops in `f64`.

use super::*;
use crate::Isa;
use crate::testing::{close, noise};

/// Weights `[out][columns]` of which about `sparsity` of the blocks are zero.
fn sparse_weights(out: usize, columns: usize, block: usize, sparsity: f32) -> Vec<f32> {
    let mut weights = noise(out * columns, 3);
    let keep = noise(out.div_ceil(block) * columns, 5);
    for (i, weight) in weights.iter_mut().enumerate() {
        let (o, column) = (i / columns, i % columns);
        if (keep[o / block * columns + column] + 1.0) / 2.0 < sparsity {
            *weight = 0.0;
        }
    }
    weights
}

#[test]
fn products_match_plain_loops() {
    for isa in Isa::available() {
        for block in BLOCKS {
            for (out, columns, pixels) in
                [(1, 1, 1), (7, 5, 3), (32, 32, 196), (13, 64, 61), (40, 9, 49), (9, 6, 98), (8, 3, 350)]
            {
                for sparsity in [0.0, 0.5, 1.0] {
                    let weights = sparse_weights(out, columns, block, sparsity);
                    let (bias, plane) = (noise(out, 7), plane_len(pixels));
                    let input = noise(columns * plane + PADDING, 11);
                    let residual = noise(out * plane, 13);
                    let mut packed = PackedSparse::pack(isa, &weights, &bias, columns, block);
                    packed.place(|column| column * plane, true);
                    for residual in [None, Some((&residual[..], (-0.5, 2.0)))] {
                        let mut output = vec![99.0; out * plane];
                        let epilogue = Epilogue { range: (-0.2, 1.5), residual };
                        let product =
                            Product { rows: 1, width: pixels, input_row: 0, output_row: 0, output_plane: plane };
                        // In two parts, which must not disturb each other.
                        let half = packed.blocks() / 2;
                        multiply(&packed, product, &input, &mut output, epilogue, half..packed.blocks());
                        multiply(&packed, product, &input, &mut output, epilogue, 0..half);
                        for o in 0..out {
                            for p in 0..plane {
                                let got = output[o * plane + p];
                                if p >= pixels {
                                    assert_eq!(got, 99.0, "{isa} {block} {pixels} wrote pixel {p}");
                                    continue;
                                }
                                let mut sum = f64::from(bias[o]);
                                for c in 0..columns {
                                    sum += f64::from(weights[o * columns + c]) * f64::from(input[c * plane + p]);
                                }
                                sum = sum.clamp(f64::from(-0.2f32), 1.5);
                                if let Some((residual, (low, high))) = residual {
                                    sum = (sum + f64::from(residual[o * plane + p])).clamp(low.into(), high.into());
                                }
                                assert!((sum - f64::from(got)).abs() < 1e-5, "{isa} {block} {o} {p}: {sum} {got}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A depthwise convolution in `f64`.
fn plain(input: &[f32], filter: &[f32], phases: &Phases, [y, x]: [usize; 2]) -> f64 {
    let ([height, width], stride) = (phases.kernel(), phases.stride());
    let (size, [top, left]) = (phases.size(), phases.padding());
    let mut sum = 0.0;
    for ky in 0..height {
        for kx in 0..width {
            let (row, column) = ((y * stride[0] + ky).wrapping_sub(top), (x * stride[1] + kx).wrapping_sub(left));
            if row < size[0] && column < size[1] {
                sum += f64::from(filter[ky * width + kx]) * f64::from(input[row * size[1] + column]);
            }
        }
    }
    sum
}

#[test]
fn depthwise_and_direct_convolutions_match_plain_loops() {
    // Kernel, stride, padding before and how much more there is after, size.
    let cases = [
        ([3, 3], [1, 1], [1, 1], 0, [7, 7]),
        ([3, 3], [1, 1], [1, 1], 0, [5, 37]),
        ([3, 3], [1, 1], [0, 1], 2, [6, 8]),
        ([3, 3], [2, 2], [0, 0], 0, [14, 14]),
        ([3, 3], [2, 2], [0, 0], 1, [14, 14]),
        ([3, 3], [2, 2], [0, 0], 1, [12, 56]),
        ([3, 3], [2, 2], [0, 0], 2, [9, 13]),
        ([3, 3], [2, 2], [1, 1], 0, [9, 70]),
        ([3, 3], [2, 2], [1, 1], 0, [11, 15]),
        ([5, 5], [1, 1], [2, 2], 0, [6, 17]),
        ([5, 5], [2, 2], [1, 1], 0, [28, 28]),
        ([1, 1], [2, 2], [0, 0], 0, [8, 9]),
        ([2, 4], [1, 3], [0, 2], 0, [5, 31]),
        ([7, 1], [3, 1], [3, 0], 0, [11, 4]),
    ];
    for isa in Isa::available() {
        for (kernel, stride, [top, left], more, size) in cases {
            let side = |i: usize, pad: usize| (size[i] + 2 * pad + more - kernel[i]) / stride[i] + 1;
            let (height, width) = (side(0, top), side(1, left));
            let phases = Phases::new(kernel, stride, [top, left], size, width);
            let (channels, multiplier, area) = (6, 2, kernel[0] * kernel[1]);
            let (weights, bias) = (noise(channels * area, 3), noise(channels, 5));
            let (plane, out_plane) = (plane_len(size[0] * size[1]), plane_len(height * width));
            let input = noise(channels * plane + PADDING, 7);

            let layer = PlanarDepthwise::new(isa, &weights, &bias, multiplier, phases);
            let mut output = vec![99.0; channels * out_plane];
            let mut scratch = vec![f32::NAN; layer.scratch_len(height)];
            // In two bands of rows.
            let middle = height / 3;
            for rows in [0..middle, middle..height] {
                let at = rows.start * width;
                let out = &mut output[at..];
                layer.run(&input, plane, 0..channels, rows, out, out_plane, (-0.7, 0.9), &mut scratch);
            }
            for c in 0..channels {
                let plane = &input[c / multiplier * plane..];
                for p in 0..out_plane {
                    let got = output[c * out_plane + p];
                    if p >= height * width {
                        assert_eq!(got, 99.0, "{isa} wrote pixel {p}");
                        continue;
                    }
                    let filter = &weights[c * area..];
                    let want = plain(plane, filter, &phases, [p / width, p % width]) + f64::from(bias[c]);
                    let want = want.clamp(f64::from(-0.7f32), f64::from(0.9f32));
                    assert!((want - f64::from(got)).abs() < 1e-5, "{isa} {kernel:?} {stride:?} {c} {p}: {want} {got}");
                }
            }

            // The same taps as columns of a product over all channels.
            let out = 5;
            let columns = channels * area;
            let (weights, bias) = (sparse_weights(out, columns, 4, 0.4), noise(out, 5));
            let mut packed = PackedSparse::pack(isa, &weights, &bias, columns, 4);
            let scratch_plane = phases.plane_len(height);
            let mut scratch = vec![f32::NAN; channels * scratch_plane + PADDING];
            phases.fill_planes(isa, &input, plane, 0..height, &mut scratch, scratch_plane, channels);
            packed.place(
                |column| {
                    let (channel, tap) = (column / area, column % area);
                    channel * scratch_plane + phases.offset(tap / kernel[1], tap % kernel[1])
                },
                true,
            );
            let product = Product {
                rows: height,
                width,
                input_row: phases.output_row(),
                output_row: width,
                output_plane: out_plane,
            };
            let mut output = vec![99.0; out * out_plane];
            let epilogue = Epilogue { range: (f32::NEG_INFINITY, f32::INFINITY), residual: None };
            multiply(&packed, product, &scratch, &mut output, epilogue, 0..packed.blocks());
            for o in 0..out {
                for p in 0..height * width {
                    let mut want = f64::from(bias[o]);
                    for c in 0..channels {
                        let filter = &weights[o * columns + c * area..];
                        want += plain(&input[c * plane..], filter, &phases, [p / width, p % width]);
                    }
                    let got = f64::from(output[o * out_plane + p]);
                    assert!((want - got).abs() < 1e-4, "{isa} {kernel:?} {stride:?} {o} {p}: {want} {got}");
                }
            }
        }
    }
}

#[test]
fn pools_match_plain_loops() {
    for isa in Isa::available() {
        for pixels in [1, 15, 49, 100] {
            let plane = plane_len(pixels);
            let input = noise(5 * plane, 3);
            let mut output = [0.0; 5];
            global_average(isa, &input, plane, pixels, &mut output);
            for (c, &got) in output.iter().enumerate() {
                let sum: f64 = input[c * plane..][..pixels].iter().map(|&v| f64::from(v)).sum();
                close(&[got], &[(sum / pixels as f64) as f32], 1e-6, "mean");
            }
        }
    }
    let input: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let mut output = [0.0; 4];
    pool_rows(Reduce::Mean, [3, 3], [2, 2], [1, 1], (&input, [3, 4]), (&mut output, [2, 2]));
    assert_eq!(output, [2.5, 4.0, 6.5, 8.0]);
    pool_rows(Reduce::Max, [2, 2], [2, 2], [0, 0], (&input, [3, 4]), (&mut output[..2], [1, 2]));
    assert_eq!(output[..2], [5.0, 7.0]);
}

#[test]
fn results_do_not_depend_on_the_tile() {
    for isa in Isa::available() {
        for block in BLOCKS {
            let (out, columns, pixels) = (19, 23, 230);
            let (weights, bias) = (noise(out * columns, 3), noise(out, 5));
            let input = noise(columns * pixels + PADDING, 7);
            let outputs = tiles::candidates(crate::simd::lanes(isa), crate::simd::registers(isa), block)
                .into_iter()
                .filter(|&v| v != 0);
            let outputs: Vec<Vec<f32>> = outputs
                .map(|vectors| {
                    let mut packed = PackedSparse::with_tile(isa, &weights, &bias, columns, block, vectors);
                    let product = Product { rows: 1, width: pixels, input_row: 0, output_row: 0, output_plane: pixels };
                    let mut output = vec![0.0; out * pixels];
                    let epilogue = Epilogue { range: (-1.0, 6.0), residual: None };
                    packed.place(|column| column * pixels, true);
                    multiply(&packed, product, &input, &mut output, epilogue, 0..packed.blocks());
                    output
                })
                .collect();
            assert!(outputs.iter().all(|output| *output == outputs[0]), "{isa} {block}");
        }
    }
}

#[test]
fn tuning_ends_with_any_clock() {
    for isa in Isa::available() {
        tune(isa, 1e-5, &|| 0.0);
        let packed = PackedSparse::pack_dense(isa, &[1.0; 8], &[0.0; 4], 2, 4);
        assert!(tiles::is_candidate(crate::simd::lanes(isa), crate::simd::registers(isa), 4, packed.vectors));
    }
}

#[test]
fn planes_are_whole_cache_lines_and_an_odd_number_of_them() {
    for pixels in [1, 16, 17, 49, 196, 784, 12544] {
        let len = plane_len(pixels);
        assert!(len >= pixels && len < pixels + 32 && len % 32 == 16, "{pixels} {len}");
    }
}
