//! Threads that run tiles.
//!
//! The calling thread always takes part, so a pool of `n` threads has `n - 1` workers, and a pool of one has none. Which
//! thread runs which tile is left open; no result depends on it.
//!
//! A launch is over when its tiles are done, whoever did them: it waits for the workers that came, and for no others. Kernels take
//! microseconds, and so does waking a thread; therefore workers look out for the next launch for a while before they sleep. They
//! serve one caller at a time. Others that call meanwhile run their tiles alone, on threads of their own as they are.

use birkhoff_ir::diag::Diagnostic;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A set of threads, shared by cloning.
#[derive(Clone)]
pub struct Pool {
    workers: Option<Arc<Workers>>,
    n_threads: usize,
}

/// Ranges of tiles per thread: enough to even out threads of unequal speed, few enough to keep neighbours together.
const RANGES_PER_THREAD: i64 = 8;
/// How long a worker looks out for the next launch: longer than what a call does between two of them on one thread.
const LOOK_OUT: Duration = Duration::from_micros(100);
/// Pauses of a waiting thread before it lets others have its core.
const PAUSES: u32 = 32;

impl Pool {
    /// A pool in which `n_threads` threads run tiles, the caller included; 0 means one per core.
    ///
    /// Errors: the system refuses to start a thread.
    pub fn new(n_threads: usize) -> Result<Pool, Diagnostic> {
        let n_threads = match n_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            given => given,
        };
        if n_threads == 1 {
            return Ok(Pool { workers: None, n_threads });
        }
        let workers = Workers::start(n_threads - 1)
            .map_err(|error| Diagnostic::device(format!("{n_threads} threads cannot be started: {error}")))?;
        Ok(Pool { workers: Some(Arc::new(workers)), n_threads })
    }

    /// A pool of the calling thread alone.
    pub fn single() -> Pool {
        Pool { workers: None, n_threads: 1 }
    }

    /// Threads that run tiles, the caller included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Runs `body(thread, first, last)` over ranges that make up `0 .. n_tiles`. `thread` is below `n_threads`, and no two
    /// calls with the same one run at a time. Returns when all have.
    pub(crate) fn run(&self, n_tiles: i64, body: &(dyn Fn(usize, i64, i64) + Sync)) {
        let Some(workers) = self.workers.as_ref().filter(|_| n_tiles > 1) else {
            body(0, 0, n_tiles);
            return;
        };
        let n_threads = self.n_threads as i64;
        let range = (n_tiles / n_threads.saturating_mul(RANGES_PER_THREAD)).max(1);
        let n_ranges = n_tiles / range + i64::from(n_tiles % range != 0);
        let next = AtomicI64::new(0);
        let work = |thread: usize| {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                if idx >= n_ranges {
                    return;
                }
                let first = idx * range;
                body(thread, first, n_tiles.min(first.saturating_add(range)));
            }
        };
        workers.launch(&work, (n_ranges - 1).min(n_threads - 1) as usize);
    }
}

/// What the threads of one launch do, given their number.
type Work<'w> = &'w (dyn Fn(usize) + Sync);

/// The threads beside the caller. They end when this is dropped.
struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the caller and the workers share.
struct Shared {
    /// The number of the launch in the upper half; [`OPEN`] while workers may join it; how many have, and are not done.
    state: AtomicU64,
    /// What they do. Written by the caller that has the workers while the launch is closed and nobody is in it.
    work: UnsafeCell<Option<Work<'static>>>,
    /// True while a caller has the workers.
    is_taken: AtomicBool,
    /// What a worker's panic said, for the caller.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that sleep, or are about to and will look at the state once more.
    n_asleep: AtomicUsize,
    /// True when the workers should end. Those that sleep hold this.
    is_over: Mutex<bool>,
    wake: Condvar,
}

/// Set in the state while workers may join the launch.
const OPEN: u64 = 1 << 31;
/// The part of the state that counts workers.
const INSIDE: u64 = OPEN - 1;
/// One more launch.
const NEXT: u64 = 1 << 32;

// SAFETY: `work` is written only by the one caller that took the workers, while no worker is inside, and read only by workers
// inside; joining reads what opening the launch released (`Shared::join`). The rest is shared as its types allow.
unsafe impl Sync for Shared {}

/// A lock that a panic elsewhere does not spoil: what it guards is one value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits a moment for another thread; `n_waits` counts how often.
fn pause(n_waits: &mut u32) {
    *n_waits += 1;
    if n_waits.is_multiple_of(PAUSES) { std::thread::yield_now() } else { std::hint::spin_loop() }
}

impl Workers {
    fn start(n_workers: usize) -> std::io::Result<Workers> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            is_taken: AtomicBool::new(false),
            panic: Mutex::new(None),
            n_asleep: AtomicUsize::new(0),
            is_over: Mutex::new(false),
            wake: Condvar::new(),
        });
        // Those that have started end with it if another cannot.
        let mut workers = Workers { shared, threads: vec![] };
        for thread in 1..=n_workers {
            let shared = workers.shared.clone();
            let builder = std::thread::Builder::new().name(format!("birkhoff-{thread}"));
            workers.threads.push(builder.spawn(move || shared.serve(thread))?);
        }
        Ok(workers)
    }

    /// Runs `work(0)` here and `work(thread)` on the workers that come, of which `n_wanted` are called. Returns when those are
    /// done that came.
    fn launch(&self, work: Work<'_>, n_wanted: usize) {
        let shared = &*self.shared;
        if shared.is_taken.swap(true, Ordering::Acquire) {
            return work(0);
        }
        // SAFETY: workers use the reference inside the launch alone, and this waits for those, however `work` ends.
        let forever: Work<'static> = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: this caller has the workers, and nobody is inside: the last launch was closed and left.
        unsafe { *shared.work.get() = Some(forever) };
        let number = shared.state.load(Ordering::Relaxed) & !(NEXT - 1);
        shared.state.store(number.wrapping_add(NEXT) | OPEN, Ordering::SeqCst);
        let n_asleep = shared.n_asleep.load(Ordering::SeqCst);
        if n_asleep > 0 {
            // Whoever is about to sleep holds the lock until he does.
            drop(lock(&shared.is_over));
            (0..n_wanted.min(n_asleep)).for_each(|_| shared.wake.notify_one());
        }
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        shared.close();
        let others = lock(&shared.panic).take();
        shared.is_taken.store(false, Ordering::Release);
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        *lock(&self.shared.is_over) = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its work.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What the worker `thread` does until the pool ends.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        while self.await_launch(seen) {
            let Some(number) = self.join(seen) else { continue };
            seen = number;
            // SAFETY: this worker is inside, so the caller that wrote it waits, and nobody writes.
            let work = unsafe { *self.work.get() };
            let result = catch_unwind(AssertUnwindSafe(|| work.into_iter().for_each(|work| work(thread))));
            if let Err(panic) = result {
                *lock(&self.panic) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Lets no more workers into the launch, and waits for those inside.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Acquire);
        let mut n_waits = 0;
        while state & INSIDE != 0 {
            pause(&mut n_waits);
            state = self.state.load(Ordering::Acquire);
        }
    }

    /// True if a launch is open that is not the one numbered `seen`.
    fn is_open(&self, seen: u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & OPEN != 0 && state >> 32 != seen
    }

    /// Joins the open launch unless it is the one numbered `seen`; returns its number.
    fn join(&self, seen: u64) -> Option<u64> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 && state >> 32 != seen {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(state >> 32),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Waits for a launch that is not the one numbered `seen`; false if the pool ends.
    fn await_launch(&self, seen: u64) -> bool {
        let (start, mut n_waits) = (Instant::now(), 0);
        while n_waits % PAUSES != 0 || start.elapsed() < LOOK_OUT {
            if self.is_open(seen) {
                return true;
            }
            pause(&mut n_waits);
        }
        let mut is_over = lock(&self.is_over);
        self.n_asleep.fetch_add(1, Ordering::SeqCst);
        while !*is_over && !self.is_open(seen) {
            is_over = self.wake.wait(is_over).unwrap_or_else(PoisonError::into_inner);
        }
        self.n_asleep.fetch_sub(1, Ordering::SeqCst);
        !*is_over
    }
}

impl Default for Pool {
    /// One thread per core; the calling thread alone if no other can be started.
    fn default() -> Pool {
        Pool::new(0).unwrap_or_else(|_| Pool::single())
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool of {} threads", self.n_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_tile_runs_once_and_no_thread_index_twice_at_a_time() {
        for n_threads in [1, 2, 3, 7] {
            let pool = Pool::new(n_threads).unwrap();
            for n_tiles in [0i64, 1, 2, 5, 64, 1001] {
                let seen: Vec<AtomicUsize> = (0..n_tiles).map(|_| AtomicUsize::new(0)).collect();
                let busy: Vec<AtomicUsize> = (0..n_threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_tiles, &|thread, first, last| {
                    assert_eq!(busy[thread].fetch_add(1, Ordering::SeqCst), 0);
                    (first..last).for_each(|tile| {
                        seen[tile as usize].fetch_add(1, Ordering::SeqCst);
                    });
                    busy[thread].fetch_sub(1, Ordering::SeqCst);
                });
                assert!(seen.iter().all(|count| count.load(Ordering::SeqCst) == 1));
            }
        }
    }

    #[test]
    fn launches_in_a_row_and_of_several_callers_see_what_those_before_wrote() {
        let pool = Pool::new(3).unwrap();
        let count_up = |pool: &Pool| {
            let mut values = vec![0u64; 40];
            for round in 0..2000 {
                let start = values.as_mut_ptr() as usize;
                pool.run(40, &|_, first, last| {
                    for tile in first..last {
                        // SAFETY: tiles are places of the vector, and every tile runs once.
                        unsafe { *(start as *mut u64).add(tile as usize) += 1 };
                    }
                });
                assert!(values.iter().all(|value| *value == round + 1));
                if round % 500 == 0 {
                    // Longer than workers look out.
                    std::thread::sleep(2 * LOOK_OUT);
                }
            }
        };
        std::thread::scope(|scope| {
            (0..3).for_each(|_| {
                scope.spawn(|| count_up(&pool));
            });
        });
    }

    #[test]
    fn a_launch_waits_for_the_workers_that_came() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..5 {
            let n_done = AtomicI64::new(0);
            pool.run(16, &|thread, first, last| {
                std::thread::sleep(Duration::from_millis(if thread == 0 { 1 } else { 5 }));
                n_done.fetch_add(last - first, Ordering::SeqCst);
            });
            assert_eq!(n_done.into_inner(), 16);
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|_, first, _| assert_ne!(first, 0));
            }));
            assert!(failed.is_err());
            let n_done = AtomicI64::new(0);
            pool.run(64, &|_, first, last| {
                n_done.fetch_add(last - first, Ordering::SeqCst);
            });
            assert_eq!(n_done.into_inner(), 64);
        }
    }
}
