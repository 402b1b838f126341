//! A unit of a patch transformer by its own kernels.

use super::{Image, image_mut, new_image, read};
use crate::ops::Conv2d;
use crate::ops::patch_transformer::{
    FeedForward, FeedForwardWeights, Normal, PatchLayer, PatchTransformerWeights, SpatialLayer,
};
use crate::{Device, Error, Tensor};
use supple_cuda::Gpu;
use supple_cuda::conv::{PackedConv, Packing};
use supple_cuda::depthwise::Depthwise;
use supple_cuda::patch_transformer as kernels;

/// Taps of depthwise convolutions as the kernels read them.
#[derive(Debug)]
pub(crate) struct Taps {
    /// Of the gate and of what passes, for each layer within patches.
    inner: Vec<[Tensor; 2]>,
    spatial: Vec<SpatialTaps>,
}

#[derive(Debug)]
struct SpatialTaps {
    /// Taps and bias.
    near: [Tensor; 2],
    far: [Tensor; 2],
    feed_forward: [Tensor; 2],
}

impl Taps {
    /// The taps on a GPU; none on the CPU, or for layers that the kernels do not take.
    pub(crate) fn new(device: &Device, weights: &PatchTransformerWeights) -> Result<Option<Taps>, Error> {
        let inner = weights.inner.iter().map(|layer| &layer.feed_forward);
        let mut layers = inner.chain(weights.spatial.iter().map(|layer| &layer.feed_forward));
        let hidden = weights.inner.first().map_or(0, |layer| layer.feed_forward.gate_taps.len() / 9);
        let fits = kernels::CHANNELS.contains(&weights.channels)
            && kernels::HIDDEN.contains(&hidden)
            && layers.all(|layer| layer.gate_taps.len() == 9 * hidden && layer.pass_taps.len() == 9 * hidden)
            && !weights.spatial.is_empty();
        if !matches!(device, Device::Cuda(_)) || !fits {
            return Ok(None);
        }
        let turned = |taps: &[f32], count: usize, padded: usize| {
            let channels = taps.len() / count;
            let value = |at: usize| if at % padded < channels { taps[at % padded * count + at / padded] } else { 0.0 };
            let values: Vec<f32> = (0..count * padded).map(value).collect();
            Tensor::from_slice(device, &values, &[count, padded])
        };
        let gates = |layer: &FeedForwardWeights| {
            let padded = kernels::HIDDEN_PADDED;
            Ok([turned(&layer.gate_taps, 9, padded)?, turned(&layer.pass_taps, 9, padded)?])
        };
        let wide = |weight: &[f32], bias: &[f32], count: usize| {
            let bias = if bias.is_empty() { vec![0.0; weights.channels] } else { bias.to_vec() };
            Ok::<_, Error>([turned(weight, count, kernels::PIXEL)?, turned(&bias, 1, kernels::PIXEL)?])
        };
        let inner = weights.inner.iter().map(|layer| gates(&layer.feed_forward)).collect::<Result<_, Error>>()?;
        let spatial = weights.spatial.iter().map(|layer| {
            Ok(SpatialTaps {
                near: wide(&layer.near.weight, &layer.near.bias, 25)?,
                far: wide(&layer.far.weight, &layer.far.bias, 49)?,
                feed_forward: gates(&layer.feed_forward)?,
            })
        });
        Ok(Some(Taps { inner, spatial: spatial.collect::<Result<_, Error>>()? }))
    }
}

/// Packed products of a feed-forward layer: to the gate, past it, and back.
type Packed = [PackedConv; 3];

fn feed_forward<'a>(packed: &'a Packed, taps: &'a [Tensor; 2]) -> Result<kernels::FeedForward<'a>, Error> {
    let [gate, pass, output] = packed;
    Ok(kernels::FeedForward { gate, pass, output, gate_taps: read(&taps[0])?, pass_taps: read(&taps[1])? })
}

/// The unit of `x`, in f16 or bf16.
pub(crate) fn run(
    gpu: &Gpu,
    normal: Normal,
    inner: &[PatchLayer],
    spatial: &[SpatialLayer],
    taps: &Taps,
    x: &Tensor,
) -> Result<Tensor, Error> {
    const OP: &str = "patch_transformer";
    let normal = match normal {
        Normal::Tanh => kernels::Normal::Tanh,
        Normal::Layer { epsilon } => kernels::Normal::Layer { epsilon },
    };
    let product = |conv: &Conv2d| conv.on_gpu()?.packed(Packing::Product, x.dtype());
    let gates = |layer: &FeedForward| -> Result<Packed, Error> {
        Ok([product(&layer.gate)?, product(&layer.pass)?, product(&layer.output)?])
    };
    let &[n, height, width, channels] = &**x.shape() else { unreachable!("checked by the operator") };
    let new = || new_image(x, [n, height, width, channels], x.dtype());
    let mut map = x.padded()?;
    // What the layers over the map begin with; the layers before them fill it.
    let (context, value) = (new()?, new()?);
    let first = |layer: &SpatialLayer| -> Result<[PackedConv; 2], Error> {
        Ok([product(&layer.first[0])?, product(&layer.first[1])?])
    };
    let firsts = spatial.iter().map(first).collect::<Result<Vec<_>, Error>>()?;
    let mut done = 0;
    loop {
        let end = (done + kernels::MOST_LAYERS).min(inner.len());
        let packed = inner[done..end]
            .iter()
            .map(|layer| {
                let [q, k, v] = &layer.attention;
                Ok(([product(q)?, product(k)?, product(v)?], product(&layer.project)?, gates(&layer.feed_forward)?))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let layers = packed
            .iter()
            .zip(&inner[done..end])
            .zip(&taps.inner[done..end])
            .map(|((([q, k, v], project, packed), layer), taps)| {
                let feed_forward = feed_forward(packed, taps)?;
                Ok(kernels::PatchLayer { attention: [q, k, v], project, temperature: layer.temperature, feed_forward })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let y = new()?;
        let products = firsts.first().filter(|_| end == inner.len());
        let after = products.map(|[a, b]| first_products([a, b], &context, &value)).transpose()?;
        kernels::patch_layers(gpu, normal, &layers, Image::new(OP, &map)?.view()?, image_mut(&y)?, after.as_ref())?;
        (map, done) = (y, end);
        if done == inner.len() {
            break;
        }
    }
    for (s, (layer, taps)) in spatial.iter().zip(&taps.spatial).enumerate() {
        let image = |tensor| Image::new(OP, tensor);
        let near = new()?;
        let five = Depthwise { kernel: 5, stride: 1, before: [2; 2], range: (f32::NEG_INFINITY, f32::INFINITY) };
        let [near_taps, near_bias] = [read(&taps.near[0])?, read(&taps.near[1])?];
        // With its padding: the next kernel reads all of it.
        let (mut from, mut to) = (image(&context)?, image_mut(&near)?);
        (from.size.channels, to.size.channels) = (kernels::PIXEL, kernels::PIXEL);
        five.run(gpu, from.view()?, near_taps, near_bias, to)?;
        let (mix, last) = (product(&layer.mix)?, product(&layer.last)?);
        let far = kernels::Mix { far: read(&taps.far[0])?, far_bias: read(&taps.far[1])?, mix: &mix, last: &last };
        let middle = new()?;
        let (near, gate, before) = (image(&near)?, image(&value)?, image(&map)?);
        kernels::spatial_mix(gpu, &far, [near.view()?, gate.view()?, before.view()?], image_mut(&middle)?)?;
        let y = new()?;
        let packed = gates(&layer.feed_forward)?;
        let part = feed_forward(&packed, &taps.feed_forward)?;
        let after = firsts.get(s + 1).map(|[a, b]| first_products([a, b], &context, &value)).transpose()?;
        kernels::feed_forward(gpu, normal, &part, image(&middle)?.view()?, image_mut(&y)?, after.as_ref())?;
        map = y;
    }
    Ok(map)
}

fn first_products<'a>(
    products: [&'a PackedConv; 2],
    context: &'a Tensor,
    value: &'a Tensor,
) -> Result<kernels::FirstProducts<'a>, Error> {
    Ok(kernels::FirstProducts { products, to: [image_mut(context)?, image_mut(value)?] })
}
