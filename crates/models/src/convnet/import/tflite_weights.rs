//! Weights of TFLite operators: out of integers where they are quantised, and into the order of PyTorch.

use supple_weights::DType;
use supple_weights::tflite::{Model, Tensor};

use crate::Error;
use crate::convnet::{IntegerType, TensorQuantization, WeightQuantization};

/// The weights and biases of a convolution.
pub(super) struct Parameters {
    /// Output channels outermost.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    pub quantization: Option<WeightQuantization>,
}

/// Where the output channels lie among the dimensions of the weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `[out][height][width][in]`, or `[out][in]` with `in` counting height, width and channels.
    OutFirst,
    /// `[1][height][width][out]`.
    OutLast,
}

/// Sides of the weights: output channels, taps, and input channels (1 for depthwise convolutions).
#[derive(Clone, Copy)]
pub(super) struct Sides {
    pub out_channels: usize,
    pub taps: usize,
    pub in_channels: usize,
}

/// How a tensor of pixels is quantised; `None` for floating point, for types other than 8-bit integers, and for scales of
/// single channels.
pub(super) fn pixels(tensor: &Tensor) -> Option<TensorQuantization> {
    let dtype = integer_type(tensor.dtype)?;
    let (&[scale], &[zero_point]) = (&tensor.quantization.scale[..], &tensor.quantization.zero_point[..]) else {
        return None;
    };
    Some(TensorQuantization { dtype, scale, zero_point: i32::try_from(zero_point).ok()? })
}

/// Reads weights and bias; `input` says how the pixels that they meet are quantised. The outer error is the file's, the inner
/// one says what does not fit.
pub(super) fn read(
    model: &Model,
    weights: &Tensor,
    bias: Option<&Tensor>,
    input: Option<TensorQuantization>,
    order: Order,
    sides: Sides,
) -> Result<Result<Parameters, String>, Error> {
    let Some(stored) = model.values(weights)? else { return Ok(Err("has weights that are not constant".into())) };
    let stored_bias = match bias {
        None => None,
        Some(bias) => match model.values(bias)? {
            None => return Ok(Err("has a bias that is not constant".into())),
            // Read again where `f32` would round.
            Some(values) => Some((bias, values, model.integers(bias)?)),
        },
    };
    let wanted = sides.out_channels.checked_mul(sides.taps).and_then(|n| n.checked_mul(sides.in_channels));
    let biases = stored_bias.as_ref().map_or(sides.out_channels, |(_, values, _)| values.len());
    if wanted != Some(stored.len()) || biases != sides.out_channels {
        return Ok(Err(format!("has {} weights and {biases} biases, which does not fit its shape", stored.len())));
    }

    let mut quantization = match integer_type(weights.dtype) {
        None if matches!(weights.dtype, DType::F32 | DType::F16 | DType::BF16) => None,
        None => return Ok(Err(format!("has weights of type {}", weights.dtype))),
        Some(dtype) => match quantization_of(weights, dtype, order) {
            Ok(quantization) => Some(quantization),
            Err(problem) => return Ok(Err(problem)),
        },
    };
    let permuted = to_out_in_taps(&stored, order, sides);
    let columns = (sides.taps * sides.in_channels).max(1);
    let weights = match &quantization {
        None => permuted,
        Some(quantization) => {
            let real = |(i, &q): (usize, &f32)| quantization.real(i / columns, q as i32);
            permuted.iter().enumerate().map(real).collect()
        }
    };

    let bias = match (stored_bias, &mut quantization, input) {
        (None, Some(quantization), Some(_)) => {
            quantization.bias = vec![0; sides.out_channels];
            vec![0.0; sides.out_channels]
        }
        (None, _, _) => vec![0.0; sides.out_channels],
        (Some((_, _, Some(integers))), Some(quantization), Some(input)) => {
            let narrow: Result<Vec<i32>, _> = integers.iter().map(|&q| i32::try_from(q)).collect();
            let Ok(narrow) = narrow else { return Ok(Err("has a bias beyond 32 bits".into())) };
            quantization.bias = narrow;
            (0..sides.out_channels).map(|o| quantization.real_bias(o, input.scale)).collect()
        }
        (Some((tensor, _, Some(_))), _, _) => {
            return Ok(Err(format!("has a bias of type {} next to numbers that are not quantised", tensor.dtype)));
        }
        (Some((_, values, None)), ..) => values,
    };
    // Weights alone in integers, next to pixels in floating point, are no network in integers.
    let quantization = quantization.filter(|quantization| quantization.bias.len() == sides.out_channels);
    Ok(Ok(Parameters { weights, bias, quantization }))
}

fn integer_type(dtype: DType) -> Option<IntegerType> {
    match dtype {
        DType::U8 => Some(IntegerType::U8),
        DType::I8 => Some(IntegerType::I8),
        _ => None,
    }
}

/// The scales and zero points, without biases.
fn quantization_of(weights: &Tensor, dtype: IntegerType, order: Order) -> Result<WeightQuantization, String> {
    let found = &weights.quantization;
    let (lowest, highest) = dtype.range();
    let zero_point = found.zero_point.iter().map(|&zero| {
        let zero = i32::try_from(zero).ok().filter(|zero| (lowest..=highest).contains(zero));
        zero.ok_or_else(|| "has weights with an impossible zero point".to_string())
    });
    let zero_point = zero_point.collect::<Result<Vec<_>, _>>()?;
    let axis = if order == Order::OutFirst { 0 } else { weights.shape.len().saturating_sub(1) };
    match found.scale.len() {
        0 => Err(format!("has weights of type {} without a scale", weights.dtype)),
        1 => Ok(()),
        _ if found.axis == axis => Ok(()),
        _ => Err(format!("has scales along dimension {} of its weights", found.axis)),
    }?;
    Ok(WeightQuantization { dtype, scale: found.scale.clone(), zero_point, bias: Vec::new() })
}

/// To `[out][in][taps]`.
fn to_out_in_taps(stored: &[f32], order: Order, sides: Sides) -> Vec<f32> {
    let Sides { out_channels, taps, in_channels } = sides;
    let mut out = Vec::with_capacity(stored.len());
    for o in 0..out_channels {
        for i in 0..in_channels {
            for tap in 0..taps {
                out.push(match order {
                    Order::OutFirst => stored[(o * taps + tap) * in_channels + i],
                    Order::OutLast => stored[(tap * in_channels + i) * out_channels + o],
                });
            }
        }
    }
    out
}
