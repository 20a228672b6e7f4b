//! One thread beside this one, for work whose result is wanted later.
//!
//! In: jobs. Out: their results. Whoever waits for a result does jobs that nobody has begun, so a machine that has no time for
//! a second thread loses nothing but the time to start it. What jobs compute does not depend on who does them.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

type Job<'env> = Box<dyn FnOnce() + Send + 'env>;

/// Jobs for two threads, which may borrow what lives for `'env`.
#[derive(Default)]
pub struct Desk<'env> {
    state: Mutex<State<'env>>,
    /// A job was put, one was done, or the desk closed.
    changed: Condvar,
}

#[derive(Default)]
struct State<'env> {
    jobs: VecDeque<Job<'env>>,
    is_closed: bool,
}

/// The result of a job, or its panic.
pub struct Pending<T>(Arc<Mutex<Option<thread::Result<T>>>>);

/// Runs `work` with a desk and a second thread at it.
pub fn with_desk<'env, T>(work: impl FnOnce(&Desk<'env>) -> T) -> T {
    let desk = Desk::default();
    thread::scope(|scope| {
        scope.spawn(|| desk.serve());
        let _closed = Closing(&desk);
        work(&desk)
    })
}

/// Sends the second thread home, even if this one panics.
struct Closing<'d, 'env>(&'d Desk<'env>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl<'env> Desk<'env> {
    fn lock(&self) -> MutexGuard<'_, State<'env>> {
        // Jobs run outside the lock and panics are caught: the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job.
    pub fn put<T: Send + 'env>(&self, job: impl FnOnce() -> T + Send + 'env) -> Pending<T> {
        let result = Arc::new(Mutex::new(None));
        let place = result.clone();
        self.lock().jobs.push_back(Box::new(move || {
            let outcome: Result<T, Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(job));
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }));
        self.changed.notify_all();
        Pending(result)
    }

    /// The result of a job; until it is there, other jobs are done here. Panics if the job did.
    pub fn wait<T>(&self, pending: &Pending<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = pending.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return outcome.unwrap_or_else(|panic| resume_unwind(panic));
            }
            state = match state.jobs.pop_front() {
                Some(job) => {
                    drop(state);
                    job();
                    self.lock()
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn serve(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            state = match state.jobs.pop_front() {
                Some(job) => {
                    drop(state);
                    job();
                    // Under the lock, or it could fall between the look at a result and the wait for it.
                    let state = self.lock();
                    self.changed.notify_all();
                    state
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;

    #[test]
    fn results_come_whoever_does_the_jobs() {
        let numbers: Vec<u64> = (0..100).collect();
        let sums = with_desk(|desk| {
            let jobs: Vec<Pending<u64>> = (0..100)
                .map(|n| {
                    desk.put({
                        let numbers = &numbers;
                        move || numbers[..n].iter().sum()
                    })
                })
                .collect();
            jobs.iter().map(|job| desk.wait(job)).collect::<Vec<u64>>()
        });
        assert_eq!(sums, (0..100).map(|n: u64| n * n.saturating_sub(1) / 2).collect::<Vec<u64>>());
    }

    #[test]
    fn a_panic_reaches_who_waits() {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            with_desk(|desk| {
                let job = desk.put(|| -> u64 { panic!("on purpose") });
                desk.wait(&job)
            })
        }));
        assert!(caught.is_err());
    }
}
