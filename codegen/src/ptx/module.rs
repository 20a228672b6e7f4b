//! Kernels as GPU modules with one function each, and their PTX as one module.
//!
//! In: kernels. Out: for each its MLIR module, verified, then what `translate` makes of it, put together in order.

use super::build::{Builder, GLOBAL, string};
use super::emit::{Entry, emit};
use super::lanes::WARP;
use super::layout::{ALIGN_BYTES, Layout, layout, widest_lanes};
use super::translate::{Clock, Session, Texts, Worker};
use super::{BUFFER_ALIGN_BYTES, Image, KernelInfo, LaneMode, Limits, MAX_THREADS, Options};
use crate::queue::largest_first;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::kernel::{Access, Func, Var};
use birkhoff_ir::plan::{Program, Step};
use inkwell::targets::TargetMachine;
use melior::Context;
use melior::ir::attribute::TypeAttribute;
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike, Type,
};
use std::collections::BTreeMap;

/// The line of a PTX module after which its entries come.
const LAST_OF_HEAD: &str = ".address_size 64\n";

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
                Step::Loop { body, .. } | Step::Unless { body, .. } | Step::Rows { body, .. } => {
                    visit(body, kernels, found)
                }
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

/// A kernel on its way into the image.
struct Job<'a> {
    func: &'a Func,
    info: KernelInfo,
    layout: Layout,
    texts: Result<Texts, Diagnostics>,
}

fn compile_aligned(
    kernels: &[Func],
    alignments: Vec<Vec<u64>>,
    options: &Options,
) -> Result<Image, Diagnostics> {
    let mut errors = vec![];
    let mut jobs: Vec<Job<'_>> = vec![];
    for (func, align_bytes) in kernels.iter().zip(alignments) {
        match plan(func, align_bytes) {
            Ok((info, layout)) => jobs.push(Job { func, info, layout, texts: Ok(Texts::default()) }),
            Err(error) => errors.push(error),
        }
    }
    Diagnostics(errors).into_result(())?;
    if jobs.is_empty() {
        return nothing(options);
    }
    largest_first(
        &mut jobs,
        |job| job.func.vars.len(),
        || Worker::new(options),
        |job, worker| {
            job.texts = worker.run(|session, machine| one_kernel(session, machine, job, options.listings));
        },
    );
    join(jobs)
}

/// Takes one kernel all the way; what is learned about it goes to its `info`.
fn one_kernel(
    session: &Session,
    machine: &TargetMachine,
    job: &mut Job<'_>,
    listings: bool,
) -> Result<Texts, Diagnostics> {
    let clock = Clock::new();
    let module = build(session, job)?;
    session.translate(module, machine, listings, clock)
}

/// The module of no kernels: its head.
fn nothing(options: &Options) -> Result<Image, Diagnostics> {
    let texts = Worker::new(options).run(|session, machine| {
        let empty = "module { gpu.module @kernels { } }";
        let module = Module::parse(session.context(), empty)
            .ok_or_else(|| Diagnostic::verify(format!("MLIR does not parse `{empty}`")))?;
        session.translate(module, machine, options.listings, Clock::new())
    })?;
    let Texts { mlir, llvm, ptx, timings } = texts;
    Ok(Image { ptx, kernels: vec![], mlir, llvm, timings })
}

/// Puts the modules of all kernels together: the head of the first, then the entries of all.
fn join(jobs: Vec<Job<'_>>) -> Result<Image, Diagnostics> {
    let mut image = Image {
        ptx: String::new(),
        kernels: vec![],
        mlir: String::new(),
        llvm: String::new(),
        timings: vec![],
    };
    let mut errors = Diagnostics::default();
    for job in jobs {
        let texts = match job.texts {
            Ok(texts) => texts,
            Err(error) => {
                errors.0.extend(error.0);
                continue;
            }
        };
        let head = texts.ptx.find(LAST_OF_HEAD).map_or(0, |start| start + LAST_OF_HEAD.len());
        let skipped = if image.ptx.is_empty() { 0 } else { head };
        image.ptx += texts.ptx.get(skipped..).unwrap_or_default();
        image.mlir += &texts.mlir;
        image.llvm += &texts.llvm;
        for (step, took) in texts.timings {
            match image.timings.iter_mut().find(|(known, _)| *known == step) {
                Some((_, sum)) => *sum += took,
                None => image.timings.push((step, took)),
            }
        }
        image.kernels.push(job.info);
    }
    errors.into_result(image)
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

fn build<'c>(session: &'c Session, job: &mut Job<'_>) -> Result<Module<'c>, Diagnostics> {
    let context = session.context();
    let skeleton = skeleton(&job.info);
    let module = Module::parse(context, &skeleton)
        .ok_or_else(|| Diagnostic::verify(format!("MLIR does not parse this:\n{skeleton}")))?;
    {
        let inner = module.body().first_operation();
        let broken = || Diagnostic::verify("the GPU module is not where it was put");
        let inner = inner.ok_or_else(broken)?;
        let body = inner.region(0).ok().and_then(|region| region.first_block());
        let body = body.ok_or_else(broken)?;
        job.info.lane_loops = function(context, body, job.func, &job.info, &job.layout)?;
    }
    Ok(module)
}

fn shared_name(info: &KernelInfo) -> String {
    format!("{}_shared", info.entry)
}

/// The module without its function: the shared memory of the kernel.
fn skeleton(info: &KernelInfo) -> String {
    let mut text = "module {\n  gpu.module @kernels {\n".to_string();
    if info.shared_bytes > 0 {
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
