//! Batches, made on threads ahead of the device.
//!
//! Batch `i` depends on the seed and on `i` alone, so that it does not matter which thread makes it or where a run was
//! interrupted. Batches are handed out in order.

use crate::Error;
use crate::error::BoxError;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use supple_tensor::{Device, Random, Tensor};

/// A pair of square pictures, interleaved red green blue in 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What the network gets, `patch / scale` pixels a side.
    pub low: Vec<f32>,
    /// What it should give, `patch` pixels a side.
    pub high: Vec<f32>,
}

/// Where examples come from.
pub trait Examples: Send + Sync {
    /// A random example with a high-resolution side of `patch`. All of its choices are drawn from `random`.
    ///
    /// # Errors
    /// If it cannot be had, for example because a file cannot be read.
    fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError>;

    /// Whether examples are of 8 bits, so that [`bytes`](Self::bytes) has them.
    fn has_bytes(&self) -> bool {
        false
    }

    /// Low and high resolution of the same example in 8 bits, `v` for `v / 255`: a quarter of the memory, and of the way to a
    /// GPU.
    ///
    /// # Errors
    /// As [`example`](Self::example), or if there are none of 8 bits.
    fn bytes(&self, patch: usize, random: &mut Random) -> Result<[Vec<u8>; 2], BoxError> {
        let _ = (patch, random);
        Err("these examples have no samples of 8 bits".into())
    }
}

/// A sample of an example.
pub trait Sample: bytemuck::Pod + Send + Sync {
    /// Low and high resolution of a random example.
    ///
    /// # Errors
    /// If it cannot be had.
    fn example(examples: &dyn Examples, patch: usize, random: &mut Random) -> Result<[Vec<Self>; 2], BoxError>;
}

impl Sample for f32 {
    fn example(examples: &dyn Examples, patch: usize, random: &mut Random) -> Result<[Vec<f32>; 2], BoxError> {
        let Example { low, high } = examples.example(patch, random)?;
        Ok([low, high])
    }
}

impl Sample for u8 {
    fn example(examples: &dyn Examples, patch: usize, random: &mut Random) -> Result<[Vec<u8>; 2], BoxError> {
        examples.bytes(patch, random)
    }
}

/// Examples side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<T = f32> {
    examples: usize,
    sides: [usize; 2],
    low: Vec<T>,
    high: Vec<T>,
}

impl<T: Sample> Batch<T> {
    /// Samples of low and of high resolution, picture by picture.
    pub fn samples(&self) -> [&[u8]; 2] {
        [bytemuck::cast_slice(&self.low), bytemuck::cast_slice(&self.high)]
    }
}

impl Batch {
    /// Low and high resolution as images `[n, h, w, 3]`.
    ///
    /// # Errors
    /// If they do not fit the memory.
    pub fn tensors(&self, device: &Device) -> Result<[Tensor; 2], Error> {
        let image =
            |values: &[f32], side: usize| Tensor::from_slice(device, values, &[self.examples, side, side, 3])?.padded();
        Ok([image(&self.low, self.sides[0])?, image(&self.high, self.sides[1])?])
    }
}

/// Which batches a loader makes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Examples in a batch.
    pub batch: usize,
    /// Side of the high-resolution pictures, a multiple of the scale.
    pub patch: usize,
    /// High-resolution pixels along a side of a low-resolution one.
    pub scale: usize,
    /// The first and the last batch, exclusive.
    pub steps: std::ops::Range<usize>,
    /// What all choices are drawn from.
    pub random: Random,
}

impl Plan {
    /// Examples `share` of batch number `step`.
    fn batch<T: Sample>(
        &self,
        examples: &dyn Examples,
        step: usize,
        share: Range<usize>,
    ) -> Result<Batch<T>, BoxError> {
        let sides = [self.patch / self.scale.max(1), self.patch];
        let sizes = sides.map(|side| side * side * 3);
        let [low, high] = sizes.map(|size| Vec::with_capacity(share.len() * size));
        let mut batch = Batch { examples: share.len(), sides, low, high };
        for i in share {
            let mut random = self.random.part(step as u64).part(i as u64);
            let [low, high] = T::example(examples, self.patch, &mut random)?;
            if [low.len(), high.len()] != sizes {
                return Err(format!("an example of another size than {} pixels a side", self.patch).into());
            }
            let turn = random.below(8);
            turned(&low, sides[0], turn, &mut batch.low);
            turned(&high, sides[1], turn, &mut batch.high);
        }
        Ok(batch)
    }
}

/// Appends a square picture, mirrored and turned in one of eight ways.
fn turned<T: Copy>(picture: &[T], side: usize, turn: usize, out: &mut Vec<T>) {
    let mirrored = |flag: usize, i: usize| if turn & flag != 0 { side - 1 - i } else { i };
    for y in 0..side {
        if turn & 4 == 0 {
            let row = &picture[mirrored(1, y) * side * 3..][..side * 3];
            match turn & 2 {
                0 => out.extend_from_slice(row),
                _ => out.extend(row.chunks_exact(3).rev().flatten()),
            }
        } else {
            // Columns become rows.
            let column = mirrored(2, y) * 3;
            for x in 0..side {
                out.extend_from_slice(&picture[mirrored(1, x) * side * 3 + column..][..3]);
            }
        }
    }
}

struct State<T> {
    /// The next batch that no thread has begun.
    next: usize,
    /// The next batch that will be taken.
    wanted: usize,
    ready: BTreeMap<usize, Result<Batch<T>, BoxError>>,
    stop: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is whole between any two statements.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Threads that make batches.
pub struct Loader<T = f32> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts `threads` threads, at least one, which stay two batches each ahead.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub fn new(examples: Arc<dyn Examples>, plan: Plan, threads: usize) -> Result<Loader, Error> {
        let share = 0..plan.batch;
        Loader::share(examples, plan, threads, share)
    }

    /// As [`new`](Self::new), with examples `share` of each batch alone: what a process draws of the batch of many.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn share(
        examples: Arc<dyn Examples>,
        plan: Plan,
        threads: usize,
        share: Range<usize>,
    ) -> Result<Loader, Error> {
        Loader::start(examples, plan, threads, share)
    }
}

impl Loader<u8> {
    /// As [`Loader::share`], in 8 bits.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn bytes(
        examples: Arc<dyn Examples>,
        plan: Plan,
        threads: usize,
        share: Range<usize>,
    ) -> Result<Loader<u8>, Error> {
        Loader::start(examples, plan, threads, share)
    }
}

impl<T: Sample> Loader<T> {
    fn start(examples: Arc<dyn Examples>, plan: Plan, threads: usize, share: Range<usize>) -> Result<Loader<T>, Error> {
        let (first, ahead) = (plan.steps.start, 2 * threads.max(1));
        let state = State { next: first, wanted: first, ready: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut loader = Loader { shared: shared.clone(), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let (shared, examples, plan, share) = (shared.clone(), examples.clone(), plan.clone(), share.clone());
            let thread = std::thread::Builder::new().name(format!("supple-load-{i}"));
            let work = move || make(&shared, &*examples, &plan, &share, ahead);
            loader.threads.push(thread.spawn(work).map_err(Error::io("threads", "start"))?);
        }
        Ok(loader)
    }

    /// The next batch.
    ///
    /// # Errors
    /// If it could not be made.
    pub fn next_batch(&mut self) -> Result<Batch<T>, Error> {
        let mut state = self.shared.lock();
        loop {
            let wanted = state.wanted;
            if let Some(batch) = state.ready.remove(&wanted) {
                state.wanted += 1;
                self.shared.changed.notify_all();
                return batch.map_err(Error::Examples);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn make<T: Sample>(shared: &Shared<T>, examples: &dyn Examples, plan: &Plan, share: &Range<usize>, ahead: usize) {
    loop {
        let step = {
            let mut state = shared.lock();
            loop {
                if state.stop || state.next >= plan.steps.end {
                    return;
                }
                if state.next < state.wanted + ahead {
                    break;
                }
                state = shared.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            state.next += 1;
            state.next - 1
        };
        // A panic here would leave the taker waiting for ever.
        let batch = catch_unwind(AssertUnwindSafe(|| plan.batch(examples, step, share.clone())));
        let batch = batch.unwrap_or_else(|_| Err("the reader of examples panicked".into()));
        shared.lock().ready.insert(step, batch);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples that tell which numbers were drawn, and fail or panic at will.
    struct Noise {
        broken: Option<&'static str>,
    }

    impl Examples for Noise {
        fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError> {
            match self.broken {
                Some("panic") => panic!("on purpose"),
                Some(problem) => return Err(problem.into()),
                None => {}
            }
            let low = random.uniform(patch / 2 * (patch / 2) * 3, 1.0);
            // Some take longer than others.
            std::thread::sleep(std::time::Duration::from_millis(random.below(4) as u64));
            let high = (0..patch * patch * 3)
                .map(|i| low[i / 3 / patch / 2 * (patch / 2) * 3 + i / 3 % patch / 2 * 3 + i % 3]);
            Ok(Example { high: high.collect(), low })
        }
    }

    fn plan(steps: std::ops::Range<usize>) -> Plan {
        Plan { batch: 3, patch: 8, scale: 2, steps, random: Random::new(5) }
    }

    fn batches(steps: std::ops::Range<usize>, threads: usize) -> Vec<Batch> {
        let count = steps.len();
        let mut loader = Loader::new(Arc::new(Noise { broken: None }), plan(steps), threads).unwrap();
        (0..count).map(|_| loader.next_batch().unwrap()).collect()
    }

    #[test]
    fn batches_come_in_order_whatever_makes_them_and_from_anywhere_on() {
        let all = batches(0..20, 1);
        assert!((1..20).all(|i| all[i] != all[i - 1]));
        assert_eq!(all, batches(0..20, 4));
        assert_eq!(all[7..], batches(7..20, 3));
    }

    #[test]
    fn both_pictures_are_turned_alike() {
        for batch in batches(0..8, 2) {
            for (i, value) in batch.high.iter().enumerate() {
                let (pixel, c, image) = (i / 3 % 64, i % 3, i / 192);
                let (y, x) = (pixel / 8, pixel % 8);
                assert_eq!(*value, batch.low[image * 48 + (y / 2 * 4 + x / 2) * 3 + c]);
            }
        }
    }

    #[test]
    fn what_goes_wrong_arrives_as_an_error() {
        for problem in ["disk", "panic"] {
            let mut loader = Loader::new(Arc::new(Noise { broken: Some(problem) }), plan(0..9), 2).unwrap();
            let error = loader.next_batch().unwrap_err().to_string();
            assert!(error.contains("training data") && error.contains(problem), "{error}");
        }
    }
}
