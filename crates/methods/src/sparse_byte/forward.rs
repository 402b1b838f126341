//! How the method runs networks: it needs tensors in the middle of them, one picture after another.

use super::Error;
use supple_models::convnet::{ConvNet, NodeId, reference};

/// Makes networks ready to run.
pub trait Engine {
    /// Prepares `network` for runs that deliver the tensors of `wanted`.
    ///
    /// # Errors
    /// If the network is inconsistent, or has an operator that the engine lacks.
    fn load(&self, network: &ConvNet, wanted: &[NodeId]) -> Result<Box<dyn Forward>, Error>;
}

/// A network that is ready to run.
pub trait Forward {
    /// Runs it on a planar input and returns the tensors of the nodes asked for, in that order, each
    /// `[channels][height][width]` after its activation.
    ///
    /// # Errors
    /// If it could not be run.
    fn run(&mut self, input: &[f32]) -> Result<Vec<Vec<f32>>, Error>;
}

/// The engine of plain loops: slow, for tests and small networks.
#[derive(Clone, Copy, Debug)]
pub struct Reference;

struct ReferenceRun {
    network: ConvNet,
    wanted: Vec<NodeId>,
}

impl Engine for Reference {
    fn load(&self, network: &ConvNet, wanted: &[NodeId]) -> Result<Box<dyn Forward>, Error> {
        Ok(Box::new(ReferenceRun { network: network.clone(), wanted: wanted.to_vec() }))
    }
}

impl Forward for ReferenceRun {
    fn run(&mut self, input: &[f32]) -> Result<Vec<Vec<f32>>, Error> {
        let tensors = reference::run_all(&self.network, input)?;
        let single = |&id: &NodeId| tensors[id].iter().map(|&value| value as f32).collect();
        Ok(self.wanted.iter().map(single).collect())
    }
}
