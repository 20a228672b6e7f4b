//! Whole vectors of results for contractions of a few outputs.
//!
//! In: a graph. Out: the same function, where a contraction with a large argument whose rows are a few outputs of every place of
//! a batch (a skinny projection) reads a copy with rows of whole vectors, the rest of them zeros. What would be done one by one
//! for every term is one more vector then. The copy is made once per call. For code generators whose vectors have one length.

use super::Target;
use super::graph::{GNode, GValue, Graph, N, Source, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Attr, F64, Op, OpKind};

/// A longer row is vectors enough, whatever is left.
const MAX_OUTPUTS: i64 = 64;
/// A smaller argument is not worth a launch.
const MIN_ELEMS: i64 = 16 * 1024;
/// A smaller batch does not read the copy often enough.
const MIN_PLACES: i64 = 64;

/// Gives every contraction that gains from it an argument with padded rows; those that `is_whole` names stay as they are.
pub fn pad_rows(graph: &mut Graph, target: &Target, is_whole: &dyn Fn(&Graph, N) -> bool) {
    if target.any_length {
        return;
    }
    let mut copies: Vec<(V, V)> = vec![];
    let mut node = 0;
    while node < graph.nodes.len() {
        if let Some((pos, high)) = padded_operand(graph, node, target)
            && !is_whole(graph, node)
        {
            let source = graph.nodes[node].args[pos];
            let known = copies.iter().find(|(other, _)| *other == source).map(|(_, copy)| *copy);
            let copy = known.unwrap_or_else(|| {
                let copy = add_copy(graph, source, high);
                node += 2;
                copies.push((source, copy));
                copy
            });
            graph.nodes[node].args[pos] = copy;
            widen_result(graph, node, high);
        }
        node += 1;
    }
}

/// The operand of `node` whose rows are a few of its outputs, and by how much they are too short for whole vectors.
fn padded_operand(graph: &Graph, node: N, target: &Target) -> Option<(usize, i64)> {
    let gnode = &graph.nodes[node];
    let spec = gnode.op.einsum()?;
    if gnode.op.kind != OpKind::Contract || gnode.region != 0 || gnode.chunked || gnode.args.len() != 2 {
        return None;
    }
    let result = &graph.values[*gnode.results.first()?].ty;
    let n_outputs = result.shape.last()?.as_const()?;
    let lanes = i64::from(target.lanes_of(result.dtype.compute().size_bytes()));
    let rest = n_outputs % lanes;
    if n_outputs < lanes || n_outputs > MAX_OUTPUTS || rest < 2 {
        return None;
    }
    let is_batch = |labels: &[char], own: &[char], dims: &[Dim]| {
        labels.iter().zip(dims).any(|(label, dim)| {
            spec.output.contains(label)
                && !own.contains(label)
                && dim.as_const().is_none_or(|n| n >= MIN_PLACES)
        })
    };
    let pos = (0..2).find(|pos| {
        let (own, other) = (&spec.inputs[*pos], &spec.inputs[1 - *pos]);
        let (arg, reader) = (&graph.values[gnode.args[*pos]], &graph.values[gnode.args[1 - *pos]]);
        matches!(arg.source, Source::Input(_))
            && arg.ty.n_elems().as_const().is_some_and(|n| n >= MIN_ELEMS)
            && own.last() == spec.output.last()
            && spec.output.last().is_some_and(|label| !other.contains(label))
            && is_batch(other, own, &reader.ty.shape)
    })?;
    Some((pos, lanes - rest))
}

/// `shape` with `high` more elements in a row.
fn padded(shape: &[Dim], high: i64) -> Vec<Dim> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = last.add(&Dim::constant(high));
    }
    shape
}

/// Adds nodes, before all others, that copy `source` with `high` zeros at the end of every row.
fn add_copy(graph: &mut Graph, source: V, high: i64) -> V {
    let GValue { ty, name, .. } = graph.values[source].clone();
    let axis = Attr::Int(ty.shape.len() as i64 - 1);
    let (dtype, mut wide, mut scalar) = (ty.dtype, ty.clone(), ty);
    wide.shape = padded(&wide.shape, high);
    scalar.shape.clear();
    let zero = graph.add_value(scalar, Source::Node(0, 0), None);
    let copy = graph.add_value(wide, Source::Node(1, 0), name.map(|name| format!("{name}_rows").into()));
    let attrs = vec![Attr::Float(F64(0.0)), Attr::DType(dtype)];
    let pad = vec![axis, Attr::Dim(Dim::constant(0)), Attr::Dim(Dim::constant(high))];
    graph.insert(0, GNode::plain(Op { kind: OpKind::Const, attrs }, vec![], vec![zero]));
    let pad = GNode::plain(Op { kind: OpKind::Pad, attrs: pad }, vec![source, zero], vec![copy]);
    graph.insert(1, GNode { copy: true, ..pad });
    copy
}

/// Lets `node` have `high` more results in a row, and what it had be the first of them.
fn widen_result(graph: &mut Graph, node: N, high: i64) {
    let result = graph.nodes[node].results[0];
    let mut ty = graph.values[result].ty.clone();
    let Some(n_outputs) = ty.shape.last().cloned() else { return };
    let axis = Attr::Int(ty.shape.len() as i64 - 1);
    ty.shape = padded(&ty.shape, high);
    let wide = graph.add_value(ty, Source::Node(node, 0), None);
    graph.nodes[node].results[0] = wide;
    let attrs = vec![axis, Attr::Dim(Dim::constant(0)), Attr::Dim(n_outputs)];
    let slice = GNode::plain(Op { kind: OpKind::Slice, attrs }, vec![wide], vec![result]);
    graph.insert(node + 1, slice);
}
