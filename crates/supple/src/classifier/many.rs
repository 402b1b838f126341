//! Many pictures: some threads read and prepare, one runs the network.
//!
//! Reading a photograph takes longer than classifying it, so that a network on all threads would mostly wait. Results
//! come in the order of the pictures.

use super::{Classifier, Input, Prediction};
use crate::Error;
use crate::picture::Picture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Most pictures that are read at a time. Each may be large.
pub const READERS: usize = 4;

impl Classifier {
    /// Classifies `count` pictures. `read(i)` gives picture `i`, on one of up to [`READERS`] threads; `each(i, result)`
    /// is told the `top` most probable names of each, in order, and its `false` stops the work.
    ///
    /// Errors, whether of `read` or of the network, cost one picture only.
    pub fn classify_many<E: From<Error> + Send>(
        &mut self,
        count: usize,
        top: usize,
        read: &(dyn Fn(usize) -> Result<Picture, E> + Sync),
        each: &mut dyn FnMut(usize, Result<Vec<Prediction>, E>) -> bool,
    ) {
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let input = self.input;
        let (batch, threads) = (self.engine.batch(), self.cpu.threads());
        // A GPU wants a batch at a time, and leaves the threads to the readers.
        let readers = count.min(if batch > 1 { threads } else { READERS.min(threads) });
        std::thread::scope(|scope| {
            let (sender, prepared) = mpsc::sync_channel(batch);
            for _ in 0..readers {
                let (sender, next, stopped) = (sender.clone(), &next, &stopped);
                scope.spawn(move || prepare_all(&input, count, read, next, stopped, &sender));
            }
            drop(sender);
            // Results that came before one of an earlier picture.
            let (mut early, mut turn) = (BTreeMap::new(), 0);
            'work: while let Ok(first) = prepared.recv() {
                // As many as are there.
                let mut indices = Vec::new();
                let mut pictures = Vec::new();
                for (index, bytes) in std::iter::once(first).chain(prepared.try_iter()).take(batch) {
                    let bytes: Result<Vec<u8>, E> = bytes;
                    match bytes {
                        Ok(rgb) => {
                            indices.push(index);
                            pictures.push(rgb);
                        }
                        Err(error) => drop(early.insert(index, Err(error))),
                    }
                }
                let results = self.classify_each(&pictures, top);
                early.extend(indices.into_iter().zip(results.into_iter().map(|result| result.map_err(E::from))));
                while let Some(result) = early.remove(&turn) {
                    if !each(turn, result) {
                        break 'work;
                    }
                    turn += 1;
                }
            }
            stopped.store(true, Ordering::Relaxed);
            // Readers that wait to hand over a picture see that nobody takes it.
            drop(prepared);
        });
    }
}

impl Classifier {
    /// The result of each picture; an error of the whole batch is found again picture by picture.
    fn classify_each(&mut self, pictures: &[Vec<u8>], top: usize) -> Vec<Result<Vec<Prediction>, Error>> {
        let all: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        match self.classify_batch(&all, top) {
            Ok(results) => results,
            Err(_) => all.iter().map(|rgb| self.classify_prepared(rgb, top)).collect(),
        }
    }
}

fn prepare_all<E>(
    input: &Input,
    count: usize,
    read: &(dyn Fn(usize) -> Result<Picture, E> + Sync),
    next: &AtomicUsize,
    stopped: &AtomicBool,
    sender: &mpsc::SyncSender<(usize, Result<Vec<u8>, E>)>,
) {
    while !stopped.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= count || sender.send((index, read(index).map(|picture| input.prepare(&picture)))).is_err() {
            return;
        }
    }
}
