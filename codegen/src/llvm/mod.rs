//! Kernels to machine code of this processor, through LLVM.
//!
//! In: verified kernels. Out: code in this process ([`jit`]), with the calling convention of [`birkhoff_ir::kernel::abi`]: the
//! same that [`crate::cpu`] makes, slower to compile and with vectors as wide as the processor has. What a kernel computes is
//! the same to the bit.
//!
//! One kernel becomes one module with two functions (`function`): an entry of that convention, and a body that gets every
//! memory as an argument, so that LLVM knows them to be apart. `emit` walks statements, `lanes` lane loops and reductions,
//! `address` writes addresses, `regs` keeps register arrays in values, `memory` and `half` convert storage types, `scalar`
//! and `bound` name operations, `build` is LLVM's C API. `compile` is the way from a module to an object file, `jit` links objects into
//! this process, `host` finds out what the processor is.
//! Deliberately absent: decisions. Order, widths, unrolling and placement stand in the kernel, floats have no flags that would
//! let LLVM change a bit, and passes that unroll or vectorize do not run.

mod address;
mod bound;
mod build;
mod compile;
mod emit;
mod function;
mod half;
mod host;
mod jit;
mod lanes;
mod memory;
mod regs;
mod scalar;
mod streams;
mod value;

pub use crate::listing::Listing;
pub use jit::{Image, Options, jit};

use birkhoff_ir::diag::Diagnostic;

/// The vector registers of this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vectors {
    /// Bits of one.
    pub bits: u32,
    /// How many there are.
    pub count: u32,
}

/// The widest vector registers of this processor.
///
/// Errors: an LLVM without a code generator for it.
pub fn vectors() -> Result<Vectors, Diagnostic> {
    let host = host::host()?;
    Ok(Vectors { bits: host.vector_bits, count: host.n_registers })
}
