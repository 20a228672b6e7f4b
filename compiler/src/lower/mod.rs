//! From the schedule to kernel IR and a plan.
//!
//! In: a function of primitives in a bound module. Out: a [`Program`]. Every loop, vector axis and place of a value that the
//! schedule decided becomes explicit here; back ends decide nothing.

pub mod emit;
pub mod kernel;
mod locals;
pub mod loops;
pub mod memory;
pub mod nest;
mod parts;
pub mod price;
pub mod program;
mod rolled;
mod rows;
pub mod stage_loads;
pub mod tokens;
mod turned;
pub mod value;
pub mod widen;

use crate::schedule::Target;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::plan::Program;
use birkhoff_ir::tensor::{FuncId, Module};

/// Compiles `func`, a function of primitives in a bound module, to a plan of kernels.
///
/// Errors: an op that no back end has; a defect of the scheduler, described.
pub fn lower(module: &Module, func: FuncId, target: &Target) -> Result<Program, Diagnostic> {
    program::build(module, func, target)
}
