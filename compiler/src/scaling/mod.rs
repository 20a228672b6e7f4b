//! Sums of exponentials that a loop computes again and again, as products of a kernel that stays and weights: entropic
//! transport in the log domain becomes scaling iterations, wherever these are accurate.
//!
//! In: a bound module, before derivatives are written out. Out: the module with a function of one more result, `in_range:
//! bool[]`. Where that is true, the other results are those of the original function up to rounding; where it is false they
//! mean nothing, and the original function must be run. The rewrite is formal (see `sum.rs`), names no op that users write, and
//! is found in primitives as in composites.
//!
//! `log sum_j exp(k_ij + v_j)` costs an exponential per element of the matrix, in every iteration. If `k` stays the same, so
//! does `E_ij = exp(k_ij - max_j k_ij)`, and `sum_j E_ij exp(v_j - max v)` is a product of a matrix with a vector of as many
//! exponentials as it has elements (Sinkhorn 1967; Cuturi 2013; with a kept shift, Schmitzer 2019). Terms that underflow are lost,
//! which matters only if the whole sum is not much greater than the least positive number: that is what is checked, in every
//! iteration.
//!
//! A second rewrite, of states that are matrices, is in `matrix`.
//!
//! Deliberately absent: whether it pays, which is for a cost model to say; and running the original function.

mod body;
mod forms;
mod matrix;
mod sum;
mod watch;
mod work;
mod written;

use crate::cost::{default_sizes, size_of};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::autodiff::Derivative;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::inline::{live, write_out};
use birkhoff_ir::tensor::{Func, FuncId, Module, Node, OpKind, ValueId};
use std::collections::BTreeMap;
use written::Written;

/// A function with scaled loops.
pub struct Scaled {
    /// Its module.
    pub module: Module,
    /// The function in it; `in_range` is its last result.
    pub func: FuncId,
    /// What its loops with matrices save. None where no loop has a matrix.
    pub saving: Option<Saving>,
}

/// Arithmetic in additions, by a rough count at default sizes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Saving {
    /// Of the loops as they were.
    pub before: f64,
    /// Of the loops as they are.
    pub after: f64,
}

/// The function with its loops scaled in every way that there is: sums of exponentials and matrices, only the one, only the other.
/// None if no loop can be.
///
/// Errors: an op that refuses its operands (a verified module has none).
pub fn scaled(module: &Module, func: FuncId) -> Result<Vec<Scaled>, String> {
    let sums = written(module, func, What::Sums)?;
    let matrices = written(module, func, What::Matrices)?;
    let both = match (&sums, &matrices) {
        (Some(_), Some(matrices)) => written(&matrices.module, matrices.func, What::Sums)?
            .map(|mut both| -> Result<Scaled, String> {
                let func = one_flag(&mut both.module, both.func)?;
                Ok(Scaled { func, saving: matrices.saving, ..both })
            })
            .transpose()?,
        _ => None,
    };
    Ok([both, sums, matrices].into_iter().flatten().collect())
}

fn written(module: &Module, func: FuncId, what: What) -> Result<Option<Scaled>, String> {
    let (bodies, funcs) = (BTreeMap::new(), BTreeMap::new());
    let mut walk = Walk { module: module.clone(), what, bodies, funcs };
    let written = walk.func(func)?;
    Ok(written.map(|written| Scaled {
        module: walk.module,
        func: written.body,
        saving: (what == What::Matrices).then_some(written.saving),
    }))
}

/// The function with its last two results, truth values, as one.
fn one_flag(module: &mut Module, func: FuncId) -> Result<FuncId, String> {
    let mut shell = module.func(func).clone();
    let (Some(one), Some(other)) = (shell.outputs.pop(), shell.outputs.pop()) else {
        return Err("a function that was written twice lacks results".into());
    };
    let mut b = Builder::resume(module, shell);
    let all = b.elementwise(ScalarOp::And, &[one.value, other.value])?;
    b.output(other.name, all)?;
    let span = b.func().span;
    Ok(b.finish_at(span))
}

/// What is written again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Sums of exponentials.
    Sums,
    /// States that are matrices.
    Matrices,
}

/// A loop body: its number of states, the position of the first operand that stays, and how often it runs at most, where that
/// matters.
type Body = (FuncId, usize, usize, Option<i64>);

struct Walk {
    module: Module,
    what: What,
    bodies: BTreeMap<Body, Option<Written>>,
    funcs: BTreeMap<FuncId, Option<Written>>,
}

impl Walk {
    /// A function that is called once: its last result is the truth value.
    fn func(&mut self, id: FuncId) -> Result<Option<Written>, String> {
        if let Some(known) = self.funcs.get(&id) {
            return Ok(known.clone());
        }
        let func = self.module.func(id).clone();
        let func = write_out(&mut self.module, &func, &may_open)?;
        let inner = self.inner(&func)?;
        let written = if inner.is_empty() { None } else { Some(self.with_flag(&func, &inner)?) };
        self.funcs.insert(id, written.clone());
        Ok(written)
    }

    /// Nodes of `func` that refer to functions which were written again.
    fn inner(&mut self, func: &Func) -> Result<BTreeMap<usize, Written>, String> {
        let mut found = BTreeMap::new();
        for (place, node) in func.nodes.iter().enumerate() {
            if let Some(checks) = self.callee(node)? {
                found.insert(place, checks);
            }
        }
        Ok(found)
    }

    fn callee(&mut self, node: &Node) -> Result<Option<Written>, String> {
        let Some(id) = node.op.body() else { return Ok(None) };
        if node.op.kind != OpKind::Loop {
            return self.func(id);
        }
        let (carry, scan) = node.op.loop_counts(&self.module)?;
        let trip = match self.what {
            What::Sums => None,
            What::Matrices => matrix::most(&self.module, &node.op.dim(&self.module, "trip")?),
        };
        let key = (id, carry, carry + scan, trip);
        if let Some(known) = self.bodies.get(&key) {
            return Ok(known.clone());
        }
        let body = self.module.func(id).clone();
        let is_open = |kind: OpKind| !matches!(kind, OpKind::Jvp | OpKind::Vjp);
        let body = live(&write_out(&mut self.module, &body, &is_open)?);
        let written = match self.what {
            What::Sums => body::write(self, &body, carry, carry + scan)?,
            What::Matrices => matrix::write(self, &body, carry, trip)?,
        };
        self.bodies.insert(key, written.clone());
        Ok(written)
    }

    fn with_flag(&mut self, func: &Func, inner: &BTreeMap<usize, Written>) -> Result<Written, String> {
        let values = func.values[..func.inputs.len()].to_vec();
        let name = format!("{}_in_range", func.name);
        let shell = Func { name, nodes: vec![], outputs: vec![], values, exported: false, ..func.clone() };
        let mut b = Builder::resume(&mut self.module, shell);
        let mut map: BTreeMap<ValueId, ValueId> = func.input_values().map(|value| (value, value)).collect();
        let mut all: Option<ValueId> = None;
        for (place, node) in func.nodes.iter().enumerate() {
            b.set_span(node.span);
            let args: Vec<ValueId> = node.args.iter().map(|arg| map[arg]).collect();
            let results = match inner.get(&place) {
                None => b.op(node.op.clone(), &args)?,
                Some(checks) => {
                    let (results, flag) = checks.apply(&mut b, node, &args)?;
                    all = Some(watch::and(&mut b, all, flag)?);
                    results
                }
            };
            for (old, new) in node.results.iter().zip(results) {
                map.insert(*old, new);
                if let Some(name) = &func.values[old.0 as usize].name {
                    b.name(new, name.clone());
                }
            }
        }
        for out in &func.outputs {
            b.output(out.name.clone(), map[&out.value])?;
        }
        b.fresh_output("in_range", all.ok_or("a function without checks was written again")?)?;
        let body = b.finish_at(func.span);
        let sizes = default_sizes(&self.module);
        let mut saving = Saving::default();
        for (place, written) in inner {
            let trip = func.nodes[*place].op.dim(&self.module, "trip");
            let trip = trip.map_or(1.0, |trip| size_of(&trip, &sizes));
            saving.before += trip * written.saving.before;
            saving.after += trip * written.saving.after;
        }
        Ok(Written { body, watches: vec![], matrices: vec![], saving })
    }
}

/// Composites that may be written as loops before derivatives are: those that have no derivative of their own.
fn may_open(kind: OpKind) -> bool {
    !matches!(kind, OpKind::Jvp | OpKind::Vjp) && matches!(kind.derivative(), Derivative::Expansion)
}
