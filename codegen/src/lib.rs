//! Kernel IR to machine code. A back end names instructions; every decision stands in the kernel.
//!
//! In: verified kernels ([`birkhoff_ir::kernel::Func`]). Out: images and objects. One folder and one cargo feature per
//! back end; none of them touches files, memory or devices.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(any(feature = "cpu", feature = "ptx"))]
mod facts;
#[cfg(any(feature = "cpu", feature = "ptx"))]
mod listing;
#[cfg(feature = "ptx")]
pub mod llvm;
#[cfg(feature = "ptx")]
pub mod ptx;
#[cfg(any(feature = "cpu", feature = "ptx"))]
mod queue;
#[cfg(any(feature = "cpu", feature = "ptx"))]
mod size;
#[cfg(any(feature = "cpu", feature = "ptx"))]
mod table;
