//! What a DITN checkpoint holds, as one description that the CPU's pass and other devices pack their layers from.
//!
//! The exact fusions are applied here: what follows the normalisation goes into the linear operator after it, `scale` into
//! `proj_last`.

use super::PATCH;
use crate::Error;
use supple_tensor::ops::patch_transformer::{
    Affine, FeedForwardWeights, Normal, PatchLayerWeights, PatchTransformerWeights, SpatialLayerWeights,
};
use supple_weights::Weights;

const _: () = assert!(PATCH == supple_tensor::ops::patch_transformer::PATCH);

/// PyTorch's default for a layer norm.
pub(super) const EPSILON: f32 = 1e-5;

/// Whether the tensors' names are those of a DITN.
pub fn recognises(weights: &Weights) -> bool {
    ["sft.weight", "UFONE.0.ITLs.0.attn.temperature", "conv_after_body.weight", "upsample.0.weight"]
        .iter()
        .all(|name| weights.contains(name))
}

/// A checkpoint's layers after the fusions.
pub(super) struct Checkpoint {
    pub channels: usize,
    pub scale: usize,
    /// 3×3, from the picture.
    pub head: Affine,
    pub units: Vec<PatchTransformerWeights>,
    /// 3×3.
    pub body: Affine,
    /// 3×3, outputs in the order `[sub-row][sub-column][colour]`.
    pub tail: Affine,
    /// Parameters in the file.
    pub parameters: usize,
}

/// A matrix `outputs × inputs` with a bias, in the precision that fusions want.
struct Map {
    outputs: usize,
    inputs: usize,
    weight: Vec<f64>,
    /// Empty for none.
    bias: Vec<f64>,
}

struct Reader<'a> {
    weights: &'a Weights,
    channels: usize,
    read: usize,
}

impl Checkpoint {
    /// Reads a checkpoint: channels, units, layers, normalisation and scale are found in it.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than its neighbours ask for, or holds NaN.
    pub(super) fn read(weights: &Weights) -> Result<Checkpoint, Error> {
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
        let mut reader = Reader { weights, channels, read: 0 };
        let head = reader.conv("sft", [channels, 3], &|o| o)?;
        let mut units = Vec::new();
        while reader.contains(&format!("UFONE.{}.ITLs.0.attn.temperature", units.len())) {
            units.push(reader.unit(units.len())?);
        }
        if units.is_empty() {
            // Names the tensor that is missing.
            weights.tensor("UFONE.0.ITLs.0.attn.temperature", &[1, 1, 1])?;
        }
        let body = reader.conv("conv_after_body", [channels; 2], &|o| o)?;
        // From `[colour][sub-row][sub-column]` to `[sub-row][sub-column][colour]`.
        let tail = reader.conv("upsample.0", [out, channels], &|o| (o % 3) * scale * scale + o / 3)?;
        Ok(Checkpoint { channels, scale, head, units, body, tail, parameters: reader.read })
    }

    /// What the network is called.
    pub(super) fn name(&self) -> String {
        let layers: Vec<_> = self.units.iter().map(|unit| (unit.inner.len(), unit.spatial.len())).collect();
        super::name(self.channels, self.normal() != Normal::Tanh, &layers)
    }

    pub(super) fn normal(&self) -> Normal {
        self.units.first().map_or(Normal::Tanh, |unit| unit.normal)
    }

    /// Parameters after the fusions.
    pub(super) fn packed_parameters(&self) -> usize {
        let count = |a: &Affine| a.weight.len() + a.bias.len();
        let feed_forward = |f: &FeedForwardWeights| {
            count(&f.gate) + count(&f.pass) + count(&f.output) + f.gate_taps.len() + f.pass_taps.len()
        };
        let inner = |l: &PatchLayerWeights| {
            l.attention.iter().map(count).sum::<usize>() + count(&l.project) + 1 + feed_forward(&l.feed_forward)
        };
        let spatial = |l: &SpatialLayerWeights| {
            let parts = [&l.context, &l.value, &l.near, &l.far, &l.mix, &l.last];
            parts.into_iter().map(count).sum::<usize>() + feed_forward(&l.feed_forward)
        };
        let unit = |u: &PatchTransformerWeights| {
            u.inner.iter().map(inner).sum::<usize>() + u.spatial.iter().map(spatial).sum::<usize>()
        };
        count(&self.head) + count(&self.body) + count(&self.tail) + self.units.iter().map(unit).sum::<usize>()
    }
}

impl Reader<'_> {
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

    /// A 3×3 convolution with bias, output `o` being output `source(o)` of the checkpoint's.
    fn conv(
        &mut self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        source: &dyn Fn(usize) -> usize,
    ) -> Result<Affine, Error> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs, 3, 3])?;
        let bias = self.tensor(&format!("{name}.bias"), &[outputs])?;
        let per_output = inputs * 9;
        let rows = (0..outputs).flat_map(|o| &weight[source(o) * per_output..][..per_output]);
        Ok(Affine { weight: rows.copied().collect(), bias: (0..outputs).map(|o| bias[source(o)]).collect() })
    }

    fn depthwise(&mut self, name: &str, side: usize) -> Result<Affine, Error> {
        let c = self.channels;
        let weight = self.tensor(&format!("{name}.weight"), &[c, 1, side, side])?;
        Ok(Affine { weight, bias: self.tensor(&format!("{name}.bias"), &[c])? })
    }

    /// A 1×1 convolution, or a linear layer, with a bias if the checkpoint has one.
    fn map(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Map, Error> {
        let weight = format!("{name}.weight");
        let bias = format!("{name}.bias");
        let is_matrix = self.weights.info(&weight).is_some_and(|info| info.shape.len() == 2);
        let shape = if is_matrix { vec![outputs, inputs] } else { vec![outputs, inputs, 1, 1] };
        let weight = self.tensor(&weight, &shape)?;
        let bias = if self.contains(&bias) { self.tensor(&bias, &[outputs])? } else { Vec::new() };
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        Ok(Map { outputs, inputs, weight: wide(weight), bias: wide(bias) })
    }

    /// `name` with what stands between the normalisation and it folded in: the convolution `conv<which>`, or gain and
    /// shift of the layer norm `norm<which>`.
    fn after_normalisation(&mut self, layer: &str, which: usize, name: &str, outputs: usize) -> Result<Map, Error> {
        let c = self.channels;
        let next = self.map(&format!("{layer}.{name}"), outputs, c)?;
        let before = if self.is_layer_norm() {
            let nested = format!("{layer}.norm{which}.body");
            let plain = format!("{layer}.norm{which}");
            let norm = if self.contains(&format!("{nested}.weight")) { nested } else { plain };
            let gain = self.tensor(&format!("{norm}.weight"), &[c])?;
            let shift = self.tensor(&format!("{norm}.bias"), &[c])?;
            let bias = shift.into_iter().map(f64::from).collect();
            Map { bias, ..diagonal(&gain) }
        } else {
            self.map(&format!("{layer}.conv{which}"), c, c)?
        };
        Ok(next.after(&before))
    }

    fn unit(&mut self, u: usize) -> Result<PatchTransformerWeights, Error> {
        let normal = if self.is_layer_norm() { Normal::Layer { epsilon: EPSILON } } else { Normal::Tanh };
        let (mut inner, mut spatial) = (Vec::new(), Vec::new());
        while self.contains(&format!("UFONE.{u}.ITLs.{}.attn.temperature", inner.len())) {
            inner.push(self.patch_layer(&format!("UFONE.{u}.ITLs.{}", inner.len()))?);
        }
        while self.contains(&format!("UFONE.{u}.SALs.{}.SDA.scale", spatial.len())) {
            spatial.push(self.spatial_layer(&format!("UFONE.{u}.SALs.{}", spatial.len()))?);
        }
        Ok(PatchTransformerWeights { channels: self.channels, normal, inner, spatial })
    }

    fn patch_layer(&mut self, name: &str) -> Result<PatchLayerWeights, Error> {
        let c = self.channels;
        let qkv = self.after_normalisation(name, 1, "attn.qkv", 3 * c)?;
        let temperature = self.tensor(&format!("{name}.attn.temperature"), &[1, 1, 1])?[0];
        let project = self.map(&format!("{name}.attn.project_out"), c, c)?.rows(0..c);
        let attention = [qkv.rows(0..c), qkv.rows(c..2 * c), qkv.rows(2 * c..3 * c)];
        Ok(PatchLayerWeights { attention, temperature, project, feed_forward: self.feed_forward(name)? })
    }

    fn spatial_layer(&mut self, name: &str) -> Result<SpatialLayerWeights, Error> {
        let c = self.channels;
        let first = self.after_normalisation(name, 1, "SDA.proj_first.0", 2 * c)?;
        let mix = self.map(&format!("{name}.SDA.DConvs.2"), c, c)?.rows(0..c);
        let scale = self.tensor(&format!("{name}.SDA.scale"), &[1, c, 1, 1])?;
        let last = self.map(&format!("{name}.SDA.proj_last.0"), c, c)?;
        Ok(SpatialLayerWeights {
            context: first.rows(0..c),
            value: first.rows(c..2 * c),
            near: self.depthwise(&format!("{name}.SDA.DConvs.0"), 5)?,
            far: self.depthwise(&format!("{name}.SDA.DConvs.1"), 7)?,
            mix,
            last: diagonal(&scale).after(&last).rows(0..c),
            feed_forward: self.feed_forward(name)?,
        })
    }

    fn feed_forward(&mut self, layer: &str) -> Result<FeedForwardWeights, Error> {
        let name = format!("{layer}.ffn");
        let outputs = self.weights.info(&format!("{name}.project_in.weight")).and_then(|i| i.shape.first().copied());
        // An odd or missing number makes the next read fail with the tensor's name.
        let hidden = (outputs.unwrap_or(0) / 2).max(1);
        let input = self.after_normalisation(layer, 2, "ffn.project_in", 2 * hidden)?;
        let mut gate_taps = self.tensor(&format!("{name}.dwconv.weight"), &[2 * hidden, 1, 3, 3])?;
        let pass_taps = gate_taps.split_off(hidden * 9);
        let output = self.map(&format!("{name}.project_out"), self.channels, hidden)?.rows(0..self.channels);
        let (gate, pass) = (input.rows(0..hidden), input.rows(hidden..2 * hidden));
        Ok(FeedForwardWeights { gate, pass, gate_taps, pass_taps, output })
    }
}

/// Multiplies each channel by its factor.
fn diagonal(factors: &[f32]) -> Map {
    let c = factors.len();
    let at = |at: usize| if at / c == at % c { f64::from(factors[at % c]) } else { 0.0 };
    Map { outputs: c, inputs: c, weight: (0..c * c).map(at).collect(), bias: Vec::new() }
}

impl Map {
    /// `self(before(x))` as one map.
    fn after(&self, before: &Map) -> Map {
        let (m, k, n) = (self.outputs, self.inputs, before.inputs);
        let row = |i: usize| &self.weight[i * k..][..k];
        let cell = |i: usize, j: usize| row(i).iter().enumerate().map(|(x, w)| w * before.weight[x * n + j]).sum();
        let shift = |i: usize| {
            let own = self.bias.get(i).copied().unwrap_or(0.0);
            own + row(i).iter().zip(&before.bias).map(|(w, b)| w * b).sum::<f64>()
        };
        let has_bias = !self.bias.is_empty() || !before.bias.is_empty();
        Map {
            outputs: m,
            inputs: n,
            weight: (0..m * n).map(|at| cell(at / n, at % n)).collect(),
            bias: if has_bias { (0..m).map(shift).collect() } else { Vec::new() },
        }
    }

    /// Some outputs of it.
    fn rows(&self, rows: std::ops::Range<usize>) -> Affine {
        let weight = &self.weight[rows.start * self.inputs..rows.end * self.inputs];
        let bias = if self.bias.is_empty() { &[][..] } else { &self.bias[rows] };
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect();
        Affine { weight: narrow(weight), bias: narrow(bias) }
    }
}
