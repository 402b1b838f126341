//! Several processes that train one network: each goes through its part of every batch, and gradients are added up between them.
//!
//! * [`Communicator`] – how processes add up, hand round and wait for each other;
//! * [`Tcp`] – one over TCP, a ring, for processes on CPUs and for what GPUs leave to the host;
//! * `Gpus` – the same where each process has a GPU: NVIDIA's NCCL adds up gradients, if it is installed;
//! * [`Place`] – which process this is of how many, from the environment that a launcher sets.

mod environment;
#[cfg(feature = "cuda")]
mod gpus;
mod tcp;

use crate::Error;
pub use environment::Place;
#[cfg(feature = "cuda")]
pub use gpus::Gpus;
use supple_models::Parameters;
use supple_tensor::{Gradients, Tensor};
pub use tcp::Tcp;

/// How processes of one run talk. All of them make the same calls in the same order; each call waits for the others.
pub trait Communicator: Send + Sync + std::fmt::Debug {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Replaces `values` by their sum over all processes, the same bits in all of them.
    ///
    /// # Errors
    /// [`Error::Lost`] if a process is gone or silent.
    fn sum(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Replaces `bytes` by those of process 0.
    ///
    /// # Errors
    /// [`Error::Lost`] if a process is gone or silent.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), Error>;

    /// Waits until all processes are here.
    ///
    /// # Errors
    /// [`Error::Lost`] if a process is gone or silent.
    fn barrier(&self) -> Result<(), Error> {
        self.sum(&mut [0.0])
    }

    /// As [`sum`](Self::sum), of a tensor where it lies, without waiting where the device needs no host for it.
    ///
    /// # Errors
    /// [`Error::Lost`] if a process is gone or silent, or if the device fails.
    fn sum_on_device(&self, tensor: &Tensor) -> Result<(), Error> {
        let mut values = tensor.to_vec::<f32>()?;
        self.sum(&mut values)?;
        Ok(tensor.overwrite(&values)?)
    }
}

/// Replaces gradients by their mean over all processes, and gives the mean of `loss`.
pub(crate) fn mean_gradients(
    team: &dyn Communicator,
    parameters: &Parameters,
    gradients: &mut Gradients,
    loss: f32,
) -> Result<f32, Error> {
    let mut flat = Vec::with_capacity(parameters.values() + 1);
    let used: Vec<&Tensor> =
        parameters.iter().map(|(_, leaf)| leaf).filter(|leaf| gradients.of(leaf).is_some()).collect();
    for leaf in &used {
        flat.extend_from_slice(gradients.of(leaf).expect("filtered").contiguous()?.as_slice::<f32>()?);
    }
    flat.push(loss);
    team.sum(&mut flat)?;
    let share = 1.0 / team.size() as f32;
    flat.iter_mut().for_each(|value| *value *= share);
    let mut rest = &flat[..];
    for leaf in used {
        let (values, others) = rest.split_at(leaf.elements());
        gradients.replace(leaf, Tensor::from_slice(leaf.device(), values, leaf.shape())?);
        rest = others;
    }
    Ok(rest[0])
}

/// Whether any process says yes.
pub(crate) fn any(team: &dyn Communicator, own: bool) -> Result<bool, Error> {
    let mut votes = [f32::from(own)];
    team.sum(&mut votes)?;
    Ok(votes[0] > 0.0)
}
