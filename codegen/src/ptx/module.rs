//! A GPU module with one function per kernel.
//!
//! In: kernels. Out: the MLIR module, verified, then whatever `translate` makes of it.

use super::build::{Builder, GLOBAL, string};
use super::emit::{Entry, emit};
use super::lanes::WARP;
use super::layout::{ALIGN_BYTES, Layout, layout, widest_lanes};
use super::translate::{Session, with_session};
use super::{Image, KernelInfo, Limits, MAX_THREADS, Options};
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel::{Access, Func};
use melior::Context;
use melior::ir::attribute::TypeAttribute;
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike, Type,
};

/// Compiles `kernels` into one module of PTX.
///
/// Errors: for each kernel what the back end cannot do; a machine without the libraries it needs.
pub fn compile(kernels: &[Func], options: &Options) -> Result<Image, Diagnostics> {
    let mut errors = vec![];
    let mut infos = vec![];
    let mut layouts = vec![];
    for func in kernels {
        match plan(func) {
            Ok((info, layout)) => {
                infos.push(info);
                layouts.push(layout);
            }
            Err(error) => errors.push(error),
        }
    }
    Diagnostics(errors).into_result(())?;
    with_session(|session| {
        let module = build(session, kernels, &infos, &layouts)?;
        let texts = session.translate(module, options)?;
        Ok(Image { ptx: texts.ptx, kernels: infos, mlir: texts.mlir, llvm: texts.llvm })
    })
}

/// How a kernel is launched, and its shared memory.
fn plan(func: &Func) -> Result<(KernelInfo, Layout), Diagnostic> {
    let layout = layout(func);
    let threads = widest_lanes(&func.body, false).max(WARP);
    if threads > MAX_THREADS {
        return Err(super::unsupported(
            func,
            &format!("{threads} lanes, where a block has {MAX_THREADS} threads"),
        ));
    }
    let info = KernelInfo {
        entry: func.name.to_string(),
        threads,
        shared_bytes: layout.shared_bytes,
        workspace: layout.workspace.clone(),
        grid: func.grid.iter().map(|axis| (axis.extent.clone(), axis.tile)).collect(),
    };
    Ok((info, layout))
}

fn build<'c>(
    session: &'c Session,
    kernels: &[Func],
    infos: &[KernelInfo],
    layouts: &[Layout],
) -> Result<Module<'c>, Diagnostics> {
    let context = session.context();
    let skeleton = skeleton(infos);
    let module = Module::parse(context, &skeleton)
        .ok_or_else(|| Diagnostic::verify(format!("MLIR does not parse this:\n{skeleton}")))?;
    let mut errors = vec![];
    {
        let inner = module.body().first_operation();
        let broken = || Diagnostic::verify("the GPU module is not where it was put");
        let inner = inner.ok_or_else(broken)?;
        let body = inner.region(0).ok().and_then(|region| region.first_block());
        let body = body.ok_or_else(broken)?;
        for ((func, info), layout) in kernels.iter().zip(infos).zip(layouts) {
            if let Err(error) = function(context, body, func, info, layout) {
                errors.push(error);
            }
        }
    }
    Diagnostics(errors).into_result(())?;
    Ok(module)
}

fn shared_name(info: &KernelInfo) -> String {
    format!("{}_shared", info.entry)
}

/// The module without its functions: the shared memory of each kernel.
fn skeleton(infos: &[KernelInfo]) -> String {
    let mut text = "module {\n  gpu.module @kernels {\n".to_string();
    for info in infos.iter().filter(|info| info.shared_bytes > 0) {
        text += &format!(
            "    llvm.mlir.global internal @{}() {{addr_space = 3 : i32, alignment = {ALIGN_BYTES} : i64}} : !llvm.array<{} x i8>\n",
            shared_name(info),
            info.shared_bytes
        );
    }
    text + "  }\n}\n"
}

/// Adds the function of one kernel to `body`.
fn function<'c, 'm>(
    context: &'c Context,
    body: BlockRef<'c, 'm>,
    func: &Func,
    info: &KernelInfo,
    layout: &Layout,
) -> Result<(), Diagnostic> {
    let location = Location::unknown(context);
    let pointer = melior::dialect::llvm::r#type::pointer(context, GLOBAL);
    let size: Type<'c> = IntegerType::new(context, 64).into();
    let workspace = (!info.workspace.is_empty()).then_some(pointer);
    let sizes = func.sizes.iter().map(|_| size);
    let types: Vec<Type<'c>> = func.params.iter().map(|_| pointer).chain(sizes).chain(workspace).collect();
    let void = melior::dialect::llvm::r#type::void(context);
    let signature = melior::dialect::llvm::r#type::function(void, &types, false);
    let named = |name: &str, attribute: Attribute<'c>| (Identifier::new(context, name), attribute);
    let parsed = |text: &str| {
        Attribute::parse(context, text)
            .ok_or_else(|| Diagnostic::verify(format!("MLIR does not know `{text}`")))
    };
    let attributes = [
        named("sym_name", string(context, &info.entry)),
        named("function_type", TypeAttribute::new(signature).into()),
        named("nvvm.kernel", Attribute::unit(context)),
        named("nvvm.reqntid", parsed(&format!("array<i32: {}>", info.threads))?),
        named("arg_attrs", parsed(&argument_attributes(func, info))?),
    ];
    let region = Region::new();
    let arguments: Vec<(Type<'c>, Location<'c>)> = types.iter().map(|ty| (*ty, location)).collect();
    region.append_block(Block::new(&arguments));
    let builder =
        OperationBuilder::new("llvm.func", location).add_attributes(&attributes).add_regions([region]);
    let op = builder.build().map_err(|_| Diagnostic::verify("MLIR does not build a function"))?;
    let op = match body.terminator() {
        Some(end) => body.insert_operation_before(end, op),
        None => body.append_operation(op),
    };
    // SAFETY: the operation is in the module, which outlives this function.
    let op = unsafe { op.to_ref() };
    let entry = op.region(0).ok().and_then(|region| region.first_block());
    let entry = entry.ok_or_else(|| Diagnostic::verify("a function lacks its first block"))?;
    let args = (0..types.len()).map(|idx| entry.argument(idx).map(Into::into));
    let args: Result<Vec<_>, melior::Error> = args.collect();
    let args = args.map_err(|error| Diagnostic::verify(error.to_string()))?;
    let shared = (info.shared_bytes > 0).then(|| shared_name(info));
    let entry = Entry { builder: Builder::new(context, entry), args, shared };
    emit(func, layout, Limits { threads: info.threads }, entry)
}

/// What is known of each argument: no two parameters overlap, and most are only read or only written.
fn argument_attributes(func: &Func, info: &KernelInfo) -> String {
    let params = func.params.iter().map(|param| {
        let align = param.dtype.size_bytes();
        let access = match param.access {
            Access::Read => ", llvm.readonly",
            Access::Write => ", llvm.writeonly",
            Access::ReadWrite => "",
        };
        format!("{{llvm.noalias, llvm.align = {align} : i64{access}}}")
    });
    let sizes = func.sizes.iter().map(|_| "{}".to_string());
    let workspace = format!("{{llvm.noalias, llvm.align = {ALIGN_BYTES} : i64}}");
    let workspace = (!info.workspace.is_empty()).then_some(workspace);
    format!("[{}]", params.chain(sizes).chain(workspace).collect::<Vec<_>>().join(", "))
}
