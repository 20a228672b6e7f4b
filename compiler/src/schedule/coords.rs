//! Where an op reads: from a place in its result to the places in its operands.
//!
//! In: a node and the coordinates of one result element (one affine index per axis), and for what it sums over one index per
//! label. Out: the coordinates in each operand. Reshapes divide symbolically where the ranges of the variables allow it.

use super::graph::{Graph, N, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Index, Var};
use birkhoff_ir::tensor::{Module, Op, OpKind};

/// One index per axis.
pub type Coords = Vec<Index>;

/// What coordinate arithmetic needs from its surroundings.
pub trait IndexCx {
    /// The number of values of `var` (it counts from 0), if known.
    fn extent(&self, var: Var) -> Option<Dim>;
    /// The extent of the axis of which `base` is the first place of a tile; places of the tile never reach beyond it.
    fn tile_extent(&self, _base: Var) -> Option<Dim> {
        None
    }
    /// `(index / divisor, index mod divisor)` computed at run time, as fresh variables.
    fn divide(&mut self, index: &Index, divisor: &Dim) -> (Index, Index);
}

/// `sum coords[a] * stride[a]` for the row-major `shape`.
pub fn flatten(coords: &[Index], shape: &[Dim]) -> Index {
    let mut flat = Index::default();
    for (coord, dim) in coords.iter().zip(shape) {
        flat = flat.scale(dim).add(coord);
    }
    flat
}

/// The coordinates in the row-major `shape` of the flat position `flat`.
pub fn unflatten(cx: &mut dyn IndexCx, flat: Index, shape: &[Dim]) -> Coords {
    let mut coords = vec![];
    let mut rest = flat;
    for axis in (1..shape.len()).rev() {
        if shape[axis].is_const(1) {
            coords.push(Index::default());
            continue;
        }
        let (quotient, remainder) = divide(cx, &rest, &shape[axis]);
        coords.push(remainder);
        rest = quotient;
    }
    if !shape.is_empty() {
        coords.push(rest);
    }
    coords.reverse();
    coords
}

/// `(index / divisor, index mod divisor)`, symbolically if every term is a multiple of the divisor or provably part of a
/// remainder below it.
fn divide(cx: &mut dyn IndexCx, index: &Index, divisor: &Dim) -> (Index, Index) {
    let mut quotient = Index::default();
    let mut remainder = Index::default();
    for (var, coeff) in &index.terms {
        match coeff.exact_div(divisor) {
            Some(factor) => quotient = quotient.add(&Index::var(*var).scale(&factor)),
            None => remainder = remainder.add(&Index::var(*var).scale(coeff)),
        }
    }
    match (index.offset.as_const(), divisor.as_const()) {
        (Some(offset), Some(by)) if by > 0 && offset >= 0 => {
            quotient = quotient.add(&Index::constant(offset / by));
            remainder = remainder.add(&Index::constant(offset % by));
        }
        _ => match index.offset.exact_div(divisor) {
            Some(factor) => quotient = quotient.add(&Index::constant(factor)),
            None => remainder = remainder.add(&Index::constant(index.offset.clone())),
        },
    }
    if is_below(cx, &remainder, divisor) { (quotient, remainder) } else { cx.divide(index, divisor) }
}

/// True if `0 <= index < bound` is certain.
fn is_below(cx: &dyn IndexCx, index: &Index, bound: &Dim) -> bool {
    if index.terms.is_empty() && index.offset.is_const(0) {
        return true;
    }
    // The largest value: sum of coeff * (extent - 1) + offset, all coefficients constants above 0.
    let mut largest = index.offset.clone();
    if index.offset.as_const().is_none_or(|offset| offset < 0) {
        return false;
    }
    let tiles: Vec<&Dim> = index
        .terms
        .iter()
        .filter(|(var, _)| cx.tile_extent(*var).is_some())
        .map(|(_, coeff)| coeff)
        .collect();
    for (var, coeff) in &index.terms {
        // A tile's first place and the place in the tile, together: below the extent of the axis.
        let extent = match cx.tile_extent(*var) {
            None if tiles.contains(&coeff) => continue,
            None => cx.extent(*var),
            tile => tile,
        };
        let (Some(extent), Some(factor)) = (extent, coeff.as_const()) else { return false };
        if factor < 0 {
            return false;
        }
        largest = largest.add(&extent.sub(&Dim::constant(1)).mul(coeff));
    }
    // bound - 1 - largest >= 0: a constant, or the same polynomial.
    bound.sub(&Dim::constant(1)).sub(&largest).as_const().is_some_and(|slack| slack >= 0)
}

/// The coordinates in operand `pos` of `node` for the element `coords` of its result (and `sums`, one index per summed axis
/// or label, in the order of [`summed_extents`]).
///
/// Only for nodes whose result elements each read one element of each operand per summed place: everything but `pad`,
/// `concat`, `gather`, loops and factorisations, which have no such place.
pub fn operand_coords(
    cx: &mut dyn IndexCx,
    graph: &Graph,
    node: N,
    pos: usize,
    coords: &[Index],
    sums: &[Index],
) -> Option<Coords> {
    let gnode = &graph.nodes[node];
    let op = &gnode.op;
    let module = Module::default();
    let arg = gnode.args.get(pos).copied()?;
    let arg_shape = graph.values[arg].ty.shape.clone();
    let coords = &coords[usize::from(gnode.chunked)..];
    match op.kind {
        OpKind::Scalar(_) | OpKind::Convert | OpKind::StopGradient => Some(coords.to_vec()),
        OpKind::Broadcast => {
            Some(op.axes("axes").iter().map(|axis| coords[*axis as usize].clone()).collect())
        }
        OpKind::Transpose => {
            let mut source = vec![Index::default(); coords.len()];
            for (axis, from) in op.axes("axes").iter().enumerate() {
                source[*from as usize] = coords[axis].clone();
            }
            Some(source)
        }
        OpKind::Reshape => {
            let shape = &graph.values[gnode.results[0]].ty.shape;
            let flat = flatten(coords, shape);
            Some(unflatten(cx, flat, &arg_shape))
        }
        OpKind::Slice => {
            let axis = op.axis(&module, coords.len()).ok()?;
            let start = op.dim(&module, "start").ok()?;
            let mut source = coords.to_vec();
            source[axis] = source[axis].add(&Index::constant(start));
            Some(source)
        }
        OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
            let axes = op.axes("axes");
            let (mut kept, mut summed) = (coords.iter(), sums.iter());
            (0..arg_shape.len() as u32)
                .map(|axis| if axes.contains(&axis) { summed.next() } else { kept.next() })
                .map(|index| index.cloned())
                .collect()
        }
        OpKind::Contract => {
            let spec = op.einsum()?;
            let summed = spec.summed();
            let place = |label: &char| {
                let kept =
                    spec.output.iter().position(|other| other == label).map(|axis| coords[axis].clone());
                kept.or_else(|| summed.iter().position(|other| other == label).map(|axis| sums[axis].clone()))
            };
            spec.inputs.get(pos)?.iter().map(place).collect()
        }
        _ => None,
    }
}

/// The extents that a node sums over (axes of a reduction, labels of a contraction), in row-major order.
pub fn summed_extents(graph: &Graph, node: N) -> Vec<Dim> {
    let gnode = &graph.nodes[node];
    match gnode.op.kind {
        OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
            let shape = &graph.values[gnode.args[0]].ty.shape;
            gnode.op.axes("axes").iter().map(|axis| shape[*axis as usize].clone()).collect()
        }
        OpKind::Contract => match gnode.op.einsum() {
            Some(spec) => spec
                .summed()
                .iter()
                .map(|label| label_extent(graph, gnode.args.as_slice(), spec, *label))
                .collect(),
            None => vec![],
        },
        _ => vec![],
    }
}

fn label_extent(graph: &Graph, args: &[V], spec: &birkhoff_ir::tensor::Einsum, label: char) -> Dim {
    for (labels, arg) in spec.inputs.iter().zip(args) {
        if let Some(axis) = labels.iter().position(|other| *other == label) {
            return graph.values[*arg].ty.shape[axis].clone();
        }
    }
    Dim::default()
}

/// The axis that an op works along, if it has one.
pub fn op_axis(op: &Op, rank: usize) -> Option<usize> {
    op.axis(&Module::default(), rank).ok()
}
