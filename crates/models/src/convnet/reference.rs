//! A network computed in `f64` by plain loops: the truth that fast paths are compared with.

use super::{Conv, ConvNet, Depthwise, Node, Op, Shape, Window2d};
use crate::Error;

/// The tensors of all nodes, each `[channels][height][width]`, for `input` of the network's input shape.
///
/// # Errors
/// If the network is inconsistent.
///
/// # Panics
/// If `input` has another length than the input shape says.
pub fn run_all(network: &ConvNet, input: &[f32]) -> Result<Vec<Vec<f64>>, Error> {
    let shapes = network.shapes()?;
    let mut tensors: Vec<Vec<f64>> = Vec::with_capacity(shapes.len());
    for (node, &shape) in network.nodes.iter().zip(&shapes) {
        let inputs: Vec<(&[f64], Shape)> = node.inputs.iter().map(|&id| (&tensors[id][..], shapes[id])).collect();
        let mut tensor = match node.op {
            Op::Input(_) => input.iter().map(|&value| f64::from(value)).collect(),
            _ => compute(node, &inputs, shape),
        };
        assert_eq!(tensor.len(), shape.len(), "the input has the length of its shape");
        let (lowest, highest) = node.activation.range();
        tensor.iter_mut().for_each(|value| *value = value.clamp(lowest.into(), highest.into()));
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// The last node's tensor.
///
/// # Errors
/// If the network is inconsistent.
///
/// # Panics
/// If `input` has another length than the input shape says.
pub fn run(network: &ConvNet, input: &[f32]) -> Result<Vec<f64>, Error> {
    Ok(run_all(network, input)?.pop().unwrap_or_default())
}

fn compute(node: &Node, inputs: &[(&[f64], Shape)], shape: Shape) -> Vec<f64> {
    let (first, size) = inputs[0];
    match &node.op {
        Op::Input(_) => unreachable!("the caller fills the input"),
        Op::Conv(conv) => conv_planes(conv, first, size, shape),
        Op::Depthwise(depthwise) => depthwise_planes(depthwise, first, size, shape),
        Op::Add => first.iter().zip(inputs[1].0).map(|(a, b)| a + b).collect(),
        Op::Concat => inputs.iter().flat_map(|(values, _)| values.iter().copied()).collect(),
        Op::GlobalAveragePool => {
            first.chunks(size.pixels()).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64).collect()
        }
        Op::AveragePool(window) => {
            pool(window, first, size, shape, |seen| seen.iter().sum::<f64>() / seen.len() as f64)
        }
        Op::MaxPool(window) => {
            pool(window, first, size, shape, |seen| seen.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        }
        Op::Softmax => {
            let mut out = vec![0.0; first.len()];
            for pixel in 0..size.pixels() {
                let at = |c: usize| c * size.pixels() + pixel;
                let highest = (0..size.channels).map(|c| first[at(c)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..size.channels).map(|c| (first[at(c)] - highest).exp()).sum();
                (0..size.channels).for_each(|c| out[at(c)] = (first[at(c)] - highest).exp() / sum);
            }
            out
        }
    }
}

/// Calls `visit(output index in its plane, taps)` for each output pixel; a tap is (index in the kernel, index in the
/// input's plane).
fn windows(window: &Window2d, input: Shape, output: Shape, mut visit: impl FnMut(usize, &[(usize, usize)])) {
    let [top, _, left, _] = window.padding_at(input.height, input.width);
    let mut taps = Vec::new();
    for y in 0..output.height {
        for x in 0..output.width {
            taps.clear();
            for ky in 0..window.kernel[0] {
                for kx in 0..window.kernel[1] {
                    let (row, column) = (y * window.stride[0] + ky, x * window.stride[1] + kx);
                    let inside =
                        row >= top && row - top < input.height && column >= left && column - left < input.width;
                    if inside {
                        taps.push((ky * window.kernel[1] + kx, (row - top) * input.width + column - left));
                    }
                }
            }
            visit(y * output.width + x, &taps);
        }
    }
}

fn conv_planes(conv: &Conv, input: &[f64], size: Shape, shape: Shape) -> Vec<f64> {
    let mut out = vec![0.0; shape.len()];
    let area = conv.window.kernel[0] * conv.window.kernel[1];
    windows(&conv.window, size, shape, |pixel, taps| {
        for o in 0..shape.channels {
            let mut sum = f64::from(conv.bias[o]);
            for i in 0..size.channels {
                for &(tap, at) in taps {
                    sum +=
                        f64::from(conv.weights[(o * size.channels + i) * area + tap]) * input[i * size.pixels() + at];
                }
            }
            out[o * shape.pixels() + pixel] = sum;
        }
    });
    out
}

fn depthwise_planes(depthwise: &Depthwise, input: &[f64], size: Shape, shape: Shape) -> Vec<f64> {
    let mut out = vec![0.0; shape.len()];
    let area = depthwise.window.kernel[0] * depthwise.window.kernel[1];
    windows(&depthwise.window, size, shape, |pixel, taps| {
        for c in 0..shape.channels {
            let plane = &input[c / depthwise.multiplier * size.pixels()..][..size.pixels()];
            let products = taps.iter().map(|&(tap, at)| f64::from(depthwise.weights[c * area + tap]) * plane[at]);
            out[c * shape.pixels() + pixel] = f64::from(depthwise.bias[c]) + products.sum::<f64>();
        }
    });
    out
}

fn pool(window: &Window2d, input: &[f64], size: Shape, shape: Shape, reduce: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut out = vec![0.0; shape.len()];
    let mut seen = Vec::new();
    windows(window, size, shape, |pixel, taps| {
        for c in 0..shape.channels {
            seen.clear();
            seen.extend(taps.iter().map(|&(_, at)| input[c * size.pixels() + at]));
            out[c * shape.pixels() + pixel] = reduce(&seen);
        }
    });
    out
}
