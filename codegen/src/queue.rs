//! Work on kernels, shared out among threads.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does every job once, on as many threads as there are cores and jobs: each takes the largest that is left. `state` makes what
/// a thread keeps from job to job.
pub(crate) fn largest_first<J: Send, S>(
    jobs: &mut [J],
    size: impl Fn(&J) -> usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut J, &mut S) + Sync,
) {
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let mut queue: Vec<&mut J> = jobs.iter_mut().collect();
    queue.sort_by_key(|job| size(job));
    let queue = Mutex::new(queue);
    let run = || {
        let mut state = state();
        loop {
            // Nothing panics while the queue is locked.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(job) = next else { return };
            work(job, &mut state);
        }
    };
    thread::scope(|scope| {
        (1..n_threads).for_each(|_| {
            scope.spawn(run);
        });
        run();
    });
}
