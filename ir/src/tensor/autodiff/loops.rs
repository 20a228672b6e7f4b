//! Loops with tangents.
//!
//! In: a loop, its operands and their tangents. Out: its results and theirs. Forward, one loop carries both. Reverse, a loop
//! of the values stacks its iterates and what was dear to compute, and a loop that is linear in the tangents scans them; it
//! computes again what else it needs of an iteration.

use super::activity::loop_activity;
use super::linearize::{linearize, linearize_with};
use super::outcomes::outcomes;
use super::rebuild::rebuild;
use super::{LoopMode, Tangents, opens, zeros};
use crate::tensor::build::Builder;
use crate::tensor::inline::{live, read_inputs, without_inputs, write_out};
use crate::tensor::{Attr, Func, FuncId, Node, Op, OpKind, TensorType, ValueId};
use std::collections::BTreeMap;

/// A loop taken apart.
pub(super) struct Loop<'l> {
    pub(super) op: &'l Op,
    pub(super) args: &'l [ValueId],
    pub(super) tangents: &'l [Option<ValueId>],
    /// The body in ops with rules.
    pub(super) body: Func,
    pub(super) carry: usize,
    pub(super) scan: usize,
    /// Which arguments of the body have a tangent.
    active: Vec<bool>,
    /// Which results of the body have one.
    active_results: Vec<bool>,
    /// Values of the body that are rather stacked than computed again, as far as they are read.
    pub(super) dear: Vec<ValueId>,
}

/// Terms of the sums of a contraction that is dear: a few multiplications take no longer than to write a number and read it.
const DEAR_TERMS: i64 = 16;

/// Results of a loop and their tangents. Those results that are `known` need not be computed.
pub fn linearize_loop(
    b: &mut Builder<'_>,
    op: &Op,
    args: &[ValueId],
    tangents: &[Option<ValueId>],
    mode: LoopMode,
    known: &[Option<ValueId>],
) -> Result<(Vec<ValueId>, Tangents), String> {
    let (carry, scan) = op.loop_counts(b.module)?;
    let body = body_of(b, op)?;
    let mut dear = dear(&body);
    dear.extend(outcomes(&body, &dear));
    let parts = Loop::new(b, op, args, tangents, body, (carry, scan), dear);
    match mode {
        LoopMode::Joint => joint(b, &parts),
        LoopMode::Rebuild => rebuild(b, parts, known),
        LoopMode::Stash | LoopMode::Rerun => split(b, &parts, mode, mode),
    }
}

/// The body of a loop, in ops with rules.
pub(super) fn body_of(b: &mut Builder<'_>, op: &Op) -> Result<Func, String> {
    let body = op.body().and_then(|id| b.module.funcs.get(id.0 as usize)).cloned();
    write_out(b.module, &body.ok_or("`loop` needs a body")?, &opens)
}

/// Values of a body that are rather stacked than computed again: of work that grows faster than its results.
pub(super) fn dear(body: &Func) -> Vec<ValueId> {
    let is_dear = |node: &&Node| match node.op.kind {
        OpKind::Solve | OpKind::Qr => true,
        OpKind::Contract => n_terms(body, node).is_none_or(|terms| terms >= DEAR_TERMS),
        _ => false,
    };
    body.nodes.iter().filter(is_dear).flat_map(|node| node.results.iter().copied()).collect()
}

impl<'l> Loop<'l> {
    /// The loop `op` with that body, which is its own or one with more results.
    pub(super) fn new(
        b: &Builder<'_>,
        op: &'l Op,
        args: &'l [ValueId],
        tangents: &'l [Option<ValueId>],
        body: Func,
        (carry, scan): (usize, usize),
        dear: Vec<ValueId>,
    ) -> Loop<'l> {
        let given = tangents.iter().map(Option::is_some).collect();
        let (active, active_results) = loop_activity(b.module, &body, carry, given);
        Loop { op, args, tangents, body, carry, scan, active, active_results, dear }
    }

    pub(super) fn name(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.body.name)
    }

    /// Positions of body arguments that have a tangent, within `range`.
    fn active_in(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        range.filter(|pos| self.active[*pos]).collect()
    }

    pub(super) fn carried(&self) -> std::ops::Range<usize> {
        0..self.carry
    }

    pub(super) fn scanned(&self) -> std::ops::Range<usize> {
        self.carry..self.carry + self.scan
    }

    pub(super) fn kept(&self) -> std::ops::Range<usize> {
        self.carry + self.scan..self.args.len()
    }

    /// Stacked results that have a tangent, as positions among all results.
    fn active_stacks(&self) -> Vec<usize> {
        (self.carry..self.active_results.len()).filter(|pos| self.active_results[*pos]).collect()
    }

    /// The tangents of the operands at those positions; zeros where there is none.
    fn operand_tangents(&self, b: &mut Builder<'_>, positions: &[usize]) -> Result<Vec<ValueId>, String> {
        let mut found = vec![];
        for pos in positions {
            found.push(match self.tangents[*pos] {
                Some(tangent) => tangent,
                None => {
                    let ty = b.ty(self.args[*pos]).clone();
                    zeros(b, &ty)?
                }
            });
        }
        Ok(found)
    }

    /// A loop like this one with another body and numbers of operands.
    pub(super) fn with_body(&self, body: FuncId, carry: usize, scan: usize) -> Op {
        let mut op = self.op.clone();
        op.attrs[0] = Attr::Func(body);
        op.attrs[2] = Attr::Int(carry as i64);
        op.attrs[3] = Attr::Int(scan as i64);
        op
    }

    pub(super) fn arg_type(&self, pos: usize) -> TensorType {
        self.body.values[pos].ty.clone()
    }

    pub(super) fn input_name(&self, pos: usize) -> String {
        self.body.inputs[pos].name.to_string()
    }
}

/// How many products each sum of a contraction has; `None` if that is known only when it runs.
fn n_terms(body: &Func, node: &Node) -> Option<i64> {
    let spec = node.op.einsum()?;
    let extent = |label: &char| {
        let operand = spec.inputs.iter().position(|labels| labels.contains(label))?;
        let axis = spec.inputs[operand].iter().position(|known| known == label)?;
        body.ty(node.args[operand]).shape.get(axis)?.as_const()
    };
    spec.summed().iter().map(extent).product()
}

/// Adds arguments like those of the loop's body at `positions`, called by their names with `prefix`.
pub(super) fn inputs_like(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    prefix: &str,
    positions: &[usize],
) -> Result<Vec<(usize, ValueId)>, String> {
    let mut added = vec![];
    for pos in positions {
        let name = format!("{prefix}{}", parts.input_name(*pos));
        added.push((*pos, b.fresh_input(&name, parts.arg_type(*pos))?));
    }
    Ok(added)
}

/// A tangent, or zeros of the type of its value.
fn tangent_or_zero(b: &mut Builder<'_>, tangent: Option<ValueId>, like: ValueId) -> Result<ValueId, String> {
    match tangent {
        Some(tangent) => Ok(tangent),
        None => {
            let ty = b.ty(like).clone();
            zeros(b, &ty)
        }
    }
}

/// State and tangents through one loop.
fn joint(b: &mut Builder<'_>, parts: &Loop<'_>) -> Result<(Vec<ValueId>, Tangents), String> {
    let groups = [parts.carried(), parts.scanned(), parts.kept()];
    let active: Vec<Vec<usize>> = groups.iter().map(|group| parts.active_in(group.clone())).collect();
    let n_inputs = parts.args.len();
    let body = b.nested(&parts.name("jvp"), |inner| {
        let mut values = vec![ValueId(0); n_inputs];
        let mut tangents: Tangents = vec![None; n_inputs];
        for (group, active) in groups.iter().zip(&active) {
            let plain: Vec<usize> = group.clone().collect();
            for (pos, value) in inputs_like(inner, parts, "", &plain)? {
                values[pos] = value;
            }
            for (pos, value) in inputs_like(inner, parts, "dot.", active)? {
                tangents[pos] = Some(value);
            }
        }
        let pushed = linearize(inner, &parts.body, &values, &tangents, LoopMode::Joint)?;
        let named = |pos: usize| parts.body.outputs[pos].name.to_string();
        for group in [0..parts.carry, parts.carry..pushed.outputs.len()] {
            for pos in group.clone() {
                inner.fresh_output(&named(pos), pushed.outputs[pos])?;
            }
            for pos in group.filter(|pos| parts.active_results[*pos]) {
                let tangent = tangent_or_zero(inner, pushed.tangents[pos], pushed.outputs[pos])?;
                inner.fresh_output(&format!("dot.{}", named(pos)), tangent)?;
            }
        }
        Ok(())
    })?;
    let mut operands = vec![];
    for (group, active) in groups.iter().zip(&active) {
        operands.extend(&parts.args[group.clone()]);
        operands.extend(parts.operand_tangents(b, active)?);
    }
    let op = parts.with_body(body, parts.carry + active[0].len(), parts.scan + active[1].len());
    let found = b.op(op, &operands)?;
    let n_results = parts.active_results.len();
    let mut next = found.into_iter();
    let (mut results, mut tangents) = (vec![], vec![None; n_results]);
    for group in [0..parts.carry, parts.carry..n_results] {
        results.extend(next.by_ref().take(group.len()));
        for pos in group.filter(|pos| parts.active_results[*pos]) {
            tangents[pos] = next.next();
        }
    }
    Ok((results, tangents))
}

/// A loop of the values that stacks iterates, and one of the tangents. Loops inside are taken back as `inner` says.
pub(super) fn split(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    mode: LoopMode,
    inner: LoopMode,
) -> Result<(Vec<ValueId>, Tangents), String> {
    let linear = linear_body(b, parts, inner)?;
    let (results, stacks) = stacking(b, parts, &linear, mode)?;
    let tangents = linear_loop(b, parts, &linear, stacks)?;
    Ok((results, tangents))
}

/// The tangents of the results, by a loop that scans `stacks`: iterates and dear values.
pub(super) fn linear_loop(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    linear: &LinearBody,
    stacks: Vec<ValueId>,
) -> Result<Tangents, String> {
    // In the order of the linear body's arguments.
    let mut operands = parts.operand_tangents(b, &parts.active_in(parts.carried()))?;
    let carry = operands.len();
    operands.extend(stacks);
    operands.extend(linear.scanned.iter().map(|pos| parts.args[*pos]));
    operands.extend(parts.operand_tangents(b, &parts.active_in(parts.scanned()))?);
    let scan = operands.len() - carry;
    operands.extend(linear.kept.iter().map(|pos| parts.args[*pos]));
    operands.extend(parts.operand_tangents(b, &parts.active_in(parts.kept()))?);
    let op = parts.with_body(linear.body, carry, scan);
    let mut found = b.op(op, &operands)?.into_iter();
    let mut tangents = vec![None; parts.active_results.len()];
    let active = parts.active_in(parts.carried()).into_iter().chain(parts.active_stacks());
    for pos in active {
        tangents[pos] = found.next();
    }
    Ok(tangents)
}

/// A body that is linear in the tangents, and the values that it reads besides.
pub(super) struct LinearBody {
    body: FuncId,
    /// Positions of state whose iterates it scans.
    pub(super) iterates: Vec<usize>,
    /// Values of the plain body that it scans after them.
    pub(super) dear: Vec<ValueId>,
    /// Positions of scanned operands that it scans too.
    scanned: Vec<usize>,
    /// Positions of operands that stay the same and that it reads.
    kept: Vec<usize>,
}

/// Arguments: tangents of the state; iterates, dear values, slices, tangents of slices; the rest, tangents of the rest.
pub(super) fn linear_body(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    mode: LoopMode,
) -> Result<LinearBody, String> {
    let all = |range: std::ops::Range<usize>| range.collect::<Vec<usize>>();
    let n_inputs = parts.args.len();
    let mut n_carried = 0;
    let dear = &parts.dear;
    let body = b.nested(&parts.name("linear"), |inner| {
        let mut values = vec![ValueId(0); n_inputs];
        let mut tangents: Tangents = vec![None; n_inputs];
        let place = |target: &mut Tangents, added: Vec<(usize, ValueId)>| {
            added.into_iter().for_each(|(pos, value)| target[pos] = Some(value));
        };
        let mut known: Tangents = vec![None; n_inputs];
        let carried = inputs_like(inner, parts, "dot.", &parts.active_in(parts.carried()))?;
        n_carried = carried.len();
        place(&mut tangents, carried);
        place(&mut known, inputs_like(inner, parts, "", &all(parts.carried()))?);
        let mut given = BTreeMap::new();
        for value in dear {
            let name = parts.body.values[value.0 as usize].name.as_ref().map_or("kept", |name| name.as_str());
            given.insert(*value, inner.fresh_input(name, parts.body.ty(*value).clone())?);
        }
        place(&mut known, inputs_like(inner, parts, "", &all(parts.scanned()))?);
        place(&mut tangents, inputs_like(inner, parts, "dot.", &parts.active_in(parts.scanned()))?);
        place(&mut known, inputs_like(inner, parts, "", &all(parts.kept()))?);
        place(&mut tangents, inputs_like(inner, parts, "dot.", &parts.active_in(parts.kept()))?);
        for (pos, value) in known.into_iter().enumerate() {
            values[pos] = value.ok_or("an argument of a loop body is missing")?;
        }
        let pushed = linearize_with(inner, &parts.body, &values, &tangents, mode, &given)?;
        let active = parts.active_in(parts.carried()).into_iter().chain(parts.active_stacks());
        for pos in active {
            let tangent = tangent_or_zero(inner, pushed.tangents[pos], pushed.outputs[pos])?;
            inner.fresh_output(&format!("dot.{}", parts.body.outputs[pos].name), tangent)?;
        }
        Ok(())
    })?;
    // What it does not read of the values need not be stacked.
    let func = live(b.module.func(body));
    let mut keep = read_inputs(&func);
    let mut linear = LinearBody { body, iterates: vec![], dear: vec![], scanned: vec![], kept: vec![] };
    let mut arg = 0;
    let mut walk = |n_tangents: usize, positions: Vec<usize>, list: &mut Vec<usize>| {
        for pos in positions {
            if keep[arg] {
                list.push(pos);
            }
            arg += 1;
        }
        keep[arg..arg + n_tangents].fill(true);
        arg += n_tangents;
    };
    walk(n_carried, vec![], &mut vec![]);
    walk(0, all(parts.carried()), &mut linear.iterates);
    let mut read = vec![];
    walk(0, all(0..dear.len()), &mut read);
    linear.dear.extend(read.into_iter().map(|idx| dear[idx]));
    walk(parts.active_in(parts.scanned()).len(), all(parts.scanned()), &mut linear.scanned);
    walk(parts.active_in(parts.kept()).len(), all(parts.kept()), &mut linear.kept);
    b.module.funcs[body.0 as usize] = without_inputs(&func, &keep);
    Ok(linear)
}

/// The loop's results, and the stacks that a linear body scans.
fn stacking(
    b: &mut Builder<'_>,
    parts: &Loop<'_>,
    linear: &LinearBody,
    mode: LoopMode,
) -> Result<(Vec<ValueId>, Vec<ValueId>), String> {
    if linear.iterates.is_empty() && linear.dear.is_empty() {
        return Ok((b.op(parts.op.clone(), parts.args)?, vec![]));
    }
    let plain = match mode {
        LoopMode::Rerun => Some(b.op(parts.op.clone(), parts.args)?),
        _ => None,
    };
    let mut body = Func { exported: false, ..parts.body.clone() };
    if plain.is_some() {
        body.outputs.truncate(parts.carry);
    }
    let n_plain = body.outputs.len();
    let name = parts.name("stacked");
    let mut places = vec![];
    let id = b.nested_from(&name, body, |inner| {
        for pos in &linear.iterates {
            places.push(inner.func().outputs.len());
            inner.fresh_output(&format!("iterate.{}", parts.input_name(*pos)), ValueId(*pos as u32))?;
        }
        for value in &linear.dear {
            // It may be a result already.
            let stacked = inner.func().outputs.iter().skip(parts.carry).position(|out| out.value == *value);
            places.push(stacked.map_or(inner.func().outputs.len(), |pos| parts.carry + pos));
            if stacked.is_none() {
                inner.fresh_output("iterate.kept", *value)?;
            }
        }
        Ok(())
    })?;
    b.module.funcs[id.0 as usize] = live(b.module.func(id));
    let op = parts.with_body(id, parts.carry, parts.scan);
    let found = b.op(op, parts.args)?;
    let stacks = places.into_iter().map(|place| found[place]).collect();
    Ok((plain.unwrap_or_else(|| found[..n_plain].to_vec()), stacks))
}
