//! Training super-resolution networks on pictures, and [language models](language) on text; see [`supple_train`] for how.
//!
//! A high-resolution picture is cropped to a multiple of the scale and shrunk as a whole by MATLAB's bicubic on 8 bits, exactly
//! as it is done in evaluation; training pairs are cut from both. Decoded pictures stay in memory as far as allowed.

mod bench;
#[cfg(feature = "text")]
pub mod language;
mod pictures;

use crate::picture::Picture;
use crate::{DeviceChoice, Error, Precision, Upscaler, UpscalerOptions, compute, evaluate};
pub use bench::{Speed, Trial, speed};
use pictures::{Pictures, expand};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use supple_models::Placement;
use supple_tensor::Device;
use supple_train::parallel::{Place, Tcp};
use supple_train::{BoxError, Communicator, Observer, Setup};
pub use supple_train::{Metric, Outcome, Precision as TrainingPrecision, Progress, Recipe, read_metrics};

/// How a run is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on with what the folder holds.
    pub resume: bool,
    /// Threads that compute, and threads that load; all that the machine offers if not given.
    pub threads: Option<usize>,
    /// What computes. Of several processes on a machine each takes the GPU of its number among them.
    pub device: DeviceChoice,
    /// What the network computes in on a GPU, instead of what the recipe says.
    pub precision: Option<TrainingPrecision>,
    /// Tell a GPU every step kernel by kernel, and not once for all.
    pub without_graph: bool,
}

/// What happens while a run goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A step is finished; with the validation PSNR, in dB, if there is one.
    Step(&'a Progress, Option<f64>),
    /// Something that a person should know.
    Note(&'a str),
}

/// The number of this process among those that train together, from 0, and how many there are; the environment tells.
///
/// # Errors
/// If the environment contradicts itself.
pub fn rank() -> Result<(usize, usize), Error> {
    Ok(Place::from_env()?.map_or((0, 1), |place| (place.rank, place.size)))
}

/// Trains as `recipe` says, in `folder`. `watch` hears of every step and of what else happens; `false` from it saves a checkpoint and
/// ends the run. Where the environment says that this is one process of several, they train together; the first alone writes files.
///
/// # Errors
/// If the recipe makes no sense, the folder holds a run already (or none to resume), pictures or files cannot be read or written,
/// another process is gone, or a GPU was asked for and cannot be had.
pub fn run(
    recipe: &Recipe,
    folder: &Path,
    options: Options,
    watch: &mut dyn FnMut(Event<'_>) -> bool,
) -> Result<Outcome, Error> {
    let recipe =
        &options.precision.map_or_else(|| recipe.clone(), |precision| recipe.clone().with_precision(precision));
    let cpu = compute::cpu(options.threads)?;
    let loader_threads = cpu.threads();
    let host = Device::cpu(cpu).map_err(supple_models::Error::from)?;
    let examples = Arc::new(Pictures::new(recipe)?);
    let validate = expand(&recipe.data.validate)?;
    let place = Place::from_env()?;
    let ring = place.as_ref().map(Tcp::new).transpose()?;
    let choice = match (&place, &ring) {
        (Some(place), Some(ring)) => own_device(options.device, place, ring)?,
        _ => options.device,
    };
    let Placement { device, fall_back } = compute::placement(choice)?;
    let team = ring.map(|ring| gathered(ring, device.as_ref())).transpose()?;
    let setup = Setup { graph: !options.without_graph, team };
    let mut observer = Watch { watch, validate, scale: recipe.network.scale, threads: options.threads, psnr: None };
    let on = |device: &Device, resume: bool, observer: &mut Watch<'_>| {
        let options = supple_train::Options { resume, loader_threads };
        supple_train::train_with(recipe, folder, device, examples.clone(), options, &setup, observer)
    };
    let Some(device) = device else {
        if recipe.stages.iter().any(|stage| recipe.precision_of(stage) != TrainingPrecision::F32) {
            observer.note("the CPU computes in f32, whatever the precision");
        }
        return Ok(on(&host, options.resume, &mut observer)?);
    };
    let precision = recipe.stages.iter().map(|stage| recipe.precision_of(stage).to_string()).collect::<Vec<_>>();
    observer.note(&format!("training on {}, {}", device.name(), distinct(precision).join(" and ")));
    match on(&device, options.resume, &mut observer) {
        // The run was begun, and no step taken.
        Err(error) if fall_back && lacks_an_operator(&error) => {
            observer.note(&format!("the GPU cannot train this network ({error}); training on the CPU"));
            Ok(on(&host, true, &mut observer)?)
        }
        outcome => Ok(outcome?),
    }
}

/// What this process of several computes on: the GPU of its number on the machine. All or none do so where nothing was asked for.
fn own_device(choice: DeviceChoice, place: &Place, ring: &Tcp) -> Result<DeviceChoice, Error> {
    let own = DeviceChoice::Cuda(place.local_rank);
    match choice {
        DeviceChoice::Cuda(0) => Ok(own),
        DeviceChoice::Auto => {
            let mut votes = [f32::from(compute::placement(own).is_ok())];
            ring.sum(&mut votes)?;
            Ok(if votes[0] == place.size as f32 { own } else { DeviceChoice::Cpu })
        }
        choice => Ok(choice),
    }
}

/// The processes of a ring; GPUs add up on their own where they can.
fn gathered(ring: Tcp, device: Option<&Device>) -> Result<Arc<dyn Communicator>, Error> {
    #[cfg(feature = "cuda")]
    if let Some(device) = device {
        return Ok(match supple_train::parallel::Gpus::new(ring, device)? {
            Ok(gpus) => Arc::new(gpus),
            // Over the host, then.
            Err(ring) => Arc::new(ring),
        });
    }
    #[cfg(not(feature = "cuda"))]
    let _ = device;
    Ok(Arc::new(ring))
}

/// What differs from what stands before it.
fn distinct(mut values: Vec<String>) -> Vec<String> {
    values.dedup();
    values
}

fn lacks_an_operator(error: &supple_train::Error) -> bool {
    use supple_train::Error::{Model, Tensor};
    let missing = |error: &supple_tensor::Error| matches!(error, supple_tensor::Error::Device { .. });
    match error {
        Tensor(error) | Model(supple_models::Error::Tensor(error)) => missing(error),
        _ => false,
    }
}

/// The curves of a run, of which `path` is the folder or the file of metrics.
///
/// # Errors
/// If there are no metrics, or they cannot be read.
pub fn plot(path: &Path) -> Result<Picture, Error> {
    let path = if path.is_dir() { path.join("metrics.jsonl") } else { path.into() };
    let plot = supple_train::plot(&read_metrics(&path)?)?;
    Picture::from_rgb8(plot.width, plot.height, plot.samples)
}

/// Hands steps on, and validates by the streaming pass, as `supple eval sr` does.
struct Watch<'a> {
    watch: &'a mut dyn FnMut(Event<'_>) -> bool,
    validate: Vec<PathBuf>,
    scale: usize,
    threads: Option<usize>,
    /// Of the step that is about to be reported.
    psnr: Option<f64>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, progress: &Progress) -> bool {
        (self.watch)(Event::Step(progress, self.psnr.take()))
    }

    fn note(&mut self, text: &str) {
        (self.watch)(Event::Note(text));
    }

    fn validate(&mut self, _: &Progress, weights: &Path) -> Result<Option<f64>, BoxError> {
        if self.validate.is_empty() {
            return Ok(None);
        }
        // On the CPU in f32, so that a run's metrics are the same on every machine.
        let (threads, device, precision) = (self.threads, DeviceChoice::Cpu, Precision::F32);
        let options = UpscalerOptions { threads, device, precision, ..UpscalerOptions::default() };
        let upscaler = Upscaler::open_with(weights, options)?;
        let candidate = evaluate::Candidate::Network(&upscaler);
        let found = evaluate::sr(&self.validate, self.scale, candidate, &mut |_| true)?;
        self.psnr = Some(found.mean.psnr_y);
        Ok(self.psnr)
    }
}
