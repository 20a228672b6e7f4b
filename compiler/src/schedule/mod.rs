//! From a function of primitives to kernels: what is computed together, in which loops, and what stays on chip.

pub mod anchors;
pub mod axes;
pub mod cluster;
pub mod coords;
pub mod graph;
pub mod walk;
pub mod stages;
