//! Naming what is in a picture.
//!
//! A [`Classifier`] is a convolutional network ([`ConvNet`]) packed for this CPU, with a name for each output. It shrinks
//! a picture to the network's input ([`Input`]), runs the network, makes probabilities of its scores, and gives the
//! highest with their names, [`Prediction`]s.
//!
//! ```
//! # fn main() -> Result<(), supple::Error> {
//! # use supple::convnet::{Conv, ConvNet, Node, Op, Padding, Pattern, Preprocessing, Shape, Window2d};
//! # let colour = Conv { out_channels: 3, in_channels: 3, window: Window2d::POINT,
//! #     weights: vec![9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0], bias: vec![0.0; 3], pattern: Pattern::Dense };
//! # let node = |name: &str, op, inputs| Node { name: name.into(), op, inputs, activation: Default::default() };
//! # let network = ConvNet { name: "colours".into(), preprocessing: Preprocessing::default(),
//! #     labels: ["red", "green", "blue"].map(String::from).to_vec(), quantization: None,
//! #     nodes: vec![node("input", Op::Input(Shape { channels: 3, height: 8, width: 8 }), vec![]),
//! #         node("colour", Op::Conv(colour), vec![0]), node("mean", Op::GlobalAveragePool, vec![1])] };
//! use supple::classifier::{Classifier, ClassifierOptions};
//!
//! // Or `Classifier::open("mobilenet.tflite", ...)`, for a network from a file.
//! let mut classifier = Classifier::from_network(network, ClassifierOptions::default())?;
//! let sky = supple::Picture::from_rgb8(30, 20, [70, 110, 220].repeat(600))?;
//! let predictions = classifier.classify(&sky, 2)?;
//! assert_eq!(predictions[0].name(), "blue");
//! assert!(predictions[0].probability > 0.9);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "files")]
mod accuracy;
mod engine;
mod labels;
mod many;
mod options;
mod predictions;
mod prepare;
mod random;

#[cfg(feature = "files")]
pub use accuracy::{Accuracy, ClassRule, Example, Outcome, examples, measure};
pub use engine::Engine;
pub use labels::{parse as parse_labels, read as read_labels};
pub use many::READERS;
pub use options::{ClassifierOptions, Precision};
pub use predictions::Prediction;
pub use prepare::{Crop, Input, prepare, prepare_planar};
pub use random::sparsify_at_random;
pub use supple_tensor::kernels::sparse_conv::default_block as dense_block;

use crate::picture::Picture;
use crate::{Cpu, Error, compute};
use std::fmt;
use std::path::Path;
use supple_models::convnet::{ConvNet, Shape};

/// A network that names what is in a picture, ready to run.
pub struct Classifier {
    name: String,
    engine: Engine,
    cpu: Cpu,
    input: Input,
    /// Number of outputs.
    outputs: usize,
    /// Whether the network makes probabilities itself.
    ends_in_softmax: bool,
    parameters: usize,
    /// A name for each output, or nothing.
    labels: Vec<String>,
}

impl Classifier {
    /// A network from a file: TFLite, this project's own safetensors, or a PyTorch checkpoint of a network known here.
    ///
    /// # Errors
    /// If a file cannot be read, holds no network that can be used here, or the labels do not fit.
    pub fn open(path: impl AsRef<Path>, options: ClassifierOptions) -> Result<Classifier, Error> {
        let network = open_network(path.as_ref(), options.head.as_deref())?;
        Classifier::from_network(network, options)
    }

    /// As [`Classifier::open`] for a file in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// If the bytes hold no network that can be used here, or the labels do not fit.
    pub fn from_bytes(name: &str, bytes: Vec<u8>, options: ClassifierOptions) -> Result<Classifier, Error> {
        if options.head.is_some() {
            return Err(Error::BadOption("a network in memory has no second file".into()));
        }
        Classifier::from_network(ConvNet::from_bytes(name, bytes)?, options)
    }

    /// A network that exists already.
    ///
    /// # Errors
    /// If it takes no picture in colour, gives more than one value a class, is inconsistent, or the labels do not fit.
    pub fn from_network(network: ConvNet, options: ClassifierOptions) -> Result<Classifier, Error> {
        let labels = match &options.labels {
            Some(path) => labels::read(path)?,
            None => network.labels.clone(),
        };
        let cpu = compute::cpu(options.threads)?;
        let input = Input::of(&network)?;
        let engine = Engine::new(&cpu, &network, options.precision)?;
        let output = engine.output_shape();
        if output.pixels() != 1 {
            let found = format!("its output is {output}, not one value a class");
            return Err(Error::NotAClassifier { network: network.name, found });
        }
        let classifier = Classifier {
            engine,
            cpu,
            input,
            outputs: output.channels,
            ends_in_softmax: network.ends_in_softmax(),
            parameters: network.parameters(),
            labels: Vec::new(),
            name: network.name,
        };
        if labels.is_empty() && options.labels.is_none() { Ok(classifier) } else { classifier.with_labels(labels) }
    }

    /// The same with a name for each output. Where one of both has a background class before the others, it is added
    /// or dropped.
    ///
    /// # Errors
    /// If their number does not fit.
    pub fn with_labels(mut self, labels: Vec<String>) -> Result<Classifier, Error> {
        self.labels = labels::fit(labels, self.outputs)?;
        Ok(self)
    }

    /// The `top` most probable names, the most probable first.
    ///
    /// # Errors
    /// If the network gives values that are no numbers.
    pub fn classify(&mut self, picture: &Picture, top: usize) -> Result<Vec<Prediction>, Error> {
        self.classify_prepared(&self.input.prepare(picture), top)
    }

    /// As [`Classifier::classify`] for `[height][width][3]` bytes of red, green, blue of a picture of any size.
    ///
    /// # Errors
    /// If their number does not fit the size, or the network gives values that are no numbers.
    pub fn classify_rgb(
        &mut self,
        width: usize,
        height: usize,
        rgb: &[u8],
        top: usize,
    ) -> Result<Vec<Prediction>, Error> {
        self.classify_prepared(&self.input.prepare_rgb(width, height, rgb)?, top)
    }

    /// As [`Classifier::classify`] for what [`Input::prepare`] of [`Classifier::input`] gave.
    ///
    /// # Errors
    /// If there are too few or too many bytes, or the network gives values that are no numbers.
    pub fn classify_prepared(&mut self, rgb: &[u8], top: usize) -> Result<Vec<Prediction>, Error> {
        let probabilities = self.probabilities(rgb)?;
        let named = predictions::highest(&probabilities, top).into_iter().map(|index| Prediction {
            index,
            label: self.labels.get(index).filter(|label| !label.is_empty()).cloned(),
            probability: probabilities[index],
        });
        Ok(named.collect())
    }

    /// The probability of each output, for what [`Input::prepare`] gave.
    ///
    /// # Errors
    /// As [`Classifier::classify_prepared`].
    pub fn probabilities(&mut self, rgb: &[u8]) -> Result<Vec<f32>, Error> {
        let Input { width, height, .. } = self.input;
        let wanted = width * height * 3;
        if rgb.len() != wanted {
            return Err(Error::Samples { width, height, channels: 3, wanted, found: rgb.len() });
        }
        let scores = self.engine.run_rgb(rgb)?;
        predictions::check_finite(scores, &self.name)?;
        Ok(if self.ends_in_softmax { scores.to_vec() } else { predictions::softmax(scores) })
    }

    /// What the network is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is computed in: [`Precision::F32`], [`Precision::Int8`], or where half precision is in use
    /// [`Precision::Fast`].
    pub fn precision(&self) -> Precision {
        self.engine.precision()
    }

    /// Size and preprocessing of its input.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// A name for each output; empty if none are known.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Outputs before the first class: 1 if there is a background, as in networks of the TensorFlow family.
    pub fn background(&self) -> usize {
        match self.labels.first() {
            Some(label) => usize::from(label.eq_ignore_ascii_case(labels::BACKGROUND)),
            None => usize::from(self.outputs == labels::IMAGENET + 1),
        }
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Instruction set and threads in use.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}

/// The network in a file, or in two of which the second takes what the first gives.
///
/// # Errors
/// If a file cannot be read or holds no network that can be used here, or the two do not fit.
pub fn open_network(path: &Path, head: Option<&Path>) -> Result<ConvNet, Error> {
    Ok(match head {
        Some(head) => ConvNet::open_joined(path, head)?,
        None => ConvNet::open(path)?,
    })
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input = Shape { channels: 3, height: self.input.height, width: self.input.width };
        write!(f, "Classifier({}, {input} -> {}, {} threads)", self.name, self.outputs, self.cpu.threads())
    }
}
