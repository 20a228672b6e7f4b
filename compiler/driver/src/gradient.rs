//! Specs of derivatives: from a spec to that of its gradient, its tangents, or the product of its Hessian with a vector.
//!
//! In: a spec and names of inputs. Out: a spec whose function is the derivative; it is compiled like any other and can be
//! differentiated again. Arrays keep their names; `ct.NAME` is the cotangent of an output, `grad.NAME` a gradient, `dot.NAME` a
//! tangent.

use crate::error::Error;
use crate::spec::{Content, Spec};
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, forward, reverse};
use birkhoff_ir::tensor::{FuncId, Module};

/// Which outputs have a cotangent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cotangents {
    /// The only scalar output, and it is 1.
    Unit,
    /// These outputs; each cotangent is an input `ct.NAME`. The others' are 0.
    Named(Vec<String>),
    /// All float outputs.
    #[default]
    All,
}

/// How loops are taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loops {
    /// As the cost model says.
    #[default]
    Auto,
    /// Over the iterates that the loop itself keeps.
    Stash,
    /// Over those of a second run, for which nothing of the first is kept.
    Rerun,
    /// What was dear to compute is kept, and the state of every so many iterations; the others are made again from those.
    Rebuild,
}

impl Loops {
    /// All of them.
    pub const ALL: [Loops; 4] = [Loops::Auto, Loops::Stash, Loops::Rerun, Loops::Rebuild];

    /// Its name on the command line and in IR.
    pub fn name(self) -> &'static str {
        match self {
            Loops::Auto => "auto",
            Loops::Stash => "stash",
            Loops::Rerun => "rerun",
            Loops::Rebuild => "rebuild",
        }
    }
}

/// What to differentiate in reverse.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gradient {
    /// Names of the inputs whose gradients are wanted.
    pub wrt: Vec<String>,
    /// Which outputs have a cotangent.
    pub cotangents: Cotangents,
    /// Whether the outputs are wanted too.
    pub values: bool,
    /// How loops are taken back.
    pub loops: Loops,
}

impl Spec {
    /// The gradients `grad.NAME` of the only scalar output with respect to `wrt`.
    ///
    /// Errors: as [`Spec::differentiated`].
    pub fn grad(self, wrt: &[&str]) -> Result<Spec, Error> {
        self.differentiated(&Gradient {
            wrt: owned(wrt),
            cotangents: Cotangents::Unit,
            ..Gradient::default()
        })
    }

    /// The outputs, and the gradients `grad.NAME` of the only scalar one with respect to `wrt`.
    ///
    /// Errors: as [`Spec::differentiated`].
    pub fn value_and_grad(self, wrt: &[&str]) -> Result<Spec, Error> {
        let gradient =
            Gradient { wrt: owned(wrt), cotangents: Cotangents::Unit, values: true, ..Gradient::default() };
        self.differentiated(&gradient)
    }

    /// The outputs, and the cotangents `grad.NAME` of the inputs `wrt` from inputs `ct.NAME`, one per float output.
    ///
    /// Errors: as [`Spec::differentiated`].
    pub fn vjp(self, wrt: &[&str]) -> Result<Spec, Error> {
        self.differentiated(&Gradient { wrt: owned(wrt), values: true, ..Gradient::default() })
    }

    /// The outputs and their tangents `dot.NAME`, from inputs `dot.NAME`, one per name in `wrt`.
    ///
    /// Errors: as [`Spec::differentiated`].
    pub fn jvp(self, wrt: &[&str]) -> Result<Spec, Error> {
        self.derived(|module, func| forward(module, func, &owned(wrt), true))
    }

    /// The Hessian of the only scalar output with respect to `wrt`, times the vector `dot.NAME`: outputs `dot.grad.NAME`.
    ///
    /// Errors: as [`Spec::differentiated`].
    pub fn hvp(self, wrt: &[&str]) -> Result<Spec, Error> {
        let gradient = self.grad(wrt)?;
        gradient.derived(|module, func| forward(module, func, &owned(wrt), false))
    }

    /// The gradient that is asked for.
    ///
    /// Errors: names that are no inputs or outputs, or no floats; no scalar output, or several, for [`Cotangents::Unit`]; a
    /// spec that came as a plan.
    pub fn differentiated(self, gradient: &Gradient) -> Result<Spec, Error> {
        self.derived(|module, func| {
            let of = match &gradient.cotangents {
                Cotangents::Named(names) => Of::Named(names.clone()),
                Cotangents::All => Of::AllFloats,
                Cotangents::Unit => Of::OnlyScalar,
            };
            let loops = gradient.loops.name().to_string();
            let ask = Reverse { wrt: gradient.wrt.clone(), of, values: gradient.values, loops };
            reverse(module, func, &ask)
        })
    }

    /// A spec of the function that `derive` appends.
    fn derived(
        mut self,
        derive: impl FnOnce(&mut Module, FuncId) -> Result<FuncId, String>,
    ) -> Result<Spec, Error> {
        let Content::Tensor(module) = self.content() else {
            return Err(
                self.error(Diagnostic::input(Span::NONE, "a plan or kernel cannot be differentiated"))
            );
        };
        let mut module = module.clone();
        let func = self.func_id(&module).map_err(|error| self.error(error))?;
        let span = module.func(func).span;
        let id = derive(&mut module, func).map_err(|why| self.error(Diagnostic::input(span, why)))?;
        let name = module.func(id).name.clone();
        self.replace(module, name);
        Ok(self)
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}
