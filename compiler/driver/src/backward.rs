//! Functions that can be taken back: a call gives its results and a tape, the tape gives gradients.
//!
//! In: a spec and the inputs whose gradients are wanted. Out: a [`Differentiable`], which is two compiled functions. The tape
//! borrows the caller's inputs and owns the saved tensors; functions are chained by handing the gradients of one to the tape
//! of the one before. What is saved is decided when the function is compiled ([`BackwardPlan`]).

use crate::arrays::{Inputs, Outputs, OutputsMut};
use crate::backward_plan::{Backward, BackwardMemory, BackwardPlan, Joint, memory_of, plan};
use crate::elements::accumulate;
use crate::error::{Error, Source};
use crate::function::Function;
use crate::gradient::{Cotangents, Gradient, Loops};
use crate::options::{Options, Stage};
use crate::pipeline::{compile_primitives, lower};
use crate::signature::{Signature, concrete};
use crate::spec::Spec;
use crate::target::Target;
use birkhoff_compiler::expand::expand;
use birkhoff_compiler::split::{Parts, without_cotangents};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_runtime::{Buffer, CallReport, View};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A compiled function with its backward function.
pub struct Differentiable {
    forward: Function,
    signature: Signature,
    options: Options,
    plan: BackwardPlan,
    /// Names of the cotangents, `ct.NAME`, one per float result.
    cotangents: Vec<Sym>,
    /// Backward functions by which cotangents they take; each is compiled when it is first needed.
    backward: Mutex<BTreeMap<Vec<bool>, Arc<Function>>>,
    source: Option<Arc<Source>>,
}

/// What a call leaves for its backward call. It can be used any number of times.
pub struct Tape<'a> {
    function: &'a Differentiable,
    inputs: Vec<View<'a>>,
    saved: Vec<Arc<Buffer>>,
    sizes: SizeEnv,
}

/// Compiles a spec to a function that can be taken back.
///
/// Errors: as [`compile`](crate::compile); names that are no float inputs; a function without float outputs; a budget that
/// nothing meets, with the least that can be done.
pub fn compile_differentiable(
    spec: &Spec,
    options: &Options,
    ask: &Backward,
) -> Result<Differentiable, Error> {
    options.target.check()?;
    let pool = options.pool.clone().unwrap_or_default();
    let options = Options { pool: Some(pool), ..options.clone() };
    let open = spec.open_signature()?;
    let parts = Parts { n_inputs: open.inputs.len(), n_values: open.outputs.len() };
    let joint_of = |loops: Loops| joint(spec, &options, ask, loops);
    let given = spec.given_sizes();
    let fail = |errors: Diagnostics| spec.error(errors);
    let (plan, cotangents) = plan(&joint_of, parts, &given, &options, ask).map_err(fail)?;
    let (module, func) = plan.split.forward.clone();
    let mut forward = compile_primitives(module, func, &options).map_err(fail)?;
    forward.given = given;
    let mut signature = forward.signature.clone();
    signature.name = open.name;
    signature.outputs.truncate(parts.n_values);
    let (backward, source) = (Mutex::default(), spec.source().cloned());
    let function = Differentiable { forward, signature, options, plan, cotangents, backward, source };
    // The usual one at once, so that its errors come now.
    function.backward_for(&vec![true; function.cotangents.len()])?;
    Ok(function)
}

/// The function of values and gradients, in primitives.
fn joint(spec: &Spec, options: &Options, ask: &Backward, loops: Loops) -> Result<Joint, Diagnostics> {
    let gradient = Gradient { wrt: ask.wrt.clone(), cotangents: Cotangents::All, values: true, loops };
    let why = |error: Error| Diagnostics(error.diagnostics().to_vec());
    let joint = spec.clone().differentiated(&gradient).map_err(why)?;
    let until = if options.target == Target::Eval { Stage::Grad } else { Stage::Eqsat };
    let stages = lower(&joint, options, until, &mut |_| ()).map_err(why)?;
    let of_plan = || Diagnostic::input(Span::NONE, "a plan or kernel cannot be differentiated");
    let optimized = stages.optimized.map(|optimized| (optimized.module, optimized.func));
    let (module, func) = optimized.or(stages.derived).ok_or_else(of_plan)?;
    expand(&module, func).map_err(|message| Diagnostic::verify(message).into())
}

impl Differentiable {
    /// What it takes and gives, saved tensors left out.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Names of the cotangents that a backward call may be given: `ct.NAME` for every float output.
    pub fn cotangents(&self) -> impl Iterator<Item = &str> {
        self.cotangents.iter().map(Sym::as_str)
    }

    /// What is saved, what is computed again, and why.
    pub fn plan(&self) -> &BackwardPlan {
        &self.plan
    }

    /// The forward function: the outputs, then saved tensors.
    pub fn forward(&self) -> &Function {
        &self.forward
    }

    /// The backward function for all cotangents.
    ///
    /// Errors: none after [`compile_differentiable`].
    pub fn backward(&self) -> Result<Arc<Function>, Error> {
        self.backward_for(&vec![true; self.cotangents.len()])
    }

    /// Random inputs, as [`Function::random_inputs`].
    ///
    /// Errors: as there.
    pub fn random_inputs(&self, seed: u64) -> Result<Vec<Buffer>, Error> {
        self.forward.random_inputs(seed)
    }

    /// Calls the function: its outputs, and a tape for the way back.
    ///
    /// Errors: as [`Function::call`].
    pub fn call<'a>(&'a self, inputs: &Inputs<'a>) -> Result<(Outputs, Tape<'a>), Error> {
        let inputs = inputs.in_order(&self.signature.input_names())?;
        let mut outputs = self.forward.call_ordered(&inputs, &self.forward.given)?;
        let saved =
            self.plan.split.saved.iter().map(|saved| outputs.arrays[saved.output].1.clone()).collect();
        outputs.arrays.truncate(self.signature.outputs.len());
        let sizes = outputs.report().sizes.clone();
        Ok((outputs, Tape { function: self, inputs, saved, sizes }))
    }

    /// The backward function for these cotangents, compiled now if it was not before.
    fn backward_for(&self, given: &[bool]) -> Result<Arc<Function>, Error> {
        // The lock is held while compiling, so that callers with the same cotangents wait for one compilation.
        let mut known = self.backward.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(given) {
            return Ok(found.clone());
        }
        let fail = |errors: Diagnostics| Error::new(errors, self.source.clone());
        let (module, func) = &self.plan.split.backward;
        let is_absent = |name: &str| {
            let place = self.cotangents.iter().position(|cotangent| cotangent.as_str() == name);
            place.is_some_and(|place| !given[place])
        };
        let (module, func) = match given.iter().all(|given| *given) {
            true => (module.clone(), *func),
            false => without_cotangents(module, *func, &is_absent)
                .map_err(|message| fail(Diagnostic::verify(message).into()))?,
        };
        let function = Arc::new(compile_primitives(module, func, &self.options).map_err(fail)?);
        known.insert(given.to_vec(), function.clone());
        Ok(function)
    }
}

impl fmt::Debug for Differentiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Differentiable {}", self.signature)
    }
}

impl Tape<'_> {
    /// The gradients `grad.NAME`, from cotangents `ct.NAME` of outputs; those that are absent are zero.
    ///
    /// A set of cotangents that is new to the function is compiled for: what only the absent ones need is not computed.
    ///
    /// Errors: no cotangent at all, unknown names, element types or shapes that differ from the output's, memory that is
    /// not there.
    pub fn backward(&self, cotangents: &Inputs<'_>) -> Result<Outputs, Error> {
        let function = self.function;
        let found = cotangents.given(&function.cotangents)?;
        if found.is_empty() {
            let list = function.cotangents.iter().map(Sym::as_str).collect::<Vec<_>>().join(", ");
            let error = Diagnostic::input(Span::NONE, "a backward call needs a cotangent, found none");
            return Err(error.help(format!("the cotangents are: {list}")).into());
        }
        let is_given = |place: usize| found.iter().any(|(other, _)| *other == place);
        let given: Vec<bool> = (0..function.cotangents.len()).map(is_given).collect();
        let backward = function.backward_for(&given)?;
        let mut views = vec![];
        for (name, _) in &backward.signature.inputs {
            let view = self.known(name).or_else(|| {
                let place = function.cotangents.iter().position(|cotangent| cotangent == name)?;
                found.iter().find(|(other, _)| *other == place).map(|(_, view)| view.clone())
            });
            views.push(view.ok_or_else(|| Diagnostic::verify(format!("the tape has no `{name}`")))?);
        }
        Ok(backward.call_ordered(&views, &self.sizes)?)
    }

    /// Adds the gradients `grad.NAME` to what is in the caller's memory: one rounded addition per element, of the old value
    /// and the gradient that [`Tape::backward`] gives.
    ///
    /// Errors: as [`Tape::backward`], and memory for a gradient that is missing or of another type; nothing is written then.
    pub fn backward_into(
        &self,
        cotangents: &Inputs<'_>,
        gradients: OutputsMut<'_>,
    ) -> Result<CallReport, Error> {
        let backward = self.function.backward()?;
        let mut targets = gradients.in_order(&backward.signature.output_names())?;
        let mut errors = vec![];
        for ((name, ty), target) in backward.signature.outputs.iter().zip(&targets) {
            let shape = concrete(ty, &self.sizes)?;
            if target.dtype() != ty.dtype || target.shape() != shape {
                let (expected, found) = (ty.dtype, target.dtype());
                errors.push(Diagnostic::input(
                    Span::NONE,
                    format!(
                        "`{name}` is {expected}{shape:?}, the memory given for it is {found}{:?}",
                        target.shape()
                    ),
                ));
            }
        }
        Diagnostics(errors).into_result(())?;
        let outputs = self.backward(cotangents)?;
        for ((_, gradient), target) in outputs.iter().zip(&mut targets) {
            accumulate(target, &gradient.view())?;
        }
        Ok(outputs.report().clone())
    }

    /// The memory of a backward call with all cotangents at the sizes of this tape, as the plan says; the report of the
    /// call says what it took.
    ///
    /// Errors: sizes that overflow.
    pub fn memory(&self) -> Result<BackwardMemory, Error> {
        let backward = self.function.backward()?;
        let n_threads = self.function.options.pool.as_ref().map_or(1, |pool| pool.n_threads());
        match backward.program() {
            Some(program) if self.function.options.target.is_native() => {
                Ok(memory_of(program, self.saved_bytes(), &self.sizes, n_threads)?)
            }
            _ => Ok(BackwardMemory { saved_bytes: self.saved_bytes(), ..BackwardMemory::default() }),
        }
    }

    /// Bytes of the tensors that it keeps, as they are in memory.
    pub fn saved_bytes(&self) -> u64 {
        self.saved.iter().map(|buffer| buffer.view().n_elems() * buffer.dtype().size_bytes()).sum()
    }

    /// The run-time sizes of the call.
    pub fn sizes(&self) -> &SizeEnv {
        &self.sizes
    }

    /// An input of the function, or a saved tensor.
    fn known(&self, name: &Sym) -> Option<View<'_>> {
        let saved = self.function.plan.split.saved.iter().position(|saved| saved.name == *name);
        if let Some(place) = saved {
            return Some(self.saved[place].view());
        }
        let place = self.function.signature.inputs.iter().position(|(input, _)| input == name)?;
        self.inputs.get(place).cloned()
    }
}

impl fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tape of {} with {} bytes", self.function.signature.name, self.saved_bytes())
    }
}
