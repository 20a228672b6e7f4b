//! The kernel evaluator: the living definition of kernel IR.
//!
//! In: a verified kernel, sizes, and arrays. Out: the arrays as the kernel leaves them, and the [`Traffic`] that its run
//! caused. Tiles run one after the other. Every access is checked against its array; what was never written is *poison*:
//! it may be loaded and computed with, but not stored to a parameter nor used as an index or a bound.
//!
//! Deliberately absent: speed. Back ends are compared with this.

mod calc;
mod exec;
mod memory;
mod prepare;

pub use memory::Array;

use super::traffic::Traffic;
use super::{Func, Mem, ParamId};
use crate::diag::Diagnostic;
use crate::dim::SizeEnv;

/// What a kernel runs on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Memory {
    /// All arrays.
    pub arrays: Vec<Array>,
    /// For each parameter of the kernel, in order: which array, and where in it.
    pub params: Vec<Binding>,
}

/// A parameter's place: elements of an array from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// Position in [`Memory::arrays`].
    pub array: usize,
    /// Elements to skip.
    pub offset: usize,
}

impl Memory {
    /// One whole array per parameter.
    pub fn new(arrays: Vec<Array>) -> Memory {
        let params = (0..arrays.len()).map(|array| Binding { array, offset: 0 }).collect();
        Memory { arrays, params }
    }
}

/// Runs all tiles of `func`, which must verify.
///
/// Errors: a size without a value, an array that does not fit its parameter, an access out of bounds, poison that escapes.
/// The message names kernel, stage, memory, index and extent.
pub fn run(func: &Func, sizes: &SizeEnv, memory: &mut Memory) -> Result<Traffic, Diagnostic> {
    let prepared = prepare::prepare(func, sizes)?;
    check_bindings(func, &prepared.params, memory)?;
    exec::execute(&prepared, memory)
}

fn check_bindings(func: &Func, shapes: &[Vec<i64>], memory: &Memory) -> Result<(), Diagnostic> {
    let fail = |message: String| Err(Diagnostic::verify(format!("kernel @{}: {message}", func.name)));
    if memory.params.len() != func.params.len() {
        return fail(format!("expected {} parameters, found {}", func.params.len(), memory.params.len()));
    }
    for (idx, (binding, shape)) in memory.params.iter().zip(shapes).enumerate() {
        let mem = Mem::Param(ParamId(idx as u32));
        let (name, dtype) = (func.mem_name(mem), func.mem_dtype(mem));
        let Some(array) = memory.arrays.get(binding.array) else {
            return fail(format!("`{name}` has no array"));
        };
        if array.dtype() != dtype {
            return fail(format!("`{name}` is {dtype}, its array {}", array.dtype()));
        }
        let mut len = 1i64;
        for extent in shape {
            if *extent < 0 {
                return fail(format!("`{name}` has the negative extent {extent}"));
            }
            len = len.saturating_mul(*extent);
        }
        let room = array.len().checked_sub(binding.offset);
        if room.is_none_or(|room| (room as u64) < len as u64) {
            return fail(format!(
                "`{name}` has {len} elements from offset {}, its array has {}",
                binding.offset,
                array.len()
            ));
        }
    }
    Ok(())
}
