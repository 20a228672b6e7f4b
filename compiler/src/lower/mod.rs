//! From the schedule to kernel IR and a plan.

pub mod emit;
pub mod nest;
pub mod tokens;
pub mod value;
