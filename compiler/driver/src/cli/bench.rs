//! `birkhoff bench`: how fast a function is, and how fast it could be.

use super::Failure;
use super::args::BenchArgs;
use super::progress::Progress;
use birkhoff::bench::{Bench, BenchReport, bench};
use birkhoff::file_inputs::{FileInputs, bind_sizes};
use birkhoff::files::write_atomically;
use birkhoff::ir::diag::{Diagnostic, Span};
use birkhoff::tensor_file::TensorFile;
use birkhoff::{Cotangents, Options, Pool, Spec, Target, View, compile_observed};
use serde_json::Value;
use std::io::Write;

/// Measures a function on each target that is asked for; gives what is to be printed.
pub fn run(args: &BenchArgs) -> Result<String, Failure> {
    for target in &args.target {
        target.check()?;
    }
    let progress = Progress::start();
    let spec = args.spec.differentiated(args.spec.load()?, Cotangents::All)?;
    let file = args.input.as_ref().map(TensorFile::open).transpose()?;
    let spec = match &file {
        Some(file) => bind_sizes(&spec, file)?,
        None => spec,
    };
    let reports = args
        .target
        .iter()
        .map(|target| measured(args, &spec, file.as_ref(), *target, &progress))
        .collect::<Result<Vec<BenchReport>, Failure>>()?;
    if let (Some(path), Some(report)) = (&args.trace, reports.last()) {
        write_atomically(path, |file| writeln!(file, "{}", report.chrome_trace())).map_err(|error| {
            let message = format!("the trace `{}` cannot be written: {error}", path.display());
            Diagnostic::input(Span::NONE, message)
        })?;
    }
    Ok(match reports.as_slice() {
        [report] if args.spec.json => format!("{:#}\n", report.json()),
        reports if args.spec.json => {
            format!("{:#}\n", Value::Array(reports.iter().map(BenchReport::json).collect()))
        }
        reports => reports.iter().map(BenchReport::text).collect::<Vec<_>>().join("\n"),
    })
}

/// The report of one target.
fn measured(
    args: &BenchArgs,
    spec: &Spec,
    file: Option<&TensorFile>,
    target: Target,
    progress: &Progress,
) -> Result<BenchReport, Failure> {
    let pool = match args.threads {
        Some(n_threads) => Pool::new(usize::from(n_threads))?,
        None => Pool::default(),
    };
    let options = Options { pool: Some(pool), verify: false, ..args.spec.options(target) };
    let function = compile_observed(spec, &options, &mut |stage| progress.step(stage.doing()))?;
    progress.step("reading inputs");
    let (from_file, random);
    let views: Vec<View<'_>> = match file {
        Some(file) => {
            from_file = FileInputs::read(spec, &function, file)?;
            from_file.views()
        }
        None => {
            random = function.random_inputs(args.seed)?;
            random.iter().map(birkhoff::Buffer::view).collect()
        }
    };
    progress.step("measuring");
    let (warmup, runs) = (usize::from(args.warmup), usize::from(args.runs));
    Ok(bench(&function, &views, &Bench { warmup, runs })?)
}
