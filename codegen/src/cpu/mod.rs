//! Kernels to machine code of this processor, through Cranelift.
//!
//! In: verified kernels and plans. Out: code in this process ([`jit`]), with the calling convention of
//! [`birkhoff_ir::kernel::abi`], or an object file with a C entry ([`object`]).
//! One kernel becomes one function that walks its tiles. `emit` walks statements, `lanes` cuts lane loops into native
//! vectors, `address` writes addresses whose invariant parts hoist, `regs` keeps register arrays in SSA variables, `memory`
//! and `half` convert storage types, `scalar` and `convert` name instructions.
//! `entry` writes the C functions of an object, `header` and `manifest` describe it.
//! Deliberately absent: decisions. Order, widths, unrolling and placement stand in the kernel.

mod address;
mod cache;
mod convert;
mod emit;
mod entry;
mod half;
mod header;
mod isa;
mod jit;
mod lanes;
mod manifest;
mod memory;
mod object;
mod regs;
mod scalar;
mod value;

pub use crate::listing::Listing;
pub use jit::{Image, Options, jit};
pub use manifest::{
    AxisEntry, BufferEntry, EntryPoint, KernelEntry, Manifest, ParamEntry, SizeEntry, Status, Workspace,
};
pub use object::{Object, object};
