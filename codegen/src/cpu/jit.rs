//! Kernels as code in this process.
//!
//! In: verified kernels. Out: an [`Image`] that owns their machine code, and on request their listings.

use super::{emit, isa};
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel;
use birkhoff_ir::kernel::abi::KernelFn;
use cranelift_codegen::Context;
use cranelift_codegen::ir::GlobalValueData;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{DataDescription, FuncId, Module, ModuleError, default_libcall_names};

/// What to make beside the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Keep Cranelift IR and assembly of every kernel as text (for `inspect`).
    pub listings: bool,
}

/// A kernel as text, at two stages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The kernel's name.
    pub name: String,
    /// Cranelift IR.
    pub clif: String,
    /// Instructions with register names.
    pub asm: String,
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

/// Compiles `kernels` for this process.
///
/// Errors: a host that Cranelift does not know, and for each kernel what the back end cannot do.
pub fn jit(kernels: &[kernel::Func], options: Options) -> Result<Image, Diagnostics> {
    let isa = isa::host(false)?;
    let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
    let mut errors = Diagnostics::default();
    let (mut ids, mut listings, mut code_bytes) = (vec![], vec![], 0);
    let mut ctx = module.make_context();
    let mut scratch = FunctionBuilderContext::new();
    for func in kernels {
        match define(&mut module, &mut ctx, &mut scratch, func, options) {
            Ok(id) => ids.push(id),
            Err(error) => {
                // A kernel given up half-way leaves the builder's state unusable.
                scratch = FunctionBuilderContext::new();
                errors.0.push(error);
                continue;
            }
        }
        let Some(code) = ctx.compiled_code() else { continue };
        code_bytes += code.code_info().total_size as usize;
        if options.listings {
            let asm = code.vcode.clone().unwrap_or_default();
            listings.push(Listing { name: func.name.to_string(), clif: ctx.func.display().to_string(), asm });
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

/// Compiles one kernel into the module; `ctx` keeps its code and Cranelift IR.
fn define(
    module: &mut JITModule,
    ctx: &mut Context,
    scratch: &mut FunctionBuilderContext,
    func: &kernel::Func,
    options: Options,
) -> Result<FuncId, Diagnostic> {
    let failed = |error: ModuleError| compile_error(func, &error);
    ctx.clear();
    ctx.func.signature = emit::signature(module.isa());
    let data = module.declare_anonymous_data(false, false).map_err(failed)?;
    let table = module.declare_data_in_func(data, &mut ctx.func);
    if let GlobalValueData::Symbol { colocated, .. } = &mut ctx.func.global_values[table] {
        // The table may lie anywhere in memory, too far for an address relative to the code.
        *colocated = false;
    }
    let constants = emit::emit(func, module.isa(), &mut ctx.func, scratch, table)?;
    ctx.set_disasm(options.listings);
    let id = module.declare_anonymous_function(&ctx.func.signature).map_err(failed)?;
    module.define_function(id, ctx).map_err(failed)?;
    module.define_data(data, &table_data(constants)).map_err(failed)?;
    Ok(id)
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
