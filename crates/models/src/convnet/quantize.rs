//! Quantisation of a network after its training: 8-bit integers from real numbers and some inputs.
//!
//! * **Tensors** are unsigned bytes with one scale and zero point, chosen so that the range seen on the calibration inputs, with
//!   0 in it, fits: all of it, or for each input all but a share of the values at either end, averaged over the inputs.
//! * **Weights** are signed bytes with one scale for each output channel and zero point 0: so zeros stay zeros, and a
//!   pruned network keeps its sparsity.
//! * **Biases** are rounded to units of the sums.
//!
//! Pooling keeps the scale of its input. Source: Jacob et al., arXiv 1712.05877, and TensorFlow Lite's 8-bit specification.

use super::{
    ConvNet, IntegerType, NodeQuantization, Op, Plan, PlanI8, Quantization, TensorQuantization, WeightQuantization,
};
use crate::Error;
use supple_tensor::Cpu;

/// What the range of a tensor's integers is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Calibration {
    /// The lowest and the highest value of all inputs.
    #[default]
    MinMax,
    /// For each input the values that leave out this share at either end, averaged over the inputs: 0 to 0.5.
    Percentile(f64),
}

/// A quantised network and how near it is to the original.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The network, with the real numbers that its integers stand for.
    pub network: ConvNet,
    /// Power of the original's result over that of the difference, on the calibration inputs, in decibels. Of the
    /// operand of the softmax where the network ends in one.
    pub snr_db: f64,
    /// Share of calibration inputs for which the largest result is the same.
    pub agreement: f64,
}

/// Magnitude of the largest integer of a weight.
const STEPS: f64 = 127.0;
/// Biases stay below this, so that sums do not overflow.
const MOST_BIAS: f64 = (1 << 28) as f64;

/// Quantises `network`, calibrated on `inputs`: each `[channels][height][width]`, normalised.
///
/// # Errors
/// [`Error::BadNetwork`] if the network is inconsistent, or cannot be computed in integers, such as with a softmax in its middle,
/// or if there are no inputs; [`Error::WrongInput`] if an input has another length.
pub fn quantize(
    cpu: &Cpu,
    network: &ConvNet,
    inputs: &[Vec<f32>],
    calibration: Calibration,
) -> Result<Quantized, Error> {
    if inputs.is_empty() {
        let problem = "cannot be quantised without inputs".into();
        return Err(Error::BadNetwork { network: network.name.clone(), node: String::new(), problem });
    }
    let ranges = ranges(cpu, network, inputs, calibration)?;
    let mut quantised = ConvNet { quantization: None, ..network.clone() };
    let mut nodes: Vec<NodeQuantization> = Vec::with_capacity(network.nodes.len());
    for (id, node) in network.nodes.iter().enumerate() {
        let input = node.inputs.first().and_then(|&input| nodes.get(input)?.output);
        let output = match node.op {
            Op::GlobalAveragePool | Op::AveragePool(_) | Op::MaxPool(_) => input,
            Op::Softmax => None,
            _ => Some(tensor(ranges[id])),
        };
        let weights = match (&mut quantised.nodes[id].op, input) {
            (Op::Conv(conv), Some(input)) => Some(round(&mut conv.weights, &mut conv.bias, input.scale)),
            (Op::Depthwise(layer), Some(input)) => Some(round(&mut layer.weights, &mut layer.bias, input.scale)),
            _ => None,
        };
        nodes.push(NodeQuantization { output, weights });
    }
    quantised.quantization = Some(Quantization { nodes });
    measure(cpu, network, quantised, inputs)
}

/// Lowest and highest value of each node's tensor.
fn ranges(cpu: &Cpu, network: &ConvNet, inputs: &[Vec<f32>], calibration: Calibration) -> Result<Vec<[f64; 2]>, Error> {
    let all: Vec<usize> = (0..network.nodes.len()).collect();
    let mut plan = Plan::keeping(cpu, network, &all)?;
    let mut ranges = vec![[0.0f64; 2]; all.len()];
    for input in inputs {
        plan.run(input)?;
        for (id, range) in ranges.iter_mut().enumerate() {
            let mut values = plan.tensor(id).unwrap_or_default();
            values.retain(|value| value.is_finite());
            let Some(last) = values.len().checked_sub(1) else { continue };
            let left_out = match calibration {
                Calibration::MinMax => 0,
                Calibration::Percentile(share) => (share.clamp(0.0, 0.5) * last as f64) as usize,
            };
            let low = f64::from(*values.select_nth_unstable_by(left_out, f32::total_cmp).1);
            let high = f64::from(*values.select_nth_unstable_by(last - left_out, f32::total_cmp).1);
            match calibration {
                Calibration::MinMax => *range = [range[0].min(low), range[1].max(high)],
                Calibration::Percentile(_) => {
                    range[0] += low.min(0.0) / inputs.len() as f64;
                    range[1] += high.max(0.0) / inputs.len() as f64;
                }
            }
        }
    }
    Ok(ranges)
}

/// Unsigned bytes for a range that has 0 in it.
fn tensor([low, high]: [f64; 2]) -> TensorQuantization {
    // What was always zero still needs a scale.
    let scale = ((high - low) / 255.0).max(1e-9) as f32;
    let zero_point = (-low / f64::from(scale)).round().clamp(0.0, 255.0) as i32;
    TensorQuantization { dtype: IntegerType::U8, scale, zero_point }
}

/// Rounds weights and biases to what integers stand for.
fn round(weights: &mut [f32], bias: &mut [f32], input_scale: f32) -> WeightQuantization {
    let columns = (weights.len() / bias.len().max(1)).max(1);
    let scale_of = |(row, &bias): (&[f32], &f32)| {
        let largest = row.iter().fold(0.0f64, |most, &w| most.max(f64::from(w).abs()));
        // A bias that is huge beside its weights takes a coarser unit.
        let for_bias = f64::from(bias).abs() / (f64::from(input_scale) * MOST_BIAS);
        (largest / STEPS).max(for_bias).max(1e-12) as f32
    };
    let scale: Vec<f32> = weights.chunks(columns).zip(bias.iter()).map(scale_of).collect();
    let unit = |o: usize| f64::from(input_scale) * f64::from(scale[o]);
    let integer_bias = bias.iter().enumerate().map(|(o, &b)| (f64::from(b) / unit(o)).round() as i32).collect();
    let zero_point = vec![0; scale.len()];
    let quantization = WeightQuantization { dtype: IntegerType::I8, scale, zero_point, bias: integer_bias };
    for (o, row) in weights.chunks_mut(columns).enumerate() {
        for weight in row {
            let steps = (f64::from(*weight) / f64::from(quantization.scale_of(o))).round().clamp(-STEPS, STEPS);
            *weight = quantization.real(o, steps as i32);
        }
    }
    for (o, bias) in bias.iter_mut().enumerate() {
        *bias = quantization.real_bias(o, input_scale);
    }
    quantization
}

/// Compares the quantised network with the original on the inputs.
fn measure(cpu: &Cpu, network: &ConvNet, quantised: ConvNet, inputs: &[Vec<f32>]) -> Result<Quantized, Error> {
    let last = network.nodes.len() - 1;
    let end = if matches!(network.nodes[last].op, Op::Softmax) { network.nodes[last].inputs[0] } else { last };
    let (mut real, mut integer) = (Plan::keeping(cpu, network, &[end])?, PlanI8::new(cpu, &quantised)?);
    let (mut signal, mut noise, mut agreed) = (0.0, 0.0, 0usize);
    for input in inputs {
        real.run(input)?;
        let wanted = real.tensor(end).unwrap_or_default();
        integer.run(input)?;
        let found = integer.real();
        for (&wanted, &found) in wanted.iter().zip(&found) {
            signal += f64::from(wanted).powi(2);
            noise += (f64::from(wanted) - f64::from(found)).powi(2);
        }
        agreed += usize::from(largest(&wanted) == largest(&found));
    }
    let agreement = agreed as f64 / inputs.len() as f64;
    Ok(Quantized { network: quantised, snr_db: 10.0 * (signal / noise).log10(), agreement })
}

/// Position of the largest value, the first of equal ones.
fn largest(values: &[f32]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}
