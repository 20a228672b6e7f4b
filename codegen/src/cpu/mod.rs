//! Kernels to machine code of this processor, through Cranelift.
//!
//! In: verified kernels. Out: code in this process ([`jit`]), with the calling convention of [`birkhoff_ir::kernel::abi`].
//! One kernel becomes one function that walks its tiles. `emit` walks statements, `lanes` cuts lane loops into native
//! vectors, `address` writes addresses whose invariant parts hoist, `regs` keeps register arrays in SSA variables, `memory`
//! and `half` convert storage types, `scalar` and `convert` name instructions.
//! Deliberately absent: decisions. Order, widths, unrolling and placement stand in the kernel.

mod address;
mod cache;
mod convert;
mod emit;
mod half;
mod isa;
mod jit;
mod lanes;
mod memory;
mod regs;
mod scalar;
mod value;

pub use jit::{Image, Listing, Options, jit};
