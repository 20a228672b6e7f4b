//! A GPU module with one function per kernel.
//!
//! In: kernels. Out: the MLIR module, verified, then whatever `translate` makes of it.

use super::build::{Builder, GLOBAL, string};
use super::emit::{Entry, emit};
use super::lanes::WARP;
use super::layout::{ALIGN_BYTES, Layout, layout, widest_lanes};
use super::translate::{Session, with_session};
use super::{BUFFER_ALIGN_BYTES, Image, KernelInfo, LaneMode, Limits, MAX_THREADS, Options};
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel::{Access, Func, Var};
use birkhoff_ir::plan::{Program, Step};
use melior::Context;
use melior::ir::attribute::TypeAttribute;
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike, Type,
};
use std::collections::BTreeMap;

/// Compiles `kernels` into one module of PTX. Arrays may start at any element.
///
/// Errors: for each kernel what the back end cannot do; a machine without the libraries it needs.
pub fn compile(kernels: &[Func], options: &Options) -> Result<Image, Diagnostics> {
    let natural = |func: &Func| func.params.iter().map(|param| param.dtype.size_bytes()).collect();
    compile_aligned(kernels, kernels.iter().map(natural).collect(), options)
}

/// Compiles the kernels of `program` into one module of PTX. Its buffers start at multiples of [`BUFFER_ALIGN_BYTES`]; where all
/// launches of a kernel pass an array that does, too, its accesses may be as wide.
///
/// Errors: as those of [`compile`].
pub fn compile_program(program: &Program, options: &Options) -> Result<Image, Diagnostics> {
    compile_aligned(&program.kernels, alignments(program), options)
}

/// What the address of each parameter of each kernel is a multiple of, at all of its launches, in bytes.
fn alignments(program: &Program) -> Vec<Vec<u64>> {
    fn visit(steps: &[Step], kernels: &[Func], found: &mut [Vec<u64>]) {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => {
                    let kernel = *kernel as usize;
                    let Some((func, found)) = kernels.get(kernel).zip(found.get_mut(kernel)) else {
                        continue;
                    };
                    for ((arg, param), align) in args.iter().zip(&func.params).zip(found) {
                        let size = param.dtype.size_bytes();
                        let aligned = |align: u64| {
                            let bytes = |elems: i64| elems.unsigned_abs().wrapping_mul(size);
                            arg.offset.terms().all(|(_, coeff)| bytes(coeff) % align == 0)
                        };
                        while *align > size && !aligned(*align) {
                            *align /= 2;
                        }
                    }
                }
                Step::Loop { body, .. } | Step::Unless { body, .. } => visit(body, kernels, found),
                Step::Contract(_) => {}
            }
        }
    }
    let kernels = &program.kernels;
    let mut found =
        kernels.iter().map(|func| vec![BUFFER_ALIGN_BYTES; func.params.len()]).collect::<Vec<_>>();
    visit(&program.steps, kernels, &mut found);
    found
}

fn compile_aligned(
    kernels: &[Func],
    alignments: Vec<Vec<u64>>,
    options: &Options,
) -> Result<Image, Diagnostics> {
    let mut errors = vec![];
    let mut infos: Vec<KernelInfo> = vec![];
    let mut layouts = vec![];
    for (func, align_bytes) in kernels.iter().zip(alignments) {
        match plan(func, align_bytes) {
            Ok((info, layout)) => {
                infos.push(info);
                layouts.push(layout);
            }
            Err(error) => errors.push(error),
        }
    }
    Diagnostics(errors).into_result(())?;
    with_session(|session| {
        let module = build(session, kernels, &mut infos, &layouts)?;
        let texts = session.translate(module, options)?;
        Ok(Image { ptx: texts.ptx, kernels: infos, mlir: texts.mlir, llvm: texts.llvm })
    })
}

/// How a kernel is launched, and its shared memory.
fn plan(func: &Func, align_bytes: Vec<u64>) -> Result<(KernelInfo, Layout), Diagnostic> {
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
        align_bytes,
        shared_bytes: layout.shared_bytes,
        workspace: layout.workspace.clone(),
        grid: func.grid.iter().map(|axis| (axis.extent.clone(), axis.tile)).collect(),
        lane_loops: BTreeMap::new(),
    };
    Ok((info, layout))
}

fn build<'c>(
    session: &'c Session,
    kernels: &[Func],
    infos: &mut [KernelInfo],
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
            match function(context, body, func, info, layout) {
                Ok(lane_loops) => info.lane_loops = lane_loops,
                Err(error) => errors.push(error),
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

/// Adds the function of one kernel to `body`; gives how its lane loops are mapped.
fn function<'c, 'm>(
    context: &'c Context,
    body: BlockRef<'c, 'm>,
    func: &Func,
    info: &KernelInfo,
    layout: &Layout,
) -> Result<BTreeMap<Var, LaneMode>, Diagnostic> {
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
        // One block at a time suffices: registers are not to be spilled for the sake of more.
        named("nvvm.minctasm", parsed("1 : i32")?),
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
    emit(func, layout, Limits { threads: info.threads, align_bytes: &info.align_bytes }, entry)
}

/// What is known of each argument: no two parameters overlap, and most are only read or only written.
fn argument_attributes(func: &Func, info: &KernelInfo) -> String {
    let params = func.params.iter().zip(&info.align_bytes).map(|(param, align)| {
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
