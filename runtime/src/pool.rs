//! Threads that run tiles.
//!
//! The calling thread always takes part, so a pool of `n` threads has `n - 1` workers, and a pool of one has none. Which
//! thread runs which tile is left open; no result depends on it.
//!
//! A launch is over when its tiles are done, whoever did them: it waits for the workers that came, and for no others. Kernels take
//! microseconds, and so does waking a thread.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::div_ceil;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A set of threads, shared by cloning.
#[derive(Clone)]
pub struct Pool {
    workers: Option<Arc<rayon::ThreadPool>>,
    n_threads: usize,
}

/// Ranges of tiles per thread: enough to even out threads of unequal speed, few enough to keep neighbours together.
const RANGES_PER_THREAD: i64 = 8;

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
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads - 1)
            .thread_name(|idx| format!("birkhoff-{}", idx + 1))
            .build()
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
        let n_ranges = div_ceil(n_tiles, range);
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
        let launch = Arc::new(Launch::new(&work));
        let open = Open(&launch);
        for thread in 1..=(n_ranges - 1).min(n_threads - 1) as usize {
            let launch = launch.clone();
            workers.spawn(move || launch.help(thread));
        }
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        drop(open);
        if let Some(panic) = own.err().or_else(|| launch.take_panic()) {
            resume_unwind(panic);
        }
    }
}

/// What the threads of one launch do, given their number.
type Work = dyn Fn(usize) + Sync;

/// A launch that workers may join until it is closed. Those that come later leave it alone.
struct Launch {
    /// [`OPEN`] while workers may join; how many have, and are not done.
    state: AtomicUsize,
    /// Alive until the launch is closed and left.
    work: *const Work,
    /// What a worker's panic said, for the caller.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Set in the state while workers may join.
const OPEN: usize = 1 << (usize::BITS - 1);
/// Pauses of a waiting thread before it lets others have its core.
const PAUSES: u32 = 32;

// SAFETY: what `work` points to may be called by any thread; that it is alive then is said at the call. The rest is shared as its
// types allow.
unsafe impl Send for Launch {}
// SAFETY: as above.
unsafe impl Sync for Launch {}

impl Launch {
    /// A launch of `work`, which must be closed before that ends.
    fn new<'w>(work: &'w (dyn Fn(usize) + Sync + 'w)) -> Launch {
        let work: *const (dyn Fn(usize) + Sync + 'w) = work;
        // SAFETY: only the lifetime changes, which a pointer promises nothing about.
        let work = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'w), *const Work>(work) };
        Launch { state: AtomicUsize::new(OPEN), work, panic: Mutex::new(None) }
    }

    /// Takes part as number `thread`, unless the launch is closed.
    fn help(&self, thread: usize) {
        let joined = |state: usize| (state & OPEN != 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, joined).is_err() {
            return;
        }
        // SAFETY: this thread is inside, and the caller, to whom it belongs, does not go on before it has left.
        let work = unsafe { &*self.work };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(thread))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.state.fetch_sub(1, Ordering::Release);
    }

    /// Lets no more workers in, and waits for those inside.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Acquire) & !OPEN;
        let mut n_waits = 0u32;
        while state != 0 {
            n_waits = n_waits.wrapping_add(1);
            if n_waits.is_multiple_of(PAUSES) {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.state.load(Ordering::Acquire);
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A launch that is closed when this is dropped, whatever happens.
struct Open<'l>(&'l Launch);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close();
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
    use std::time::Duration;

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
                    // Workers fall asleep meanwhile.
                    std::thread::sleep(Duration::from_millis(5));
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
