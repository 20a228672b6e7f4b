//! Compiled functions.

use crate::arrays::{Inputs, Outputs, OutputsMut};
use crate::elements::fill;
use crate::engine::Engine;
use crate::error::{Error, Source};
use crate::pipeline::Stages;
use crate::signature::{Signature, concrete};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::Program;
use birkhoff_ir::tensor::Domain;
use birkhoff_ir::tensor::random::random_input;
use birkhoff_runtime::{Buffer, CallReport, Memory, View, ViewMut};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A compiled function: called with arrays by name, any number of times, from any number of threads, with any run-time sizes
/// within their bounds.
pub struct Function {
    pub(crate) signature: Signature,
    pub(crate) engine: Engine,
    /// Run-time sizes that were given with the spec.
    pub(crate) given: SizeEnv,
    pub(crate) stages: Stages,
    pub(crate) source: Option<Arc<Source>>,
}

impl Function {
    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Calls the function; outputs are allocated.
    ///
    /// Errors: missing or unknown names, element types or shapes that do not fit the signature or each other, sizes out of
    /// bounds, memory that is not there. All that can be found at once are reported.
    pub fn call(&self, inputs: &Inputs<'_>) -> Result<Outputs, Error> {
        let views = inputs.in_order(&self.signature.input_names())?;
        self.call_ordered(&views, &self.given).map_err(Error::from)
    }

    /// Calls the function; outputs are written into the caller's memory.
    ///
    /// Errors: as [`Function::call`]; nothing is written then.
    pub fn call_into(&self, inputs: &Inputs<'_>, outputs: OutputsMut<'_>) -> Result<CallReport, Error> {
        let views = inputs.in_order(&self.signature.input_names())?;
        let mut outputs = outputs.in_order(&self.signature.output_names())?;
        Ok(self.engine.call_into(&self.signature, &views, &mut outputs, &self.given)?)
    }

    /// The memory that a call with these inputs takes, told without calling it.
    ///
    /// Errors: as [`Function::call`], but for memory that is not there.
    pub fn memory(&self, inputs: &Inputs<'_>) -> Result<Memory, Error> {
        let views = inputs.in_order(&self.signature.input_names())?;
        Ok(self.engine.memory(&self.signature, &views, &self.given)?)
    }

    /// Calls the function with views in signature order and sizes that are given.
    pub(crate) fn call_ordered(&self, inputs: &[View<'_>], given: &SizeEnv) -> Result<Outputs, Diagnostics> {
        let shapes = self.engine.output_shapes(&self.signature, inputs, given)?;
        let mut arrays = Vec::with_capacity(shapes.len());
        for ((name, ty), shape) in self.signature.outputs.iter().zip(&shapes) {
            let array = match self.stages.tensor {
                // SAFETY: a plan that was made of a function writes every element of every output, which tests hold in the
                // kernel evaluator; and nobody sees an output unless the call went well.
                Some(_) => unsafe { Buffer::unwritten(ty.dtype, shape)? },
                None => Buffer::zeros(ty.dtype, shape)?,
            };
            arrays.push((name.clone(), array));
        }
        let mut views: Vec<ViewMut<'_>> = arrays.iter_mut().map(|(_, buffer)| buffer.view_mut()).collect();
        let report = self.engine.call_into(&self.signature, inputs, &mut views, given)?;
        drop(views);
        let shared = arrays.into_iter().map(|(name, buffer)| (name, Arc::new(buffer)));
        Ok(Outputs { arrays: shared.collect(), report })
    }

    /// Random inputs in signature order, drawn from the domains the spec declares, at the sizes given with the spec or their
    /// defaults. The same seed gives the same numbers.
    ///
    /// Errors: a size without a value, or arrays that are too large.
    pub fn random_inputs(&self, seed: u64) -> Result<Vec<Buffer>, Error> {
        let sizes = self.signature.default_sizes(&self.given)?;
        let domains = self.stages.tensor.as_ref().map(|(module, func)| &module.func(*func).inputs);
        let mut buffers = Vec::with_capacity(self.signature.inputs.len());
        for (idx, (name, ty)) in self.signature.inputs.iter().enumerate() {
            let domain =
                domains.and_then(|inputs| inputs.get(idx)).map_or_else(Domain::default, |input| input.domain);
            let shape = concrete(ty, &sizes)?;
            let mut buffer = Buffer::zeros(ty.dtype, &shape)?;
            let extents: Vec<usize> = shape.iter().map(|extent| *extent as usize).collect();
            let tensor = random_input(seed, name, domain, ty.dtype, &extents)
                .map_err(|message| Diagnostic::input(Span::NONE, format!("the input `{name}`: {message}")))?;
            fill(&mut buffer.view_mut(), (0..tensor.len()).map(|idx| tensor.get(idx)))?;
            buffers.push(buffer);
        }
        Ok(buffers)
    }

    /// The plan it runs; `None` for the tensor evaluator.
    pub fn program(&self) -> Option<&Program> {
        match &self.engine {
            Engine::Tensor(..) => None,
            Engine::Kernels(program) => Some(program),
            Engine::Cpu(executable) => Some(executable.program()),
            #[cfg(feature = "ptx")]
            Engine::Device(engine) => Some(engine.program()),
        }
    }

    /// What every stage of its compilation made.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// How long every stage of its compilation took, in order.
    pub fn timings(&self) -> &[(&'static str, Duration)] {
        &self.stages.timings
    }

    /// The text it was compiled from.
    pub fn source(&self) -> Option<&Arc<Source>> {
        self.source.as_ref()
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function {}", self.signature)
    }
}
