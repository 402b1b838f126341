//! Networks as they are trained: named parameters, and a function of them and an input.
//!
//! Parameters are kept apart from the network, so that the same definition runs on what is trained, on its moving average and
//! on what a file holds. Names are those of the published checkpoints, which the streaming passes load too.

use crate::Error;
use std::collections::BTreeMap;
use std::path::Path;
use supple_tensor::{Device, Random, Tensor};
use supple_weights::{DType, Weights};

/// A network that can be trained.
pub trait Network: Send + Sync + std::fmt::Debug {
    /// Architecture with its size, such as `RLFN_S`.
    fn name(&self) -> String;

    /// Names and shapes of all parameters.
    fn shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// The network's output for `x`. Images are `[n, h, w, c]`, 0..1; those of a super-resolution network come back as
    /// `[n, h * scale, w * scale, c]`.
    ///
    /// # Errors
    /// If a parameter is missing, or shapes do not fit.
    fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, Error>;

    /// Whether parameter `name` meets activations element by element, so that it must have their type where that is of 16 bits.
    /// Layers take weights in `f32` beside activations of any type.
    fn meets_activations(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// What a file of its weights says about them.
    fn metadata(&self) -> BTreeMap<String, String> {
        let pairs = [("network", self.name()), ("range", "0..1".to_owned())];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Fresh parameters: those of more than one dimension, and biases by the weight that they belong to, uniform within
    /// `±1/√fan-in`, which is what PyTorch starts convolutions and linear layers with. A network overrides this for what has
    /// another start.
    ///
    /// # Errors
    /// If they do not fit the memory.
    fn initialise(&self, device: &Device, seed: u64) -> Result<Parameters, Error> {
        Parameters::uniform(device, &self.shapes(), seed)
    }
}

/// Tensors by name.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Uniform within `±1/√fan-in`. A bias takes its fan-in from the weight before it in `shapes`.
    ///
    /// # Errors
    /// If they do not fit the memory.
    pub fn uniform(device: &Device, shapes: &[(String, Vec<usize>)], seed: u64) -> Result<Parameters, Error> {
        let (mut parameters, mut fan_in) = (Parameters::default(), 1);
        let random = Random::new(seed);
        for (i, (name, shape)) in shapes.iter().enumerate() {
            if shape.len() > 1 {
                fan_in = shape[1..].iter().product::<usize>().max(1);
            }
            let values = random.part(i as u64).uniform(shape.iter().product(), 1.0 / (fan_in as f32).sqrt());
            parameters.insert(name, Tensor::from_slice(device, &values, shape)?);
        }
        Ok(parameters)
    }

    /// Those of `shapes` from a file.
    ///
    /// # Errors
    /// If one is missing, has another shape or holds NaN.
    pub fn read(device: &Device, weights: &Weights, shapes: &[(String, Vec<usize>)]) -> Result<Parameters, Error> {
        let mut parameters = Parameters::default();
        for (name, shape) in shapes {
            parameters.insert(name, Tensor::from_slice(device, &weights.tensor(name, shape)?, shape)?);
        }
        Ok(parameters)
    }

    /// Writes them to a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// If one is not finite, or the file cannot be written.
    pub fn save(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
        let tensors: Vec<_> = self
            .iter()
            .map(|(name, tensor)| Ok((name.to_owned(), DType::F32, tensor.shape().to_vec(), tensor.to_vec::<f32>()?)))
            .collect::<Result<_, Error>>()?;
        Ok(supple_weights::save_safetensors(path, &tensors, metadata)?)
    }

    /// The parameter `name`; `network` is who asks.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, network: &str, name: &str) -> Result<&Tensor, Error> {
        let missing = || Error::MissingParameter { network: network.to_owned(), name: name.to_owned() };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// Whether there is a parameter `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Adds or replaces a parameter.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// All of them, to change, sorted by name.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Tensor)> {
        self.tensors.iter_mut().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of values.
    pub fn values(&self) -> usize {
        self.tensors.values().map(Tensor::elements).sum()
    }

    /// The same values as leaves, whose gradients are wanted.
    pub fn variables(&self) -> Parameters {
        Parameters { tensors: self.tensors.iter().map(|(name, t)| (name.clone(), t.variable())).collect() }
    }

    /// The same values in memory of their own, without gradients.
    ///
    /// # Errors
    /// If they do not fit the memory.
    pub fn copy(&self) -> Result<Parameters, Error> {
        let copy = |(name, t): (&String, &Tensor)| {
            let values = t.to_vec::<f32>()?;
            Ok((name.clone(), Tensor::from_slice(t.device(), &values, t.shape())?))
        };
        Ok(Parameters { tensors: self.tensors.iter().map(copy).collect::<Result<_, Error>>()? })
    }
}
