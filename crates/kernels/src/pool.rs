//! A low-latency fork-join thread pool.
//!
//! A parallel region of a small network lasts tens of microseconds, so workers spin for a short while before they
//! sleep, and tasks are handed out by one atomic counter. The calling thread works too: a pool of `n` threads starts
//! `n - 1` workers.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of the spin loop before a worker goes to sleep (some tens of microseconds).
const SPINS: u32 = 20_000;

type Job = dyn Fn(usize, usize) + Sync;

/// A job as workers see it: a borrowed closure whose lifetime has been erased, see `ThreadPool::run`.
#[derive(Clone, Copy)]
struct JobRef(*const Job);

// SAFETY: the closure is `Sync`, and `run` outlives every use of the reference.
unsafe impl Send for JobRef {}

struct Shared {
    /// Counts jobs; a change tells workers that there is a new one.
    epoch: AtomicUsize,
    job: Mutex<(Option<JobRef>, usize)>,
    next: AtomicUsize,
    /// Workers that have not finished the current job yet.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    wake: Condvar,
    wake_lock: Mutex<()>,
}

/// A pool of threads that run one job at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs, so that callers from several threads take turns.
    turn: Mutex<()>,
}

thread_local! {
    /// The worker index of a thread that is inside a job.
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

impl ThreadPool {
    /// A pool of `threads` threads, the calling one included; zero counts as one. Where threads cannot be had, as in
    /// WebAssembly, it is the calling one alone.
    pub fn new(threads: usize) -> ThreadPool {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: Mutex::new((None, 0)),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            wake: Condvar::new(),
            wake_lock: Mutex::new(()),
        });
        // Not left to `spawn` to find out: it calls C functions that a WASI library may lack altogether.
        let threads = if cfg!(all(target_family = "wasm", not(target_feature = "atomics"))) { 1 } else { threads };
        let workers = (1..threads.max(1))
            .filter_map(|i| {
                let shared = shared.clone();
                // A machine that refuses another thread still computes, with fewer.
                std::thread::Builder::new().name(format!("supple-{i}")).spawn(move || work(&shared, i)).ok()
            })
            .collect();
        ThreadPool { shared, workers, turn: Mutex::new(()) }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i, worker)` for `i` in `0..count`, each once, in any order and from any thread, and returns when all
    /// are done. `worker` is below [`threads`](Self::threads) and no two tasks that run at the same time share it, so it
    /// can index scratch memory. A call from inside a task runs on that thread alone.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let inside = WORKER.get();
        if self.workers.is_empty() || count <= 1 || inside.is_some() {
            let worker = inside.unwrap_or(0).min(self.workers.len());
            (0..count).for_each(|i| task(i, worker));
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers use the reference between the epoch's change and their decrement of
        // `busy`, and this function does not return before `busy` is zero.
        let job = JobRef(unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), *const Job>(task) });
        *shared.job.lock().unwrap_or_else(|e| e.into_inner()) = (Some(job), count);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = shared.wake_lock.lock().unwrap_or_else(|e| e.into_inner());
            shared.wake.notify_all();
        }
        WORKER.set(Some(0));
        let own = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drain(shared, task, count, 0)));
        WORKER.set(None);
        let mut spins = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1024) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let others = shared.panicked.swap(false, Ordering::Relaxed);
        drop(turn);
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!others, "a task of the thread pool panicked");
    }

    /// Calls `task(i, chunk)` for each chunk of `chunk_len` items of `items` (the last may be shorter), in parallel.
    pub fn for_each_chunk<T: Send>(&self, items: &mut [T], chunk_len: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        self.for_each_chunk_worker(items, chunk_len, &|i, _, chunk| task(i, chunk));
    }

    /// As [`for_each_chunk`](Self::for_each_chunk); `task(i, worker, chunk)` also gets what indexes scratch memory, see
    /// [`run`](Self::run).
    pub fn for_each_chunk_worker<T: Send>(
        &self,
        items: &mut [T],
        chunk_len: usize,
        task: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    ) {
        let len = items.len();
        if len == 0 {
            return;
        }
        let chunk_len = chunk_len.max(1);
        let base = SendPtr(items.as_mut_ptr());
        self.run(len.div_ceil(chunk_len), &|i, worker| {
            let start = i * chunk_len;
            let end = (start + chunk_len).min(len);
            // SAFETY: chunks of different `i` do not overlap, lie inside `items`, and `run` calls each `i` once.
            let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), end - start) };
            task(i, worker, chunk);
        });
    }
}

fn drain(shared: &Shared, task: &(dyn Fn(usize, usize) + Sync), count: usize, worker: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= count {
            return;
        }
        task(i, worker);
    }
}

fn work(shared: &Shared, worker: usize) {
    WORKER.set(Some(worker));
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Relaxed) {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let guard = shared.wake_lock.lock().unwrap_or_else(|e| e.into_inner());
            shared.sleepers.fetch_add(1, Ordering::SeqCst);
            // The caller changes the epoch first and reads `sleepers` after; here it is the other way round, so one of
            // the two sees the other.
            let idle = || shared.epoch.load(Ordering::SeqCst) == seen && !shared.stop.load(Ordering::SeqCst);
            drop(shared.wake.wait_while(guard, |()| idle()));
            shared.sleepers.fetch_sub(1, Ordering::SeqCst);
            spins = 0;
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        let (job, count) = *shared.job.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(JobRef(job)) = job {
            let run = || {
                // SAFETY: `run` keeps the closure alive until `busy` is zero, and this worker has yet to decrement it.
                drain(shared, unsafe { &*job }, count, worker)
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.wake_lock.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

/// A pointer that tasks on several threads use for disjoint parts of one buffer.
#[derive(Debug)]
pub(crate) struct SendPtr<T>(pub(crate) *mut T);

impl<T> Clone for SendPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The pointer. (A method, so that closures capture the wrapper and not the bare pointer.)
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

// SAFETY: whoever shares the pointer promises disjoint access, at each use.
unsafe impl<T: Send> Send for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SendPtr<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once() {
        let pool = ThreadPool::new(4);
        for count in [0, 1, 2, 3, 100] {
            for _ in 0..200 {
                let hits: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                pool.run(count, &|i, worker| {
                    assert!(worker < 4);
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn workers_wake_after_sleeping() {
        let pool = ThreadPool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.run(10, &|i, _| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn nested_calls_and_panics_do_not_hang() {
        let pool = ThreadPool::new(3);
        let sum = AtomicUsize::new(0);
        pool.run(4, &|_, _| {
            pool.run(5, &|i, _| {
                sum.fetch_add(i, Ordering::Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), 40);
        if cfg!(panic = "abort") {
            println!("skipped: panics cannot be caught here");
            return;
        }
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(8, &|i, _| assert!(i != 5, "on purpose"));
        }));
        assert!(caught.is_err());
        pool.run(2, &|_, _| {});
    }

    #[test]
    fn there_are_as_many_threads_as_the_target_has() {
        let can_spawn = !cfg!(target_family = "wasm");
        for asked in [0, 1, 3] {
            assert_eq!(ThreadPool::new(asked).threads(), if can_spawn { asked.max(1) } else { 1 });
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = ThreadPool::new(3);
        let mut items = vec![0usize; 103];
        pool.for_each_chunk(&mut items, 10, &|i, chunk| chunk.fill(i));
        assert!(items.iter().enumerate().all(|(j, &v)| v == j / 10));
    }
}
