//! Training super-resolution networks on pictures; see [`supple_train`] for how.
//!
//! A high-resolution picture is cropped to a multiple of the scale and shrunk as a whole by MATLAB's bicubic on 8 bits, exactly
//! as it is done in evaluation; training pairs are cut from both. Decoded pictures stay in memory as far as allowed.

use crate::picture::{self, Limits, Picture};
use crate::resample::matlab::imresize;
use crate::resample::{Filter, resize};
use crate::{Cpu, DeviceChoice, Error, Isa, Precision, Upscaler, UpscalerOptions, compress, compute, evaluate};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use supple_models::Placement;
use supple_tensor::{Device, Random};
use supple_train::parallel::{Place, Tcp};
use supple_train::{BoxError, Communicator, Example, Examples, Observer, Setup};
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
    let place = Place::from_env()?;
    let cpu = compute::cpu(options.threads)?;
    let loader_threads = cpu.threads();
    let host = Device::cpu(cpu).map_err(supple_models::Error::from)?;
    let choice = match (options.device, &place) {
        (DeviceChoice::Cuda(0), Some(place)) => DeviceChoice::Cuda(place.local_rank),
        (choice, _) => choice,
    };
    // Of several processes none may end up elsewhere than the others.
    let choice = if place.is_some() && choice == DeviceChoice::Auto { DeviceChoice::Cpu } else { choice };
    let Placement { device, fall_back } = compute::placement(choice)?;
    let examples = Arc::new(Pictures::new(recipe)?);
    let validate = expand(&recipe.data.validate)?;
    let team = place.as_ref().map(Tcp::new).transpose()?;
    let setup = Setup { graph: !options.without_graph, team: team.map(|team| Arc::new(team) as Arc<dyn Communicator>) };
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

/// Files, and pictures of folders, in the order of names.
fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        // Now, and not after the first thousand steps.
        std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        let found = match path.is_dir() {
            true => compress::calibration_pictures(path, usize::MAX)?,
            false => vec![path.clone()],
        };
        if found.is_empty() {
            return Err(Error::BadOption(format!("{}: no pictures in this folder", path.display())));
        }
        files.extend(found);
    }
    Ok(files)
}

/// A picture in both resolutions, interleaved 8-bit samples.
struct Pair {
    high: Vec<u8>,
    width: usize,
    low: Vec<u8>,
    low_width: usize,
    low_height: usize,
}

impl Pair {
    fn open(path: &Path, scale: usize, shrink: usize) -> Result<Pair, Error> {
        let mut picture = picture::open_with(path, &Limits::default())?.picture;
        if shrink > 1 {
            let (width, height) = (picture.width() / shrink, picture.height() / shrink);
            // One thread: loaders are many.
            picture = resize(&picture, width, height, Filter::Area, &Cpu::new(Isa::Scalar, 1));
        }
        let (width, height) = (picture.width() / scale * scale, picture.height() / scale * scale);
        if width.min(height) == 0 {
            return Err(Error::BadOption(format!("{}: too small to train on", path.display())));
        }
        let high = picture.crop(0, 0, width, height).to_rgb8();
        let (low, low_width, low_height) = imresize(&high, width, height, 3, 1.0 / scale as f64);
        Ok(Pair { high, width, low, low_width, low_height })
    }

    fn bytes(&self) -> usize {
        self.high.len() + self.low.len()
    }
}

/// Training pairs cut from picture files.
struct Pictures {
    files: Vec<PathBuf>,
    scale: usize,
    shrink: usize,
    cache: Mutex<Cache>,
}

/// Decoded pictures by number, and bytes that are left for more.
struct Cache {
    pairs: HashMap<usize, Arc<Pair>>,
    left: usize,
}

impl Pictures {
    fn new(recipe: &Recipe) -> Result<Pictures, Error> {
        let files = expand(&recipe.data.train)?;
        let cache = Cache { pairs: HashMap::new(), left: recipe.data.cache_mib.saturating_mul(1 << 20) };
        let (scale, shrink) = (recipe.network.scale, recipe.data.shrink);
        Ok(Pictures { files, scale, shrink, cache: Mutex::new(cache) })
    }

    fn pair(&self, number: usize) -> Result<Arc<Pair>, Error> {
        // Nothing panics while it is held.
        let lock = || self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pair) = lock().pairs.get(&number) {
            return Ok(pair.clone());
        }
        let pair = Arc::new(Pair::open(&self.files[number], self.scale, self.shrink)?);
        let mut cache = lock();
        if let Some(left) = cache.left.checked_sub(pair.bytes()).filter(|_| !cache.pairs.contains_key(&number)) {
            cache.left = left;
            cache.pairs.insert(number, pair.clone());
        }
        Ok(pair)
    }
}

impl Examples for Pictures {
    fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError> {
        let [low, high] = self.bytes(patch, random)?;
        let floats = |samples: Vec<u8>| samples.into_iter().map(|v| f32::from(v) / 255.0).collect();
        Ok(Example { low: floats(low), high: floats(high) })
    }

    fn has_bytes(&self) -> bool {
        true
    }

    fn bytes(&self, patch: usize, random: &mut Random) -> Result<[Vec<u8>; 2], BoxError> {
        let number = random.below(self.files.len());
        let pair = self.pair(number)?;
        let side = patch / self.scale;
        if pair.low_width.min(pair.low_height) < side {
            let name = self.files[number].display();
            let height = pair.low_height * self.scale;
            return Err(format!("{name}: {}x{height} pixels are fewer than a patch of {patch}", pair.width).into());
        }
        let (x, y) = (random.below(pair.low_width - side + 1), random.below(pair.low_height - side + 1));
        let cut = |samples: &[u8], width: usize, factor: usize| -> Vec<u8> {
            let (x, y, side) = (x * factor, y * factor, side * factor);
            let mut patch = Vec::with_capacity(side * side * 3);
            (y..y + side).for_each(|y| patch.extend_from_slice(&samples[(y * width + x) * 3..][..side * 3]));
            patch
        };
        Ok([cut(&pair.low, pair.low_width, 1), cut(&pair.high, pair.width, self.scale)])
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_cut_at_the_same_place() {
        let folder = tempfile::tempdir().expect("a folder");
        // A ramp: the bicubic of a linear function is that function, away from the borders.
        let (width, height) = (60, 46);
        let ramp = (0..width * height).flat_map(|i| [(i % width * 4) as u8, (i / width * 4) as u8, 100]).collect();
        Picture::from_rgb8(width, height, ramp).unwrap().save(folder.path().join("ramp.png")).unwrap();
        let text = format!(
            "[network]\nkind = 'rlfn_tiny'\nscale = 2\n[data]\ntrain = ['{}']\n\
             [[stage]]\nsteps = 1\nbatch = 1\npatch = 32\nlearning_rate = 1.0\nloss = [{{ kind = 'l1' }}]",
            folder.path().display()
        );
        let pictures = Pictures::new(&Recipe::parse("test", &text).unwrap()).unwrap();
        for seed in 0..20 {
            let example = pictures.example(16, &mut Random::new(seed)).unwrap();
            assert_eq!((example.low.len(), example.high.len()), (8 * 8 * 3, 16 * 16 * 3));
            for (y, x) in [(3, 3), (4, 5)] {
                for c in 0..3 {
                    let at = |y: usize, x: usize| example.high[(y * 16 + x) * 3 + c];
                    let mean =
                        (at(2 * y, 2 * x) + at(2 * y + 1, 2 * x) + at(2 * y, 2 * x + 1) + at(2 * y + 1, 2 * x + 1))
                            / 4.0;
                    assert!((example.low[(y * 8 + x) * 3 + c] - mean).abs() < 1.5 / 255.0, "seed {seed}");
                }
            }
        }
        let halved = Pair::open(&folder.path().join("ramp.png"), 2, 2).unwrap();
        assert_eq!((halved.width, halved.low_width, halved.low_height), (30, 15, 11));
        let error = pictures.example(64, &mut Random::new(0)).unwrap_err().to_string();
        assert!(error.contains("ramp.png: 60x46") && error.contains("patch of 64"), "{error}");
    }
}
