//! Kernels as code in this process.
//!
//! In: verified kernels. Out: an [`Image`] that owns their machine code, and on request their listings. Objects are linked by
//! LLVM's ORC, of which one instance lives with every image.

use super::compile::{Compiled, compile};
use super::function::entry_name;
use super::host::host;
use crate::listing::Listing;
use crate::queue::largest_first;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel;
use birkhoff_ir::kernel::abi::KernelFn;
use inkwell::llvm_sys::core::LLVMCreateMemoryBufferWithMemoryRangeCopy;
use inkwell::llvm_sys::error::{LLVMDisposeErrorMessage, LLVMErrorRef, LLVMGetErrorMessage};
use inkwell::llvm_sys::orc2::lljit::{
    LLVMOrcCreateLLJIT, LLVMOrcDisposeLLJIT, LLVMOrcLLJITAddObjectFile, LLVMOrcLLJITGetMainJITDylib,
    LLVMOrcLLJITLookup, LLVMOrcLLJITRef,
};
use std::ffi::{CStr, CString};
use std::ptr;

/// What to make beside the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Keep LLVM IR and assembly of every kernel as text (for `inspect`).
    pub listings: bool,
    /// Do without vector registers of more bits; without this, use all there are.
    pub max_vector_bits: Option<u32>,
}

/// Compiled kernels; the code lives as long as the image.
pub struct Image {
    /// Holds the code; dropped with the image.
    #[allow(dead_code, reason = "it owns the memory that the entries are in")]
    linker: Linker,
    entries: Vec<KernelFn>,
    listings: Vec<Listing>,
}

// SAFETY: after `jit` has returned, nothing changes the linker; its code and the entries are only read.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// The code of the kernel at that position of the list given to [`jit`].
    ///
    /// Valid as long as the image. Calling it is unsafe: see [`KernelFn`].
    pub fn entry(&self, kernel_idx: usize) -> Option<KernelFn> {
        self.entries.get(kernel_idx).copied()
    }

    /// The texts of the kernels, in order; empty unless [`Options::listings`] asked for them.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }
}

/// A kernel on its way into the image.
struct Job<'a> {
    func: &'a kernel::Func,
    kernel_idx: usize,
    compiled: Result<Compiled, Diagnostic>,
}

/// Compiles `kernels` for this process, on as many threads as there are cores and kernels.
///
/// Errors: a host that LLVM does not know, and for each kernel what the back end cannot do.
pub fn jit(kernels: &[kernel::Func], options: Options) -> Result<Image, Diagnostics> {
    let host = host()?.within(options.max_vector_bits);
    let nothing = || Err(Diagnostic::verify("a kernel was not compiled"));
    let jobs = kernels.iter().enumerate();
    let mut jobs: Vec<Job<'_>> =
        jobs.map(|(kernel_idx, func)| Job { func, kernel_idx, compiled: nothing() }).collect();
    // Code generators take a while to make, and are not shared between threads.
    let size = |job: &Job<'_>| job.func.vars.len();
    largest_first(
        &mut jobs,
        size,
        || host.machine(),
        |job, machine| {
            job.compiled = match machine {
                Ok(machine) => compile(job.func, job.kernel_idx, &host, machine, options.listings),
                Err(error) => Err(error.clone()),
            };
        },
    );
    let linker = Linker::new()?;
    let (mut listings, mut errors) = (vec![], Diagnostics::default());
    for job in jobs {
        let added = job.compiled.and_then(|compiled| {
            listings.extend(compiled.listing);
            linker.add(&compiled.object)
        });
        errors.0.extend(added.err());
    }
    errors.into_result(())?;
    let entries = (0..kernels.len()).map(|idx| linker.entry(idx)).collect::<Result<_, Diagnostic>>()?;
    Ok(Image { linker, entries, listings })
}

/// LLVM's linker into this process.
struct Linker(LLVMOrcLLJITRef);

impl Drop for Linker {
    fn drop(&mut self) {
        // SAFETY: made by `new` and dropped once; entries are valid only as long as the image, so none of them is running.
        let error = unsafe { LLVMOrcDisposeLLJIT(self.0) };
        // What cannot be given back now goes with the process.
        let _ = said(error);
    }
}

impl Linker {
    fn new() -> Result<Linker, Diagnostic> {
        let mut raw = ptr::null_mut();
        // SAFETY: without a builder, LLVM takes its defaults for this machine, whose target `host` has initialised.
        said(unsafe { LLVMOrcCreateLLJIT(&mut raw, ptr::null_mut()) })?;
        Ok(Linker(raw))
    }

    fn add(&self, object: &[u8]) -> Result<(), Diagnostic> {
        // SAFETY: the bytes are copied; the linker takes the copy.
        said(unsafe {
            let buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(
                object.as_ptr().cast(),
                object.len(),
                c"kernel".as_ptr(),
            );
            LLVMOrcLLJITAddObjectFile(self.0, LLVMOrcLLJITGetMainJITDylib(self.0), buffer)
        })
    }

    fn entry(&self, kernel_idx: usize) -> Result<KernelFn, Diagnostic> {
        let name = CString::new(entry_name(kernel_idx)).unwrap_or_default();
        let mut address = 0;
        // SAFETY: the name is a C string, the linker lives.
        said(unsafe { LLVMOrcLLJITLookup(self.0, &mut address, name.as_ptr()) })?;
        // SAFETY: the function was emitted with the signature of `KernelFn`.
        Ok(unsafe { std::mem::transmute::<usize, KernelFn>(address as usize) })
    }
}

/// What LLVM complains about, if it does.
fn said(error: LLVMErrorRef) -> Result<(), Diagnostic> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is taken over; its text is copied before it is given back.
    let message = unsafe {
        let text = LLVMGetErrorMessage(error);
        let message = CStr::from_ptr(text).to_string_lossy().into_owned();
        LLVMDisposeErrorMessage(text);
        message
    };
    Err(Diagnostic::device(format!("LLVM cannot link the machine code: {message}")))
}
