//! What `inspect` prints: the text of one stage.
//!
//! In: a spec and a stage. Out: text that parses again where the stage is a level of IR.

use crate::error::Error;
use crate::options::{Options, Stage};
use crate::pipeline::{Stages, emit, lower};
use crate::schedule_report::{self, ScheduleReport};
use crate::spec::Spec;
use crate::target::Target;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::plan::{self, Program};
use birkhoff_ir::tensor::{Attr, Module};
use birkhoff_ir::{kernel, tensor};

/// The text of one stage, as `inspect` prints it.
///
/// Errors: as [`compile`](crate::compile); a stage that the spec's level does not have (input), or that this build lacks (device).
pub fn stage_text(
    spec: &Spec,
    options: &Options,
    stage: Stage,
    observe: &mut dyn FnMut(Stage),
) -> Result<String, Error> {
    let mut options = options.clone();
    let is_native_llvm = stage == Stage::Llvm && options.target == Target::CpuLlvm;
    if stage.is_of_ptx() && !is_native_llvm {
        Target::Ptx.check()?;
        options.target = Target::Ptx;
    }
    options.target.check()?;
    if stage == Stage::Clif && options.target == Target::CpuLlvm {
        let message = format!("the target `{}` has no stage `{}`", options.target, stage.name());
        return Err(Diagnostic::input(Default::default(), message)
            .help(format!("its IR is the stage `{}`", Stage::Llvm.name()))
            .into());
    }
    let options = &options;
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
        Stage::Grad | Stage::Eqsat => {
            let of = |stages: &Stages| match stage {
                Stage::Grad => stages.derived.as_ref().map(|(module, _)| module.clone()),
                _ => stages.optimized.as_ref().map(|optimized| optimized.module.clone()),
            };
            let mut module = of(&stages).ok_or_else(above)?;
            // What cannot be scheduled can be looked at.
            if let Ok(Some(fast)) = lower(spec, options, Stage::Plan, observe).map(|all| all.in_range) {
                append(&mut module, &of(&fast).unwrap_or_default());
            }
            Ok(tensor::text::print(&module))
        }
        _ => {
            let program = stages.program.take().ok_or_else(above)?;
            let of_program = program_text(program, options, stage, &mut stages);
            of_program.map_err(|errors| spec.error(errors))
        }
    }
}

/// Adds the functions of `other`, under names of their own.
fn append(module: &mut Module, other: &Module) {
    let first = module.funcs.len() as u32;
    for func in &other.funcs {
        let mut func = func.clone();
        for attr in func.nodes.iter_mut().flat_map(|node| &mut node.op.attrs) {
            if let Attr::Func(id) = attr {
                id.0 += first;
            }
        }
        while module.find(&func.name).is_some() {
            func.name.push_str("_in_range");
        }
        module.funcs.push(func);
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
        return Ok(schedule_of(&program)?.with_loops(&stages.loops).text());
    }
    if stage == Stage::Kernel {
        let kernels: Vec<String> = program.kernels.iter().map(kernel::text::print).collect();
        return Ok(kernels.join("\n"));
    }
    #[cfg(feature = "ptx")]
    if options.target == Target::Ptx && stage.is_of_ptx() {
        return crate::ptx::stage_text(&program, options, stage);
    }
    emit(program, &Options { listings: true, ..options.clone() }, stages)?;
    let texts = stages.listings.iter().map(|listing| match stage {
        Stage::Clif | Stage::Llvm => format!("; kernel @{}\n{}\n", listing.name, listing.ir),
        _ => format!("; kernel @{}\n{}\n", listing.name, listing.asm),
    });
    Ok(texts.collect())
}
