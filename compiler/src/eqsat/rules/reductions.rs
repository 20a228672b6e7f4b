//! Reductions: over repeated values, of reductions, of scaled rows, through movement ops.

use super::Class::{Exact, Reassociates};
use super::Rule;
use super::movement::aligned_groups;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::{Contraction, Rewriter};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::{Op, OpKind};
use egg::Id;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::built(
        "reduce-past-broadcast",
        "(reduce@s (broadcast@b ?x))",
        ("a broadcast of a smaller reduction", past_broadcast),
        Exact,
        "Reducing other axes than those repeated is done once.",
    ),
    Rule::built(
        "extremum-of-broadcast",
        "(reduce@s (broadcast@b ?x))",
        ("the reduction of what is not repeated", of_broadcast),
        Exact,
        "The largest of equal values is that value, if there is one.",
    )
    .when("a maximum or minimum", is_extremum),
    Rule::built(
        "sum-of-broadcast",
        "(reduce_sum@s (broadcast@b ?x))",
        ("a multiple of a smaller sum", of_broadcast),
        Reassociates,
        "The sum of k equal values is k times that value.",
    ),
    Rule::built(
        "extremum-of-extremum",
        "(reduce@s (reduce@r ?x))",
        ("one reduction", of_reduce),
        Exact,
        "A maximum of maxima is the maximum of all.",
    )
    .when("two maxima or two minima", |cx, m| is_extremum(cx, m) && same_kind(m)),
    Rule::built(
        "sum-of-sum",
        "(reduce@s (reduce@r ?x))",
        ("one reduction", of_reduce),
        Reassociates,
        "One pass in one order instead of two.",
    )
    .when("two sums or two products", |cx, m| !is_extremum(cx, m) && same_kind(m)),
    Rule::built(
        "reduce-of-reshape",
        "(reduce@s (reshape@r ?x))",
        ("a reshape of a reduction over the axes before", of_reshape),
        Exact,
        "Row-major order visits the same elements in the same order.",
    ),
    Rule::built(
        "extremum-of-transpose",
        "(reduce@s (transpose@t ?x))",
        ("a transpose of a reduction", of_transpose),
        Exact,
        "A maximum does not depend on the order.",
    )
    .when("a maximum or minimum", is_extremum),
    Rule::built(
        "sum-of-transpose",
        "(reduce_sum@s (transpose@t ?x))",
        ("a transpose of a reduction", of_transpose),
        Reassociates,
        "Less is transposed; the order of the sum may change.",
    ),
    Rule::built(
        "reduce-of-one",
        "(reduce@s ?x)",
        ("a reshape", of_one),
        Reassociates,
        "A reduction over axes of extent 1 takes the element; only -0 becomes 0 in a sum.",
    ),
    Rule::built(
        "sum-of-scaled",
        "(reduce_sum@s (mul ?x (broadcast@b ?r)))",
        ("a scaled sum", |cx, m| scaled(cx, m, ScalarOp::Mul)),
        Reassociates,
        "A factor that all terms share is multiplied once.",
    ),
    Rule::built(
        "sum-of-divided",
        "(reduce_sum@s (div ?x (broadcast@b ?r)))",
        ("a divided sum", |cx, m| scaled(cx, m, ScalarOp::Div)),
        Reassociates,
        "A divisor that all terms share divides once: a norm moves behind the sum.",
    ),
    Rule::term(
        "sum-of-negated",
        "(reduce_sum@s (neg ?x))",
        "(neg (@s ?x))",
        Reassociates,
        "The sign is changed once; a sum of zeros changes its sign.",
    ),
    Rule::built(
        "sum-of-product",
        "(reduce_sum@s (mul ?x ?y))",
        ("a contraction", sum_of_product),
        Reassociates,
        "A sum of products is a contraction, whatever way it was written.",
    ),
];

fn is_extremum(_cx: &Rewriter<'_>, m: &Match) -> bool {
    let kind = m.term('s').and_then(|term| term.kind());
    matches!(kind, Some(OpKind::ReduceMax | OpKind::ReduceMin))
}

fn same_kind(m: &Match) -> bool {
    m.term('s').and_then(|term| term.kind()) == m.term('r').and_then(|term| term.kind())
}

/// Axes of the operand that the reduction keeps.
fn kept(rank: usize, reduced: &[u32]) -> Vec<u32> {
    (0..rank as u32).filter(|axis| !reduced.contains(axis)).collect()
}

/// Reduced axes of a broadcast: places among the operand's axes, and those along which it repeats.
fn split(reduce: &Op, broadcast: &Op) -> (Vec<u32>, Vec<u32>) {
    let own = broadcast.axes("axes");
    let (inner, repeated): (Vec<u32>, Vec<u32>) =
        reduce.axes("axes").iter().partition(|axis| own.contains(axis));
    let places = inner.iter().filter_map(|axis| own.iter().position(|other| other == axis));
    (places.map(|place| place as u32).collect(), repeated)
}

/// The reduction over the operand's own axes, then repeated along what is left of the others.
fn rebuild(cx: &mut Rewriter<'_>, m: &Match, own: Vec<u32>) -> Option<Id> {
    let (reduce, broadcast) = (cx.op(m, 's')?, cx.op(m, 'b')?);
    let result = cx.ty(m.root)?.shape;
    let left = kept(broadcast.dims("shape").len(), reduce.axes("axes"));
    let places = broadcast.axes("axes").iter().filter_map(|axis| left.iter().position(|other| other == axis));
    let places = places.map(|place| place as u32).collect();
    let x = if own.is_empty() { m.var('x') } else { cx.reduce(reduce.kind, m.var('x'), own)? };
    cx.broadcast(x, result, places)
}

fn past_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (own, repeated) = split(&cx.op(m, 's')?, &cx.op(m, 'b')?);
    if repeated.is_empty() { rebuild(cx, m, own) } else { None }
}

fn of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (reduce, broadcast) = (cx.op(m, 's')?, cx.op(m, 'b')?);
    let (own, repeated) = split(&reduce, &broadcast);
    let extents = repeated.iter().map(|axis| broadcast.dims("shape")[*axis as usize].clone());
    let count = extents.fold(Dim::constant(1), |product, dim| product.mul(&dim));
    if repeated.is_empty() || !cx.graph.analysis.at_least(&count, 1) {
        return None;
    }
    if reduce.kind != OpKind::ReduceSum {
        return rebuild(cx, m, own);
    }
    let count = count.as_const()?;
    let sum = rebuild(cx, m, own)?;
    let ty = cx.ty(sum)?;
    let factor = if ty.dtype.is_float() { Scalar::Float(count as f64) } else { Scalar::Int(count) };
    let factor = cx.constant(factor, &ty)?;
    cx.scalar(ScalarOp::Mul, &[sum, factor])
}

fn of_reduce(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.op(m, 's')?, cx.op(m, 'r')?);
    let left = kept(cx.ty(m.var('x'))?.rank(), inner.axes("axes"));
    let mut axes = inner.axes("axes").to_vec();
    axes.extend(outer.axes("axes").iter().filter_map(|axis| left.get(*axis as usize)));
    cx.reduce(outer.kind, m.var('x'), axes)
}

fn of_reshape(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let reduce = cx.op(m, 's')?;
    let (from, to) = (cx.ty(m.var('x'))?.shape, cx.op(m, 'r')?.dims("shape").to_vec());
    let reduced = |axis: usize| reduce.axes("axes").contains(&(axis as u32));
    let mut axes = vec![];
    for (before, after) in aligned_groups(&from, &to) {
        let n_reduced = after.clone().filter(|axis| reduced(*axis)).count();
        if n_reduced == after.len() && n_reduced > 0 && !before.is_empty() {
            axes.extend(before.map(|axis| axis as u32));
        } else if n_reduced > 0 {
            return None;
        }
    }
    let result = cx.ty(m.root)?.shape;
    let x = cx.reduce(reduce.kind, m.var('x'), axes)?;
    cx.reshape(x, result)
}

fn of_transpose(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (reduce, transpose) = (cx.op(m, 's')?, cx.op(m, 't')?);
    let order = transpose.axes("axes");
    let axes: Vec<u32> =
        reduce.axes("axes").iter().filter_map(|axis| order.get(*axis as usize).copied()).collect();
    let left = kept(order.len(), &axes);
    let moved = kept(order.len(), reduce.axes("axes"));
    let places =
        moved.iter().filter_map(|axis| left.iter().position(|other| *other == order[*axis as usize]));
    let places = places.map(|place| place as u32).collect();
    let x = cx.reduce(reduce.kind, m.var('x'), axes)?;
    cx.transpose(x, places)
}

fn of_one(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (reduce, ty) = (cx.op(m, 's')?, cx.ty(m.var('x'))?);
    let ones = reduce
        .axes("axes")
        .iter()
        .all(|axis| ty.shape.get(*axis as usize).is_some_and(|dim| dim.is_const(1)));
    let shape = cx.ty(m.root)?.shape;
    if ones { cx.reshape(m.var('x'), shape) } else { None }
}

fn scaled(cx: &mut Rewriter<'_>, m: &Match, op: ScalarOp) -> Option<Id> {
    let (reduce, broadcast) = (cx.op(m, 's')?, cx.op(m, 'b')?);
    let (own, _) = split(&reduce, &broadcast);
    if !own.is_empty() || !cx.ty(m.root)?.dtype.is_float() {
        return None;
    }
    let factor = {
        let left = kept(broadcast.dims("shape").len(), reduce.axes("axes"));
        let places =
            broadcast.axes("axes").iter().filter_map(|axis| left.iter().position(|other| other == axis));
        let places = places.map(|place| place as u32).collect();
        let shape = cx.ty(m.root)?.shape;
        cx.broadcast(m.var('r'), shape, places)?
    };
    let sum = cx.add(&reduce, &[m.var('x')])?;
    cx.scalar(op, &[sum, factor])
}

fn sum_of_product(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let ty = cx.ty(m.var('x'))?;
    if !ty.dtype.is_float() || ty.dtype.compute() != ty.dtype || ty.rank() > 26 {
        return None;
    }
    let labels: Vec<char> = ('a'..='z').take(ty.rank()).collect();
    let reduce = cx.op(m, 's')?;
    let output = kept(ty.rank(), reduce.axes("axes")).iter().map(|axis| labels[*axis as usize]).collect();
    let inputs = vec![(labels.clone(), m.var('x')), (labels, m.var('y'))];
    cx.contract(&Contraction { inputs, output, dtype: ty.dtype })
}
