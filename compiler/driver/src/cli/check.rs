//! `birkhoff check`: derivatives against differences, targets against the evaluator.

use super::Failure;
use super::args::CheckArgs;
use super::progress::Progress;
use birkhoff::check::{Check, check, runnable};
use birkhoff::tensor_file::TensorFile;
use birkhoff::{Loops, Target};

/// Checks a spec; gives what is to be printed, and whether everything passed.
pub fn run(args: &CheckArgs) -> Result<(String, bool), Failure> {
    let progress = Progress::start();
    let spec = args.spec.load()?;
    let file = args.input.as_ref().map(TensorFile::open).transpose()?;
    let names = match (&args.spec.func, &file) {
        (Some(name), _) => vec![name.clone()],
        (None, None) => spec.functions(),
        // A file holds the inputs of one function.
        (None, Some(_)) => spec.functions().into_iter().take(1).collect(),
    };
    let ask = Check {
        wrt: args.spec.grad.clone(),
        loops: if args.spec.loops == Loops::Auto { vec![] } else { vec![args.spec.loops] },
        targets: if args.targets.is_empty() { runnable() } else { args.targets.clone() },
        seed: args.seed,
        options: args.spec.options(Target::Cpu),
    };
    let report = check(&spec, &names, file.as_ref(), &ask, &mut |doing| progress.step(doing))?;
    let text = if args.spec.json { format!("{:#}\n", report.json()) } else { report.text() };
    Ok((text, report.passes()))
}
