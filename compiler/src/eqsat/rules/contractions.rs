//! Contractions: what does not depend on the summed axes moves out, what repeats is dropped, products re-associate by cost.

use super::Class::{Exact, Reassociates};
use super::Rule;
use super::movement::aligned_groups;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::{Contraction, Rewriter};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::{OpKind, TensorType};
use egg::Id;
use std::collections::BTreeMap;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::built(
        "sort-product",
        "(contract@c ?x ?y)",
        ("operands sorted", sort_operands),
        Exact,
        "Products commute; with one summed axis the order of the sum stays.",
    )
    .when("at most one label is summed", one_summed),
    Rule::built(
        "sort-contraction",
        "(contract@c ..)",
        ("operands sorted", sort_operands),
        Reassociates,
        "One order makes equal contractions meet; the order of the sum may change.",
    )
    .when("more labels are summed, or more operands", |cx, m| !one_summed(cx, m)),
    Rule::built(
        "norm-behind-projection",
        "(contract@c .. (div ?x (broadcast@b ?r)) ..)",
        ("a divided contraction", |cx, m| factor(cx, m, ScalarOp::Div)),
        Reassociates,
        "A divisor that does not depend on the summed axes divides the result, which is smaller: one pass over x yields both its norm and its projection (arXiv 2512.24880).",
    ),
    Rule::built(
        "scale-behind-projection",
        "(contract@c .. (mul ?x (broadcast@b ?r)) ..)",
        ("a scaled contraction", |cx, m| factor(cx, m, ScalarOp::Mul)),
        Reassociates,
        "A factor that does not depend on the summed axes scales the result.",
    ),
    Rule::built(
        "scale-past-weight",
        "(contract@c .. (mul (mul ?x (broadcast@b ?r)) ?g) ..)",
        ("a scaled contraction of the weighted operand", factor_past_weight),
        Reassociates,
        "A factor that does not depend on the summed axes moves past a weight that does: the norm leaves, its weight stays.",
    ),
    Rule::built(
        "weight-into-operand",
        "(contract@c .. (mul ?x (broadcast@b ?r)) ..)",
        ("the other operand scaled", fold_weight),
        Reassociates,
        "A weight along a summed axis is multiplied into the smaller operand: the norm's weight folds into the projection.",
    ),
    Rule::built(
        "negated-operand",
        "(contract@c .. (neg ?x) ..)",
        ("a negated contraction", negated),
        Reassociates,
        "The sign is changed once; a sum of zeros changes its sign.",
    ),
    Rule::built(
        "contract-of-broadcast",
        "(contract@c .. (broadcast@b ?x) ..)",
        ("a contraction over fewer axes", of_broadcast),
        Reassociates,
        "An operand need not have the axes along which it repeats.",
    ),
    Rule::built(
        "contract-of-transpose",
        "(contract@c .. (transpose@t ?x) ..)",
        ("a contraction of the operand itself", of_transpose),
        Reassociates,
        "Labels say which axis is which; nothing needs to be moved.",
    ),
    Rule::built(
        "contract-of-reshape",
        "(contract@c .. (reshape@r ?x) ..)",
        ("a contraction over the axes before", of_reshape),
        Exact,
        "A merged axis is summed as its parts, in the same order: the operand keeps the shape that others read.",
    ),
    Rule::built(
        "reassociate",
        "(contract@c .. (contract@d ?x ?y) ..)",
        ("the cheaper grouping", reassociate),
        Reassociates,
        "A chain of products is grouped where the intermediate is small.",
    ),
    Rule::built(
        "contract-alone",
        "(contract@c ?x)",
        ("a sum", alone),
        Reassociates,
        "One operand is summed and transposed.",
    ),
    Rule::built(
        "contract-without-sum",
        "(contract@c ?x ?y)",
        ("a product", without_sum),
        Reassociates,
        "Without a summed axis it is elementwise, and fuses.",
    ),
    Rule::built(
        "contract-scalar",
        "(contract@c .. ?x ..)",
        ("a scaled contraction of the others", scalar_operand),
        Reassociates,
        "An operand without axes is a factor.",
    ),
];

fn one_summed(cx: &Rewriter<'_>, m: &Match) -> bool {
    m.term('c')
        .and_then(|term| cx.contraction(term))
        .is_some_and(|spec| spec.summed().len() <= 1 && spec.inputs.len() == 2)
}

fn sort_operands(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let spec = cx.contraction(m.term('c')?)?;
    let mut sorted = spec.clone();
    sorted.inputs.iter_mut().for_each(|(_, id)| *id = cx.graph.find(*id));
    // Labels are only names: what counts is their places in the result. `tk,ko->to` is in order.
    let place = |labels: &[char]| -> Vec<usize> {
        labels
            .iter()
            .map(|label| spec.output.iter().position(|other| other == label).unwrap_or(usize::MAX))
            .collect()
    };
    sorted.inputs.sort_by_cached_key(|(labels, id)| {
        (place(labels).into_iter().min(), labels.len(), *id, place(labels))
    });
    if sorted.inputs == spec.inputs { None } else { cx.contract(&sorted) }
}

/// Labels of the operand `?r` of a broadcast that is, or is part of, the operand at `place`.
fn labels_of_factor(cx: &Rewriter<'_>, m: &Match, labels: &[char]) -> Option<Vec<char>> {
    let axes = cx.op(m, 'b')?;
    axes.axes("axes").iter().map(|axis| labels.get(*axis as usize).copied()).collect()
}

fn factor(cx: &mut Rewriter<'_>, m: &Match, op: ScalarOp) -> Option<Id> {
    factor_of(cx, m, op, m.var('x'))
}

fn factor_past_weight(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let weighted = cx.scalar(ScalarOp::Mul, &[m.var('x'), m.var('g')])?;
    factor_of(cx, m, ScalarOp::Mul, weighted)
}

/// The contraction of `rest` in the place of the matched operand, joined with the factor `r` by `op`.
fn factor_of(cx: &mut Rewriter<'_>, m: &Match, op: ScalarOp, rest: Id) -> Option<Id> {
    let mut spec = cx.contraction_of(m, 'c')?;
    let place = m.place('c');
    let labels = labels_of_factor(cx, m, &spec.inputs[place].0)?;
    if !labels.iter().all(|label| spec.output.contains(label)) {
        return None;
    }
    spec.inputs[place].1 = rest;
    let shape = cx.ty(m.root)?.shape;
    let rows = cx.spread(m.var('r'), &labels, &spec.output, &shape)?;
    let plain = cx.contract(&spec)?;
    cx.scalar(op, &[plain, rows])
}

fn fold_weight(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let mut spec = cx.contraction_of(m, 'c')?;
    let place = m.place('c');
    let labels = labels_of_factor(cx, m, &spec.inputs[place].0)?;
    if labels.is_empty() || labels.iter().all(|label| spec.output.contains(label)) {
        return None;
    }
    let holds = |(idx, (own, _)): (usize, &(Vec<char>, Id))| {
        idx != place && labels.iter().all(|label| own.contains(label))
    };
    let target = spec.inputs.iter().enumerate().position(holds)?;
    let (own, operand) = spec.inputs[target].clone();
    if cx.elements(operand) >= cx.elements(m.var('x')) {
        return None;
    }
    let shape = cx.ty(operand)?.shape;
    let weight = cx.spread(m.var('r'), &labels, &own, &shape)?;
    spec.inputs[target].1 = cx.scalar(ScalarOp::Mul, &[operand, weight])?;
    spec.inputs[place].1 = m.var('x');
    cx.contract(&spec)
}

fn negated(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let mut spec = cx.contraction_of(m, 'c')?;
    spec.inputs[m.place('c')].1 = m.var('x');
    let plain = cx.contract(&spec)?;
    cx.scalar(ScalarOp::Neg, &[plain])
}

fn of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let mut spec = cx.contraction_of(m, 'c')?;
    let place = m.place('c');
    let own = spec.inputs[place].0.clone();
    let kept = labels_of_factor(cx, m, &own)?;
    let elsewhere = |label: &char| {
        spec.inputs.iter().enumerate().any(|(idx, (labels, _))| idx != place && labels.contains(label))
    };
    let mut count = Dim::constant(1);
    for label in own.iter().filter(|label| !kept.contains(label) && !elsewhere(label)) {
        if spec.output.contains(label) {
            continue;
        }
        count = count.mul(&cx.extent(&spec, *label)?);
    }
    let output: Vec<char> =
        spec.output.iter().copied().filter(|label| kept.contains(label) || elsewhere(label)).collect();
    let places: Vec<u32> = (0..spec.output.len())
        .filter(|axis| output.contains(&spec.output[*axis]))
        .map(|axis| axis as u32)
        .collect();
    let shape = cx.ty(m.root)?.shape;
    spec.inputs[place] = (kept, m.var('x'));
    spec.output = output;
    let factor = if count.is_const(1) { None } else { Some(count.as_const()?) };
    let small = cx.contract(&spec)?;
    let small = match factor {
        None => small,
        Some(count) => {
            let ty = cx.ty(small)?;
            let factor = cx.constant(Scalar::Float(count as f64), &ty)?;
            cx.scalar(ScalarOp::Mul, &[small, factor])?
        }
    };
    cx.broadcast(small, shape, places)
}

fn of_transpose(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let mut spec = cx.contraction(m.term('c')?)?;
    let place = m.place('c');
    let axes = cx.op(m, 't')?;
    let mut labels = spec.inputs[place].0.clone();
    for (to, from) in axes.axes("axes").iter().enumerate() {
        *labels.get_mut(*from as usize)? = spec.inputs[place].0[to];
    }
    spec.inputs[place] = (labels, m.var('x'));
    cx.contract(&spec)
}

/// Splits every label that the reshape merged, in all operands.
fn of_reshape(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let spec = cx.contraction(m.term('c')?)?;
    let place = m.place('c');
    let from = cx.ty(m.var('x'))?.shape;
    let to = cx.op(m, 'r')?.dims("shape").to_vec();
    let mut parts: BTreeMap<char, Vec<(char, Dim)>> = BTreeMap::new();
    let mut fresh = vec![];
    for (before, after) in aligned_groups(&from, &to) {
        if after.len() != 1 || before.is_empty() {
            return None;
        }
        let label = spec.inputs[place].0[after.start];
        let mut named = vec![];
        for axis in before.clone() {
            let name = if before.len() == 1 { label } else { spec.fresh(&fresh)? };
            fresh.push(name);
            named.push((name, from[axis].clone()));
        }
        parts.insert(label, named);
    }
    if parts.values().all(|named| named.len() == 1) {
        return None;
    }
    let split = |labels: &[char]| -> Vec<char> {
        labels
            .iter()
            .flat_map(|label| match parts.get(label) {
                Some(named) => named.iter().map(|(name, _)| *name).collect(),
                None => vec![*label],
            })
            .collect()
    };
    let mut inputs = vec![];
    for (idx, (labels, id)) in spec.inputs.iter().enumerate() {
        let operand = if idx == place {
            m.var('x')
        } else {
            let ty = cx.ty(*id)?;
            cx.reshape(*id, split_shape(&ty, labels, &parts))?
        };
        inputs.push((split(labels), operand));
    }
    let output = split(&spec.output);
    let shape = cx.ty(m.root)?.shape;
    let result = cx.contract(&Contraction { inputs, output, dtype: spec.dtype })?;
    cx.reshape(result, shape)
}

fn split_shape(ty: &TensorType, labels: &[char], parts: &BTreeMap<char, Vec<(char, Dim)>>) -> Vec<Dim> {
    let mut shape = vec![];
    for (label, dim) in labels.iter().zip(&ty.shape) {
        match parts.get(label) {
            Some(named) => shape.extend(named.iter().map(|(_, dim)| dim.clone())),
            None => shape.push(dim.clone()),
        }
    }
    shape
}

/// Multiply-adds of a contraction.
fn work(cx: &Rewriter<'_>, spec: &Contraction) -> f64 {
    let mut labels: Vec<char> = spec.inputs.iter().flat_map(|(labels, _)| labels.clone()).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.iter().filter_map(|label| cx.extent(spec, *label)).map(|dim| cx.size(&dim)).product()
}

/// `(x y) w` as `x (y w)` or `(x w) y`, whichever takes least work, if that is less than now.
fn reassociate(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.contraction_of(m, 'c')?, cx.contraction_of(m, 'd')?);
    if outer.inputs.len() != 2 || outer.dtype != inner.dtype {
        return None;
    }
    let place = m.place('c');
    let own = outer.inputs[place].0.clone();
    // The inner labels under the outer names; summed ones get fresh names.
    let mut names: BTreeMap<char, char> = inner.output.iter().copied().zip(own.iter().copied()).collect();
    let mut fresh = vec![];
    for label in inner.summed() {
        let name = outer.fresh(&fresh)?;
        fresh.push(name);
        names.insert(label, name);
    }
    let renamed = |labels: &[char]| -> Option<Vec<char>> {
        labels.iter().map(|label| names.get(label).copied()).collect()
    };
    let other = outer.inputs[1 - place].clone();
    let x = (renamed(&inner.inputs[0].0)?, inner.inputs[0].1);
    let y = (renamed(&inner.inputs[1].0)?, inner.inputs[1].1);
    let now = work(cx, &outer) + work(cx, &inner);
    let mut best: Option<(f64, Contraction, (Vec<char>, Id))> = None;
    for (alone, joined) in [(x.clone(), y.clone()), (y, x)] {
        let mut labels: Vec<char> = joined.0.iter().chain(&other.0).copied().collect();
        let needed = |label: &char| alone.0.contains(label) || outer.output.contains(label);
        labels.retain(needed);
        labels.dedup();
        let mut seen = vec![];
        labels.retain(|label| {
            !seen.contains(label) && {
                seen.push(*label);
                true
            }
        });
        // Rows of the result come first, as people write them: so it meets the same product computed for other readers.
        labels
            .sort_by_key(|label| outer.output.iter().position(|other| other == label).unwrap_or(usize::MAX));
        let first =
            Contraction { inputs: vec![joined, other.clone()], output: labels.clone(), dtype: outer.dtype };
        let mut second: Vec<char> = labels.iter().chain(&alone.0).copied().collect();
        second.sort_unstable();
        second.dedup();
        let extent = |label: &char| {
            cx.extent(&first, *label).or_else(|| {
                let axis = alone.0.iter().position(|other| other == label)?;
                cx.ty(alone.1)?.shape.get(axis).cloned()
            })
        };
        let total =
            work(cx, &first) + second.iter().filter_map(extent).map(|dim| cx.size(&dim)).product::<f64>();
        if total < now && best.as_ref().is_none_or(|(least, ..)| total < *least) {
            best = Some((total, first, alone));
        }
    }
    let (_, first, alone) = best?;
    let joined = cx.contract(&first)?;
    let inputs = vec![alone, (first.output, joined)];
    cx.contract(&Contraction { inputs, output: outer.output, dtype: outer.dtype })
}

/// The sum over the labels that the result lacks, transposed to the result's order.
pub fn sum_of(cx: &mut Rewriter<'_>, labels: &[char], x: Id, output: &[char]) -> Option<Id> {
    let axes = (0..labels.len())
        .filter(|axis| !output.contains(&labels[*axis]))
        .map(|axis| axis as u32)
        .collect::<Vec<u32>>();
    let kept: Vec<char> = labels.iter().copied().filter(|label| output.contains(label)).collect();
    let sum = if axes.is_empty() { x } else { cx.reduce(OpKind::ReduceSum, x, axes)? };
    let order: Option<Vec<u32>> =
        output.iter().map(|label| Some(kept.iter().position(|other| other == label)? as u32)).collect();
    cx.transpose(sum, order?)
}

fn alone(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let spec = cx.contraction_of(m, 'c')?;
    let (labels, x) = spec.inputs.first()?.clone();
    sum_of(cx, &labels, x, &spec.output)
}

fn without_sum(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let spec = cx.contraction_of(m, 'c')?;
    if !spec.summed().is_empty() {
        return None;
    }
    let shape = cx.ty(m.root)?.shape;
    let mut args = vec![];
    for (labels, id) in &spec.inputs {
        args.push(cx.spread(*id, labels, &spec.output, &shape)?);
    }
    cx.scalar(ScalarOp::Mul, &args)
}

fn scalar_operand(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let mut spec = cx.contraction_of(m, 'c')?;
    let (labels, factor) = spec.inputs.remove(m.place('c'));
    if !labels.is_empty() || spec.inputs.is_empty() {
        return None;
    }
    let ty = cx.ty(m.root)?;
    let rest = cx.contract(&spec)?;
    let factor = cx.broadcast(factor, ty.shape, vec![])?;
    cx.scalar(ScalarOp::Mul, &[rest, factor])
}
