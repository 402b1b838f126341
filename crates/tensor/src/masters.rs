//! Master weights on a GPU, with all that an optimiser keeps of them, in flat buffers that one kernel goes through.
//!
//! Parameters lie one after the other, each from a multiple of [`ALIGNMENT`] on. [`Masters::leaf`] gives the tensors that a network
//! is called with: views of the master weights, or of their 16-bit copy, which every step renews. Gradients are
//! [gathered](Masters::gather), [`Masters::step`] moves the weights, and [`Masters::records`] tells later what became of it: none of
//! these waits for the GPU.

use crate::error::refuse;
use crate::{ALIGNMENT, DType, Device, Error, Gradients, Layout, Tensor};
use supple_cuda::optimizer::{self, Buffers, Control, PARTIALS};
pub use supple_cuda::optimizer::{Record, Rule, Settings, State};
use supple_cuda::{Elements, ElementsMut, Gpu, Memory, Readback};

/// Steps whose records are kept.
pub const RECORDS: usize = 1024;

/// What [`Masters::export`] gives and [`Masters::import`] takes, of one parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// The weights.
    pub weights: Vec<f32>,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments; none for gradient descent.
    pub second: Vec<f32>,
    /// The moving average; none if none is kept.
    pub average: Vec<f32>,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Masters {
    gpu: Gpu,
    device: Device,
    settings: Settings,
    /// Shapes, and where each begins.
    places: Vec<(Vec<usize>, usize)>,
    len: usize,
    weights: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Option<Tensor>,
    average: Option<Tensor>,
    low: Option<Tensor>,
    partials: Memory,
    rates: Memory,
    state: Tensor,
    ring: Memory,
    readback: Readback,
    /// Steps queued, and those whose records were given out or asked for.
    steps: u64,
    reported: u64,
    asked: u64,
}

impl Masters {
    /// Room for parameters of these shapes, all zero, to be read by a network as `dtype`. `rates` are the learning rates of all
    /// steps, of which `state` tells how many are done.
    ///
    /// # Errors
    /// If `device` is no GPU, `dtype` is no floating-point type, there are no rates, or memory is exhausted.
    pub fn new(
        device: &Device,
        shapes: &[Vec<usize>],
        dtype: DType,
        settings: Settings,
        rates: &[f64],
        state: State,
    ) -> Result<Masters, Error> {
        let Device::Cuda(gpu) = device else {
            return Err(Error::Device { op: "masters", detail: "only a GPU keeps weights in flat buffers" });
        };
        if rates.is_empty() || !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return refuse!("masters", "{} learning rates, weights as {dtype}", rates.len());
        }
        let (mut places, mut len) = (Vec::new(), 0);
        for shape in shapes {
            places.push((shape.clone(), len));
            len += Layout::contiguous(shape)?.elements().next_multiple_of(ALIGNMENT);
        }
        let flat = |dtype| Tensor::zeros(device, &[len], dtype);
        let is_adam = matches!(settings.rule, Rule::Adam { .. });
        let bytes: Vec<u8> = rates.iter().flat_map(|rate| rate.to_ne_bytes()).collect();
        let ring = gpu.allocate(RECORDS * Record::BYTES)?;
        gpu.clear(&ring, 0, ring.bytes())?;
        let words: Vec<u32> = state
            .to_bytes()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        Ok(Masters {
            gpu: gpu.clone(),
            device: device.clone(),
            settings,
            places,
            len,
            weights: flat(DType::F32)?,
            gradients: Tensor::zeros(device, &[len + ALIGNMENT], DType::F32)?,
            first: flat(DType::F32)?,
            second: is_adam.then(|| flat(DType::F32)).transpose()?,
            average: settings.average.map(|_| flat(DType::F32)).transpose()?,
            low: (dtype != DType::F32).then(|| flat(dtype)).transpose()?,
            partials: gpu.allocate(PARTIALS * 8)?,
            rates: gpu.upload(&bytes)?,
            state: Tensor::from_slice(device, &words, &[words.len()])?,
            readback: Readback::new(gpu, RECORDS * Record::BYTES)?,
            ring,
            steps: state.step,
            reported: state.step,
            asked: state.step,
        })
    }

    /// What a network reads as parameter `i`: a view that every step changes. As `f32` the master weights themselves.
    ///
    /// # Errors
    /// If there is no such parameter.
    pub fn leaf(&self, i: usize, exact: bool) -> Result<Tensor, Error> {
        let flat = self.low.as_ref().filter(|_| !exact).unwrap_or(&self.weights);
        self.view(flat, i)
    }

    fn view(&self, flat: &Tensor, i: usize) -> Result<Tensor, Error> {
        let Some((shape, at)) = self.places.get(i) else { return refuse!("masters", "there is no parameter {i}") };
        flat.narrow(0, *at, Layout::contiguous(shape)?.elements())?.reshape(shape)
    }

    /// Sets parameter `i` and what is kept of it; what is empty becomes zero, an empty average the weights.
    ///
    /// # Errors
    /// If lengths do not fit.
    pub fn import(&mut self, i: usize, values: &Values) -> Result<(), Error> {
        let average = if values.average.is_empty() { &values.weights } else { &values.average };
        let zeros = vec![0.0; values.weights.len()];
        let or_zeros = |moments| -> &Vec<f32> { if Vec::is_empty(moments) { &zeros } else { moments } };
        for (flat, values) in [
            (Some(&self.weights), &values.weights),
            (Some(&self.first), or_zeros(&values.first)),
            (self.second.as_ref(), or_zeros(&values.second)),
            (self.average.as_ref(), average),
        ] {
            let Some(flat) = flat else { continue };
            let view = self.view(flat, i)?;
            if view.elements() != values.len() {
                return refuse!("masters", "{} values for parameter {i} of shape {:?}", values.len(), view.shape());
            }
            self.gpu.write(view.memory()?, view.layout().offset() * 4, bytemuck::cast_slice(values))?;
        }
        if let Some(low) = &self.low {
            let view = self.view(low, i)?;
            let narrow = Tensor::from_slice(&self.device, &values.weights, view.shape())?.to_dtype(low.dtype())?;
            crate::cuda::copy(&self.gpu, &narrow, &view, view.layout())?;
        }
        Ok(())
    }

    /// Everything that is kept, in the order of parameters. Waits for the GPU.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn export(&self) -> Result<Vec<Values>, Error> {
        let get = |flat: Option<&Tensor>| flat.map_or(Ok(Vec::new()), Tensor::to_vec::<f32>);
        let flats = [
            get(Some(&self.weights))?,
            get(Some(&self.first))?,
            get(self.second.as_ref())?,
            get(self.average.as_ref())?,
        ];
        let part = |flat: &Vec<f32>, at: usize, len: usize| flat.get(at..at + len).unwrap_or_default().to_vec();
        let values = self.places.iter().map(|(shape, at)| {
            let len = shape.iter().product();
            let [weights, first, second, average] = [0, 1, 2, 3].map(|which| part(&flats[which], *at, len));
            Values { weights, first, second, average }
        });
        Ok(values.collect())
    }

    /// How far it is. Waits for the GPU.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn state(&self) -> Result<State, Error> {
        let words = self.state.to_vec::<u32>()?;
        let mut bytes = [0; State::BYTES];
        bytes.copy_from_slice(bytemuck::cast_slice(&words));
        Ok(State::from_bytes(&bytes))
    }

    /// What a loss is multiplied by: one number, the gradient to go back from. It changes as steps are done.
    ///
    /// # Errors
    /// None that could come to pass.
    pub fn scale(&self) -> Result<Tensor, Error> {
        self.state.narrow(0, State::SCALE, 1)?.reinterpreted(DType::F32)
    }

    /// Adds a loss, and the gradients of leaves, which [`leaf`](Self::leaf) gave in this order, to those of the step at hand.
    /// Parameters without a gradient count as having zeros.
    ///
    /// # Errors
    /// If a gradient has another shape than its parameter, or the loss is more than one number.
    pub fn gather(&mut self, loss: &Tensor, gradients: &Gradients, leaves: &[Tensor]) -> Result<(), Error> {
        if loss.elements() != 1 || leaves.len() != self.places.len() {
            return refuse!("masters", "a loss of shape {:?}, {} leaves", loss.shape(), leaves.len());
        }
        let mut tensors = vec![(loss.detach(), self.len)];
        for (leaf, (shape, at)) in leaves.iter().zip(&self.places) {
            let Some(gradient) = gradients.of(leaf) else { continue };
            if **gradient.shape() != **shape {
                return refuse!("masters", "a gradient of shape {:?} for {shape:?}", gradient.shape());
            }
            tensors.push((gradient.contiguous()?, *at));
        }
        let pieces = tensors.iter().map(|(tensor, at)| {
            let dtype = crate::cuda::dtype_of(tensor.dtype());
            Ok((Elements::new(tensor.memory()?, tensor.layout().offset(), dtype), tensor.elements(), *at))
        });
        let pieces = pieces.collect::<Result<Vec<_>, Error>>()?;
        Ok(optimizer::gather(&self.gpu, &pieces, write(&self.gradients)?)?)
    }

    /// The gradients gathered so far, and then the loss, as one flat tensor: what processes add up between them.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Queues the step, after which gradients are zero. With `count` it counts as one whose record is to be given out; work that
    /// is recorded to be replayed is not, and each replay is [counted](Self::count).
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn step(&mut self, count: bool) -> Result<(), Error> {
        fn some(tensor: &Option<Tensor>) -> Result<Option<ElementsMut<'_>>, Error> {
            tensor.as_ref().map(write).transpose()
        }
        let buffers = Buffers {
            len: self.len,
            weights: write(&self.weights)?,
            gradients: write(&self.gradients)?,
            first: write(&self.first)?,
            second: some(&self.second)?,
            average: some(&self.average)?,
            low: some(&self.low)?,
        };
        let state = self.state.memory()?;
        let control = Control { partials: &self.partials, rates: &self.rates, state, ring: &self.ring };
        optimizer::step(&self.gpu, &self.settings, &buffers, &control)?;
        if count {
            self.count();
        }
        Ok(())
    }

    /// Counts a step that was replayed.
    pub fn count(&mut self) {
        self.steps += 1;
    }

    /// Asks for the records of the steps queued so far, unless others are on their way.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn ask(&mut self) -> Result<(), Error> {
        if !self.readback.is_waiting() && self.asked < self.steps {
            self.readback.start(&self.ring)?;
            self.asked = self.steps;
        }
        Ok(())
    }

    /// The records that have arrived since the last time; with `wait`, of all steps queued so far. Must be asked for at least
    /// every [`RECORDS`] steps.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn records(&mut self, wait: bool) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        loop {
            let Some(bytes) = self.readback.take(wait)? else {
                if wait && self.asked < self.steps {
                    self.ask()?;
                    continue;
                }
                return Ok(records);
            };
            let of = |step: u64| Record::from_bytes(&bytes[step as usize % RECORDS * Record::BYTES..][..Record::BYTES]);
            let first = self.reported.max(self.asked.saturating_sub(RECORDS as u64));
            records.extend((first..self.asked).map(of));
            self.reported = self.asked;
        }
    }
}

fn write(tensor: &Tensor) -> Result<ElementsMut<'_>, Error> {
    Ok(ElementsMut::new(tensor.memory()?, tensor.layout().offset(), crate::cuda::dtype_of(tensor.dtype())))
}
