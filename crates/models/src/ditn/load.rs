//! Reading DITN checkpoints, and the fusions applied on the way.

use super::layers::{Features, FeedForward, InnerPatchLayer, Linear, SpatialLayer};
use super::{Ditn, PATCH, Unit};
use crate::Error;
use supple_tensor::Cpu;
use supple_tensor::kernels::Isa;
use supple_tensor::kernels::attention::{GatedDepthwise, Normalisation};
use supple_tensor::kernels::conv::depthwise::PackedDepthwise;
use supple_tensor::kernels::conv::{ConvShape, PackedConv};
use supple_tensor::kernels::gemm::PackedMatrix;
use supple_tensor::rows::CHANNEL_STEP;
use supple_weights::Weights;

/// PyTorch's default for a layer norm.
const EPSILON: f32 = 1e-5;

/// Whether the tensors' names are those of a DITN.
pub fn recognises(weights: &Weights) -> bool {
    ["sft.weight", "UFONE.0.ITLs.0.attn.temperature", "conv_after_body.weight", "upsample.0.weight"]
        .iter()
        .all(|name| weights.contains(name))
}

/// A matrix `outputs × inputs` with a bias, before it is packed.
struct Affine {
    outputs: usize,
    inputs: usize,
    weight: Vec<f64>,
    /// Empty for none.
    bias: Vec<f64>,
}

/// Reads tensors and packs layers, and counts the parameters of both.
struct Loader<'a> {
    weights: &'a Weights,
    isa: Isa,
    channels: usize,
    stride: usize,
    read: usize,
    packed: usize,
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
        let first = |name: &str| weights.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0);
        let unknown = |found: String| Error::UnknownNetwork { file: weights.source().into(), found };
        let channels = first("sft.weight");
        if channels == 0 {
            return Err(unknown("no tensor sft.weight, or one without channels".into()));
        }
        let out = first("upsample.0.weight");
        let scale = (1..=8)
            .find(|s| 3 * s * s == out)
            .ok_or_else(|| unknown(format!("upsample.0.weight has {out} outputs, which is 3·s·s for no scale s")))?;
        let stride = channels.next_multiple_of(CHANNEL_STEP);
        let mut loader = Loader { weights, isa: cpu.isa, channels, stride, read: 0, packed: 0 };
        let head = loader.conv("sft", ConvShape::same(3, channels, 3), &|o| o)?;
        let mut units = Vec::new();
        while loader.contains(&format!("UFONE.{}.ITLs.0.attn.temperature", units.len())) {
            units.push(loader.unit(units.len())?);
        }
        if units.is_empty() {
            // Names the tensor that is missing.
            weights.tensor("UFONE.0.ITLs.0.attn.temperature", &[1, 1, 1])?;
        }
        let body = loader.conv("conv_after_body", ConvShape::same(channels, channels, 3), &|o| o)?;
        // From `[colour][sub-row][sub-column]` to `[sub-row][sub-column][colour]`.
        let shuffle = |o: usize| (o % 3) * scale * scale + o / 3;
        let tail = loader.conv("upsample.0", ConvShape::same(channels, out, 3), &shuffle)?;

        let layer_norm = loader.is_layer_norm();
        let normalisation =
            if layer_norm { Normalisation::Standardise { epsilon: EPSILON } } else { Normalisation::Tanh };
        let layers: Vec<_> = units.iter().map(|u| (u.inner.len(), u.spatial.len())).collect();
        Ok(Ditn {
            name: super::name(channels, layer_norm, &layers),
            scale,
            parameters: (loader.read, loader.packed),
            features: Features { channels, stride, patch: PATCH, normalisation },
            head,
            units,
            body,
            tail,
        })
    }
}

impl Loader<'_> {
    fn contains(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn is_layer_norm(&self) -> bool {
        ["norm1.weight", "norm1.body.weight"].iter().any(|norm| self.contains(&format!("UFONE.0.ITLs.0.{norm}")))
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let values = self.weights.tensor(name, shape)?;
        self.read += values.len();
        Ok(values)
    }

    /// A 1×1 convolution, or a linear layer, with a bias if the checkpoint has one.
    fn affine(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Affine, Error> {
        let weight = format!("{name}.weight");
        let bias = format!("{name}.bias");
        let is_matrix = self.weights.info(&weight).is_some_and(|info| info.shape.len() == 2);
        let shape = if is_matrix { vec![outputs, inputs] } else { vec![outputs, inputs, 1, 1] };
        let weight = self.tensor(&weight, &shape)?;
        let bias = if self.contains(&bias) { self.tensor(&bias, &[outputs])? } else { Vec::new() };
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        Ok(Affine { outputs, inputs, weight: wide(weight), bias: wide(bias) })
    }

    /// `name` with what stands between the normalisation and it folded in: the convolution `conv<which>`, or gain and
    /// shift of the layer norm `norm<which>`.
    fn after_normalisation(&mut self, layer: &str, which: usize, name: &str, outputs: usize) -> Result<Affine, Error> {
        let c = self.channels;
        let next = self.affine(&format!("{layer}.{name}"), outputs, c)?;
        let before = if self.is_layer_norm() {
            let nested = format!("{layer}.norm{which}.body");
            let plain = format!("{layer}.norm{which}");
            let norm = if self.contains(&format!("{nested}.weight")) { nested } else { plain };
            let gain = self.tensor(&format!("{norm}.weight"), &[c])?;
            let shift = self.tensor(&format!("{norm}.bias"), &[c])?;
            let diagonal = |at: usize| if at / c == at % c { f64::from(gain[at % c]) } else { 0.0 };
            let bias = shift.into_iter().map(f64::from).collect();
            Affine { outputs: c, inputs: c, weight: (0..c * c).map(diagonal).collect(), bias }
        } else {
            self.affine(&format!("{layer}.conv{which}"), c, c)?
        };
        Ok(next.after(&before))
    }

    /// Packs rows `rows` of an affine map; row `r` becomes column `column(r)` of the product.
    fn pack(&mut self, map: &Affine, rows: std::ops::Range<usize>, column: &dyn Fn(usize) -> usize) -> Linear {
        let columns = rows.clone().map(column).max().map_or(0, |last| last + 1);
        let mut source = vec![None; columns];
        rows.clone().for_each(|r| source[column(r)] = Some(r));
        let matrix = PackedMatrix::pack(self.isa, map.inputs, columns, |k, n| {
            source[n].map_or(0.0, |r| map.weight[r * map.inputs + k] as f32)
        });
        self.packed += rows.len() * map.inputs;
        let mut bias = Vec::new();
        if !map.bias.is_empty() {
            self.packed += rows.len();
            bias.resize(matrix.padded_columns(), 0.0);
            rows.for_each(|r| bias[column(r)] = map.bias[r] as f32);
        }
        Linear { matrix, bias }
    }

    /// A convolution with bias, output `o` being output `source(o)` of the checkpoint's.
    fn conv(&mut self, name: &str, shape: ConvShape, source: &dyn Fn(usize) -> usize) -> Result<PackedConv, Error> {
        let [height, width] = shape.kernel;
        let (cin, cout) = (shape.in_channels, shape.out_channels);
        let weight = self.tensor(&format!("{name}.weight"), &[cout, cin, height, width])?;
        let bias = self.tensor(&format!("{name}.bias"), &[cout])?;
        self.packed += weight.len() + bias.len();
        let per_output = cin * height * width;
        let weight: Vec<f32> =
            (0..cout).flat_map(|o| &weight[source(o) * per_output..][..per_output]).copied().collect();
        let bias: Vec<f32> = (0..cout).map(|o| bias[source(o)]).collect();
        Ok(PackedConv::pack(self.isa, &shape, &weight, Some(&bias)))
    }

    fn depthwise(&mut self, name: &str, side: usize, dilation: usize) -> Result<PackedDepthwise, Error> {
        let c = self.channels;
        let weight = self.tensor(&format!("{name}.weight"), &[c, 1, side, side])?;
        let bias = self.tensor(&format!("{name}.bias"), &[c])?;
        self.packed += weight.len() + bias.len();
        let padding = dilation * (side / 2);
        Ok(PackedDepthwise::pack(self.isa, c, [side; 2], [dilation; 2], [padding; 2], &weight, Some(&bias)))
    }

    fn unit(&mut self, u: usize) -> Result<Unit, Error> {
        let mut unit = Unit { inner: Vec::new(), spatial: Vec::new() };
        while self.contains(&format!("UFONE.{u}.ITLs.{}.attn.temperature", unit.inner.len())) {
            unit.inner.push(self.inner_patch_layer(&format!("UFONE.{u}.ITLs.{}", unit.inner.len()))?);
        }
        while self.contains(&format!("UFONE.{u}.SALs.{}.SDA.scale", unit.spatial.len())) {
            unit.spatial.push(self.spatial_layer(&format!("UFONE.{u}.SALs.{}", unit.spatial.len()))?);
        }
        Ok(unit)
    }

    fn inner_patch_layer(&mut self, name: &str) -> Result<InnerPatchLayer, Error> {
        let (c, stride) = (self.channels, self.stride);
        let qkv = self.after_normalisation(name, 1, "attn.qkv", 3 * c)?;
        let qkv = self.pack(&qkv, 0..3 * c, &|r| r / c * stride + r % c);
        let temperature = self.tensor(&format!("{name}.attn.temperature"), &[1, 1, 1])?[0];
        self.packed += 1;
        let project = self.affine(&format!("{name}.attn.project_out"), c, c)?;
        let project = self.pack(&project, 0..c, &|r| r);
        Ok(InnerPatchLayer { qkv, temperature, project, feed_forward: self.feed_forward(name)? })
    }

    fn spatial_layer(&mut self, name: &str) -> Result<SpatialLayer, Error> {
        let c = self.channels;
        let first = self.after_normalisation(name, 1, "SDA.proj_first.0", 2 * c)?;
        let mix = self.affine(&format!("{name}.SDA.DConvs.2"), c, c)?;
        let scale = self.tensor(&format!("{name}.SDA.scale"), &[1, c, 1, 1])?;
        let last = self.affine(&format!("{name}.SDA.proj_last.0"), c, c)?;
        let diagonal = |at: usize| if at / c == at % c { f64::from(scale[at % c]) } else { 0.0 };
        let scale = Affine { outputs: c, inputs: c, weight: (0..c * c).map(diagonal).collect(), bias: Vec::new() };
        let last = scale.after(&last);
        Ok(SpatialLayer {
            first_context: self.pack(&first, 0..c, &|r| r),
            first_value: self.pack(&first, c..2 * c, &|r| r - c),
            near: self.depthwise(&format!("{name}.SDA.DConvs.0"), 5, 1)?,
            far: self.depthwise(&format!("{name}.SDA.DConvs.1"), 7, 3)?,
            mix: self.pack(&mix, 0..c, &|r| r),
            last: self.pack(&last, 0..c, &|r| r),
            feed_forward: self.feed_forward(name)?,
        })
    }

    fn feed_forward(&mut self, layer: &str) -> Result<FeedForward, Error> {
        let name = format!("{layer}.ffn");
        let outputs = self.weights.info(&format!("{name}.project_in.weight")).and_then(|i| i.shape.first().copied());
        // An odd or missing number makes the next read fail with the tensor's name.
        let hidden = (outputs.unwrap_or(0) / 2).max(1);
        let input = self.after_normalisation(layer, 2, "ffn.project_in", 2 * hidden)?;
        let filters = self.tensor(&format!("{name}.dwconv.weight"), &[2 * hidden, 1, 3, 3])?;
        self.packed += filters.len();
        let gate = GatedDepthwise::pack(self.isa, hidden, &filters);
        let input = self.pack(&input, 0..2 * hidden, &|r| gate.column(r));
        let output = self.affine(&format!("{name}.project_out"), self.channels, hidden)?;
        Ok(FeedForward { input, gate, output: self.pack(&output, 0..self.channels, &|r| r) })
    }
}

impl Affine {
    /// `self(before(x))` as one map.
    fn after(&self, before: &Affine) -> Affine {
        let (m, k, n) = (self.outputs, self.inputs, before.inputs);
        let row = |i: usize| &self.weight[i * k..][..k];
        let cell = |i: usize, j: usize| row(i).iter().enumerate().map(|(x, w)| w * before.weight[x * n + j]).sum();
        let shift = |i: usize| {
            let own = self.bias.get(i).copied().unwrap_or(0.0);
            own + row(i).iter().zip(&before.bias).map(|(w, b)| w * b).sum::<f64>()
        };
        let has_bias = !self.bias.is_empty() || !before.bias.is_empty();
        Affine {
            outputs: m,
            inputs: n,
            weight: (0..m * n).map(|at| cell(at / n, at % n)).collect(),
            bias: if has_bias { (0..m).map(shift).collect() } else { Vec::new() },
        }
    }
}
