//! IR to IR: from model specs to plans of kernels.
//!
//! Deliberately absent: instructions (crate `birkhoff-codegen`), memory and devices (`birkhoff-runtime`), files and terminals
//! (`birkhoff`).

pub mod cost;
mod desk;
pub mod eqsat;
pub mod expand;
pub mod freeze;
pub mod lower;
pub mod rotate;
pub mod scaling;
pub mod schedule;
pub mod simplify;
pub mod spec;
pub mod split;
