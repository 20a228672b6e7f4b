//! Sums over a batch, cut in two: partial sums of a fixed number of chunks, and their sum.
//!
//! In: a graph. Out: the same function, where a reduction of very many places to few elements (the gradient of a bias or of
//! a scale, a mean) is a *chunked* reduction with one result per chunk, and a small one over the chunks. A chunked reduction
//! is cut along the axis that it sums over: it joins the kernel that computes what it sums, tile by tile. Which places a
//! chunk has depends on their number alone, so the order of additions does not depend on threads.

use super::axes::Class;
use super::coords::summed_extents;
use super::graph::{GNode, Graph, N, Source};
use super::walk::Walk;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Attr, Op, OpKind};

/// Chunks of a batch: enough to keep the cores of a large machine busy.
pub const N_CHUNKS: i64 = 64;
/// A result of more elements has parallel work enough along its own axes.
const MAX_ELEMS: i64 = 8192;
/// Of known size, a sum over fewer places is done by one tile.
const MIN_PLACES: i64 = 64 * 1024;

/// Cuts every sum over a batch in two, but for those that `is_whole` names.
pub fn split_batch_sums(graph: &mut Graph, is_whole: &dyn Fn(&Graph, N) -> bool) {
    let mut node = 0;
    while node < graph.nodes.len() {
        if is_batch_sum(graph, node) && !is_whole(graph, node) {
            split(graph, node);
            node += 1;
        }
        node += 1;
    }
}

fn is_batch_sum(graph: &Graph, node: N) -> bool {
    let gnode = &graph.nodes[node];
    let sums = matches!(
        gnode.op.kind,
        OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin | OpKind::Contract
    );
    let few = |dim: &Dim, limit: i64| dim.as_const().is_some_and(|n| n <= limit);
    let places = summed_extents(graph, node).iter().fold(Dim::constant(1), |n, dim| n.mul(dim));
    sums && gnode.region == 0
        && few(&graph.values[gnode.results[0]].ty.n_elems(), MAX_ELEMS)
        && !few(&places, MIN_PLACES)
}

/// Replaces `node` by a chunked node and one that sums its results.
fn split(graph: &mut Graph, node: N) {
    let result = graph.nodes[node].results[0];
    let info = graph.values[result].clone();
    let mut ty = info.ty.clone();
    // Partial sums of narrow types stay wide.
    ty.dtype = ty.dtype.compute();
    ty.shape.insert(0, Dim::constant(N_CHUNKS));
    let name = info.name.as_ref().map(|name| format!("{name}_parts").into());
    let parts = graph.add_value(ty, Source::Node(node, 0), name);
    let kind = match graph.nodes[node].op.kind {
        OpKind::Contract => OpKind::ReduceSum,
        kind => kind,
    };
    let first = &mut graph.nodes[node];
    first.results = vec![parts];
    first.chunked = true;
    let sum = Op { kind, attrs: vec![Attr::Axes(vec![0])] };
    graph.insert(node + 1, GNode::plain(sum, vec![parts], vec![result]));
}

/// The chunks of a chunked node, and the class of its sum that is cut into them.
pub fn cut(walk: &Walk<'_>, node: N) -> Option<(Class, Class)> {
    let gnode = &walk.graph.nodes[node];
    if !gnode.chunked {
        return None;
    }
    let chunk = walk.axes.leaves(gnode.results[0], 0).first().copied()?;
    let sums = walk.axes.of_sums(node);
    // An axis of unknown extent before any other; of several the one that is probably the longest, the outermost of equal ones.
    let extent = |class: &Class| {
        let extent = walk.axes.extent(*class);
        (extent.as_const().is_none(), extent.eval(&walk.graph.likely).unwrap_or(0))
    };
    let longest = sums.iter().map(extent).max()?;
    let class = sums.iter().find(|class| extent(class) == longest)?;
    Some((chunk, *class))
}
