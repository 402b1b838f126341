//! Enlarging pictures by a network's own factor.
//!
//! A network goes down the picture once for each window of columns and hands out finished rows, which are converted to
//! samples at once: no floating-point copy of the picture exists at any time. How many windows there are depends on the
//! memory that may be used; the result does not.
//!
//! * **Grey** pictures run as red = green = blue and come back as the mean of the three.
//! * **Alpha** is enlarged by Lanczos; the network sees colours that run on under what is transparent, so edges have no
//!   fringes.
//! * **16 bits** stay 16 bits.
//! * **Small** pictures are padded by repeating their edges, and cropped.

mod bleed;
mod canvas;
mod network;
mod options;
mod output;
mod progress;
mod windows;

pub use options::UpscalerOptions;
pub use progress::Progress;

use crate::picture::{Color, Picture, Samples};
use crate::{Cpu, Error, compute, memory, models};
use bleed::Bleed;
use canvas::{Canvas, Turn};
use network::Origin;
use output::{Output, Sums};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use supple_models::{Rgb, RgbMut, SuperResolution};
use supple_weights::Weights;
use windows::Cut;

/// A network with its weights, ready to enlarge pictures. Cheap to clone; clones share weights and threads.
#[derive(Clone)]
pub struct Upscaler {
    network: Arc<dyn SuperResolution>,
    origin: Origin,
    cpu: Cpu,
    options: UpscalerOptions,
}

impl Upscaler {
    /// The bundled network for a scale of 2, 3 or 4.
    ///
    /// # Errors
    /// If there is none for this scale.
    pub fn bundled(scale: usize) -> Result<Upscaler, Error> {
        Upscaler::bundled_with(scale, UpscalerOptions::default())
    }

    /// As [`Upscaler::bundled`], with options.
    ///
    /// # Errors
    /// If there is none for this scale, or an option makes no sense.
    pub fn bundled_with(scale: usize, options: UpscalerOptions) -> Result<Upscaler, Error> {
        let found = models::bundled(scale).ok_or_else(|| Error::UnknownModel {
            name: format!("bundled x{scale}"),
            known: models::BUNDLED_SCALES.iter().map(|s| format!("rlfn_s_x{s}")).collect(),
        });
        Upscaler::load(Origin::Bundled(found?.0), options)
    }

    /// The bundled network of a name that [`models::catalogue`] lists.
    ///
    /// # Errors
    /// If there is none of this name, or an option makes no sense.
    pub fn bundled_named(name: &'static str, options: UpscalerOptions) -> Result<Upscaler, Error> {
        Upscaler::load(Origin::Bundled(name), options)
    }

    /// A network from a `.safetensors` or `.pth` file.
    ///
    /// # Errors
    /// If the file cannot be read or holds no network known here.
    pub fn open(path: impl AsRef<Path>) -> Result<Upscaler, Error> {
        Upscaler::open_with(path, UpscalerOptions::default())
    }

    /// As [`Upscaler::open`], with options.
    ///
    /// # Errors
    /// If the file cannot be read or holds no network known here, or an option makes no sense.
    pub fn open_with(path: impl AsRef<Path>, options: UpscalerOptions) -> Result<Upscaler, Error> {
        Upscaler::load(Origin::File(path.as_ref().into()), options)
    }

    /// A network from the bytes of a `.safetensors` or `.pth` file; `name` is what errors call it. As the bytes are not
    /// kept, the network keeps its precision.
    ///
    /// # Errors
    /// If the bytes hold no network known here, or an option makes no sense.
    pub fn from_bytes(name: &str, bytes: Vec<u8>, options: UpscalerOptions) -> Result<Upscaler, Error> {
        let cpu = options.cpu()?;
        let weights = Weights::from_bytes(name, bytes).map_err(supple_models::Error::from)?;
        let placement = compute::placement(options.device)?;
        let network = supple_models::load_on(&cpu, &placement, &weights, options.precision)?.into();
        Ok(Upscaler { network, origin: Origin::Given, cpu, options })
    }

    /// A network that exists already.
    ///
    /// # Errors
    /// If `SUPPLE_ISA` asks for what this CPU lacks.
    pub fn from_network(network: Box<dyn SuperResolution>) -> Result<Upscaler, Error> {
        let options = UpscalerOptions::default();
        Ok(Upscaler { network: network.into(), origin: Origin::Given, cpu: options.cpu()?, options })
    }

    fn load(origin: Origin, options: UpscalerOptions) -> Result<Upscaler, Error> {
        let cpu = options.cpu()?;
        let network = network::load(&cpu, &origin, options.precision, options.device)?.into();
        Ok(Upscaler { network, origin, cpu, options })
    }

    /// The same network with other options. A network given to [`Upscaler::from_network`] keeps its precision.
    ///
    /// # Errors
    /// If the weights cannot be read again for another precision, or an option makes no sense.
    pub fn with_options(mut self, options: UpscalerOptions) -> Result<Upscaler, Error> {
        if options.threads != self.options.threads {
            self.cpu = options.cpu()?;
        }
        let same = (options.precision, options.device) == (self.options.precision, self.options.device);
        if !same && self.origin != Origin::Given {
            self.network = network::load(&self.cpu, &self.origin, options.precision, options.device)?.into();
        }
        self.options = options;
        Ok(self)
    }

    /// Output pixels along a side of an input pixel.
    pub fn scale(&self) -> usize {
        self.network.scale()
    }

    /// Architecture of the network, such as `RLFN_S`.
    pub fn name(&self) -> &str {
        self.network.name()
    }

    /// The network itself.
    pub fn network(&self) -> &dyn SuperResolution {
        &*self.network
    }

    /// Instruction set and threads in use.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The options in use.
    pub fn options(&self) -> &UpscalerOptions {
        &self.options
    }

    /// Why the CPU computed something that a GPU was to compute, in a line; none if it did not, or there is no GPU.
    pub fn stand_in(&self) -> Option<String> {
        self.network.stand_in().or_else(|| compute::unused_gpu(self.options.device))
    }

    /// The picture [`scale`](Upscaler::scale) times as wide and high.
    ///
    /// # Errors
    /// If the result would not fit into memory or the network produces NaN.
    pub fn upscale(&self, picture: &Picture) -> Result<Picture, Error> {
        self.upscale_with(picture, &mut |_| true)
    }

    /// As [`Upscaler::upscale`], and reports progress now and then; `false` from `progress` cancels.
    ///
    /// # Errors
    /// As [`Upscaler::upscale`], and [`Error::Cancelled`].
    pub fn upscale_with(
        &self,
        picture: &Picture,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Picture, Error> {
        self.upscale_part(picture, 0..picture.width(), progress)
    }

    /// Ranges of columns that up to `parts` workers may enlarge each by itself, by [`Upscaler::upscale_columns`], in about
    /// the same time. They cover a picture of `width` columns from left to right. There are fewer where another would save
    /// next to nothing: a network also looks at what lies beside its columns.
    pub fn split(&self, width: usize, parts: usize) -> Vec<Range<usize>> {
        windows::split(&*self.network, width, parts)
    }

    /// What [`Upscaler::upscale_with`] gives, bit for bit, of some columns of the picture: a picture of
    /// `columns.len() * scale` by `height * scale`.
    ///
    /// # Errors
    /// As [`Upscaler::upscale_with`]; if the picture has no such columns; with `tta` and `wrap`.
    pub fn upscale_columns(
        &self,
        picture: &Picture,
        columns: Range<usize>,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Picture, Error> {
        if columns.is_empty() || columns.end > picture.width() {
            let width = picture.width();
            return Err(Error::BadOption(format!("columns {columns:?} of a picture of {width} columns")));
        }
        if self.options.tta || self.options.wrap {
            return Err(Error::BadOption("columns by themselves are possible without tta and wrap only".into()));
        }
        self.upscale_part(picture, columns, progress)
    }

    /// All columns, or without `tta` and `wrap` some.
    fn upscale_part(
        &self,
        picture: &Picture,
        columns: Range<usize>,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Picture, Error> {
        let scale = self.scale();
        let budget = self.budget(picture, columns.len())?;
        if columns.len() == picture.width()
            && let Some(result) = self.by_device(picture, progress)
        {
            return result;
        }
        let bleed = (!picture.is_opaque()).then(|| Bleed::new(picture));
        let margin = self.options.wrap.then(|| self.wrap_margin());
        let canvas = Canvas::new(picture, bleed.as_ref(), self.network.min_side(), margin);
        let mut output = Output::new(&canvas, picture, columns.clone(), scale);
        // With padding, all of it.
        let part = if columns.len() == picture.width() { 0..canvas.size().0 } else { columns.clone() };
        let turns: Vec<Turn> = if self.options.tta { Turn::all().collect() } else { vec![Turn::default()] };
        let mut meter = Meter::new(turns.len(), (part.len(), canvas.size().1), progress);
        if !meter.report() {
            return Err(Error::Cancelled);
        }
        if !self.options.tta {
            self.pass(&canvas, turns[0], part, budget, &mut meter, &mut |event| match event {
                Event::Window => output.start_window(),
                Event::Row(y, x, rgb) => output.put(y, x, rgb),
            })?;
        } else {
            let mut sums = Sums::new(canvas.size(), scale, picture.depth());
            for &turn in &turns {
                let all = 0..canvas.turned_size(turn).0;
                self.pass(&canvas, turn, all, budget, &mut meter, &mut |event| {
                    if let Event::Row(y, x, rgb) = event {
                        sums.add(turn, y, x, rgb);
                    }
                })?;
            }
            let mut row = Vec::new();
            output.start_window();
            for y in 0..sums.rows() {
                sums.mean_row(y, turns.len(), &mut row);
                output.put(y, 0, &row);
            }
        }
        Ok(picture.like(columns.len() * scale, picture.height() * scale, output.samples))
    }

    /// Enlarges on a device from samples to samples; none for pictures that want more than the network alone, or where no device
    /// does that.
    fn by_device(
        &self,
        picture: &Picture,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Option<Result<Picture, Error>> {
        let (width, height, scale) = (picture.width(), picture.height(), self.scale());
        let plain = picture.color() == Color::Rgb && !picture.has_alpha() && !self.options.tta && !self.options.wrap;
        if !plain || !self.network.holds_whole_pictures() || width.min(height) < self.network.min_side() {
            return None;
        }
        let pixels_total = (width * height) as u64;
        if !progress(Progress { pixels_done: 0, pixels_total }) {
            return Some(Err(Error::Cancelled));
        }
        let mut samples = Samples::zeroed(picture.depth(), picture.samples().len() * scale * scale);
        let (from, to) = match (picture.samples(), &mut samples) {
            (Samples::Eight(from), Samples::Eight(to)) => (Rgb::Eight(from), RgbMut::Eight(to)),
            (Samples::Sixteen(from), Samples::Sixteen(to)) => (Rgb::Sixteen(from), RgbMut::Sixteen(to)),
            _ => unreachable!("samples were made alike"),
        };
        let enlarged = match self.network.enlarge([height, width], from, to)? {
            Ok(enlarged) => enlarged,
            Err(error) => return Some(Err(error.into())),
        };
        if let Some(row) = enlarged.bad_row {
            return Some(Err(Error::NotFinite { network: self.name().into(), row }));
        }
        if !progress(Progress { pixels_done: pixels_total, pixels_total }) {
            return Some(Err(Error::Cancelled));
        }
        Some(Ok(picture.like(width * scale, height * scale, samples)))
    }

    /// Runs the network over all windows of a part of a turned canvas.
    fn pass(
        &self,
        canvas: &Canvas<'_>,
        turn: Turn,
        part: Range<usize>,
        budget: u64,
        meter: &mut Meter<'_>,
        deliver: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let scale = self.scale();
        for Cut { core, window } in
            windows::plan(&*self.network, &self.cpu, canvas.turned_size(turn), part, budget, self.options.tile)
        {
            let columns = window.columns.clone();
            let keep = (core.start - columns.start) * scale * 3..(core.end - columns.start) * scale * 3;
            let (mut bad_row, mut going) = (None, true);
            deliver(Event::Window);
            let mut sink = |y: usize, row: &[f32]| {
                let row = &row[keep.clone()];
                if row.iter().fold(false, |bad, v| bad | !v.is_finite()) {
                    bad_row = Some(y);
                    return false;
                }
                deliver(Event::Row(y, core.start * scale, row));
                if (y + 1).is_multiple_of(scale) {
                    meter.progress.pixels_done += core.len() as u64;
                    going = meter.report();
                }
                going
            };
            let mut source = |y: usize, row: &mut [f32]| canvas.rgb_row(turn, y, columns.clone(), row);
            self.network.run(&self.cpu, &window, &mut source, &mut sink)?;
            if let Some(row) = bad_row {
                return Err(Error::NotFinite { network: self.name().into(), row });
            }
            if !going {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// Bytes left for the network when the picture and `columns` of the result have theirs.
    fn budget(&self, picture: &Picture, columns: usize) -> Result<u64, Error> {
        let scale = self.scale() as u64;
        let input = picture.bytes() as u64;
        let pixels = (columns * picture.height()) as u64;
        let part = input.saturating_mul(columns as u64) / picture.width() as u64;
        let wide = if picture.depth() == crate::picture::Depth::Eight { 2 } else { 4 };
        let sums = if self.options.tta { pixels.saturating_mul(3 * wide) } else { 0 };
        let needed = part.saturating_add(sums).saturating_mul(scale * scale).saturating_add(input);
        let limit = memory::total();
        if needed > limit {
            let what = format!("the result of {}x{} pixels", columns as u64 * scale, picture.height() as u64 * scale);
            return Err(Error::TooMuchMemory { what, needed, limit });
        }
        Ok(match self.options.max_memory {
            Some(allowed) => allowed.saturating_sub(needed).max(LEAST_BUDGET),
            None => (limit / 4).min(USUAL_MEMORY).saturating_sub(needed).max(USUAL_BUDGET.min(limit / 4)),
        })
    }

    /// Pixels of the opposite edge around a picture that is to be tiled.
    fn wrap_margin(&self) -> usize {
        self.network.halo().clamp(16, 64).next_multiple_of(self.network.alignment().max(1))
    }
}

/// What pictures and network take together if the caller does not say, so that an 8K frame doubles within 1.5 GiB. More
/// would save no time: strips this wide lose less than a tenth to their overlap.
const USUAL_MEMORY: u64 = 1408 << 20;

/// What the network gets at least if the caller does not say.
const USUAL_BUDGET: u64 = 512 << 20;

/// A network gets at least this many bytes, however large the pictures are.
const LEAST_BUDGET: u64 = 128 << 20;

impl fmt::Debug for Upscaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upscaler({} x{}, {:?})", self.name(), self.scale(), self.options)
    }
}

/// What a pass tells.
enum Event<'a> {
    /// The first row follows, of this or the next window.
    Window,
    /// Row, first column, and red, green, blue of the columns from there on.
    Row(usize, usize, &'a [f32]),
}

/// Counts pixels and tells the caller.
struct Meter<'a> {
    progress: Progress,
    tell: &'a mut dyn FnMut(Progress) -> bool,
}

impl<'a> Meter<'a> {
    fn new(passes: usize, size: (usize, usize), tell: &'a mut dyn FnMut(Progress) -> bool) -> Meter<'a> {
        let pixels_total = (passes * size.0 * size.1) as u64;
        Meter { progress: Progress { pixels_done: 0, pixels_total }, tell }
    }

    fn report(&mut self) -> bool {
        (self.tell)(self.progress)
    }
}
