//! Packing a DITN for the CPU's pass.

use super::checkpoint::Checkpoint;
use super::layers::{Features, FeedForward, InnerPatchLayer, Linear, SpatialLayer};
use super::{Ditn, PATCH, Unit};
use crate::Error;
use supple_tensor::Cpu;
use supple_tensor::kernels::Isa;
use supple_tensor::kernels::attention::{GatedDepthwise, Normalisation};
use supple_tensor::kernels::conv::depthwise::PackedDepthwise;
use supple_tensor::kernels::conv::{ConvShape, PackedConv};
use supple_tensor::kernels::gemm::PackedMatrix;
use supple_tensor::ops::patch_transformer::{
    Affine, FeedForwardWeights, Normal, PatchLayerWeights, SpatialLayerWeights,
};
use supple_tensor::rows::CHANNEL_STEP;
use supple_weights::Weights;

/// Packs layers.
struct Packer {
    isa: Isa,
    channels: usize,
    stride: usize,
}

impl Ditn {
    /// Builds the network from a checkpoint: channels, units, layers, normalisation and scale are read from it.
    ///
    /// A released checkpoint (DITN_Real) has `conv1` and `conv2` in each layer, with a hyperbolic tangent before them. The
    /// twin with layer norms, which was never released, is expected to have `norm1` and `norm2` in their place, each
    /// with `weight` and `bias` (or `body.weight` and `body.bias`, as the unused class in the released code nests them).
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than its neighbours ask for, or holds NaN.
    pub fn load(cpu: &Cpu, weights: &Weights) -> Result<Ditn, Error> {
        Ok(Ditn::pack(cpu, &Checkpoint::read(weights)?))
    }

    /// The network of a checkpoint.
    pub(super) fn pack(cpu: &Cpu, checkpoint: &Checkpoint) -> Ditn {
        let (channels, scale) = (checkpoint.channels, checkpoint.scale);
        let stride = channels.next_multiple_of(CHANNEL_STEP);
        let packer = Packer { isa: cpu.isa, channels, stride };
        let conv = |a: &Affine, inputs: usize, outputs: usize| {
            PackedConv::pack(cpu.isa, &ConvShape::same(inputs, outputs, 3), &a.weight, Some(&a.bias))
        };
        let normalisation = match checkpoint.normal() {
            Normal::Tanh => Normalisation::Tanh,
            Normal::Layer { epsilon } => Normalisation::Standardise { epsilon },
        };
        let units = checkpoint.units.iter().map(|unit| Unit {
            inner: unit.inner.iter().map(|layer| packer.patch_layer(layer)).collect(),
            spatial: unit.spatial.iter().map(|layer| packer.spatial_layer(layer)).collect(),
        });
        Ditn {
            name: checkpoint.name(),
            scale,
            parameters: (checkpoint.parameters, checkpoint.packed_parameters()),
            features: Features { channels, stride, patch: PATCH, normalisation },
            head: conv(&checkpoint.head, 3, channels),
            units: units.collect(),
            body: conv(&checkpoint.body, channels, channels),
            tail: conv(&checkpoint.tail, channels, 3 * scale * scale),
        }
    }
}

impl Packer {
    /// Packs maps of `inputs` side by side; output `o` of map `i` becomes column `column(i, o)` of the product.
    fn linear(&self, maps: &[&Affine], inputs: usize, column: &dyn Fn(usize, usize) -> usize) -> Linear {
        let outputs = |map: &Affine| map.weight.len() / inputs;
        let places: Vec<(usize, usize, usize)> =
            maps.iter().enumerate().flat_map(|(i, map)| (0..outputs(map)).map(move |o| (column(i, o), i, o))).collect();
        let columns = places.iter().map(|place| place.0 + 1).max().unwrap_or(0);
        let mut source = vec![None; columns];
        places.iter().for_each(|&(column, i, o)| source[column] = Some((i, o)));
        let matrix = PackedMatrix::pack(self.isa, inputs, columns, |k, n| {
            source[n].map_or(0.0, |(i, o)| maps[i].weight[o * inputs + k])
        });
        let mut bias = Vec::new();
        if maps.iter().any(|map| !map.bias.is_empty()) {
            bias.resize(matrix.padded_columns(), 0.0);
            for (column, i, o) in places {
                bias[column] = maps[i].bias.get(o).copied().unwrap_or(0.0);
            }
        }
        Linear { matrix, bias }
    }

    fn square(&self, map: &Affine) -> Linear {
        self.linear(&[map], self.channels, &|_, o| o)
    }

    fn depthwise(&self, map: &Affine, side: usize, dilation: usize) -> PackedDepthwise {
        let padding = dilation * (side / 2);
        let bias = Some(&map.bias[..]);
        PackedDepthwise::pack(self.isa, self.channels, [side; 2], [dilation; 2], [padding; 2], &map.weight, bias)
    }

    fn patch_layer(&self, layer: &PatchLayerWeights) -> InnerPatchLayer {
        let [query, key, value] = &layer.attention;
        InnerPatchLayer {
            qkv: self.linear(&[query, key, value], self.channels, &|i, o| i * self.stride + o),
            temperature: layer.temperature,
            project: self.square(&layer.project),
            feed_forward: self.feed_forward(&layer.feed_forward),
        }
    }

    fn spatial_layer(&self, layer: &SpatialLayerWeights) -> SpatialLayer {
        SpatialLayer {
            first_context: self.square(&layer.context),
            first_value: self.square(&layer.value),
            near: self.depthwise(&layer.near, 5, 1),
            far: self.depthwise(&layer.far, 7, 3),
            mix: self.square(&layer.mix),
            last: self.square(&layer.last),
            feed_forward: self.feed_forward(&layer.feed_forward),
        }
    }

    fn feed_forward(&self, layer: &FeedForwardWeights) -> FeedForward {
        let hidden = layer.gate_taps.len() / 9;
        let filters = [&layer.gate_taps[..], &layer.pass_taps].concat();
        let gate = GatedDepthwise::pack(self.isa, hidden, &filters);
        let input = self.linear(&[&layer.gate, &layer.pass], self.channels, &|i, o| gate.column(i * hidden + o));
        let output = self.linear(&[&layer.output], hidden, &|_, o| o);
        FeedForward { input, gate, output }
    }
}
