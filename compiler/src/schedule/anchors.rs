//! Which nodes are computed where they stand, and which are computed again wherever they are read.
//!
//! A node is an *anchor* if its value is computed once and kept: reductions, contractions, loops, outputs, and elementwise
//! work that its readers would otherwise repeat. Everything else is inlined into the anchors that read it.

use super::LaneKind;
use super::axes::Class;
use super::graph::{GNode, N, V};
use super::walk::Walk;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::OpKind;
use std::collections::BTreeSet;

/// A reader may repeat work this many times before it is kept instead.
const MAX_REPEATS: i64 = 128;
/// The same for a few elements per place of a tile, where lanes are of vectors: kept, they are computed for a vector of places at a
/// time, and not one by one in front of a row of more elements than this.
const MAX_ROW_REPEATS: i64 = 8;
/// A sum of at most this many terms may be written out where it is read.
const MAX_INLINED_TERMS: i64 = 8;
/// Quotients and roots of rows longer than this are computed again, and quick operations on their elements.
const MAX_KEPT_ROW: i64 = 256;
/// So many quick operations on one element are computed again: they take no longer than reading their result beside it.
const MAX_QUICK_STEPS: usize = 4;
/// Work on this few elements, free of other loops, is hoisted and never worth keeping.
const MAX_HOISTED_ELEMS: i64 = 32;

/// For every node, whether it is an anchor.
pub fn find(walk: &Walk<'_>, kept: &BTreeSet<V>, lanes: LaneKind) -> Vec<bool> {
    let graph = walk.graph;
    let users = graph.users();
    let mut is_anchor = vec![false; graph.nodes.len()];
    // Loops that the value's readers walk, and the anchors among its readers, direct or through inlined nodes.
    let mut demand: Vec<BTreeSet<Class>> = vec![BTreeSet::new(); graph.values.len()];
    let mut readers: Vec<BTreeSet<N>> = vec![BTreeSet::new(); graph.values.len()];
    for node in (0..graph.nodes.len()).rev() {
        let gnode = &graph.nodes[node];
        for result in &gnode.results {
            for user in &users[*result] {
                if is_anchor[*user] {
                    demand[*result].extend(walk.iterates(*user));
                    readers[*result].insert(*user);
                } else {
                    for through in &graph.nodes[*user].results {
                        let (classes, anchors) = (demand[*through].clone(), readers[*through].clone());
                        demand[*result].extend(classes);
                        demand[*result].extend(walk.axes.of_value(*through));
                        readers[*result].extend(anchors);
                    }
                }
            }
        }
        let is_kept = gnode.results.iter().any(|result| kept.contains(result));
        is_anchor[node] = is_kept
            || gnode.copy
            || (is_structural(gnode.op.kind) && !is_inlined(walk, node, &demand, &readers))
            || (is_arithmetic(gnode.op.kind)
                && ((repeats(walk, gnode.results[0], &demand[gnode.results[0]], lanes)
                    && !is_quick(walk, node, &readers[gnode.results[0]]))
                    || (is_worth_keeping(walk, node) && readers[gnode.results[0]].len() > 1)));
    }
    is_anchor
}

fn is_structural(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::ReduceSum
            | OpKind::ReduceProd
            | OpKind::ReduceMax
            | OpKind::ReduceMin
            | OpKind::Contract
            | OpKind::Loop
            | OpKind::Solve
            | OpKind::Qr
    )
}

/// True for a sum of a few terms that a single anchor reads, each element once: it is written out there.
fn is_inlined(walk: &Walk<'_>, node: N, demand: &[BTreeSet<Class>], readers: &[BTreeSet<N>]) -> bool {
    let graph = walk.graph;
    let [result] = graph.nodes[node].results.as_slice() else { return false };
    let sums = walk.axes.of_sums(node);
    let n_terms: Option<i64> = sums.iter().map(|class| walk.axes.extent(*class).as_const()).product();
    let own = walk.axes.of_value(*result);
    let is_large = graph.values[*result].ty.n_elems().as_const().is_none_or(|n| n > MAX_HOISTED_ELEMS);
    let is_reader =
        |reader: &GNode| reader.region == graph.nodes[node].region && is_arithmetic(reader.op.kind);
    let is_sum = matches!(graph.nodes[node].op.kind, OpKind::Contract | OpKind::ReduceSum);
    is_sum
        && is_large
        && n_terms.is_some_and(|n| n <= MAX_INLINED_TERMS)
        && readers[*result].len() == 1
        && readers[*result].iter().all(|reader| is_reader(&graph.nodes[*reader]))
        && demand[*result].iter().all(|class| own.contains(class))
}

fn is_arithmetic(kind: OpKind) -> bool {
    matches!(kind, OpKind::Scalar(_) | OpKind::RandomBits)
}

/// Transcendentals, roots and divisions: dearer than a store and a load.
fn is_expensive(kind: OpKind) -> bool {
    use ScalarOp::{
        Abs, Add, And, BitAnd, BitOr, BitXor, Eq, Floor, Le, Lt, Max, Min, Mul, Ne, Neg, Not, Or, Select,
        Shl, Shr, Sign, Sub,
    };
    match kind {
        OpKind::Scalar(
            Abs | Add | And | BitAnd | BitOr | BitXor | Eq | Floor | Le | Lt | Max | Min | Mul | Ne | Neg
            | Not | Or | Select | Shl | Shr | Sign | Sub,
        ) => false,
        OpKind::Scalar(_) | OpKind::RandomBits => true,
        _ => false,
    }
}

/// True for expensive work that is dearer than storing and loading its result: of long rows, which leave the nearest cache,
/// divisions and roots are not.
fn is_worth_keeping(walk: &Walk<'_>, node: N) -> bool {
    let gnode = &walk.graph.nodes[node];
    let is_quick = matches!(
        gnode.op.kind,
        OpKind::Scalar(ScalarOp::Div | ScalarOp::Recip | ScalarOp::Sqrt | ScalarOp::Rsqrt)
    );
    is_expensive(gnode.op.kind) && !(is_quick && has_long_rows(walk, gnode.results[0]))
}

fn has_long_rows(walk: &Walk<'_>, value: V) -> bool {
    let is_long = |class: &Class| walk.axes.extent(*class).as_const().is_some_and(|n| n > MAX_KEPT_ROW);
    walk.axes.of_value(value).iter().any(is_long)
}

/// True if `node` is a few quick operations on one element of another value, in long rows, for readers that sum along other axes
/// only: those have it in front of their loops, or read as much again for every element that they make.
fn is_quick(walk: &Walk<'_>, node: N, readers: &BTreeSet<N>) -> bool {
    let graph = walk.graph;
    let own = walk.axes.of_value(graph.nodes[node].results[0]);
    let is_aside = |reader: &N| walk.axes.of_sums(*reader).iter().all(|class| !own.contains(class));
    let (mut step, mut n_steps) = (node, 0);
    while is_arithmetic(graph.nodes[step].op.kind) && !is_expensive(graph.nodes[step].op.kind) {
        n_steps += 1;
        let mut operands: Vec<V> = graph.nodes[step].args.clone();
        operands.retain(|arg| !is_uniform(walk, *arg));
        operands.dedup();
        let ([operand], true) = (operands.as_slice(), n_steps <= MAX_QUICK_STEPS) else { return false };
        match graph.def(*operand) {
            Some((def, _)) if graph.nodes[def].region == graph.nodes[node].region => step = def,
            _ => break,
        }
    }
    n_steps > 0 && has_long_rows(walk, graph.nodes[node].results[0]) && readers.iter().all(is_aside)
}

/// True for one number, at however many places.
fn is_uniform(walk: &Walk<'_>, value: V) -> bool {
    let graph = walk.graph;
    let is_one = |value: V| graph.values[value].ty.n_elems().is_const(1);
    is_one(value)
        || graph.def(value).is_some_and(|(def, _)| {
            graph.nodes[def].op.kind == OpKind::Broadcast && is_one(graph.nodes[def].args[0])
        })
}

/// True if readers walk a loop that the value does not have, often enough that keeping it pays.
fn repeats(walk: &Walk<'_>, value: V, demand: &BTreeSet<Class>, lanes: LaneKind) -> bool {
    let own = walk.axes.of_value(value);
    let elems = walk.graph.values[value].ty.n_elems().as_const();
    if elems.is_some_and(|elems| elems <= MAX_HOISTED_ELEMS) {
        return false;
    }
    let per_place: i64 = own.iter().filter_map(|class| walk.axes.extent(*class).as_const()).product();
    let is_row = lanes == LaneKind::Vector && per_place <= MAX_ROW_REPEATS;
    let most = if is_row { MAX_ROW_REPEATS } else { MAX_REPEATS };
    let extra = demand.iter().filter(|class| !own.contains(class));
    extra.into_iter().any(|class| walk.axes.extent(*class).as_const().is_none_or(|extent| extent > most))
}
