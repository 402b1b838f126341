//! Batches, made on threads ahead of the device.
//!
//! Batch `i` depends on the seed and on `i` alone, so that it does not matter which thread makes it or where a run was
//! interrupted. Batches are handed out in order.

use crate::Error;
use crate::error::BoxError;
use std::collections::BTreeMap;
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
}

/// Examples side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    examples: usize,
    sides: [usize; 2],
    low: Vec<f32>,
    high: Vec<f32>,
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
    /// Batch number `step`.
    fn batch(&self, examples: &dyn Examples, step: usize) -> Result<Batch, BoxError> {
        let sides = [self.patch / self.scale.max(1), self.patch];
        let mut batch = Batch { examples: self.batch, sides, low: Vec::new(), high: Vec::new() };
        for i in 0..self.batch {
            let mut random = self.random.part(step as u64).part(i as u64);
            let example = examples.example(self.patch, &mut random)?;
            if [example.low.len(), example.high.len()] != sides.map(|side| side * side * 3) {
                return Err(format!("an example of another size than {} pixels a side", self.patch).into());
            }
            let turn = random.below(8);
            turned(&example.low, sides[0], turn, &mut batch.low);
            turned(&example.high, sides[1], turn, &mut batch.high);
        }
        Ok(batch)
    }
}

/// Appends a square picture, mirrored and turned in one of eight ways.
fn turned(picture: &[f32], side: usize, turn: usize, out: &mut Vec<f32>) {
    out.reserve(picture.len());
    for y in 0..side {
        for x in 0..side {
            let (mut a, mut b) = (y, x);
            if turn & 1 != 0 {
                a = side - 1 - a;
            }
            if turn & 2 != 0 {
                b = side - 1 - b;
            }
            if turn & 4 != 0 {
                (a, b) = (b, a);
            }
            out.extend_from_slice(&picture[(a * side + b) * 3..][..3]);
        }
    }
}

struct State {
    /// The next batch that no thread has begun.
    next: usize,
    /// The next batch that will be taken.
    wanted: usize,
    ready: BTreeMap<usize, Result<Batch, BoxError>>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Threads that make batches.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts `threads` threads, at least one, which stay two batches each ahead.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub fn new(examples: Arc<dyn Examples>, plan: Plan, threads: usize) -> Result<Loader, Error> {
        let (first, ahead) = (plan.steps.start, 2 * threads.max(1));
        let state = State { next: first, wanted: first, ready: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut loader = Loader { shared: shared.clone(), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let (shared, examples, plan) = (shared.clone(), examples.clone(), plan.clone());
            let thread = std::thread::Builder::new().name(format!("supple-load-{i}"));
            let work = move || make(&shared, &*examples, &plan, ahead);
            loader.threads.push(thread.spawn(work).map_err(Error::io("threads", "start"))?);
        }
        Ok(loader)
    }

    /// The next batch.
    ///
    /// # Errors
    /// If it could not be made.
    pub fn next_batch(&mut self) -> Result<Batch, Error> {
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

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn make(shared: &Shared, examples: &dyn Examples, plan: &Plan, ahead: usize) {
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
        let batch = catch_unwind(AssertUnwindSafe(|| plan.batch(examples, step)));
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
