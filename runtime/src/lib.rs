//! Memory, devices and launches: what happens when a compiled function is called.
//!
//! In: a [plan](birkhoff_ir::plan::Program), the entry points of its kernels ([`KernelImage`]) and the caller's arrays
//! ([`View`], [`ViewMut`]). Out: the arrays written, and a [`CallReport`]. An [`Executable`] is called through `&self`, from
//! any number of threads at once; the result of a call is the same, to the bit, for any number of threads in its [`Pool`],
//! because tiles are independent and cut by the plan alone. Matrix products
//! of the plan go to the `gemm` crate. On GPUs a plan is called through [`device`]: over the CUDA driver (feature `cuda`), or on
//! [`ptx_sim`], a simulated CUDA device.
//!
//! Deliberately absent: compilers and code generators (an image is a trait object), files and terminals, conversions
//! between element types.

mod buffer;
pub mod device;
mod element;
mod executable;
mod gemm;
mod image;
mod launch;
pub mod limits;
mod memory;
mod pool;
pub mod ptx_sim;
mod resolve;
mod view;
mod workspace;

pub use buffer::Buffer;
pub use element::Element;
pub use executable::{CallReport, Executable, Memory};
pub use image::KernelImage;
pub use launch::{Launched, Ran};
pub use pool::Pool;
pub use view::{View, ViewMut};
