//! A program as an object file with a C entry, its header and its manifest.
//!
//! In: a verified plan. Out: a relocatable object for this machine (position-independent, no undefined symbols where the
//! machine has fused multiply-add and vector rounding), a header in C99 and C++, and a [`Manifest`]. Writes no files.

use super::entry::{Entry, Symbols};
use super::jit::{compile_error, table_data};
use super::manifest::{Manifest, manifest};
use super::{emit, entry, header, isa};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::plan::Program;
use cranelift_codegen::Context;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_module::{FuncId, Linkage, Module, ModuleError, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};

/// A compiled program, ready to be written to files.
#[derive(Clone, Debug)]
pub struct Object {
    /// The object file.
    pub object: Vec<u8>,
    /// The header that declares its entries.
    pub header: String,
    /// What is in it.
    pub manifest: Manifest,
}

/// Compiles `program` for this machine, to be linked.
///
/// Errors: a name that is no C identifier, a host that Cranelift does not know, what the back end cannot do.
pub fn object(program: &Program) -> Result<Object, Diagnostics> {
    let symbols = Symbols::new(program);
    check_names(program)?;
    let isa = isa::host(true)?;
    let builder = ObjectBuilder::new(isa, program.name.as_str(), default_libcall_names())
        .map_err(|error| Diagnostic::device(format!("no object can be written for this machine: {error}")))?;
    let mut module = ObjectModule::new(builder);
    let kernels = define_kernels(&mut module, program, &symbols)?;
    let whole = |error: ModuleError| {
        Diagnostic::verify(format!("the entry of program `{}` does not compile: {error}", program.name))
    };
    let mut ctx = module.make_context();
    let mut scratch = FunctionBuilderContext::new();
    for which in [Entry::Workspace, Entry::Run] {
        ctx.clear();
        ctx.func.signature = entry::signature(which, program, module.isa());
        let name = symbols.entry(which);
        let id = module.declare_function(name, Linkage::Export, &ctx.func.signature).map_err(whole)?;
        entry::emit(which, program, &kernels, &mut module, &mut ctx.func, &mut scratch)?;
        module.define_function(id, &mut ctx).map_err(whole)?;
    }
    let manifest = manifest(program, &symbols, module.isa());
    let bytes = module.finish().emit();
    let object = bytes.map_err(|error| {
        Diagnostic::verify(format!("the object of `{}` does not write: {error}", program.name))
    })?;
    Ok(Object { object, header: header::header(program, &symbols), manifest })
}

fn define_kernels(
    module: &mut ObjectModule,
    program: &Program,
    symbols: &Symbols,
) -> Result<Vec<FuncId>, Diagnostics> {
    let mut ids = vec![];
    let mut errors = Diagnostics::default();
    let mut ctx = module.make_context();
    for (idx, func) in program.kernels.iter().enumerate() {
        match define_kernel(module, &mut ctx, func, &symbols.kernels[idx]) {
            Ok(id) => ids.push(id),
            Err(error) => errors.0.push(error),
        }
    }
    errors.into_result(ids)
}

fn define_kernel(
    module: &mut ObjectModule,
    ctx: &mut Context,
    func: &birkhoff_ir::kernel::Func,
    symbol: &str,
) -> Result<FuncId, Diagnostic> {
    let failed = |error: ModuleError| compile_error(func, &error);
    ctx.clear();
    ctx.func.signature = emit::signature(module.isa());
    let data = module.declare_anonymous_data(false, false).map_err(failed)?;
    let table = module.declare_data_in_func(data, &mut ctx.func);
    let mut scratch = FunctionBuilderContext::new();
    let constants = emit::emit(func, module.isa(), &mut ctx.func, &mut scratch, table)?;
    let id = module.declare_function(symbol, Linkage::Export, &ctx.func.signature).map_err(failed)?;
    module.define_function(id, ctx).map_err(failed)?;
    module.define_data(data, &table_data(constants)).map_err(failed)?;
    Ok(id)
}

/// Names become C symbols: they must be identifiers.
fn check_names(program: &Program) -> Result<(), Diagnostics> {
    let kernels = program.kernels.iter().map(|kernel| &kernel.name);
    let mut errors = Diagnostics::default();
    for name in std::iter::once(&program.name).chain(kernels) {
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !starts || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            let message = format!("`{name}` becomes part of a C symbol, expected a C identifier");
            errors.0.push(Diagnostic::input(Span::NONE, message).help("rename the function"));
        }
    }
    errors.into_result(())
}
