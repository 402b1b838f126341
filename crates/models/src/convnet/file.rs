//! A network as a file of our own: safetensors whose metadata lists the operators.
//!
//! Metadata: `supple_convnet` is the version of this format, `1`; `network` is JSON with the name, the nodes (their operators
//! without weights, inputs and activations), preprocessing, labels, and the quantisation if there is one.
//!
//! Tensors, for the convolution named `NODE`: either `NODE.weight` (`[out][in][height][width]`, for depthwise convolutions
//! `[channels][1][height][width]`) and `NODE.bias`, or `NODE.sparse`, a section of bytes that leaves out zeros and that `section.rs`
//! explains. A convolution with a pattern of zeros is a section where that is smaller.

mod section;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use supple_weights::{DType, Weights, save_safetensors};

use super::{
    Activation, Conv, ConvNet, Depthwise, Node, NodeId, Op, Pattern, Preprocessing, Quantization, Shape, Window2d,
};
use crate::Error;

/// Key of the metadata that says that a file is one of these, and its value.
const VERSION_KEY: &str = "supple_convnet";
const VERSION: &str = "1";
/// Key of the description.
const NETWORK_KEY: &str = "network";
/// Weights that sections may expand to: this many for each of their bytes, and [`MORE_WEIGHTS`] more.
const WEIGHTS_PER_BYTE: usize = 64;
const MORE_WEIGHTS: usize = 1 << 24;

/// How numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// As they are.
    #[default]
    F32,
    /// Weights rounded to 16 bits, biases as they are. The quantisation is dropped: its integers could not be had back.
    F16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    nodes: Vec<NodeDescription>,
    preprocessing: Preprocessing,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantization: Option<Quantization>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeDescription {
    name: String,
    op: OpDescription,
    inputs: Vec<NodeId>,
    activation: Activation,
}

/// [`Op`] without weights.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OpDescription {
    Input(Shape),
    Conv { out_channels: usize, in_channels: usize, window: Window2d, pattern: Pattern },
    Depthwise { channels: usize, multiplier: usize, window: Window2d },
    Add,
    Concat,
    GlobalAveragePool,
    AveragePool(Window2d),
    MaxPool(Window2d),
    Softmax,
}

impl ConvNet {
    /// Writes the network to `path`, replacing what is there.
    ///
    /// # Errors
    /// If the network is inconsistent, two nodes have one name, a weight is beyond the range of `storage`, or the disk refuses.
    pub fn save(&self, path: &Path, storage: Storage) -> Result<(), Error> {
        self.shapes()?;
        check(self)?;
        let dtype = match storage {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
        };
        let mut tensors = Vec::new();
        for node in &self.nodes {
            let (weights, bias, shape) = match &node.op {
                Op::Conv(conv) => {
                    let dense = conv.weights.len() * dtype.size().unwrap_or(4) + conv.bias.len() * 4;
                    let section = section::write(conv, storage);
                    if let Some(section) = section.map_err(|problem| bad(&self.name, &node.name, problem))?
                        && section.len() < dense
                    {
                        let bytes: Vec<f32> = section.iter().map(|&byte| f32::from(byte)).collect();
                        tensors.push((format!("{}.sparse", node.name), DType::U8, vec![bytes.len()], bytes));
                        continue;
                    }
                    let [height, width] = conv.window.kernel;
                    (&conv.weights, &conv.bias, [conv.out_channels, conv.in_channels, height, width])
                }
                Op::Depthwise(depthwise) => {
                    let [height, width] = depthwise.window.kernel;
                    (&depthwise.weights, &depthwise.bias, [depthwise.channels, 1, height, width])
                }
                _ => continue,
            };
            tensors.push((format!("{}.weight", node.name), dtype, shape.to_vec(), weights.clone()));
            tensors.push((format!("{}.bias", node.name), DType::F32, vec![bias.len()], bias.clone()));
        }
        let description = serde_json::to_string(&Description {
            name: self.name.clone(),
            nodes: self.nodes.iter().map(describe).collect(),
            preprocessing: self.preprocessing,
            labels: self.labels.clone(),
            quantization: self.quantization.clone().filter(|_| storage == Storage::F32),
        });
        let description = description.map_err(|error| bad(&self.name, "", error.to_string()))?;
        let metadata = [(VERSION_KEY, VERSION), (NETWORK_KEY, &description)];
        let metadata: BTreeMap<_, _> = metadata.map(|(key, value)| (key.to_string(), value.to_string())).into();
        Ok(save_safetensors(path, &tensors, &metadata)?)
    }

    /// Reads a network that [`ConvNet::save`] has written.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] if the description or a section contradicts itself or asks for more memory than the file justifies;
    /// [`Error::Weights`] if a tensor is missing, or has another shape, or holds what is no finite number.
    pub fn load(weights: &Weights) -> Result<ConvNet, Error> {
        let source = weights.source();
        let metadata = |key: &str| weights.metadata().get(key).map(String::as_str);
        match metadata(VERSION_KEY) {
            Some(VERSION) => {}
            Some(other) => {
                let version: String = other.chars().take(20).collect();
                return Err(bad(source, "", format!("is of version {version:?}, and {VERSION:?} is read here")));
            }
            None => return Err(bad(source, "", format!("has no {VERSION_KEY} in its metadata"))),
        }
        let description = metadata(NETWORK_KEY).ok_or_else(|| bad(source, "", "has no description".into()))?;
        let description: Description = serde_json::from_str(description)
            .map_err(|error| bad(source, "", format!("has a description that cannot be read: {error}")))?;

        // Before tensors are read, so that no tensor is read twice.
        unique(source, description.nodes.iter().map(|node| &node.name))?;
        let mut expanded = Budget { sections: 0, weights: 0 };
        let nodes = description.nodes.into_iter().map(|node| {
            let NodeDescription { name, op, inputs, activation } = node;
            let op = operator(weights, &name, op, &mut expanded)?;
            Ok(Node { name, op, inputs, activation })
        });
        let network = ConvNet {
            name: description.name,
            nodes: nodes.collect::<Result<_, Error>>()?,
            preprocessing: description.preprocessing,
            labels: description.labels,
            quantization: description.quantization,
        };
        network.shapes()?;
        check(&network)?;
        Ok(network)
    }
}

/// Whether a file is one of these.
pub(super) fn recognises(weights: &Weights) -> bool {
    weights.metadata().contains_key(VERSION_KEY)
}

/// What [`ConvNet::shapes`] leaves open.
fn check(network: &ConvNet) -> Result<(), Error> {
    unique(&network.name, network.nodes.iter().map(|node| &node.name))?;
    let Preprocessing { mean, deviation, crop } = network.preprocessing;
    let possible = mean.iter().all(|mean| mean.is_finite())
        && deviation.iter().all(|deviation| deviation.is_finite() && *deviation != 0.0)
        && crop > 0.0
        && crop <= 1.0;
    if !possible {
        return Err(bad(&network.name, "", format!("has an impossible preprocessing, {:?}", network.preprocessing)));
    }
    network.quantization.as_ref().map_or(Ok(()), |quantization| quantization.check(network))
}

fn unique<'a>(network: &str, mut names: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match names.find(|name| !seen.insert(*name)) {
        Some(name) => Err(bad(network, name, "has the name of another".into())),
        None => Ok(()),
    }
}

/// What has been expanded out of sections so far.
struct Budget {
    sections: usize,
    weights: usize,
}

fn operator(weights: &Weights, name: &str, op: OpDescription, budget: &mut Budget) -> Result<Op, Error> {
    let source = weights.source();
    let tensors = |shape: &[usize]| -> Result<(Vec<f32>, Vec<f32>), Error> {
        let values = weights.tensor(&format!("{name}.weight"), shape)?;
        Ok((values, weights.tensor(&format!("{name}.bias"), &shape[..1])?))
    };
    Ok(match op {
        OpDescription::Input(shape) => Op::Input(shape),
        OpDescription::Conv { out_channels, in_channels, window, pattern } => {
            let section = format!("{name}.sparse");
            let [height, width] = window.kernel;
            if !weights.contains(&section) {
                let (weights, bias) = tensors(&[out_channels, in_channels, height, width])?;
                return Ok(Op::Conv(Conv { out_channels, in_channels, window, weights, bias, pattern }));
            }
            let bytes = weights.bytes(&section)?;
            let shape = section::Shape { out_channels, in_channels, kernel: window.kernel, pattern };
            let elements = shape.elements().unwrap_or(usize::MAX);
            budget.sections = budget.sections.saturating_add(bytes.len());
            budget.weights = budget.weights.saturating_add(elements);
            if budget.weights > budget.sections.saturating_mul(WEIGHTS_PER_BYTE).saturating_add(MORE_WEIGHTS) {
                return Err(bad(source, name, format!("expands {} bytes to {elements} weights", bytes.len())));
            }
            let (weights, bias) = section::read(&bytes, shape)
                .map_err(|problem| bad(source, name, format!("has a section {problem}")))?;
            Op::Conv(Conv { out_channels, in_channels, window, weights, bias, pattern })
        }
        OpDescription::Depthwise { channels, multiplier, window } => {
            let [height, width] = window.kernel;
            let (weights, bias) = tensors(&[channels, 1, height, width])?;
            Op::Depthwise(Depthwise { channels, multiplier, window, weights, bias })
        }
        OpDescription::Add => Op::Add,
        OpDescription::Concat => Op::Concat,
        OpDescription::GlobalAveragePool => Op::GlobalAveragePool,
        OpDescription::AveragePool(window) => Op::AveragePool(window),
        OpDescription::MaxPool(window) => Op::MaxPool(window),
        OpDescription::Softmax => Op::Softmax,
    })
}

fn describe(node: &Node) -> NodeDescription {
    let op = match &node.op {
        Op::Input(shape) => OpDescription::Input(*shape),
        Op::Conv(conv) => OpDescription::Conv {
            out_channels: conv.out_channels,
            in_channels: conv.in_channels,
            window: conv.window,
            pattern: conv.pattern,
        },
        Op::Depthwise(depthwise) => OpDescription::Depthwise {
            channels: depthwise.channels,
            multiplier: depthwise.multiplier,
            window: depthwise.window,
        },
        Op::Add => OpDescription::Add,
        Op::Concat => OpDescription::Concat,
        Op::GlobalAveragePool => OpDescription::GlobalAveragePool,
        Op::AveragePool(window) => OpDescription::AveragePool(*window),
        Op::MaxPool(window) => OpDescription::MaxPool(*window),
        Op::Softmax => OpDescription::Softmax,
    };
    NodeDescription { name: node.name.clone(), op, inputs: node.inputs.clone(), activation: node.activation }
}

fn bad(network: &str, node: &str, problem: String) -> Error {
    Error::BadNetwork { network: network.into(), node: node.into(), problem }
}

#[cfg(test)]
mod tests;
