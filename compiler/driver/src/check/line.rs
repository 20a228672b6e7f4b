//! A function at a point, ready to be moved along lines.
//!
//! In: a function in f64 and its inputs. Out: its float outputs, flat, along any direction; what `stop_gradient` gives stays
//! what it is at the point (see `birkhoff_compiler::freeze`), or moves along where that is asked for.

use super::numeric::{STEPS, Samples};
use birkhoff_compiler::freeze::{Frozen, freeze};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::{Func, FuncId, Module};

/// Changes of inputs: position and elements.
pub type Direction = [(usize, Vec<f64>)];

/// A function whose floats are all f64.
pub struct Subject<'a> {
    /// Its module, bound.
    pub module: &'a Module,
    /// Its place there.
    pub func: FuncId,
    /// Run-time sizes.
    pub sizes: &'a SizeEnv,
    frozen: Frozen,
}

/// An array among others: its name, its extents, where it starts in the flat list.
#[derive(Clone, Debug)]
pub struct Part {
    /// The name.
    pub name: String,
    /// The extents.
    pub shape: Vec<usize>,
    /// Its first element.
    pub start: usize,
    /// Its number of elements.
    pub len: usize,
}

/// A subject at a point.
pub struct Point<'a> {
    subject: &'a Subject<'a>,
    /// The inputs.
    pub inputs: Vec<Tensor>,
    /// What `stop_gradient` gives here.
    stops: Vec<Tensor>,
    /// The float outputs.
    pub outputs: Vec<Part>,
    /// Their elements.
    origin: Vec<f64>,
    /// The largest root mean square of an input or output.
    background: f64,
}

impl<'a> Subject<'a> {
    /// The function `func` of a bound module in which all floats are f64.
    ///
    /// Errors: an expansion that is refused.
    pub fn new(module: &'a Module, func: FuncId, sizes: &'a SizeEnv) -> Result<Subject<'a>, Diagnostic> {
        let frozen = freeze(module, func).map_err(Diagnostic::verify)?;
        Ok(Subject { module, func, sizes, frozen })
    }

    /// The function.
    pub fn func(&self) -> &'a Func {
        self.module.func(self.func)
    }

    /// Whether it has a `stop_gradient` of floats.
    pub fn stops(&self) -> bool {
        self.frozen.n_stops > 0
    }

    /// The function at `inputs`.
    ///
    /// Errors: those of the evaluator.
    pub fn at(&'a self, inputs: Vec<Tensor>) -> Result<Point<'a>, Diagnostic> {
        let mut results = eval(&self.frozen.module, self.frozen.recorded, self.sizes, &inputs)?;
        let stops = results.split_off(self.func().outputs.len());
        let (mut outputs, mut origin) = (vec![], vec![]);
        for (out, tensor) in self.func().outputs.iter().zip(&results) {
            if tensor.dtype().is_float() {
                let (name, shape) = (out.name.to_string(), tensor.shape().to_vec());
                outputs.push(Part { name, shape, start: origin.len(), len: tensor.len() });
                origin.extend(tensor.to_f64s());
            }
        }
        let floats = inputs.iter().chain(&results).filter(|tensor| tensor.dtype().is_float());
        let sizes = floats.map(|tensor| root_mean_square(&tensor.to_f64s())).filter(|size| size.is_finite());
        let background = sizes.fold(0.0, f64::max);
        Ok(Point { subject: self, inputs, stops, outputs, origin, background })
    }
}

impl Point<'_> {
    /// The outputs along `direction`. With `moves_stops`, what `stop_gradient` gives moves along.
    ///
    /// Errors: those of the evaluator.
    pub fn sample(&self, direction: &Direction, moves_stops: bool) -> Result<Samples, Diagnostic> {
        let mut levels = vec![];
        for step in STEPS {
            levels.push((
                step,
                self.moved(direction, step, moves_stops)?,
                self.moved(direction, -step, moves_stops)?,
            ));
        }
        Ok(Samples { origin: self.origin.clone(), levels, background: self.background })
    }

    fn moved(&self, direction: &Direction, step: f64, moves_stops: bool) -> Result<Vec<f64>, Diagnostic> {
        let mut inputs = self.inputs.clone();
        for (pos, change) in direction {
            let values = self.inputs[*pos].to_f64s();
            let values: Vec<f64> = values.iter().zip(change).map(|(x, v)| x + step * v).collect();
            inputs[*pos] = array(self.inputs[*pos].shape(), &values)?;
        }
        let frozen = &self.subject.frozen;
        let func = if moves_stops { frozen.recorded } else { frozen.frozen };
        if !moves_stops {
            inputs.extend(self.stops.iter().cloned());
        }
        let results = eval(&frozen.module, func, self.subject.sizes, &inputs)?;
        let n_outputs = self.subject.func().outputs.len();
        Ok(flat(results.iter().take(n_outputs).filter(|tensor| tensor.dtype().is_float())))
    }
}

/// `sqrt(mean(x^2))`; 0 of nothing.
pub fn root_mean_square(values: &[f64]) -> f64 {
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (squares / values.len().max(1) as f64).sqrt()
}

/// All elements, one tensor after the other.
pub fn flat<'t>(tensors: impl Iterator<Item = &'t Tensor>) -> Vec<f64> {
    tensors.flat_map(Tensor::to_f64s).collect()
}

/// An array of f64.
///
/// Errors: elements that are not as many as the shape has, which is ours.
pub fn array(shape: &[usize], values: &[f64]) -> Result<Tensor, Diagnostic> {
    Tensor::from_f64s(DType::F64, shape.to_vec(), values).map_err(Diagnostic::verify)
}
