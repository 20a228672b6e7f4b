//! `birkhoff run`: a function on data.

use super::Failure;
use super::args::RunArgs;
use super::progress::Progress;
use super::report::{self, RunFacts};
use birkhoff::elements::{convert, widens};
use birkhoff::ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff::ir::dim::Sym;
use birkhoff::ir::tensor::TensorType;
use birkhoff::tensor_file::{FileTensor, TensorFile, write_tensors};
use birkhoff::{Buffer, Error, Function, Inputs, Options, Outputs, Pool, Spec, View, compile_observed};
use std::collections::BTreeMap;
use std::time::Instant;

/// Beginnings of names that an input file may hold for other purposes.
const IGNORED_PREFIXES: [&str; 4] = ["out.", "grad.", "f64.", "ct."];

/// Runs a function; gives what is to be printed.
pub fn run(args: &RunArgs) -> Result<String, Failure> {
    let progress = Progress::start();
    args.target.check()?;
    let spec = args.spec.load()?;
    let file = args.input.as_ref().map(TensorFile::open).transpose()?;
    let spec = match &file {
        Some(file) => spec_for_file(&spec, file)?,
        None => spec,
    };
    let pool = match args.threads {
        Some(n_threads) => Pool::new(usize::from(n_threads))?,
        None => Pool::default(),
    };
    let options = Options { pool: Some(pool.clone()), ..args.spec.options(args.target) };
    let function = compile_observed(&spec, &options, &mut |stage| progress.step(stage.doing()))?;
    progress.step("reading inputs");
    let arrays = match (&file, args.random) {
        (Some(file), _) => inputs_from_file(&function, &spec, file)?,
        (None, Some(seed)) => {
            function.random_inputs(seed)?.into_iter().map(|buffer| Array::Owned(Box::new(buffer))).collect()
        }
        (None, None) if function.signature().inputs.is_empty() => vec![],
        (None, None) => {
            let message = format!("{} takes inputs: give --in FILE or --random SEED", function.signature());
            return Err(Failure::Usage(message));
        }
    };
    progress.step("running");
    let inputs = function
        .signature()
        .inputs
        .iter()
        .zip(&arrays)
        .fold(Inputs::new(), |inputs, ((name, _), array)| inputs.view(name, array.view()));
    let start = Instant::now();
    let outputs = function.call(&inputs).map_err(|error| match &file {
        Some(file) => Error::in_file(Diagnostics(error.diagnostics().to_vec()), file.path().display()),
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
    };
    match (args.spec.json, &args.output) {
        (true, _) => Ok(report::json(&facts, &outputs)),
        (false, Some(_)) => Ok(String::new()),
        (false, None) => Ok(report::text(&facts, &outputs)),
    }
}

fn named(outputs: &Outputs) -> BTreeMap<String, View<'_>> {
    outputs.iter().map(|(name, buffer)| (format!("out.{name}"), buffer.view())).collect()
}

/// An input of the call.
enum Array<'a> {
    File(FileTensor<'a>),
    Owned(Box<Buffer>),
}

impl Array<'_> {
    fn view(&self) -> View<'_> {
        match self {
            Array::File(tensor) => tensor.view(),
            Array::Owned(buffer) => buffer.view(),
        }
    }
}

/// The spec with sizes from a file's shapes. The file's names are checked first: a missing input explains more than a size
/// without a value.
fn spec_for_file(spec: &Spec, file: &TensorFile) -> Result<Spec, Failure> {
    let signature = spec.open_signature()?;
    let mut errors = Vec::new();
    for name in file.names() {
        let ignored = IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !ignored && !spec.has_input(name) {
            let list: Vec<&str> = signature.inputs.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("the file has a tensor `{name}`, which is no input of the spec");
            errors.push(Diagnostic::input(Span::NONE, message).help(format!(
                "the inputs of `{}` are: {}",
                signature.name,
                list.join(", ")
            )));
        }
    }
    for (name, ty) in &signature.inputs {
        if file.info(name).is_none() {
            let message = format!("the input `{name}`: {ty} is missing in the file");
            errors.push(Diagnostic::input(Span::NONE, message));
        }
    }
    let in_file = |errors: Diagnostics| Error::in_file(errors, file.path().display());
    Diagnostics(errors).into_result(()).map_err(in_file)?;
    let shape_of = |name: &str| file.info(name).map(|(_, shape)| shape.to_vec());
    let bound = spec.for_shapes(&shape_of);
    Ok(bound.map_err(|error| in_file(Diagnostics(error.diagnostics().to_vec())))?)
}

fn inputs_from_file<'a>(
    function: &Function,
    spec: &Spec,
    file: &'a TensorFile,
) -> Result<Vec<Array<'a>>, Failure> {
    let mut errors = Vec::new();
    let mut arrays = Vec::new();
    for (name, ty) in &function.signature().inputs {
        match input_from_file(name, ty, spec, file) {
            Ok(array) => arrays.push(array),
            Err(error) => errors.push(error),
        }
    }
    let result = Diagnostics(errors).into_result(arrays);
    Ok(result.map_err(|errors| Error::in_file(errors, file.path().display()))?)
}

fn input_from_file<'a>(
    name: &Sym,
    ty: &TensorType,
    spec: &Spec,
    file: &'a TensorFile,
) -> Result<Array<'a>, Diagnostic> {
    let tensor = file.tensor(name)?;
    let found = tensor.view().dtype();
    if found == ty.dtype {
        return Ok(Array::File(tensor));
    }
    // Only where the user asked for another type than the spec's is the file allowed to lag behind.
    if spec.float_type().is_some() && widens(found, ty.dtype) {
        return convert(&tensor.view(), ty.dtype).map(|buffer| Array::Owned(Box::new(buffer)));
    }
    Err(Diagnostic::input(Span::NONE, format!("the input `{name}` must be {ty}, found elements of {found}")))
}
