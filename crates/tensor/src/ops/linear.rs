//! The linear layer: `activation(x · Wᵀ + b)`.

use super::{Activation, output, same_device};
use crate::error::refuse;
use crate::{Device, Error, Tensor};
use supple_kernels::AlignedBuf;
use supple_kernels::activation::activate_in_place;
use supple_kernels::gemm::{Epilogue, PackedMatrix, gemm};

/// Rows that a thread takes at a time: a multiple of every tile height of the product.
const ROWS: usize = 168;

/// A linear layer's weights, packed for a device.
#[derive(Clone, Debug)]
pub struct Linear {
    device: Device,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// The bias is padded to whole vectors; empty for none.
    Cpu(PackedMatrix, AlignedBuf),
    /// A 1×1 convolution of an image of one row.
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<crate::cuda::Conv>),
}

impl Linear {
    /// Packs `weight` (`[outputs, inputs]`) and `bias` (`[outputs]`).
    ///
    /// # Errors
    /// If the slices have other lengths.
    pub fn new(
        device: &Device,
        [outputs, inputs]: [usize; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Linear, Error> {
        if outputs.checked_mul(inputs) != Some(weight.len()) || bias.is_some_and(|bias| bias.len() != outputs) {
            let bias = bias.map(<[f32]>::len);
            return refuse!("linear", "{} weights and {bias:?} biases for shape [{outputs}, {inputs}]", weight.len());
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            let shape = super::ConvShape::same(inputs, outputs, 1);
            let packed = Packed::Cuda(crate::cuda::Conv::new(gpu, shape, weight, bias)?.into());
            return Ok(Linear { device: device.clone(), packed });
        }
        let packed = PackedMatrix::pack(device.kernels().isa, inputs, outputs, |k, n| weight[n * inputs + k]);
        let mut padded = AlignedBuf::zeroed(bias.map_or(0, |_| packed.padded_columns()));
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Ok(Linear { device: device.clone(), packed: Packed::Cpu(packed, padded) })
    }

    /// `activation(x · Wᵀ + b)` for `x` of shape `[.., inputs]`; the result `[.., outputs]` has padded rows.
    ///
    /// # Errors
    /// If the last dimension of `x` is another, or its elements are not `f32`.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        same_device("linear", &self.device, x.device())?;
        let (inputs, outputs) = match &self.packed {
            Packed::Cpu(packed, _) => (packed.k(), packed.n()),
            #[cfg(feature = "cuda")]
            Packed::Cuda(conv) => (conv.shape().in_channels, conv.shape().out_channels),
        };
        if x.shape().last() != Some(&inputs) {
            return refuse!("linear", "wants [.., {inputs}], got shape {:?}", x.shape());
        }
        let mut shape = *x.shape();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let (packed, bias) = match &self.packed {
            Packed::Cpu(packed, bias) => (packed, bias),
            #[cfg(feature = "cuda")]
            Packed::Cuda(conv) => {
                let rows = x.elements() / inputs.max(1);
                if rows == 0 || outputs == 0 {
                    return Tensor::unspecified(&self.device, crate::Layout::padded(&shape)?, x.dtype());
                }
                let image = x.reshape(&[1, 1, rows, inputs])?;
                return conv.forward(&image, [1, rows], activation, None)?.reshape(&shape);
            }
        };
        let (x, rows) = x.to_rows("linear")?;
        let (x, rows) = if rows.stride < rows.len { x.padded()?.to_rows("linear")? } else { (x, rows) };
        let (mut y, out) = output(&self.device, &shape, true)?;
        if y.elements() == 0 {
            return Ok(y);
        }
        let (cpu, data) = (self.device.kernels(), x.data::<f32>());
        let stride = packed.n().next_multiple_of(crate::ALIGNMENT);
        let epilogue = Epilogue { bias, slope: activation.slope().unwrap_or(1.0), ..Epilogue::NONE };
        let to = &mut y.write::<f32>()[..out.rows * stride];
        cpu.pool.for_each_chunk(to, ROWS * stride, &|i, to| {
            let from = &data[i * ROWS * rows.stride..];
            gemm(to.len() / stride, from, rows.stride, packed, to, stride, &epilogue);
        });
        if activation.slope().is_none() {
            activate_in_place(cpu, activation, out.rows, out.len, to, stride);
        }
        Ok(y)
    }
}
