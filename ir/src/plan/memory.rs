//! The memory that a call of a plan takes, told without calling it.
//!
//! In: a plan, sizes, a number of threads. Out: bytes by what they are for. A runtime that follows the plan allocates exactly
//! these.

use super::{BufferKind, Program};
use crate::dim::{Dim, DimError, SizeEnv};
use crate::kernel::abi;

/// Bytes of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlanMemory {
    /// Of the inputs.
    pub input_bytes: u64,
    /// Of the outputs.
    pub output_bytes: u64,
    /// Of the slots that temporaries share.
    pub temp_bytes: u64,
    /// Of tile-local memory, of all threads together.
    pub scratch_bytes: u64,
}

/// The memory of one call of `program` at `sizes` on `n_threads` threads.
///
/// Errors: a size without a value, or one that overflows.
pub fn predict(program: &Program, sizes: &SizeEnv, n_threads: usize) -> Result<PlanMemory, DimError> {
    let eval = |dim: &Dim| dim.eval(sizes).map(|bytes| bytes.max(0) as u64);
    let mut memory = PlanMemory::default();
    for buffer in &program.buffers {
        let sum = match buffer.kind {
            BufferKind::Input => &mut memory.input_bytes,
            BufferKind::Output => &mut memory.output_bytes,
            BufferKind::Temp(_) => continue,
        };
        *sum = sum.saturating_add(eval(&buffer.size_bytes())?);
    }
    for slot in &program.slots {
        let mut largest = 0;
        for user in slot {
            largest = largest.max(eval(user)?);
        }
        memory.temp_bytes = memory.temp_bytes.saturating_add(largest);
    }
    let mut scratch = 0;
    for kernel in &program.kernels {
        scratch = scratch.max(abi::scratch_bytes(kernel, sizes)?);
    }
    memory.scratch_bytes = scratch.saturating_mul(n_threads as u64);
    Ok(memory)
}
