//! Copies of arguments in the order in which a contraction reads them for every place of a batch.
//!
//! In: a graph. Out: the same function, where a contraction over few neighbouring elements of a large argument (the reverse
//! of a skinny projection) reads a transposed copy: its vectors then run along the result, without a reduction for every
//! element. The copy is made once per call, and is read as often as the batch has places. Its rows do not lie a power of two
//! apart: those would all fall on the same few places of a cache that finds a line by its low address.

use super::LaneKind;
use super::graph::{GNode, Graph, N, Source, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Attr, Einsum, Op, OpKind};

/// A longer sum is vectors enough by itself.
const MAX_TERMS: i64 = 256;
/// A smaller argument is not worth a launch.
const MIN_ELEMS: i64 = 16 * 1024;
/// A smaller batch does not read the copy often enough.
const MIN_PLACES: i64 = 64;

/// Bytes by which rows are set apart, where a multiple of [`ALIASED`] bytes would be between them: a little more than what is read
/// of one row before the next, so that this and the other rows are on places of their own.
const SET_APART: i64 = 320;
/// Rows at multiples of this share less than a quarter of the places of a usual nearest cache.
const ALIASED: i64 = 1024;

/// Gives every contraction that gains from it a copy of its argument.
pub fn copy_transposed(graph: &mut Graph, lanes: LaneKind) {
    let wanted: Vec<(N, usize)> =
        (0..graph.nodes.len()).filter_map(|node| Some((node, copied_operand(graph, node)?))).collect();
    let mut copies: Vec<(V, V)> = vec![];
    for (node, pos) in wanted {
        let node = node + copies.len();
        let source = graph.nodes[node].args[pos];
        let known = copies.iter().find(|(other, _)| *other == source).map(|(_, copy)| *copy);
        let (copy, node) = match known {
            Some(copy) => (copy, node),
            None => {
                let copy = add_copy(graph, source, lanes);
                copies.push((source, copy));
                (copy, node + 1)
            }
        };
        let contraction = &mut graph.nodes[node];
        contraction.args[pos] = copy;
        for attr in &mut contraction.op.attrs {
            if let Attr::Einsum(spec) = attr
                && let Some(labels) = spec.inputs.get_mut(pos)
            {
                labels.rotate_right(1);
            }
        }
    }
}

/// The operand of `node` that it had better read with its last axis first.
fn copied_operand(graph: &Graph, node: N) -> Option<usize> {
    let gnode = &graph.nodes[node];
    let spec = gnode.op.einsum()?;
    if gnode.op.kind != OpKind::Contract || gnode.region != 0 || gnode.chunked || gnode.args.len() != 2 {
        return None;
    }
    (0..2).find(|pos| gains(graph, spec, &gnode.args, *pos))
}

fn gains(graph: &Graph, spec: &Einsum, args: &[V], pos: usize) -> bool {
    let (own, other) = (&spec.inputs[pos], &spec.inputs[1 - pos]);
    let (Some(last), Some(inner)) = (own.last(), spec.output.last()) else { return false };
    let ty = &graph.values[args[pos]].ty;
    let other_ty = &graph.values[args[1 - pos]].ty;
    let few_terms = ty.shape.last().and_then(Dim::as_const).is_some_and(|n| n > 1 && n <= MAX_TERMS);
    let is_batch = |label: &char, dim: &Dim| {
        spec.output.contains(label) && !own.contains(label) && dim.as_const().is_none_or(|n| n >= MIN_PLACES)
    };
    matches!(graph.values[args[pos]].source, Source::Input(_))
        && few_terms
        && ty.n_elems().as_const().is_some_and(|n| n >= MIN_ELEMS)
        && !spec.output.contains(last)
        && own.contains(inner)
        && !other.contains(inner)
        && other.iter().zip(&other_ty.shape).any(|(label, dim)| is_batch(label, dim))
}

/// Adds the node, before all others, that copies `source` with its last axis first.
fn add_copy(graph: &mut Graph, source: V, lanes: LaneKind) -> V {
    let info = graph.values[source].clone();
    let mut ty = info.ty.clone();
    ty.shape.rotate_right(1);
    let rank = ty.shape.len() as u32;
    let name = info.name.as_ref().map(|name| format!("{name}_copy").into());
    let size = ty.dtype.size_bytes() as i64;
    let row = ty.shape.last().and_then(Dim::as_const);
    let is_aliased = lanes == LaneKind::Vector && row.is_some_and(|row| row * size % ALIASED == 0);
    let copy = graph.add_value(ty, Source::Node(0, 0), name);
    graph.values[copy].gap = if is_aliased { SET_APART / size } else { 0 };
    let axes = (0..rank).map(|axis| if axis == 0 { rank - 1 } else { axis - 1 }).collect();
    let op = Op { kind: OpKind::Transpose, attrs: vec![Attr::Axes(axes)] };
    graph.insert(0, GNode { copy: true, ..GNode::plain(op, vec![source], vec![copy]) });
    copy
}
