//! What stops a kernel.

use super::super::code::Program;
use super::super::launch::Launch;
use super::Machine;
use birkhoff_ir::diag::Diagnostic;

/// Kinds of faults, the more telling ones last: of two orders, the one with the greater kind is reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::ptx_sim) enum FaultKind {
    /// Memory or a register is read that nothing has written. In another order of the threads it might be a race.
    Undefined,
    Other,
    Race,
}

/// Where a kernel stopped, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) struct Fault {
    pub(in crate::ptx_sim) kind: FaultKind,
    /// Index into the program's places.
    pub(in crate::ptx_sim) place: u32,
    pub(in crate::ptx_sim) block: u64,
    pub(in crate::ptx_sim) thread: u32,
    /// What the thread does there, as in "reads ...".
    pub(in crate::ptx_sim) message: String,
}

/// Coordinates as the messages write them.
pub(super) fn triple(position: [u32; 3]) -> String {
    format!("({},{},{})", position[0], position[1], position[2])
}

impl Fault {
    /// The error with its line, block and thread.
    pub(in crate::ptx_sim) fn diagnose(&self, program: &Program, launch: &Launch) -> Diagnostic {
        let at = program.places.get(self.place as usize).copied().unwrap_or_default();
        let block = triple(Machine::unravel(self.block, launch.grid));
        let thread = triple(Machine::unravel(u64::from(self.thread), launch.block));
        at.error(format!("in `{}`, thread {thread} of block {block} {}", program.name, self.message))
    }
}
