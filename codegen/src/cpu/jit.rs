//! Kernels as code in this process.
//!
//! In: verified kernels. Out: an [`Image`] that owns their machine code, and on request their listings.

use super::{emit, isa};
use crate::listing::Listing;
use crate::queue::largest_first;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel;
use birkhoff_ir::kernel::abi::KernelFn;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{GlobalValue, GlobalValueData};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{
    DataDescription, DataId, FuncId, Module, ModuleError, ModuleReloc, default_libcall_names,
};

/// What to make beside the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Keep Cranelift IR and assembly of every kernel as text (for `inspect`).
    pub listings: bool,
}

/// Compiled kernels; the code lives as long as the image.
pub struct Image {
    module: Option<JITModule>,
    entries: Vec<KernelFn>,
    listings: Vec<Listing>,
    code_bytes: usize,
}

// SAFETY: after `jit` has returned, nothing changes the module; its code and the entries are only read.
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

    /// Number of kernels.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without kernels.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The texts of the kernels, in order; empty unless [`Options::listings`] asked for them.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }

    /// Size of the machine code, in bytes.
    pub fn code_bytes(&self) -> usize {
        self.code_bytes
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: entries are valid only as long as the image, so none of them is running or called again.
            unsafe { module.free_memory() };
        }
    }
}

/// Compiles `kernels` for this process, on as many threads as there are cores and kernels.
///
/// Errors: a host that Cranelift does not know, and for each kernel what the back end cannot do.
pub fn jit(kernels: &[kernel::Func], options: Options) -> Result<Image, Diagnostics> {
    let isa = isa::host(false)?;
    let mut module = JITModule::new(JITBuilder::with_isa(isa.clone(), default_libcall_names()));
    let mut errors = Diagnostics::default();
    let mut jobs = vec![];
    for func in kernels {
        match declare(&mut module, func) {
            Ok(job) => jobs.push(job),
            Err(error) => errors.0.push(error),
        }
    }
    compile(&*isa, &mut jobs, options);
    let (mut ids, mut listings, mut code_bytes) = (vec![], vec![], 0);
    for job in &mut jobs {
        if let Err(error) = job.define(&mut module) {
            errors.0.push(error);
            continue;
        }
        ids.push(job.id);
        let Some(code) = job.ctx.compiled_code() else { continue };
        code_bytes += code.code_info().total_size as usize;
        if options.listings {
            let (ir, asm) = (job.ctx.func.display().to_string(), code.vcode.clone().unwrap_or_default());
            listings.push(Listing { name: job.func.name.to_string(), ir, asm });
        }
    }
    errors.into_result(())?;
    module
        .finalize_definitions()
        .map_err(|error| Diagnostic::device(format!("no memory for machine code: {error}")))?;
    let entry = |id: &FuncId| {
        let code = module.get_finalized_function(*id);
        // SAFETY: the function was emitted with the signature of `KernelFn`.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(code) }
    };
    let entries = ids.iter().map(entry).collect();
    Ok(Image { module: Some(module), entries, listings, code_bytes })
}

/// A kernel on its way into the module.
struct Job<'a> {
    func: &'a kernel::Func,
    id: FuncId,
    data: DataId,
    table: GlobalValue,
    /// Its Cranelift IR, then its code.
    ctx: Context,
    /// Its table of constants, once it is compiled.
    constants: Result<Vec<u8>, Diagnostic>,
}

/// Gives a kernel its places in the module.
fn declare<'a>(module: &mut JITModule, func: &'a kernel::Func) -> Result<Job<'a>, Diagnostic> {
    let failed = |error: ModuleError| compile_error(func, &error);
    let mut ctx = Context::new();
    ctx.func.signature = emit::signature(module.isa());
    let data = module.declare_anonymous_data(false, false).map_err(failed)?;
    let table = module.declare_data_in_func(data, &mut ctx.func);
    if let GlobalValueData::Symbol { colocated, .. } = &mut ctx.func.global_values[table] {
        // The table may lie anywhere in memory, too far for an address relative to the code.
        *colocated = false;
    }
    let id = module.declare_anonymous_function(&ctx.func.signature).map_err(failed)?;
    Ok(Job { func, id, data, table, ctx, constants: Ok(vec![]) })
}

fn compile(isa: &dyn TargetIsa, jobs: &mut [Job<'_>], options: Options) {
    let size = |job: &Job<'_>| job.func.vars.len();
    largest_first(jobs, size, FunctionBuilderContext::new, |job, scratch| {
        job.constants = job.compile(isa, scratch, options);
        if job.constants.is_err() {
            // A kernel given up half-way leaves the builder's state unusable.
            *scratch = FunctionBuilderContext::new();
        }
    });
}

impl Job<'_> {
    /// Compiles the kernel; returns its table of constants.
    fn compile(
        &mut self,
        isa: &dyn TargetIsa,
        scratch: &mut FunctionBuilderContext,
        options: Options,
    ) -> Result<Vec<u8>, Diagnostic> {
        let constants = emit::emit(self.func, isa, &mut self.ctx.func, scratch, self.table)?;
        self.ctx.set_disasm(options.listings);
        match self.ctx.compile(isa, &mut ControlPlane::default()) {
            Ok(_) => Ok(constants),
            Err(error) => Err(compile_error(self.func, &error.into())),
        }
    }

    /// Puts code and constants into the module.
    fn define(&mut self, module: &mut JITModule) -> Result<(), Diagnostic> {
        let constants = std::mem::replace(&mut self.constants, Ok(vec![]))?;
        let failed = |error: ModuleError| compile_error(self.func, &error);
        let Some(code) = self.ctx.compiled_code() else { return Ok(()) };
        let relocs = code.buffer.relocs().iter();
        let relocs: Vec<ModuleReloc> =
            relocs.map(|reloc| ModuleReloc::from_mach_reloc(reloc, &self.ctx.func, self.id)).collect();
        let align = u64::from(code.buffer.alignment);
        module.define_function_bytes(self.id, align, code.code_buffer(), &relocs).map_err(failed)?;
        module.define_data(self.data, &table_data(constants)).map_err(failed)
    }
}

/// A table of vector constants as data of a module.
pub(super) fn table_data(table: Vec<u8>) -> DataDescription {
    let mut data = DataDescription::new();
    // A module has no data of size 0.
    let bytes = if table.is_empty() { vec![0; 16] } else { table };
    data.define(bytes.into_boxed_slice());
    data.set_align(16);
    data
}

/// What Cranelift says about a kernel it refuses; the emitter should not have written it.
pub(super) fn compile_error(func: &kernel::Func, error: &ModuleError) -> Diagnostic {
    let detail = match error {
        ModuleError::Compilation(inner) => format!("{inner:?}"),
        other => other.to_string(),
    };
    Diagnostic::verify(format!("kernel `{}` does not compile: {detail}", func.name))
}
