//! Checks a spec: its gradients against finite differences, its targets against the evaluator.
//!
//! In: a spec, and what to look at. Out: a [`Report`] of numbers, or an error where the spec itself is at fault. Inputs are
//! drawn from the domains that the spec declares, or come from a file; sizes are small unless they are given
//! ([`sizes`]). The same seed gives the same report.
//!
//! - Derivatives are compared in f64 ([`gradients`]): reverse and forward with differences of the function's values
//!   ([`numeric`]), and with each other. Both ways to take loops back are compared unless one is asked for.
//! - `stop_gradient` makes derivatives differ from those of the values on purpose. Differences are therefore taken of the
//!   function in which what it gives is held at the point ([`birkhoff_compiler::freeze`]). Where holding it makes a difference,
//!   the report has a note: one that nobody intended would be seen there.
//! - Every target runs the values and gradients, as one function, in the spec's types and in f64 (`targets.rs`).
//!
//! Deliberately absent: proofs. A derivative that is wrong where no inputs were drawn passes, as does one that is wrong by
//! less than the tolerance that the report states.

pub mod gradients;
pub mod line;
pub mod numeric;
pub mod report;
pub mod sizes;
mod targets;
mod work;

pub use gradients::{Claim, Derivatives, compare};
pub use report::{FunctionReport, Report, Row, Test, Verdict, Worst};
pub use sizes::Size;

use crate::error::Error;
use crate::file_inputs::bind_sizes;
use crate::gradient::{Cotangents, Gradient, Loops};
use crate::options::{Options, Stage};
use crate::pipeline::lower;
use crate::signature::{Signature, concrete};
use crate::spec::{Content, Spec};
use crate::target::Target;
use crate::tensor_file::TensorFile;
use birkhoff_compiler::expand::expand;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::{Domain, FuncId, Module};
use targets::Comparison;

/// Elements that a check may compute: minutes.
const MAX_ELEMENTS: u64 = 1 << 32;

/// What to check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Names of the inputs whose gradients are checked; empty: every float.
    pub wrt: Vec<String>,
    /// Ways to take loops back; empty: both.
    pub loops: Vec<Loops>,
    /// The targets to compare; see [`runnable`].
    pub targets: Vec<Target>,
    /// The seed of inputs, directions and cotangents.
    pub seed: u64,
    /// How the targets compile; the target in it does not matter.
    pub options: Options,
}

impl Default for Check {
    fn default() -> Check {
        Check { wrt: vec![], loops: vec![], targets: runnable(), seed: 0, options: Options::default() }
    }
}

/// The targets that this build can run, but for the evaluator that they are compared with.
pub fn runnable() -> Vec<Target> {
    let runs = |target: &Target| !matches!(target, Target::Eval | Target::Ptx) && target.check().is_ok();
    Target::ALL.into_iter().filter(runs).collect()
}

/// Checks the functions `names` of a spec; `file` holds inputs, which are drawn at random without it.
///
/// Errors: a spec, a name or a file at fault, a target that is missing. What a check finds is no error.
pub fn check(
    spec: &Spec,
    names: &[String],
    file: Option<&TensorFile>,
    ask: &Check,
    observe: &mut dyn FnMut(&str),
) -> Result<Report, Error> {
    if let Content::Plan(_) = spec.content() {
        let error = Diagnostic::input(
            Span::NONE,
            "a plan or kernel cannot be checked: nothing says what it should compute",
        );
        return Err(spec.error(error.help("check the spec that it was made from")));
    }
    for target in &ask.targets {
        target.check()?;
    }
    let mut functions = vec![];
    for name in names {
        let chosen = spec.clone().function(name);
        functions.push(check_function(&chosen, name, file, ask, observe)?);
    }
    Ok(Report { seed: ask.seed, functions })
}

fn check_function(
    spec: &Spec,
    name: &str,
    file: Option<&TensorFile>,
    ask: &Check,
    observe: &mut dyn FnMut(&str),
) -> Result<FunctionReport, Error> {
    observe(&format!("{name}: picking sizes"));
    let (spec, sizes) = sized(spec, file, ask.seed)?;
    let own = Bound::of(&spec)?;
    let inputs = own.inputs(file, ask.seed, 0)?;
    let exact = spec.clone().float(DType::F64);
    let wide = Bound::of(&exact)?;
    let wrt = wide.wrt(&ask.wrt).map_err(|why| spec.error(Diagnostic::input(wide.func().span, why)))?;
    let has_gradient = !wrt.is_empty() && wide.signature.outputs.iter().any(|(_, ty)| ty.dtype.is_float());
    let (mut rows, mut notes) = (vec![], vec![]);
    if has_gradient {
        observe(&format!("{name}: comparing derivatives with differences"));
        (rows, notes) =
            derivative_rows(&own, &wide, &wrt, &inputs, file, ask).map_err(|error| spec.error(error))?;
    } else {
        notes.push("no float depends on a float: there are no derivatives to compare".to_string());
    }
    observe(&format!("{name}: comparing targets with the evaluator"));
    rows.extend(target_rows(&spec, &own, &wide, &wrt, has_gradient, inputs, ask)?);
    Ok(FunctionReport { name: name.to_string(), sizes, rows, notes })
}

/// The spec with sizes of the file, or small ones.
fn sized(spec: &Spec, file: Option<&TensorFile>, seed: u64) -> Result<(Spec, Vec<Size>), Error> {
    let mut spec = spec.clone();
    if let Some(file) = file {
        spec = bind_sizes(&spec, file)?;
        let signature = spec.open_signature()?;
        let shapes =
            signature.inputs.iter().map(|(name, _)| file.info(name).map_or(vec![], |info| info.1.to_vec()));
        let shapes: Vec<Vec<i64>> = shapes.collect();
        let known = spec.all_dims();
        let solved = birkhoff_ir::tensor::bind::solve_sizes(&signature.inputs, &shapes, &known)?;
        let Content::Tensor(module) = spec.content() else { return Ok((spec, vec![])) };
        let declared = solved.into_iter().filter(|(name, _)| module.dim(name).is_some());
        spec =
            declared.collect::<Vec<_>>().into_iter().fold(spec, |spec, (name, value)| spec.dim(&name, value));
    }
    let accepts = |candidate: &Spec| -> Result<(), Error> {
        let bound = Bound::of(&candidate.clone().float(DType::F64))?;
        bound.affordable().map_err(|error| candidate.error(error))?;
        let inputs = bound.inputs(None, seed, 0)?;
        eval(&bound.module, bound.id, &bound.sizes, &inputs).map_err(|error| candidate.error(error))?;
        Ok(())
    };
    let given = spec.all_dims();
    sizes::shrink(&spec, &given, &accepts)
}

/// A bound function with its sizes.
struct Bound {
    module: Module,
    id: FuncId,
    sizes: SizeEnv,
    signature: Signature,
}

impl Bound {
    fn of(spec: &Spec) -> Result<Bound, Error> {
        let stages = lower(spec, &Options::default(), Stage::Tensor, &mut |_| ())?;
        let (module, id) =
            stages.tensor.ok_or_else(|| Diagnostic::verify("a spec to be checked has no module"))?;
        let signature = Signature::of_func(&module, id);
        let sizes = signature.default_sizes(&spec.given_sizes())?;
        Ok(Bound { module, id, sizes, signature })
    }

    fn func(&self) -> &birkhoff_ir::tensor::Func {
        self.module.func(self.id)
    }

    /// Refuses what would take much longer than anybody waits.
    fn affordable(&self) -> Result<(), Diagnostic> {
        let n_inputs = self.func().inputs.len() as u64;
        let evaluations = n_inputs.saturating_mul(gradients::EVALUATIONS_PER_INPUT).max(1);
        // The evaluator computes on composites in their expansion.
        let (module, id) = expand(&self.module, self.id).map_err(Diagnostic::verify)?;
        let elements = work::elements(&module, id, &self.sizes);
        if elements.saturating_mul(evaluations) <= MAX_ELEMENTS {
            return Ok(());
        }
        let name = &self.signature.name;
        let message = format!(
            "a check of @{name} would compute {evaluations} times {elements} elements, more than {MAX_ELEMENTS}"
        );
        let help = "give smaller sizes with --dim, or smaller numbers of iterations with --set";
        Err(Diagnostic::input(self.func().span, message).help(help))
    }

    /// Inputs in the function's types: those of the file, or random ones of the trial.
    fn inputs(&self, file: Option<&TensorFile>, seed: u64, trial: u64) -> Result<Vec<Tensor>, Diagnostics> {
        let mut inputs = vec![];
        for (input, (name, ty)) in self.func().inputs.iter().zip(&self.signature.inputs) {
            inputs.push(match file {
                Some(file) => from_file(file, name, ty)?,
                None => {
                    let shape: Vec<usize> = concrete(ty, &self.sizes)?
                        .iter()
                        .map(|extent| usize::try_from(*extent).unwrap_or(0))
                        .collect();
                    random(seed.wrapping_add(trial << 32), name, input.domain, ty.dtype, &shape)?
                }
            });
        }
        Ok(inputs)
    }

    /// Positions of the inputs called `names`, or of all floats.
    fn wrt(&self, names: &[String]) -> Result<Vec<usize>, String> {
        let is_float = |pos: &usize| self.signature.inputs[*pos].1.dtype.is_float();
        if names.is_empty() {
            return Ok((0..self.signature.inputs.len()).filter(is_float).collect());
        }
        let mut found = vec![];
        for name in names {
            match self.signature.inputs.iter().position(|(other, _)| other.as_str() == name) {
                Some(pos) if is_float(&pos) => found.push(pos),
                Some(_) => return Err(format!("the input `{name}` is no float, so it has no gradient")),
                None => {
                    let all: Vec<&str> =
                        self.signature.inputs.iter().map(|(name, _)| name.as_str()).collect();
                    let func = &self.signature.name;
                    return Err(format!("@{func} has no input `{name}`; it has {}", all.join(", ")));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn random(
    seed: u64,
    name: &str,
    domain: Domain,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, Diagnostic> {
    random_input(seed, name, domain, dtype, shape)
        .map_err(|message| Diagnostic::input(Span::NONE, format!("the input `{name}`: {message}")))
}

fn from_file(
    file: &TensorFile,
    name: &str,
    ty: &birkhoff_ir::tensor::TensorType,
) -> Result<Tensor, Diagnostic> {
    let tensor = file.tensor(name)?;
    let view = tensor.view();
    let found = view.dtype();
    // Numbers are taken as they are; what the function's types make of them is what is checked.
    if found.is_float() != ty.dtype.is_float() {
        let message = format!("the input `{name}` must be {ty}, found elements of {found}");
        return Err(Diagnostic::input(Span::NONE, message));
    }
    let shape = view.shape().iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).collect();
    Tensor::from_scalars(ty.dtype, shape, crate::elements::scalars(&view))
        .map_err(|message| Diagnostic::input(Span::NONE, message))
}

/// The same numbers in the types of `signature`.
fn converted(inputs: &[Tensor], signature: &Signature) -> Result<Vec<Tensor>, Diagnostic> {
    let one = |(tensor, (_, ty)): (&Tensor, &(birkhoff_ir::dim::Sym, birkhoff_ir::tensor::TensorType))| {
        let values = (0..tensor.len()).map(|idx| tensor.get(idx));
        Tensor::from_scalars(ty.dtype, tensor.shape().to_vec(), values)
            .map_err(|message| Diagnostic::input(Span::NONE, message))
    };
    inputs.iter().zip(&signature.inputs).map(one).collect()
}

fn derivative_rows(
    own: &Bound,
    wide: &Bound,
    wrt: &[usize],
    inputs: &[Tensor],
    file: Option<&TensorFile>,
    ask: &Check,
) -> Result<(Vec<Row>, Vec<String>), Diagnostics> {
    let both = [Loops::Stash, Loops::Rerun];
    let loops: &[Loops] = if ask.loops.is_empty() { &both } else { &ask.loops };
    let derivatives = Derivatives::of(&wide.module, wide.id, wrt, loops)
        .map_err(|why| Diagnostic::input(wide.func().span, why))?;
    let (module, func, sizes, seed) = (&wide.module, wide.id, &wide.sizes, ask.seed);
    let claim = Claim { module, func, sizes, wrt, derivatives: &derivatives, seed };
    let mut points = |trial: u64| -> Result<Option<Vec<Tensor>>, Diagnostic> {
        if trial == 0 {
            return converted(inputs, &wide.signature).map(Some);
        }
        if file.is_some() {
            return Ok(None);
        }
        let again = own.inputs(None, ask.seed, trial);
        let again =
            again.map_err(|mut errors| errors.0.pop().unwrap_or_else(|| Diagnostic::verify("no inputs")))?;
        converted(&again, &wide.signature).map(Some)
    };
    Ok(compare(&claim, &mut points)?)
}

fn target_rows(
    spec: &Spec,
    own: &Bound,
    wide: &Bound,
    wrt: &[usize],
    has_gradient: bool,
    mut inputs: Vec<Tensor>,
    ask: &Check,
) -> Result<Vec<Row>, Error> {
    let mut whole = spec.clone();
    if has_gradient {
        let names = wrt.iter().map(|pos| wide.signature.inputs[*pos].0.to_string()).collect();
        let loops = ask.loops.first().copied().unwrap_or_default();
        whole = whole.differentiated(&Gradient {
            wrt: names,
            cotangents: Cotangents::All,
            values: true,
            loops,
        })?;
        let signature = Bound::of(&whole)?.signature;
        // Behind the function's own inputs come the cotangents.
        for (name, ty) in signature.inputs.iter().skip(inputs.len()) {
            let shape: Vec<usize> = concrete(ty, &own.sizes)?
                .iter()
                .map(|extent| usize::try_from(*extent).unwrap_or(0))
                .collect();
            inputs.push(random(ask.seed, name, Domain::default(), ty.dtype, &shape)?);
        }
    }
    let sizes = &Bound::of(&whole)?.sizes;
    targets::compare(&Comparison {
        spec: &whole,
        inputs: &inputs,
        sizes,
        targets: &ask.targets,
        options: &ask.options,
    })
}
