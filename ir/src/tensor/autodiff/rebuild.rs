//! Loops with tangents, whose states are made again.
//!
//! In: a loop, its operands and their tangents. Out: its results and theirs. The loop stacks what was dear to compute (of a
//! stack of layers: the results of branches), and given that, a second run makes the states again, which is cheap. So that only
//! few states are there at a time, a long loop becomes one over blocks: the state is kept at the beginning of each block, and the
//! states within are made again when its turn comes on the way back. With blocks of about the root of the number of iterations,
//! as many states are kept as are made again (Chen et al. 2016, \"Training deep nets with sublinear memory cost\").

use super::loops::{Loop, body_of, dear, inputs_like, linear_body, linear_loop, linearize_loop, split};
use super::outcomes::outcome;
use super::{LoopMode, Tangents};
use crate::dim::Dim;
use crate::tensor::build::Builder;
use crate::tensor::inline::{live, read_inputs, without_inputs};
use crate::tensor::{Attr, Def, Func, FuncId, OpKind, TensorType, Value, ValueId};
use std::collections::BTreeMap;

/// Results of a loop and their tangents; those results that are `known` need not be computed.
pub fn rebuild(
    b: &mut Builder<'_>,
    parts: Loop<'_>,
    known: &[Option<ValueId>],
) -> Result<(Vec<ValueId>, Tangents), String> {
    let n_results = parts.body.outputs.len();
    let Stacking { id, body, kept, has_loops } = with_dear_results(b, &parts.body, parts.carry)?;
    if kept.is_empty() {
        return split(b, &parts, LoopMode::Rerun, LoopMode::Rerun);
    }
    let is_known = kept.iter().all(|pos| known.get(*pos).copied().flatten().is_some());
    if let (false, false, Some(length)) = (has_loops, is_known, block_length(b, &parts)) {
        return in_blocks(b, &parts, length);
    }
    let dear = kept.iter().map(|pos| body.outputs[*pos].value).collect();
    let parts = Loop::new(b, parts.op, parts.args, parts.tangents, body, (parts.carry, parts.scan), dear);
    let (mut results, mut tangents) = match has_loops {
        // The state is kept here; the loops inside make theirs again.
        true => split(b, &parts, LoopMode::Stash, LoopMode::Rebuild)?,
        false => in_two_runs(b, &parts, &kept, known, (!is_known).then_some(id))?,
    };
    results.truncate(n_results);
    tangents.truncate(n_results);
    Ok((results, tangents))
}

/// A body that returns all that is dear in it.
struct Stacking {
    id: FuncId,
    body: Func,
    /// Positions of those results.
    kept: Vec<usize>,
    /// Whether some of it comes from loops inside.
    has_loops: bool,
}

/// `body` with dear values as results, those of the loops inside it stacked; what is a result already stays the one it is.
fn with_dear_results(b: &mut Builder<'_>, body: &Func, carry: usize) -> Result<Stacking, String> {
    let mut func = body.clone();
    let mut values: Vec<ValueId> =
        dear(&func).into_iter().map(|value| outcome(&func, value).unwrap_or(value)).collect();
    let mut has_loops = false;
    for place in 0..func.nodes.len() {
        let op = func.nodes[place].op.clone();
        if op.kind != OpKind::Loop {
            continue;
        }
        let (inner_carry, _) = op.loop_counts(b.module)?;
        let inner = body_of(b, &op)?;
        let inner = with_dear_results(b, &inner, inner_carry)?;
        if inner.kept.is_empty() {
            continue;
        }
        has_loops = true;
        let trip = op.dim(b.module, "trip")?;
        for pos in func.nodes[place].results.len()..inner.body.outputs.len() {
            let slice = inner.body.ty(inner.body.outputs[pos].value);
            let mut shape = slice.shape.clone();
            shape.insert(0, trip.clone());
            let ty = TensorType::new(slice.dtype, shape);
            let value = ValueId(func.values.len() as u32);
            let def = Def::Node { node: place as u32, result: pos as u32 };
            func.values.push(Value { ty, def, name: None });
            func.nodes[place].results.push(value);
        }
        values.extend(inner.kept.iter().map(|pos| func.nodes[place].results[*pos]));
        func.nodes[place].op.attrs[0] = Attr::Func(inner.id);
    }
    let mut kept = vec![];
    let name = func.name.clone();
    let func = Func { exported: false, ..func };
    let id = b.nested_from(&format!("{name}_kept"), func, |inner| {
        for value in values {
            let known = inner.func().outputs.iter().skip(carry).position(|out| out.value == value);
            kept.push(known.map_or(inner.func().outputs.len(), |pos| carry + pos));
            if known.is_none() {
                inner.fresh_output("kept", value)?;
            }
        }
        Ok(())
    })?;
    let body = live(b.module.func(id));
    b.module.funcs[id.0 as usize] = body.clone();
    Ok(Stacking { id, body, kept, has_loops })
}

/// A run of `first` that stacks what is dear, unless that is known; a second one, given that, for the states; and the tangents.
fn in_two_runs(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    kept: &[usize],
    known: &[Option<ValueId>],
    first: Option<FuncId>,
) -> Result<(Vec<ValueId>, Tangents), String> {
    // Loops inside a state's step are short: theirs are kept.
    let linear = linear_body(b, parts, LoopMode::Stash)?;
    let n_results = parts.body.outputs.len();
    let mut results: Vec<Option<ValueId>> = vec![None; n_results];
    if let Some(first) = first {
        let op = parts.with_body(first, parts.carry, parts.scan);
        results = b.op(op, parts.args)?.into_iter().map(Some).collect();
    } else {
        kept.iter().for_each(|pos| results[*pos] = known[*pos]);
    }
    // Given what is dear, the second run computes states, and what else is not known.
    let missing: Vec<usize> = (parts.carry..n_results).filter(|pos| results[*pos].is_none()).collect();
    let (mut operands, mut given) = (vec![], BTreeMap::new());
    let mut n_scanned = 0;
    let id = b.nested(&parts.name("rebuilt"), |inner| {
        let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut add = |inner: &mut Builder<'_>, range: std::ops::Range<usize>, map: &mut BTreeMap<_, _>| {
            for (pos, value) in inputs_like(inner, parts, "", &range.collect::<Vec<_>>())? {
                map.insert(ValueId(pos as u32), value);
                operands.push(parts.args[pos]);
            }
            Ok::<(), String>(())
        };
        add(inner, parts.carried(), &mut map)?;
        for pos in kept {
            let value = parts.body.outputs[*pos].value;
            given.insert(value, inner.fresh_input("kept", parts.body.ty(value).clone())?);
        }
        add(inner, parts.scanned(), &mut map)?;
        n_scanned = kept.len() + parts.scan;
        add(inner, parts.kept(), &mut map)?;
        map.extend(&given);
        let missing_value = |value: &ValueId| format!("the value {} is used before its definition", value.0);
        for node in &parts.body.nodes {
            if node.results.iter().all(|result| map.contains_key(result)) {
                continue;
            }
            inner.set_span(node.span);
            let args = node.args.iter().map(|arg| map.get(arg).copied().ok_or_else(|| missing_value(arg)));
            let args = args.collect::<Result<Vec<ValueId>, String>>()?;
            for (old, new) in node.results.iter().zip(inner.op(node.op.clone(), &args)?) {
                map.entry(*old).or_insert(new);
            }
        }
        for pos in (0..parts.carry).chain(missing.iter().copied()) {
            let out = &parts.body.outputs[pos];
            inner.fresh_output(&out.name, map[&out.value])?;
        }
        for pos in &linear.iterates {
            inner.fresh_output(&format!("iterate.{}", parts.input_name(*pos)), map[&ValueId(*pos as u32)])?;
        }
        Ok(())
    })?;
    let stacks = kept.iter().map(|pos| results[*pos].ok_or("a stack is missing"));
    let stacks = stacks.collect::<Result<Vec<ValueId>, _>>()?;
    operands.splice(parts.carry..parts.carry, stacks.iter().copied());
    let func = live(b.module.func(id));
    let mut keep = read_inputs(&func);
    keep[..parts.carry].fill(true);
    b.module.funcs[id.0 as usize] = without_inputs(&func, &keep);
    let n_read = keep[parts.carry..parts.carry + n_scanned].iter().filter(|keep| **keep).count();
    let read: Vec<ValueId> =
        operands.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(arg, _)| *arg).collect();
    let found = b.op(parts.with_body(id, parts.carry, n_read), &read)?;
    for (pos, value) in (0..parts.carry).chain(missing).zip(&found) {
        results[pos].get_or_insert(*value);
    }
    let mut scanned: Vec<ValueId> = found[found.len() - linear.iterates.len()..].to_vec();
    for value in &linear.dear {
        let place = kept.iter().position(|pos| parts.body.outputs[*pos].value == *value);
        scanned.push(stacks[place.ok_or("a stack is missing")?]);
    }
    let tangents = linear_loop(b, parts, &linear, scanned)?;
    let results = results.into_iter().collect::<Option<Vec<ValueId>>>().ok_or("a result is missing")?;
    Ok((results, tangents))
}

/// Iterations of a block: a divisor of their number for which the states at the beginnings of blocks and those of one block are
/// fewest; `None` for a loop that is one block.
fn block_length(b: &Builder<'_>, parts: &Loop<'_>) -> Option<i64> {
    let trip = parts.op.dim(b.module, "trip").ok()?.as_const()?;
    // The two are fewest next to the root; of a divisor and its partner the longer block has fewer of them to keep.
    let shorter = (2..=trip.isqrt()).rev().take(MAX_TRIED).find(|length| trip % length == 0)?;
    Some(trip / shorter)
}

/// So many lengths are looked at: beyond, blocks are far from the root anyway.
const MAX_TRIED: usize = 1 << 16;

/// The same loop over blocks of `length` iterations.
fn in_blocks(b: &mut Builder<'_>, parts: &Loop<'_>, length: i64) -> Result<(Vec<ValueId>, Tangents), String> {
    let trip = parts.op.dim(b.module, "trip")?.as_const().ok_or("a loop of unknown length has no blocks")?;
    let with_axis = |ty: &TensorType, axes: &[i64]| {
        let axes = axes.iter().map(|extent| Dim::constant(*extent));
        TensorType::new(ty.dtype, axes.chain(ty.shape.iter().cloned()).collect())
    };
    let body = b.nested(&parts.name("block"), |inner| {
        let mut args = vec![];
        for pos in 0..parts.args.len() {
            let ty = parts.arg_type(pos);
            let ty = if parts.scanned().contains(&pos) { with_axis(&ty, &[length]) } else { ty };
            args.push(inner.fresh_input(&parts.input_name(pos), ty)?);
        }
        let mut op = parts.op.clone();
        op.attrs[1] = Attr::Dim(Dim::constant(length));
        let results = inner.op(op, &args)?;
        for (out, value) in parts.body.outputs.iter().zip(results) {
            inner.fresh_output(&out.name, value)?;
        }
        Ok(())
    })?;
    let mut op = parts.with_body(body, parts.carry, parts.scan);
    op.attrs[1] = Attr::Dim(Dim::constant(trip / length));
    let (mut args, mut tangents) = (parts.args.to_vec(), parts.tangents.to_vec());
    for pos in parts.scanned() {
        let shape = with_axis(&parts.arg_type(pos), &[trip / length, length]).shape;
        args[pos] = b.reshape(args[pos], shape.clone())?;
        tangents[pos] = tangents[pos].map(|tangent| b.reshape(tangent, shape)).transpose()?;
    }
    let (mut results, mut tangents) = linearize_loop(b, &op, &args, &tangents, LoopMode::Rebuild, &[])?;
    for pos in parts.carry..results.len() {
        let shape = with_axis(parts.body.ty(parts.body.outputs[pos].value), &[trip]).shape;
        results[pos] = b.reshape(results[pos], shape.clone())?;
        tangents[pos] = tangents[pos].map(|tangent| b.reshape(tangent, shape)).transpose()?;
    }
    Ok((results, tangents))
}
