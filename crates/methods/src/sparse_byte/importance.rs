//! How much each output channel of a convolution matters to what the network says.
//!
//! Least squares takes an error in one channel for as bad as an equal one in another. It is not: one channel may be cut off
//! by its activation nearly everywhere, and the next be what a class depends on. With `y` a channel before its activation and
//! `z` the network's outputs before softmax, its importance is
//!
//! `E over pictures of Σ over its pixels, Σ over outputs k of (∂z_k / ∂y)²`,
//!
//! to second order what an independent error of one unit in it does to the outputs. The sum over outputs takes one backward
//! pass: for signs `s_k` drawn at random, `E_s (Σ_k s_k ∂z_k / ∂y)²` is that sum (Hutchinson's estimate). No labels are
//! needed. Where masks are chosen, a row's scores are multiplied by a power of it.

use super::Error;
use super::forward::Engine;
use super::moments::{Random, multiply};
use super::options::{Importance, Progress, Stage};
use supple_models::convnet::{ConvNet, Depthwise, NodeId, Op, Shape, Window2d};
use supple_tensor::Cpu;
use supple_tensor::kernels::gemm::PackedMatrix;

/// Channels count for at least this share of their layer's mean, so that none is free.
const FLOOR: f64 = 1e-3;

/// What the rows of each convolution of `ids` are multiplied by, in that order; the mean over a layer's rows is 1 before the
/// power is taken.
///
/// # Errors
/// If the network cannot be run, or `progress` says stop.
#[expect(clippy::too_many_arguments, reason = "what `compress` has")]
pub fn row_importance(
    cpu: &Cpu,
    engine: &dyn Engine,
    network: &ConvNet,
    ids: &[NodeId],
    calibration: &[Vec<f32>],
    options: &Importance,
    seed: u64,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<Vec<f32>>, Error> {
    let backward = Backward::new(cpu, network, ids.iter().copied().min().unwrap_or(0))?;
    let nodes: Vec<NodeId> = (0..network.nodes.len()).collect();
    let mut run = engine.load(network, &nodes)?;
    let mut random = Random::new(seed);
    let chosen = options.pictures.min(calibration.len());
    let mut sums: Vec<Vec<f64>> = ids.iter().map(|&id| vec![0.0; backward.shapes[id].channels]).collect();
    for i in 0..chosen {
        let (done, total) = (i as u64, chosen as u64);
        if !progress(Progress { stage: Stage::Measure, name: &network.name, done, total }) {
            return Err(Error::Cancelled);
        }
        let tensors = run.run(&calibration[i * calibration.len() / chosen])?;
        let signs: Vec<f32> =
            (0..backward.outputs()).map(|_| if random.next().is_multiple_of(2) { 1.0 } else { -1.0 }).collect();
        let gradients = backward.run(&tensors, &signs);
        for (&id, sums) in ids.iter().zip(&mut sums) {
            for (sum, plane) in sums.iter_mut().zip(gradients[id].chunks_exact(backward.shapes[id].pixels())) {
                *sum += plane.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            }
        }
    }
    Ok(sums.iter().map(|sums| powers(sums, options.exponent)).collect())
}

fn powers(sums: &[f64], exponent: f64) -> Vec<f32> {
    let mean = sums.iter().sum::<f64>() / sums.len().max(1) as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return vec![1.0; sums.len()];
    }
    sums.iter().map(|sum| (sum / mean).max(FLOOR).powf(exponent) as f32).collect()
}

/// A network's backward pass down to one of its nodes.
struct Backward<'a> {
    cpu: &'a Cpu,
    network: &'a ConvNet,
    shapes: Vec<Shape>,
    /// The first node whose gradient is wanted, and the last, which is not a softmax.
    first: NodeId,
    last: NodeId,
    /// Weights of convolutions as `[columns][out_channels]`.
    transposed: Vec<Vec<f32>>,
}

impl<'a> Backward<'a> {
    fn new(cpu: &'a Cpu, network: &'a ConvNet, first: NodeId) -> Result<Backward<'a>, Error> {
        let shapes = network.shapes()?;
        let mut last = network.nodes.len() - 1;
        while matches!(network.nodes[last].op, Op::Softmax) {
            last = network.nodes[last].inputs[0];
        }
        let transpose = |op: &Op| match op {
            Op::Conv(conv) => {
                let (rows, columns) = (conv.out_channels, conv.columns());
                (0..rows * columns).map(|i| conv.weights[i % rows * columns + i / rows]).collect()
            }
            _ => Vec::new(),
        };
        let transposed = network.nodes.iter().map(|node| transpose(&node.op)).collect();
        Ok(Backward { cpu, network, shapes, first, last, transposed })
    }

    fn outputs(&self) -> usize {
        self.shapes[self.last].len()
    }

    /// The gradient of `Σ_k signs_k z_k` with respect to each node's tensor before its activation; empty for nodes that
    /// are not asked for or do not take part. `tensors` are all nodes' after theirs.
    fn run(&self, tensors: &[Vec<f32>], signs: &[f32]) -> Vec<Vec<f32>> {
        let mut gradients: Vec<Vec<f32>> = vec![Vec::new(); tensors.len()];
        gradients[self.last] = signs.to_vec();
        for id in (self.first..=self.last).rev() {
            let mut gradient = std::mem::take(&mut gradients[id]);
            if gradient.is_empty() {
                continue;
            }
            let node = &self.network.nodes[id];
            let (lowest, highest) = node.activation.range();
            for (g, &value) in gradient.iter_mut().zip(&tensors[id]) {
                if value <= lowest || value >= highest {
                    *g = 0.0;
                }
            }
            let mut start = 0;
            for &input in &node.inputs {
                let len = self.shapes[input].len();
                if input >= self.first {
                    let back = match &node.op {
                        Op::Concat => gradient[start..start + len].to_vec(),
                        _ => self.through(id, input, &tensors[input], &tensors[id], &gradient),
                    };
                    let sum = &mut gradients[input];
                    if sum.is_empty() {
                        *sum = back;
                    } else {
                        sum.iter_mut().zip(&back).for_each(|(sum, g)| *sum += g);
                    }
                }
                start += len;
            }
            gradients[id] = gradient;
        }
        gradients
    }

    /// The gradient with respect to the tensor that a node reads.
    fn through(&self, id: NodeId, input: NodeId, x: &[f32], y: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (from, to) = (self.shapes[input], self.shapes[id]);
        let mut back = vec![0.0; from.len()];
        match &self.network.nodes[id].op {
            Op::Conv(conv) => {
                let packed = PackedMatrix::pack(self.cpu.isa, conv.out_channels, to.pixels(), |o, p| {
                    gradient[o * to.pixels() + p]
                });
                let stride = packed.padded_columns();
                let mut columns = vec![0.0; conv.columns() * stride];
                multiply(self.cpu, conv.columns(), &self.transposed[id], conv.out_channels, &packed, &mut columns);
                let taps = conv.window.kernel[0] * conv.window.kernel[1];
                self.cpu.pool.for_each_chunk(&mut back, from.pixels(), &|channel, plane| {
                    for tap in 0..taps {
                        let values = &columns[(channel * taps + tap) * stride..][..to.pixels()];
                        scatter(&conv.window, tap, 1.0, values, to, plane, from);
                    }
                });
            }
            Op::Depthwise(Depthwise { multiplier, window, weights, .. }) => {
                let taps = window.kernel[0] * window.kernel[1];
                self.cpu.pool.for_each_chunk(&mut back, from.pixels(), &|channel, plane| {
                    for c in channel * multiplier..(channel + 1) * multiplier {
                        for tap in 0..taps {
                            let values = &gradient[c * to.pixels()..][..to.pixels()];
                            scatter(window, tap, weights[c * taps + tap], values, to, plane, from);
                        }
                    }
                });
            }
            Op::GlobalAveragePool => {
                let share = 1.0 / from.pixels() as f32;
                for (plane, g) in back.chunks_exact_mut(from.pixels()).zip(gradient) {
                    plane.fill(g * share);
                }
            }
            Op::AveragePool(window) => {
                let ones = vec![1.0; from.pixels()];
                let planes = back.chunks_exact_mut(from.pixels()).zip(gradient.chunks_exact(to.pixels()));
                let mut seen = vec![0.0; to.pixels()];
                (0..window.kernel[0] * window.kernel[1])
                    .for_each(|tap| gather(window, tap, &ones, from, &mut seen, to));
                for (plane, values) in planes {
                    let shares: Vec<f32> = values.iter().zip(&seen).map(|(g, n)| g / n.max(1.0)).collect();
                    for tap in 0..window.kernel[0] * window.kernel[1] {
                        scatter(window, tap, 1.0, &shares, to, plane, from);
                    }
                }
            }
            Op::MaxPool(window) => {
                for c in 0..to.channels {
                    let (plane, source) = (&mut back[c * from.pixels()..][..from.pixels()], &x[c * from.pixels()..]);
                    for pixel in 0..to.pixels() {
                        // Of equal values the first counts.
                        let at = c * to.pixels() + pixel;
                        let taps = 0..window.kernel[0] * window.kernel[1];
                        let mut places = taps.filter_map(|tap| place(window, tap, pixel, to, from));
                        if let Some(place) = places.find(|&place| source[place] == y[at]) {
                            plane[place] += gradient[at];
                        }
                    }
                }
            }
            Op::Softmax => {
                for pixel in 0..to.pixels() {
                    let at = |c: usize| c * to.pixels() + pixel;
                    let mean: f32 = (0..to.channels).map(|c| gradient[at(c)] * y[at(c)]).sum();
                    (0..to.channels).for_each(|c| back[at(c)] = y[at(c)] * (gradient[at(c)] - mean));
                }
            }
            Op::Add | Op::Concat | Op::Input(_) => back.copy_from_slice(gradient),
        }
        back
    }
}

/// Where in an input plane tap `tap` of output pixel `pixel` lies; none in the padding.
fn place(window: &Window2d, tap: usize, pixel: usize, output: Shape, input: Shape) -> Option<usize> {
    let [top, _, left, _] = window.padding_at(input.height, input.width);
    let row = (pixel / output.width * window.stride[0] + tap / window.kernel[1]).checked_sub(top)?;
    let column = (pixel % output.width * window.stride[1] + tap % window.kernel[1]).checked_sub(left)?;
    (row < input.height && column < input.width).then_some(row * input.width + column)
}

/// Adds `weight ·` an output plane to the places of an input plane that one tap reads.
fn scatter(window: &Window2d, tap: usize, weight: f32, values: &[f32], from: Shape, plane: &mut [f32], to: Shape) {
    if window.kernel == [1; 2] && window.stride == [1; 2] && from.pixels() == to.pixels() {
        plane.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        return;
    }
    for (y, values) in values.chunks_exact(from.width).enumerate() {
        for (x, value) in values.iter().enumerate() {
            if let Some(place) = place(window, tap, y * from.width + x, from, to) {
                plane[place] += weight * value;
            }
        }
    }
}

/// Adds what one tap reads of an input plane to an output plane.
fn gather(window: &Window2d, tap: usize, plane: &[f32], from: Shape, values: &mut [f32], to: Shape) {
    for (pixel, value) in values.iter_mut().enumerate() {
        if let Some(place) = place(window, tap, pixel, to, from) {
            *value += plane[place];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forward::Reference;
    use super::super::testing::{Net, mobile, pictures};
    use super::*;
    use supple_models::convnet::{Activation, reference};
    use supple_tensor::Isa;

    /// Every operator once, and a softmax in the middle.
    fn all_operators() -> ConvNet {
        let mut net = Net::new(2, 9, 9);
        let a = net.conv(0, 4, 3, 2, Activation::Relu6);
        let b = net.conv(a, 6, 3, 1, Activation::Relu);
        let c = net.depthwise(b, 2, 3, 2, Activation::None);
        let d = net.max_pool(b, 2);
        let e = net.average_pool(b, 2);
        let d = net.softmax(d);
        let f = net.concat(&[c, d, e]);
        let g = net.conv(f, 5, 1, 1, Activation::Relu);
        let h = net.conv(g, 5, 3, 1, Activation::None);
        let i = net.add(g, h);
        let j = net.pool(i);
        let k = net.conv(j, 3, 1, 1, Activation::None);
        net.softmax(k);
        net.finish()
    }

    fn bias(network: &mut ConvNet, id: NodeId) -> &mut Vec<f32> {
        match &mut network.nodes[id].op {
            Op::Conv(conv) => &mut conv.bias,
            Op::Depthwise(depthwise) => &mut depthwise.bias,
            _ => panic!("has no bias"),
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let cpu = Cpu::new(Isa::detect(), 2);
        let network = all_operators();
        let signs = [1.0f32, -1.0, 1.0];
        for input in pictures(&network, 3, 8) {
            let loss = |network: &ConvNet| -> f64 {
                let tensors = reference::run_all(network, &input).expect("runs");
                let outputs = &tensors[tensors.len() - 2];
                outputs.iter().zip(signs).map(|(z, s)| z * f64::from(s)).sum()
            };
            let nodes: Vec<NodeId> = (0..network.nodes.len()).collect();
            let tensors = Reference.load(&network, &nodes).and_then(|mut run| run.run(&input)).expect("runs");
            let backward = Backward::new(&cpu, &network, 1).expect("consistent");
            let gradients = backward.run(&tensors, &signs);
            for (id, channel) in [(1, 0), (1, 3), (2, 5), (3, 7), (8, 2), (9, 4), (12, 1)] {
                // A bias moves all pixels of its channel.
                let step = 1e-3f32;
                let at = |by: f32| {
                    let mut moved = network.clone();
                    bias(&mut moved, id)[channel] += by;
                    loss(&moved)
                };
                let wanted = (at(step) - at(-step)) / (2.0 * f64::from(step));
                let pixels = backward.shapes[id].pixels();
                let found: f64 = gradients[id][channel * pixels..][..pixels].iter().map(|&g| f64::from(g)).sum();
                assert!((found - wanted).abs() < 2e-3 * (1.0 + wanted.abs()), "{id} {channel}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn channels_that_nothing_reads_matter_least_and_twice_the_gain_matters_four_times() {
        let cpu = Cpu::new(Isa::detect(), 2);
        let mut network = mobile();
        let ids: Vec<NodeId> = network.convs().map(|(id, _)| id).collect();
        // Of the last inner convolution the classifier ignores channel 0, and reads 1 and 2 alike but for a factor of 2;
        // all their own outputs are the same.
        let (inner, classifier) = (ids[3], ids[4]);
        if let Op::Conv(conv) = &mut network.nodes[inner].op {
            let columns = conv.columns();
            for row in [0, 2] {
                conv.weights.copy_within(columns..2 * columns, row * columns);
                conv.bias[row] = conv.bias[1];
            }
        }
        if let Op::Conv(conv) = &mut network.nodes[classifier].op {
            for row in conv.weights.chunks_exact_mut(32) {
                (row[0], row[2]) = (0.0, 2.0 * row[1]);
            }
        }
        let calibration = pictures(&network, 6, 1);
        let found = |exponent| {
            let options = Importance { pictures: 6, exponent };
            row_importance(&cpu, &Reference, &network, &[inner], &calibration, &options, 1, &mut |_| true)
                .expect("runs")
                .swap_remove(0)
        };
        let (once, root) = (found(1.0), found(0.5));
        assert_eq!(once[0], FLOOR as f32);
        assert!(once[1] > FLOOR as f32 && (once[2] / once[1] - 4.0).abs() < 1e-3, "{once:?}");
        assert!((root[2] / root[1] - 2.0).abs() < 1e-3);
        let stopped = row_importance(
            &cpu,
            &Reference,
            &network,
            &[inner],
            &calibration,
            &Importance { pictures: 6, exponent: 1.0 },
            1,
            &mut |_| false,
        );
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
