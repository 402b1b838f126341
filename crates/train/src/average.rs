//! The exponential moving average of weights, which is what a run keeps in the end.

use crate::Error;
use supple_models::Parameters;

/// Weights that follow others slowly: `a ← d · a + (1 − d) · w`.
#[derive(Clone, Debug)]
pub struct Average {
    parameters: Parameters,
    decay: f64,
}

impl Average {
    /// An average that starts at `parameters`, or goes on from there.
    ///
    /// # Errors
    /// If the copy does not fit the memory.
    pub fn new(parameters: &Parameters, decay: f64) -> Result<Average, Error> {
        Ok(Average { parameters: parameters.copy()?, decay })
    }

    /// The average.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Follows `parameters` after step number `step`, from 0. Early on the decay is smaller, `(1 + step) / (10 + step)`, so that
    /// the start is soon forgotten.
    ///
    /// # Errors
    /// If a parameter is missing or not `f32`.
    pub fn update(&mut self, parameters: &Parameters, step: usize) -> Result<(), Error> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64) as f32;
        for (name, average) in self.parameters.iter_mut() {
            let now = parameters.get("average", name)?.contiguous()?;
            for (a, &w) in average.as_mut_slice::<f32>()?.iter_mut().zip(now.as_slice::<f32>()?) {
                *a += (1.0 - decay) * (w - *a);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_tensor::{Cpu, Device, Isa, Tensor};

    #[test]
    fn an_average_follows() {
        let device = Device::cpu(Cpu::new(Isa::detect(), 1)).unwrap();
        let of = |value: f32| {
            let mut parameters = Parameters::default();
            parameters.insert("w", Tensor::from_slice(&device, &[value], &[1]).unwrap());
            parameters
        };
        let mut average = Average::new(&of(0.0), 0.5).unwrap();
        let value = |a: &Average| a.parameters().get("t", "w").unwrap().to_vec::<f32>().unwrap()[0];
        average.update(&of(1.0), 0).unwrap();
        assert!((value(&average) - 0.9).abs() < 1e-6, "early: 1 - 1/10");
        average.update(&of(0.0), 1000).unwrap();
        assert!((value(&average) - 0.45).abs() < 1e-6);
    }
}
