//! A super-resolution network on a device that holds whole pictures, with the CPU behind it.
//!
//! [`PictureDevice`] is what such a device does; [`OnDevice`] is what becomes of it: pictures that exceed its memory are cut into
//! bands where the network allows that exactly, and where the CPU may stand in, it does what the device cannot, and says why.

#[cfg(feature = "cuda")]
mod gpu;

#[cfg(feature = "cuda")]
pub(crate) use gpu::Gpu;

use crate::{Error, Sink, Source, SuperResolution, Window};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use supple_tensor::Cpu;

/// A picture's red, green, blue, row by row without gaps.
#[derive(Clone, Copy, Debug)]
pub enum Rgb<'a> {
    /// 255 stands for 1.
    Eight(&'a [u8]),
    /// 65535 stands for 1.
    Sixteen(&'a [u16]),
    /// 0..1; of a result, not clamped.
    Floats(&'a [f32]),
}

/// As [`Rgb`], to be written.
#[derive(Debug)]
pub enum RgbMut<'a> {
    /// 255 stands for 1.
    Eight(&'a mut [u8]),
    /// 65535 stands for 1.
    Sixteen(&'a mut [u16]),
    /// Not clamped.
    Floats(&'a mut [f32]),
}

/// Where the time of a picture went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// From the host to the device.
    pub upload: Duration,
    /// On the device.
    pub run: Duration,
    /// And back.
    pub download: Duration,
}

impl Stages {
    /// Adds the time of another picture.
    pub fn add(&mut self, other: Stages) {
        self.upload += other.upload;
        self.run += other.run;
        self.download += other.download;
    }
}

/// A picture that a device has enlarged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enlarged {
    /// Where the time went.
    pub stages: Stages,
    /// The first row of the result with a value that is no finite number.
    pub bad_row: Option<usize>,
}

/// Why a device did not enlarge a picture.
#[derive(Debug)]
pub enum DeviceError {
    /// Its memory does not hold the picture.
    Exhausted(Error),
    /// It failed, and is not asked again.
    Failed(Error),
}

/// A device that enlarges whole pictures.
pub trait PictureDevice: Send + Sync {
    /// The device and its element type: such as `NVIDIA H100, f16`.
    fn name(&self) -> String;

    /// Enlarges a picture of `size`, height and width; `from` and `to` are of one type.
    ///
    /// # Errors
    /// If its memory does not hold the picture, or it fails.
    fn enlarge(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Result<Enlarged, DeviceError>;
}

/// A sample of a picture.
trait Sample: Copy + Default {
    fn rgb(samples: &[Self]) -> Rgb<'_>;
    fn rgb_mut(samples: &mut [Self]) -> RgbMut<'_>;
}

macro_rules! sample {
    ($sample:ty, $kind:ident) => {
        impl Sample for $sample {
            fn rgb(samples: &[$sample]) -> Rgb<'_> {
                Rgb::$kind(samples)
            }
            fn rgb_mut(samples: &mut [$sample]) -> RgbMut<'_> {
                RgbMut::$kind(samples)
            }
        }
    };
}
sample!(u8, Eight);
sample!(u16, Sixteen);
sample!(f32, Floats);

/// A network on a device.
pub struct OnDevice {
    cpu: Box<dyn SuperResolution>,
    device: Box<dyn PictureDevice>,
    /// Whether the CPU stands in when the device cannot.
    fall_back: bool,
    /// Whether a row depends on rows up to [`SuperResolution::halo`] away only.
    bands: bool,
    /// Pictures of this many pixels did not fit.
    too_large: AtomicUsize,
    /// Why the CPU stands in.
    stand_in: Mutex<StandIn>,
    /// Where the time of all pictures went.
    stages: Mutex<Stages>,
}

#[derive(Debug, Default)]
struct StandIn {
    reason: Option<String>,
    /// Whether the device is not asked any more.
    lost: bool,
}

impl OnDevice {
    /// The network that `cpu` is too, on `device`. If `fall_back`, the CPU does what the device cannot; if `bands`, a row of the
    /// result depends on rows up to the network's halo away only.
    pub fn new(
        cpu: Box<dyn SuperResolution>,
        device: Box<dyn PictureDevice>,
        fall_back: bool,
        bands: bool,
    ) -> OnDevice {
        let too_large = AtomicUsize::new(usize::MAX);
        OnDevice { cpu, device, fall_back, bands, too_large, stand_in: Mutex::default(), stages: Mutex::default() }
    }

    fn is_lost(&self) -> bool {
        self.stand_in.lock().unwrap_or_else(PoisonError::into_inner).lost
    }

    fn tell(&self, reason: String, lost: bool) {
        let mut stand_in = self.stand_in.lock().unwrap_or_else(PoisonError::into_inner);
        stand_in.lost |= lost;
        stand_in.reason.get_or_insert(reason);
    }

    /// Enlarges by the device, whole or in bands; none where the CPU is to do it.
    fn on_device(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Option<Result<Enlarged, Error>> {
        let pixels = size[0].saturating_mul(size[1]);
        if self.fall_back && (self.is_lost() || pixels >= self.too_large.load(Ordering::Relaxed)) {
            return None;
        }
        let result = match (from, to) {
            (Rgb::Eight(from), RgbMut::Eight(to)) => self.in_bands(size, from, to),
            (Rgb::Sixteen(from), RgbMut::Sixteen(to)) => self.in_bands(size, from, to),
            (Rgb::Floats(from), RgbMut::Floats(to)) => self.in_bands(size, from, to),
            _ => return None,
        };
        match result {
            Ok(enlarged) => {
                self.stages.lock().unwrap_or_else(PoisonError::into_inner).add(enlarged.stages);
                Some(Ok(enlarged))
            }
            Err(DeviceError::Exhausted(error)) if self.fall_back => {
                self.too_large.fetch_min(pixels, Ordering::Relaxed);
                self.tell(format!("{}x{} pixels went to the CPU: {error}", size[1], size[0]), false);
                None
            }
            Err(DeviceError::Failed(error)) if self.fall_back => {
                self.tell(format!("the GPU failed and the CPU went on: {error}"), true);
                None
            }
            Err(DeviceError::Exhausted(error) | DeviceError::Failed(error)) => Some(Err(error)),
        }
    }

    /// In one piece, or in twice as many bands as before until they fit.
    fn in_bands<T: Sample>(
        &self,
        size @ [height, width]: [usize; 2],
        from: &[T],
        to: &mut [T],
    ) -> Result<Enlarged, DeviceError> {
        let mut exhausted = match self.device.enlarge(size, T::rgb(from), T::rgb_mut(to)) {
            Err(DeviceError::Exhausted(error)) if self.bands => error,
            result => return result,
        };
        let (scale, halo, step) = (self.scale(), self.halo(), self.alignment().max(1));
        let (row, large_row) = (width * 3, width * 3 * scale * scale);
        let mut bands = 2;
        'fewer: loop {
            let core = height.div_ceil(bands).next_multiple_of(step);
            if core < halo || core >= height {
                return Err(DeviceError::Exhausted(exhausted));
            }
            let mut all = Enlarged::default();
            let mut large = Vec::new();
            for start in (0..height).step_by(core) {
                let end = (start + core).min(height);
                let seen = start.saturating_sub(halo) / step * step..(end + halo).min(height);
                large.resize(seen.len() * large_row, T::default());
                let part = &from[seen.start * row..seen.end * row];
                let band = match self.device.enlarge([seen.len(), width], T::rgb(part), T::rgb_mut(&mut large)) {
                    Ok(band) => band,
                    Err(DeviceError::Exhausted(error)) => {
                        exhausted = error;
                        bands *= 2;
                        continue 'fewer;
                    }
                    Err(failed) => return Err(failed),
                };
                let kept = &large[(start - seen.start) * large_row..(end - seen.start) * large_row];
                to[start * large_row..end * large_row].copy_from_slice(kept);
                all.stages.add(band.stages);
                let bad = band.bad_row.map(|bad| bad + seen.start * scale);
                all.bad_row = all.bad_row.or(bad);
            }
            return Ok(all);
        }
    }
}

impl SuperResolution for OnDevice {
    fn name(&self) -> &str {
        self.cpu.name()
    }

    fn device(&self) -> Option<String> {
        Some(self.device.name())
    }

    fn stand_in(&self) -> Option<String> {
        self.stand_in.lock().unwrap_or_else(PoisonError::into_inner).reason.clone()
    }

    fn stages(&self) -> Option<Stages> {
        Some(*self.stages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enlarge(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Option<Result<Enlarged, Error>> {
        let [height, width] = size;
        if let Err(error) = Window::whole(width, height).check(self) {
            return Some(Err(error));
        }
        self.on_device(size, from, to)
    }

    fn holds_whole_pictures(&self) -> bool {
        !self.is_lost()
    }

    fn scale(&self) -> usize {
        self.cpu.scale()
    }

    fn parameters(&self) -> (usize, usize) {
        self.cpu.parameters()
    }

    fn macs(&self, width: usize, height: usize) -> u64 {
        self.cpu.macs(width, height)
    }

    fn min_side(&self) -> usize {
        self.cpu.min_side()
    }

    fn halo(&self) -> usize {
        self.cpu.halo()
    }

    fn alignment(&self) -> usize {
        self.cpu.alignment()
    }

    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize {
        self.cpu.working_memory(cpu, window)
    }

    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        window.check(self)?;
        if window.columns_len() < window.width || (self.fall_back && self.is_lost()) {
            return self.cpu.run(cpu, window, source, sink);
        }
        let (row, scale) = (window.width * 3, self.scale());
        // The source hands out each row once, so the picture is kept for the CPU.
        let mut values = vec![0.0; window.height * row];
        values.chunks_exact_mut(row).enumerate().for_each(|(y, row)| source(y, row));
        let mut large = vec![0.0; values.len() * scale * scale];
        match self.on_device([window.height, window.width], Rgb::Floats(&values), RgbMut::Floats(&mut large)) {
            Some(result) => drop(result?),
            None => {
                let mut source = |y: usize, to: &mut [f32]| to.copy_from_slice(&values[y * row..][..row]);
                return self.cpu.run(cpu, window, &mut source, sink);
            }
        }
        for (y, row) in large.chunks_exact(row * scale).enumerate() {
            if !sink(y, row) {
                break;
            }
        }
        Ok(())
    }
}

/// A network that the CPU runs because the device could not be had.
pub(crate) struct StandsIn {
    cpu: Box<dyn SuperResolution>,
    reason: String,
}

impl StandsIn {
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no device to stand in for"))]
    pub(crate) fn new(cpu: Box<dyn SuperResolution>, reason: String) -> StandsIn {
        StandsIn { cpu, reason }
    }
}

impl SuperResolution for StandsIn {
    fn name(&self) -> &str {
        self.cpu.name()
    }
    fn stand_in(&self) -> Option<String> {
        Some(self.reason.clone())
    }
    fn scale(&self) -> usize {
        self.cpu.scale()
    }
    fn parameters(&self) -> (usize, usize) {
        self.cpu.parameters()
    }
    fn macs(&self, width: usize, height: usize) -> u64 {
        self.cpu.macs(width, height)
    }
    fn min_side(&self) -> usize {
        self.cpu.min_side()
    }
    fn halo(&self) -> usize {
        self.cpu.halo()
    }
    fn alignment(&self) -> usize {
        self.cpu.alignment()
    }
    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize {
        self.cpu.working_memory(cpu, window)
    }
    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        self.cpu.run(cpu, window, source, sink)
    }
}

#[cfg(test)]
mod tests;
