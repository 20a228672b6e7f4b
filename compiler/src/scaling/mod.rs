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
//! Deliberately absent: whether it pays, which is for a cost model to say; and running the original function.

mod body;
mod forms;
mod least;
mod sum;

use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::autodiff::Derivative;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::inline::{live, write_out};
use birkhoff_ir::tensor::{Func, FuncId, Module, Node, OpKind, TensorType, ValueId};
use std::collections::BTreeMap;

/// The function with its loops scaled, and `in_range` as its last result; `None` if no loop has such a sum.
///
/// Errors: an op that refuses its operands (a verified module has none).
pub fn scaled(module: &Module, func: FuncId) -> Result<Option<(Module, FuncId)>, String> {
    let mut walk = Walk { module: module.clone(), bodies: BTreeMap::new(), funcs: BTreeMap::new() };
    let Some(checks) = walk.func(func)? else { return Ok(None) };
    Ok(Some((walk.module, checks.body)))
}

/// A function that was written again, and the state that it has more as the body of a loop.
#[derive(Clone)]
struct Checks {
    body: FuncId,
    states: Vec<TensorType>,
}

struct Walk {
    module: Module,
    /// Loop bodies, by their number of states and the position of the first operand that stays.
    bodies: BTreeMap<(FuncId, usize, usize), Option<Checks>>,
    funcs: BTreeMap<FuncId, Option<Checks>>,
}

impl Walk {
    /// A function that is called once: its last result is the truth value.
    fn func(&mut self, id: FuncId) -> Result<Option<Checks>, String> {
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
    fn inner(&mut self, func: &Func) -> Result<BTreeMap<usize, Checks>, String> {
        let mut found = BTreeMap::new();
        for (place, node) in func.nodes.iter().enumerate() {
            if let Some(checks) = self.callee(node)? {
                found.insert(place, checks);
            }
        }
        Ok(found)
    }

    fn callee(&mut self, node: &Node) -> Result<Option<Checks>, String> {
        let Some(id) = node.op.body() else { return Ok(None) };
        if node.op.kind != OpKind::Loop {
            return self.func(id);
        }
        let (carry, scan) = node.op.loop_counts(&self.module)?;
        let key = (id, carry, carry + scan);
        if let Some(known) = self.bodies.get(&key) {
            return Ok(known.clone());
        }
        let body = self.module.func(id).clone();
        let is_open = |kind: OpKind| !matches!(kind, OpKind::Jvp | OpKind::Vjp);
        let body = live(&write_out(&mut self.module, &body, &is_open)?);
        let written = body::write(self, &body, carry, carry + scan)?;
        self.bodies.insert(key, written.clone());
        Ok(written)
    }

    fn with_flag(&mut self, func: &Func, inner: &BTreeMap<usize, Checks>) -> Result<Checks, String> {
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
                    all = Some(match all {
                        None => flag,
                        Some(all) => b.elementwise(ScalarOp::And, &[all, flag])?,
                    });
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
        Ok(Checks { body: b.finish_at(func.span), states: vec![] })
    }
}

/// Composites that may be written as loops before derivatives are: those that have no derivative of their own.
fn may_open(kind: OpKind) -> bool {
    !matches!(kind, OpKind::Jvp | OpKind::Vjp) && matches!(kind.derivative(), Derivative::Expansion)
}
