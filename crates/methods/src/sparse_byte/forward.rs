//! How the method runs networks: it needs tensors in the middle of them, one picture after another.

use super::Error;
use supple_models::convnet::{ConvNet, NodeId, Plan, reference};
use supple_tensor::Cpu;

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

/// The fast engine: networks packed for one CPU.
#[derive(Clone, Debug)]
pub struct Fast(
    /// What they run on.
    pub Cpu,
);

struct FastRun {
    plan: Plan,
    wanted: Vec<NodeId>,
}

impl Engine for Fast {
    fn load(&self, network: &ConvNet, wanted: &[NodeId]) -> Result<Box<dyn Forward>, Error> {
        Ok(Box::new(FastRun { plan: Plan::keeping(&self.0, network, wanted)?, wanted: wanted.to_vec() }))
    }
}

impl Forward for FastRun {
    fn run(&mut self, input: &[f32]) -> Result<Vec<Vec<f32>>, Error> {
        self.plan.run(input)?;
        let tensor = |&id: &NodeId| self.plan.tensor(id).expect("the plan keeps what is wanted");
        Ok(self.wanted.iter().map(tensor).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{mobile, pictures};
    use super::*;
    use supple_tensor::Isa;

    #[test]
    fn both_engines_deliver_the_same_tensors() {
        let network = mobile();
        let wanted = [0, 2, 3, network.nodes.len() - 1];
        let mut slow = Reference.load(&network, &wanted).expect("loads");
        let mut fast = Fast(Cpu::new(Isa::detect(), 2)).load(&network, &wanted).expect("loads");
        for picture in pictures(&network, 3, 1) {
            let (x, y) = (slow.run(&picture).expect("runs"), fast.run(&picture).expect("runs"));
            assert_eq!(x.len(), y.len());
            for (x, y) in x.iter().zip(&y) {
                assert_eq!(x.len(), y.len());
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-4));
            }
        }
    }
}
