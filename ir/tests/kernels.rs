//! Hand-written kernels: each file of `tests/kernels` parses, verifies, round-trips, and runs in the evaluator against
//! straightforward formulas in f64, and its predicted traffic is what the run counted.
//!
//! A file is found by walking the directory; one without a case here fails.

mod support;

use support::{cases, kernel_files};

#[test]
fn every_kernel_file_runs_against_its_formula() {
    let files = kernel_files();
    assert!(files.len() >= 7, "found only {} files", files.len());
    for (stem, source) in &files {
        cases::run(stem, source);
    }
}
