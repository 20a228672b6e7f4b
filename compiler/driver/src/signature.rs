//! What a function takes and gives.

use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::plan::{self, BufferKind, Program, SizeDecl};
use birkhoff_ir::tensor::bind::solve_sizes;
use birkhoff_ir::tensor::{DimKind, FuncId, Module, TensorType};
use std::collections::BTreeSet;
use std::fmt;

/// The named arrays of a function and the run-time sizes in their types.
#[derive(Clone, PartialEq, Debug)]
pub struct Signature {
    /// The function's name.
    pub name: String,
    /// Run-time sizes, with bounds and defaults.
    pub sizes: Vec<SizeDecl>,
    /// Inputs, in order.
    pub inputs: Vec<(Sym, TensorType)>,
    /// Outputs, in order.
    pub outputs: Vec<(Sym, TensorType)>,
}

impl Signature {
    /// The signature of a function of a bound module. Its sizes are those that it or a loop body mentions.
    pub fn of_func(module: &Module, id: FuncId) -> Signature {
        let func = module.func(id);
        let bodies = module.funcs.iter().filter(|func| !func.exported);
        let values = std::iter::once(func).chain(bodies).flat_map(|func| &func.values);
        let used: BTreeSet<Sym> = values.flat_map(|value| &value.ty.shape).flat_map(Dim::syms).collect();
        let sizes = module.dims.iter().filter_map(|decl| match decl.kind {
            DimKind::RunTime { lo, hi, default } if used.contains(&decl.name) => {
                Some(SizeDecl { name: decl.name.clone(), bounds: (lo, hi), default })
            }
            _ => None,
        });
        let inputs = func.inputs.iter().zip(func.input_values());
        let outputs = func.outputs.iter().map(|out| (out.name.clone(), func.ty(out.value).clone()));
        Signature {
            name: func.name.clone(),
            sizes: sizes.collect(),
            inputs: inputs.map(|(input, value)| (input.name.clone(), func.ty(value).clone())).collect(),
            outputs: outputs.collect(),
        }
    }

    /// The signature of a plan.
    pub fn of_program(program: &Program) -> Signature {
        let arrays = |kind: BufferKind| {
            let typed = |buffer: &plan::Buffer| {
                (buffer.name.clone(), TensorType::new(buffer.dtype, buffer.shape.clone()))
            };
            program.buffers.iter().filter(|buffer| buffer.kind == kind).map(typed).collect()
        };
        Signature {
            name: program.name.to_string(),
            sizes: program.sizes.clone(),
            inputs: arrays(BufferKind::Input),
            outputs: arrays(BufferKind::Output),
        }
    }

    /// The names of the inputs, in order.
    pub fn input_names(&self) -> Vec<Sym> {
        self.inputs.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The names of the outputs, in order.
    pub fn output_names(&self) -> Vec<Sym> {
        self.outputs.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The run-time sizes of a call: from the shapes of the inputs, from `given`, or by default.
    ///
    /// Errors: sizes that contradict each other, are missing, or are out of bounds.
    pub fn sizes_of(&self, shapes: &[Vec<i64>], given: &SizeEnv) -> Result<SizeEnv, Diagnostics> {
        let solved = solve_sizes(&self.inputs, shapes, given)?;
        let sizes = self.default_sizes(&solved)?;
        for ((name, ty), found) in self.inputs.iter().zip(shapes) {
            let expected = concrete(ty, &sizes)?;
            if expected != *found {
                let message =
                    format!("the input `{name}` is {ty}, of shape {expected:?} here, found {found:?}");
                return Err(Diagnostic::input(Span::NONE, message).into());
            }
        }
        Ok(sizes)
    }

    /// The run-time sizes of a call where only `given` and the defaults speak.
    ///
    /// Errors: a size without a value, or out of its bounds.
    pub fn default_sizes(&self, given: &SizeEnv) -> Result<SizeEnv, Diagnostics> {
        let mut sizes = given.clone();
        let mut errors = Vec::new();
        for decl in &self.sizes {
            let Some(value) = given.get(&decl.name).copied().or(decl.default) else {
                let message = format!("the size `{}` has no value, and no input's shape says it", decl.name);
                let help = format!("give it with --dim {}=VALUE", decl.name);
                errors.push(Diagnostic::input(Span::NONE, message).help(help));
                continue;
            };
            let (lo, hi) = decl.bounds;
            if value < lo || value > hi {
                let message = format!("the size `{}` must be in {lo}..={hi}, found {value}", decl.name);
                errors.push(Diagnostic::input(Span::NONE, message));
            }
            sizes.insert(decl.name.clone(), value);
        }
        Diagnostics(errors).into_result(sizes)
    }
}

/// The extents of `ty` at given sizes.
///
/// Errors: a size without a value, or one that overflows.
pub fn concrete(ty: &TensorType, sizes: &SizeEnv) -> Result<Vec<i64>, Diagnostic> {
    let extents: Result<Vec<i64>, _> = ty.shape.iter().map(|dim| dim.eval(sizes)).collect();
    extents.map_err(|error| Diagnostic::input(Span::NONE, error.to_string()))
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |arrays: &[(Sym, TensorType)]| {
            let typed: Vec<String> = arrays.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
            typed.join(", ")
        };
        write!(f, "{}({}) -> ({})", self.name, list(&self.inputs), list(&self.outputs))
    }
}
