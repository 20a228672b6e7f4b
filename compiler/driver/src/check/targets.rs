//! Targets against the evaluator.
//!
//! In: a spec with its gradient as one function, and inputs in the spec's types. Out: a row per target and output.
//!
//! The reference is the tensor evaluator with every float f64. How far a target may be from it follows from the dtype and from
//! the evaluator itself: run with its floats rounded, it shows what rounding does to this function at this point. A target,
//! which may add in another order, may be off by [`AMPLIFIED`] times that, plus [`UNITS`] roundings of the largest element. In
//! f64, where there is nothing wider to compare with, the evaluator in f32 tells the same, scaled by the ratio of roundings.

use super::converted;
use super::report::{Row, Test, Worst, place};
use crate::arrays::Inputs;
use crate::elements::{fill, scalars};
use crate::engine::Engine;
use crate::error::Error;
use crate::function::Function;
use crate::options::Options;
use crate::pipeline::{compile, emit};
use crate::spec::Spec;
use crate::target::Target;
use birkhoff_ir::diag::{Diagnostic, ErrorKind, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_runtime::Buffer;

/// How many times the evaluator's own rounding error a target may be off.
const AMPLIFIED: f64 = 16.0;
/// How many roundings of the largest element a target may be off.
const UNITS: f64 = 64.0;

/// A spec's function as it is compared: its values and gradients.
pub struct Comparison<'a> {
    /// The spec, in its own types.
    pub spec: &'a Spec,
    /// Inputs in the spec's types, in order.
    pub inputs: &'a [Tensor],
    /// Run-time sizes.
    pub sizes: &'a SizeEnv,
    /// The targets.
    pub targets: &'a [Target],
    /// How the spec is compiled.
    pub options: &'a Options,
}

/// Results of one run, as the evaluator holds them.
type Results = Vec<(Sym, Tensor)>;

/// Compares all targets, in the spec's types and in f64.
///
/// Errors: those of compiling and running, but for ops that a target lacks.
pub fn compare(comparison: &Comparison<'_>) -> Result<Vec<Row>, Error> {
    if comparison.targets.is_empty() {
        return Ok(vec![]);
    }
    let wide = comparison.spec.clone().float(DType::F64);
    let exact = evaluated(&wide, comparison)?;
    let own = evaluated(comparison.spec, comparison)?;
    let single = evaluated(&comparison.spec.clone().float(DType::F32), comparison)?;
    let scale = unit(DType::F64) / unit(DType::F32);
    let mut rows = vec![];
    // A spec of f64 is compared once.
    let both = [(comparison.spec, false), (&wide, true)];
    let all_wide = own.iter().all(|(_, tensor)| !tensor.dtype().is_float() || tensor.dtype() == DType::F64);
    for (spec, in_f64) in both.into_iter().skip(usize::from(all_wide)) {
        let mut compiled: Option<Function> = None;
        for target in comparison.targets {
            let test = Test::Target { target: *target, in_f64 };
            let function = of_target(spec, *target, comparison.options, compiled.as_ref());
            let run = function.and_then(|function| Ok((called(&function, comparison.inputs)?, function)));
            let (found, function) = match run {
                Ok(run) => run,
                Err(error) => {
                    rows.push(without_numbers(test, error)?);
                    continue;
                }
            };
            for (idx, (name, found)) in found.iter().enumerate() {
                let (Some((_, exact)), Some((_, own)), Some((_, single))) =
                    (exact.get(idx), own.get(idx), single.get(idx))
                else {
                    return Err(Diagnostic::verify(format!("the evaluator gives no `{name}`")).into());
                };
                rows.push(if !found.dtype().is_float() && !in_f64 {
                    // Rounding may decide truth values and integers: then it should decide them alike.
                    row(test.clone(), name, found, own, 0.0)
                } else if in_f64 {
                    row(test.clone(), name, found, exact, scale * distance(single, exact))
                } else {
                    row(test.clone(), name, found, exact, distance(own, exact))
                });
            }
            compiled = Some(function);
        }
    }
    Ok(rows)
}

/// Half a unit in the last place of 1.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::Bf16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
        _ => 0.0,
    }
}

/// The largest difference of two elements.
fn distance(one: &Tensor, other: &Tensor) -> f64 {
    let differences = one.to_f64s().into_iter().zip(other.to_f64s()).map(|(one, other)| (one - other).abs());
    differences.filter(|difference| difference.is_finite()).fold(0.0, f64::max)
}

fn row(test: Test, name: &str, found: &Tensor, exact: &Tensor, rounding: f64) -> Row {
    let mut row = Row::new(test, name);
    if found.shape() != exact.shape() {
        let (expected, found) = (exact.shape(), found.shape());
        row.compare(Worst {
            place: format!("shape {found:?} instead of {expected:?}"),
            expected: f64::NAN,
            found: f64::NAN,
            tolerance: 0.0,
            estimate: None,
        });
        return row;
    }
    let expected = exact.to_f64s();
    let largest =
        expected.iter().filter(|value| value.is_finite()).fold(0.0, |max: f64, value| max.max(value.abs()));
    let tolerance = match found.dtype().is_float() {
        true => AMPLIFIED * rounding + UNITS * unit(found.dtype()) * largest,
        false => 0.0,
    };
    for (idx, (found, expected)) in found.to_f64s().into_iter().zip(expected).enumerate() {
        let (found, expected) = match (found.is_nan(), expected.is_nan()) {
            // No number where none should be is right.
            (true, true) => (0.0, 0.0),
            _ => (found, expected),
        };
        let place = place(name, exact.shape(), idx);
        row.compare(Worst { place, expected, found, tolerance, estimate: None });
    }
    row
}

/// The function for a target. Targets that run one plan share it.
fn of_target(
    spec: &Spec,
    target: Target,
    options: &Options,
    compiled: Option<&Function>,
) -> Result<Function, Error> {
    let options = Options { target, ..options.clone() };
    let Some((other, program)) = compiled.and_then(|other| Some((other, other.program()?.clone()))) else {
        return compile(spec, &options);
    };
    let mut stages = other.stages.clone();
    let engine = match target {
        Target::KernelEval => Engine::Kernels(program),
        Target::Cpu => Engine::Cpu(emit(program, &options, &mut stages)?),
        _ => return compile(spec, &options),
    };
    let (signature, given, source) = (other.signature.clone(), other.given.clone(), other.source.clone());
    Ok(Function { signature, engine, given, stages, source })
}

/// The row of a target that did not run: it lacks an op, or something of ours is wrong.
///
/// Errors: `error`, if it is about the input.
fn without_numbers(test: Test, error: Error) -> Result<Row, Error> {
    let Some(first) = error.diagnostics().first() else { return Err(error) };
    let why = first.message.lines().next().unwrap_or_default().to_string();
    match first.kind {
        ErrorKind::Unsupported => Ok(Row::skipped(test, "all", why)),
        ErrorKind::Verify => Ok(Row::failed(test, "all", why)),
        ErrorKind::Input | ErrorKind::Device => Err(error),
    }
}

/// What the tensor evaluator gives for `spec`, whose floats may be of other types than the inputs.
fn evaluated(spec: &Spec, comparison: &Comparison<'_>) -> Result<Results, Error> {
    let function = compile(spec, &Options { target: Target::Eval, ..comparison.options.clone() })?;
    let Some((module, func)) = &function.stages.tensor else {
        return Err(Diagnostic::verify("a spec to be checked has no module").into());
    };
    let inputs = converted(comparison.inputs, &function.signature)?;
    let results = eval(module, *func, comparison.sizes, &inputs)?;
    let names = function.signature.outputs.iter().map(|(name, _)| name.clone());
    Ok(names.zip(results).collect())
}

/// What a call gives.
fn called(function: &Function, inputs: &[Tensor]) -> Result<Results, Error> {
    let inputs = converted(inputs, &function.signature)?;
    let mut buffers = vec![];
    for tensor in &inputs {
        let shape: Vec<i64> = tensor.shape().iter().map(|extent| *extent as i64).collect();
        let mut buffer = Buffer::zeros(tensor.dtype(), &shape)?;
        fill(&mut buffer.view_mut(), (0..tensor.len()).map(|idx| tensor.get(idx)))?;
        buffers.push(buffer);
    }
    let named = function.signature.inputs.iter().zip(&buffers);
    let views = named.fold(Inputs::new(), |inputs, ((name, _), buffer)| inputs.view(name, buffer.view()));
    let outputs = function.call(&views)?;
    let mut results = vec![];
    for (name, buffer) in outputs.iter() {
        let shape = buffer.shape().iter().map(|extent| *extent as usize).collect();
        let tensor = Tensor::from_scalars(buffer.dtype(), shape, scalars(&buffer.view()))
            .map_err(|message| Diagnostic::input(Span::NONE, message))?;
        results.push((Sym::from(name), tensor));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_target_that_computes_something_else_fails() {
        let test = || Test::Target { target: Target::Cpu, in_f64: false };
        let tensor = |values: &[f64]| Tensor::from_f64s(DType::F32, vec![2, 2], values).unwrap();
        let exact = tensor(&[1.0, -2.0, 0.0, f64::NAN]);
        let judged = |values: &[f64], rounding: f64| row(test(), "y", &tensor(values), &exact, rounding);
        assert_eq!(judged(&[1.0, -2.000004, 1e-9, f64::NAN], 0.0).verdict, Verdict::Ok);
        let off = judged(&[1.0, -2.0, 1e-4, f64::NAN], 0.0);
        assert_eq!((off.verdict, off.worst.unwrap().place.as_str()), (Verdict::Failed, "y[1,0]"));
        // A function in which rounding grows may be off by more.
        assert_eq!(judged(&[1.0, -2.0, 1e-4, f64::NAN], 1e-5).verdict, Verdict::Ok);
        for wrong in
            [[f64::NAN, -2.0, 0.0, f64::NAN], [1.0, -2.0, 0.0, 0.0], [f64::INFINITY, -2.0, 0.0, f64::NAN]]
        {
            assert_eq!(judged(&wrong, 1e-5).verdict, Verdict::Failed, "{wrong:?}");
        }
        let flat = Tensor::from_f64s(DType::F32, vec![4], &[1.0; 4]).unwrap();
        assert_eq!(row(test(), "y", &flat, &exact, 1.0).verdict, Verdict::Failed);
    }
}
