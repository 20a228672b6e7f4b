//! Threads that run tiles.
//!
//! The calling thread always takes part, so a pool of `n` threads has `n - 1` workers, and a pool of one has none. Which
//! thread runs which tile is left open; no result depends on it.

use birkhoff_ir::diag::Diagnostic;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

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
        let n_helpers = (n_ranges - 1).min(n_threads - 1) as usize;
        workers.in_place_scope(|scope| {
            let work = &work;
            for thread in 1..=n_helpers {
                scope.spawn(move |_| work(thread));
            }
            work(0);
        });
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
}
