//! Arithmetic of PTX instructions on bit patterns, as the ISA manual defines it.
//!
//! In: operands as the low bits of a `u64`, higher bits zero. Out: the result in the same form. Nothing here knows threads
//! or memory.

pub(super) mod convert;
pub(super) mod float;
pub(super) mod int;
pub(super) mod narrow;
pub(super) mod round;
