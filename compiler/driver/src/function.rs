//! Compiled functions.

use crate::arrays::{Inputs, Outputs, OutputsMut};
use crate::engine::Engine;
use crate::error::{Error, Source};
use crate::pipeline::Stages;
use crate::signature::Signature;
use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::Program;
use birkhoff_runtime::{Buffer, CallReport, View, ViewMut};
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
        self.call_ordered(&views).map_err(Error::from)
    }

    /// Calls the function; outputs are written into the caller's memory.
    ///
    /// Errors: as [`Function::call`]; nothing is written then.
    pub fn call_into(&self, inputs: &Inputs<'_>, outputs: OutputsMut<'_>) -> Result<CallReport, Error> {
        let views = inputs.in_order(&self.signature.input_names())?;
        let mut outputs = outputs.in_order(&self.signature.output_names())?;
        Ok(self.engine.call_into(&self.signature, &views, &mut outputs, &self.given)?)
    }

    fn call_ordered(&self, inputs: &[View<'_>]) -> Result<Outputs, Diagnostics> {
        let shapes = self.engine.output_shapes(&self.signature, inputs, &self.given)?;
        let mut arrays = Vec::with_capacity(shapes.len());
        for ((name, ty), shape) in self.signature.outputs.iter().zip(&shapes) {
            arrays.push((name.clone(), Buffer::zeros(ty.dtype, shape)?));
        }
        let mut views: Vec<ViewMut<'_>> = arrays.iter_mut().map(|(_, buffer)| buffer.view_mut()).collect();
        let report = self.engine.call_into(&self.signature, inputs, &mut views, &self.given)?;
        drop(views);
        Ok(Outputs { arrays, report })
    }

    /// The plan it runs; `None` for the tensor evaluator.
    pub fn program(&self) -> Option<&Program> {
        match &self.engine {
            Engine::Tensor(..) => None,
            Engine::Kernels(program) => Some(program),
            Engine::Cpu(executable) => Some(executable.program()),
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
