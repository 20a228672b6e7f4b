//! `birkhoff run`: a function on data.

use super::Failure;
use super::args::RunArgs;
use super::progress::Progress;
use super::report::{self, RunFacts};
use birkhoff::file_inputs::{FileInputs, bind_sizes};
use birkhoff::ir::diag::{Diagnostic, Span};
use birkhoff::tensor_file::{TensorFile, write_tensors};
use birkhoff::{Cotangents, Function, Inputs, Loops, Options, Outputs, Pool, Signature, Spec, View};
use birkhoff::{compile, compile_observed};
use std::collections::BTreeMap;
use std::time::Instant;

/// Runs a function; gives what is to be printed.
pub fn run(args: &RunArgs) -> Result<String, Failure> {
    let progress = Progress::start();
    args.target.check()?;
    let spec = args.spec.load()?;
    let file = args.input.as_ref().map(TensorFile::open).transpose()?;
    let cotangents = cotangents(&spec.open_signature()?, file.as_ref());
    let plain = spec.clone();
    let spec = args.spec.differentiated(spec, cotangents.clone())?;
    let signature = spec.open_signature()?;
    if args.input.is_none() && args.random.is_none() && !signature.inputs.is_empty() {
        return Err(Failure::Usage(format!("{signature} takes inputs: give --in FILE or --random SEED")));
    }
    let spec = bound(spec, file.as_ref())?;
    let pool = match args.threads {
        Some(n_threads) => Pool::new(usize::from(n_threads))?,
        None => Pool::default(),
    };
    let options = Options { pool: Some(pool.clone()), ..args.spec.options(args.target) };
    let function = compile_observed(&spec, &options, &mut |stage| progress.step(stage.doing()))?;
    progress.step("reading inputs");
    let random;
    let from_file;
    let inputs = match (&file, args.random) {
        (Some(file), _) => {
            from_file = FileInputs::read(&spec, &function, file)?;
            from_file.inputs()
        }
        (None, Some(seed)) => {
            random = function.random_inputs(seed)?;
            let named = function.signature().inputs.iter().zip(&random);
            named.fold(Inputs::new(), |inputs, ((name, _), buffer)| inputs.view(name, buffer.view()))
        }
        (None, None) => Inputs::new(),
    };
    let others =
        Others { args, plain: &plain, cotangents: &cotangents, options: &options, file: file.as_ref() };
    let function = match args.memory_budget {
        Some(budget) => others.within(function, &inputs, budget)?,
        None => function,
    };
    progress.step("running");
    let start = Instant::now();
    let outputs = function.call(&inputs).map_err(|error| match &file {
        Some(file) => error.about_file(file.path().display()),
        None => error,
    })?;
    let mut timings = function.timings().to_vec();
    timings.push(("call", start.elapsed()));
    if let Some(path) = &args.output {
        progress.step("writing outputs");
        write_tensors(path, &named(&outputs))?;
    }
    let facts = RunFacts {
        signature: function.signature(),
        target: args.target,
        n_threads: pool.n_threads(),
        timings: &timings,
        tells_memory: !args.spec.grad.is_empty(),
    };
    match (args.spec.json, &args.output) {
        (true, _) => Ok(report::json(&facts, &outputs)),
        (false, Some(_)) => Ok(String::new()),
        (false, None) => Ok(report::text(&facts, &outputs)),
    }
}

/// The spec with the compile-time sizes of the file's arrays.
fn bound(spec: Spec, file: Option<&TensorFile>) -> Result<Spec, Failure> {
    Ok(match file {
        Some(file) => bind_sizes(&spec, file)?,
        None => spec,
    })
}

/// What it takes to compile the function another way.
struct Others<'a> {
    args: &'a RunArgs,
    plain: &'a Spec,
    cotangents: &'a Cotangents,
    options: &'a Options,
    file: Option<&'a TensorFile>,
}

impl Others<'_> {
    /// `function` if its call fits the budget; else another way to take loops back that does.
    fn within(&self, function: Function, inputs: &Inputs<'_>, budget: u64) -> Result<Function, Failure> {
        let mut least = (function.memory(inputs)?.peak_bytes(), self.args.spec.loops);
        if least.0 <= budget {
            return Ok(function);
        }
        let may_choose = self.args.spec.loops == Loops::Auto;
        for loops in [Loops::Stash, Loops::Rerun, Loops::Rebuild].into_iter().filter(|_| may_choose) {
            let spec =
                self.args.spec.differentiated_with(self.plain.clone(), self.cotangents.clone(), loops)?;
            let other = compile(&bound(spec, self.file)?, self.options)?;
            let peak = other.memory(inputs)?.peak_bytes();
            if peak <= budget {
                return Ok(other);
            }
            if peak < least.0 {
                least = (peak, loops);
            }
        }
        let message = format!("no way to compute these gradients fits {budget} bytes");
        let (peak, loops) = least;
        let help = format!("the least is {peak} bytes, with --loops {}", loops.name());
        Err(Diagnostic::input(Span::NONE, message).help(help).into())
    }
}

/// The outputs that have a cotangent: those of which the file holds one, or all if inputs are random; without any, the only
/// scalar output.
fn cotangents(signature: &Signature, file: Option<&TensorFile>) -> Cotangents {
    let floats = signature.outputs.iter().filter(|(_, ty)| ty.dtype.is_float());
    if signature.outputs.len() == 1 && signature.outputs[0].1.rank() == 0 && file.is_none() {
        return Cotangents::Unit;
    }
    let Some(file) = file else { return Cotangents::All };
    let given =
        floats.map(|(name, _)| name.to_string()).filter(|name| file.info(&format!("ct.{name}")).is_some());
    let given: Vec<String> = given.collect();
    if given.is_empty() { Cotangents::Unit } else { Cotangents::Named(given) }
}

/// Outputs under the names they have in files.
fn named(outputs: &Outputs) -> BTreeMap<String, View<'_>> {
    let file_name = |name: &str| match name.starts_with("grad.") {
        true => name.to_string(),
        false => format!("out.{name}"),
    };
    outputs.iter().map(|(name, buffer)| (file_name(name), buffer.view())).collect()
}
