//! Arrays that nobody computes, because their parts are written where they belong.
//!
//! In: a graph. Out: for a concatenation along the first axis of what goes to memory anyway, the value that each part is and
//! the place of its first element. A part is whole rows, so it is a dense array wherever it begins; what else reads it reads
//! it there. This is how the slices that a rotated loop stacks, and those of the iteration outside of it, become one array. A result of
//! the function that is what a loop stacks, in another shape, has one part.
//!
//! Deliberately absent: concatenations of anything else; those are computed where they are read.

use super::graph::{Graph, N, Source, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Attr, OpKind};
use std::collections::BTreeSet;

/// The parts of `node`, in order, each with its place; `None` if `node` is no such concatenation.
pub fn parts(graph: &Graph, node: N) -> Option<Vec<(V, Dim)>> {
    let gnode = &graph.nodes[node];
    let is_result = |value: V| graph.outputs.iter().any(|(_, out)| *out == value);
    let is_array = match gnode.op.kind {
        OpKind::Concat => gnode.op.attrs.first() == Some(&Attr::Int(0)),
        OpKind::Reshape => is_result(gnode.results[0]),
        _ => false,
    };
    if gnode.region != 0 || !is_array {
        return None;
    }
    let mut found = vec![];
    let mut offset = Dim::default();
    for arg in &gnode.args {
        found.push((behind_reshapes(graph, *arg), offset.clone()));
        offset = offset.add(&graph.values[*arg].ty.n_elems());
    }
    let is_stack = |value: V| graph.def(value).is_some_and(|(def, result)| is_stacked(graph, def, result));
    let distinct: BTreeSet<V> = found.iter().map(|(value, _)| *value).collect();
    let is_free = |value: &V| {
        // An array that is put together itself has its parts elsewhere.
        let is_made = |def: N| graph.nodes[def].region == 0 && graph.nodes[def].op.kind != OpKind::Concat;
        matches!(graph.values[*value].source, Source::Node(def, _) if is_made(def))
            && !is_result(*value)
            && graph.values[*value].gap == 0
            && n_arrays(graph, *value) == 1
    };
    let is_assembled = distinct.len() == found.len()
        && found.iter().any(|(value, _)| is_stack(*value))
        && distinct.iter().all(is_free);
    is_assembled.then_some(found)
}

/// Whether result `result` of `node` is what a loop of the plan stacks.
fn is_stacked(graph: &Graph, node: N, result: usize) -> bool {
    let gnode = &graph.nodes[node];
    gnode.op.kind == OpKind::Loop
        && gnode.body.is_none()
        && result >= super::graph::LoopShape::of(&gnode.op).n_carry
}

/// The value of which `value` is another shape.
pub fn behind_reshapes(graph: &Graph, mut value: V) -> V {
    while let Some((def, _)) = graph.def(value)
        && graph.nodes[def].op.kind == OpKind::Reshape
    {
        value = graph.nodes[def].args[0];
    }
    value
}

/// How many concatenations and results of the function `value` is a part of.
fn n_arrays(graph: &Graph, value: V) -> usize {
    let concatenations = graph.nodes.iter().filter(|node| node.op.kind == OpKind::Concat);
    let results = graph.outputs.iter().map(|(_, out)| out);
    let parts = concatenations.flat_map(|node| &node.args).chain(results);
    parts.filter(|arg| behind_reshapes(graph, **arg) == value).count()
}
