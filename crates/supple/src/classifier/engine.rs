//! What runs the network: real numbers or 8-bit integers on the CPU, or a GPU.

use super::Precision;
use crate::{Cpu, DeviceChoice, Error, compute};
use std::time::Duration;
#[cfg(feature = "int8")]
use supple_models::convnet::PlanI8;
use supple_models::convnet::{BatchDevice, ConvNet, Layer, Plan, Shape, layers_of};

/// A network packed for a CPU or a GPU in one precision.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    /// Why the CPU does what a GPU was to do.
    stand_in: Option<String>,
    /// Results of a batch on the CPU.
    batch: Vec<f32>,
}

/// A network on a device, and what the CPU would need to go on.
#[derive(Debug)]
struct OnDevice {
    device: Box<dyn BatchDevice>,
    input: Shape,
    output: Shape,
    layers: Vec<Layer>,
    fall_back: Option<(Cpu, ConvNet, Precision)>,
}

#[derive(Debug)]
enum Kind {
    F32(Box<Plan>),
    #[cfg(feature = "int8")]
    Int8(Box<PlanI8>),
    Device(Box<OnDevice>),
}

/// Evaluates an expression for the plan, whichever it is.
macro_rules! with {
    ($engine:expr, $plan:ident => $body:expr, $device:ident => $other:expr) => {
        match $engine {
            Kind::F32($plan) => $body,
            #[cfg(feature = "int8")]
            Kind::Int8($plan) => $body,
            Kind::Device($device) => $other,
        }
    };
}

impl Engine {
    /// Packs `network` for `cpu`.
    ///
    /// # Errors
    /// [`Error::NotQuantized`] if integers are asked for and the network has none, [`Error::Network`] if it is inconsistent.
    pub fn new(cpu: &Cpu, network: &ConvNet, precision: Precision) -> Result<Engine, Error> {
        Ok(Engine::of(on_cpu(cpu, network, precision)?))
    }

    /// Packs `network` for the device of a choice; the CPU stands in where [`DeviceChoice::Auto`] allows it.
    ///
    /// # Errors
    /// As [`Engine::new`], or if a GPU was asked for and cannot be had or does not run the network.
    pub fn on(cpu: &Cpu, network: &ConvNet, precision: Precision, choice: DeviceChoice) -> Result<Engine, Error> {
        let is_auto = choice == DeviceChoice::Auto;
        let quantized = network.quantization.is_some() && precision == Precision::Auto && is_auto;
        if choice == DeviceChoice::Cpu || quantized || (is_auto && precision == Precision::Int8) {
            return Engine::new(cpu, network, precision);
        }
        if precision == Precision::Int8 {
            return Err(Error::BadOption("8-bit integers run on the CPU only: leave out --precision int8".into()));
        }
        let device = match gpu(network, precision, choice) {
            Ok(Some(device)) => device,
            Ok(None) => {
                let stand_in = compute::unused_gpu(choice);
                return Ok(Engine { stand_in, ..Engine::new(cpu, network, precision)? });
            }
            Err(error) if is_auto => {
                let stand_in = Some(format!("the CPU stands in for the GPU: {error}"));
                return Ok(Engine { stand_in, ..Engine::new(cpu, network, precision)? });
            }
            Err(error) => return Err(error),
        };
        let fall_back = is_auto.then(|| (cpu.clone(), network.clone(), precision));
        Engine::with_device(device, network, fall_back)
    }

    fn with_device(
        device: Box<dyn BatchDevice>,
        network: &ConvNet,
        fall_back: Option<(Cpu, ConvNet, Precision)>,
    ) -> Result<Engine, Error> {
        let (input, output, layers) = layers_of(network)?;
        Ok(Engine::of(Kind::Device(Box::new(OnDevice { device, input, output, layers, fall_back }))))
    }

    fn of(kind: Kind) -> Engine {
        Engine { kind, stand_in: None, batch: Vec::new() }
    }

    /// What it runs in: [`Precision::F32`], [`Precision::Int8`], or [`Precision::F16`].
    pub fn precision(&self) -> Precision {
        match &self.kind {
            Kind::F32(plan) if plan.is_half() => Precision::F16,
            Kind::F32(_) => Precision::F32,
            #[cfg(feature = "int8")]
            Kind::Int8(_) => Precision::Int8,
            Kind::Device(on) if on.device.is_f32() => Precision::F32,
            Kind::Device(_) => Precision::F16,
        }
    }

    /// The device that computes, where that is not the CPU, with its element type.
    pub fn device(&self) -> Option<String> {
        match &self.kind {
            Kind::Device(on) => Some(on.device.name()),
            _ => None,
        }
    }

    /// Why the CPU computed what a GPU was to compute, in a line, if it did.
    pub fn stand_in(&self) -> Option<&str> {
        self.stand_in.as_deref()
    }

    /// Most pictures that are worth running at a time.
    pub fn batch(&self) -> usize {
        match &self.kind {
            Kind::Device(on) => on.device.batch(),
            _ => 1,
        }
    }

    /// The shape of the input.
    pub fn input_shape(&self) -> Shape {
        with!(&self.kind, plan => plan.input_shape(), on => on.input)
    }

    /// The shape of the result.
    pub fn output_shape(&self) -> Shape {
        with!(&self.kind, plan => plan.output_shape(), on => on.output)
    }

    /// What is computed, step by step.
    pub fn layers(&self) -> &[Layer] {
        with!(&self.kind, plan => plan.layers(), on => &on.layers)
    }

    /// Runs the network on a picture of its size, `[height][width][3]` bytes of red, green, blue.
    ///
    /// # Errors
    /// If the picture has another size.
    pub fn run_rgb(&mut self, rgb: &[u8]) -> Result<&[f32], Error> {
        self.run_batch(&[rgb])
    }

    /// As [`run_rgb`](Self::run_rgb) for several pictures; the results follow each other.
    ///
    /// # Errors
    /// If a picture has another size, or the device fails and the CPU may not stand in.
    pub fn run_batch(&mut self, pictures: &[&[u8]]) -> Result<&[f32], Error> {
        if let Kind::Device(on) = &mut self.kind {
            match (on.device.run(pictures), on.fall_back.take()) {
                (Ok(results), kept) => {
                    on.fall_back = kept;
                    self.batch = results;
                    return Ok(&self.batch);
                }
                (Err(error @ supple_models::Error::WrongInput { .. }), kept) => {
                    on.fall_back = kept;
                    return Err(error.into());
                }
                (Err(error), None) => return Err(error.into()),
                (Err(error), Some((cpu, network, precision))) => {
                    self.stand_in = Some(format!("the GPU failed and the CPU went on: {error}"));
                    self.kind = on_cpu(&cpu, &network, precision)?;
                }
            }
        }
        self.batch.clear();
        for rgb in pictures {
            with!(&mut self.kind, plan => self.batch.extend_from_slice(plan.run_rgb(rgb)?), _on => unreachable!("on the CPU"));
        }
        Ok(&self.batch)
    }

    /// Runs the network on `input`, `[channels][height][width]` and already normalised. On the CPU only.
    ///
    /// # Errors
    /// If the input has another length than its shape, or a GPU runs the network.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        Ok(with!(&mut self.kind, plan => plan.run(input)?, _on => return Err(pictures_only())))
    }

    /// As [`run`](Self::run), and adds the time of each layer to `times`.
    ///
    /// # Errors
    /// If the input has another length than its shape, or a GPU runs the network.
    ///
    /// # Panics
    /// If `times` has another length than [`layers`](Self::layers).
    pub fn run_timed(&mut self, input: &[f32], times: &mut [Duration]) -> Result<&[f32], Error> {
        Ok(with!(&mut self.kind, plan => plan.run_timed(input, times)?, _on => return Err(pictures_only())))
    }
}

fn pictures_only() -> Error {
    Error::BadOption("a GPU takes pictures, and does not tell the time of a layer".into())
}

fn on_cpu(cpu: &Cpu, network: &ConvNet, precision: Precision) -> Result<Kind, Error> {
    #[cfg(feature = "int8")]
    match precision {
        Precision::Int8 if network.quantization.is_none() => {
            return Err(Error::NotQuantized { network: network.name.clone() });
        }
        Precision::Int8 => return Ok(Kind::Int8(Box::new(PlanI8::new(cpu, network)?))),
        // Some files keep a part of the network in real numbers: those are for the other plan.
        Precision::Auto if network.quantization.is_some() => {
            if let Ok(plan) = PlanI8::new(cpu, network) {
                return Ok(Kind::Int8(Box::new(plan)));
            }
        }
        Precision::F16 => return Err(Error::BadOption("16-bit floating point runs on a GPU only".into())),
        Precision::Auto | Precision::F32 | Precision::Fast => {}
    }
    #[cfg(not(feature = "int8"))]
    if matches!(precision, Precision::Int8 | Precision::F16) {
        return Err(Error::BadOption("this program was built without 8-bit integers, and has no GPU here".into()));
    }
    let plan = if precision == Precision::Fast { Plan::fast(cpu, network)? } else { Plan::new(cpu, network)? };
    Ok(Kind::F32(Box::new(plan)))
}

/// The network on the GPU of a choice; none where there is none and none has to be.
fn gpu(network: &ConvNet, precision: Precision, choice: DeviceChoice) -> Result<Option<Box<dyn BatchDevice>>, Error> {
    let Some(device) = compute::placement(choice)?.device else { return Ok(None) };
    #[cfg(feature = "cuda")]
    {
        use supple_tensor::DType;
        let dtype = if precision == Precision::F32 { DType::F32 } else { DType::F16 };
        Ok(Some(Box::new(supple_models::convnet::GpuBatches::new(&device, dtype, network)?)))
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (network, precision, device);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_models::mobilenet;

    /// A device that does as the CPU does, so often, and then fails.
    #[derive(Debug)]
    struct Failing {
        plan: Plan,
        left: usize,
    }

    impl BatchDevice for Failing {
        fn name(&self) -> String {
            "a device that fails".into()
        }
        fn is_f32(&self) -> bool {
            true
        }
        fn batch(&self) -> usize {
            4
        }
        fn run(&mut self, pictures: &[&[u8]]) -> Result<Vec<f32>, supple_models::Error> {
            let lost = supple_tensor::Error::Device { op: "run", detail: "the device is lost" };
            self.left = self.left.checked_sub(1).ok_or(lost)?;
            let mut all = Vec::new();
            for picture in pictures {
                all.extend_from_slice(self.plan.run_rgb(picture)?);
            }
            Ok(all)
        }
    }

    fn engine(left: usize, falls_back: bool) -> Engine {
        let config = mobilenet::Config { width: 0.25, resolution: 32, ..Default::default() };
        let network = mobilenet::v1_random(config, 1).unwrap();
        let cpu = compute::cpu(Some(1)).unwrap();
        let device = Box::new(Failing { plan: Plan::new(&cpu, &network).unwrap(), left });
        let fall_back = falls_back.then(|| (cpu, network.clone(), Precision::Auto));
        Engine::with_device(device, &network, fall_back).unwrap()
    }

    #[test]
    fn the_cpu_goes_on_with_the_same_results_where_it_may_and_says_so_once() {
        let pictures: Vec<Vec<u8>> =
            (0..3).map(|p| (0..32 * 32 * 3).map(|i| (i * 31 + p * 77) as u8).collect()).collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let mut failing = engine(1, true);
        assert_eq!((failing.batch(), failing.device().is_some()), (4, true));
        let before = failing.run_batch(&pictures).unwrap().to_vec();
        assert!(failing.stand_in().is_none());
        let after = failing.run_batch(&pictures).unwrap().to_vec();
        assert_eq!(before, after);
        assert!(failing.stand_in().unwrap().contains("the device is lost"));
        assert_eq!((failing.batch(), failing.device()), (1, None));
    }

    #[test]
    fn a_device_that_was_asked_for_fails_in_the_open() {
        let picture = vec![7; 32 * 32 * 3];
        let mut failing = engine(0, false);
        assert!(failing.run_rgb(&picture).unwrap_err().to_string().contains("the device is lost"));
        assert!(failing.stand_in().is_none() && failing.device().is_some());
        let mut wrong = engine(1, true);
        assert!(wrong.run_rgb(&picture[1..]).is_err() && wrong.device().is_some());
    }
}
