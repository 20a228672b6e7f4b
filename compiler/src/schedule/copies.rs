//! Copies of arrays in the order in which contractions read them for every place of a batch.
//!
//! In: a graph. Out: the same function, where some contractions read a transposed copy. One over few neighbouring elements of a
//! large argument (the reverse of a skinny projection): its vectors then run along the result, without a reduction for every
//! element. One for a library, whose factor has neighbours along the sum where the result has them along its columns: a library
//! cuts the result into blocks and turns the factor for each of them, which takes up to half as long as multiplying. A copy is
//! made once in each run of the function, or of the body of a loop, and is read as often as the batch has places, or blocks; a batch
//! that is known only at run time is taken for large. Its rows do not lie a power of two apart where kernels
//! read it: those would all fall on the same few places of a cache that finds a line by its low address.

use super::LaneKind;
use super::graph::{GNode, Graph, N, Source, V};
use super::products::Product;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Attr, Einsum, Op, OpKind};

/// A longer sum is vectors enough by itself.
const MAX_TERMS: i64 = 256;
/// A smaller argument is not worth a launch.
const MIN_ELEMS: i64 = 16 * 1024;
/// A smaller batch does not read the copy often enough.
const MIN_PLACES: i64 = 64;

/// With fewer rows a library has too few blocks to turn a factor for.
const MIN_ROWS: i64 = 256;

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
                let rank = graph.values[source].ty.shape.len();
                let axes: Vec<usize> = (0..rank).map(|axis| (axis + rank - 1) % rank).collect();
                let copy = add_copy(graph, source, &axes, 0);
                set_rows_apart(graph, copy, lanes);
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

/// Gives the products of a library, which `product_of` tells, copies of factors that it would turn for every block.
pub fn turn_factors(graph: &mut Graph, product_of: &dyn Fn(&Graph, N) -> Option<Product>) {
    let mut copies: Vec<(V, Vec<usize>, V)> = vec![];
    let mut node = 0;
    while node < graph.nodes.len() {
        let turned = product_of(graph, node).and_then(|product| turned_operand(graph, node, &product));
        if let Some((pos, axes)) = turned {
            let source = graph.nodes[node].args[pos];
            let known = copies.iter().find(|(other, order, _)| *other == source && *order == axes);
            let copy = match known.map(|(.., copy)| *copy) {
                Some(copy) => copy,
                None => {
                    let copy = add_copy(graph, source, &axes, node);
                    copies.push((source, axes.clone(), copy));
                    node += 1;
                    copy
                }
            };
            let contraction = &mut graph.nodes[node];
            contraction.args[pos] = copy;
            for attr in &mut contraction.op.attrs {
                if let Attr::Einsum(spec) = attr
                    && let Some(labels) = spec.inputs.get_mut(pos)
                {
                    *labels = axes.iter().map(|axis| labels[*axis]).collect();
                }
            }
        }
        node += 1;
    }
}

/// The operand of a product that is turned for every block, and its axes in the order in which it is not.
fn turned_operand(graph: &Graph, node: N, product: &Product) -> Option<(usize, Vec<usize>)> {
    let gnode = &graph.nodes[node];
    let [batch, m, n, _] = &product.extents;
    if gnode.region != 0 || !batch.is_const(1) {
        return None;
    }
    // The factor whose own axis has neighbours in the result, where its own axis and its sum are, and the blocks' axis.
    let (pos, own, sum, blocks) = match product.result.each_ref().map(|stride| stride.is_const(1)) {
        [_, _, true] => (1, 2, 1, m),
        [_, true, _] => (0, 1, 2, n),
        _ => return None,
    };
    let strides = &product.factors[pos].strides;
    let is_turned = strides[sum].is_const(1) && !strides[own].is_const(1);
    if !is_turned || blocks.as_const().is_some_and(|rows| rows < MIN_ROWS) {
        return None;
    }
    let spec = gnode.op.einsum()?;
    let labels = &spec.inputs[pos];
    let order = spec.summed().into_iter().chain(spec.output.iter().copied());
    let axes: Vec<usize> =
        order.filter_map(|label| labels.iter().position(|other| *other == label)).collect();
    (axes.len() == labels.len()).then_some((pos, axes))
}

/// Adds the node, at position `at`, that copies `source` with its axes in another order.
fn add_copy(graph: &mut Graph, source: V, axes: &[usize], at: N) -> V {
    let info = graph.values[source].clone();
    let mut ty = info.ty.clone();
    ty.shape = axes.iter().map(|axis| info.ty.shape[*axis].clone()).collect();
    let name = info.name.as_ref().map(|name| format!("{name}_copy").into());
    let copy = graph.add_value(ty, Source::Node(at, 0), name);
    let axes = axes.iter().map(|axis| *axis as u32).collect();
    let op = Op { kind: OpKind::Transpose, attrs: vec![Attr::Axes(axes)] };
    graph.insert(at, GNode { copy: true, ..GNode::plain(op, vec![source], vec![copy]) });
    copy
}

/// Sets the rows of a copy that kernels read a little more than a power of two apart.
fn set_rows_apart(graph: &mut Graph, copy: V, lanes: LaneKind) {
    let ty = &graph.values[copy].ty;
    let size = ty.dtype.size_bytes() as i64;
    let row = ty.shape.last().and_then(Dim::as_const);
    let is_aliased = lanes == LaneKind::Vector && row.is_some_and(|row| row * size % ALIASED == 0);
    graph.values[copy].gap = if is_aliased { SET_APART / size } else { 0 };
}
