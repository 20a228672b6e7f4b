//! Functions whose compile-time sizes are told by the arrays they are called with.
//!
//! In: a spec with open compile-time sizes. Out: a [`Function`] per combination of these sizes, compiled when it first
//! occurs and kept. Run-time sizes never cause a compilation.

use crate::arrays::{Inputs, Outputs};
use crate::error::Error;
use crate::function::Function;
use crate::options::Options;
use crate::pipeline::compile;
use crate::spec::Spec;
use birkhoff_ir::dim::SizeEnv;
use std::sync::{Arc, Mutex, PoisonError};

/// How many specialisations are kept; the one used longest ago goes first.
const KEPT: usize = 16;

/// A spec that is compiled for the sizes it is called with.
pub struct Template {
    spec: Spec,
    options: Options,
    /// Most recently used last.
    functions: Mutex<Vec<(SizeEnv, Arc<Function>)>>,
}

impl Template {
    /// Compiles nothing yet.
    pub fn new(spec: Spec, options: Options) -> Template {
        Template { spec, options, functions: Mutex::default() }
    }

    /// The function for inputs of these shapes, compiled now if it was not before.
    ///
    /// Errors: shapes that contradict each other or the spec, and those of [`compile`].
    pub fn for_shapes(&self, shapes: &[(&str, &[i64])]) -> Result<Arc<Function>, Error> {
        let shape_of =
            |name: &str| shapes.iter().find(|(other, _)| *other == name).map(|(_, shape)| shape.to_vec());
        let spec = self.spec.for_shapes(&shape_of)?;
        let key = spec.static_sizes();
        // The lock is held while compiling, so that callers with the same sizes wait for one compilation.
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idx) = functions.iter().position(|(sizes, _)| *sizes == key) {
            let found = functions.remove(idx);
            let function = found.1.clone();
            functions.push(found);
            return Ok(function);
        }
        let function = Arc::new(compile(&spec, &self.options)?);
        if functions.len() >= KEPT {
            functions.remove(0);
        }
        functions.push((key, function.clone()));
        Ok(function)
    }

    /// Calls the function for these inputs' shapes.
    ///
    /// Errors: as [`Template::for_shapes`] and [`Function::call`].
    pub fn call(&self, inputs: &Inputs<'_>) -> Result<Outputs, Error> {
        let shapes: Vec<(&str, &[i64])> = inputs.shapes().collect();
        self.for_shapes(&shapes)?.call(inputs)
    }

    /// How many specialisations are kept now.
    pub fn n_functions(&self) -> usize {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
