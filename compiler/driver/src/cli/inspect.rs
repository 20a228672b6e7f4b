//! `birkhoff inspect`: a function at one stage.

use super::Failure;
use super::args::InspectArgs;
use super::progress::Progress;
use birkhoff::ir::diag::Diagnostic;
use birkhoff::{Options, Stage, lower, schedule_of, stage_text};
use serde_json::json;
use similar::TextDiff;

/// Unchanged lines around a difference.
const CONTEXT_LINES: usize = 3;

/// Gives the text of a stage, or the difference between two.
pub fn inspect(args: &InspectArgs) -> Result<String, Failure> {
    let progress = Progress::start();
    let options = Options { arch: args.arch.clone(), ..args.spec.options(args.target) };
    let text_of = |stage: Stage| -> Result<String, Failure> {
        let spec = load(args)?;
        Ok(stage_text(&spec, &options, stage, &mut |stage| progress.step(stage.doing()))?)
    };
    if args.spec.json && args.stage == Stage::Schedule && args.diff.is_none() {
        let spec = load(args)?;
        let stages = lower(&spec, &options, args.stage, &mut |stage| progress.step(stage.doing()))?;
        let program = stages.program.ok_or_else(|| Diagnostic::verify("scheduling made no plan"))?;
        return Ok(format!("{:#}\n", schedule_of(&program)?.with_loops(&stages.loops).json()));
    }
    let to = text_of(args.stage)?;
    let text = match args.diff {
        None => to,
        Some(stage) => {
            let from = text_of(stage)?;
            let diff = TextDiff::from_lines(&from, &to);
            let mut unified = diff.unified_diff();
            unified.context_radius(CONTEXT_LINES).header(stage.name(), args.stage.name()).to_string()
        }
    };
    if !args.spec.json {
        return Ok(text);
    }
    let diff_from = args.diff.map(Stage::name);
    Ok(format!("{:#}\n", json!({ "stage": args.stage.name(), "diff_from": diff_from, "text": text })))
}

fn load(args: &InspectArgs) -> Result<birkhoff::Spec, birkhoff::Error> {
    args.spec.differentiated(args.spec.load()?, birkhoff::Cotangents::All)
}
