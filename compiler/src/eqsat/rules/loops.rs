//! Loops: no iteration, one iteration, state that never changes, work that is the same in every iteration.
//!
//! A body is a function of its own and is optimised before its loop; these rows replace it by another one.

use super::Class::{Exact, Reassociates};
use super::Rule;
use super::accumulated::contract_iterations;
use super::batched::iterations_at_once;
use crate::eqsat::import;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::Rewriter;
use crate::eqsat::term::{Head, Term};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Attr, Def, Domain, Func, FuncId, Input, Node, Op, OpKind, Output, Value, ValueId};
use egg::Id;
use std::collections::BTreeMap;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::built(
        "loop-without-iterations",
        "(get@g (loop@l ..))",
        ("the initial state", never),
        Exact,
        "Nothing happens to the state.",
    ),
    Rule::built(
        "loop-of-one-iteration",
        "(get@g (loop@l ..))",
        ("the body itself", once),
        Exact,
        "One iteration is no loop, and fuses.",
    ),
    Rule::built(
        "loop-constant-state",
        "(get@g (loop@l ..))",
        ("the initial state", constant_state),
        Exact,
        "A state that the body hands on unchanged is what it was before.",
    ),
    Rule::built(
        "loop-state-to-operand",
        "(get@g (loop@l ..))",
        ("a loop with less state", state_to_operand),
        Exact,
        "A state that never changes is an operand, and what depends on it alone can be hoisted.",
    ),
    Rule::built(
        "loop-invariant-work",
        "(loop@l ..)",
        ("a loop that is handed the results", hoist),
        Exact,
        "What depends only on operands that stay the same is computed once, before the loop.",
    ),
    Rule::built(
        "loop-sum-of-products",
        "(get@g (loop@l ..))",
        ("a contraction over the iterations of a loop that stacks vectors", contract_iterations),
        Reassociates,
        "A matrix that gathers products of vectors is written once, not in every iteration.",
    ),
    Rule::built(
        "loop-to-axis",
        "(get@g (loop@l ..))",
        ("the body with an axis for the iterations", iterations_at_once),
        Reassociates,
        "Iterations that do not wait for each other are larger matrix products, and fuse.",
    ),
];

/// A loop in the graph.
pub(super) struct Loop {
    pub(super) op: Op,
    pub(super) body_id: FuncId,
    pub(super) body: Func,
    pub(super) args: Vec<Id>,
    pub(super) trip: Dim,
    pub(super) carry: usize,
    pub(super) scan: usize,
}

pub(super) fn the_loop(cx: &Rewriter<'_>, m: &Match) -> Option<Loop> {
    let term: &Term = m.term('l')?;
    let op = cx.op_of(term)?;
    let module = &cx.graph.analysis.module;
    let body_id = op.body()?;
    let body = module.funcs.get(body_id.0 as usize)?.clone();
    let count = |name| op.int(module, name).ok().and_then(|count| usize::try_from(count).ok());
    let (carry, scan, trip) = (count("carry")?, count("scan")?, op.dim(module, "trip").ok()?);
    Some(Loop { body_id, body, args: term.args.clone(), trip, carry, scan, op })
}

/// Which result the term `@g` picks.
pub(super) fn picked(m: &Match) -> Option<usize> {
    match m.term('g')?.head {
        Head::Get(idx) => Some(idx as usize),
        _ => None,
    }
}

/// A term of what a state gathers, and whether it is subtracted.
pub(super) type Gathered = (ValueId, bool);

/// The terms that each iteration adds to a state, if it does nothing else with it.
pub(super) fn gathered_terms(body: &Func, state: usize) -> Option<Vec<Gathered>> {
    let value = ValueId(state as u32);
    let ty = body.ty(value);
    if !ty.dtype.is_float() || ty.dtype != ty.dtype.compute() || body.n_uses()[state] != 1 {
        return None;
    }
    // It has one reader, whose result has one, and so on to the result: what stands on it is a chain.
    let mut stands_on = vec![false; body.values.len()];
    stands_on[state] = true;
    for node in &body.nodes {
        let reads = node.args.iter().any(|arg| stands_on[arg.0 as usize]);
        node.results.iter().for_each(|result| stands_on[result.0 as usize] = reads);
    }
    let (mut terms, mut place) = (vec![], body.outputs.get(state)?.value);
    while place != value {
        let (node, _) = body.def(place)?;
        let (op, [x, y]) = (node.op.kind, node.args[..].first_chunk::<2>()?);
        let on_state = [x, y].map(|arg| stands_on[arg.0 as usize]);
        let (next, term) = match (op, on_state) {
            (OpKind::Scalar(ScalarOp::Add), [true, false]) => (*x, (*y, false)),
            (OpKind::Scalar(ScalarOp::Add), [false, true]) => (*y, (*x, false)),
            (OpKind::Scalar(ScalarOp::Sub), [true, false]) => (*x, (*y, true)),
            _ => return None,
        };
        terms.push(term);
        place = next;
    }
    // Its sums so far are nobody else's either.
    let others =
        body.outputs.iter().enumerate().any(|(slot, out)| slot != state && stands_on[out.value.0 as usize]);
    (!others && !terms.is_empty()).then_some(terms)
}

fn never(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if l.trip.is_const(0) && idx < l.carry { l.args.get(idx).copied() } else { None }
}

fn once(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if !l.trip.is_const(1) {
        return None;
    }
    let mut args = l.args.clone();
    for (arg, slot) in args.iter_mut().zip(&l.body.values).skip(l.carry).take(l.scan) {
        *arg = cx.reshape(*arg, slot.ty.shape.clone())?;
    }
    let results = import::insert(cx, &l.body, &args)?;
    let shape = cx.ty(m.root)?.shape;
    cx.reshape(*results.get(idx)?, shape)
}

/// True if the body hands on the state of that position unchanged.
fn is_constant(l: &Loop, idx: usize) -> bool {
    idx < l.carry && l.body.outputs.get(idx).is_some_and(|out| out.value == ValueId(idx as u32))
}

fn constant_state(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if is_constant(&l, idx) { l.args.get(idx).copied() } else { None }
}

fn state_to_operand(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if is_constant(&l, idx) {
        return None;
    }
    let constant: Vec<usize> = (0..l.carry).filter(|state| is_constant(&l, *state)).collect();
    if constant.is_empty() {
        return None;
    }
    // Operands: changing state, slices, the rest, then what was constant state.
    let n_inputs = l.body.inputs.len();
    let order: Vec<usize> =
        (0..n_inputs).filter(|pos| !constant.contains(pos)).chain(constant.iter().copied()).collect();
    let mut body = permute_inputs(&l.body, &order);
    let mut position = 0;
    body.outputs.retain(|_| {
        position += 1;
        !constant.contains(&(position - 1))
    });
    let args: Vec<Id> = order.iter().map(|pos| l.args[*pos]).collect();
    let body = import::adopt_body(cx.graph, body, Some((l.body_id, &constant)));
    let mut op = l.op.clone();
    op.attrs[0] = Attr::Func(body);
    op.attrs[2] = Attr::Int((l.carry - constant.len()) as i64);
    let tuple = cx.add(&op, &args)?;
    let before = constant.iter().filter(|state| **state < idx).count();
    Some(cx.get(tuple, idx - before))
}

/// The function with its inputs in another order: input `i` of the result is input `order[i]`.
fn permute_inputs(func: &Func, order: &[usize]) -> Func {
    let mut place: Vec<u32> = (0..func.values.len() as u32).collect();
    let mut result = func.clone();
    for (new, old) in order.iter().enumerate() {
        place[*old] = new as u32;
        result.inputs[new] = func.inputs[*old].clone();
        result.values[new] = Value { def: Def::Input(new as u32), ..func.values[*old].clone() };
    }
    for node in &mut result.nodes {
        node.args.iter_mut().for_each(|arg| arg.0 = place[arg.0 as usize]);
    }
    result.outputs.iter_mut().for_each(|out| out.value.0 = place[out.value.0 as usize]);
    result
}

/// True for ops that are repeated in the body rather than handed to it: they are free, and their results larger.
fn is_free(kind: OpKind) -> bool {
    matches!(kind, OpKind::Const | OpKind::Iota | OpKind::Broadcast | OpKind::Reshape | OpKind::Slice)
}

fn hoist(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let l = the_loop(cx, m)?;
    if l.trip.as_const().is_some_and(|trip| trip < 2) {
        return None;
    }
    let body = &l.body;
    let mut same = vec![false; body.values.len()];
    same[l.carry + l.scan..body.inputs.len()].iter_mut().for_each(|slot| *slot = true);
    for node in &body.nodes {
        let invariant = node.args.iter().all(|arg| same[arg.0 as usize]);
        node.results.iter().for_each(|result| same[result.0 as usize] = invariant);
    }
    // What the rest of the body reads of it: results of real work, below whatever is free to repeat.
    let mut inside = vec![false; body.values.len()];
    let mut handed = vec![false; body.values.len()];
    let mut read: Vec<ValueId> = body.outputs.iter().map(|out| out.value).collect();
    for node in body.nodes.iter().filter(|node| !same[node.results[0].0 as usize]) {
        read.extend(&node.args);
    }
    while let Some(value) = read.pop() {
        let Def::Node { node, .. } = body.values[value.0 as usize].def else { continue };
        let node = &body.nodes[node as usize];
        if !same[value.0 as usize] || inside[value.0 as usize] || handed[value.0 as usize] {
            continue;
        }
        if is_free(node.op.kind) {
            inside[value.0 as usize] = true;
            read.extend(&node.args);
        } else {
            handed[value.0 as usize] = true;
        }
    }
    let hoisted: Vec<ValueId> =
        (0..body.values.len() as u32).map(ValueId).filter(|value| handed[value.0 as usize]).collect();
    if hoisted.is_empty() {
        return None;
    }
    let keeps =
        |node: &Node| node.results.iter().any(|result| !same[result.0 as usize] || inside[result.0 as usize]);
    let new_body = with_inputs_for(body, &hoisted, &keeps);
    let mut outside = body.clone();
    outside.outputs =
        hoisted.iter().map(|value| Output { name: format!("v{}", value.0).into(), value: *value }).collect();
    let outside = birkhoff_ir::tensor::inline::live(&outside);
    let results = import::insert(cx, &outside, &l.args)?;
    let args: Vec<Id> = l.args.iter().copied().chain(results).collect();
    let new_body = import::adopt_body(cx.graph, new_body, Some((l.body_id, &[])));
    let mut op = l.op.clone();
    op.attrs[0] = Attr::Func(new_body);
    cx.add(&op, &args)
}

/// The body with further inputs in the place of the values `hoisted`, and only the nodes that `keeps` says.
fn with_inputs_for(body: &Func, hoisted: &[ValueId], keeps: &dyn Fn(&Node) -> bool) -> Func {
    let mut inner = Func { inputs: body.inputs.clone(), values: vec![], nodes: vec![], ..body.clone() };
    let mut place: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (idx, value) in body.values[..body.inputs.len()].iter().enumerate() {
        place.insert(ValueId(idx as u32), ValueId(idx as u32));
        inner.values.push(value.clone());
    }
    for value in hoisted {
        let slot = inner.inputs.len() as u32;
        let span = body.span;
        inner.inputs.push(Input { name: format!("hoisted{slot}").into(), domain: Domain::default(), span });
        let def = Def::Input(slot);
        inner.values.push(Value { def, ..body.values[value.0 as usize].clone() });
        place.insert(*value, ValueId(slot));
    }
    for node in body.nodes.iter().filter(|node| keeps(node)) {
        let number = inner.nodes.len() as u32;
        let args = node.args.iter().map(|arg| place[arg]).collect();
        let mut results = vec![];
        for (idx, result) in node.results.iter().enumerate() {
            let def = Def::Node { node: number, result: idx as u32 };
            inner.values.push(Value { def, ..body.values[result.0 as usize].clone() });
            let id = ValueId(inner.values.len() as u32 - 1);
            place.insert(*result, id);
            results.push(id);
        }
        inner.nodes.push(Node { args, results, ..node.clone() });
    }
    inner.outputs.iter_mut().for_each(|out| out.value = place[&out.value]);
    inner
}
