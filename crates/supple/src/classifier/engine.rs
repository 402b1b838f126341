//! What runs the network: real numbers or 8-bit integers.

use super::Precision;
use crate::{Cpu, Error};
use std::time::Duration;
#[cfg(feature = "int8")]
use supple_models::convnet::PlanI8;
use supple_models::convnet::{ConvNet, Layer, Plan, Shape};

/// A network packed for one CPU in one precision.
#[derive(Debug)]
pub struct Engine(Kind);

#[derive(Debug)]
enum Kind {
    F32(Box<Plan>),
    #[cfg(feature = "int8")]
    Int8(Box<PlanI8>),
}

/// Evaluates an expression for the plan, whichever it is.
macro_rules! with {
    ($engine:expr, $plan:ident => $body:expr) => {
        match $engine {
            Kind::F32($plan) => $body,
            #[cfg(feature = "int8")]
            Kind::Int8($plan) => $body,
        }
    };
}

impl Engine {
    /// Packs `network` for `cpu`.
    ///
    /// # Errors
    /// [`Error::NotQuantized`] if integers are asked for and the network has none, [`Error::Network`] if it is inconsistent.
    pub fn new(cpu: &Cpu, network: &ConvNet, precision: Precision) -> Result<Engine, Error> {
        #[cfg(feature = "int8")]
        match precision {
            Precision::Int8 if network.quantization.is_none() => {
                return Err(Error::NotQuantized { network: network.name.clone() });
            }
            Precision::Int8 => return Ok(Engine(Kind::Int8(Box::new(PlanI8::new(cpu, network)?)))),
            // Some files keep a part of the network in real numbers: those are for the other plan.
            Precision::Auto if network.quantization.is_some() => {
                if let Ok(plan) = PlanI8::new(cpu, network) {
                    return Ok(Engine(Kind::Int8(Box::new(plan))));
                }
            }
            Precision::Auto | Precision::F32 | Precision::Fast => {}
        }
        #[cfg(not(feature = "int8"))]
        if precision == Precision::Int8 {
            return Err(Error::BadOption("this program was built without 8-bit integers".into()));
        }
        let plan = if precision == Precision::Fast { Plan::fast(cpu, network)? } else { Plan::new(cpu, network)? };
        Ok(Engine(Kind::F32(Box::new(plan))))
    }

    /// What it runs in: [`Precision::F32`], [`Precision::Int8`], or where half precision is in use [`Precision::Fast`].
    pub fn precision(&self) -> Precision {
        match &self.0 {
            Kind::F32(plan) if plan.is_half() => Precision::Fast,
            Kind::F32(_) => Precision::F32,
            #[cfg(feature = "int8")]
            Kind::Int8(_) => Precision::Int8,
        }
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Shape {
        with!(&self.0, plan => plan.input_shape())
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Shape {
        with!(&self.0, plan => plan.output_shape())
    }

    /// What is computed, step by step.
    pub fn layers(&self) -> &[Layer] {
        with!(&self.0, plan => plan.layers())
    }

    /// Runs the network on a picture of its size, `[height][width][3]` bytes of red, green, blue.
    ///
    /// # Errors
    /// If the picture has another size.
    pub fn run_rgb(&mut self, rgb: &[u8]) -> Result<&[f32], Error> {
        Ok(with!(&mut self.0, plan => plan.run_rgb(rgb)?))
    }

    /// Runs the network on `input`, `[channels][height][width]` and already normalised.
    ///
    /// # Errors
    /// If the input has another length than its shape.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        Ok(with!(&mut self.0, plan => plan.run(input)?))
    }

    /// As [`run`](Self::run), and adds the time of each layer to `times`.
    ///
    /// # Errors
    /// If the input has another length than its shape.
    ///
    /// # Panics
    /// If `times` has another length than [`layers`](Self::layers).
    pub fn run_timed(&mut self, input: &[f32], times: &mut [Duration]) -> Result<&[f32], Error> {
        Ok(with!(&mut self.0, plan => plan.run_timed(input, times)?))
    }
}
