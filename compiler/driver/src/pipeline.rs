//! The way of a spec, top to bottom: bind, verify, saturate, schedule, emit, load.
//!
//! In: a [`Spec`] and [`Options`]. Out: the result of every stage ([`Stages`]), or a [`Function`] that can be called. The IR
//! is verified as it comes in, and after every pass where [`Options::verify`] says so; an error there is ours.
//! Deliberately absent: passes, and files.

use crate::engine::{Code, Engine};
use crate::error::Error;
use crate::function::Function;
use crate::schedule_report::{self, ScheduleReport};
use crate::signature::Signature;
use crate::spec::{Content, Spec};
use crate::target::Target;
use birkhoff_codegen::cpu;
use birkhoff_compiler::eqsat::{self, Math, Optimized};
use birkhoff_compiler::expand::expand;
use birkhoff_compiler::lower::lower as schedule;
use birkhoff_compiler::lower::price::KernelCost;
use birkhoff_compiler::schedule::Target as Machine;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel;
use birkhoff_ir::plan::{self, Program};
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{self, Def, DimKind, FuncId, Module, TensorType};
use birkhoff_runtime::{Executable, Pool};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a spec is compiled.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who runs the result.
    pub target: Target,
    /// Which rewrites are allowed.
    pub math: Math,
    /// The threads it runs on; without this, a pool of its own with one thread per core.
    pub pool: Option<Pool>,
    /// Verify the IR after every pass; by default in debug builds.
    pub verify: bool,
    /// Keep the back end's texts for inspection.
    pub listings: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: Target::Cpu,
            math: Math::Default,
            pool: None,
            verify: cfg!(debug_assertions),
            listings: false,
        }
    }
}

/// A stage of compilation, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The bound module.
    Tensor,
    /// The module after equality saturation.
    Eqsat,
    /// What fused, and the bytes it moves.
    Schedule,
    /// The kernels.
    Kernel,
    /// The plan with its kernels.
    Plan,
    /// Cranelift IR.
    Clif,
    /// Assembly of this processor.
    Asm,
    /// MLIR, on the way to PTX.
    Mlir,
    /// LLVM IR.
    Llvm,
    /// PTX.
    Ptx,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 10] = [
        Stage::Tensor,
        Stage::Eqsat,
        Stage::Schedule,
        Stage::Kernel,
        Stage::Plan,
        Stage::Clif,
        Stage::Asm,
        Stage::Mlir,
        Stage::Llvm,
        Stage::Ptx,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tensor => "tensor",
            Stage::Eqsat => "eqsat",
            Stage::Schedule => "schedule",
            Stage::Kernel => "kernel",
            Stage::Plan => "plan",
            Stage::Clif => "clif",
            Stage::Asm => "asm",
            Stage::Mlir => "mlir",
            Stage::Llvm => "llvm",
            Stage::Ptx => "ptx",
        }
    }

    /// The stage of that name.
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// What is being done to reach it, for a progress line.
    pub fn doing(self) -> &'static str {
        match self {
            Stage::Tensor => "binding",
            Stage::Eqsat => "saturating",
            Stage::Schedule | Stage::Kernel | Stage::Plan => "scheduling",
            Stage::Clif | Stage::Asm | Stage::Mlir | Stage::Llvm | Stage::Ptx => "emitting",
        }
    }
}

/// What the stages made, as far as they ran.
#[derive(Clone, Default)]
pub struct Stages {
    /// The bound module and the function in it; `None` if the spec was a plan.
    pub tensor: Option<(Module, FuncId)>,
    /// After equality saturation.
    pub optimized: Option<Optimized>,
    /// The plan with its kernels.
    pub program: Option<Program>,
    /// Texts of the back end, per kernel, if they were asked for.
    pub listings: Vec<cpu::Listing>,
    /// How long every stage took, in order.
    pub timings: Vec<(&'static str, Duration)>,
}

/// Compiles a spec: the function it picks, for the target of the options.
///
/// Errors: names and sizes that do not fit the spec (input), a missing target (device), an op the target lacks
/// (unsupported).
pub fn compile(spec: &Spec, options: &Options) -> Result<Function, Error> {
    compile_observed(spec, options, &mut |_| ())
}

/// [`compile`], telling `observe` before each stage.
///
/// Errors: as [`compile`].
pub fn compile_observed(
    spec: &Spec,
    options: &Options,
    observe: &mut dyn FnMut(Stage),
) -> Result<Function, Error> {
    options.target.check()?;
    let until = match options.target {
        Target::Eval => Stage::Tensor,
        _ => Stage::Plan,
    };
    let mut stages = lower(spec, options, until, observe)?;
    let (signature, engine) = match (options.target, &stages.tensor, stages.program.take()) {
        (Target::Cpu, _, Some(program)) => {
            observe(Stage::Asm);
            let signature = Signature::of_program(&program);
            let executable = emit(program, options, &mut stages).map_err(|errors| spec.error(errors))?;
            (signature, Engine::Cpu(executable))
        }
        (_, _, Some(program)) => (Signature::of_program(&program), Engine::Kernels(program)),
        (_, Some((module, func)), None) => {
            (Signature::of_func(module, *func), Engine::Tensor(module.clone(), *func))
        }
        (_, None, None) => return Err(Diagnostic::verify("a spec became neither a module nor a plan").into()),
    };
    let (given, source) = (spec.given_sizes(), spec.source().cloned());
    Ok(Function { signature, engine, given, stages, source })
}

/// Compiles a spec to an object for this machine, with its header and manifest.
///
/// Errors: as [`compile`], and a function whose name is no C identifier.
pub fn compile_object(
    spec: &Spec,
    options: &Options,
    observe: &mut dyn FnMut(Stage),
) -> Result<cpu::Object, Error> {
    options.target.check()?;
    let stages = lower(spec, options, Stage::Plan, observe)?;
    observe(Stage::Asm);
    let program = stages.program.ok_or_else(|| Diagnostic::verify("scheduling made no plan"))?;
    cpu::object(&program).map_err(|errors| spec.error(errors))
}

/// Runs the stages up to `until`, as far as the spec's level allows.
///
/// Errors: as [`compile`].
pub fn lower(
    spec: &Spec,
    options: &Options,
    until: Stage,
    observe: &mut dyn FnMut(Stage),
) -> Result<Stages, Error> {
    let mut stages = Stages::default();
    let module = match spec.content() {
        Content::Tensor(module) => module,
        Content::Plan(program) => {
            spec.check_plan(program)?;
            stages.program = Some(program.clone());
            return Ok(stages);
        }
    };
    let fail = |errors: Diagnostics| spec.error(errors);

    observe(Stage::Tensor);
    let start = Instant::now();
    verify(module).map_err(fail)?;
    let (bound, func) = spec.bind(module)?;
    verify(&bound).map_err(fail)?;
    check_sizes(&bound, func).map_err(fail)?;
    stages.timings.push(("bind", start.elapsed()));
    stages.tensor = Some((bound.clone(), func));
    if until == Stage::Tensor {
        return Ok(stages);
    }

    observe(Stage::Eqsat);
    let start = Instant::now();
    let optimized = saturate(&bound, func, options).map_err(fail)?;
    stages.timings.push(("eqsat", start.elapsed()));
    let (module, func) = (optimized.module.clone(), optimized.func);
    stages.optimized = Some(optimized);
    if until == Stage::Eqsat {
        return Ok(stages);
    }

    observe(Stage::Schedule);
    let start = Instant::now();
    let (module, func) = expand(&module, func).map_err(|message| fail(Diagnostic::verify(message).into()))?;
    let program = schedule(&module, func, &Machine::default()).map_err(|error| fail(error.into()))?;
    if options.verify {
        plan::verify::verify(&program).map_err(fail)?;
    }
    stages.timings.push(("schedule", start.elapsed()));
    stages.program = Some(program);
    Ok(stages)
}

/// No tensor has more bytes than a processor can address: sizes beyond that are mistakes, and arithmetic on them overflows.
const MAX_TENSOR_BYTES: i64 = 1 << 47;

/// Refuses tensors that are too large at the smallest run-time sizes: the first one of `func` and of each loop body.
fn check_sizes(module: &Module, func: FuncId) -> Result<(), Diagnostics> {
    let smallest = module.dims.iter().filter_map(|decl| match decl.kind {
        DimKind::RunTime { lo, .. } => Some((decl.name.clone(), lo)),
        DimKind::Static(_) => None,
    });
    let smallest: SizeEnv = smallest.collect();
    let is_too_large = |ty: &TensorType| {
        let extents = ty.shape.iter().map(|dim| dim.eval(&smallest));
        let bytes = extents.into_iter().try_fold(ty.dtype.size_bytes() as i64, |bytes, extent| {
            extent.ok().and_then(|extent| bytes.checked_mul(extent))
        });
        bytes.is_none_or(|bytes| bytes > MAX_TENSOR_BYTES)
    };
    let mut errors = Vec::new();
    let others = module.funcs.iter().filter(|func| !func.exported);
    for func in std::iter::once(module.func(func)).chain(others) {
        let Some(value) = func.values.iter().find(|value| is_too_large(&value.ty)) else { continue };
        let span = match value.def {
            Def::Input(idx) => func.inputs.get(idx as usize).map_or(func.span, |input| input.span),
            Def::Node { node, .. } => func.nodes.get(node as usize).map_or(func.span, |node| node.span),
        };
        let message =
            format!("a tensor of `{}` is {}, which has more bytes than memory has", func.name, value.ty);
        errors.push(Diagnostic::input(span, message).help("use smaller sizes"));
    }
    Diagnostics(errors).into_result(())
}

fn saturate(module: &Module, func: FuncId, options: &Options) -> Result<Optimized, Diagnostics> {
    let saturation = eqsat::Options { math: options.math, ..Default::default() };
    let optimized = eqsat::optimize(module, func, &saturation, &KernelCost::default())?;
    if options.verify {
        verify(&optimized.module)?;
    }
    Ok(optimized)
}

/// Compiles the kernels of `program` and joins them with threads.
fn emit(program: Program, options: &Options, stages: &mut Stages) -> Result<Executable, Diagnostics> {
    let start = Instant::now();
    let image = cpu::jit(&program.kernels, cpu::Options { listings: options.listings })?;
    stages.listings = image.listings().to_vec();
    let pool = options.pool.clone().unwrap_or_default();
    let executable = Executable::new(program, Arc::new(Code(image)), pool)?;
    stages.timings.push(("emit", start.elapsed()));
    Ok(executable)
}

/// The text of one stage, as `inspect` prints it.
///
/// Errors: as [`compile`]; a stage that the spec's level does not have (input), or that this build lacks (device).
pub fn stage_text(
    spec: &Spec,
    options: &Options,
    stage: Stage,
    observe: &mut dyn FnMut(Stage),
) -> Result<String, Error> {
    if matches!(stage, Stage::Mlir | Stage::Llvm | Stage::Ptx) {
        Target::Ptx.check()?;
    }
    let mut stages = lower(spec, options, stage, observe)?;
    let above = || {
        let message = format!("the spec is a plan, which has no stage `{}`", stage.name());
        spec.error(Diagnostic::input(Default::default(), message))
    };
    match stage {
        Stage::Tensor => {
            let (module, _) = stages.tensor.as_ref().ok_or_else(above)?;
            Ok(tensor::text::print(module))
        }
        Stage::Eqsat => Ok(tensor::text::print(&stages.optimized.as_ref().ok_or_else(above)?.module)),
        _ => {
            let program = stages.program.take().ok_or_else(above)?;
            let of_program = program_text(program, options, stage, &mut stages);
            of_program.map_err(|errors| spec.error(errors))
        }
    }
}

/// The report on a plan at the default values of its run-time sizes, or 1024 where there is none.
///
/// Errors: as [`schedule_report::report`].
pub fn schedule_of(program: &Program) -> Result<ScheduleReport, Diagnostic> {
    let sizes = program.sizes.iter().map(|size| {
        let (lo, hi) = size.bounds;
        (size.name.clone(), size.default.unwrap_or_else(|| 1024.clamp(lo, hi.max(lo))))
    });
    schedule_report::report(program, &sizes.collect())
}

fn program_text(
    program: Program,
    options: &Options,
    stage: Stage,
    stages: &mut Stages,
) -> Result<String, Diagnostics> {
    if stage == Stage::Plan {
        return Ok(plan::text::print(&program));
    }
    if stage == Stage::Schedule {
        return Ok(schedule_of(&program)?.text());
    }
    if stage == Stage::Kernel {
        let kernels: Vec<String> = program.kernels.iter().map(kernel::text::print).collect();
        return Ok(kernels.join("\n"));
    }
    emit(program, &Options { listings: true, ..options.clone() }, stages)?;
    let texts = stages.listings.iter().map(|listing| match stage {
        Stage::Clif => format!("; kernel @{}\n{}\n", listing.name, listing.clif),
        _ => format!("; kernel @{}\n{}\n", listing.name, listing.asm),
    });
    Ok(texts.collect())
}
