//! Kernels as code in this process.
//!
//! In: verified kernels. Out: an [`Image`] that owns their machine code, and on request their listings.

use super::{emit, isa};
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel;
use birkhoff_ir::kernel::abi::KernelFn;
use cranelift_codegen::ir::UserFuncName;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};

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
    /// Cranelift IR, before Cranelift optimises it.
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
    for (idx, func) in kernels.iter().enumerate() {
        ctx.clear();
        ctx.func.name = UserFuncName::user(0, idx as u32);
        ctx.func.signature = emit::signature(module.isa());
        if let Err(error) = emit::emit(func, module.isa(), &mut ctx.func, &mut scratch) {
            // A kernel given up half-way leaves the builder's state unusable.
            scratch = FunctionBuilderContext::new();
            errors.0.push(error);
            continue;
        }
        let clif = if options.listings { ctx.func.display().to_string() } else { String::new() };
        ctx.set_disasm(options.listings);
        let defined = module
            .declare_anonymous_function(&ctx.func.signature)
            .and_then(|id| module.define_function(id, &mut ctx).map(|()| id));
        match defined {
            Ok(id) => ids.push(id),
            Err(error) => {
                errors.0.push(compile_error(func, &error));
                continue;
            }
        }
        if let Some(code) = ctx.compiled_code() {
            code_bytes += code.code_info().total_size as usize;
            if options.listings {
                let asm = code.vcode.clone().unwrap_or_default();
                listings.push(Listing { name: func.name.to_string(), clif, asm });
            }
        }
    }
    errors.into_result(())?;
    module.finalize_definitions().map_err(|error| {
        Diagnostics::from(Diagnostic::device(format!("no memory for machine code: {error}")))
    })?;
    let entry = |id: &cranelift_module::FuncId| {
        let code = module.get_finalized_function(*id);
        // SAFETY: the function was emitted with the signature of `KernelFn`.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(code) }
    };
    let entries = ids.iter().map(entry).collect();
    Ok(Image { module: Some(module), entries, listings, code_bytes })
}

/// What Cranelift says about a kernel it refuses; the emitter should not have written it.
pub(super) fn compile_error(func: &kernel::Func, error: &cranelift_module::ModuleError) -> Diagnostic {
    let detail = match error {
        cranelift_module::ModuleError::Compilation(inner) => format!("{inner:?}"),
        other => other.to_string(),
    };
    Diagnostic::verify(format!("kernel `{}` does not compile: {detail}", func.name))
}
