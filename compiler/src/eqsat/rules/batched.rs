//! A loop whose iterations do not wait for each other: its body once, with an axis for the iterations.
//!
//! In: a loop without state, or whose states only gather sums of what does not depend on them. Out: the ops of the body with a
//! leading axis wherever something is scanned; a gathered sum is a sum along that axis. Probes along several tangents become
//! products of larger matrices so, and what is the same for all of them is computed once.
//! Deliberately absent: loops in the body, random numbers, and ops that look values up by others that are scanned.

use super::loops::{Gathered, Loop, gathered_terms, picked, the_loop};
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::{Contraction, Rewriter};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Attr, Node, Op, OpKind, ValueId};
use egg::Id;

/// The label of the iterations.
const ITERATIONS: char = 'z';

/// A value of the body: a class, which has the axis of iterations or is the same in all of them.
#[derive(Clone, Copy)]
struct Batched {
    class: Id,
    has_axis: bool,
}

/// The result that the match picks, of the body with an axis for the iterations.
pub fn iterations_at_once(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if l.trip.as_const().is_some_and(|trip| trip < 2) {
        return None;
    }
    let gathered: Vec<Vec<Gathered>> =
        (0..l.carry).map(|state| gathered_terms(&l.body, state)).collect::<Option<_>>()?;
    let mut values: Vec<Option<Batched>> = vec![None; l.body.values.len()];
    for (slot, class) in l.args.iter().enumerate().skip(l.carry) {
        values[slot] = Some(Batched { class: *class, has_axis: slot < l.carry + l.scan });
    }
    for node in &l.body.nodes {
        // What stands on a state gathers it, and is looked at below.
        let args: Option<Vec<Batched>> = node.args.iter().map(|arg| values[arg.0 as usize]).collect();
        if let Some(args) = args {
            let [result] = node.results[..] else { return None };
            values[result.0 as usize] = Some(batched(cx, &l, node, &args)?);
        }
    }
    let Some(terms) = gathered.get(idx) else {
        let stacked = values[l.body.outputs.get(idx)?.value.0 as usize]?;
        return along_iterations(cx, &l, stacked);
    };
    let mut sum = l.args[idx];
    for (term, is_negative) in terms {
        let term = summed(cx, &l, &values, *term)?;
        sum = cx.scalar(if *is_negative { ScalarOp::Sub } else { ScalarOp::Add }, &[sum, term])?;
    }
    Some(sum)
}

/// The sum of a value over all iterations.
fn summed(cx: &mut Rewriter<'_>, l: &Loop, values: &[Option<Batched>], term: ValueId) -> Option<Id> {
    let known = values[term.0 as usize].filter(|value| value.has_axis)?;
    let Some((node, _)) = l.body.def(term) else {
        return cx.reduce(OpKind::ReduceSum, known.class, vec![0]);
    };
    let is_contraction =
        |value: &ValueId| l.body.def(*value).is_some_and(|(node, _)| node.op.kind == OpKind::Contract);
    match (node.op.kind, &node.args[..]) {
        // One sum over the iterations and what is summed in each.
        (OpKind::Contract, args) => {
            let args: Option<Vec<Batched>> = args.iter().map(|arg| values[arg.0 as usize]).collect();
            let args = args?;
            if args.iter().filter(|arg| arg.has_axis).count() == 1 {
                // The other operands are the same in all iterations: they are multiplied with one sum.
                return contract_sum(cx, node, &args);
            }
            let mut spec = contraction(node, &args)?;
            spec.output.retain(|label| *label != ITERATIONS);
            cx.contract(&spec)
        }
        (OpKind::Scalar(op @ (ScalarOp::Add | ScalarOp::Sub)), [x, y])
            if is_contraction(x) || is_contraction(y) =>
        {
            let both = [summed(cx, l, values, *x)?, summed(cx, l, values, *y)?];
            cx.scalar(op, &both)
        }
        _ => cx.reduce(OpKind::ReduceSum, known.class, vec![0]),
    }
}

/// The contraction of operands of which one is summed over the iterations before.
fn contract_sum(cx: &mut Rewriter<'_>, node: &Node, args: &[Batched]) -> Option<Id> {
    let spec = node.op.einsum()?;
    let mut inputs = vec![];
    for (labels, arg) in spec.inputs.iter().zip(args) {
        let class = if arg.has_axis { cx.reduce(OpKind::ReduceSum, arg.class, vec![0])? } else { arg.class };
        inputs.push((labels.clone(), class));
    }
    cx.contract(&Contraction { inputs, output: spec.output.clone(), dtype: node.op.dtype()? })
}

/// The value with the axis of iterations.
fn along_iterations(cx: &mut Rewriter<'_>, l: &Loop, value: Batched) -> Option<Id> {
    if value.has_axis {
        return Some(value.class);
    }
    let shape = cx.ty(value.class)?.shape;
    let axes = (1..=shape.len() as u32).collect();
    cx.broadcast(value.class, with_axis(&l.trip, &shape), axes)
}

fn with_axis(trip: &Dim, shape: &[Dim]) -> Vec<Dim> {
    [trip.clone()].into_iter().chain(shape.iter().cloned()).collect()
}

/// The contraction of operands some of which have the axis of iterations, which its result has too.
fn contraction(node: &Node, args: &[Batched]) -> Option<Contraction> {
    let spec = node.op.einsum()?;
    if spec.inputs.iter().flatten().any(|label| *label == ITERATIONS) {
        return None;
    }
    let inputs = spec.inputs.iter().zip(args).map(|(labels, arg)| {
        let first = arg.has_axis.then_some(ITERATIONS);
        (first.into_iter().chain(labels.iter().copied()).collect(), arg.class)
    });
    let output = [ITERATIONS].into_iter().chain(spec.output.iter().copied()).collect();
    Some(Contraction { inputs: inputs.collect(), output, dtype: node.op.dtype()? })
}

/// A node of the body for all iterations at once; as it is, if all of them do the same.
fn batched(cx: &mut Rewriter<'_>, l: &Loop, node: &Node, args: &[Batched]) -> Option<Batched> {
    if args.iter().all(|arg| !arg.has_axis) {
        let is_pure = !matches!(node.op.kind, OpKind::Loop);
        let classes: Vec<Id> = args.iter().map(|arg| arg.class).collect();
        let class = if is_pure { cx.add(&node.op, &classes)? } else { return None };
        return Some(Batched { class, has_axis: false });
    }
    if node.op.kind == OpKind::Contract {
        let spec = contraction(node, args)?;
        return Some(Batched { class: cx.contract(&spec)?, has_axis: true });
    }
    let op = shifted(&node.op, &l.trip)?;
    let keeps_first = matches!(node.op.kind, OpKind::Pad | OpKind::Gather);
    let mut classes = vec![];
    for (position, arg) in args.iter().enumerate() {
        classes.push(match keeps_first && position > 0 {
            // A padding value or an index, the same for all.
            true if arg.has_axis => return None,
            true => arg.class,
            false => along_iterations(cx, l, *arg)?,
        });
    }
    Some(Batched { class: cx.add(&op, &classes)?, has_axis: true })
}

/// The op on operands with one more axis in front; `None` if it is no such op.
fn shifted(op: &Op, trip: &Dim) -> Option<Op> {
    use OpKind as K;
    let is_known = matches!(
        op.kind,
        K::Scalar(_)
            | K::Convert
            | K::StopGradient
            | K::Broadcast
            | K::Reshape
            | K::Transpose
            | K::Slice
            | K::Pad
            | K::Concat
            | K::Gather
            | K::ReduceSum
            | K::ReduceProd
            | K::ReduceMax
            | K::ReduceMin
            | K::Solve
            | K::Qr
    );
    if !is_known {
        return None;
    }
    let mut op = op.clone();
    let adds_first = matches!(op.kind, K::Broadcast | K::Transpose);
    for (spec, attr) in op.kind.attrs().iter().zip(&mut op.attrs) {
        match (spec.name, attr) {
            ("shape", Attr::Dims(shape)) => *shape = with_axis(trip, shape),
            ("axes", Attr::Axes(axes)) => {
                axes.iter_mut().for_each(|axis| *axis += 1);
                if adds_first {
                    axes.insert(0, 0);
                }
            }
            ("axis", Attr::Int(axis)) => *axis += 1,
            _ => {}
        }
    }
    Some(op)
}
