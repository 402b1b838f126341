//! MobileNet version 1 and 2: classifiers for pictures from few operations.
//!
//! * Version 1 (Howard et al., arXiv 1704.04861) is a 3×3 convolution with stride 2, then 13 pairs of a depthwise 3×3 and a
//!   pointwise 1×1 convolution, each with a ReLU6.
//! * Version 2 (Sandler et al., arXiv 1801.04381) is a 3×3 convolution with stride 2, then 17 blocks: pointwise to `expansion`
//!   times the channels, depthwise 3×3, pointwise to few channels without activation, plus the block's input where it has the same
//!   shape; then a pointwise convolution to 1,280 channels.
//!
//! Both end with the mean of each plane, a fully-connected layer and softmax. Their channels are multiplied by a width. Batch
//! normalisation is folded away.
//!
//! Checkpoints of PyTorch pad by one pixel on each side, TensorFlow's at the bottom and the right only; random networks are
//! TensorFlow's.

use supple_weights::Weights;

use crate::Error;
use crate::convnet::layers::{IMAGENET, Layers, MAX_CLASSES, Parameters, Source, sides, window};
use crate::convnet::{Activation, ConvNet, Preprocessing};

/// Channels of version 1 after each pointwise convolution, and the stride of the depthwise one before it.
const V1: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];
/// Version 2: expansion, channels, blocks, and the stride of the first block.
const V2: [[usize; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];
/// Channels of the first convolution of both.
const STEM: usize = 32;
/// Channels before the classifier of version 2, multiplied by widths above 1 only.
const V2_HEAD: usize = 1280;
/// What PyTorch adds to a variance.
const EPSILON: f64 = 1e-5;
/// Largest width, and longest side of a picture.
const MAX_WIDTH: f64 = 8.0;
const MAX_SIDE: usize = 2048;

/// The size of a MobileNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What the number of channels is multiplied by; 1 is the published network.
    pub width: f64,
    /// Height and width of pictures, in pixels.
    pub resolution: usize,
    /// Number of outputs.
    pub classes: usize,
}

impl Default for Config {
    /// Width 1, 224 pixels, the 1,000 classes of ImageNet.
    fn default() -> Self {
        Config { width: 1.0, resolution: 224, classes: 1000 }
    }
}

impl Config {
    fn check(&self, network: &str) -> Result<(), Error> {
        let possible = self.width > 0.0 && self.width <= MAX_WIDTH;
        if possible && (1..=MAX_SIDE).contains(&self.resolution) && (1..=MAX_CLASSES).contains(&self.classes) {
            return Ok(());
        }
        let problem = format!("width {}, {} pixels, {} classes", self.width, self.resolution, self.classes);
        Err(Error::BadNetwork { network: network.into(), node: String::new(), problem })
    }
}

/// How the checkpoint of a version 1 names its tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `model.0.0.weight`, `model.1.0.weight`, `model.1.3.weight`, ..., `fc.weight`: each pair is a sequence of a convolution,
    /// its batch normalisation and a ReLU, twice.
    Sequence,
    /// `conv_stem.weight`, `blocks.0.0.conv_dw.weight`, ..., `classifier.weight`, of timm.
    Timm,
}

/// MobileNet version 1 with random weights, the same for each seed.
///
/// # Errors
/// If the configuration is not possible.
pub fn v1_random(config: Config, seed: u64) -> Result<ConvNet, Error> {
    let name = format!("mobilenet_v1_{}_{}", config.width, config.resolution);
    config.check(&name)?;
    let scaled = |channels: usize| ((channels as f64 * config.width) as usize).max(8);
    let channels: Vec<usize> = std::iter::once(STEM).chain(V1.map(|(channels, _)| channels)).map(scaled).collect();
    v1(name, &channels, config, Parameters::Random(seed), None)
}

/// MobileNet version 1 from a PyTorch checkpoint with batch normalisation, for pictures of `resolution` pixels a side. The width
/// and the number of classes are the checkpoint's. Two ways of naming are known: a module `model` of nested sequences with `fc`, whose
/// activation is ReLU and whose pictures have ImageNet's mean and deviation; and timm's, with ReLU6 and −1 to 1.
///
/// # Errors
/// If a tensor is missing or has another shape, or the resolution is not possible.
pub fn v1_load(weights: &Weights, resolution: usize) -> Result<ConvNet, Error> {
    let names = if weights.contains("conv_stem.weight") { Names::Timm } else { Names::Sequence };
    let pointwise = |pair: usize| match names {
        Names::Sequence => format!("model.{}.3.weight", pair + 1),
        Names::Timm => timm_block(pair, "conv_pw") + ".weight",
    };
    let (stem, last) = match names {
        Names::Sequence => ("model.0.0.weight", "fc"),
        Names::Timm => ("conv_stem.weight", "classifier"),
    };
    // A tensor that is missing is reported when it is read.
    let mut channels = vec![sides::<4>(weights, stem).map_or(STEM, |sides| sides[0])];
    channels.extend((0..V1.len()).map(|i| sides::<4>(weights, &pointwise(i)).map_or(V1[i].0, |sides| sides[0])));
    let classes = sides::<2>(weights, &format!("{last}.weight")).map_or(1000, |sides| sides[0]);
    let width = channels[V1.len()] as f64 / 1024.0;
    let config = Config { width, resolution, classes };
    let name = format!("mobilenet_v1_{width}_{resolution}");
    config.check(&name)?;
    v1(name, &channels, config, Parameters::Named { weights, epsilon: EPSILON }, Some(names))
}

/// Whether these are the tensors of a MobileNet version 1.
pub fn v1_recognises(weights: &Weights) -> bool {
    let sequence = ["model.0.0.weight", "model.13.3.weight", "fc.weight"];
    let timm = ["conv_stem.weight", "blocks.4.1.conv_pw.weight", "classifier.weight"];
    let all = |names: &[&str]| names.iter().all(|name| weights.contains(name));
    // In networks of inverted residuals the last blocks have three convolutions, the third being `conv_pwl`.
    all(&sequence) || (all(&timm) && !weights.contains("blocks.4.1.conv_pwl.weight"))
}

fn timm_block(pair: usize, part: &str) -> String {
    let mut block = pair;
    for (stage, blocks) in [1, 2, 2, 6, 2].into_iter().enumerate() {
        if block < blocks {
            return format!("blocks.{stage}.{block}.{part}");
        }
        block -= blocks;
    }
    unreachable!("there are 13 pairs")
}

fn v1(
    name: String,
    channels: &[usize],
    config: Config,
    parameters: Parameters<'_>,
    names: Option<Names>,
) -> Result<ConvNet, Error> {
    let (activation, preprocessing) = match names {
        Some(Names::Sequence) => (Activation::Relu, IMAGENET),
        _ => (Activation::Relu6, Preprocessing::default()),
    };
    let tensorflow = names.is_none();
    let source = |sequence: (String, String), timm: (String, String)| match names {
        Some(Names::Sequence) => Source::new(sequence.0, sequence.1),
        Some(Names::Timm) => Source::new(timm.0, timm.1),
        None => Source::default(),
    };
    let mut layers = Layers::new(config.resolution, parameters);
    let stem = source(("model.0.0".into(), "model.0.1".into()), ("conv_stem".into(), "bn1".into()));
    layers.conv("conv_0".into(), stem, [3, channels[0]], window(3, 2, tensorflow), activation)?;
    for (i, (_, stride)) in V1.into_iter().enumerate() {
        let pair = i + 1;
        let of = |conv: usize, name: &str, norm: &str| {
            let sequence = (format!("model.{pair}.{conv}"), format!("model.{pair}.{}", conv + 1));
            source(sequence, (timm_block(i, name), timm_block(i, norm)))
        };
        let (depthwise, pointwise) = (of(0, "conv_dw", "bn1"), of(3, "conv_pw", "bn2"));
        let moving = window(3, stride, tensorflow);
        layers.depthwise(format!("depthwise_{pair}"), depthwise, channels[i], moving, activation)?;
        let through = [channels[i], channels[i + 1]];
        layers.conv(format!("pointwise_{pair}"), pointwise, through, window(1, 1, tensorflow), activation)?;
    }
    let last = if names == Some(Names::Sequence) { "fc" } else { "classifier" };
    layers.classifier(last, channels[V1.len()], config.classes)?;
    layers.finish(name, preprocessing)
}

/// MobileNet version 2 with random weights, the same for each seed.
///
/// # Errors
/// If the configuration is not possible.
pub fn v2_random(config: Config, seed: u64) -> Result<ConvNet, Error> {
    v2(config, Parameters::Random(seed), true, Preprocessing::default())
}

/// MobileNet version 2 from a checkpoint of torchvision (`features.0.0.weight`, ..., `classifier.1.weight`), for pictures of
/// `resolution` pixels a side. The width and the number of classes are the checkpoint's.
///
/// # Errors
/// If a tensor is missing or has another shape, or the resolution is not possible.
pub fn v2_load(weights: &Weights, resolution: usize) -> Result<ConvNet, Error> {
    let classes = sides::<2>(weights, "classifier.1.weight").map_or(1000, |sides| sides[0]);
    // The width is in the file through the channels that it gives only; the widest layer tells widths apart best.
    let last = sides::<4>(weights, "features.17.conv.2.weight").map_or(V2[6][1], |sides| sides[0]);
    let candidates = [last as f64 / V2[6][1] as f64].into_iter().chain((1..=80).map(|i| f64::from(i) * 0.05));
    let fits = |width: &f64| {
        let stem = sides::<4>(weights, "features.0.0.weight").map_or(0, |sides| sides[0]);
        let first = sides::<4>(weights, "features.1.conv.1.weight").map_or(0, |sides| sides[0]);
        divisible(STEM, *width) == stem && divisible(V2[0][1], *width) == first && divisible(V2[6][1], *width) == last
    };
    let width = candidates.into_iter().find(fits).unwrap_or(1.0);
    let config = Config { width, resolution, classes };
    v2(config, Parameters::Named { weights, epsilon: EPSILON }, false, IMAGENET)
}

/// Whether these are the tensors of a MobileNet version 2.
pub fn v2_recognises(weights: &Weights) -> bool {
    ["features.0.0.weight", "features.17.conv.2.weight", "features.18.0.weight", "classifier.1.weight"]
        .iter()
        .all(|name| weights.contains(name))
}

/// `channels × width` as the nearest multiple of 8 that is not below it by more than a tenth.
fn divisible(channels: usize, width: f64) -> usize {
    let exact = channels as f64 * width;
    let rounded = (((exact + 4.0) / 8.0) as usize * 8).max(8);
    if (rounded as f64) < 0.9 * exact { rounded + 8 } else { rounded }
}

fn v2(
    config: Config,
    parameters: Parameters<'_>,
    tensorflow: bool,
    preprocessing: Preprocessing,
) -> Result<ConvNet, Error> {
    let name = format!("mobilenet_v2_{}_{}", config.width, config.resolution);
    config.check(&name)?;
    let relu6 = Activation::Relu6;
    let point = window(1, 1, tensorflow);
    let mut layers = Layers::new(config.resolution, parameters);
    let mut channels = divisible(STEM, config.width);
    let stem = Source::new("features.0.0", "features.0.1");
    layers.conv("conv_0".into(), stem, [3, channels], window(3, 2, tensorflow), relu6)?;
    let mut block = 0;
    for [expansion, out, blocks, stride] in V2 {
        let out = divisible(out, config.width);
        for i in 0..blocks {
            block += 1;
            let (input, stride) = (layers.last(), if i == 0 { stride } else { 1 });
            let prefix = format!("features.{block}.conv");
            let sequence = |i: usize| Source::new(format!("{prefix}.{i}.0"), format!("{prefix}.{i}.1"));
            let hidden = channels * expansion;
            let mut part = 0;
            if expansion > 1 {
                layers.conv(format!("expand_{block}"), sequence(part), [channels, hidden], point, relu6)?;
                part += 1;
            }
            let moving = window(3, stride, tensorflow);
            layers.depthwise(format!("depthwise_{block}"), sequence(part), hidden, moving, relu6)?;
            part += 1;
            let project = Source::new(format!("{prefix}.{part}"), format!("{prefix}.{}", part + 1));
            layers.conv(format!("project_{block}"), project, [hidden, out], point, Activation::None)?;
            if stride == 1 && channels == out {
                layers.add(format!("add_{block}"), input);
            }
            channels = out;
        }
    }
    let last = divisible(V2_HEAD, config.width.max(1.0));
    let head = Source::new("features.18.0", "features.18.1");
    layers.conv("conv_18".into(), head, [channels, last], point, relu6)?;
    layers.classifier("classifier.1", last, config.classes)?;
    layers.finish(name, preprocessing)
}
