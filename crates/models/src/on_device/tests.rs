//! What becomes of devices that fail, on one that copies pixels.

use super::*;
use std::sync::atomic::AtomicBool;
use supple_tensor::Isa;

const SCALE: usize = 2;
const HALO: usize = 8;

/// Repeats each pixel, adding what the rows above and below within the halo weigh.
fn enlarge(size: [usize; 2], from: &[f32]) -> Vec<f32> {
    let [height, width] = size;
    let sum = |y: usize| -> f32 {
        (y.saturating_sub(HALO)..(y + HALO + 1).min(height)).map(|near| from[near * width * 3]).sum()
    };
    let sums: Vec<f32> = (0..height).map(sum).collect();
    let value = |y: usize, i: usize| from[(y / SCALE * width + i / 3 / SCALE) * 3 + i % 3] + sums[y / SCALE];
    (0..height * SCALE).flat_map(|y| (0..width * SCALE * 3).map(move |i| (y, i))).map(|(y, i)| value(y, i)).collect()
}

struct Copies;

impl SuperResolution for Copies {
    fn name(&self) -> &str {
        "copies"
    }
    fn scale(&self) -> usize {
        SCALE
    }
    fn parameters(&self) -> (usize, usize) {
        (0, 0)
    }
    fn macs(&self, _: usize, _: usize) -> u64 {
        0
    }
    fn min_side(&self) -> usize {
        2
    }
    fn halo(&self) -> usize {
        HALO
    }
    fn alignment(&self) -> usize {
        4
    }
    fn working_memory(&self, _: &Cpu, _: &Window) -> usize {
        0
    }
    fn run(&self, _: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        let row = window.width * 3;
        let mut values = vec![0.0; window.height * row];
        values.chunks_exact_mut(row).enumerate().for_each(|(y, row)| source(y, row));
        let large = enlarge([window.height, window.width], &values);
        large.chunks_exact(row * SCALE).enumerate().all(|(y, row)| sink(y, row));
        Ok(())
    }
}

/// A device that holds `rows` rows, and is lost after `left` pictures.
struct Fake {
    rows: usize,
    left: AtomicUsize,
    asked: AtomicUsize,
    finite: AtomicBool,
}

fn failure(detail: &'static str) -> Error {
    supple_tensor::Error::Device { op: "enlarge", detail }.into()
}

impl PictureDevice for &'static Fake {
    fn name(&self) -> String {
        "a fake".into()
    }

    fn enlarge(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Result<Enlarged, DeviceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if size[0] > self.rows {
            return Err(DeviceError::Exhausted(failure("no memory is left")));
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.left.store(0, Ordering::Relaxed);
            return Err(DeviceError::Failed(failure("the device is lost")));
        }
        let (Rgb::Floats(from), RgbMut::Floats(to)) = (from, to) else { unreachable!("these tests are of floats") };
        to.copy_from_slice(&enlarge(size, from));
        let run = Duration::from_millis(1);
        let bad_row = (!self.finite.load(Ordering::Relaxed)).then_some(3);
        Ok(Enlarged { stages: Stages { run, ..Stages::default() }, bad_row })
    }
}

fn fake(rows: usize, left: usize) -> &'static Fake {
    let (left, asked, finite) = (AtomicUsize::new(left), AtomicUsize::new(0), AtomicBool::new(true));
    Box::leak(Box::new(Fake { rows, left, asked, finite }))
}

fn on(device: &'static Fake, fall_back: bool, bands: bool) -> OnDevice {
    OnDevice::new(Box::new(Copies), Box::new(device), fall_back, bands)
}

/// Runs a picture of so many rows, by rows as a pass does, and compares with the truth.
fn run(network: &OnDevice, height: usize) -> Result<bool, Error> {
    let width = 6;
    let values: Vec<f32> = (0..height * width * 3).map(|i| (i * 37 % 101) as f32).collect();
    let wanted = enlarge([height, width], &values);
    let mut found = Vec::new();
    let mut source = |y: usize, row: &mut [f32]| row.copy_from_slice(&values[y * width * 3..][..width * 3]);
    let mut sink = |_: usize, row: &[f32]| {
        found.extend_from_slice(row);
        true
    };
    network.run(&Cpu::new(Isa::Scalar, 1), &Window::whole(width, height), &mut source, &mut sink)?;
    Ok(found == wanted)
}

#[test]
fn a_device_that_works_leaves_nothing_to_say() {
    let network = on(fake(1000, 1000), true, false);
    assert!(run(&network, 40).unwrap());
    assert_eq!((network.stand_in(), network.holds_whole_pictures()), (None, true));
    assert_eq!(network.stages().unwrap().run, Duration::from_millis(1));
}

#[test]
fn a_picture_that_does_not_fit_goes_in_bands_with_the_same_result() {
    let device = fake(45, 1000);
    let network = on(device, false, true);
    for height in [46, 64, 97, 100, 161] {
        assert!(run(&network, height).unwrap(), "{height}");
    }
    assert_eq!(network.stand_in(), None);
    // Bands below the halo do not help.
    let error = run(&on(fake(12, 1000), false, true), 64).unwrap_err();
    assert!(error.to_string().contains("no memory is left"), "{error}");
}

#[test]
fn the_cpu_takes_what_does_not_fit_and_the_device_is_asked_for_smaller_ones_again() {
    let device = fake(45, 1000);
    let network = on(device, true, false);
    assert!(run(&network, 60).unwrap() && run(&network, 70).unwrap());
    assert_eq!(device.asked.load(Ordering::Relaxed), 1, "what is larger than what did not fit does not fit");
    assert!(run(&network, 40).unwrap());
    assert_eq!(device.asked.load(Ordering::Relaxed), 2);
    let reason = network.stand_in().unwrap();
    assert!(reason.contains("6x60") && reason.contains("no memory is left") && !reason.contains('\n'), "{reason}");
    assert!(network.holds_whole_pictures());
}

#[test]
fn the_cpu_goes_on_when_the_device_is_lost_between_pictures_and_says_so_once() {
    let device = fake(1000, 2);
    let network = on(device, true, true);
    for _ in 0..5 {
        assert!(run(&network, 40).unwrap());
    }
    assert_eq!(device.asked.load(Ordering::Relaxed), 3, "a lost device is not asked again");
    assert!(network.stand_in().unwrap().contains("the device is lost"));
    // Windows are possible again.
    assert!(!network.holds_whole_pictures());
}

#[test]
fn a_device_that_was_asked_for_fails_in_the_open() {
    let network = on(fake(1000, 1), false, true);
    assert!(run(&network, 40).unwrap());
    let error = run(&network, 40).unwrap_err();
    assert!(error.to_string().contains("the device is lost"), "{error}");
    let error = run(&on(fake(45, 1000), false, false), 60).unwrap_err();
    assert!(error.to_string().contains("no memory is left"), "{error}");
    assert_eq!(network.stand_in(), None);
}

#[test]
fn a_device_lost_between_bands_leaves_the_whole_picture_to_the_cpu() {
    let network = on(fake(45, 1), true, true);
    assert!(run(&network, 100).unwrap());
    assert!(network.stand_in().unwrap().contains("the device is lost"));
}

#[test]
fn rows_that_are_no_numbers_are_told_where_they_lie() {
    let device = fake(45, 1000);
    device.finite.store(false, Ordering::Relaxed);
    let network = on(device, false, true);
    let (from, mut to) = (vec![0.0; 64 * 6 * 3], vec![0.0; 64 * 6 * 3 * SCALE * SCALE]);
    let enlarged = network.enlarge([64, 6], Rgb::Floats(&from), RgbMut::Floats(&mut to)).unwrap().unwrap();
    assert_eq!(enlarged.bad_row, Some(3));
}
