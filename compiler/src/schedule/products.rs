//! Which contractions are large matrix products, for a library, and how they lie in memory.
//!
//! In: a graph. Out: for a contraction of two operands whose labels are those of a batch, rows, columns and a sum, the
//! strides and offsets of its matrices. Transposes, reshapes and slices of an operand become strides where that is possible.
//! Small and skinny contractions are none of this: kernels do them, together with what is around.

use super::coords::{Coords, IndexCx, flatten, operand_coords};
use super::graph::{Graph, N, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Index, Var};
use birkhoff_ir::plan::contract::has_library;
use birkhoff_ir::tensor::OpKind;

/// Rows and columns of a product that a library does better than a kernel: below, its packing is most of the work.
const MIN_SIDE: i64 = 32;
/// Terms of its sums.
const MIN_TERMS: i64 = 32;
/// Multiplications of all its products: below, launching is most of the work.
const MIN_PRODUCTS: i64 = 1 << 19;
/// What an extent is taken for that is known only when the plan runs: the scheduler takes such extents for large.
const OPEN_EXTENT: i64 = 256;

/// A contraction as products of matrices in memory.
#[derive(Clone, Debug)]
pub struct Product {
    /// Number of products, rows, columns, and terms of each sum.
    pub extents: [Dim; 4],
    /// The left and right factors.
    pub factors: [Part; 2],
    /// Strides of the result: of the batch, rows, columns.
    pub result: [Dim; 3],
}

/// Matrices in the memory of a value.
#[derive(Clone, Debug)]
pub struct Part {
    /// The value.
    pub value: V,
    /// Its first element.
    pub offset: Dim,
    /// Strides of the batch, rows, columns.
    pub strides: [Dim; 3],
}

/// The labels of one axis of the product, outermost first, with their extents.
type Group = Vec<(Var, Dim)>;

/// The product that `node` is, if it is a large one.
pub fn large_product(graph: &Graph, node: N) -> Option<Product> {
    let gnode = &graph.nodes[node];
    if gnode.op.kind != OpKind::Contract || gnode.chunked {
        return None;
    }
    let spec = gnode.op.einsum()?;
    let ([left, right], [a, b], [result]) =
        (spec.inputs.as_slice(), gnode.args.as_slice(), gnode.results.as_slice())
    else {
        return None;
    };
    let dtype = graph.values[*result].ty.dtype;
    if !has_library(dtype) || [a, b].iter().any(|arg| graph.values[**arg].ty.dtype != dtype) {
        return None;
    }
    // A label is a variable here.
    let var = |label: char| Var(u32::from(label));
    let mut extents: Group = vec![];
    for (labels, arg) in [(left, a), (right, b)] {
        for (label, extent) in labels.iter().zip(&graph.values[*arg].ty.shape) {
            if !extents.iter().any(|(known, _)| *known == var(*label)) {
                extents.push((var(*label), extent.clone()));
            }
        }
    }
    let mut groups: [Group; 4] = Default::default();
    for label in spec.output.iter().copied().chain(spec.summed()) {
        let axis = match (left.contains(&label), right.contains(&label), spec.output.contains(&label)) {
            (true, true, true) => 0,
            (true, false, true) => 1,
            (false, true, true) => 2,
            (true, true, false) => 3,
            _ => return None,
        };
        let (_, extent) = extents.iter().find(|(known, _)| *known == var(label))?;
        if !extent.is_const(1) {
            groups[axis].push((var(label), extent.clone()));
        }
    }
    let extents = groups.each_ref().map(n_places);
    if !is_large(&extents) {
        return None;
    }
    let own: Coords = spec.output.iter().map(|label| Index::var(var(*label))).collect();
    let result = flatten(&own, &graph.values[*result].ty.shape);
    let [batch, rows, cols, sum] = &groups;
    let factors = [
        factor(
            graph,
            node,
            *a,
            left.iter().map(|label| Index::var(var(*label))).collect(),
            [batch, rows, sum],
        )?,
        factor(
            graph,
            node,
            *b,
            right.iter().map(|label| Index::var(var(*label))).collect(),
            [batch, sum, cols],
        )?,
    ];
    Some(Product { extents, factors, result: strides(&result, [batch, rows, cols])? })
}

fn n_places(group: &Group) -> Dim {
    group.iter().fold(Dim::constant(1), |product, (_, extent)| product.mul(extent))
}

fn is_large(extents: &[Dim; 4]) -> bool {
    let taken = |dim: &Dim| {
        dim.as_const().unwrap_or_else(|| {
            // Of `B*64`, the 64 is known.
            let factor = dim.terms().map(|(_, coeff)| coeff).max().unwrap_or(1).max(1);
            OPEN_EXTENT.saturating_mul(factor)
        })
    };
    let [batch, m, n, k] = extents.each_ref().map(taken);
    let products = batch.saturating_mul(m).saturating_mul(n).saturating_mul(k);
    m.min(n) >= MIN_SIDE && k >= MIN_TERMS && products >= MIN_PRODUCTS
}

/// The matrices of an operand, which is read at `coords`.
fn factor(graph: &Graph, node: N, arg: V, coords: Coords, groups: [&Group; 3]) -> Option<Part> {
    let mut best = None;
    let (mut value, mut coords) = (arg, coords);
    let mut is_whole = true;
    loop {
        let flat = flatten(&coords, &graph.values[value].memory_shape());
        if let Some(strides) = strides(&flat, groups)
            && (is_whole || is_memory(graph, value))
        {
            best = Some(Part { value, offset: flat.offset, strides });
        }
        let Some((def, _)) = graph.def(value) else { break };
        let gnode = &graph.nodes[def];
        let is_movement = matches!(gnode.op.kind, OpKind::Transpose | OpKind::Reshape | OpKind::Slice);
        // A copy was made to be read.
        if !is_movement || gnode.copy || gnode.region != graph.nodes[node].region {
            break;
        }
        is_whole &= gnode.op.kind != OpKind::Slice;
        let mut cx = Labels { groups, is_exact: true };
        let source = operand_coords(&mut cx, graph, def, 0, &coords, &[]);
        let Some(source) = source.filter(|_| cx.is_exact) else { break };
        (value, coords) = (gnode.args[0], source);
    }
    best
}

/// True for values that are in memory anyway: of others, a kernel would make more than is read.
fn is_memory(graph: &Graph, value: V) -> bool {
    let kind = graph.def(value).map(|(node, _)| graph.nodes[node].op.kind);
    matches!(kind, None | Some(OpKind::Loop | OpKind::Contract))
}

/// The stride of each group in a flat index; `None` if the labels of a group are not one range.
fn strides(flat: &Index, groups: [&Group; 3]) -> Option<[Dim; 3]> {
    let mut found: [Dim; 3] = Default::default();
    for (stride, group) in found.iter_mut().zip(groups) {
        let Some(((last, extent), outer)) = group.split_last() else { continue };
        *stride = flat.coeff(*last);
        let mut expected = stride.mul(extent);
        for (label, extent) in outer.iter().rev() {
            if flat.coeff(*label) != expected {
                return None;
            }
            expected = expected.mul(extent);
        }
    }
    Some(found)
}

/// Coordinate arithmetic over labels.
struct Labels<'g> {
    groups: [&'g Group; 3],
    /// False once something did not divide.
    is_exact: bool,
}

impl IndexCx for Labels<'_> {
    fn extent(&self, var: Var) -> Option<Dim> {
        let mut known = self.groups.iter().flat_map(|group| group.iter());
        // Labels of extent 1 are in no group.
        Some(known.find(|(label, _)| *label == var).map_or(Dim::constant(1), |(_, extent)| extent.clone()))
    }

    fn divide(&mut self, _index: &Index, _divisor: &Dim) -> (Index, Index) {
        self.is_exact = false;
        (Index::default(), Index::default())
    }
}
