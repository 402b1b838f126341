//! EfficientNet-Lite0: MobileNet version 2's blocks in sizes found by search, for pictures of 224 pixels a side.
//!
//! A 3×3 convolution with stride 2, 16 blocks (pointwise to `expansion` times the channels, depthwise 3×3 or 5×5, pointwise to few
//! channels without activation, plus the block's input where it has the same shape), a pointwise convolution to 1,280 channels, the
//! mean of each plane, a fully-connected layer and softmax. All activations are ReLU6, and there is no squeeze-and-excitation:
//! that is what makes it Lite. Padding is TensorFlow's.
//!
//! Source: Tan and Le, arXiv 1905.11946; `tpu/models/official/efficientnet/lite` of TensorFlow. Checkpoints are named as in the
//! PyTorch port `efficientnet_lite_pytorch`.

use supple_weights::Weights;

use crate::Error;
use crate::convnet::layers::{Layers, MAX_CLASSES, Parameters, Source, sides, window};
use crate::convnet::{Activation, ConvNet, Preprocessing};

/// Expansion, channels, blocks, kernel, and the stride of the first block.
const STAGES: [[usize; 5]; 7] = [
    [1, 16, 1, 3, 1],
    [6, 24, 2, 3, 2],
    [6, 40, 2, 5, 2],
    [6, 80, 3, 3, 2],
    [6, 112, 3, 5, 1],
    [6, 192, 4, 5, 2],
    [6, 320, 1, 3, 1],
];
const STEM: usize = 32;
const HEAD: usize = 1280;
const SIDE: usize = 224;
/// What TensorFlow's batch normalisation adds to a variance here.
const EPSILON: f64 = 1e-3;
/// Samples less 127, by 128.
const PREPROCESSING: Preprocessing =
    Preprocessing { mean: [127.0 / 255.0; 3], deviation: [128.0 / 255.0; 3], crop: 0.875 };

/// EfficientNet-Lite0 from a PyTorch checkpoint with batch normalisation: `_conv_stem.weight`, `_bn0.weight`,
/// `_blocks.0._depthwise_conv.weight`, ..., `_fc.weight`. The number of classes is the checkpoint's.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn lite0_load(weights: &Weights) -> Result<ConvNet, Error> {
    let classes = sides::<2>(weights, "_fc.weight").map_or(1000, |sides| sides[0]);
    lite0(classes, Parameters::Named { weights, epsilon: EPSILON })
}

/// EfficientNet-Lite0 with random weights, the same for each seed.
///
/// # Errors
/// If there are no classes, or more than 65,536.
pub fn lite0_random(classes: usize, seed: u64) -> Result<ConvNet, Error> {
    lite0(classes, Parameters::Random(seed))
}

/// Whether these are the tensors of an EfficientNet-Lite0.
pub fn lite0_recognises(weights: &Weights) -> bool {
    let names = ["_conv_stem.weight", "_blocks.15._project_conv.weight", "_conv_head.weight", "_fc.weight"];
    // Other sizes have more blocks; EfficientNets that are not Lite squeeze.
    let others = ["_blocks.16._project_conv.weight", "_blocks.0._se_reduce.weight"];
    names.iter().all(|name| weights.contains(name)) && !others.iter().any(|name| weights.contains(name))
}

fn lite0(classes: usize, parameters: Parameters<'_>) -> Result<ConvNet, Error> {
    let name = "efficientnet_lite0".to_string();
    if !(1..=MAX_CLASSES).contains(&classes) {
        let problem = format!("{classes} classes");
        return Err(Error::BadNetwork { network: name, node: String::new(), problem });
    }
    let relu6 = Activation::Relu6;
    let point = window(1, 1, true);
    let mut layers = Layers::new(SIDE, parameters);
    layers.conv("conv_stem".into(), Source::new("_conv_stem", "_bn0"), [3, STEM], window(3, 2, true), relu6)?;
    let mut channels = STEM;
    let mut block = 0;
    for [expansion, out, blocks, kernel, stride] in STAGES {
        for i in 0..blocks {
            let (input, stride) = (layers.last(), if i == 0 { stride } else { 1 });
            let source = |conv: &str, norm: &str| {
                Source::new(format!("_blocks.{block}.{conv}"), format!("_blocks.{block}.{norm}"))
            };
            let hidden = channels * expansion;
            if expansion > 1 {
                let expand = source("_expand_conv", "_bn0");
                layers.conv(format!("expand_{block}"), expand, [channels, hidden], point, relu6)?;
            }
            let (depthwise, moving) = (source("_depthwise_conv", "_bn1"), window(kernel, stride, true));
            layers.depthwise(format!("depthwise_{block}"), depthwise, hidden, moving, relu6)?;
            let project = source("_project_conv", "_bn2");
            layers.conv(format!("project_{block}"), project, [hidden, out], point, Activation::None)?;
            if stride == 1 && channels == out {
                layers.add(format!("add_{block}"), input);
            }
            channels = out;
            block += 1;
        }
    }
    layers.conv("conv_head".into(), Source::new("_conv_head", "_bn1"), [channels, HEAD], point, relu6)?;
    layers.classifier("_fc", HEAD, classes)?;
    layers.finish(name, PREPROCESSING)
}
