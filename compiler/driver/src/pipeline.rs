//! The way of a spec, top to bottom: bind, verify, differentiate, saturate, schedule, emit, load.
//!
//! In: a [`Spec`] and [`Options`]. Out: the result of every stage ([`Stages`]), or a [`Function`] that can be called. The IR
//! is verified as it comes in, and after every pass where [`Options::verify`] says so; an error there is ours.
//! Deliberately absent: passes, and files.

use crate::engine::{Code, Engine};
use crate::error::Error;
use crate::function::Function;
use crate::limits::check_sizes;
use crate::loop_choice::{
    LoopChoice, LoopReport, RangeChoice, Weights, has_auto, has_vjp, price, with_reruns,
};
use crate::options::{Options, Stage};
use crate::signature::Signature;
use crate::spec::{Content, Spec};
use crate::target::Target;
use birkhoff_codegen::cpu;
#[cfg(feature = "ptx")]
use birkhoff_codegen::llvm;
use birkhoff_compiler::eqsat::{self, Class, Optimized};
use birkhoff_compiler::expand::{differentiate, expand};
use birkhoff_compiler::lower::loops::reversed_loops;
use birkhoff_compiler::lower::price::{KernelCost, Planned, Planner};
use birkhoff_compiler::scaling::{Scaled, scaled};
#[cfg(feature = "ptx")]
use birkhoff_compiler::schedule;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::guard::guarded;
use birkhoff_ir::plan::{self, Program};
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{FuncId, Module};
use birkhoff_runtime::Executable;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the stages made, as far as they ran.
#[derive(Clone, Default)]
pub struct Stages {
    /// What it is compiled for.
    pub target: Target,
    /// The bound module and the function in it; `None` if the spec was a plan.
    pub tensor: Option<(Module, FuncId)>,
    /// The function with its derivatives written out, and the loop bodies it uses.
    pub derived: Option<(Module, FuncId)>,
    /// After equality saturation.
    pub optimized: Option<Optimized>,
    /// The loops that are taken back, and where their iterates are.
    pub loops: LoopReport,
    /// The plan with its kernels.
    pub program: Option<Program>,
    /// How the function became that is run first, if one is that is right within a range only.
    pub in_range: Option<Box<Stages>>,
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
    let (signature, engine) = match (stages.tensor.as_ref(), stages.program.take()) {
        (Some((module, func)), None) => {
            (Signature::of_func(module, *func), Engine::Tensor(module.clone(), *func))
        }
        (tensor, Some(program)) => {
            let of_program = Signature::of_program(&program);
            // A plan renames arrays where an output has the name of an input; users know them by the module's names.
            let signature = match tensor {
                Some((module, func)) => {
                    Signature { sizes: of_program.sizes, ..Signature::of_func(module, *func) }
                }
                None => of_program,
            };
            observe(Stage::Asm);
            let engine = engine_of(program, options, &mut stages).map_err(|errors| spec.error(errors))?;
            (signature, engine)
        }
        (None, None) => return Err(Diagnostic::verify("a spec became neither a module nor a plan").into()),
    };
    let (given, source) = (spec.given_sizes(), spec.source().cloned());
    Ok(Function { signature, engine, given, stages, source })
}

/// Who runs a plan on the target of the options.
fn engine_of(program: Program, options: &Options, stages: &mut Stages) -> Result<Engine, Diagnostics> {
    match options.target {
        target if target.is_native() => Ok(Engine::Cpu(emit(program, options, stages)?)),
        #[cfg(feature = "ptx")]
        Target::PtxSim | Target::Cuda => {
            Ok(Engine::Device(crate::device::DeviceEngine::new(program, options, stages)?))
        }
        Target::Ptx => {
            let message = format!("the target `{}` only compiles; nothing runs it", options.target);
            let help = "run `ptx-sim`, `cuda` where there is a GPU, or a target of this processor";
            Err(Diagnostic::device(message).help(help).into())
        }
        _ => Ok(Engine::Kernels(program)),
    }
}

/// Compiles a function over primitives that a pass made of a spec; its stages are its own.
///
/// Errors: an op that the target lacks (unsupported).
pub(crate) fn compile_primitives(
    module: Module,
    func: FuncId,
    options: &Options,
) -> Result<Function, Diagnostics> {
    let signature = Signature::of_func(&module, func);
    let mut stages =
        Stages { target: options.target, tensor: Some((module.clone(), func)), ..Stages::default() };
    if options.verify {
        verify(&module)?;
    }
    let engine = match options.target {
        Target::Eval => Engine::Tensor(module, func),
        _ => {
            let Planned { program, rotation } = Planner::new(cost_of(options)).plan(&module, func)?;
            stages.loops.rotation = rotation;
            if options.verify {
                plan::verify::verify(&program)?;
            }
            engine_of(program, options, &mut stages)?
        }
    };
    Ok(Function { signature, engine, given: SizeEnv::new(), stages, source: None })
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
    // An object has no undefined symbols, so all of it is generated.
    let options = Options { library_contractions: false, ..options.clone() };
    let stages = lower(spec, &options, Stage::Plan, observe)?;
    observe(Stage::Asm);
    let program = stages.program.ok_or_else(|| Diagnostic::verify("scheduling made no plan"))?;
    cpu::object(&program).map_err(|errors| spec.error(errors))
}

/// Compiles a spec to PTX, with its manifest.
///
/// Errors: as [`compile`].
#[cfg(feature = "ptx")]
pub fn compile_ptx(
    spec: &Spec,
    options: &Options,
    observe: &mut dyn FnMut(Stage),
) -> Result<crate::ptx::PtxModule, Error> {
    let options = Options { target: Target::Ptx, ..options.clone() };
    let mut stages = lower(spec, &options, Stage::Plan, observe)?;
    observe(Stage::Ptx);
    let program = stages.program.take().ok_or_else(|| Diagnostic::verify("scheduling made no plan"))?;
    crate::ptx::compile(&program, &options, &mut stages).map_err(|errors| spec.error(errors))
}

/// Runs the stages up to `until`, as far as the spec's level allows; further, where a later one decides what an earlier one is.
///
/// Errors: as [`compile`].
pub fn lower(
    spec: &Spec,
    options: &Options,
    until: Stage,
    observe: &mut dyn FnMut(Stage),
) -> Result<Stages, Error> {
    let mut stages = Stages { target: options.target, ..Stages::default() };
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

    let way = Way { spec, options };
    way.loops(&bound, func, until, observe, &mut stages)?;
    if stages.program.is_some() && !matches!(until, Stage::Grad | Stage::Eqsat) {
        way.in_range(&bound, func, &mut stages)?;
    }
    Ok(stages)
}

/// What stays the same while passes run.
struct Way<'a> {
    spec: &'a Spec,
    options: &'a Options,
}

impl Way<'_> {
    /// [`Way::passes`], with what is cheaper for loops that are taken back.
    fn loops(
        &self,
        bound: &Module,
        func: FuncId,
        until: Stage,
        observe: &mut dyn FnMut(Stage),
        stages: &mut Stages,
    ) -> Result<(), Error> {
        // Which loops run again is told by plans, so every later stage waits for them.
        if !has_auto(bound) {
            return self.passes(bound, func, until, observe, stages);
        }
        let mut again = stages.clone();
        if self.passes(bound, func, Stage::Plan, observe, stages).is_err() {
            // What no kernel can compute has no prices; it can be looked at as far as it goes.
            self.passes(bound, func, until, observe, &mut again)?;
            *stages = again;
            return Ok(());
        }
        if stages.loops.spills() {
            self.passes(&with_reruns(bound), func, Stage::Plan, observe, &mut again)?;
            self.decide(stages, again);
        }
        Ok(())
    }

    /// Puts a plan that is right within a range in front, if there is one and it is cheaper.
    fn in_range(&self, bound: &Module, func: FuncId, stages: &mut Stages) -> Result<(), Error> {
        let fail = |errors: Diagnostics| self.spec.error(errors);
        if !self.options.math.allows(Class::Reassociates) {
            return Ok(());
        }
        let start = Instant::now();
        let others = scaled(bound, func).map_err(|message| fail(Diagnostic::verify(message).into()))?;
        let cost = cost_of(self.options);
        let price_of = |stages: &Stages| {
            stages.program.as_ref().map_or(f64::INFINITY, |program| price(bound, program, &cost))
        };
        let mut best: Option<(f64, Stages)> = None;
        for Scaled { module, func, saving } in others {
            let weights = saving
                .zip(stages.program.as_ref())
                .map(|(saving, program)| Weights::of(bound, program, saving));
            stages.loops.weights = weights.or(stages.loops.weights);
            if weights.is_some_and(|weights| !weights.are_promising()) {
                continue;
            }
            if self.options.verify {
                verify(&module).map_err(fail)?;
            }
            let mut fast = Stages { target: stages.target, ..Stages::default() };
            self.loops(&module, func, Stage::Plan, &mut |_| (), &mut fast)?;
            let price = price_of(&fast);
            if best.as_ref().is_none_or(|(least, _)| price < *least) {
                best = Some((price, fast));
            }
        }
        let Some((in_range, mut fast)) = best else { return Ok(()) };
        let choice = RangeChoice { everywhere: price_of(stages), in_range };
        stages.loops.range = Some(choice);
        if choice.is_taken()
            && let (Some(program), Some(otherwise)) = (fast.program.take(), stages.program.take())
        {
            let joint = guarded(program, otherwise).map_err(|error| fail(error.into()))?;
            if self.options.verify {
                plan::verify::verify(&joint).map_err(fail)?;
            }
            stages.program = Some(joint);
            stages.in_range = Some(Box::new(fast));
        }
        stages.timings.push(("range", start.elapsed()));
        Ok(())
    }

    /// Differentiates, saturates, and schedules a bound function, as far as `until`.
    fn passes(
        &self,
        bound: &Module,
        func: FuncId,
        until: Stage,
        observe: &mut dyn FnMut(Stage),
        stages: &mut Stages,
    ) -> Result<(), Error> {
        let (options, fail) = (self.options, |errors: Diagnostics| self.spec.error(errors));
        let is_reversed = has_vjp(bound);
        observe(Stage::Grad);
        let start = Instant::now();
        let (bound, func) =
            differentiate(bound, func).map_err(|message| fail(Diagnostic::verify(message).into()))?;
        if options.verify {
            verify(&bound).map_err(fail)?;
        }
        stages.timings.push(("grad", start.elapsed()));
        stages.derived = Some((bound.clone(), func));
        if until == Stage::Grad {
            return Ok(());
        }

        observe(Stage::Eqsat);
        let start = Instant::now();
        let planner = Planner::new(cost_of(options));
        let optimized = saturate(&bound, func, options, &planner).map_err(fail)?;
        stages.timings.push(("eqsat", start.elapsed()));
        let (module, func) = (optimized.module.clone(), optimized.func);
        stages.optimized = Some(optimized);
        if until == Stage::Eqsat {
            return Ok(());
        }

        observe(Stage::Schedule);
        let start = Instant::now();
        let (module, func) =
            expand(&module, func).map_err(|message| fail(Diagnostic::verify(message).into()))?;
        if options.verify {
            verify(&module).map_err(fail)?;
        }
        let Planned { program, rotation } =
            planner.plan(&module, func).map_err(|error| fail(error.into()))?;
        if options.verify {
            plan::verify::verify(&program).map_err(fail)?;
        }
        if is_reversed {
            stages.loops.loops = reversed_loops(&module, func, &cost_of(options).target);
        }
        stages.loops.rotation = rotation;
        stages.timings.push(("schedule", start.elapsed()));
        stages.program = Some(program);
        Ok(())
    }

    /// Takes the cheaper of two programs: `kept`, in which loops stack their iterates, or `again`, in which they run twice.
    fn decide(&self, kept: &mut Stages, again: Stages) {
        let price_of = |stages: &Stages| match (&stages.optimized, &stages.program) {
            (Some(optimized), Some(program)) => price(&optimized.module, program, &cost_of(self.options)),
            _ => f64::INFINITY,
        };
        let choice = LoopChoice { stash_price: price_of(kept), rerun_price: price_of(&again) };
        // Both were made.
        let mut timings = std::mem::take(&mut kept.timings);
        for (what, took) in &again.timings {
            if *what == "bind" {
                continue;
            }
            if let Some((_, sum)) = timings.iter_mut().find(|(other, _)| other == what) {
                *sum += *took;
            }
        }
        if choice.reruns() {
            *kept = again;
        }
        kept.timings = timings;
        kept.loops.choice = Some(choice);
    }
}

/// What programs cost on the target of the options.
pub(crate) fn cost_of(options: &Options) -> KernelCost {
    let mut cost = match options.target {
        target if target.is_gpu() => KernelCost::gpu(),
        #[cfg(feature = "ptx")]
        Target::CpuLlvm => match llvm::vectors() {
            Ok(vectors) => {
                let (target, narrow) =
                    (schedule::Target::vectors(vectors.bits, vectors.count), KernelCost::default());
                // Of the widest vectors, a core starts half as many a second.
                let rate = if vectors.bits > 256 { 0.5 * narrow.rate } else { narrow.rate };
                KernelCost { target, rate, ..narrow }
            }
            // Who emits for this machine will say why it cannot.
            Err(_) => KernelCost::default(),
        },
        _ => KernelCost::default(),
    };
    cost.target.library_contractions &= options.library_contractions;
    cost
}

fn saturate(
    module: &Module,
    func: FuncId,
    options: &Options,
    planner: &Planner,
) -> Result<Optimized, Diagnostics> {
    let saturation = eqsat::Options { math: options.math, ..Default::default() };
    let optimized = eqsat::optimize(module, func, &saturation, planner)?;
    if options.verify {
        verify(&optimized.module)?;
    }
    Ok(optimized)
}

/// Compiles the kernels of `program` and joins them with threads.
pub(crate) fn emit(
    program: Program,
    options: &Options,
    stages: &mut Stages,
) -> Result<Executable, Diagnostics> {
    let start = Instant::now();
    let listings = options.listings;
    let code = match options.target {
        #[cfg(feature = "ptx")]
        Target::CpuLlvm => {
            Code::Llvm(llvm::jit(&program.kernels, llvm::Options { listings, ..Default::default() })?)
        }
        _ => Code::Cranelift(Box::new(cpu::jit(&program.kernels, cpu::Options { listings })?)),
    };
    stages.listings = code.listings().to_vec();
    let pool = options.pool.clone().unwrap_or_default();
    let executable = Executable::new(program, Arc::new(code), pool)?;
    stages.timings.push(("emit", start.elapsed()));
    Ok(executable)
}
