//! A decoder on whatever device it runs on. What is above need not know which.

use super::load::Source;
#[cfg(feature = "cuda")]
use super::on_device::{GpuLlama, GpuState};
use super::random::Random;
use super::{Cache, Config, Format, Input, Llama, Sequence, Wanted, Workspace};
use crate::Error;
use supple_tensor::{Cpu, Device};
use supple_weights::checkpoint::Checkpoint;

/// Where a decoder's weights come from.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// From a file or folder.
    File(&'a Checkpoint),
    /// Made up, to measure speed.
    Random(&'a Random),
}

impl<'a> Weights<'a> {
    fn source(self) -> &'a dyn Source {
        match self {
            Weights::File(checkpoint) => checkpoint,
            Weights::Random(random) => random,
        }
    }
}

/// A decoder on a device.
#[derive(Debug)]
pub enum Decoder {
    /// On the CPU.
    Cpu(Box<Llama>),
    /// On an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Gpu(Box<GpuLlama>),
}

/// Keys and values of sequences with the memory of a pass, where the decoder is that made it.
#[derive(Debug)]
pub enum State {
    /// On the CPU.
    Cpu(Box<(Cache, Workspace)>),
    /// On an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Gpu(Box<GpuState>),
}

impl From<Cache> for State {
    fn from(cache: Cache) -> State {
        State::Cpu(Box::new((cache, Workspace::new())))
    }
}

/// What takes tokens in.
pub trait Forward {
    /// Shape and particulars.
    fn config(&self) -> &Config;

    /// Takes new tokens in, and returns the wanted logits, `[wanted tokens, vocabulary]`, in the order of inputs and tokens.
    ///
    /// # Errors
    /// As [`Llama::forward`], if the device fails, and [`Error::OtherDevice`] for the state of a decoder elsewhere. Sequences are
    /// then as they were.
    fn forward<'s>(&self, state: &'s mut State, inputs: &mut [Input<'_>]) -> Result<&'s [f32], Error>;
}

impl Forward for Llama {
    fn config(&self) -> &Config {
        self.config()
    }

    fn forward<'s>(&self, state: &'s mut State, inputs: &mut [Input<'_>]) -> Result<&'s [f32], Error> {
        match state {
            State::Cpu(parts) => {
                let (cache, work) = &mut **parts;
                self.forward(cache, work, inputs)
            }
            #[cfg(feature = "cuda")]
            State::Gpu(_) => Err(Error::OtherDevice),
        }
    }
}

impl Forward for Decoder {
    fn config(&self) -> &Config {
        self.config()
    }

    fn forward<'s>(&self, state: &'s mut State, inputs: &mut [Input<'_>]) -> Result<&'s [f32], Error> {
        match self {
            Decoder::Cpu(model) => Forward::forward(&**model, state, inputs),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => Forward::forward(&**model, state, inputs),
        }
    }
}

impl State {
    /// The logits of the last pass.
    pub fn logits(&self) -> &[f32] {
        match self {
            State::Cpu(parts) => parts.1.logits(),
            #[cfg(feature = "cuda")]
            State::Gpu(state) => state.logits(),
        }
    }

    /// Pages that sequences hold.
    pub fn pages_in_use(&self) -> usize {
        match self {
            State::Cpu(parts) => parts.0.pages_in_use(),
            #[cfg(feature = "cuda")]
            State::Gpu(state) => state.pages_in_use(),
        }
    }

    /// A second sequence with the first `len` tokens of `sequence`, whose pages it shares.
    pub fn fork(&mut self, sequence: &Sequence, len: usize) -> Sequence {
        match self {
            State::Cpu(parts) => parts.0.fork(sequence, len),
            #[cfg(feature = "cuda")]
            State::Gpu(state) => state.fork(sequence, len),
        }
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        match self {
            State::Cpu(parts) => parts.0.truncate(sequence, len),
            #[cfg(feature = "cuda")]
            State::Gpu(state) => state.truncate(sequence, len),
        }
    }

    /// Gives the pages of a sequence back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }
}

impl Decoder {
    /// Loads a decoder for the CPU; as [`Llama::load`].
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub fn load(cpu: &Cpu, weights: Weights<'_>, context: Option<usize>) -> Result<Decoder, Error> {
        Ok(Decoder::Cpu(Box::new(Llama::load_from(cpu, weights.source(), context)?)))
    }

    /// Loads a decoder for a device, matrix by matrix; as [`Llama::load`].
    ///
    /// # Errors
    /// As [`Llama::load`]; [`Error::NotOnDevice`] for what kernels of a GPU lack, and [`Error::GpuMemory`].
    pub fn load_on(device: &Device, weights: Weights<'_>, context: Option<usize>) -> Result<Decoder, Error> {
        match device {
            Device::Cpu(device) => Decoder::load(device.cpu(), weights, context),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Ok(Decoder::Gpu(Box::new(GpuLlama::load(gpu, weights.source(), context)?))),
            other => Err(Error::NotOnDevice { network: format!("a decoder on {}", other.name()) }),
        }
    }

    /// Shape and particulars.
    pub fn config(&self) -> &Config {
        match self {
            Decoder::Cpu(model) => model.config(),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.config(),
        }
    }

    /// Where it runs: the CPU's instruction set, or a GPU's name.
    pub fn device(&self) -> String {
        match self {
            Decoder::Cpu(model) => model.cpu().isa.to_string(),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.device(),
        }
    }

    /// The CPU, if it runs there.
    pub fn cpu(&self) -> Option<&Cpu> {
        match self {
            Decoder::Cpu(model) => Some(model.cpu()),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(_) => None,
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Decoder::Cpu(model) => model.parameters(),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.parameters(),
        }
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_per_token(&self) -> usize {
        match self {
            Decoder::Cpu(model) => model.bytes_per_token(),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.bytes_per_token(),
        }
    }

    /// Multiplications with a weight that one token costs, without the last product and with it.
    pub fn macs_per_token(&self) -> [u64; 2] {
        match self {
            Decoder::Cpu(model) => model.macs_per_token(),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.macs_per_token(),
        }
    }

    /// Bytes a second that the GPU copies on itself, those read and those written, as measured now; none on the CPU.
    ///
    /// # Errors
    /// If the device fails.
    pub fn bandwidth(&self) -> Result<Option<f64>, Error> {
        match self {
            Decoder::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => model.bandwidth().map(Some),
        }
    }

    /// Tokens of a prompt that are best taken in at a time.
    pub fn chunk(&self) -> usize {
        match self {
            Decoder::Cpu(_) => 512,
            #[cfg(feature = "cuda")]
            Decoder::Gpu(_) => super::on_device::CHUNK,
        }
    }

    /// A cache for up to `positions` tokens of all sequences together, with the memory of a pass. `format` is what a CPU keeps
    /// keys and values in, `F16` or `F32`; a GPU keeps 16 bits.
    ///
    /// # Errors
    /// If the device's memory does not hold it.
    pub fn state(&self, format: Format, positions: usize) -> Result<State, Error> {
        match self {
            Decoder::Cpu(model) => Ok(Cache::new(model.config(), format, positions).into()),
            #[cfg(feature = "cuda")]
            Decoder::Gpu(model) => {
                let _ = format;
                Ok(State::Gpu(Box::new(model.state(positions)?)))
            }
        }
    }

    /// Takes new tokens in, and returns the wanted logits, `[wanted tokens, vocabulary]`, in the order of inputs and tokens.
    ///
    /// # Errors
    /// As [`Forward::forward`].
    pub fn forward<'s>(&self, state: &'s mut State, inputs: &mut [Input<'_>]) -> Result<&'s [f32], Error> {
        Forward::forward(self, state, inputs)
    }

    /// Takes in the `last` token of each sequence and goes on with the likeliest, `count` times: `[count, sequences]` tokens. All
    /// but those of the last time are then in the cache. Where arithmetic went wrong the last tokens are [`u32::MAX`], and those
    /// before may mean nothing.
    ///
    /// On a GPU nothing waits for the host in between.
    ///
    /// # Errors
    /// As [`Forward::forward`].
    pub fn greedy(
        &self,
        state: &mut State,
        sequences: &mut [&mut Sequence],
        last: &[u32],
        count: usize,
    ) -> Result<Vec<u32>, Error> {
        #[cfg(feature = "cuda")]
        if let (Decoder::Gpu(model), State::Gpu(state)) = (self, &mut *state) {
            return model.greedy(state, sequences, last, count);
        }
        let mut all: Vec<u32> = Vec::with_capacity(count * sequences.len());
        let mut next = last.to_vec();
        for _ in 0..count {
            let inputs = sequences.iter_mut().zip(next.chunks(1));
            let mut inputs: Vec<Input<'_>> =
                inputs.map(|(sequence, tokens)| Input { sequence, tokens, wanted: Wanted::Last }).collect();
            let logits = self.forward(state, &mut inputs)?;
            next = logits.chunks_exact(self.config().vocabulary).map(likeliest).collect();
            all.extend_from_slice(&next);
            if next.contains(&u32::MAX) {
                all.resize(count * sequences.len(), u32::MAX);
                break;
            }
        }
        Ok(all)
    }
}

/// The first of the largest logits, [`u32::MAX`] where one is no number or the largest is not finite.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return u32::MAX;
        }
        if logit > logits[best] {
            best = i;
        }
    }
    if logits[best].is_finite() { best as u32 } else { u32::MAX }
}
