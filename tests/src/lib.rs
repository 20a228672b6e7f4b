//! Harness of the tests that cross crates.
//!
//! In: the files of `tests/`. Out: what the tests compare. Deliberately absent: anything that a test of one crate could do.

#[cfg(feature = "ptx")]
pub mod device;
pub mod golden;
pub mod runs;
