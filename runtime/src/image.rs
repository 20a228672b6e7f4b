//! What the runtime needs of a code generator.

use birkhoff_ir::kernel::abi::KernelFn;

/// Machine code of the kernels of one program.
///
/// # Safety
///
/// `entry(idx)` is the code of the kernel at `idx` of the program with which the image is handed to
/// [`Executable::new`](crate::Executable::new): it follows [`KernelFn`]'s convention and touches no memory outside its
/// parameters, sizes and scratch. The code stays where it is as long as the image lives, and may run on many threads at
/// once.
pub unsafe trait KernelImage: Send + Sync {
    /// The entry point of the kernel at that position; `None` if there is no such kernel.
    fn entry(&self, kernel_idx: usize) -> Option<KernelFn>;
}
