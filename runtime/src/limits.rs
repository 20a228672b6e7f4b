//! What this machine can do, measured: the bandwidth of its memory and the rate of its arithmetic.
//!
//! In: a pool. Out: bytes and operations per second of all its threads together, the best of a few tries of some
//! milliseconds each. Other work on the machine lowers both; a figure that is held against them should be measured beside them.

use crate::pool::Pool;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

/// Elements per thread of each of the three arrays that are streamed: beyond any cache.
const STREAM_ELEMS: usize = 8 << 20;
/// Rounds of arithmetic per thread.
const ROUNDS: u64 = 1 << 20;
/// Independent chains of vectors: enough to hide the latency of a fused multiply-add.
const CHAINS: usize = 12;
/// Tries, of which the best counts.
const TRIES: usize = 5;

/// The machine's limits, with all threads of a pool.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Bytes per second read and written by `a = b + s c` over arrays larger than the caches.
    pub bytes_per_s: f64,
    /// Operations on f32 per second of fused multiply-adds in registers, each counted twice.
    pub flops_per_s: f64,
}

/// Measures both.
pub fn measure(pool: &Pool) -> Limits {
    Limits { bytes_per_s: bandwidth(pool), flops_per_s: arithmetic(pool) }
}

type Arrays = [Vec<f32>; 3];

fn bandwidth(pool: &Pool) -> f64 {
    let n_threads = pool.n_threads();
    let fresh = || Mutex::new([vec![0.0f32; STREAM_ELEMS], vec![1.0; STREAM_ELEMS], vec![2.0; STREAM_ELEMS]]);
    let arrays: Vec<Mutex<Arrays>> = (0..n_threads).map(|_| fresh()).collect();
    let best = best_of(|| on_all(pool, &|thread| stream(&arrays[thread])));
    (3 * STREAM_ELEMS * size_of::<f32>() * n_threads) as f64 / best
}

fn stream(arrays: &Mutex<Arrays>) {
    let Ok(mut arrays) = arrays.lock() else { return };
    let [a, b, c] = &mut *arrays;
    for ((a, b), c) in a.iter_mut().zip(&*b).zip(&*c) {
        *a = b + 3.0 * c;
    }
    black_box(&arrays[0]);
}

fn arithmetic(pool: &Pool) -> f64 {
    let best = best_of(|| on_all(pool, &|_| multiply_add()));
    let (lanes, chains) = (lanes() as f64, CHAINS as f64);
    2.0 * lanes * chains * ROUNDS as f64 * pool.n_threads() as f64 / best
}

/// Seconds of the fastest of a few runs.
fn best_of(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best.max(f64::MIN_POSITIVE)
}

/// Runs `body` once per thread, at once.
fn on_all(pool: &Pool, body: &(dyn Fn(usize) + Sync)) {
    let n_threads = pool.n_threads() as i64;
    pool.run(n_threads, &|_, first, last| (first..last).for_each(|thread| body(thread as usize)));
}

/// Elements in the vectors of [`multiply_add`].
fn lanes() -> usize {
    if has_wide_vectors() { 8 } else { 1 }
}

#[cfg(target_arch = "x86_64")]
fn has_wide_vectors() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide_vectors() -> bool {
    false
}

fn multiply_add() {
    #[cfg(target_arch = "x86_64")]
    if has_wide_vectors() {
        // SAFETY: the processor was just found to have these instructions.
        unsafe { wide_multiply_add() };
        return;
    }
    let mut chains = [1.0f32; CHAINS];
    for _ in 0..ROUNDS {
        chains.iter_mut().for_each(|chain| *chain = chain.mul_add(black_box(0.999), 1e-3));
    }
    black_box(chains);
}

/// # Safety
///
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn wide_multiply_add() {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
    let mut chains = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..ROUNDS {
        chains.iter_mut().for_each(|chain| *chain = _mm256_fmadd_ps(*chain, factor, term));
    }
    black_box(chains);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_of_a_machine() {
        let limits = measure(&Pool::single());
        assert!(limits.bytes_per_s > 1e8 && limits.bytes_per_s < 1e13, "{limits:?}");
        assert!(limits.flops_per_s > 1e8 && limits.flops_per_s < 1e14, "{limits:?}");
    }
}
